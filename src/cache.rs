//! The config that each Envoy should run, published atomically.
//!
//! A tokio watch channel carries it: the newest value wins, and a slow Envoy delays no other. Each stream
//! picks the snapshot of its node's fleet, so that a change of the fleets themselves needs no special
//! handling. During a rollout (`control::rollout`) some Envoys run another build than the others.

pub mod standing;

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use tokio::sync::watch;

use crate::build::Build;
use crate::build::secrecy::SecretAccess;
use crate::build::snapshot::Snapshot;
use crate::build::snapshot::past::SentSets;
use crate::cache::standing::{ConfigTrust, Standing};
use crate::envoy::node::{Node, VouchedFields};

/// Builds that Envoys should run, now and at the end of the rollout.
#[derive(Debug, Clone)]
pub struct Serving {
    /// Newest accepted build. It differs from `live` while a rollout is under way.
    pub desired: Arc<Build>,
    /// Build for all Envoys except the canaries.
    pub live: Arc<Build>,
    /// Canaries and their build; none while no build is on trial.
    pub canaries: Option<Canaries>,
}

/// Envoys that get a build first.
#[derive(Debug, Clone)]
pub struct Canaries {
    /// Node ids of the canaries.
    pub nodes: BTreeSet<String>,
    /// Build that they should run.
    pub build: Arc<Build>,
}

impl Serving {
    /// Serves one build to all Envoys.
    pub fn everywhere(build: Arc<Build>) -> Self {
        Self { desired: build.clone(), live: build, canaries: None }
    }

    /// Returns the snapshot that a node should run, if certificates vouch for these fields of nodes.
    fn snapshot_for(&self, node: &Node, vouched: &VouchedFields) -> ServedSnapshot {
        let build = self.build_for(node);
        let secrets = build.secret_access(node, vouched);
        let snapshot = match secrets {
            SecretAccess::Full => build.snapshot_for(node),
            SecretAccess::Withheld => {
                let whole = build.snapshot_for(node);
                whole.without_private_secrets().map_or(whole, Arc::new)
            }
            SecretAccess::Refused => Arc::default(),
        };
        ServedSnapshot { snapshot, secrets }
    }

    fn build_for(&self, node: &Node) -> &Build {
        let canaries = self.canaries.as_ref().filter(|canaries| canaries.nodes.contains(&node.id));
        canaries.map_or(&self.live, |canaries| &canaries.build)
    }
}

/// Snapshot that a node should run, as far as it may have it.
#[derive(Debug, Clone)]
pub struct ServedSnapshot {
    /// Resources; none if access is refused.
    pub snapshot: Arc<Snapshot>,
    /// Access of the node to the secrets of its fleet.
    pub secrets: SecretAccess,
}

/// Publisher of the config that is served.
#[derive(Debug)]
pub struct Cache {
    current: watch::Sender<Published>,
    past: SentSets,
    /// Fields of nodes for which certificates vouch; unset until a port asks for certificates.
    vouched: OnceLock<Arc<VouchedFields>>,
}

/// A generation with its number, counted from 1 at the start of the process.
#[derive(Debug, Clone)]
struct Published {
    generation: u64,
    serving: Serving,
    standing: Standing,
}

impl Cache {
    /// Creates a cache with its first build, so that an empty config is never served by mistake.
    pub fn new(build: Arc<Build>) -> Self {
        let (serving, standing) = (Serving::everywhere(build), Standing::default());
        let current = watch::Sender::new(Published { generation: 1, serving, standing });
        Self { current, past: SentSets::default(), vouched: OnceLock::new() }
    }

    /// Withholds the secrets of all fleets that are selected by other fields than these. Only the first call
    /// counts.
    pub fn withhold_secrets(&self, vouched: VouchedFields) {
        let _ = self.vouched.set(Arc::new(vouched));
    }

    /// Returns the fields of nodes for which certificates vouch; all of them if clients show no certificates.
    pub fn vouched(&self) -> Arc<VouchedFields> {
        self.vouched.get().cloned().unwrap_or_else(|| Arc::new(VouchedFields::All))
    }

    /// Returns the snapshot that a node should run.
    pub fn snapshot_for(&self, node: &Node) -> ServedSnapshot {
        self.serving().snapshot_for(node, &self.vouched())
    }

    /// Returns the sets that clients were sent earlier, also by an earlier process.
    pub fn past(&self) -> &SentSets {
        &self.past
    }

    /// Publishes a new state and wakes all subscribers. Returns the number of the generation, which
    /// [`SnapshotSubscription::seen`] reports later.
    pub fn publish(&self, serving: Serving) -> u64 {
        let mut generation = 0;
        self.current.send_modify(|current| {
            generation = current.generation + 1;
            (current.generation, current.serving) = (generation, serving);
        });
        generation
    }

    /// Publishes another standing and wakes all subscribers. The generation stays.
    pub fn set_standing(&self, standing: Standing) {
        self.current.send_modify(|current| current.standing = standing);
    }

