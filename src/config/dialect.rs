//! Dialects: the formats in which config files may be written.
//!
//! A dialect is two pure steps. The first reads one document: a spanned tree to the dialect's entities, each value with
//! its place. The second puts the entities of all documents together and returns native [`translation::Unit`]s, in
//! which every node keeps the range that it came from, so that a fault that a native rule finds points into the file as
//! it was written. A unit of which no entity changed is shared with the translation before. Neither step does I/O.
//!
//! To add a dialect: a variant of [`Dialect`] and of [`ForeignDocument`], marks in `claim`, a file in `dialect/` with
//! both steps, and an arm in [`read`] and in [`translate`].

pub mod foreign;
pub mod kong;
pub mod listeners;
pub mod note;
pub mod report;
pub mod translation;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::config::dialect::kong::read::KongDocument;
use crate::config::dialect::kong::template::{self, Expanded};
use crate::config::dialect::kong::translate::KongTranslation;
use crate::config::dialect::listeners::NativeListeners;
use crate::config::dialect::note::Note;
use crate::config::dialect::translation::Units;
use crate::config::tree::{self, Node, Schema};
use crate::config::{Fault, Path, code};

/// Format of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Services, routes, upstreams and targets, as `docs/reference.md` describes them.
    Native,
    /// decK's files, and those of a Kong without a database.
    Kong,
}

impl Dialect {
    /// All dialects.
    pub const ALL: [Self; 2] = [Self::Native, Self::Kong];

    /// Name, as options and reports have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Kong => "kong",
        }
    }

    /// Returns the dialect with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dialect| dialect.name() == name)
    }
}

/// Terms under which files are read.
#[derive(Clone, Default, PartialEq)]
pub struct ReadingTerms {
    /// Dialect of every document; none: each document's own.
    pub dialect: Option<Dialect>,
    /// Environment, of which templates and vaults take values.
    pub variables: Arc<BTreeMap<String, String>>,
}

impl fmt::Debug for ReadingTerms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadingTerms").field("dialect", &self.dialect).finish_non_exhaustive()
    }
}

/// Document in a foreign dialect, read to its entities.
#[derive(Debug, Clone, PartialEq)]
pub enum ForeignDocument {
    /// Kong's.
    Kong(Arc<KongDocument>),
}

impl ForeignDocument {
    /// Returns the notes of the reading.
    pub fn notes(&self) -> &[Note] {
        match self {
            Self::Kong(document) => &document.notes,
        }
    }

    /// Returns the dialect.
    pub fn dialect(&self) -> Dialect {
        match self {
            Self::Kong(_) => Dialect::Kong,
        }
    }
}

/// Documents of a file.
#[derive(Debug, Default)]
pub struct ReadFile {
    /// Trees of native documents.
    pub native: Vec<Node>,
    /// Documents in other dialects.
    pub foreign: Vec<ForeignDocument>,
    /// Faults of the text.
    pub faults: Vec<Fault>,
    /// Values that no message may show, each with what stands for it in the file.
    pub masks: Arc<[(String, String)]>,
}

/// Reads the documents of a file. `last` are the foreign documents of its last reading, with which entities that did
/// not change are shared.
pub fn read(file: &Arc<str>, text: &str, terms: &ReadingTerms, last: &[ForeignDocument]) -> ReadFile {
    let is_kong = terms.dialect == Some(Dialect::Kong)
        || (terms.dialect.is_none() && (kong::detect::looks_like(text) || !last.is_empty()));
    if is_kong {
        return read_kong(file, text, terms, last);
    }
    let (roots, faults) = tree::yaml(text);
    let is_foreign = |root: &Node| terms.dialect.is_none() && kong::detect::mark_of_kong(root).is_some();
    if roots.iter().any(is_foreign) || (terms.dialect.is_none() && has_foreign_template(text, &faults)) {
        return read_kong(file, text, terms, last);
    }
    ReadFile { native: roots, faults, ..ReadFile::default() }
}

/// True if a text that cannot be read has templates, which may be why.
fn has_foreign_template(text: &str, faults: &[Fault]) -> bool {
    text.contains(template::OPEN) && faults.iter().any(|fault| fault.code == code::SYNTAX)
}

