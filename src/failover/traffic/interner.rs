//! Interner: small numbers in place of names and addresses.

use std::collections::HashMap;
use std::hash::Hash;

/// Interner: assigns small numbers to values and reuses those that were released.
#[derive(Debug)]
pub(super) struct Interner<T> {
    numbers: HashMap<T, u32>,
    /// Values by number.
    values: Vec<T>,
    /// Released numbers.
    free: Vec<u32>,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self { numbers: HashMap::new(), values: Vec::new(), free: Vec::new() }
    }
}

impl<T: Clone + Eq + Hash> Interner<T> {
    /// Returns the number of a value, if it has one.
    pub(super) fn find(&self, value: &T) -> Option<u32> {
        self.numbers.get(value).copied()
    }

    /// Returns the number of a value, which is assigned if it has none.
    pub(super) fn intern(&mut self, value: &T) -> u32 {
        if let Some(number) = self.find(value) {
            return number;
        }
        let number = match self.free.pop() {
            Some(number) => {
                self.values[number as usize] = value.clone();
                number
            }
            None => {
                self.values.push(value.clone());
                u32::try_from(self.values.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.numbers.insert(value.clone(), number);
        number
    }

    /// Returns the values by number. A released number keeps its last value until it is assigned again.
    pub(super) fn values(&self) -> &[T] {
        &self.values
    }

    /// Releases the numbers of values that are not wanted, and returns these numbers.
    pub(super) fn retain(&mut self, is_wanted: impl Fn(&T) -> bool) -> Vec<u32> {
        let released: Vec<u32> =
            self.numbers.extract_if(|value, _| !is_wanted(value)).map(|(_, number)| number).collect();
        self.free.extend(&released);
        released
    }
}
