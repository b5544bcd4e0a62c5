//! Which resources of a type a client asked for.
//!
//! SotW clients name all they want in every request. A wildcard has two forms (xDS protocol, "How the client
//! specifies what resources to return"): the legacy one, where listeners or clusters were never named on this
//! stream and the list is empty, and the name `*`.

use std::collections::BTreeSet;

/// What a client asked for, of one type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subscription {
    wildcard: bool,
    names: BTreeSet<String>,
    named_once: bool,
}

impl Subscription {
    /// Replaces what is asked for by the names of a SotW request, and returns those that are new.
    ///
    /// `legacy_wildcard` says whether the type knows the legacy form: Envoy sends an empty list for endpoints
    /// when its last cluster has gone, and wants nothing by it.
    pub fn replace(&mut self, names: Vec<String>, legacy_wildcard: bool) -> Vec<String> {
        self.named_once |= !names.is_empty();
        let mut names: BTreeSet<String> = names.into_iter().collect();
        self.wildcard = names.remove("*") || (legacy_wildcard && !self.named_once);
        let added = names.difference(&self.names).cloned().collect();
        self.names = names;
        added
    }

    /// True when the client asked for this resource.
    pub fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// True when the client asked for every resource there is.
    pub fn is_wildcard(&self) -> bool {
        self.wildcard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds requests one after the other, each the names in it, and says what is wanted in the end.
    fn check(legacy_wildcard: bool, requests: &[&str], wanted: &str) {
        let mut subscription = Subscription::default();
        for request in requests {
            subscription.replace(request.split_whitespace().map(str::to_owned).collect(), legacy_wildcard);
        }
        let names = ["a", "b", "c"].into_iter().filter(|name| subscription.wants(name));
        assert_eq!(names.collect::<Vec<_>>().join(" "), wanted, "{requests:?}");
    }

    #[test]
    fn an_empty_first_request_for_clusters_or_listeners_means_all() {
        check(true, &[""], "a b c");
        check(true, &["", ""], "a b c");
        check(false, &[""], "");
    }

    #[test]
    fn after_a_name_an_empty_list_means_nothing() {
        check(true, &["a", ""], "");
        check(true, &["*", ""], "");
    }

    #[test]
    fn the_star_may_stand_with_names_and_may_go() {
        check(true, &["*"], "a b c");
        check(false, &["* a"], "a b c");
        check(true, &["* a", "a"], "a");
    }

    #[test]
    fn only_new_names_are_told() {
        let mut subscription = Subscription::default();
        let names = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(subscription.replace(names("a b"), false), names("a b"));
        assert_eq!(subscription.replace(names("b c"), false), names("c"));
        assert_eq!(subscription.replace(names("a"), false), names("a"), "it left and returned");
    }
}
