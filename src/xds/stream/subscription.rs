//! Subscriptions: the resources of a type that a client asked for.
//!
//! A wildcard has two forms (xDS protocol, "How the client specifies what resources to return"): the legacy
//! form, an empty list on a stream that has never named a resource of the type, for types that have it; and
//! the name `*`.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::build::snapshot::set::ResourceSet;
use crate::xds::stream::names::{NameSet, NameSetChange, NameTable};
use crate::xds::wire::request::NameList;

/// Resources of one type that a client asked for.
#[derive(Debug, Clone)]
pub struct TypeSubscription {
    wildcard: bool,
    names: Arc<NameSet>,
    named_once: bool,
    table: NameTable,
}

impl TypeSubscription {
    /// Creates a subscription to nothing.
    pub fn new(table: &NameTable) -> Self {
        let names = table.intern(0, BTreeSet::new);
        Self { wildcard: false, names, named_once: false, table: table.clone() }
    }

    /// Replaces the subscription by the names of a SotW request, and returns the new ones.
    ///
    /// `legacy_wildcard` is true if the type has the legacy form of the wildcard. Endpoints do not: Envoy
    /// sends an empty list for them when its last cluster is gone, and wants nothing.
    pub fn replace(&mut self, list: &NameList, legacy_wildcard: bool) -> Vec<Arc<str>> {
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
    pub fn begin(&mut self, subscribe: &NameList, unsubscribe: &NameList, legacy_wildcard: bool) {
        self.replace(subscribe, legacy_wildcard);
        self.update(&NameList::default(), unsubscribe);
    }

    /// Applies a delta request, subscriptions first, and returns the names that must be answered: names in
    /// `subscribe`, known or not, that are not in `unsubscribe` too; and names in `unsubscribe` that a
    /// wildcard still covers (xDS protocol, "Unsubscribing From Resources").
    ///
    /// An empty list does not create a wildcard any more, but an existing wildcard stays.
    pub fn update(&mut self, subscribe: &NameList, unsubscribe: &NameList) -> Vec<Arc<str>> {
        let mut owed = BTreeSet::new();
        let mut names = NameSetChange::new(&self.names);
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

    /// Returns the names that the client asked for.
    pub(super) fn names(&self) -> &Arc<NameSet> {
        &self.names
    }

    /// True if the client asked for every resource of `set`.
    pub fn covers(&self, set: &ResourceSet) -> bool {
        self.wildcard || self.names.set_match(set).covers
    }

    /// Returns the names that the client asked for and `set` lacks.
    pub fn missing(&self, set: &ResourceSet) -> Arc<[Arc<str>]> {
        self.names.set_match(set).missing.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envoy::ResourceType;
    use crate::xds::stream::testkit::snapshot;

    fn words(text: &str) -> NameList {
        text.split_whitespace().collect()
    }

    fn wanted(subscription: &TypeSubscription) -> String {
        let names = ["a", "b", "c"].into_iter().filter(|name| subscription.wants(name));
        names.collect::<Vec<_>>().join(" ")
    }

    /// Applies SotW requests, each a list of names, and compares the names that are wanted in the end.
    fn check(legacy_wildcard: bool, requests: &[&str], expected: &str) {
        let mut subscription = TypeSubscription::new(&NameTable::default());
        for request in requests {
            subscription.replace(&words(request), legacy_wildcard);
        }
        assert_eq!(wanted(&subscription), expected, "{requests:?}");
    }

    /// Applies delta requests, each as `+name -name`, and compares the names that the last one must be
    /// answered with, and the names that are wanted in the end.
    fn check_delta(legacy_wildcard: bool, requests: &[&str], owed: &str, expected: &str) {
        let mut subscription = TypeSubscription::new(&NameTable::default());
        let mut last = Vec::new();
        for (at, request) in requests.iter().enumerate() {
            let pick = |sign| request.split_whitespace().filter_map(|word| word.strip_prefix(sign)).collect();
            let (subscribe, unsubscribe): (NameList, NameList) = (pick('+'), pick('-'));
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
    fn only_new_names_are_returned() {
        let mut subscription = TypeSubscription::new(&NameTable::default());
        let mut added = |text: &str| subscription.replace(&words(text), false).join(" ");
        assert_eq!(added("a b"), "a b");
        assert_eq!(added("b c"), "c");
        assert_eq!(added("a"), "a", "it left and returned");
        assert_eq!(added("a a"), "");
    }

    #[test]
    fn names_are_counted_while_they_are_asked_for() {
        let table = NameTable::default();
        let mut first = TypeSubscription::new(&table);
        let mut second = TypeSubscription::new(&table);
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
        let check = |names: &str, resources: &str, covers: bool, missing: &str| {
            let mut subscription = TypeSubscription::new(&NameTable::default());
            subscription.replace(&words(names), false);
            let set = set(resources);
            for _ in 0..2 {
                assert_eq!(subscription.covers(&set), covers, "{names} of {resources}");
                assert_eq!(subscription.missing(&set).join(" "), missing, "{names} of {resources}");
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
            let mut subscription = TypeSubscription::new(&table);
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
        let mut subscriptions: Vec<TypeSubscription> =
            (0..3).map(|_| TypeSubscription::new(&table)).collect();
        subscriptions[0].replace(&words("a b c"), false);
        subscriptions[1].begin(&words("c a"), &words(""), false);
        subscriptions[1].update(&words("b x"), &words("x"));
        subscriptions[2].begin(&words("b"), &words(""), false);
        assert!(Arc::ptr_eq(&subscriptions[0].names, &subscriptions[1].names));
        assert!(!Arc::ptr_eq(&subscriptions[0].names, &subscriptions[2].names));
    }
}
