//! Names of entities.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Name of an entity: letters, digits, `.`, `_` and `-`, at most 200 of them, so that it needs no escaping in
/// a path, in a metric or in an Envoy resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// Rule for names, in words.
    pub const RULE: &str = "letters, digits, `.`, `_` and `-`, at most 200";

    /// Returns the name, unless it breaks [`Self::RULE`].
    pub fn parse(text: &str) -> Option<Self> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let allowed =
            (1..=200).contains(&text.len()) && text.chars().all(fits) && !text.trim_matches('.').is_empty();
        allowed.then(|| Self(text.into()))
    }

    /// Returns a placeholder for a missing or invalid name, so that the rest of its entity can be checked.
    pub(crate) fn unnamed() -> Self {
        Self("".into())
    }

    /// Returns the name of the fleet of nodes that no declared fleet selects.
    pub fn default_fleet() -> Self {
        Self("default".into())
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom(format!("`{text}` is not a name")))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Set of entities that something applies to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Scope {
    /// All entities, because none was named.
    #[default]
    All,
    /// Named entities only.
    Only(Vec<Name>),
}

impl Scope {
    /// True if the scope includes `name`.
    pub fn includes(&self, name: &Name) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(name),
        }
    }

    /// True if some entity could be in both scopes.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Only(names), Self::Only(others)) => names.iter().any(|name| others.contains(name)),
            _ => true,
        }
    }
}
