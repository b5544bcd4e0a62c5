//! Subscriptions: the resources of a type that a client asked for.
//!
//! A wildcard has two forms (xDS protocol, "How the client specifies what resources to return"): the legacy
//! form, an empty list on a stream that has never named a resource of the type, for types that have it; and
//! the name `*`.
//!
//! Thousands of Envoys ask for the same thousands of names, so sets of names are shared between streams.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::build::snapshot::resource::Version;
use crate::build::snapshot::set::ResourceSet;
use crate::xds::wire;

/// A set of names and its hash, which does not depend on their order.
#[derive(Debug, Default)]
struct Names {
    hash: u128,
    names: BTreeSet<Arc<str>>,
    /// Comparisons with the last few sets of resources.
    fits: Mutex<Vec<(Version, Arc<Fit>)>>,
    /// Total number of names in the table, shared with it.
    count: Arc<AtomicUsize>,
}

/// Number of [`Fit`] results kept for a set of names. Several, since types such as clusters and endpoints
/// often have the same names.
const KEPT_FITS: usize = 4;

/// Result of a comparison of names with a set of resources.
#[derive(Debug)]
struct Fit {
    /// True if every resource is named.
    covers: bool,
    /// Names without a resource.
    unmet: Arc<[Arc<str>]>,
}

impl Names {
    /// Compares the names with a set of resources. The result is kept, since many streams ask with the same
    /// names and the same set in turn.
    fn fit(&self, set: &ResourceSet) -> Arc<Fit> {
        let mut fits = self.fits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, fit)) = fits.iter().find(|(version, _)| *version == set.version()) {
            return fit.clone();
        }
        let unmet: Arc<[_]> = self.names.iter().filter(|name| set.get(name).is_none()).cloned().collect();
        let fit = Arc::new(Fit { covers: self.names.len() - unmet.len() == set.len(), unmet });
        fits.truncate(KEPT_FITS - 1);
        fits.insert(0, (set.version(), fit.clone()));
        fit
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.count.fetch_sub(self.names.len(), Ordering::Relaxed);
    }
}

/// Sets of names that streams hold. Cheap to clone: clones share.
#[derive(Debug, Clone, Default)]
pub struct NameTable {
    sets: Arc<Mutex<Sets>>,
    count: Arc<AtomicUsize>,
    /// Random hash keys, unknown to clients, so that no client can make two sets of names with the same hash.
    keys: [RandomState; 2],
}

#[derive(Debug, Default)]
struct Sets {
    /// Sets by their hash.
    named: HashMap<u128, Weak<Names>>,
    /// Sets by the hash of the encoded list, with true if the list has a `*`: an identical list need not be
    /// decoded again.
    encoded: HashMap<u128, (Weak<Names>, bool)>,
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
    fn read(&self, list: &wire::Names) -> (Arc<Names>, bool) {
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
        if is_time_to_tidy(sets.encoded.len()) {
            sets.encoded.retain(|_, (names, _)| names.strong_count() > 0);
        }
        sets.encoded.insert(encoded, (Arc::downgrade(&names), star));
        (names, star)
    }

    /// Returns the set with this hash; made only if no stream holds it.
    fn intern(&self, hash: u128, make: impl FnOnce() -> BTreeSet<Arc<str>>) -> Arc<Names> {
        if let Some(names) = self.lock().named.get(&hash).and_then(Weak::upgrade) {
            return names;
        }
        // Made without the lock, since a client may ask for very many names. Another stream may make the same
        // set meanwhile.
        let names = Names { hash, names: make(), fits: Mutex::default(), count: self.count.clone() };
        let names = Arc::new(names);
        self.count.fetch_add(names.names.len(), Ordering::Relaxed);
        let mut sets = self.lock();
        if let Some(names) = sets.named.get(&hash).and_then(Weak::upgrade) {
            return names;
        }
        if is_time_to_tidy(sets.named.len()) {
            sets.named.retain(|_, names| names.strong_count() > 0);
        }
        sets.named.insert(hash, Arc::downgrade(&names));
        names
    }

