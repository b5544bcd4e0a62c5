//! The names of entities.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The name of an entity: letters, digits, `.`, `_` and `-`, at most 200 of them, so that it can stand in a
/// path, in a metric and in an Envoy resource as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// What a name may be, in words.
    pub const RULE: &str = "letters, digits, `.`, `_` and `-`, at most 200";

    /// The name, unless it breaks [`Self::RULE`].
    pub fn parse(text: &str) -> Option<Self> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let allowed =
            (1..=200).contains(&text.len()) && text.chars().all(fits) && !text.trim_matches('.').is_empty();
        allowed.then(|| Self(text.into()))
    }

    /// Stands in for a name that is missing or wrong, while the rest of its entity is looked at.
    pub(crate) fn unnamed() -> Self {
        Self("".into())
    }

    /// The fleet of the nodes that no fleet selects.
    pub fn default_fleet() -> Self {
        Self("default".into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which of several entities something applies to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Scope {
    /// Nothing was named, so all.
    #[default]
    All,
    /// These, at least one.
    Only(Vec<Name>),
}

impl Scope {
    /// True when `name` is one of them.
    pub fn includes(&self, name: &Name) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(name),
        }
    }

    /// True when something could be in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Only(names), Self::Only(others)) => names.iter().any(|name| others.contains(name)),
            _ => true,
        }
    }
}
