//! Limit on the memory that unfinished requests take, over all streams.
//!
//! A request is decoded once it is complete, and may have 16 MB. A client can begin many requests and finish
//! none, so the bytes held for all streams are counted, and large requests beyond the limit are refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that each stream may hold regardless of the others: twice the first request of an Envoy.
const FREE: usize = 128 << 10;

/// Bytes that all streams may hold together, beyond which only [`FREE`] is left to each.
const LIMIT: usize = 256 << 20;

/// Sum over all streams. Cheap to clone: clones share.
#[derive(Debug, Clone, Default)]
pub struct BufferMeter {
    held: Arc<AtomicUsize>,
}

/// Bytes held by one stream; given back on drop.
#[derive(Debug)]
pub struct BufferShare {
    all: BufferMeter,
    own: usize,
}

impl BufferMeter {
    /// Creates the share of a new stream.
    pub fn share(&self) -> BufferShare {
        BufferShare { all: self.clone(), own: 0 }
    }
}

impl BufferShare {
    /// Counts received bytes. Returns false if the limit is exceeded.
    pub fn reserve(&mut self, bytes: usize) -> bool {
        self.own += bytes;
        let all = self.all.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.own <= FREE || all <= LIMIT
    }

    /// Subtracts bytes that are no longer held.
    pub fn release(&mut self, bytes: usize) {
        self.own -= bytes;
        self.all.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for BufferShare {
    fn drop(&mut self) {
        self.all.held.fetch_sub(self.own, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_requests_are_bounded_together_and_small_ones_are_not() {
        let meter = BufferMeter::default();
        let (mut hostile, mut large, mut small) = (meter.share(), meter.share(), meter.share());
        assert!(hostile.reserve(LIMIT));
        assert!(!large.reserve(FREE + 1));
        assert!(small.reserve(FREE));
        large.release(FREE + 1);
        hostile.release(LIMIT);
        assert!(large.reserve(FREE + 1));
        drop((hostile, large, small));
        assert_eq!(meter.held.load(Ordering::Relaxed), 0);
    }
}
