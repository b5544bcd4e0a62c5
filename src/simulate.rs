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
use std::fmt;
use std::net::SocketAddr;

use crate::config::document::{FailoverMode, LoadBalancer, WhenAllDown};
use crate::config::near;
use crate::model::addresses::Addresses;
use crate::model::locality::Distance;
use crate::model::name::Name;
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

/// Which targets are down: `10.0.0.1:8080`, `region=R`, `zone=Z`, `sub_zone=S` or `priority=N`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Down {
    /// One target.
    Target(Address),
    /// All of a region.
    Region(String),
    /// All of a zone.
    Zone(String),
    /// All of a sub-zone.
    SubZone(String),
    /// All of a tier.
    Priority(u32),
}

/// Why a text says nothing that can be down: what is wrong, and what would be right.
pub type NotDown = (String, String);

impl Down {
    /// Reads what is down, which must be something that the upstream has.
    ///
    /// # Errors
    ///
    /// What is wrong with the text, or that the upstream has no such target.
    pub fn parse(text: &str, upstream: &Upstream) -> Result<Self, NotDown> {
        let down = match text.split_once('=') {
            Some(("region", name)) => Self::Region(name.to_owned()),
            Some(("zone", name)) => Self::Zone(name.to_owned()),
            Some(("sub_zone", name)) => Self::SubZone(name.to_owned()),
            Some(("priority", number)) => Self::Priority(number.parse().map_err(|_| {
                let message = format!("`{number}` is no priority");
                (message, "priorities are numbers from 0, as in priority=0".to_owned())
            })?),
            Some((word, _)) => {
                let words = ["region", "zone", "sub_zone", "priority"];
                let help = match near(word, words).first() {
                    Some(word) => format!("did you mean `{word}=`?"),
                    None => "write a target, region=R, zone=Z, sub_zone=S or priority=N".to_owned(),
                };
                return Err((format!("`{word}` is nothing that can be down"), help));
            }
            None => Self::Target(Address::parse(text).map_err(|(message, help)| (message, help.to_owned()))?),
        };
        match upstream.targets.iter().any(|target| down.includes(target)) {
            true => Ok(down),
            false => Err(down.absent_in(upstream)),
        }
    }

    /// True when this target is one of those.
    pub fn includes(&self, target: &Target) -> bool {
        match self {
            Self::Target(address) => target.address == *address,
            Self::Region(region) => target.locality.region == *region,
            Self::Zone(zone) => target.locality.zone == *zone,
            Self::SubZone(sub_zone) => target.locality.sub_zone == *sub_zone,
            Self::Priority(priority) => target.tier == *priority,
        }
    }

    fn absent_in(&self, upstream: &Upstream) -> NotDown {
        let (kind, wanted, of): (_, _, fn(&Target) -> String) = match self {
            Self::Target(address) => ("target", address.to_string(), |target| target.address.to_string()),
            Self::Region(name) => ("region", name.clone(), |target| target.locality.region.clone()),
            Self::Zone(name) => ("zone", name.clone(), |target| target.locality.zone.clone()),
            Self::SubZone(name) => ("sub_zone", name.clone(), |target| target.locality.sub_zone.clone()),
            Self::Priority(number) => ("priority", number.to_string(), |target| target.tier.to_string()),
        };
        let there: BTreeSet<String> =
            upstream.targets.iter().map(of).filter(|name| !name.is_empty()).collect();
        let help = match near(&wanted, there.iter().map(String::as_str)).as_slice() {
            [] if there.is_empty() => format!("none of its targets has a {kind}"),
            [] => format!("there is {}", there.into_iter().take(8).collect::<Vec<_>>().join(", ")),
            words => format!("did you mean `{}`?", words.join("` or `")),
        };
        (format!("upstream `{}` has no {kind} `{wanted}` with traffic", upstream.name), help)
    }
}

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target(address) => address.fmt(f),
            Self::Region(name) => write!(f, "region={name}"),
            Self::Zone(name) => write!(f, "zone={name}"),
            Self::SubZone(name) => write!(f, "sub_zone={name}"),
            Self::Priority(number) => write!(f, "priority={number}"),
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
    down: &[Down],
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
