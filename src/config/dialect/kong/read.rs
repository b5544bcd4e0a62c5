//! First step: one document to Kong's entities, each field checked by the table.

use std::sync::Arc;

use crate::config::dialect::foreign::ForeignObject;
use crate::config::dialect::kong::entity::{Entity, child, number, text};
use crate::config::dialect::kong::kind::EntityKind;
use crate::config::dialect::kong::plugins;
use crate::config::dialect::kong::table::{self, Field, FieldType};
use crate::config::dialect::kong::teller::{Teller, object};
use crate::config::dialect::note::{Fate, Note};
use crate::config::tree::{Entry, Node, Value};
use crate::config::{Path, code, near};

/// Entities of one document.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KongDocument {
    /// Entities in the order of the text, each after the one in which it stands.
    pub entities: Vec<Arc<Entity>>,
    /// Defaults of `_info.defaults`, by kind.
    pub defaults: Vec<(EntityKind, Arc<ForeignObject>)>,
    /// Tags that every entity has.
    pub select_tags: Vec<Node>,
    /// Document without its lists, for notes about the whole.
    pub head: Option<Arc<ForeignObject>>,
    /// Notes about what was read.
    pub notes: Vec<Note>,
}

/// Returns the objects of a document, each value of which has a fate of its own.
pub fn objects(document: &KongDocument) -> impl Iterator<Item = &Arc<ForeignObject>> {
    let defaults = document.defaults.iter().map(|(_, object)| object);
    let entities = document.entities.iter().map(|entity| &entity.object);
    entities.chain(defaults).chain(&document.head)
}

/// Kinds that `_info.defaults` knows.
const WITH_DEFAULTS: [EntityKind; 4] =
    [EntityKind::Service, EntityKind::Route, EntityKind::Upstream, EntityKind::Target];

/// Reads a document. Entities that equal those of `last`, the previous reading, are shared with it.
pub fn read(file: &Arc<str>, root: Node, is_first: bool, last: Option<&KongDocument>) -> KongDocument {
    let mut reader =
        DocumentReader { file, last, teller: Teller::default(), document: KongDocument::default() };
    reader.top(root, is_first);
    let Teller { notes, .. } = reader.teller;
    KongDocument { notes, ..reader.document }
}

struct DocumentReader<'r> {
    file: &'r Arc<str>,
    last: Option<&'r KongDocument>,
    teller: Teller,
    document: KongDocument,
}

