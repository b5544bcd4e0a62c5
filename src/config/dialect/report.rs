//! Fidelity report: the fate of every value of foreign files.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use schemars::JsonSchema;
use serde::Serialize;

use crate::config::dialect::foreign::ForeignObject;
use crate::config::dialect::note::{AddedSetting, Fate, Note};
use crate::config::dialect::translation::Units;
use crate::config::dialect::{ForeignDocument, kong};
use crate::config::tree::{Node, Value};
use crate::config::{Path, Position, Span, Step};

/// Fidelity report of foreign files.
#[derive(Debug, Serialize, JsonSchema)]
pub struct FidelityReport {
    /// True if `check` finds no error.
    pub ok: bool,
    /// Names of the dialects.
    pub dialects: Vec<&'static str>,
    /// Number of items by fate.
    pub summary: FateCounts,
    /// Values of the files.
    pub items: Vec<FidelityItem>,
    /// Settings that the files do not say.
    pub added: Vec<AddedSetting>,
}

/// Number of items by fate.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct FateCounts {
    /// Values that mean the same.
    pub exact: usize,
    /// Values whose effect differs.
    pub approximated: usize,
    /// Values without effect.
    pub ignored: usize,
    /// Values because of which the config is refused.
    pub refused: usize,
}

/// Value of a foreign file and its fate; it stands for all values below it.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct FidelityItem {
    /// File by the name that the operator gave.
    pub file: String,
    /// Line of the key, or of the element of a list, from 1.
    pub line: Option<u32>,
    /// Column, from 1, in characters.
    pub column: Option<u32>,
    /// Kind and name of the object, in the words of the dialect.
    pub object: String,
    /// Path in the foreign document.
    pub path: String,
    /// Fate.
    pub fate: Fate,
    /// Path in the native config; empty if there is none.
    pub native: String,
    /// Description; empty for an exact value.
    pub words: Cow<'static, str>,
    /// Code; none for an exact value.
    pub code: Option<&'static str>,
}

/// Returns the report on documents. `ok` is what `check` says.
pub fn report<'d>(
    documents: impl Iterator<Item = &'d ForeignDocument>,
    units: &Units,
    ok: bool,
) -> FidelityReport {
    let documents: Vec<&ForeignDocument> = documents.collect();
    let notes = documents.iter().flat_map(|document| document.notes());
    let notes: Vec<&Note> = notes.chain(units.values().flat_map(|unit| &unit.notes)).collect();
    let natives = native_places(units);
    let mut items: Vec<FidelityItem> = notes.iter().map(|note| of_note(note)).collect();
    let covered: BTreeSet<(&str, &Path)> = notes.iter().map(|note| (&*note.file, &note.path)).collect();
    for ForeignDocument::Kong(document) in &documents {
        for object in kong::read::objects(document) {
            values(&object.node, None, object.path.clone(), &mut |path, span| {
                if !is_covered(&covered, &object.file, path) {
                    items.push(exact(object, path, span, &natives));
                }
            });
        }
    }
    items.sort_by(|a, b| {
        (a.fate, &a.file, a.line, a.column, &a.path).cmp(&(b.fate, &b.file, b.line, b.column, &b.path))
    });
    items.dedup();
    let mut summary = FateCounts::default();
    for item in &items {
        *match item.fate {
            Fate::Exact => &mut summary.exact,
            Fate::Approximated => &mut summary.approximated,
            Fate::Ignored => &mut summary.ignored,
            Fate::Refused => &mut summary.refused,
        } += 1;
    }
    let dialects: BTreeSet<&str> = documents.iter().map(|document| document.dialect().name()).collect();
    let added = units.values().flat_map(|unit| unit.added.iter().cloned()).collect();
    FidelityReport { ok, dialects: dialects.into_iter().collect(), summary, items, added }
}

/// True if a note is at a path or above it, apart from notes about whole objects that only add to their values.
fn is_covered(covered: &BTreeSet<(&str, &Path)>, file: &str, path: &Path) -> bool {
    (1..=path.0.len()).any(|length| {
        let above = Path(path.0[..length].to_vec());
        let is_object =
            length < path.0.len() && matches!(above.0.last(), Some(Step::Index(_))) && !is_opaque(&above);
        !is_object && covered.contains(&(file, &above))
    })
}

/// True for objects of which one note covers all: nothing in them is read on its own.
fn is_opaque(path: &Path) -> bool {
    let list = path.0.iter().rev().find_map(|step| match step {
        Step::Key(key) => Some(key.as_str()),
        Step::Index(_) => None,
    });
    list.is_some_and(|list| list == "plugins" || kong::kind::UNREAD.contains(&list))
}

