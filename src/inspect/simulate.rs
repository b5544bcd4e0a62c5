//! Simulation of the distribution of requests while some targets are down: Envoy's arithmetic of priorities
//! and weights.
//!
//! The availability of a tier is the share of its usable targets times the overprovisioning factor, at most
//! 100 %. Load is assigned from the first tier on until 100 % is assigned. If all tiers together have less
//! than 100 %, load is assigned in proportion to their availability. If no tier has enough usable targets,
//! health is ignored ("panic") and all targets of all tiers share the load. All numbers are whole percents,
//! rounded down; the remainder goes to the first tier that has any load.
//!
//! The algorithm is that of `LoadBalancerBase` in Envoy's `load_balancer_impl.cc`; `tests/envoy/simulate.rs`
//! compares it with a real Envoy.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::build::compile::{cluster, endpoint};
use crate::config::document::upstream::LoadBalancer;
use crate::envoy::node::Locality;
use crate::model::addresses::Addresses;
use crate::model::locality::TierRank;
use crate::model::name::Name;
use crate::model::selector::TargetSelector;
use crate::model::target::{Address, Target};
use crate::model::upstream::Upstream;

/// Health of an endpoint, as Envoy sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointHealth {
    /// Endpoint that gets requests.
    Healthy,
    /// Endpoint that gets requests if healthy ones cannot take them all.
    Degraded,
    /// Endpoint that gets requests in panic only.
    Down,
}

/// Endpoint as Envoy's load balancer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Priority, from 0: the index of its tier.
    pub priority: usize,
    /// Weight, from 1.
    pub weight: u32,
    /// Health status.
    pub health: EndpointHealth,
}

/// Settings of the distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BalancingPolicy {
    /// Overprovisioning factor in percent, 100 or more.
    pub overprovisioning_factor: u32,
    /// Panic threshold in percent: a tier with a smaller share of usable endpoints panics. Zero for never.
    pub panic_threshold: u32,
    /// True if a tier that panics refuses its requests, false if it sends them to all its endpoints.
    pub fails_in_panic: bool,
    /// True if requests are spread by weight within a tier, false if evenly.
    pub by_weight: bool,
}

/// Distribution of requests, in percent of all.
#[derive(Debug, Clone, PartialEq)]
pub struct Shares {
    /// Percentage of each endpoint, in the order of the input.
    pub endpoints: Vec<f64>,
    /// Percentage that Envoy itself answers with 503, since there is no usable endpoint.
    pub unserved: f64,
}

/// Numbers of endpoints in a tier.
#[derive(Debug, Clone, Copy, Default)]
struct TierCounts {
    endpoints: u64,
    healthy: u64,
    degraded: u64,
}

/// Load of each tier in whole percents, for healthy and for degraded endpoints.
struct TierLoads {
    healthy: Vec<u64>,
    degraded: Vec<u64>,
}

/// Predicate on health that selects endpoints of a tier.
type HealthPredicate = fn(EndpointHealth) -> bool;

/// Returns the distribution of requests over the endpoints.
pub fn shares(endpoints: &[Endpoint], policy: BalancingPolicy) -> Shares {
    let tiers = tiers(endpoints);
    let availability = |usable: u64, all: u64| -> u64 {
        let factor = u64::from(policy.overprovisioning_factor);
        (factor * usable).checked_div(all).unwrap_or_default().min(100)
    };
    let healthy: Vec<u64> = tiers.iter().map(|tier| availability(tier.healthy, tier.endpoints)).collect();
    let degraded: Vec<u64> = tiers.iter().map(|tier| availability(tier.degraded, tier.endpoints)).collect();
    let available = (healthy.iter().sum::<u64>() + degraded.iter().sum::<u64>()).min(100);
    let panics: Vec<bool> =
        tiers.iter().map(|tier| available < 100 && panics(*tier, policy.panic_threshold)).collect();
    let mut shares = Shares { endpoints: vec![0.0; endpoints.len()], unserved: 0.0 };
    if endpoints.is_empty() || (available == 0 && policy.panic_threshold == 0) {
        shares.unserved = 100.0;
        return shares;
    }
    let load = if panics.iter().all(|panics| *panics) {
        load_in_panic(&tiers)
    } else {
        load(&healthy, &degraded, available)
    };
    for (priority, panics) in panics.into_iter().enumerate() {
        let loads: [(u64, HealthPredicate); 2] = if panics && policy.fails_in_panic {
            [(load.healthy[priority], |_| false), (load.degraded[priority], |_| false)]
        } else if panics {
            [(load.healthy[priority], |_| true), (load.degraded[priority], |_| true)]
        } else {
            [
                (load.healthy[priority], |health| health == EndpointHealth::Healthy),
                (load.degraded[priority], |health| health == EndpointHealth::Degraded),
            ]
        };
        for (percent, selects) in loads {
            spread(&mut shares, endpoints, priority, percent, selects, policy.by_weight);
        }
    }
    shares
}

