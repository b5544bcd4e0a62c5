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
    current: watch::Sender<Arc<Build>>,
}

impl Cache {
    /// A cache that already has a build: nobody is ever told of an empty one by mistake.
    pub fn new(build: Arc<Build>) -> Self {
        Self { current: watch::Sender::new(build) }
    }

    /// Makes `build` the current one and wakes those who follow.
    pub fn publish(&self, build: Arc<Build>) {
        self.current.send_replace(build);
    }

    /// The current build.
    pub fn build(&self) -> Arc<Build> {
        self.current.borrow().clone()
    }

    /// Follows the current build.
    pub fn watch(&self) -> watch::Receiver<Arc<Build>> {
        self.current.subscribe()
    }

    /// Follows what `node` should run.
    pub fn subscribe(&self, node: Node) -> Subscription {
        Subscription { node, builds: self.current.subscribe() }
    }
}

/// What one node should run, now and from now on.
#[derive(Debug)]
pub struct Subscription {
    node: Node,
    builds: watch::Receiver<Arc<Build>>,
}

impl Subscription {
    /// The newest snapshot; it counts as seen.
    pub fn snapshot(&mut self) -> Arc<Snapshot> {
        let build = self.builds.borrow_and_update().clone();
        build.snapshot_for(&self.node)
    }

    /// Waits for a build that was not seen yet. False when there will be none: we are shutting down.
    pub async fn changed(&mut self) -> bool {
        self.builds.changed().await.is_ok()
    }
}
