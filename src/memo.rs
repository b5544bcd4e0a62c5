//! Functions that are not called again with what they were called with before.
//!
//! A build is a function of its inputs, and most of it is a function of one entity and the few that it names. A
//! [`Memo`] keeps, for each of these, what went in beside what came out. Nothing can be forgotten in what went in:
//! the function is a plain `fn`, which sees its input and nothing else. And nothing can be out of date: an input is
//! compared as a whole, by pointer where that suffices and by value where not.
//!
//! What is kept is kept in persistent maps. A build has a copy of those of the build before, which shares all that
//! did not change, and what differs between two of them is found without a look at the rest. So a stage asks again
//! only for the keys that what it is made of has changed for, and a change costs what changes and not what exists.

use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

/// What a function returned, by key, each beside what it was given.
#[derive(Debug, Clone)]
pub struct Memo<K: Ord, I, O> {
    inputs: OrdMap<K, I>,
    outputs: OrdMap<K, O>,
}

/// What is kept of a function.
pub trait Output: Clone + PartialEq {
    /// This output, or the last one for the key where they are the same: what did not change stays the same
    /// allocation, so that whoever is given it next need not compare more than pointers.
    #[must_use]
    fn keeping(self, last: &Self) -> Self;
}

impl<T: PartialEq> Output for Arc<T> {
    fn keeping(self, last: &Self) -> Self {
        if *self == **last { last.clone() } else { self }
    }
}

impl<T: PartialEq> Output for Vec<Arc<T>> {
    fn keeping(self, last: &Self) -> Self {
        let known = |one: &Arc<T>| last.iter().find(|known| **known == *one).cloned();
        self.into_iter().map(|one| known(&one).unwrap_or(one)).collect()
    }
}

impl<K: Ord, I, O> Default for Memo<K, I, O> {
    fn default() -> Self {
        Self { inputs: OrdMap::new(), outputs: OrdMap::new() }
    }
}

impl<K: Ord + Clone, I: PartialEq + Clone, O: Output> Memo<K, I, O> {
    /// Has the output of `function` for `input`, or nothing for this key any more. True when that is not what it was.
    pub fn put(&mut self, key: K, input: Option<I>, function: fn(&I) -> O) -> bool {
        let Some(input) = input else {
            self.inputs.remove(&key);
            return self.outputs.remove(&key).is_some();
        };
        if self.inputs.get(&key) == Some(&input) {
            return false;
        }
        let output = function(&input);
        self.inputs.insert(key.clone(), input);
        put(&mut self.outputs, key, Some(output))
    }

    /// The same for every key in these. Those that are not among them stay as they are.
    #[must_use]
    pub fn with(&self, inputs: impl IntoIterator<Item = (K, Option<I>)>, function: fn(&I) -> O) -> Self {
        let mut next = self.clone();
        for (key, input) in inputs {
            next.put(key, input, function);
        }
        next
    }

    /// Only the outputs for these inputs; what is not asked for any more is forgotten.
    #[must_use]
    pub fn only(&self, inputs: impl IntoIterator<Item = (K, I)>, function: fn(&I) -> O) -> Self {
        let mut next = Self::default();
        for (key, input) in inputs {
            if let Some((known, output)) = self.inputs.get(&key).zip(self.outputs.get(&key)) {
                next.inputs.insert(key.clone(), known.clone());
                next.outputs.insert(key.clone(), output.clone());
            }
            next.put(key, Some(input), function);
        }
        next
    }

    /// The output for a key.
    pub fn get(&self, key: &K) -> Option<&O> {
        self.outputs.get(key)
    }

    /// What the function was given for a key.
    pub fn input(&self, key: &K) -> Option<&I> {
        self.inputs.get(key)
    }
}

impl<K: Ord, I, O> Memo<K, I, O> {
    /// All outputs.
    pub fn outputs(&self) -> &OrdMap<K, O> {
        &self.outputs
    }

    /// All that the function was given.
    pub fn inputs(&self) -> &OrdMap<K, I> {
        &self.inputs
    }
}

/// `last`, which is `function` of every value of `before`, as the same of every value of `now`.
pub fn follow<K: Ord + Clone, V: PartialEq, O: Output>(
    last: &OrdMap<K, O>,
    (before, now): (&OrdMap<K, V>, &OrdMap<K, V>),
    function: impl Fn(&V) -> O,
) -> OrdMap<K, O> {
    let mut next = last.clone();
    for change in changes(before, now) {
        put(&mut next, change.key.clone(), change.new.map(&function));
    }
    next
}

/// Puts a value in its place, or removes it. True when what is there is not what it was.
pub fn put<K: Ord + Clone, O: Output>(map: &mut OrdMap<K, O>, key: K, value: Option<O>) -> bool {
    match (value, map.get(&key)) {
        (None, None) => false,
        (None, Some(_)) => map.remove(&key).is_some(),
        (Some(value), None) => map.insert(key, value).is_none(),
        (Some(value), Some(last)) if value == *last => false,
        (Some(value), Some(last)) => {
            let value = value.keeping(last);
            map.insert(key, value).is_some()
        }
    }
}

/// What of a key is not what it was.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a, K, V> {
    /// Of what.
    pub key: &'a K,
    /// None where it is new.
    pub old: Option<&'a V>,
    /// None where it went.
    pub new: Option<&'a V>,
}

/// Every key whose value differs. What two maps share is not looked at.
pub fn changes<'a, K: Ord, V: PartialEq>(
    last: &'a OrdMap<K, V>,
    now: &'a OrdMap<K, V>,
) -> impl Iterator<Item = Change<'a, K, V>> {
    last.diff(now).map(|item| match item {
        DiffItem::Add(key, new) => Change { key, old: None, new: Some(new) },
        DiffItem::Update { old: (_, old), new: (key, new) } => Change { key, old: Some(old), new: Some(new) },
        DiffItem::Remove(key, old) => Change { key, old: Some(old), new: None },
    })
}

/// A value that is compared by pointer and by nothing else: where what is equal is also the same, or where to
/// compare costs more than to go on as if it had changed.
#[derive(Debug)]
pub struct Same<T>(pub Arc<T>);

impl<T> Clone for Same<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> PartialEq for Same<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// A value that is compared by pointer first: among entities that did not change this is all there is to do.
#[derive(Debug)]
pub struct Shared<T>(pub Arc<T>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || *self.0 == *other.0
    }
}
