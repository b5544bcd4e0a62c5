//! Make before break: the rules by which a change reaches a client without failing a request.
//!
//! - Clusters and their endpoints go out ungated; endpoints follow a changed cluster at once, changed or not,
//!   since Envoy warms the cluster on their arrival.
//! - Listeners and routes follow when the client acknowledged the clusters: Envoy does so when all are warm
//!   (xDS protocol, "Eventual consistency considerations"), or when it was waited for long enough.
//! - An aggregate that replaces a cluster waits in the same way for the clusters that it leads to: Envoy takes it
//!   at once, whether they are warm or not.
//! - What went stays with the client until nothing refers to it: routes until the listeners, clusters and
//!   endpoints until aggregates, listeners and routes are acknowledged without it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::build::snapshot::{Resource, ResourceSet};
use crate::envoy::ResourceType;
use crate::nodes::State;

/// How long listeners and routes wait for the clusters' acknowledgement. Envoy itself stops waiting for the
/// endpoints of a cluster after 15 s at the latest.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The types that wait for the clusters that they may name.
pub const GATED: [ResourceType; 2] = [ResourceType::Listener, ResourceType::Route];

/// How a client stands with one type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Of its last response; none before the first.
    pub last: Option<State>,
    /// It was told all that the newest snapshot has and adds or changes.
    pub current: bool,
}

impl Standing {
    /// It was told everything and took it.
    pub fn is_settled(self) -> bool {
        self.current && self.last == Some(State::Acked)
    }
}

/// How a client stands with the types that depend on each other; none where it did not ask.
#[derive(Debug, Clone, Copy)]
pub struct Standings {
    /// Clusters.
    pub clusters: Option<Standing>,
    /// Listeners.
    pub listeners: Option<Standing>,
    /// Routes.
    pub routes: Option<Standing>,
}

impl Standings {
    /// True when what is new and changed of this type may be sent. `impatient` when the wait is over.
    pub fn may_add(&self, resource_type: ResourceType, impatient: bool) -> bool {
        let own = match resource_type {
            ResourceType::Listener => self.listeners,
            ResourceType::Route => self.routes,
            _ => return true,
        };
        match self.clusters {
            None => true,
            Some(_) if impatient => true,
            // Its last good config stays, unless it has none: then what can be served should be.
            Some(Standing { last: Some(State::Nacked), .. }) => own.is_none_or(|own| own.last.is_none()),
            Some(clusters) => clusters.is_settled(),
        }
    }

    /// True when what is gone of this type may be taken away.
    pub fn may_remove(&self, resource_type: ResourceType) -> bool {
        let settled = |standing: Option<Standing>| standing.is_none_or(Standing::is_settled);
        match resource_type {
            ResourceType::Route => settled(self.listeners),
            ResourceType::Cluster | ResourceType::Endpoints => {
                settled(self.listeners) && settled(self.routes)
            }
            _ => true,
        }
    }

    /// True while something waits for the answer to clusters.
    pub fn is_waiting(&self) -> bool {
        let waits = |standing: Option<Standing>| standing.is_some_and(|standing| !standing.current);
        self.clusters.is_some_and(|clusters| clusters.last == Some(State::Pending))
            && (waits(self.listeners) || waits(self.routes))
    }
}

/// The clusters to tell a SotW client that has `told` and should come to run `target`: all of `target`, but for
/// aggregates that must wait for their members, and what may still be referred to until that is over.
pub fn clusters(
    told: &ResourceSet,
    target: &Arc<ResourceSet>,
    may_remove: bool,
    refused: bool,
) -> Arc<ResourceSet> {
    if told.is_empty() || told.version() == target.version() {
        return target.clone();
    }
    let has = |member: &str| !refused && told.get(member).is_some();
    let staying = |name: &Arc<str>| {
        let known = told.get(name)?;
        let stays = match target.get(name) {
            Some(own) => waits_for_members(own, has),
            None => !may_remove || refused || is_member(told, target, name),
        };
        stays.then(|| known.clone())
    };
    target.with(target.changed_since(told).iter().filter_map(staying).collect(), &BTreeSet::new())
}

/// True when an aggregate led to this cluster in what a client was told last, and may do so until it has `target`.
pub fn is_member(told: &ResourceSet, target: &ResourceSet, cluster: &str) -> bool {
    let mut aggregates = told.iter().filter(|known| known.clusters.iter().any(|member| **member == *cluster));
    aggregates.any(|aggregate| target.get(&aggregate.name).is_some())
}

/// True when an aggregate that replaces a cluster leads to one that the client has not: Envoy would swap it at
/// once and have nobody to send requests to until the member is warm.
pub fn waits_for_members(aggregate: &Resource, has: impl Fn(&str) -> bool) -> bool {
    aggregate.clusters.iter().any(|member| !has(member))
}

/// The endpoints that must follow when a client that has `told` is sent the clusters `offered`.
pub fn endpoints_to_follow(told: &ResourceSet, offered: &ResourceSet) -> Vec<Arc<str>> {
    let changed = offered.changed_since(told);
    let clusters = changed.iter().filter_map(|name| offered.get(name));
    clusters.filter_map(|cluster| cluster.endpoints.clone()).collect()
}
