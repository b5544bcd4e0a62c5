//! Make before break: the rules by which a change reaches a client without failing a request.
//!
//! - Clusters and their endpoints go out ungated; endpoints follow a changed cluster at once, changed or not,
//!   since Envoy warms the cluster on their arrival.
//! - Listeners and routes follow when the client acknowledged the clusters: Envoy does so when all are warm
//!   (xDS protocol, "Eventual consistency considerations"), or when it was waited for long enough.
//! - Clusters that went stay with the client until it acknowledged the listeners and routes without them.

use std::sync::Arc;
use std::time::Duration;

use crate::snapshot::{Resource, ResourceSet};

/// How long listeners and routes wait for the clusters' acknowledgement. Envoy itself stops waiting for the
/// endpoints of a cluster after 15 s at the latest.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The clusters to tell a client that has `told` and should come to run `target`: all of `target`, and what
/// may still be referred to until that is over.
pub fn clusters(told: &ResourceSet, target: &Arc<ResourceSet>, released: bool) -> Arc<ResourceSet> {
    let mut kept = told.iter().filter(|resource| target.get(&resource.name).is_none()).peekable();
    if released || kept.peek().is_none() {
        return target.clone();
    }
    Arc::new(ResourceSet::new(target.iter().chain(kept).cloned().collect()))
}

/// The endpoints that must follow when a client that has `told` is sent the clusters `offered`.
pub fn endpoints_to_follow<'a>(
    told: &'a ResourceSet,
    offered: &'a ResourceSet,
) -> impl Iterator<Item = &'a String> + 'a {
    let changed = move |cluster: &&Arc<Resource>| {
        told.get(&cluster.name).is_none_or(|known| known.version != cluster.version)
    };
    offered.iter().filter(changed).filter_map(|cluster| cluster.endpoints.as_ref())
}
