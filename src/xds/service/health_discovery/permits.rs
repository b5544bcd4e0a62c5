//! Permits for the Envoys that check.
//!
//! A few Envoys of each `node.cluster` are enough, so that a thousand Envoys do not check everything twice:
//! the first ones that connect. When one leaves, the next one takes its permit.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::Status;

/// Envoys with the same `node.cluster` that check.
const CHECKERS: usize = 5;

/// Envoys that check in all.
const ALL_CHECKERS: usize = 50;

/// Permits by `node.cluster`, and in all.
#[derive(Debug)]
pub(super) struct CheckerPermits {
    all: Semaphore,
    by_cluster: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// Permits of one Envoy: one of its `node.cluster`, and one of all.
pub(super) type CheckerPermit<'s> = (SemaphorePermit<'s>, SemaphorePermit<'s>);

impl Default for CheckerPermits {
    fn default() -> Self {
        Self { all: Semaphore::new(ALL_CHECKERS), by_cluster: Mutex::default() }
    }
}

impl CheckerPermits {
    /// Returns the permits of a `node.cluster`.
    pub(super) fn of_cluster(&self, cluster: &str) -> Arc<Semaphore> {
        let mut by_cluster = self.by_cluster.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(permits) = by_cluster.get(cluster).and_then(Weak::upgrade) {
            return permits;
        }
        by_cluster.retain(|_, permits| permits.strong_count() > 0);
        let permits = Arc::new(Semaphore::new(CHECKERS));
        by_cluster.insert(cluster.to_owned(), Arc::downgrade(&permits));
        permits
    }

    /// True if an Envoy with these permits of its `node.cluster` need not wait.
    pub(super) fn are_available(&self, of_cluster: &Semaphore) -> bool {
        of_cluster.available_permits() > 0 && self.all.available_permits() > 0
    }

    /// Waits for the permits of one Envoy.
    ///
    /// # Errors
    ///
    /// Fails if the permits are closed.
    pub(super) async fn acquire<'s>(
        &'s self,
        of_cluster: &'s Semaphore,
    ) -> Result<CheckerPermit<'s>, Status> {
        Ok((acquire(of_cluster).await?, acquire(&self.all).await?))
    }
}

async fn acquire(permits: &Semaphore) -> Result<SemaphorePermit<'_>, Status> {
    permits.acquire().await.map_err(|_| Status::unavailable("there are no places any more"))
}
