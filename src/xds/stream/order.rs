//! Make before break: the ordering rules by which a change reaches a client without failing a request.
//!
//! - Clusters and their endpoints are sent without waiting. The endpoints of a changed cluster follow at
//!   once, whether they changed or not, since Envoy warms the cluster when they arrive.
//! - Listeners and routes are sent after the client has acknowledged the clusters, which Envoy does when all
//!   of them are warm (xDS protocol, "Eventual consistency considerations"), or after [`CLUSTER_TIMEOUT`].
//! - An aggregate cluster that replaces a cluster waits in the same way for its members: Envoy takes it into
//!   use at once, whether they are warm or not.
//! - A removed resource stays with the client until nothing refers to it: a route until the listeners are
//!   acknowledged without it; a cluster and its endpoints until the aggregate clusters, listeners and routes
//!   are.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::build::snapshot::{Resource, ResourceSet};
use crate::envoy::ResourceType;
use crate::nodes::State;

/// Time for which listeners and routes wait for the acknowledgement of the clusters. Envoy itself stops
/// waiting for the endpoints of a cluster after at most 15 s.
pub const CLUSTER_TIMEOUT: Duration = Duration::from_secs(20);

/// Progress of a client with one type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypeProgress {
    /// Status of the last response; none before the first.
    pub last: Option<State>,
    /// True if everything that is new or changed in the newest snapshot was sent.
    pub current: bool,
}

impl TypeProgress {
    /// True if everything was sent and acknowledged.
    pub fn is_complete(self) -> bool {
        self.current && self.last == Some(State::Acked)
    }
}

/// Progress of a client with the types that depend on each other; none for a type that it has not asked for.
#[derive(Debug, Clone, Copy)]
pub struct StreamProgress {
    /// Clusters.
    pub clusters: Option<TypeProgress>,
    /// Listeners.
    pub listeners: Option<TypeProgress>,
    /// Routes.
    pub routes: Option<TypeProgress>,
}

impl StreamProgress {
    /// Collects the progress of the types. While the client is `reconnecting`, listeners and routes that it
    /// has not asked for yet count as behind.
    pub fn new(of: impl Fn(ResourceType) -> Option<TypeProgress>, reconnecting: bool) -> Self {
        let unrequested = reconnecting.then_some(TypeProgress { last: None, current: false });
        Self {
            clusters: of(ResourceType::Cluster),
            listeners: of(ResourceType::Listener).or(unrequested),
            routes: of(ResourceType::Route).or(unrequested),
        }
    }

    /// True if new and changed resources of this type may be sent. `timed_out` is true when the wait is over.
    pub fn may_add(&self, resource_type: ResourceType, timed_out: bool) -> bool {
        let own = match resource_type {
            ResourceType::Listener => self.listeners,
            ResourceType::Route => self.routes,
            _ => return true,
        };
        match self.clusters {
            None => true,
            Some(_) if timed_out => true,
            // Keeps the last good config after refused clusters. A client that has no config yet gets as much
            // as possible.
            Some(TypeProgress { last: Some(State::Nacked), .. }) => own.is_none_or(|own| own.last.is_none()),
            Some(clusters) => clusters.is_complete(),
        }
    }

    /// True if removed resources of this type may be removed from the client.
    pub fn may_remove(&self, resource_type: ResourceType) -> bool {
        let complete =
            |type_progress: Option<TypeProgress>| type_progress.is_none_or(TypeProgress::is_complete);
        match resource_type {
            ResourceType::Route => complete(self.listeners),
            ResourceType::Cluster | ResourceType::Endpoints => {
                complete(self.listeners) && complete(self.routes)
            }
            _ => true,
        }
    }

    /// True while listeners or routes wait for the acknowledgement of clusters.
    pub fn is_waiting(&self) -> bool {
        let waits = |type_progress: Option<TypeProgress>| {
            type_progress.is_some_and(|type_progress| !type_progress.current)
        };
        self.clusters.is_some_and(|clusters| clusters.last == Some(State::Pending))
            && (waits(self.listeners) || waits(self.routes))
    }
}

/// Returns the clusters for a SotW client that was sent `sent` and should come to run `target`: all of
/// `target`, except that an aggregate cluster that must wait for its members keeps its old form, and that
/// clusters that are still referred to stay.
pub fn clusters(
    sent: &ResourceSet,
    target: &Arc<ResourceSet>,
    may_remove: bool,
    refused: bool,
) -> Arc<ResourceSet> {
    if sent.is_empty() || sent.version() == target.version() {
        return target.clone();
    }
    let has = |member: &str| !refused && sent.get(member).is_some();
    let staying = |name: &Arc<str>| {
        let known = sent.get(name)?;
        let stays = match target.get(name) {
            Some(own) => waits_for_members(own, has),
            None => !may_remove || refused || is_member(sent, target, name),
        };
        stays.then(|| known.clone())
    };
    target.with(target.changed_since(sent).iter().filter_map(staying).collect(), &BTreeSet::new())
}

/// True if an aggregate cluster that the client was sent leads to this cluster, and continues to exist in
/// `target`: the client may use this cluster until it has the new form of the aggregate.
pub fn is_member(sent: &ResourceSet, target: &ResourceSet, cluster: &str) -> bool {
    let mut aggregates = sent.iter().filter(|known| known.clusters.iter().any(|member| **member == *cluster));
    aggregates.any(|aggregate| target.get(&aggregate.name).is_some())
}

/// True if the aggregate cluster has a member that the client does not have. If it replaced a cluster now,
/// Envoy would swap it at once and have no endpoint for requests until the member is warm.
pub fn waits_for_members(aggregate: &Resource, has: impl Fn(&str) -> bool) -> bool {
    aggregate.clusters.iter().any(|member| !has(member))
}

/// Returns the names of the endpoints that must follow when a client that has `sent` is sent the clusters
/// `offered`.
pub fn endpoints_to_follow(sent: &ResourceSet, offered: &ResourceSet) -> Vec<Arc<str>> {
    let changed = offered.changed_since(sent);
    let clusters = changed.iter().filter_map(|name| offered.get(name));
    clusters.filter_map(|cluster| cluster.endpoints.clone()).collect()
}