fn tiers(endpoints: &[Endpoint]) -> Vec<TierCounts> {
    let count = endpoints.iter().map(|endpoint| endpoint.priority + 1).max().unwrap_or(0);
    let mut tiers = vec![TierCounts::default(); count];
    for endpoint in endpoints {
        let tier = &mut tiers[endpoint.priority];
        tier.endpoints += 1;
        tier.healthy += u64::from(endpoint.health == EndpointHealth::Healthy);
        tier.degraded += u64::from(endpoint.health == EndpointHealth::Degraded);
    }
    tiers
}

/// Returns true if a tier panics (Envoy's `isHostSetInPanic`).
fn panics(tier: TierCounts, threshold: u32) -> bool {
    match tier.endpoints {
        0 => threshold > 0,
        endpoints => 100 * (tier.healthy + tier.degraded) < u64::from(threshold) * endpoints,
    }
}

/// Returns the load of each tier outside total panic (Envoy's `recalculatePerPriorityState`). `available`,
/// the availability of all tiers together, must be above 0.
fn load(healthy: &[u64], degraded: &[u64], available: u64) -> TierLoads {
    let mut rest = 100;
    let mut assign = |availability: &[u64]| -> Vec<u64> {
        let assigned = availability.iter().map(|percent| {
            let assigned = (percent * 100).checked_div(available).unwrap_or_default().min(rest);
            rest -= assigned;
            assigned
        });
        assigned.collect()
    };
    let mut load = TierLoads { healthy: assign(healthy), degraded: assign(degraded) };
    let first = |availability: &[u64]| availability.iter().position(|percent| *percent > 0);
    match (first(healthy), first(degraded)) {
        (Some(first), _) => load.healthy[first] += rest,
        (None, Some(first)) => load.degraded[first] += rest,
        (None, None) => {}
    }
    load
}

/// Returns the load of each tier in total panic, in proportion to its size (Envoy's
/// `recalculateLoadInTotalPanic`).
fn load_in_panic(tiers: &[TierCounts]) -> TierLoads {
    let all: u64 = tiers.iter().map(|tier| tier.endpoints).sum();
    let mut healthy: Vec<u64> = tiers.iter().map(|tier| 100 * tier.endpoints / all).collect();
    let rest = 100 - healthy.iter().sum::<u64>();
    if let Some(first) = tiers.iter().position(|tier| tier.endpoints > 0) {
        healthy[first] += rest;
    }
    TierLoads { healthy, degraded: vec![0; tiers.len()] }
}

/// Spreads the load of a tier over the endpoints that `selects` selects. Without any, the load is unserved.
fn spread(
    shares: &mut Shares,
    endpoints: &[Endpoint],
    priority: usize,
    percent: u64,
    selects: HealthPredicate,
    by_weight: bool,
) {
    let percent = u32::try_from(percent).map_or(100.0, f64::from);
    let weight = |endpoint: &Endpoint| if by_weight { f64::from(endpoint.weight) } else { 1.0 };
    let is_selected = |endpoint: &&Endpoint| endpoint.priority == priority && selects(endpoint.health);
    let total: f64 = endpoints.iter().filter(is_selected).map(weight).sum();
    if total == 0.0 {
        shares.unserved += percent;
        return;
    }
    for (share, endpoint) in shares.endpoints.iter_mut().zip(endpoints) {
        if is_selected(&endpoint) {
            *share += percent * weight(endpoint) / total;
        }
    }
}

