//! Decoding of a tree into a document: which list a key is, and every fault with its place.

use std::sync::Arc;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::config::code;
use crate::config::dialect::translation::Unit;
use crate::config::dialect::{ForeignDocument, ReadingTerms};
use crate::config::document::{Declared, Document, ForeignOrigins, Kind, Origin};
use crate::config::tree::{self, Node, Value};
use crate::config::{Fault, Level, Path, Violation, dialect, near, raw};
use crate::envoy::ResourceType;

/// Key of the resolver, of which there is one.
const RESOLVER: &str = "resolver";

/// Key of the rollout, of which there is one.
const ROLLOUT: &str = "rollout";

/// Key of the levels of rules at the top of a file.
const LINT: &str = "lint";

/// Key of the receivers of events.
const NOTIFY: &str = "notify";

/// Documents of a file, and every fault in them.
#[derive(Debug, Default)]
pub struct ParsedFile {
    /// Native documents.
    pub documents: Vec<Document>,
    /// Documents in other dialects, read and not yet translated.
    pub foreign: Vec<ForeignDocument>,
    /// Values that no message may show, each with what stands for it in the file.
    pub masks: Arc<[(String, String)]>,
    /// Faults of the text and of the native documents.
    pub violations: Vec<Violation>,
}

/// Returns the documents of a file, and every fault in them. `last` are the foreign documents of its last reading.
pub fn parse_file(file: &str, text: &str, terms: &ReadingTerms, last: &[ForeignDocument]) -> ParsedFile {
    let file: Arc<str> = file.into();
    let origin = Origin::File(file.clone());
    let read = dialect::read(&file, text, terms, last);
    let mut documents: Vec<Document> = Vec::new();
    let mut violations = Vec::new();
    for root in read.native {
        let (document, found) = decode_root(origin.clone(), root);
        violations.extend(found);
        documents.push(document);
    }
    // A fault of the text as a whole has a place of its own, whichever document it stands in.
    let mut rest = Document::empty(origin);
    rest.whole = !read.faults.iter().any(|fault| matches!(fault.code, code::SYNTAX | code::LIMIT));
    violations.extend(read.faults.into_iter().map(|fault| rest.place(fault, Level::Error)));
    if !rest.whole {
        documents.push(rest);
    }
    ParsedFile { documents, foreign: read.foreign, masks: read.masks, violations }
}

/// Returns the native document of a translated unit; none if there is nothing in it.
pub fn parse_unit(unit: &Unit, masks: &Arc<[(String, String)]>) -> Option<(Document, Vec<Violation>)> {
    let (_, object) = unit.places.parts().next()?;
    let mut document = Document::empty(Origin::File(object.file.clone()));
    document.foreign = Some(Box::new(ForeignOrigins { places: unit.places.clone(), masks: masks.clone() }));
    Some(decode_into_document(document, unit.node()))
}

/// Returns the document of one entity that was written over REST.
pub fn parse_stored(kind: Kind, name: &str, root: Node) -> (Document, Vec<Violation>) {
    let origin = Origin::Stored { kind, name: name.into() };
    let mut document = Document::empty(origin);
    let path = Path::default();
    let faults = match kind {
        Kind::Fleet => decode_into(&root, path, &mut document.fleets),
        Kind::Listener => decode_into(&root, path, &mut document.listeners),
        Kind::Certificate => decode_into(&root, path, &mut document.certificates),
        Kind::Route => decode_into(&root, path, &mut document.routes),
        Kind::Service => decode_into(&root, path, &mut document.services),
        Kind::Upstream => decode_into(&root, path, &mut document.upstreams),
        Kind::Target => {
            let mut targets = Vec::new();
            let faults = decode_into(&root, path, &mut targets);
            let upstream = name.split('/').next().unwrap_or_default();
            document.target = targets.pop().map(|target| (upstream.into(), target));
            faults
        }
        Kind::Raw if raw::patched(name).is_some() => decode_patch(&root, path, &mut document),
        Kind::Raw => {
            let resource_type = raw::split(name).map(|(resource_type, _)| resource_type);
            decode_raw(&root, path, resource_type, &mut document)
        }
    };
    document.root = root;
    let violations = document.note(faults);
    (document, violations)
}

fn decode_root(origin: Origin, root: Node) -> (Document, Vec<Violation>) {
    decode_into_document(Document::empty(origin), root)
}

fn decode_into_document(mut document: Document, root: Node) -> (Document, Vec<Violation>) {
    let faults = match &root.value {
        Value::Mapping(entries) => entries
            .iter()
            .flat_map(|entry| {
                let path = Path::default().key(&entry.key);
                match Kind::TOP.into_iter().find(|kind| kind.plural() == entry.key) {
                    Some(kind) => decode_list(kind, &entry.value, &path, &mut document),
                    None if entry.key == RESOLVER => {
                        decode_single(&entry.value, path, &mut document.resolver)
                    }
                    None if entry.key == ROLLOUT => decode_single(&entry.value, path, &mut document.rollout),
                    None if entry.key == Kind::Raw.plural() => raws(&entry.value, &path, &mut document),
                    None if entry.key == NOTIFY => decode_notify(&entry.value, &path, &mut document),
                    None if entry.key == LINT => decode_into(&entry.value, path, &mut document.lint),
                    None => vec![unknown_list(entry, path)],
                }
            })
            .collect(),
        _ => vec![Fault {
            code: code::WRONG_TYPE,
            path: Path::default(),
            span: root.span,
            message: "a config is a mapping of lists".to_owned(),
            help: Some(format!("begin with one of: {}", list_names())),
            related: Vec::new(),
        }],
    };
    document.root = root;
    let violations = document.note(faults);
    (document, violations)
}

