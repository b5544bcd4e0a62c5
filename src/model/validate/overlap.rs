//! Index of what exists once in a scope, to find the first that overlaps another without comparing all pairs.

use std::collections::HashMap;
use std::hash::Hash;

use crate::model::name::{Name, Scope};

/// Entities by key and scope: entities of one key must not have a name in common.
#[derive(Debug)]
pub(super) struct ScopeIndex<K> {
    /// First entity of a key, whatever its scope.
    any: HashMap<K, usize>,
    /// First entity of a key that applies to all names.
    unscoped: HashMap<K, usize>,
    /// First entity of a key that applies to a name.
    named: HashMap<(K, Name), usize>,
}

impl<K> Default for ScopeIndex<K> {
    fn default() -> Self {
        Self { any: HashMap::new(), unscoped: HashMap::new(), named: HashMap::new() }
    }
}

impl<K: Eq + Hash + Clone> ScopeIndex<K> {
    /// Returns the first entity of the key whose scope overlaps this one.
    pub(super) fn first(&self, key: &K, scope: &Scope) -> Option<usize> {
        let Scope::Only(names) = scope else { return self.any.get(key).copied() };
        let named = names.iter().filter_map(|name| self.named.get(&(key.clone(), name.clone())));
        named.chain(self.unscoped.get(key).filter(|_| !names.is_empty())).copied().min()
    }

    /// Adds an entity; the numbers of entities ascend.
    pub(super) fn insert(&mut self, key: K, scope: &Scope, entity: usize) {
        match scope {
            Scope::All => drop(self.unscoped.entry(key.clone()).or_insert(entity)),
            Scope::Only(names) => {
                for name in names {
                    self.named.entry((key.clone(), name.clone())).or_insert(entity);
                }
            }
        }
        self.any.entry(key).or_insert(entity);
    }
}

/// Entities by two scopes at once, such as listeners and fleets.
#[derive(Debug, Default)]
pub(super) struct DoubleScopeIndex(ScopeIndex<FirstScope>);

/// Names of the first scope that an entity is found by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum FirstScope {
    /// Entities of any scope.
    Any,
    /// Entities without a scope.
    Unscoped,
    /// Entities with this name in their scope.
    Named(Name),
}

impl DoubleScopeIndex {
    /// Returns the first entity both of whose scopes overlap these.
    pub(super) fn first(&self, scope: &Scope, second: &Scope) -> Option<usize> {
        let keys = match scope {
            Scope::All => vec![FirstScope::Any],
            Scope::Only(names) if names.is_empty() => Vec::new(),
            Scope::Only(names) => {
                names.iter().cloned().map(FirstScope::Named).chain([FirstScope::Unscoped]).collect()
            }
        };
        keys.iter().filter_map(|key| self.0.first(key, second)).min()
    }

    /// Adds an entity; the numbers of entities ascend.
    pub(super) fn insert(&mut self, scope: &Scope, second: &Scope, entity: usize) {
        let keys = match scope {
            Scope::All => vec![FirstScope::Unscoped],
            Scope::Only(names) => names.iter().cloned().map(FirstScope::Named).collect(),
        };
        for key in keys.into_iter().chain([FirstScope::Any]) {
            self.0.insert(key, second, entity);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scope() -> impl Strategy<Value = Scope> {
        let name = "[a-c]".prop_map(|text| Name::parse(&text).expect("it is a name"));
        prop_oneof![Just(Scope::All), prop::collection::vec(name, 0..3).prop_map(Scope::Only)]
    }

    /// `Scope::overlaps` says that an empty list overlaps what has no scope, which is the one difference: no
    /// entity has an empty list, unless all its names are unknown.
    fn overlaps(one: &Scope, other: &Scope) -> bool {
        let is_empty = |scope: &Scope| matches!(scope, Scope::Only(names) if names.is_empty());
        one.overlaps(other) && !is_empty(one)
    }

    proptest! {
        #[test]
        fn the_first_that_overlaps_is_the_first_of_a_comparison_with_all(
            scopes in prop::collection::vec((scope(), scope()), 0..24),
        ) {
            let (mut single, mut double) = (ScopeIndex::default(), DoubleScopeIndex::default());
            for (entity, (first, second)) in scopes.iter().enumerate() {
                let before = &scopes[..entity];
                let expected = before.iter().position(|(other, _)| overlaps(first, other));
                prop_assert_eq!(single.first(&(), first), expected);
                let is_twin = |(a, b): &(Scope, Scope)| overlaps(first, a) && overlaps(second, b);
                prop_assert_eq!(double.first(first, second), before.iter().position(is_twin));
                single.insert((), first, entity);
                double.insert(first, second, entity);
            }
        }
    }
}
