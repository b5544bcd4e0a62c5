//! Which resources of a type a client asked for.
//!
//! A wildcard has two forms (xDS protocol, "How the client specifies what resources to return"): the legacy
//! one, where listeners or clusters were never named on this stream and the list is empty, and the name `*`.
//!
//! Thousands of Envoys ask for the same thousands of names, so sets of names are shared between streams.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// A set of names and its hash, which does not depend on the order in which they came.
#[derive(Debug, Default)]
struct Names {
    hash: u128,
    names: BTreeSet<Arc<str>>,
    /// The count of the table that it is in.
    count: Arc<AtomicUsize>,
}

impl Drop for Names {
    fn drop(&mut self) {
        self.count.fetch_sub(self.names.len(), Ordering::Relaxed);
    }
}

/// The sets of names that streams hold. Cheap to clone: clones share.
#[derive(Debug, Clone, Default)]
pub struct NameTable {
    sets: Arc<Mutex<HashMap<u128, Weak<Names>>>>,
    count: Arc<AtomicUsize>,
    /// Keys that no client knows: it cannot make two sets of names that pass for one.
    keys: [RandomState; 2],
}

impl NameTable {
    /// How many names the sets hold together.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// True when no stream asks for a name.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn hash(&self, name: &str) -> u128 {
        let [high, low] = self.keys.each_ref().map(|key| u128::from(key.hash_one(name)));
        high << 64 | low
    }

    /// The set with this hash; made only if no stream holds it.
    fn intern(&self, hash: u128, make: impl FnOnce() -> BTreeSet<Arc<str>>) -> Arc<Names> {
        if let Some(names) = self.lock().get(&hash).and_then(Weak::upgrade) {
            return names;
        }
        // Without the lock, since a client may ask for very many. Another may make the same meanwhile.
        let names = Arc::new(Names { hash, names: make(), count: self.count.clone() });
        self.count.fetch_add(names.names.len(), Ordering::Relaxed);
        let mut sets = self.lock();
        if let Some(names) = sets.get(&hash).and_then(Weak::upgrade) {
            return names;
        }
        // Making is rare, so this is the time to forget what nobody holds any more.
        if sets.len() >= 64 && sets.len().is_power_of_two() {
            sets.retain(|_, names| names.strong_count() > 0);
        }
        sets.insert(hash, Arc::downgrade(&names));
        names
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u128, Weak<Names>>> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a client asked for, of one type.
#[derive(Debug, Clone)]
pub struct Subscription {
    wildcard: bool,
    names: Arc<Names>,
    named_once: bool,
    table: NameTable,
}

impl Subscription {
    /// A subscription to nothing yet.
    pub fn new(table: &NameTable) -> Self {
        let names = table.intern(0, BTreeSet::new);
        Self { wildcard: false, names, named_once: false, table: table.clone() }
    }

    /// Replaces what is asked for by the names of a SotW request, and returns those that are new.
    ///
    /// `legacy_wildcard` says whether the type knows the legacy form: Envoy sends an empty list for endpoints
    /// when its last cluster has gone, and wants nothing by it.
    pub fn replace(&mut self, names: &[String], legacy_wildcard: bool) -> Vec<Arc<str>> {
        self.named_once |= !names.is_empty();
        self.wildcard = names.iter().any(|name| name == "*") || (legacy_wildcard && !self.named_once);
        let named: BTreeSet<&str> = names.iter().map(String::as_str).filter(|name| *name != "*").collect();
        let hash = named.iter().fold(0, |all, name| all ^ self.table.hash(name));
        if hash == self.names.hash {
            return Vec::new();
        }
        let new = self.table.intern(hash, || named.iter().map(|name| Arc::from(*name)).collect());
        let added = new.names.difference(&self.names.names).cloned().collect();
        self.names = new;
        added
    }

    /// Applies a delta request, subscriptions first, and returns the names that must be answered: all that are
    /// subscribed to, known or not, and those that a wildcard keeps though they were unsubscribed from (xDS
    /// protocol, "Unsubscribing From Resources").
    pub fn update(
        &mut self,
        subscribe: &[String],
        unsubscribe: &[String],
        legacy_wildcard: bool,
    ) -> Vec<Arc<str>> {
        if legacy_wildcard && !self.named_once && subscribe.is_empty() {
            self.wildcard = true;
        }
        // From now on an empty list means nothing; a wildcard that stands, stands.
        self.named_once = true;
        let mut owed = BTreeSet::new();
        let mut names = Changing { names: &self.names, added: BTreeSet::new(), removed: BTreeSet::new() };
        for name in subscribe {
            if name == "*" {
                self.wildcard = true;
            } else {
                owed.insert(names.add(name));
            }
        }
        for name in unsubscribe {
            if name == "*" {
                self.wildcard = false;
            } else if let Some(name) = names.remove(name) {
                // In the wildcard it still is, or it would be gone without a word.
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

    /// True when the client asked for this resource.
    pub fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.names.contains(name)
    }

    /// True when the client asked for every resource there is.
    pub fn is_wildcard(&self) -> bool {
        self.wildcard
    }
}

/// A set on its way to the next one.
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

    /// The name, if it was in the set.
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
        let hash = changed.fold(self.names.hash, |all, name| all ^ table.hash(name));
        table
            .intern(hash, || self.names.names.difference(&self.removed).chain(&self.added).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn wanted(subscription: &Subscription) -> String {
        let names = ["a", "b", "c"].into_iter().filter(|name| subscription.wants(name));
        names.collect::<Vec<_>>().join(" ")
    }

    /// Feeds SotW requests one after the other, each the names in it, and says what is wanted in the end.
    fn check(legacy_wildcard: bool, requests: &[&str], expected: &str) {
        let mut subscription = Subscription::new(&NameTable::default());
        for request in requests {
            subscription.replace(&words(request), legacy_wildcard);
        }
        assert_eq!(wanted(&subscription), expected, "{requests:?}");
    }

    /// Feeds delta requests, each as `+name -name`, and says what the last one is owed and what is wanted.
    fn check_delta(legacy_wildcard: bool, requests: &[&str], owed: &str, expected: &str) {
        let mut subscription = Subscription::new(&NameTable::default());
        let mut last = Vec::new();
        for request in requests {
            let pick = |sign| {
                words(request).iter().filter_map(|word| word.strip_prefix(sign)).map(str::to_owned).collect()
            };
            let (subscribe, unsubscribe): (Vec<_>, Vec<_>) = (pick('+'), pick('-'));
            last = subscription.update(&subscribe, &unsubscribe, legacy_wildcard);
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
    fn streams_that_ask_for_the_same_share_the_names() {
        let table = NameTable::default();
        let mut subscriptions: Vec<Subscription> = (0..3).map(|_| Subscription::new(&table)).collect();
        subscriptions[0].replace(&words("a b c"), false);
        subscriptions[1].update(&words("c a"), &[], false);
        subscriptions[1].update(&words("b x"), &words("x"), false);
        subscriptions[2].update(&words("b"), &[], false);
        assert!(Arc::ptr_eq(&subscriptions[0].names, &subscriptions[1].names));
        assert!(!Arc::ptr_eq(&subscriptions[0].names, &subscriptions[2].names));
    }
}
