//! The clusters that hold the targets of an upstream: one for all of them, or one for each tier.
//!
//! A tier has a cluster of its own where Envoy needs it: within one cluster the hash balancers do not let a
//! retry move on to the next tier, and a cluster whose host names Envoy looks up itself is swapped as a whole
//! when one of its targets changes. The names of these clusters count the tiers and never change, so that a
//! new target changes nothing of any other tier. Where tiers go by distance there is one for each distance, empty
//! or not: clusters are the same for all Envoys, and only what is in them differs. An aggregate with the upstream's name
//! puts them in order: as declared, or with the tier that should serve first before the others.

use crate::config::document::upstream::Resolve;
use crate::model::locality::Distance;
use crate::model::steering::{First, Steerings};
use crate::model::target::{Host, Target};
use crate::model::upstream::Upstream;

/// A cluster with targets.
pub struct Pool<'a> {
    /// The upstream's name; with `/p0`, `/p1` and so on behind it when it holds one tier. No name that is
    /// declared has a `/`.
    pub name: String,
    /// The first tier that it holds.
    pub tier: u32,
    /// By tier, then as declared.
    pub targets: &'a [Target],
    /// Only those of them that are so far from the Envoy, if distance counts.
    pub distance: Option<Distance>,
    /// How Envoy learns the addresses.
    pub discovery: Discovery,
}

/// How Envoy learns the addresses of targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discovery {
    /// From us.
    Eds,
    /// It looks host names up.
    Dns,
}

/// The clusters that hold the targets of an upstream, as declared.
pub fn of(upstream: &Upstream) -> Vec<Pool<'_>> {
    if !upstream.has_cluster_for_each_tier() {
        let name = upstream.name.to_string();
        let (tier, targets) = (0, &*upstream.targets);
        return vec![Pool { name, tier, targets, distance: None, discovery: Discovery::Eds }];
    }
    // One that has no target yet has a first tier all the same: an aggregate is one of something.
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

/// The same in the order in which they serve, where this tier should be the first.
pub fn led(upstream: &Upstream, first: Option<First>) -> Vec<Pool<'_>> {
    let mut pools = of(upstream);
    pools.sort_by_key(|pool| first.map_or(pool.tier, |first| first.rank(pool.tier)));
    pools
}

/// The tier that should serve first, of an upstream of which that says something about its clusters.
pub fn first(upstream: &Upstream, steerings: &Steerings) -> Option<First> {
    let steering = upstream.has_cluster_for_each_tier().then(|| steerings.get(&upstream.name)).flatten();
    steering.and_then(|steering| steering.first)
}

/// The targets of a tier, of targets that are sorted by tier.
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