/// Reads the documents of a file of which one at least is Kong's, or may be.
fn read_kong(file: &Arc<str>, text: &str, terms: &ReadingTerms, last: &[ForeignDocument]) -> ReadFile {
    let expanded = text.contains(template::OPEN).then(|| template::expand(text, &terms.variables));
    let expanded_text = expanded.as_ref().map_or(text, |expanded| expanded.text.as_str());
    let (mut roots, mut faults) = tree::yaml_by(expanded_text, Schema::Go);
    if let Some(expanded) = &expanded {
        roots.iter_mut().for_each(|root| expanded.relocate(root));
        for fault in &mut faults {
            fault.span = fault.span.map(|span| expanded.span(span));
            fault.related.iter_mut().for_each(|(_, span)| *span = span.map(|span| expanded.span(span)));
        }
    }
    let claims: Vec<_> = roots.iter().map(|root| claim(root, terms.dialect)).collect();
    let has_native = claims.iter().any(|claim| matches!(claim, Ok(Dialect::Native)));
    let mut natives = if has_native { tree::yaml(text).0 } else { Vec::new() };
    let is_aligned = natives.len() == roots.len();
    let mut read = ReadFile::default();
    for (index, (root, claim)) in roots.into_iter().zip(claims).enumerate() {
        match claim {
            Ok(Dialect::Native) if is_aligned => {
                let plain = Node { span: None, value: tree::Value::Null };
                read.native.push(std::mem::replace(&mut natives[index], plain));
            }
            Ok(Dialect::Native) => read.native.push(root),
            Ok(Dialect::Kong) => {
                let last = last.get(read.foreign.len()).map(|ForeignDocument::Kong(last)| &**last);
                let document = kong::read::read(file, root, index == 0, last);
                read.foreign.push(ForeignDocument::Kong(Arc::new(document)));
            }
            Err(fault) => read.faults.push(*fault),
        }
    }
    if !read.foreign.is_empty() {
        let Expanded { faults, masks, .. } = expanded.unwrap_or_default();
        read.faults.extend(faults);
        read.masks = masks.into();
    }
    read.faults.extend(faults);
    read
}

/// Returns the dialect of a document, by its content alone. A document without the marks of a foreign dialect is native.
///
/// # Errors
///
/// The fault of a document that has words of two dialects.
fn claim(root: &Node, forced: Option<Dialect>) -> Result<Dialect, Box<Fault>> {
    if let Some(dialect) = forced {
        return Ok(dialect);
    }
    match (kong::detect::mark_of_kong(root), kong::detect::mark_of_native(root)) {
        (None, _) => Ok(Dialect::Native),
        (Some(_), None) => Ok(Dialect::Kong),
        (Some((kong, kong_span)), Some((native, span))) => {
            let words =
                format!("`{native}` is a native word, and `{kong}` one of Kong's: a document is one of them");
            let mut fault = Fault::new(code::CONFLICT, words).at(Path::default().key(native), span);
            fault.help = Some("put them into two documents, with `---` between".to_owned());
            fault.related.push((format!("`{kong}` of Kong"), kong_span));
            Err(Box::new(fault))
        }
    }
}

/// Units of all dialects, with what is needed to make only those again of which something changed.
#[derive(Debug, Clone, Default)]
pub struct Translation {
    kong: KongTranslation,
}

impl Translation {
    /// Returns the units by name.
    pub fn units(&self) -> &Units {
        &self.kong.units
    }
}

/// Translates the foreign documents of all files.
pub fn translate<'d>(
    documents: impl Iterator<Item = &'d ForeignDocument>,
    listeners: &NativeListeners,
    terms: &ReadingTerms,
    last: &Translation,
) -> Translation {
    let kong: Vec<Arc<KongDocument>> =
        documents.map(|ForeignDocument::Kong(document)| document.clone()).collect();
    if kong.is_empty() {
        return Translation::default();
    }
    Translation { kong: kong::translate::translate(&kong, listeners, &terms.variables, &last.kong) }
}