    /// Returns the standing, before it is known which client would get a route.
    pub fn standing(&self) -> Standing {
        self.current.borrow().standing.clone()
    }

    /// Returns the number of the current generation.
    pub fn generation(&self) -> u64 {
        self.current.borrow().generation
    }

    /// Returns the newest accepted build, which an operator sees as the config.
    pub fn build(&self) -> Arc<Build> {
        self.current.borrow().serving.desired.clone()
    }

    /// Returns the build for all Envoys except the canaries.
    pub fn live(&self) -> Arc<Build> {
        self.current.borrow().serving.live.clone()
    }

    /// Returns the current state.
    pub fn serving(&self) -> Serving {
        self.current.borrow().serving.clone()
    }

    /// Subscribes to the snapshots that `node` should run.
    pub fn subscribe(&self, node: Node) -> SnapshotSubscription {
        SnapshotSubscription {
            node,
            vouched: self.vouched(),
            builds: self.current.subscribe(),
            seen: 0,
            standing: Standing::default(),
        }
    }

    /// Subscribes to the newest accepted build, the current one first.
    pub fn subscribe_builds(&self) -> BuildSubscription {
        let mut builds = self.current.subscribe();
        builds.mark_changed();
        BuildSubscription { builds }
    }
}

/// Accepted builds, from now on.
#[derive(Debug)]
pub struct BuildSubscription {
    builds: watch::Receiver<Published>,
}

impl BuildSubscription {
    /// Waits for a build that was not seen yet; none when the server shuts down.
    pub async fn next(&mut self) -> Option<Arc<Build>> {
        self.builds.changed().await.ok()?;
        Some(self.builds.borrow_and_update().serving.desired.clone())
    }
}

/// Snapshots that one node should run, now and from now on.
#[derive(Debug)]
pub struct SnapshotSubscription {
    node: Node,
    vouched: Arc<VouchedFields>,
    builds: watch::Receiver<Published>,
    seen: u64,
    standing: Standing,
}

impl SnapshotSubscription {
    /// Returns the newest snapshot and marks it as seen.
    pub fn snapshot(&mut self) -> ServedSnapshot {
        let Published { generation, serving, standing } = self.builds.borrow_and_update().clone();
        self.seen = generation;
        let build = serving.build_for(&self.node);
        let has_routes = || build.model.has_routes(&build.fleet_of(&self.node));
        self.standing = standing.towards(standing.trust == ConfigTrust::Blank && has_routes());
        serving.snapshot_for(&self.node, &self.vouched)
    }

    /// Returns the standing towards the node, as of the last snapshot.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Returns the number of the generation that was seen last; 0 before the first.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Waits for a generation that was not seen yet; the session of a stream waits here. Returns false if there
    /// will be none because the server shuts down.
    pub async fn changed(&mut self) -> bool {
        self.builds.changed().await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::{self, Inputs};

    fn build(text: &str) -> Arc<Build> {
        let files = imbl::OrdMap::unit("a.yaml".into(), text.into());
        Arc::new(build::build(&Inputs { files, ..Inputs::default() }, None).expect("it builds"))
    }

    #[test]
    fn a_fleet_is_blank_until_it_has_a_route_of_its_own() {
        let fleets = "fleets: [{name: west, select: {cluster: west}}]\n\
                      listeners: [{name: web, address: 0.0.0.0:80}]\n";
        let routes = "routes: [{name: a, fleets: [west], respond: {status: 200}}]";
        let cache = Cache::new(build(fleets));
        let trust = |trust| cache.set_standing(Standing { trust, ..Standing::default() });
        let subscribe = |cluster: &str, id: &str| {
            cache.subscribe(Node { id: id.into(), cluster: cluster.into(), ..Node::default() })
        };
        let nodes = || [subscribe("west", "canary"), subscribe("west", "other"), subscribe("east", "other")];
        let seen = || {
            nodes().map(|mut node| {
                let _ = node.snapshot();
                node.standing().trust
            })
        };
        trust(ConfigTrust::Blank);
        assert_eq!(seen(), [ConfigTrust::Blank; 3]);
        let (live, with_route) = (build(fleets), build(&format!("{fleets}{routes}")));
        let canaries = Canaries { nodes: ["canary".to_owned()].into(), build: with_route.clone() };
        cache.publish(Serving { desired: with_route.clone(), live, canaries: Some(canaries) });
        assert_eq!(seen(), [ConfigTrust::Full, ConfigTrust::Blank, ConfigTrust::Blank]);
        cache.publish(Serving::everywhere(with_route));
        assert_eq!(seen(), [ConfigTrust::Full, ConfigTrust::Full, ConfigTrust::Blank]);
        trust(ConfigTrust::Inherited);
        assert_eq!(seen(), [ConfigTrust::Inherited; 3]);
        assert_eq!(cache.generation(), 3, "a standing is no generation");
    }
}