/// Distribution of the requests to an upstream.
#[derive(Debug, Clone, PartialEq)]
pub struct Simulation {
    /// Name of the upstream.
    pub upstream: Name,
    /// Shares of the targets, by tier, then as declared.
    pub targets: Vec<TargetShare>,
    /// Percentage of all requests that Envoy itself answers with 503, since no target is usable.
    pub unserved: f64,
}

/// Share of a target in the requests.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetShare {
    /// Address of the target.
    pub address: Address,
    /// Tier of the target, from 0.
    pub tier: u32,
    /// True if the target is down.
    pub down: bool,
    /// Percentage of all requests, over all addresses of the target.
    pub share: f64,
}

/// Simulates the distribution of requests to an upstream while the targets in `down` are down. `from` is the
/// locality of the Envoy, which matters if distance counts; none if unknown.
///
/// A host name counts as one endpoint for each of its addresses; one that is not in `addresses` counts as one
/// endpoint.
pub fn simulate(
    upstream: &Upstream,
    addresses: &Addresses,
    from: Option<&Locality>,
    down: &[TargetSelector],
) -> Simulation {
    let is_down = |target: &Target| down.iter().any(|down| down.includes(target));
    let places = places_of(upstream, addresses, from);
    // Tiers whose names did not resolve are skipped, as in what Envoy is sent.
    let tiers: BTreeSet<TierRank> = places.iter().map(|place| place.tier).collect();
    let endpoint = |place: &EndpointOf| {
        let target = &upstream.targets[place.target];
        Endpoint {
            priority: tiers.range(..place.tier).count(),
            weight: place.weight,
            health: if is_down(target) { EndpointHealth::Down } else { EndpointHealth::Healthy },
        }
    };
    let endpoints: Vec<Endpoint> = places.iter().map(endpoint).collect();
    let shares = shares(&endpoints, policy(upstream));
    let mut targets: Vec<TargetShare> = upstream
        .targets
        .iter()
        .map(|target| TargetShare {
            address: target.address.clone(),
            tier: target.tier,
            down: is_down(target),
            share: 0.0,
        })
        .collect();
    for (place, share) in places.iter().zip(&shares.endpoints) {
        targets[place.target].share += share;
    }
    Simulation { upstream: upstream.name.clone(), targets, unserved: shares.unserved }
}

/// Returns the policy that `compile` sets for an upstream.
fn policy(upstream: &Upstream) -> BalancingPolicy {
    BalancingPolicy {
        overprovisioning_factor: endpoint::overprovisioning_factor(upstream),
        panic_threshold: cluster::panic_threshold(upstream),
        fails_in_panic: upstream.failover.minimum_healthy > 0,
        // Hash balancers respect weights over the distribution of keys, provided that there are many keys.
        by_weight: upstream.load_balancer != LoadBalancer::Random,
    }
}

/// Endpoint of a target.
struct EndpointOf {
    /// Index of the target in the upstream.
    target: usize,
    tier: TierRank,
    weight: u32,
}

/// Returns the endpoints of the targets. An address that several targets resolve to is kept once, with the
/// first, as `compile` and Envoy do.
fn places_of(upstream: &Upstream, addresses: &Addresses, from: Option<&Locality>) -> Vec<EndpointOf> {
    let mut seen: BTreeSet<SocketAddr> = BTreeSet::new();
    let mut endpoints = Vec::new();
    for (index, target) in upstream.targets.iter().enumerate() {
        let distance = upstream.distance(from, &target.locality);
        let endpoint =
            |priority, weight| EndpointOf { target: index, tier: (target.tier, distance, priority), weight };
        if !addresses.knows(&target.address.host) {
            endpoints.push(endpoint(0, target.weight));
        }
        let places = addresses.resolve(&target.address).into_iter();
        let new = places.filter(|place| seen.insert(place.socket));
        endpoints.extend(new.map(|place| endpoint(place.priority, place.weight.unwrap_or(target.weight))));
    }
    endpoints
}

#[cfg(test)]
mod tests;