/// Visits every scalar, list of scalars, `{}` and `[]` with its path and the range of its key.
fn values(node: &Node, key: Option<Span>, path: Path, visit: &mut dyn FnMut(&Path, Option<Span>)) {
    match &node.value {
        Value::Mapping(entries) if !entries.is_empty() => {
            for entry in entries {
                values(&entry.value, entry.key_span, path.key(entry.key.as_str()), visit);
            }
        }
        Value::Sequence(items) if items.iter().any(|item| !is_scalar(item)) => {
            for (index, item) in items.iter().enumerate() {
                values(item, item.span, path.index(index), visit);
            }
        }
        _ => visit(&path, key.or(node.span)),
    }
}

fn is_scalar(node: &Node) -> bool {
    !matches!(node.value, Value::Mapping(_) | Value::Sequence(_))
}

/// Native paths by the place in a file from which their nodes come.
type NativePlaces = HashMap<(String, Position, Position), String>;

/// Returns the native paths of all nodes of units.
fn native_places(units: &Units) -> NativePlaces {
    let mut places = NativePlaces::new();
    for unit in units.values() {
        for (list, entities) in &unit.root {
            for (index, entity) in entities.iter().enumerate() {
                let path = Path::default().key(*list).index(index);
                let name =
                    entity.get(&Path::default().key("name")).and_then(kong::entity::text).unwrap_or_default();
                let file = |path: &Path| unit.places.object(path).map(|object| object.file.to_string());
                collect(entity, &path, &format!("{list}.{name}"), &file, &mut places);
            }
        }
    }
    places
}

fn collect(
    node: &Node,
    path: &Path,
    shown: &str,
    file: &dyn Fn(&Path) -> Option<String>,
    places: &mut NativePlaces,
) {
    match &node.value {
        Value::Mapping(entries) => {
            for entry in entries {
                let path = path.key(entry.key.as_str());
                collect(&entry.value, &path, &format!("{shown}.{}", entry.key), file, places);
            }
        }
        Value::Sequence(items) => {
            for (index, item) in items.iter().enumerate() {
                collect(item, &path.index(index), &format!("{shown}[{index}]"), file, places);
            }
        }
        _ => {}
    }
    if let (Some(span), Some(file)) = (node.span, file(path)) {
        places.entry((file, span.start, span.end)).or_insert_with(|| shown.to_owned());
    }
}

fn of_note(note: &Note) -> FidelityItem {
    FidelityItem {
        file: note.file.to_string(),
        line: note.position.map(|position| position.line),
        column: note.position.map(|position| position.column),
        object: note.object.clone(),
        path: note.path.to_string(),
        fate: note.fate,
        native: note.native.clone(),
        words: note.words.clone(),
        code: (note.fate != Fate::Exact).then_some(note.code),
    }
}

fn exact(object: &ForeignObject, path: &Path, span: Option<Span>, natives: &NativePlaces) -> FidelityItem {
    let relative = Path(path.0[object.path.0.len()..].to_vec());
    let value = object.node.get(&relative).and_then(|node| node.span);
    let native = value.and_then(|value| natives.get(&(object.file.to_string(), value.start, value.end)));
    FidelityItem {
        file: object.file.to_string(),
        line: span.map(|span| span.start.line),
        column: span.map(|span| span.start.column),
        object: object.title.clone(),
        path: path.to_string(),
        fate: Fate::Exact,
        native: native.cloned().unwrap_or_default(),
        words: Cow::Borrowed(""),
        code: None,
    }
}

/// Formats a report for people: the counts, then the items, the worst fate first, exact ones as a count.
pub fn human(report: &FidelityReport) -> String {
    let FateCounts { exact, approximated, ignored, refused } = report.summary;
    let mut lines =
        format!("{exact} exact, {approximated} approximated, {ignored} ignored, {refused} refused\n");
    let mut last = None;
    for item in report.items.iter().filter(|item| item.fate != Fate::Exact || !item.words.is_empty()) {
        if last.replace(item.fate) != Some(item.fate) {
            lines += match item.fate {
                Fate::Refused => "\nrefused\n",
                Fate::Ignored => "\nignored\n",
                Fate::Approximated => "\napproximated\n",
                Fate::Exact => "\nexact, and worth knowing\n",
            };
        }
        let (line, column) = (item.line.unwrap_or(0), item.column.unwrap_or(0));
        let path = if item.path.is_empty() { "the document" } else { &item.path };
        lines +=
            &format!("  {}:{line}:{column} {path} → {}: {}\n", item.file, native(&item.native), item.words);
    }
    if !report.added.is_empty() {
        lines += "\nadded, for the files do not say it\n";
        let mut by_setting: BTreeMap<&str, Vec<&AddedSetting>> = BTreeMap::new();
        for added in &report.added {
            by_setting.entry(&added.native).or_default().push(added);
        }
        for (setting, added) in by_setting {
            lines += &format!("  {setting}: {} ({})\n", added[0].value, added[0].words);
        }
    }
    lines
}

fn native(path: &str) -> &str {
    if path.is_empty() { "nothing" } else { path }
}
