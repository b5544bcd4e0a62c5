//! Clusters that hold the targets of an upstream: one for all of them, or one for each tier.
//!
//! A tier has a cluster of its own where Envoy requires it: within one cluster the hash balancers do not let
//! a retry move on to the next tier, and a cluster whose host names Envoy resolves itself is swapped as a
//! whole when one of its targets changes. The clusters are named by the number of their tier and keep their
//! names, so that a new target does not affect any other tier. If distance counts, there is one cluster for
//! each tier and distance, also if it is empty: clusters are the same for all Envoys, and only their
//! endpoints differ. An aggregate with the upstream's name puts them in order: as declared, or with the
//! overriding first tier before the others.

use crate::config::document::upstream::Resolve;
use crate::model::locality::Distance;
use crate::model::overrides::{First, OverridesByUpstream};
use crate::model::target::{Host, Target};
use crate::model::upstream::Upstream;

/// Cluster with targets.
pub struct Pool<'a> {
    /// Cluster name: that of the upstream, followed by `/p0`, `/p1` and so on if the cluster holds one tier.
    /// Declared names cannot contain a `/`.
    pub name: String,
    /// Tier that the cluster holds, from 0; 0 if it holds all of them.
    pub tier: u32,
    /// Targets, by tier, then as declared.
    pub targets: &'a [Target],
    /// Distance from the Envoy to which the targets are restricted; none for no restriction.
    pub distance: Option<Distance>,
    /// Source of the addresses.
    pub discovery: Discovery,
}

/// Source from which Envoy gets the addresses of targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discovery {
    /// EDS, from the control plane.
    Eds,
    /// DNS, resolved by Envoy.
    Dns,
}

/// Returns the clusters that hold the targets of an upstream, by declared tier, then by distance.
pub fn of(upstream: &Upstream) -> Vec<Pool<'_>> {
    if !upstream.has_cluster_for_each_tier() {
        let name = upstream.name.to_string();
        let (tier, targets) = (0, &*upstream.targets);
        return vec![Pool { name, tier, targets, distance: None, discovery: Discovery::Eds }];
    }
    // An upstream without targets has a first tier nonetheless: an aggregate needs at least one member.
    let tiers = 0..upstream.tier_count.max(1);
    let distances: Vec<Option<Distance>> = match upstream.failover.locality {
        true => Distance::ALL.map(Some).into(),
        false => vec![None],
    };
    let pools = tiers.flat_map(|tier| distances.iter().map(move |distance| (tier, *distance)));
    pools
        .enumerate()
        .map(|(number, (tier, distance))| {
            let targets = of_tier(&upstream.targets, tier);
            let discovery = discovery(upstream, targets);
            Pool { name: format!("{}/p{number}", upstream.name), tier, targets, distance, discovery }
        })
        .collect()
}

/// Returns the clusters that hold the targets of an upstream in the order in which they serve, with `first`
/// applied.
pub fn led(upstream: &Upstream, first: Option<First>) -> Vec<Pool<'_>> {
    let mut pools = of(upstream);
    pools.sort_by_key(|pool| first.map_or(pool.tier, |first| first.rank(pool.tier)));
    pools
}

/// Returns the override of the first tier if it applies to clusters: none for an upstream with a single
/// cluster, whose endpoints carry the override.
pub fn first(upstream: &Upstream, overrides: &OverridesByUpstream) -> Option<First> {
    let endpoint_overrides =
        upstream.has_cluster_for_each_tier().then(|| overrides.get(&upstream.name)).flatten();
    endpoint_overrides.and_then(|endpoint_overrides| endpoint_overrides.first)
}

/// Returns the targets of a tier; `targets` must be sorted by tier.
fn of_tier(targets: &[Target], tier: u32) -> &[Target] {
    let first = targets.partition_point(|target| target.tier < tier);
    let end = targets.partition_point(|target| target.tier <= tier);
    &targets[first..end]
}

fn discovery(upstream: &Upstream, targets: &[Target]) -> Discovery {
    let is_name = |target: &Target| matches!(target.address.host, Host::Name(_));
    match upstream.resolve {
        Resolve::Envoy if targets.iter().any(is_name) => Discovery::Dns,
        Resolve::Envoy | Resolve::ControlPlane => Discovery::Eds,
    }
}