    fn lock(&self) -> MutexGuard<'_, Sets> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// True at sizes at which sets that no stream holds any more are dropped: powers of two from 64 on, so that
/// the cost per insertion stays constant.
fn is_time_to_tidy(sets: usize) -> bool {
    sets >= 64 && sets.is_power_of_two()
}

/// Resources of one type that a client asked for.
#[derive(Debug, Clone)]
pub struct Subscription {
    wildcard: bool,
    names: Arc<Names>,
    named_once: bool,
    table: NameTable,
}

impl Subscription {
    /// Creates a subscription to nothing.
    pub fn new(table: &NameTable) -> Self {
        let names = table.intern(0, BTreeSet::new);
        Self { wildcard: false, names, named_once: false, table: table.clone() }
    }

    /// Replaces the subscription by the names of a SotW request, and returns the new ones.
    ///
    /// `legacy_wildcard` is true if the type has the legacy form of the wildcard. Endpoints do not: Envoy
    /// sends an empty list for them when its last cluster is gone, and wants nothing.
    pub fn replace(&mut self, list: &wire::Names, legacy_wildcard: bool) -> Vec<Arc<str>> {
        self.named_once |= !list.is_empty();
        let (names, star) = self.table.read(list);
        self.wildcard = star || (legacy_wildcard && !self.named_once);
        let old = std::mem::replace(&mut self.names, names);
        if Arc::ptr_eq(&old, &self.names) {
            return Vec::new();
        }
        self.names.names.difference(&old.names).cloned().collect()
    }

    /// Applies the first delta request of a stream. All subscribed names must be answered then.
    pub fn begin(&mut self, subscribe: &wire::Names, unsubscribe: &wire::Names, legacy_wildcard: bool) {
        self.replace(subscribe, legacy_wildcard);
        self.update(&wire::Names::default(), unsubscribe);
    }

    /// Applies a delta request, subscriptions first, and returns the names that must be answered: names in
    /// `subscribe`, known or not, that are not in `unsubscribe` too; and names in `unsubscribe` that a
    /// wildcard still covers (xDS protocol, "Unsubscribing From Resources").
    ///
    /// An empty list does not create a wildcard any more, but an existing wildcard stays.
    pub fn update(&mut self, subscribe: &wire::Names, unsubscribe: &wire::Names) -> Vec<Arc<str>> {
        let mut owed = BTreeSet::new();
        let mut names = Changing { names: &self.names, added: BTreeSet::new(), removed: BTreeSet::new() };
        for name in subscribe.iter() {
            if name == "*" {
                self.wildcard = true;
            } else {
                owed.insert(names.add(name));
            }
        }
        for name in unsubscribe.iter() {
            if name == "*" {
                self.wildcard = false;
            } else if let Some(name) = names.remove(name) {
                // The wildcard still covers the name; without an answer the client would lose the resource.
                if self.wildcard {
                    owed.insert(name)
                } else {
                    owed.remove(&name)
                };
            }
        }
        self.names = names.finish(&self.table);
        owed.into_iter().collect()
    }

    /// True if the client asked for this resource.
    pub fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.names.contains(name)
    }

    /// True if the client asked for all resources.
    pub fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// True if the client asked for every resource of `set`.
    pub fn covers(&self, set: &ResourceSet) -> bool {
        self.wildcard || self.names.fit(set).covers
    }

    /// Returns the names that the client asked for and `set` lacks.
    pub fn unmet(&self, set: &ResourceSet) -> Arc<[Arc<str>]> {
        self.names.fit(set).unmet.clone()
    }
}

/// Changes to a set of names, collected before the new set is made.
struct Changing<'a> {
    names: &'a Arc<Names>,
    added: BTreeSet<Arc<str>>,
    removed: BTreeSet<Arc<str>>,
}

