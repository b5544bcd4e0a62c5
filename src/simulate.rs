//! Where requests go when some targets are down: Envoy's arithmetic of priorities and weights.
//!
//! A tier is as available as the share of its usable targets times the overprovisioning factor, at most
//! 100 %. The tiers are filled from the first until 100 % is given away; while they cannot take 100 % together, each has its part
//! of what they can. When no tier has enough usable targets, health counts no more ("panic") and the targets
//! of all tiers share alike. All of it is whole percents, rounded down, and what rounding leaves goes to the
//! first tier that takes any.
//!
//! This is `LoadBalancerBase` of Envoy's `load_balancer_impl.cc`, and `tests/envoy/simulate.rs` holds it against a real one.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::config::document::upstream::{FailoverMode, LoadBalancer, WhenAllDown};
use crate::model::addresses::Addresses;
use crate::model::locality::Distance;
use crate::model::name::Name;
use crate::model::part::Part;
use crate::model::target::{Address, Target};
use crate::model::upstream::Upstream;
use crate::node::Locality;

/// What Envoy knows of an endpoint's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It gets requests.
    Healthy,
    /// It gets requests where healthy ones cannot take them all.
    Degraded,
    /// It gets requests in panic only.
    Down,
}

/// An endpoint as Envoy's load balancer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// From 0; the index of its tier.
    pub priority: usize,
    /// From 1.
    pub weight: u32,
    /// Usable or not.
    pub health: Health,
}

/// How load is spread over endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// In percent, 100 or more.
    pub overprovisioning_factor: u32,
    /// In percent: a tier with fewer usable endpoints panics. Zero for never.
    pub panic_threshold: u32,
    /// Within a tier requests are spread by weight, else evenly.
    pub by_weight: bool,
}

/// Where requests go, in percent of all.
#[derive(Debug, Clone, PartialEq)]
pub struct Shares {
    /// Of each endpoint, in the order in which they were given.
    pub endpoints: Vec<f64>,
    /// Answered 503 by Envoy itself, since there is no usable endpoint.
    pub unserved: f64,
}

/// One tier, counted.
#[derive(Debug, Clone, Copy, Default)]
struct Tier {
    endpoints: u64,
    healthy: u64,
    degraded: u64,
}

/// What each tier takes, in whole percents: of healthy endpoints, and of degraded ones.
struct Load {
    healthy: Vec<u64>,
    degraded: Vec<u64>,
}

/// Which endpoints of a tier are meant.
type Among = fn(Health) -> bool;

/// Where the requests to these endpoints go.
pub fn shares(endpoints: &[Endpoint], policy: Policy) -> Shares {
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
    let load = match panics.iter().all(|panics| *panics) {
        true => load_in_panic(&tiers),
        false => load(&healthy, &degraded, available),
    };
    for (priority, panics) in panics.into_iter().enumerate() {
        let among: [(u64, Among); 2] = match panics {
            true => [(load.healthy[priority], |_| true), (load.degraded[priority], |_| true)],
            false => [
                (load.healthy[priority], |health| health == Health::Healthy),
                (load.degraded[priority], |health| health == Health::Degraded),
            ],
        };
        for (percent, among) in among {
            spread(&mut shares, endpoints, priority, percent, among, policy.by_weight);
        }
    }
    shares
}

fn tiers(endpoints: &[Endpoint]) -> Vec<Tier> {
    let count = endpoints.iter().map(|endpoint| endpoint.priority + 1).max().unwrap_or(0);
    let mut tiers = vec![Tier::default(); count];
    for endpoint in endpoints {
        let tier = &mut tiers[endpoint.priority];
        tier.endpoints += 1;
        tier.healthy += u64::from(endpoint.health == Health::Healthy);
        tier.degraded += u64::from(endpoint.health == Health::Degraded);
    }
    tiers
}

/// `isHostSetInPanic`
fn panics(tier: Tier, threshold: u32) -> bool {
    match tier.endpoints {
        0 => threshold > 0,
        endpoints => 100 * (tier.healthy + tier.degraded) < u64::from(threshold) * endpoints,
    }
}

/// `recalculatePerPriorityState`, once what is available is known to be more than nothing.
fn load(healthy: &[u64], degraded: &[u64], available: u64) -> Load {
    let mut rest = 100;
    let mut take = |availability: &[u64]| -> Vec<u64> {
        let taken = availability.iter().map(|percent| {
            let taken = (percent * 100).checked_div(available).unwrap_or_default().min(rest);
            rest -= taken;
            taken
        });
        taken.collect()
    };
    let mut load = Load { healthy: take(healthy), degraded: take(degraded) };
    let first = |availability: &[u64]| availability.iter().position(|percent| *percent > 0);
    match (first(healthy), first(degraded)) {
        (Some(first), _) => load.healthy[first] += rest,
        (None, Some(first)) => load.degraded[first] += rest,
        (None, None) => {}
    }
    load
}

