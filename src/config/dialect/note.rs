//! Notes about the fields of foreign files: what became of each.

use std::borrow::Cow;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

use crate::config::{Level, Path, Position, Related, Violation};

/// Fate of a value of a foreign file. The worst comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// The config is refused because of it.
    Refused,
    /// It has no effect.
    Ignored,
    /// It has an effect that differs.
    Approximated,
    /// It means the same.
    Exact,
}

/// Note about a value of a foreign file, and about all that stands below it.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    /// File by the name that the operator gave.
    pub file: Arc<str>,
    /// Position of the key, or of the element of a list.
    pub position: Option<Position>,
    /// Path in the foreign document.
    pub path: Path,
    /// Kind and name of the object, in the words of the dialect.
    pub object: String,
    /// Fate.
    pub fate: Fate,
    /// Path in the native config; empty if there is none.
    pub native: String,
    /// Description in one line without a full stop; empty for an exact value.
    pub words: Cow<'static, str>,
    /// Suggested correction.
    pub help: Option<Cow<'static, str>>,
    /// Code.
    pub code: &'static str,
    /// Level at which `check` tells it; none: only the report does.
    pub level: Option<Level>,
    /// Other places that explain it.
    pub related: Vec<Related>,
}

impl Note {
    /// Returns the violation that `check` tells; none if only the report has it.
    pub fn violation(&self) -> Option<Violation> {
        Some(Violation {
            code: self.code,
            level: self.level?,
            message: self.words.clone().into_owned(),
            help: self.help.clone().map(Cow::into_owned),
            file: Some(self.file.to_string()),
            line: self.position.map(|position| position.line),
            column: self.position.map(|position| position.column),
            path: self.path.to_string(),
            pointer: None,
            related: self.related.clone(),
        })
    }
}

/// Native setting that the file does not say.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct AddedSetting {
    /// Path in the native config.
    pub native: String,
    /// Value in short.
    pub value: Cow<'static, str>,
    /// Reason.
    pub words: Cow<'static, str>,
    /// Object of the file that it belongs to.
    pub because: String,
}
