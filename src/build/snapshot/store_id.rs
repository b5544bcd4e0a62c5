//! Id of the store behind a config.

use std::fmt;
use std::num::NonZeroU64;

/// Id of a store: random, and the same for its whole life. Written as 16 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(NonZeroU64);

/// Number of digits in the text of an id.
pub(super) const STORE_DIGITS: usize = 16;

impl StoreId {
    /// Creates the id with this number.
    pub fn new(number: NonZeroU64) -> Self {
        Self(number)
    }

    /// Reads the text of an id.
    pub fn parse(text: &str) -> Option<Self> {
        // The standard library takes a sign, too.
        let is_text = text.len() == STORE_DIGITS && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let number = is_text.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        number.and_then(NonZeroU64::new).map(Self)
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:0STORE_DIGITS$x}", self.0)
    }
}
