//! What every Envoy should run, published atomically.
//!
//! A tokio watch channel carries it: the newest wins, and a slow Envoy delays nobody. Each stream picks the
//! snapshot of its node's fleet, so that a change of the fleets themselves needs nothing special. While a change
//! is on its way (`control::rollout`) some Envoys run another build than the others.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;

use crate::build::Build;
use crate::build::snapshot::Snapshot;
use crate::build::snapshot::past::Past;
use crate::envoy::node::Node;

/// What is desired, and what is run meanwhile.
#[derive(Debug, Clone)]
pub struct Serving {
    /// The newest config that was accepted. It differs from what is live while changes are on their way.
    pub desired: Arc<Build>,
    /// What Envoys should run,
    pub live: Arc<Build>,
    /// but for these.
    pub canaries: Option<Canaries>,
}

/// The Envoys that get a build first, by node id.
#[derive(Debug, Clone)]
pub struct Canaries {
    /// Which they are.
    pub nodes: BTreeSet<String>,
    /// What they should run.
    pub build: Arc<Build>,
}

impl Serving {
    /// Everybody should run what is desired.
    pub fn everywhere(build: Arc<Build>) -> Self {
        Self { desired: build.clone(), live: build, canaries: None }
    }

    /// What a node should run.
    pub fn snapshot_for(&self, node: &Node) -> Arc<Snapshot> {
        let canaries = self.canaries.as_ref().filter(|canaries| canaries.nodes.contains(&node.id));
        canaries.map_or(&self.live, |canaries| &canaries.build).snapshot_for(node)
    }
}

/// Holds what is served.
#[derive(Debug)]
pub struct Cache {
    current: watch::Sender<Published>,
    past: Past,
}

/// What is served, and the how manieth that is since the start.
#[derive(Debug, Clone)]
struct Published {
    generation: u64,
    serving: Serving,
}

impl Cache {
    /// A cache that already has a build: nobody is ever told of an empty one by mistake.
    pub fn new(build: Arc<Build>) -> Self {
        let serving = Serving::everywhere(build);
        Self { current: watch::Sender::new(Published { generation: 1, serving }), past: Past::default() }
    }

    /// What clients were told before, also by those who served before us.
    pub fn past(&self) -> &Past {
        &self.past
    }

    /// Makes this current and wakes those who follow. Returns the number of this generation, which those who
    /// follow say they have seen.
    pub fn publish(&self, serving: Serving) -> u64 {
        let mut generation = 0;
        self.current.send_modify(|current| {
            generation = current.generation + 1;
            *current = Published { generation, serving };
        });
        generation
    }

    /// The number of the current generation.
    pub fn generation(&self) -> u64 {
        self.current.borrow().generation
    }

    /// The newest build that was accepted: what an operator sees as the config.
    pub fn build(&self) -> Arc<Build> {
        self.current.borrow().serving.desired.clone()
    }

    /// What Envoys run that are no canaries.
    pub fn live(&self) -> Arc<Build> {
        self.current.borrow().serving.live.clone()
    }

    /// Who should run what.
    pub fn serving(&self) -> Serving {
        self.current.borrow().serving.clone()
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
        let Published { generation, serving } = self.builds.borrow_and_update().clone();
        self.seen = generation;
        serving.snapshot_for(&self.node)
    }

    /// The generation that the newest seen snapshot is of.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Waits for a build that was not seen yet. False when there will be none: we are shutting down.
    pub async fn changed(&mut self) -> bool {
        self.builds.changed().await.is_ok()
    }
}
