//! The current build, published atomically.
//!
//! A tokio watch channel carries it: the newest wins, and a slow Envoy delays nobody. Each stream picks the
//! snapshot of its node's fleet, so that a change of the fleets themselves needs nothing special.

use std::sync::Arc;

use tokio::sync::watch;

use crate::node::Node;
use crate::pipeline::Build;
use crate::snapshot::Snapshot;

/// Holds the current build.
#[derive(Debug)]
pub struct Cache {
    current: watch::Sender<Published>,
}

/// A build, and the how manieth it is since the start.
#[derive(Debug, Clone)]
struct Published {
    publication: u64,
    build: Arc<Build>,
}

impl Cache {
    /// A cache that already has a build: nobody is ever told of an empty one by mistake.
    pub fn new(build: Arc<Build>) -> Self {
        Self { current: watch::Sender::new(Published { publication: 1, build }) }
    }

    /// Makes `build` the current one and wakes those who follow. Returns the number of this publication, which
    /// those who follow say they have seen.
    pub fn publish(&self, build: Arc<Build>) -> u64 {
        let mut publication = 0;
        self.current.send_modify(|current| {
            publication = current.publication + 1;
            *current = Published { publication, build };
        });
        publication
    }

    /// The number of the current publication.
    pub fn publication(&self) -> u64 {
        self.current.borrow().publication
    }

    /// The current build.
    pub fn build(&self) -> Arc<Build> {
        self.current.borrow().build.clone()
    }

    /// Follows what `node` should run.
    pub fn subscribe(&self, node: Node) -> Subscription {
        Subscription { node, builds: self.current.subscribe(), seen: 0 }
    }
}

/// What one node should run, now and from now on.
#[derive(Debug)]
pub struct Subscription {
    node: Node,
    builds: watch::Receiver<Published>,
    seen: u64,
}

impl Subscription {
    /// The newest snapshot; it counts as seen.
    pub fn snapshot(&mut self) -> Arc<Snapshot> {
        let Published { publication, build } = self.builds.borrow_and_update().clone();
        self.seen = publication;
        build.snapshot_for(&self.node)
    }

    /// The publication that the newest seen snapshot is of.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Waits for a build that was not seen yet. False when there will be none: we are shutting down.
    pub async fn changed(&mut self) -> bool {
        self.builds.changed().await.is_ok()
    }
}