impl Changing<'_> {
    fn add(&mut self, name: &str) -> Arc<str> {
        self.removed.remove(name);
        if let Some(name) = self.names.names.get(name).or_else(|| self.added.get(name)) {
            return name.clone();
        }
        let name: Arc<str> = name.into();
        self.added.insert(name.clone());
        name
    }

    /// Removes a name and returns it, if it was in the set.
    fn remove(&mut self, name: &str) -> Option<Arc<str>> {
        if let Some(name) = self.added.take(name) {
            return Some(name);
        }
        let name = self.names.names.get(name)?.clone();
        self.removed.insert(name.clone()).then_some(name)
    }

    fn finish(self, table: &NameTable) -> Arc<Names> {
        if self.added.is_empty() && self.removed.is_empty() {
            return self.names.clone();
        }
        let changed = self.added.iter().chain(&self.removed);
        let hash = changed.fold(self.names.hash, |all, name| all ^ table.hash(name.as_bytes()));
        table
            .intern(hash, || self.names.names.difference(&self.removed).chain(&self.added).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envoy::ResourceType;
    use crate::xds::words::snapshot;

    fn words(text: &str) -> wire::Names {
        text.split_whitespace().collect()
    }

    fn wanted(subscription: &Subscription) -> String {
        let names = ["a", "b", "c"].into_iter().filter(|name| subscription.wants(name));
        names.collect::<Vec<_>>().join(" ")
    }

    /// Applies SotW requests, each a list of names, and compares the names that are wanted in the end.
    fn check(legacy_wildcard: bool, requests: &[&str], expected: &str) {
        let mut subscription = Subscription::new(&NameTable::default());
        for request in requests {
            subscription.replace(&words(request), legacy_wildcard);
        }
        assert_eq!(wanted(&subscription), expected, "{requests:?}");
    }

    /// Applies delta requests, each as `+name -name`, and compares the names that the last one must be
    /// answered with, and the names that are wanted in the end.
    fn check_delta(legacy_wildcard: bool, requests: &[&str], owed: &str, expected: &str) {
        let mut subscription = Subscription::new(&NameTable::default());
        let mut last = Vec::new();
        for (at, request) in requests.iter().enumerate() {
            let pick = |sign| request.split_whitespace().filter_map(|word| word.strip_prefix(sign)).collect();
            let (subscribe, unsubscribe): (wire::Names, wire::Names) = (pick('+'), pick('-'));
            if at == 0 {
                subscription.begin(&subscribe, &unsubscribe, legacy_wildcard);
                last = subscription.names.names.iter().cloned().collect();
            } else {
                last = subscription.update(&subscribe, &unsubscribe);
            }
        }
        assert_eq!(last.join(" "), owed, "{requests:?}");
        assert_eq!(wanted(&subscription), expected, "{requests:?}");
    }

    #[test]
    fn rule_13_an_empty_first_request_for_clusters_or_listeners_means_all() {
        check(true, &[""], "a b c");
        check(true, &["", ""], "a b c");
        check(false, &[""], "");
        check_delta(true, &[""], "", "a b c");
        check_delta(false, &[""], "", "");
    }

    #[test]
    fn rule_13_after_a_name_an_empty_list_means_nothing() {
        check(true, &["a", ""], "");
        check(true, &["*", ""], "");
        check_delta(true, &["+a", "", "-a"], "", "");
    }

    #[test]
    fn rule_14_the_star_may_stand_with_names_and_may_go() {
        check(true, &["*"], "a b c");
        check(false, &["* a"], "a b c");
        check(true, &["* a", "a"], "a");
        check_delta(true, &["+* +a", "-*"], "", "a");
        check_delta(true, &["", "+a"], "a", "a b c");
    }

    #[test]
    fn rule_15_subscriptions_come_before_unsubscriptions() {
        check_delta(true, &["+* -*"], "", "");
        check_delta(false, &["+a +b -a"], "b", "b");
    }

    #[test]
    fn rule_16_what_a_wildcard_keeps_is_owed_when_its_name_goes() {
        check_delta(true, &["+* +a", "-a"], "a", "a b c");
    }

    #[test]
    fn rule_17_unsubscribing_from_what_was_not_asked_for_is_ignored() {
        check_delta(false, &["+a", "-b"], "", "a");
        check_delta(true, &["", "-b"], "", "a b c");
    }

    #[test]
    fn rule_19_a_name_is_owed_each_time_it_is_subscribed_to() {
        check_delta(false, &["+a +b", "+a"], "a", "a b");
    }

    #[test]
    fn only_new_names_are_told() {
        let mut subscription = Subscription::new(&NameTable::default());
        let mut added = |text: &str| subscription.replace(&words(text), false).join(" ");
        assert_eq!(added("a b"), "a b");
        assert_eq!(added("b c"), "c");
        assert_eq!(added("a"), "a", "it left and returned");
        assert_eq!(added("a a"), "");
    }

    #[test]
    fn names_are_counted_while_they_are_asked_for() {
        let table = NameTable::default();
        let mut first = Subscription::new(&table);
        let mut second = Subscription::new(&table);
        first.replace(&words("a b c"), false);
        second.replace(&words("a b c"), false);
        assert_eq!(table.len(), 3, "they share");
        second.replace(&words("x"), false);
        assert_eq!(table.len(), 4);
        drop(first);
        assert_eq!(table.len(), 1);
        drop(second);
        assert!(table.is_empty());
    }

    #[test]
    fn names_and_resources_fit_or_not() {
        let set = |text: &str| snapshot(text).set(ResourceType::Endpoints).clone();
        let check = |names: &str, resources: &str, covers: bool, unmet: &str| {
            let mut subscription = Subscription::new(&NameTable::default());
            subscription.replace(&words(names), false);
            let set = set(resources);
            for _ in 0..2 {
                assert_eq!(subscription.covers(&set), covers, "{names} of {resources}");
                assert_eq!(subscription.unmet(&set).join(" "), unmet, "{names} of {resources}");
            }
        };
        check("", "", true, "");
        check("", "eds:a", false, "");
        check("a", "", true, "a");
        check("a b", "eds:a eds:b", true, "");
        check("a b c", "eds:a eds:b", true, "c");
        check("a", "eds:a eds:b", false, "");
        check("a c", "eds:a eds:b", false, "c");
        check("* c", "eds:a eds:b", true, "c");
    }

    #[test]
    fn what_is_sent_again_as_it_was_means_the_same() {
        let table = NameTable::default();
        let ask = |text: &str| {
            let mut subscription = Subscription::new(&table);
            subscription.replace(&words(text), false);
            (wanted(&subscription), subscription)
        };
        let kept: Vec<_> = ["a b", "b a", "a b a", "* a b", "a a"].map(ask).into();
        for (text, (first, _)) in ["a b", "b a", "a b a", "* a b", "a a"].iter().zip(&kept) {
            assert_eq!(ask(text).0, *first, "{text}");
        }
        assert!(kept[1..4].iter().all(|(_, it)| Arc::ptr_eq(&it.names, &kept[0].1.names)));
    }

    #[test]
    fn streams_that_ask_for_the_same_share_the_names() {
        let table = NameTable::default();
        let mut subscriptions: Vec<Subscription> = (0..3).map(|_| Subscription::new(&table)).collect();
        subscriptions[0].replace(&words("a b c"), false);
        subscriptions[1].begin(&words("c a"), &words(""), false);
        subscriptions[1].update(&words("b x"), &words("x"));
        subscriptions[2].begin(&words("b"), &words(""), false);
        assert!(Arc::ptr_eq(&subscriptions[0].names, &subscriptions[1].names));
        assert!(!Arc::ptr_eq(&subscriptions[0].names, &subscriptions[2].names));
    }
}
