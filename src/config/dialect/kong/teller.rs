//! Collector of the notes about foreign objects.

use std::borrow::Cow;
use std::sync::Arc;

use crate::config::dialect::foreign::ForeignObject;
use crate::config::dialect::note::{AddedSetting, Fate, Note};
use crate::config::tree::{Node, Value};
use crate::config::{Level, Position, Related, Span, Step, code};

/// Words of a note.
pub type Words = Cow<'static, str>;

/// Collector of notes and of added settings.
#[derive(Debug, Default)]
pub struct Teller {
    /// Notes in the order in which they were found.
    pub notes: Vec<Note>,
    /// Settings that the files do not say.
    pub added: Vec<AddedSetting>,
}

impl Teller {
    /// Adds a note about the value of a field, by its keys; without keys about the object.
    pub fn note(
        &mut self,
        object: &ForeignObject,
        keys: &[&str],
        fate: Fate,
        words: impl Into<Words>,
    ) -> &mut Note {
        let mut path = object.path.clone();
        let mut position = start(object.node.span);
        let mut node = Some(&object.node);
        for key in keys {
            path.0.push(Step::Key((*key).to_owned()));
            let entry = node.and_then(|node| match &node.value {
                Value::Mapping(entries) => entries.iter().find(|entry| entry.key == *key),
                _ => None,
            });
            position = entry.and_then(|entry| start(entry.key_span)).or(position);
            node = entry.map(|entry| &entry.value);
        }
        self.push(object, path, position, fate, words.into())
    }

    /// Adds a note about a node of the object.
    pub fn note_at(
        &mut self,
        object: &ForeignObject,
        node: &Node,
        fate: Fate,
        words: impl Into<Words>,
    ) -> &mut Note {
        let path = object.path_of(node.span);
        self.push(object, path, start(node.span), fate, words.into())
    }

    fn push(
        &mut self,
        object: &ForeignObject,
        path: crate::config::Path,
        position: Option<Position>,
        fate: Fate,
        words: Words,
    ) -> &mut Note {
        let (code, level) = match fate {
            Fate::Refused => (code::WRONG_VALUE, Some(Level::Error)),
            Fate::Ignored | Fate::Approximated => (code::APPROXIMATED, Some(Level::Info)),
            Fate::Exact => (code::APPROXIMATED, None),
        };
        self.notes.push(Note {
            file: object.file.clone(),
            position,
            path,
            object: object.title.clone(),
            fate,
            native: String::new(),
            words,
            help: None,
            code,
            level,
            related: Vec::new(),
        });
        self.notes.last_mut().expect("one was pushed")
    }

    /// Adds a setting that no file says.
    pub fn add(
        &mut self,
        native: String,
        value: impl Into<Words>,
        words: impl Into<Words>,
        because: &ForeignObject,
    ) {
        let because = because.title.clone();
        self.added.push(AddedSetting { native, value: value.into(), words: words.into(), because });
    }
}

impl Note {
    /// Gives the note another code.
    pub fn code(&mut self, code: &'static str) -> &mut Self {
        self.code = code;
        self
    }

    /// Makes `check` tell it as a warning.
    pub fn warning(&mut self) -> &mut Self {
        self.level = Some(Level::Warning);
        if self.code == code::APPROXIMATED && self.fate == Fate::Ignored {
            self.code = code::IGNORED;
        }
        self
    }

    /// Makes `check` silent about a value that is Kong's default.
    pub fn quiet_if(&mut self, is_default: bool) -> &mut Self {
        if is_default {
            self.level = None;
        }
        self
    }

    /// Adds the path in the native config.
    pub fn native(&mut self, native: impl Into<String>) -> &mut Self {
        self.native = native.into();
        self
    }

    /// Adds a suggested correction.
    pub fn help(&mut self, help: impl Into<Words>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    /// Adds a place that explains it.
    pub fn related(&mut self, message: &str, object: &ForeignObject, span: Option<Span>) -> &mut Self {
        let at = start(span.or(object.node.span));
        self.related.push(Related {
            message: message.to_owned(),
            file: Some(object.file.to_string()),
            line: at.map(|at| at.line),
            column: at.map(|at| at.column),
        });
        self
    }
}

fn start(span: Option<Span>) -> Option<Position> {
    span.map(|span| span.start)
}

/// Shares an object of a document.
pub fn object(file: &Arc<str>, path: crate::config::Path, title: String, node: Node) -> Arc<ForeignObject> {
    Arc::new(ForeignObject { file: file.clone(), path, title, node })
}
