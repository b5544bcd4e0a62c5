//! What a client refused, and the search for the culprit.
//!
//! The client may have dropped the good ones with the bad (Envoy drops all when one does not decode), so what was
//! refused together is offered again in parts, until the bad ones are alone. Those are held back until they change;
//! the client keeps what it had of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::build::snapshot::{Resource, ResourceSet, Version};

/// What a client refused of one type.
#[derive(Debug, Default)]
pub struct Quarantine {
    /// Parts of what was refused together, to be offered one after the other.
    parts: VecDeque<Vec<Arc<str>>>,
    /// What was refused on its own.
    refused: BTreeMap<Arc<str>, Version>,
}

impl Quarantine {
    /// Takes what was refused together: names with the version that was told, none for what was taken away. Returns
    /// which are held back now.
    pub fn take(&mut self, names: &[(Arc<str>, Option<Version>)], error: &str) -> Vec<String> {
        match names {
            [] => Vec::new(),
            [(name, version)] => {
                self.refused.extend(version.map(|version| (name.clone(), version)));
                vec![name.to_string()]
            }
            _ => {
                let names = names.iter().map(|(name, _)| name.clone()).collect();
                self.parts.extend(suspects_apart(names, error));
                Vec::new()
            }
        }
    }

    /// True when nothing is held back and nothing looked for.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.refused.is_empty()
    }

    /// True while parts are to be offered.
    pub fn is_searching(&self) -> bool {
        !self.parts.is_empty()
    }

    /// Takes out the part that is to be offered next.
    pub fn next_part(&mut self) -> Option<Vec<Arc<str>>> {
        self.parts.pop_front()
    }

    /// The names of the parts.
    pub fn suspects(&self) -> BTreeSet<&str> {
        self.parts.iter().flatten().map(|name| &**name).collect()
    }

    /// True when this was refused, as it is.
    pub fn holds(&self, own: &Resource) -> bool {
        self.refused.get(&own.name).is_some_and(|version| *version == own.version)
    }

    /// True when what this leads to was refused; said of the clusters.
    pub fn holds_what_is_led_to(&self, own: &Resource) -> bool {
        !self.refused.is_empty() && own.clusters.iter().any(|name| self.refused.contains_key(name))
    }

    /// The client is not interested any more.
    pub fn forget(&mut self, name: &str) {
        self.refused.remove(name);
    }

    /// What was refused and has changed since may be offered again.
    pub fn forget_changed(&mut self, target: &ResourceSet) {
        self.refused.retain(|name, version| target.get(name).is_some_and(|own| own.version == *version));
    }
}

/// What was refused in two parts: those that the client's words mention and the others, else halves. The words
/// are a hint only; whatever they say, the parts are offered on their own.
fn suspects_apart(names: Vec<Arc<str>>, error: &str) -> [Vec<Arc<str>>; 2] {
    let is_apart = |c: char| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '_' | '-' | '/');
    let words: BTreeSet<&str> = error.split(is_apart).collect();
    let (suspects, others): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| words.contains(&**name));
    match (suspects.len(), others.len()) {
        (0, many) => {
            let mut first = others;
            let second = first.split_off(many / 2);
            [first, second]
        }
        (many, 0) => {
            let mut first = suspects;
            let second = first.split_off(many / 2);
            [first, second]
        }
        _ => [others, suspects],
    }
}