/// `recalculateLoadInTotalPanic`
fn load_in_panic(tiers: &[Tier]) -> Load {
    let all: u64 = tiers.iter().map(|tier| tier.endpoints).sum();
    let mut healthy: Vec<u64> = tiers.iter().map(|tier| 100 * tier.endpoints / all).collect();
    let rest = 100 - healthy.iter().sum::<u64>();
    if let Some(first) = tiers.iter().position(|tier| tier.endpoints > 0) {
        healthy[first] += rest;
    }
    Load { healthy, degraded: vec![0; tiers.len()] }
}

/// Spreads what a tier takes over those of its endpoints that are meant; if there are none, nobody answers.
fn spread(
    shares: &mut Shares,
    endpoints: &[Endpoint],
    priority: usize,
    percent: u64,
    among: Among,
    by_weight: bool,
) {
    let percent = u32::try_from(percent).map_or(100.0, f64::from);
    let weight = |endpoint: &Endpoint| if by_weight { f64::from(endpoint.weight) } else { 1.0 };
    let meant = |endpoint: &&Endpoint| endpoint.priority == priority && among(endpoint.health);
    let total: f64 = endpoints.iter().filter(meant).map(weight).sum();
    if total == 0.0 {
        shares.unserved += percent;
        return;
    }
    for (share, endpoint) in shares.endpoints.iter_mut().zip(endpoints) {
        if meant(&endpoint) {
            *share += percent * weight(endpoint) / total;
        }
    }
}

/// Where the requests to an upstream go.
#[derive(Debug, Clone, PartialEq)]
pub struct Simulation {
    /// Which upstream.
    pub upstream: Name,
    /// By tier, then as declared.
    pub targets: Vec<TargetShare>,
    /// Percent of all requests that Envoy itself answers 503, since no target is usable.
    pub unserved: f64,
}

/// A target's part of the requests.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetShare {
    /// Which one.
    pub address: Address,
    /// Its tier.
    pub tier: u32,
    /// It is down.
    pub down: bool,
    /// In percent of all requests, over all its addresses.
    pub share: f64,
}

/// What becomes of the requests to an upstream while these are down, at an Envoy that is at `from`, where it says so
/// and distance counts.
///
/// A host name counts as many endpoints as it has addresses; one that is not in `addresses` counts as one.
pub fn simulate(
    upstream: &Upstream,
    addresses: &Addresses,
    from: Option<&Locality>,
    down: &[Part],
) -> Simulation {
    let is_down = |target: &Target| down.iter().any(|down| down.includes(target));
    let places = places_of(upstream, addresses, from);
    // Tiers whose names did not resolve are left out of what Envoy gets.
    let tiers: BTreeSet<Tiering> = places.iter().map(|place| place.tier).collect();
    let endpoint = |place: &EndpointOf| {
        let target = &upstream.targets[place.target];
        Endpoint {
            priority: tiers.range(..place.tier).count(),
            weight: place.weight,
            health: if is_down(target) { Health::Down } else { Health::Healthy },
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

/// As `compile` has it.
fn policy(upstream: &Upstream) -> Policy {
    Policy {
        overprovisioning_factor: match upstream.failover.mode {
            FailoverMode::Standby => u32::MAX,
            FailoverMode::Spill => upstream.failover.factor,
        },
        panic_threshold: match upstream.failover.when_all_down {
            WhenAllDown::TryAll => 1,
            WhenAllDown::Fail => 0,
        },
        // The hash balancers do so over all keys, as far as keys are many.
        by_weight: upstream.load_balancer != LoadBalancer::Random,
    }
}

/// An endpoint, and the target that made it.
struct EndpointOf {
    /// Its index in the upstream.
    target: usize,
    tier: Tiering,
    weight: u32,
}

/// The declared tier, then the distance to the Envoy, then what DNS says of a service.
type Tiering = (u32, Distance, u16);

/// The endpoints that the targets make. An address that came before is kept once, as `compile` and Envoy do.
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
        let places = addresses.places(&target.address).into_iter();
        let new = places.filter(|place| seen.insert(place.socket));
        endpoints.extend(new.map(|place| endpoint(place.priority, place.weight.unwrap_or(target.weight))));
    }
    endpoints
}

#[cfg(test)]
mod tests;
