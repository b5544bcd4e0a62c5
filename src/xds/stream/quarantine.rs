//! Refused resources, and the search for the bad ones among them.
//!
//! The client may have dropped the good resources with the bad (Envoy drops a whole response if one resource
//! does not decode). So resources that were refused together are offered again in batches, until the bad ones
//! are alone. Those are held back until they change; the client keeps its earlier version of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::build::snapshot::{Resource, ResourceSet, Version};

/// Refused resources of one type, for one client.
#[derive(Debug, Default)]
pub struct Quarantine {
    /// Batches of a refused response, to be offered one after the other.
    batches: VecDeque<Vec<Arc<str>>>,
    /// Resources that were refused on their own, with the refused version.
    refused: BTreeMap<Arc<str>, Version>,
}

impl Quarantine {
    /// Records that these names were refused together, each with the version that was sent, or none for a
    /// removed resource. Returns the names that are held back from now on.
    pub fn record(&mut self, names: &[(Arc<str>, Option<Version>)], error: &str) -> Vec<String> {
        match names {
            [] => Vec::new(),
            [(name, version)] => {
                self.refused.extend(version.map(|version| (name.clone(), version)));
                vec![name.to_string()]
            }
            _ => {
                let names = names.iter().map(|(name, _)| name.clone()).collect();
                self.batches.extend(split_suspects(names, error));
                Vec::new()
            }
        }
    }

    /// True if no resource is held back and no search is under way.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.refused.is_empty()
    }

    /// True while batches are left to offer.
    pub fn is_searching(&self) -> bool {
        !self.batches.is_empty()
    }

    /// Takes out the batch to offer next.
    pub fn next_batch(&mut self) -> Option<Vec<Arc<str>>> {
        self.batches.pop_front()
    }

    /// Returns the names in all batches.
    pub fn suspects(&self) -> BTreeSet<&str> {
        self.batches.iter().flatten().map(|name| &**name).collect()
    }

    /// True if this version of the resource was refused on its own.
    pub fn holds(&self, own: &Resource) -> bool {
        self.refused.get(&own.name).is_some_and(|version| *version == own.version)
    }

    /// True if the resource sends requests to a cluster that was refused on its own; for the quarantine of
    /// the clusters only.
    pub fn holds_target_of(&self, own: &Resource) -> bool {
        !self.refused.is_empty() && own.clusters.iter().any(|name| self.refused.contains_key(name))
    }

    /// Drops a name that the client is no longer subscribed to.
    pub fn forget(&mut self, name: &str) {
        self.refused.remove(name);
    }

    /// Drops resources that have changed since they were refused, so that they are offered again.
    pub fn forget_changed(&mut self, target: &ResourceSet) {
        self.refused.retain(|name, version| target.get(name).is_some_and(|own| own.version == *version));
    }
}

/// Splits a refused response in two: the names that occur in the error text and the others; if one of these
/// is empty, two halves. The error text is a hint only: both are offered in any case.
fn split_suspects(names: Vec<Arc<str>>, error: &str) -> [Vec<Arc<str>>; 2] {
    let is_separator = |c: char| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '_' | '-' | '/');
    let words: BTreeSet<&str> = error.split(is_separator).collect();
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
