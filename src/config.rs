//! Documents that operators write, and the faults in them.
//!
//! A text is parsed to a [`tree`] with positions, and the tree is decoded to [`document::Document`]s: strict
//! types of strings and options, in which nothing is resolved yet. Every fault is a [`Violation`] with a
//! place. A faulty document does not hide the faults of others: parsing always returns the valid content
//! together with the faults.

pub mod cap;
pub mod code;
pub mod decode;
pub mod dialect;
pub mod document;
pub mod edit;
pub mod material;
pub mod printable;
pub mod raw;
pub mod render;
pub mod schema;
pub mod secret;
pub mod suggestions;
pub mod tree;
pub mod values;

use std::borrow::Borrow;
use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

/// Severity of a [`Violation`]. Only errors reject a config.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Information; nothing is wrong.
    Info,
    /// Warning: valid, but likely to cause harm.
    Warning,
    /// Error: the config is rejected as a whole and changes nothing.
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// Position in a text: line and column, both from 1, columns counted in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1, in characters.
    pub column: u32,
}

/// Half-open range of positions.
///
/// The end is the position at which the parser recognized the end of the value, which may be after a comment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// Position of the first character.
    pub start: Position,
    /// Position after the last character.
    pub end: Position,
}

/// Step of a [`Path`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Key of a mapping.
    Key(String),
    /// Index into a sequence, from 0.
    Index(usize),
}

/// Path in a document, written `upstreams[2].targets[0].target`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(pub Vec<Step>);

impl Path {
    /// Returns this path extended by a key.
    pub fn key(&self, key: impl Into<String>) -> Self {
        self.with(Step::Key(key.into()))
    }

    /// Returns this path extended by an index.
    pub fn index(&self, index: usize) -> Self {
        self.with(Step::Index(index))
    }

    fn with(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    /// True if `other` is this path or lies below it.
    pub fn contains(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }

    /// Returns this path as a JSON pointer (RFC 6901).
    pub fn pointer(&self) -> String {
        self.0
            .iter()
            .map(|step| match step {
                Step::Key(key) => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
                Step::Index(index) => format!("/{index}"),
            })
            .collect()
    }
}

/// Paths are ordered as their steps are, so that a set of paths is searched by steps.
impl Borrow<[Step]> for Path {
    fn borrow(&self) -> &[Step] {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if position == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// Returns candidates similar to a mistyped word: at most two, the most similar first.
pub fn near<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let length = word.chars().count();
    let mut scored: Vec<(f64, &str)> = candidates
        .into_iter()
        .filter(|candidate| may_be_near(word, length, candidate))
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(score, _)| *score >= 0.8)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.into_iter().take(2).map(|(_, candidate)| candidate).collect()
}

/// Returns false if a candidate cannot be similar enough, as its length shows: the similarity is at most
/// `(2 + shorter / longer) / 3`, and a common beginning of up to four characters adds to it.
fn may_be_near(word: &str, length: usize, candidate: &str) -> bool {
    // Minimum ratio of the lengths for a similarity of 0.8, in thousandths and rounded down, by the number
    // of common characters at the beginning.
    const MIN_RATIO: [usize; 5] = [399, 333, 249, 142, 99];
    let common = word.chars().zip(candidate.chars()).take(4).take_while(|(a, b)| a == b).count();
    let other = candidate.chars().count();
    length.min(other) * 1000 >= length.max(other) * MIN_RATIO[common]
}

/// Fault in a text. The caller knows the file, and turns it into a [`Violation`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Code, such as `US101`.
    pub code: &'static str,
    /// Path of the fault; empty for a syntax error or a limit (US100, US106).
    pub path: Path,
    /// Range of the fault; `None` in a request body, except for a syntax error.
    pub span: Option<Span>,
    /// Description of the fault, without a full stop.
    pub message: String,
    /// Suggested correction.
    pub help: Option<String>,
    /// Other places that explain the fault.
    pub related: Vec<(String, Option<Span>)>,
}

impl Fault {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            path: Path::default(),
            span: None,
            message: message.into(),
            help: None,
            related: Vec::new(),
        }
    }

    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    pub(crate) fn at(self, path: Path, span: Option<Span>) -> Self {
        Self { path, span, ..self }
    }
}

/// Fault in a document, or a warning about it, with its place.
///
/// JSON form: `{"code", "level", "message", "help", "file", "line", "column", "path"}`, with `related` if
/// other places explain it. For a REST request body, it has `pointer` in place of file and line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Violation {
    /// Stable code, such as `US101`.
    pub code: &'static str,
    /// Severity; only errors reject a config.
    pub level: Level,
    /// Description of the fault, in one sentence without a full stop.
    pub message: String,
    /// Suggested correction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// File name as the operator gave it; `None` for a REST request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Line, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Column, from 1, in characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
    /// Path in the document, such as `upstreams[2].targets[0]`.
    pub path: String,
    /// JSON pointer in the request body, such as `/targets/0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// Other places that explain the fault ("first declared here").
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub related: Vec<Related>,
}

/// Another place that explains a [`Violation`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Related {
    /// Relevance of the place.
    pub message: String,
    /// File name as the operator gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Line, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Column, from 1, in characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns what [`near`] returns, by the similarity of every candidate.
    fn near_by_all<'a>(word: &str, candidates: &[&'a str]) -> Vec<&'a str> {
        let scores = candidates.iter().map(|candidate| (strsim::jaro_winkler(word, candidate), *candidate));
        let mut scored: Vec<(f64, &str)> = scores.filter(|(score, _)| *score >= 0.8).collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
        scored.into_iter().take(2).map(|(_, candidate)| candidate).collect()
    }

    proptest! {
        #[test]
        fn no_near_candidate_is_left_out_for_its_length(
            word in "[abü]{0,12}",
            candidates in prop::collection::vec("[abü]{0,30}", 0..12),
        ) {
            let candidates: Vec<&str> = candidates.iter().map(String::as_str).collect();
            prop_assert_eq!(near(&word, candidates.iter().copied()), near_by_all(&word, &candidates));
        }
    }
}
