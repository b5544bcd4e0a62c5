//! Memoization of pure functions by key.
//!
//! A build is a function of its inputs, and most of it is a function of one entity and the few that it names.
//! For each of these functions, a [`Memo`] keeps the inputs and the outputs. No input can be missed: the
//! function is a plain `fn`, which sees its input and nothing else. No output can be stale: an input is
//! compared as a whole, by pointer where that suffices and otherwise by value.
//!
//! Inputs and outputs are kept in persistent maps. A build copies the maps of the previous build, which
//! shares all entries that did not change, and two maps are compared without a scan of their common entries.
//! So a stage recomputes only the keys whose inputs changed, and the cost of a change depends on its size and
//! not on that of the config.

use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

/// Inputs and outputs of a function by key.
#[derive(Debug, Clone)]
pub struct Memo<K: Ord, I, O> {
    inputs: OrdMap<K, I>,
    outputs: OrdMap<K, O>,
}

/// Output of a memoized function.
pub trait MemoOutput: Clone + PartialEq {
    /// Returns this output, or the last one of the key if they are equal: an unchanged output keeps its
    /// allocation, so that later stages compare only pointers.
    #[must_use]
    fn keeping(self, last: &Self) -> Self;
}

impl<T: PartialEq> MemoOutput for Arc<T> {
    fn keeping(self, last: &Self) -> Self {
        if *self == **last { last.clone() } else { self }
    }
}

impl<T: PartialEq> MemoOutput for Vec<Arc<T>> {
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

impl<K: Ord + Clone, I: PartialEq + Clone, O: MemoOutput> Memo<K, I, O> {
    /// Replaces the input of a key and computes its output if the input changed; `None` removes the key. True
    /// if the output changed.
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

    /// Returns a copy with these inputs replaced. Other keys stay unchanged.
    #[must_use]
    pub fn with(&self, inputs: impl IntoIterator<Item = (K, Option<I>)>, function: fn(&I) -> O) -> Self {
        let mut next = self.clone();
        for (key, input) in inputs {
            next.put(key, input, function);
        }
        next
    }

    /// Returns a memo of these inputs only; all other keys are dropped.
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

    /// Returns the output of a key.
    pub fn get(&self, key: &K) -> Option<&O> {
        self.outputs.get(key)
    }

    /// Returns the input of a key.
    pub fn input(&self, key: &K) -> Option<&I> {
        self.inputs.get(key)
    }
}

impl<K: Ord, I, O> Memo<K, I, O> {
    /// Returns all outputs.
    pub fn outputs(&self) -> &OrdMap<K, O> {
        &self.outputs
    }

    /// Returns all inputs.
    pub fn inputs(&self) -> &OrdMap<K, I> {
        &self.inputs
    }
}

/// Updates `last`, the map of `function` over the values of `before`, to the values of `now`.
pub fn follow<K: Ord + Clone, V: PartialEq, O: MemoOutput>(
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

/// Sets or removes the value of a key. True if the value changed.
pub fn put<K: Ord + Clone, O: MemoOutput>(map: &mut OrdMap<K, O>, key: K, value: Option<O>) -> bool {
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

/// Change of the value of a key.
#[derive(Debug, Clone, Copy)]
pub struct MapChange<'a, K, V> {
    /// Key whose value changed.
    pub key: &'a K,
    /// Previous value; `None` if the key is new.
    pub old: Option<&'a V>,
    /// New value; `None` if the key was removed.
    pub new: Option<&'a V>,
}

/// Iterates over the keys whose values differ. Skips everything that the two maps share.
pub fn changes<'a, K: Ord, V: PartialEq>(
    last: &'a OrdMap<K, V>,
    now: &'a OrdMap<K, V>,
) -> impl Iterator<Item = MapChange<'a, K, V>> {
    last.diff(now).map(|item| match item {
        DiffItem::Add(key, new) => MapChange { key, old: None, new: Some(new) },
        DiffItem::Update { old: (_, old), new: (key, new) } => {
            MapChange { key, old: Some(old), new: Some(new) }
        }
        DiffItem::Remove(key, old) => MapChange { key, old: Some(old), new: None },
    })
}

/// Value that is compared by pointer only. Used where equal values share one allocation, or where a
/// comparison costs more than a needless recomputation.
#[derive(Debug)]
pub struct ArcPtrEq<T>(pub Arc<T>);

impl<T> Clone for ArcPtrEq<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> PartialEq for ArcPtrEq<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Value that is compared by pointer first: for entities that did not change, this is all that a comparison
/// costs.
#[derive(Debug)]
pub struct ArcEq<T>(pub Arc<T>);

impl<T> Clone for ArcEq<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: PartialEq> PartialEq for ArcEq<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || *self.0 == *other.0
    }
}
