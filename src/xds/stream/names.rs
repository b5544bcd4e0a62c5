//! Table of the sets of names that clients ask for.
//!
//! Thousands of Envoys ask for the same thousands of names, so streams share the sets.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::build::snapshot::resource::Version;
use crate::build::snapshot::set::ResourceSet;
use crate::xds::wire::request::NameList;

/// A set of names and its hash, which does not depend on their order.
#[derive(Debug, Default)]
pub struct NameSet {
    hash: u128,
    pub(super) names: BTreeSet<Arc<str>>,
    /// Comparisons with the last few sets of resources.
    matches: Mutex<Vec<(Version, Arc<SetMatch>)>>,
    /// Total number of names in the table, shared with it.
    count: Arc<AtomicUsize>,
}

/// Number of [`SetMatch`] results kept for a set of names. Several, since types such as clusters and
/// endpoints often have the same names.
const KEPT_MATCHES: usize = 4;

/// Result of a comparison of names with a set of resources.
#[derive(Debug)]
pub(super) struct SetMatch {
    /// True if every resource is named.
    pub(super) covers: bool,
    /// Names without a resource.
    pub(super) missing: Arc<[Arc<str>]>,
}

impl NameSet {
    /// Returns the number of names.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// True if there are no names.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Compares the names with a set of resources. The result is kept, since many streams ask with the same
    /// names and the same set in turn.
    pub(super) fn set_match(&self, set: &ResourceSet) -> Arc<SetMatch> {
        let mut matches = self.matches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, set_match)) = matches.iter().find(|(version, _)| *version == set.version()) {
            return set_match.clone();
        }
        let missing: Arc<[_]> = self.names.iter().filter(|name| set.get(name).is_none()).cloned().collect();
        let set_match = Arc::new(SetMatch { covers: self.names.len() - missing.len() == set.len(), missing });
        matches.truncate(KEPT_MATCHES - 1);
        matches.insert(0, (set.version(), set_match.clone()));
        set_match
    }
}

impl Drop for NameSet {
    fn drop(&mut self) {
        self.count.fetch_sub(self.names.len(), Ordering::Relaxed);
    }
}

/// Sets of names that streams hold. Cheap to clone: clones share.
#[derive(Debug, Clone, Default)]
pub struct NameTable {
    sets: Arc<Mutex<NameSets>>,
    count: Arc<AtomicUsize>,
    /// Random hash keys, unknown to clients, so that no client can make two sets of names with the same hash.
    keys: [RandomState; 2],
}

#[derive(Debug, Default)]
struct NameSets {
    /// Sets by their hash.
    named: HashMap<u128, Weak<NameSet>>,
    /// Sets by the hash of the encoded list, with true if the list has a `*`: an identical list need not be
    /// decoded again.
    encoded: HashMap<u128, (Weak<NameSet>, bool)>,
}

impl NameTable {
    /// Returns the total number of names in the sets.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// True if no stream asks for a name.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn hash(&self, text: &[u8]) -> u128 {
        let [high, low] = self.keys.each_ref().map(|key| u128::from(key.hash_one(text)));
        high << 64 | low
    }

    /// Returns the names in a list, and true if `*` is among them.
    pub(crate) fn read(&self, list: &NameList) -> (Arc<NameSet>, bool) {
        let encoded = self.hash(list.encoded());
        let known =
            self.lock().encoded.get(&encoded).and_then(|(names, star)| Some((names.upgrade()?, *star)));
        if let Some(known) = known {
            return known;
        }
        let named: BTreeSet<&str> = list.iter().filter(|name| *name != "*").collect();
        let star = list.iter().any(|name| name == "*");
        let hash = named.iter().fold(0, |all, name| all ^ self.hash(name.as_bytes()));
        let names = self.intern(hash, || named.iter().map(|name| Arc::from(*name)).collect());
        let mut sets = self.lock();
        if is_time_to_collect(sets.encoded.len()) {
            sets.encoded.retain(|_, (names, _)| names.strong_count() > 0);
        }
        sets.encoded.insert(encoded, (Arc::downgrade(&names), star));
        (names, star)
    }

    /// Returns the set with this hash; created only if no stream holds it.
    pub(super) fn intern(&self, hash: u128, make: impl FnOnce() -> BTreeSet<Arc<str>>) -> Arc<NameSet> {
        if let Some(names) = self.lock().named.get(&hash).and_then(Weak::upgrade) {
            return names;
        }
        // Created without the lock, since a client may ask for very many names. Another stream may make the
        // same set meanwhile.
        let names = NameSet { hash, names: make(), matches: Mutex::default(), count: self.count.clone() };
        let names = Arc::new(names);
        self.count.fetch_add(names.names.len(), Ordering::Relaxed);
        let mut sets = self.lock();
        if let Some(names) = sets.named.get(&hash).and_then(Weak::upgrade) {
            return names;
        }
        if is_time_to_collect(sets.named.len()) {
            sets.named.retain(|_, names| names.strong_count() > 0);
        }
        sets.named.insert(hash, Arc::downgrade(&names));
        names
    }

    fn lock(&self) -> MutexGuard<'_, NameSets> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// True at sizes at which sets that no stream holds any more are dropped: powers of two from 64 on, so that
/// the cost per insertion stays constant.
fn is_time_to_collect(sets: usize) -> bool {
    sets >= 64 && sets.is_power_of_two()
}

/// Changes to a set of names, collected before the new set is made.
pub(super) struct NameSetChange<'a> {
    names: &'a Arc<NameSet>,
    added: BTreeSet<Arc<str>>,
    removed: BTreeSet<Arc<str>>,
}

impl<'a> NameSetChange<'a> {
    /// Starts with this set and no changes.
    pub(super) fn new(names: &'a Arc<NameSet>) -> Self {
        Self { names, added: BTreeSet::new(), removed: BTreeSet::new() }
    }

    pub(super) fn add(&mut self, name: &str) -> Arc<str> {
        self.removed.remove(name);
        if let Some(name) = self.names.names.get(name).or_else(|| self.added.get(name)) {
            return name.clone();
        }
        let name: Arc<str> = name.into();
        self.added.insert(name.clone());
        name
    }

    /// Removes a name and returns it, if it was in the set.
    pub(super) fn remove(&mut self, name: &str) -> Option<Arc<str>> {
        if let Some(name) = self.added.take(name) {
            return Some(name);
        }
        let name = self.names.names.get(name)?.clone();
        self.removed.insert(name.clone()).then_some(name)
    }

    pub(super) fn finish(self, table: &NameTable) -> Arc<NameSet> {
        if self.added.is_empty() && self.removed.is_empty() {
            return self.names.clone();
        }
        let changed = self.added.iter().chain(&self.removed);
        let hash = changed.fold(self.names.hash, |all, name| all ^ table.hash(name.as_bytes()));
        table
            .intern(hash, || self.names.names.difference(&self.removed).chain(&self.added).cloned().collect())
    }
}
