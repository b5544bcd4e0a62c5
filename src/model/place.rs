//! Places of faults, as paths in documents, and the list that collects all faults.

use jiff::Timestamp;

use crate::config::code;
use crate::config::document::Document;
use crate::config::suggestions::Suggestions;
use crate::config::{Level, Path, Related, Violation};

/// Path in a document.
#[derive(Debug, Clone)]
pub struct FaultPlace<'a> {
    /// Document.
    pub document: &'a Document,
    /// Path within the document.
    pub path: Path,
}

impl<'a> FaultPlace<'a> {
    /// Returns the place at this path, such as the top of an entity.
    pub fn new(document: &'a Document, path: &Path) -> Self {
        Self { document, path: path.clone() }
    }

    /// Returns the place of this key below.
    pub fn key(&self, key: &str) -> Self {
        Self { document: self.document, path: self.path.key(key) }
    }

    /// Returns the place of this element below.
    pub fn index(&self, index: usize) -> Self {
        Self { document: self.document, path: self.path.index(index) }
    }

    /// Returns this place as the explanation of a fault elsewhere.
    pub fn related(&self, message: &str) -> Related {
        self.document.related(&self.path, message)
    }
}

/// Faults found so far.
#[derive(Debug, Default)]
pub struct FaultCollector {
    /// Faults in the order in which they were found.
    pub violations: Vec<Violation>,
    /// Time at which the faults change although no input changed, because certificates expire; `None` if they
    /// do not.
    pub until: Option<Timestamp>,
    /// Suggestions for mistyped names.
    pub suggestions: Suggestions,
}

impl FaultCollector {
    /// Limits the time until which the faults hold to the earliest of these.
    pub fn hold_until(&mut self, at: impl IntoIterator<Item = Timestamp>) {
        self.until = at.into_iter().chain(self.until).min();
    }

    /// Adds an error at `place` with a suggestion, unless decoding has already reported the place.
    pub fn error(
        &mut self,
        place: &FaultPlace<'_>,
        code: &'static str,
        message: String,
        help: impl Into<Option<String>>,
    ) {
        self.add(place, code, Level::Error, message, help.into(), Vec::new());
    }

    /// Adds an error with other places that explain it; otherwise like [`Self::error`].
    pub fn error_with(
        &mut self,
        place: &FaultPlace<'_>,
        code: &'static str,
        message: String,
        help: impl Into<Option<String>>,
        related: Vec<Related>,
    ) {
        self.add(place, code, Level::Error, message, help.into(), related);
    }

    /// Adds a warning: valid, but probably not what was meant.
    pub fn warning(&mut self, place: &FaultPlace<'_>, code: &'static str, message: String, help: String) {
        self.add(place, code, Level::Warning, message, Some(help), Vec::new());
    }

    /// Adds an error for an invalid value.
    pub fn wrong(&mut self, place: &FaultPlace<'_>, message: String, help: impl Into<Option<String>>) {
        self.error(place, code::WRONG_VALUE, message, help);
    }

    /// Adds an error for a missing field.
    pub fn missing(&mut self, place: &FaultPlace<'_>, what: &str, help: &str) {
        self.error(place, code::MISSING_FIELD, format!("{what} is missing"), help.to_owned());
    }

    /// Adds an error for a reference to something that does not exist, with similar names if there are any.
    pub fn dangling<'n>(
        &mut self,
        place: &FaultPlace<'_>,
        kind: &str,
        name: &str,
        names: impl IntoIterator<Item = &'n str>,
    ) {
        let help = match self.suggestions.near(name, names).as_slice() {
            [] => "declare it, or name one that is there".to_owned(),
            words => format!("did you mean `{}`?", words.join("` or `")),
        };
        self.error(place, code::DANGLING, format!("no {kind} is named `{name}`"), help);
    }

    fn add(
        &mut self,
        place: &FaultPlace<'_>,
        code: &'static str,
        level: Level,
        message: String,
        help: Option<String>,
        related: Vec<Related>,
    ) {
        debug_assert_eq!(code::level_of(code), Some(level), "{code} has another level in the table of codes");
        let is_absence = matches!(code, code::MISSING_FIELD | self::code::NO_TARGETS);
        if place.document.is_faulty(&place.path) || (is_absence && place.document.is_misspelt(&place.path)) {
            return;
        }
        let violation = place.document.violation(code, level, &place.path, message);
        self.violations.push(Violation { help, related, ..violation });
    }
}
