//! Limits on the number and lifetime of streams.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use crate::xds::port::admission::Rate;

/// Limits on the duration and number of streams.
#[derive(Debug, Clone)]
pub struct StreamLimits {
    /// Rate at which streams may begin.
    pub rate: Rate,
    /// Time within which a client must speak HTTP/2, and send the first request of a stream.
    pub first_request: Duration,
    /// Lifetime of streams, limited so that Envoys spread over control planes that were added. Each stream
    /// gets a random one in this range, so that they do not all return at once. A connection takes no new
    /// streams once it has the lowest age.
    pub age: Range<Duration>,
    /// Names of resources that clients may ask for.
    pub names: NameLimits,
}

/// Limits on the names of resources that clients ask for.
#[derive(Debug, Clone, Copy)]
pub struct NameLimits {
    /// Names of one node, over all its streams.
    pub node: usize,
    /// Names of one connection, over all its streams.
    pub connection: usize,
    /// Names of all clients, each set of names once however many streams ask for it.
    pub all: usize,
}

impl Default for StreamLimits {
    fn default() -> Self {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        Self {
            rate: Rate { per_second: 2_000, burst: 2_000, waiting: 20_000 },
            first_request: Duration::from_secs(30),
            age: minutes(30)..minutes(45),
            names: NameLimits { node: 200_000, connection: 500_000, all: 5_000_000 },
        }
    }
}

impl StreamLimits {
    /// Returns the time at which a stream that begins now should end.
    pub fn end(&self) -> Instant {
        // Every `RandomState` has random keys of its own.
        let part = (RandomState::new().hash_one(()) % 1024) as u32;
        Instant::now() + self.age.start + (self.age.end - self.age.start) * part / 1024
    }
}
