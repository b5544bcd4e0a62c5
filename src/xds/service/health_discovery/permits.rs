//! Permits for the Envoys that check.
//!
//! A few Envoys of each `node.cluster` are enough, so that a thousand Envoys do not check everything twice:
//! the first ones that connect. When one leaves, the next one takes its permit. A node checks once, however many
//! streams it opens.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::Status;

/// Envoys with the same `node.cluster` that check.
const CHECKERS: usize = 5;

/// Envoys that check in all.
const ALL_CHECKERS: usize = 50;

/// Permits by node, by `node.cluster`, and in all.
#[derive(Debug)]
pub(super) struct CheckerPermits {
    all: Semaphore,
    by_node: NamedPermits,
    by_cluster: NamedPermits,
}

/// Permits by name, as long as somebody holds them.
#[derive(Debug, Default)]
struct NamedPermits(Mutex<HashMap<String, Weak<Semaphore>>>);

/// Permits of one Envoy: of its node, of its `node.cluster`, and of all.
pub(super) type CheckerPermit<'s> = [SemaphorePermit<'s>; 3];

impl Default for CheckerPermits {
    fn default() -> Self {
        let (by_node, by_cluster) = (NamedPermits::default(), NamedPermits::default());
        Self { all: Semaphore::new(ALL_CHECKERS), by_node, by_cluster }
    }
}

impl NamedPermits {
    /// Returns the permits of this name; as many as given, if nobody holds them yet.
    fn of(&self, name: &str, permits: usize) -> Arc<Semaphore> {
        let mut named = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(permits) = named.get(name).and_then(Weak::upgrade) {
            return permits;
        }
        // At powers of two, so that the cost per insertion stays constant.
        if named.len().is_power_of_two() {
            named.retain(|_, permits| permits.strong_count() > 0);
        }
        let permits = Arc::new(Semaphore::new(permits));
        named.insert(name.to_owned(), Arc::downgrade(&permits));
        permits
    }
}

impl CheckerPermits {
    /// Returns the permits of a node and of its `node.cluster`.
    pub(super) fn of_node(&self, id: &str, cluster: &str) -> [Arc<Semaphore>; 2] {
        [self.by_node.of(id, 1), self.by_cluster.of(cluster, CHECKERS)]
    }

    /// True if an Envoy with these permits of its node and `node.cluster` need not wait.
    pub(super) fn are_available(&self, own: &[Arc<Semaphore>; 2]) -> bool {
        own.iter().all(|permits| permits.available_permits() > 0) && self.all.available_permits() > 0
    }

    /// Waits for the permits of one Envoy.
    ///
    /// # Errors
    ///
    /// Fails if the permits are closed.
    pub(super) async fn acquire<'s>(
        &'s self,
        [of_node, of_cluster]: &'s [Arc<Semaphore>; 2],
    ) -> Result<CheckerPermit<'s>, Status> {
        Ok([acquire(of_node).await?, acquire(of_cluster).await?, acquire(&self.all).await?])
    }
}

async fn acquire(permits: &Semaphore) -> Result<SemaphorePermit<'_>, Status> {
    permits.acquire().await.map_err(|_| Status::unavailable("there are no places any more"))
}
