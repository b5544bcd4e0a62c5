//! Limit on the memory that unfinished requests take, over all clients of a port.
//!
//! A request is decoded once it is complete, and may have 16 MB. A client can begin many requests and finish
//! none, so the bytes held for all of them are counted, and large requests beyond the limit are refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Sum over all requests. Cheap to clone: clones share.
#[derive(Debug, Clone)]
pub struct BufferMeter {
    held: Arc<AtomicUsize>,
    free: usize,
    limit: usize,
}

/// Bytes held by one stream or request; given back on drop.
#[derive(Debug)]
pub struct BufferShare {
    all: BufferMeter,
    own: usize,
}

impl BufferMeter {
    /// Creates a meter by which all may hold `limit` bytes together, beyond which only `free` bytes are left to
    /// each.
    pub fn new(free: usize, limit: usize) -> Self {
        Self { held: Arc::default(), free, limit }
    }

    /// Creates the share of a new stream or request.
    pub fn share(&self) -> BufferShare {
        BufferShare { all: self.clone(), own: 0 }
    }
}

impl BufferShare {
    /// Counts received bytes. Returns false if the limit is exceeded.
    pub fn reserve(&mut self, bytes: usize) -> bool {
        self.own += bytes;
        let all = self.all.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.own <= self.all.free || all <= self.all.limit
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
        const FREE: usize = 10;
        const LIMIT: usize = 100;
        let meter = BufferMeter::new(FREE, LIMIT);
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