impl DocumentReader<'_> {
    fn top(&mut self, root: Node, is_first: bool) {
        let span = root.span;
        let Value::Mapping(entries) = root.value else { return };
        let (lists, head): (Vec<Entry>, Vec<Entry>) =
            entries.into_iter().partition(|entry| EntityKind::from_plural(&entry.key).is_some());
        let head = Node { span, value: Value::Mapping(head) };
        let head = object(self.file, Path::default(), "the document".to_owned(), head);
        self.head(&head, is_first);
        self.document.head = Some(head);
        for list in lists {
            let Some(kind) = EntityKind::from_plural(&list.key) else { continue };
            self.list(kind, list.value, Path::default().key(list.key), None);
        }
    }

    fn head(&mut self, head: &Arc<ForeignObject>, is_first: bool) {
        let Value::Mapping(entries) = &head.node.value else { return };
        if !is_first {
            self.teller
                .note(
                    head,
                    &[],
                    Fate::Approximated,
                    "decK reads only the first document of a file; here each counts",
                )
                .warning();
        }
        if child(&head.node, "_format_version").is_none() {
            let words = "the document has no `_format_version`; it is read as 3.0";
            self.teller.note(head, &[], Fate::Approximated, words);
        }
        for entry in entries {
            match entry.key.as_str() {
                "_format_version" => self.format(head, &entry.value),
                "_info" => self.info(head, &entry.value),
                "_transform" if entry.value.value == Value::Bool(false) => {
                    let words = "decK refuses `_transform: false`, and so is it here";
                    self.teller.note(head, &["_transform"], Fate::Refused, words).help("leave it out");
                }
                key if table::TOP.contains(&key) => {
                    let words = "it is about Kong's own control plane; nothing here reads it";
                    self.teller.note(head, &[key], Fate::Ignored, words);
                }
                key => {
                    let lists = EntityKind::READ.map(EntityKind::plural);
                    let note =
                        self.teller.note(head, &[key], Fate::Refused, format!("unknown field `{key}`"));
                    note.code(code::FOREIGN_FIELD);
                    if let Some(word) = near(key, lists.into_iter().chain(table::TOP.iter().copied())).first()
                    {
                        note.help(format!("did you mean `{word}`?"));
                    }
                }
            }
        }
    }

    fn format(&mut self, head: &Arc<ForeignObject>, node: &Node) {
        let version = match &node.value {
            Value::String(text) => text.clone(),
            _ => number(node).map(|number| format!("{number:.1}")).unwrap_or_default(),
        };
        let keys = ["_format_version"];
        match version.as_str() {
            "3.0" => self.teller.note(head, &keys, Fate::Exact, ""),
            "1.1" | "2.1" => {
                let words = "an old format: a path with characters of a regex is one, without `~`";
                self.teller.note(head, &keys, Fate::Approximated, words).warning()
            }
            _ => self
                .teller
                .note(head, &keys, Fate::Refused, format!("the format `{version}` is not read"))
                .help("write `_format_version: \"3.0\"`"),
        };
    }

    /// Returns true if the document is of a format in which a regex has no `~`.
    fn is_old(&self) -> bool {
        let head = self.document.head.as_ref();
        let version = head.and_then(|head| child(&head.node, "_format_version")).map(|node| &node.value);
        match version {
            Some(Value::String(text)) => matches!(text.as_str(), "1.1" | "2.1"),
            Some(Value::Float(version)) => *version < 3.0,
            _ => false,
        }
    }

    fn info(&mut self, head: &Arc<ForeignObject>, info: &Node) {
        let Value::Mapping(entries) = &info.value else {
            self.teller.note(head, &["_info"], Fate::Refused, "`_info` is a mapping").code(code::WRONG_TYPE);
            return;
        };
        for entry in entries {
            match entry.key.as_str() {
                "select_tags" => {
                    let tags = if let Value::Sequence(tags) = &entry.value.value {
                        tags.clone()
                    } else {
                        Vec::new()
                    };
                    self.document.select_tags = tags;
                    self.teller.note(head, &["_info", "select_tags"], Fate::Exact, "");
                }
                "defaults" => self.defaults(head, &entry.value),
                key => {
                    let words = "it is for decK alone; nothing here reads it";
                    self.teller.note(head, &["_info", key], Fate::Ignored, words);
                }
            }
        }
    }

    fn defaults(&mut self, head: &Arc<ForeignObject>, node: &Node) {
        let Value::Mapping(entries) = &node.value else { return };
        for entry in entries {
            let kind = WITH_DEFAULTS.into_iter().find(|kind| kind.singular() == entry.key);
            let Some(kind) = kind else {
                let words = format!("`{}` has no defaults", entry.key);
                let note = self.teller.note(head, &["_info", "defaults", &entry.key], Fate::Refused, words);
                note.code(code::FOREIGN_FIELD).help("there are service, route, upstream and target");
                continue;
            };
            let path = head.path.key("_info").key("defaults").key(&entry.key);
            let title = format!("defaults of {}", kind.plural());
            let raw = object(self.file, path, title, entry.value.clone());
            let node = self.checked(&raw, table::fields(kind), &raw.node, &mut Vec::new());
            self.document.defaults.push((kind, Arc::new(ForeignObject { node, ..(*raw).clone() })));
        }
    }

    fn list(&mut self, kind: EntityKind, list: Node, path: Path, parent: Option<&Arc<Entity>>) {
        let span = list.span;
        match list.value {
            Value::Sequence(items) if items.is_empty() => {
                let node = Node { span, value: Value::Null };
                let list = object(self.file, path, kind.plural().to_owned(), node);
                self.teller.note(&list, &[], Fate::Exact, "");
            }
            Value::Sequence(items) => {
                for (index, item) in items.into_iter().enumerate() {
                    self.entity(kind, item, path.index(index), parent);
                }
            }
            Value::Null => {}
            _ => {
                let words = format!("`{}` is a list", kind.plural());
                let node = Node { span, value: Value::Null };
                let list = object(self.file, path, kind.plural().to_owned(), node);
                self.teller.note(&list, &[], Fate::Refused, words).code(code::WRONG_TYPE);
            }
        }
    }

    fn entity(&mut self, kind: EntityKind, node: Node, path: Path, parent: Option<&Arc<Entity>>) {
        let title = title(kind, &node, parent);
        let raw = ForeignObject { file: self.file.clone(), path, title, node };
        if matches!(kind, EntityKind::Unread(_)) {
            self.unread(&raw);
            return;
        }
        if !matches!(raw.node.value, Value::Mapping(_)) {
            let words = format!("expected a mapping, found {}", raw.node.value.found());
            self.teller.note(&raw, &[], Fate::Refused, words).code(code::WRONG_TYPE);
            return;
        }
        let mut children = Vec::new();
        let node = match kind {
            EntityKind::Plugin => raw.node.clone(),
            _ => self.checked(&raw, table::fields(kind), &raw.node, &mut children),
        };
        self.names(kind, &raw);
        if kind == EntityKind::Plugin {
            plugins::read(&raw, &mut self.teller);
        }
        let object = Arc::new(ForeignObject { node, ..raw });
        let entity = Arc::new(Entity { kind, object, parent: parent.cloned() });
        let entity = self.shared(entity);
        self.document.entities.push(entity.clone());
        for (kind, key, list) in children {
            self.list(kind, list, entity.object.path.key(key), Some(&entity));
        }
    }

    /// Returns the equal entity of the last reading in its place.
    fn shared(&self, entity: Arc<Entity>) -> Arc<Entity> {
        let index = self.document.entities.len();
        let known = self.last.and_then(|last| last.entities.get(index));
        known.filter(|known| **known == entity).cloned().unwrap_or(entity)
    }

    fn unread(&mut self, raw: &ForeignObject) {
        let note = match raw.path.0.first() {
            Some(crate::config::Step::Key(list)) if list == "partials" || list == "filter_chains" => {
                self.teller.note(raw, &[], Fate::Ignored, format!("nothing here runs `{list}`")).warning()
            }
            _ => self.teller.note(
                raw,
                &[],
                Fate::Ignored,
                "it acts through plugins alone; nothing here reads it",
            ),
        };
        note.native(String::new());
    }

    /// Reports an entity without the fields that name it.
    fn names(&mut self, kind: EntityKind, raw: &ForeignObject) {
        let has = |key: &str| child(&raw.node, key).is_some();
        let missing = match kind {
            EntityKind::Service | EntityKind::Route | EntityKind::Upstream if !has("name") && !has("id") => {
                Some("`name`")
            }
            EntityKind::Target if !has("target") => Some("`target`"),
            EntityKind::Plugin | EntityKind::Sni if !has("name") => Some("`name`"),
            EntityKind::Certificate if !has("cert") => Some("`cert`"),
            EntityKind::Certificate if !has("key") => Some("`key`"),
            EntityKind::CaCertificate if !has("cert") => Some("`cert`"),
            _ => None,
        };
        if let Some(missing) = missing {
            let words = format!("{missing} is missing");
            let note = self.teller.note(raw, &[], Fate::Refused, words).code(code::MISSING_FIELD);
            if missing == "`name`" && kind != EntityKind::Plugin && kind != EntityKind::Sni {
                note.help("give it a `name` or an `id`, as decK asks for");
            }
        }
        if let Some(id) = child(&raw.node, "id").and_then(text)
            && !is_uuid(id)
        {
            self.teller
                .note(raw, &["id"], Fate::Approximated, "the id is no UUID, which Kong would refuse")
                .warning();
        }
    }

    /// Returns the fields that are known and well-formed. Lists of entities go to `children`.
    fn checked(
        &mut self,
        raw: &ForeignObject,
        fields: &[Field],
        node: &Node,
        children: &mut Vec<(EntityKind, String, Node)>,
    ) -> Node {
        let Value::Mapping(entries) = &node.value else {
            self.teller
                .note_at(
                    raw,
                    node,
                    Fate::Refused,
                    format!("expected a mapping, found {}", node.value.found()),
                )
                .code(code::WRONG_TYPE);
            return Node { span: node.span, value: Value::Mapping(Vec::new()) };
        };
        let mut kept = Vec::with_capacity(entries.len());
        for entry in entries {
            let Some(field) = fields.iter().find(|field| field.name == entry.key) else {
                self.unknown(raw, entry, fields);
                continue;
            };
            if let FieldType::Children(kind) = field.field_type {
                children.push((kind, entry.key.clone(), entry.value.clone()));
                continue;
            }
            if entry.value.value == Value::Null {
                kept.push(entry.clone());
                continue;
            }
            if let FieldType::Record(fields) = field.field_type {
                let value = self.checked(raw, fields, &entry.value, children);
                kept.push(Entry { value, ..entry.clone() });
                continue;
            }
            match fault(field.field_type, &entry.value) {
                None => kept.push(self.modern(entry)),
                Some((code, expected)) => {
                    let words = format!("expected {expected}, found {}", entry.value.value.found());
                    self.teller.note_at(raw, &entry.value, Fate::Refused, words).code(code);
                }
            }
        }
        Node { span: node.span, value: Value::Mapping(kept) }
    }

    /// Returns a field as format 3.0 has it: before, a path with characters of a regex was one without `~`.
    fn modern(&self, entry: &Entry) -> Entry {
        let mut entry = entry.clone();
        if entry.key == "paths"
            && self.is_old()
            && let Value::Sequence(paths) = &mut entry.value.value
        {
            for path in paths {
                if let Value::String(path) = &mut path.value
                    && path.chars().any(|c| !c.is_ascii_alphanumeric() && !"._~/%-".contains(c))
                {
                    path.insert(0, '~');
                }
            }
        }
        entry
    }

    fn unknown(&mut self, raw: &ForeignObject, entry: &Entry, fields: &[Field]) {
        let help = match near(&entry.key, fields.iter().map(|field| field.name)).first() {
            Some(word) => format!("did you mean `{word}`?"),
            None => format!("it is no field that Kong knows in {}", raw.title),
        };
        let position = Node { span: entry.key_span, value: Value::Null };
        self.teller
            .note_at(raw, &position, Fate::Refused, format!("unknown field `{}`", entry.key))
            .code(code::FOREIGN_FIELD)
            .help(help);
    }
}