/// Keys at the top of a file.
pub(super) fn words() -> impl Iterator<Item = &'static str> {
    Kind::TOP.into_iter().chain([Kind::Raw]).map(Kind::plural).chain([RESOLVER, ROLLOUT, LINT, NOTIFY])
}

fn list_names() -> String {
    words().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

fn unknown_list(entry: &tree::Entry, path: Path) -> Fault {
    let help = match near(&entry.key, words()).first() {
        Some(word) => format!("did you mean `{word}`?"),
        None => format!("expected one of: {}", list_names()),
    };
    Fault {
        code: code::UNKNOWN_FIELD,
        path,
        span: entry.key_span,
        message: format!("unknown field `{}`", entry.key),
        help: Some(help),
        related: Vec::new(),
    }
}

fn decode_list(kind: Kind, node: &Node, path: &Path, document: &mut Document) -> Vec<Fault> {
    let help = || format!("begin each {} with `- name: …`", kind.singular());
    let items = match items_of(node, path, kind.plural(), help) {
        Ok(items) => items,
        Err(faults) => return faults,
    };
    let mut faults = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let path = path.index(index);
        faults.extend(match kind {
            Kind::Fleet => decode_into(item, path, &mut document.fleets),
            Kind::Listener => decode_into(item, path, &mut document.listeners),
            Kind::Certificate => decode_into(item, path, &mut document.certificates),
            Kind::Route => decode_into(item, path, &mut document.routes),
            Kind::Service => decode_into(item, path, &mut document.services),
            Kind::Upstream => decode_into(item, path, &mut document.upstreams),
            Kind::Target | Kind::Raw => Vec::new(),
        });
    }
    faults
}

/// Returns the elements of a node that should be a list; null is an empty one.
fn items_of<'n>(
    node: &'n Node,
    path: &Path,
    word: &str,
    help: impl FnOnce() -> String,
) -> Result<&'n [Node], Vec<Fault>> {
    match &node.value {
        Value::Sequence(items) => Ok(items),
        Value::Null => Ok(&[]),
        _ => Err(vec![Fault {
            code: code::WRONG_TYPE,
            path: path.clone(),
            span: node.span,
            message: format!("`{word}` is a list"),
            help: Some(help()),
            related: Vec::new(),
        }]),
    }
}

fn decode_notify(node: &Node, path: &Path, document: &mut Document) -> Vec<Fault> {
    match items_of(node, path, NOTIFY, || "begin each receiver with `- url: …`".to_owned()) {
        Ok(items) => {
            let decode = |(index, item)| decode_into(item, path.index(index), &mut document.notify);
            items.iter().enumerate().flat_map(decode).collect()
        }
        Err(faults) => faults,
    }
}

/// Decodes an entity of which a document has at most one.
fn decode_single<T: DeserializeOwned>(
    node: &Node,
    path: Path,
    single: &mut Option<Declared<T>>,
) -> Vec<Fault> {
    if node.value == Value::Null {
        return Vec::new();
    }
    let (entity, faults) = tree::decode(node, &path);
    *single = entity.map(|entity| Declared { path, entity });
    faults
}

/// Decodes `raw`: a mapping of two lists, whose elements Envoy's descriptors judge.
fn raws(node: &Node, path: &Path, document: &mut Document) -> Vec<Fault> {
    #[derive(Default, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Raw {
        resources: Vec<IgnoredAny>,
        patches: Vec<IgnoredAny>,
    }
    if node.value == Value::Null {
        return Vec::new();
    }
    let (_, mut faults) = tree::decode::<Raw>(node, path);
    for (key, is_patch) in [("resources", false), ("patches", true)] {
        let list = node.get(&Path::default().key(key)).map(|list| &list.value);
        let Some(Value::Sequence(items)) = list else { continue };
        for (index, item) in items.iter().enumerate() {
            let path = path.key(key).index(index);
            faults.extend(match is_patch {
                true => decode_patch(item, path, document),
                false => decode_raw(item, path, None, document),
            });
        }
    }
    faults
}

fn decode_patch(node: &Node, path: Path, document: &mut Document) -> Vec<Fault> {
    let (entity, faults) = raw::patch(node, &path);
    document.patches.extend(entity.map(|entity| Declared { path, entity }));
    faults
}

fn decode_raw(
    node: &Node,
    path: Path,
    resource_type: Option<ResourceType>,
    document: &mut Document,
) -> Vec<Fault> {
    match raw::resource(node, &path, resource_type) {
        Ok(entity) => {
            document.raw.push(Declared { path, entity: Arc::new(entity) });
            Vec::new()
        }
        Err(faults) => faults,
    }
}

fn decode_into<T: DeserializeOwned>(node: &Node, path: Path, list: &mut Vec<Declared<T>>) -> Vec<Fault> {
    // An unreadable entity has no name, so a reference to it is reported as dangling besides.
    let (entity, faults) = tree::decode(node, &path);
    list.extend(entity.map(|entity| Declared { path, entity }));
    faults
}
