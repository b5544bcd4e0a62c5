//! Functions that are not called again with what they were called with before.
//!
//! A build is a function of its inputs, and most of it is a function of one entity and the few that it names. A
//! [`Memo`] keeps, for each of these, what went in beside what came out. Nothing can be forgotten in what went in:
//! the function is a plain `fn`, which sees its input and nothing else. And nothing can be out of date: an input is
//! compared as a whole, by pointer where that suffices and by value where not.

use std::cmp::Ordering;
use std::sync::Arc;

/// What a function returned, by key, each beside what it was given.
#[derive(Debug, Clone)]
pub struct Memo<K, I, O> {
    /// Ascending by key.
    entries: Vec<Entry<K, I, O>>,
}

#[derive(Debug, Clone)]
struct Entry<K, I, O> {
    key: K,
    input: I,
    output: O,
}

/// What is kept of a function.
pub trait Output: Clone {
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

impl<K, I, O> Default for Memo<K, I, O> {
    fn default() -> Self {
        Self { entries: Vec::new() }
    }
}

impl<K: Ord, I: PartialEq, O: Output> Memo<K, I, O> {
    /// The outputs of `function` for `inputs`, whose keys ascend. It is called for those that differ from the input
    /// of the same key in `last`.
    pub fn map(last: &Self, inputs: impl IntoIterator<Item = (K, I)>, function: fn(&I) -> O) -> Self {
        // Nearly always the next input is that of the next entry: then the keys need not be looked at.
        let mut next = 0;
        let entry = |(key, input): (K, I)| {
            let same = last.entries.get(next).is_some_and(|known| known.input == input);
            let at = if same { Ok(next) } else { last.position(&key) };
            next = at.map_or_else(|place| place, |at| at + 1);
            let output = match at.map(|at| &last.entries[at]) {
                Ok(known) if same || known.input == input => known.output.clone(),
                Ok(known) => function(&input).keeping(&known.output),
                Err(_) => function(&input),
            };
            Entry { key, input, output }
        };
        let entries: Vec<_> = inputs.into_iter().map(entry).collect();
        debug_assert!(entries.is_sorted_by(|a, b| a.key <= b.key), "keys ascend");
        Self { entries }
    }

    /// The output for a key.
    pub fn get(&self, key: &K) -> Option<&O> {
        self.position(key).ok().map(|at| &self.entries[at].output)
    }

    /// What the function was given for a key, for who asks for nearly all keys in their order.
    pub fn inputs_in_order<'a>(&'a self) -> impl FnMut(&K) -> Option<&'a I> {
        let mut next = 0;
        move |key| {
            let is_next = self.entries.get(next).is_some_and(|entry| entry.key == *key);
            let at = if is_next { Ok(next) } else { self.position(key) };
            next = at.map_or_else(|place| place, |at| at + 1);
            at.ok().map(|at| &self.entries[at].input)
        }
    }

    fn position(&self, key: &K) -> Result<usize, usize> {
        self.entries.binary_search_by(|entry| entry.key.cmp(key))
    }
}

impl<K, I, O> Memo<K, I, O> {
    /// Every key with its output.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&K, &O)> {
        self.entries.iter().map(|entry| (&entry.key, &entry.output))
    }

    /// Every key with what the function was given for it.
    pub fn inputs(&self) -> impl ExactSizeIterator<Item = (&K, &I)> {
        self.entries.iter().map(|entry| (&entry.key, &entry.input))
    }

    /// True when nothing was asked of the function.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The outputs of the keys for which `is_in`.
    pub fn select(&self, is_in: impl Fn(&K) -> bool) -> impl Iterator<Item = &O> {
        self.entries.iter().filter(move |entry| is_in(&entry.key)).map(|entry| &entry.output)
    }
}

/// What went, and what came in its place.
pub type Change<'a, T> = (Option<&'a Arc<T>>, Option<&'a Arc<T>>);

/// What is not the same value in both, by key. The keys of both ascend.
pub fn changes<'a, K: Ord, T>(
    last: impl Iterator<Item = (&'a K, &'a Arc<T>)>,
    now: impl Iterator<Item = (&'a K, &'a Arc<T>)>,
) -> Vec<(&'a K, Change<'a, T>)> {
    let (mut last, mut now) = (last.peekable(), now.peekable());
    let mut changes = Vec::new();
    loop {
        let order = match (last.peek(), now.peek()) {
            (Some((gone, _)), Some((come, _))) => gone.cmp(come),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return changes,
        };
        let gone = if order.is_le() { last.next() } else { None };
        let come = if order.is_ge() { now.next() } else { None };
        let Some((key, _)) = gone.or(come) else { return changes };
        match (gone.map(|(_, value)| value), come.map(|(_, value)| value)) {
            (Some(gone), Some(come)) if Arc::ptr_eq(gone, come) => {}
            change => changes.push((key, change)),
        }
    }
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