/// Returns the title of an entity, such as `service checkout`.
fn title(kind: EntityKind, node: &Node, parent: Option<&Arc<Entity>>) -> String {
    let name = ["name", "target", "username", "id", "prefix"]
        .into_iter()
        .find_map(|key| child(node, key).and_then(text));
    match (name, parent) {
        (Some(name), _) => format!("{} {name}", kind.singular()),
        (None, Some(parent)) => format!("{} of {}", kind.singular(), parent.object.title),
        (None, None) => kind.singular().to_owned(),
    }
}

fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    lengths == [8, 4, 4, 4, 12] && groups.concat().bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Returns the code of a fault in a value, and what the field takes; none if the value fits.
fn fault(field_type: FieldType, node: &Node) -> Option<(&'static str, String)> {
    let wrong_type = |expected: &str| Some((code::WRONG_TYPE, expected.to_owned()));
    match (field_type, &node.value) {
        (FieldType::Text, Value::String(_)) | (FieldType::Bool, Value::Bool(_)) | (FieldType::Any, _) => None,
        (FieldType::Text, _) => wrong_type("a text"),
        (FieldType::Bool, _) => wrong_type("`true` or `false`"),
        (FieldType::Integer(least, most), Value::Integer(value)) => (*value < least || *value > most)
            .then(|| (code::WRONG_VALUE, format!("a whole number from {least} to {most}"))),
        (FieldType::Integer(..), _) => wrong_type("a whole number"),
        (FieldType::Number, _) => match number(node) {
            Some(number) if number >= 0.0 => None,
            Some(_) => Some((code::WRONG_VALUE, "a number of at least 0".to_owned())),
            None => wrong_type("a number"),
        },
        (FieldType::Word(words), Value::String(text)) => {
            let known = || words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
            (!words.contains(&text.as_str())).then(|| (code::WRONG_VALUE, format!("one of {}", known())))
        }
        (FieldType::Word(_), _) => wrong_type("a word"),
        (FieldType::Texts, Value::Sequence(items)) => match items.iter().all(|item| text(item).is_some()) {
            true => None,
            false => wrong_type("a list of texts"),
        },
        (FieldType::Texts, _) => wrong_type("a list of texts"),
        (FieldType::Integers, Value::Sequence(items))
            if items.iter().all(|item| matches!(item.value, Value::Integer(0..=999))) =>
        {
            None
        }
        (FieldType::Integers, _) => wrong_type("a list of statuses"),
        (FieldType::TextsByName, Value::Mapping(entries)) => {
            let fits = |entry: &Entry| fault(FieldType::Texts, &entry.value).is_none();
            match entries.iter().all(fits) {
                true => None,
                false => wrong_type("a list of texts for each name"),
            }
        }
        (FieldType::TextsByName, _) => wrong_type("a mapping of names to lists of texts"),
        (FieldType::Reference(_), Value::String(_)) => None,
        (FieldType::Reference(_), Value::Mapping(_)) => {
            let names = ["id", "name"].into_iter().any(|key| child(node, key).and_then(text).is_some());
            (!names).then(|| (code::WRONG_TYPE, "a `name` or an `id`".to_owned()))
        }
        (FieldType::Reference(_), _) => wrong_type("a name, or a mapping with `name` or `id`"),
        (FieldType::Record(_) | FieldType::Children(_), _) => None,
    }
}
