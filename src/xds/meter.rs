//! How much memory unfinished requests take, over all streams.
//!
//! A request is decoded when it is there as a whole, and may have 16 MB. A client can begin many and finish
//! none, so what is held of them all is counted, and beyond a bound large ones are refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What each stream may hold whatever the others do: twice the first request of an Envoy.
const FREE: usize = 128 << 10;

/// How much all streams may hold together.
const LIMIT: usize = 256 << 20;

/// The sum over all streams. Cheap to clone: clones share.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    held: Arc<AtomicUsize>,
}

/// The share of one stream; given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    all: Meter,
    own: usize,
}

impl Meter {
    /// The share of a new stream.
    pub fn share(&self) -> Share {
        Share { all: self.clone(), own: 0 }
    }
}

impl Share {
    /// Counts bytes that came. False when they are too many.
    pub fn take(&mut self, bytes: usize) -> bool {
        self.own += bytes;
        let all = self.all.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.own <= FREE || all <= LIMIT
    }

    /// These bytes are held no more.
    pub fn give_back(&mut self, bytes: usize) {
        self.own -= bytes;
        self.all.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.all.held.fetch_sub(self.own, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_requests_are_bounded_together_and_small_ones_are_not() {
        let meter = Meter::default();
        let (mut hostile, mut large, mut small) = (meter.share(), meter.share(), meter.share());
        assert!(hostile.take(LIMIT));
        assert!(!large.take(FREE + 1));
        assert!(small.take(FREE));
        large.give_back(FREE + 1);
        hostile.give_back(LIMIT);
        assert!(large.take(FREE + 1));
        drop((hostile, large, small));
        assert_eq!(meter.held.load(Ordering::Relaxed), 0);
    }
}
