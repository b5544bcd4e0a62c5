//! The targets of an upstream as load assignments.
//!
//! There is one for every cluster with targets, an empty one too: a cluster whose assignment never comes holds up all
//! that come with it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as envoy;
use envoy_types::pb::envoy::config::endpoint::v3::cluster_load_assignment::Policy;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;

use crate::compile::pool::{self, Discovery, Pool};
use crate::compile::{health, tls, uint32};
use crate::config::document::upstream::{FailoverMode, UpstreamProtocol};
use crate::memo::Shared;
use crate::model::addresses::Addresses;
use crate::model::locality::Distance;
use crate::model::steering::{self, First, State, Steering};
use crate::model::target::{Host, MAX_PRIORITY, Target};
use crate::model::upstream::Upstream;
use crate::node::Locality;
use crate::snapshot::Resource;

/// A tier with one usable target is as available as a full one, however many it has: Envoy multiplies the
/// share of usable targets by this percentage, in 64 bits, and the constant is the largest that it takes.
const NEVER_SPILL: u32 = u32::MAX;

/// All that the load assignments of an upstream depend on.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    upstream: Shared<Upstream>,
    /// Of the names among its targets and of no others.
    addresses: Addresses,
    /// How they differ for now from what is declared.
    steering: Option<Shared<Steering>>,
    /// Where the Envoy is, if that counts and is known.
    from: Option<Locality>,
}

impl Input {
    /// What the load assignments of this upstream depend on.
    pub fn new(
        upstream: Shared<Upstream>,
        addresses: &Addresses,
        steering: Option<Shared<Steering>>,
    ) -> Self {
        let addresses = addresses.of(upstream.0.targets.iter().map(|target| &target.address.host));
        Self { upstream, addresses, steering, from: None }
    }

    fn steering(&self) -> &Steering {
        static NONE: Steering = Steering { states: BTreeMap::new(), first: None };
        self.steering.as_ref().map_or(&NONE, |steering| &steering.0)
    }

    /// The same for an Envoy at this place; none where that makes no difference.
    pub fn from(&self, place: &Locality) -> Option<Self> {
        let counts = self.upstream.0.failover.locality;
        counts.then(|| Self { from: Some(place.clone()), ..self.clone() })
    }
}

/// The load assignments of an upstream, one for each of its clusters that gets its targets by EDS.
pub fn compile(input: &Input) -> Vec<Resource> {
    let upstream = &*input.upstream.0;
    // Two names may resolve to one address: as Envoy would, it is kept once, in the first tier.
    let mut seen: BTreeSet<SocketAddr> = BTreeSet::new();
    let pools = pool::of(upstream).into_iter().filter(|pool| pool.discovery == Discovery::Eds);
    pools
        .map(|pool| Resource::new(&pool.name, &assignment(&pool, upstream, members(&pool, input, &mut seen))))
        .collect()
}

/// The load assignment of a cluster whose host names Envoy looks up itself.
pub(super) fn by_name(pool: &Pool<'_>, upstream: &Upstream) -> envoy::ClusterLoadAssignment {
    let members = pool.targets.iter().map(|target| Member {
        tier: (target.tier, Distance::Elsewhere, 0),
        target,
        host: target.address.host.clone(),
        address: address(&target.address.host.to_string(), target.address.port),
        weight: target.weight,
        health: core::HealthStatus::Unknown,
    });
    assignment(pool, upstream, members.collect())
}

/// What decides on the tier: what was declared, then the distance to the Envoy, then what DNS says of a service.
type Tier = (u32, Distance, u16);

/// One endpoint in the making.
struct Member<'a> {
    tier: Tier,
    target: &'a Target,
    /// What it is called.
    host: Host,
    address: core::Address,
    weight: u32,
    /// What is said of it; unknown leaves that to its checks.
    health: core::HealthStatus,
}

/// Those of a pool whose address was not seen before: by tier, then as declared.
fn members<'a>(pool: &Pool<'a>, input: &Input, seen: &mut BTreeSet<SocketAddr>) -> Vec<Member<'a>> {
    let distance = |target: &Target| input.upstream.0.distance(input.from.as_ref(), &target.locality);
    let targets = pool.targets.iter().map(|target| (distance(target), target));
    let targets = targets.filter(|(distance, _)| pool.distance.is_none_or(|of_pool| of_pool == *distance));
    let steering = input.steering();
    let mut places: Vec<_> = targets
        .flat_map(|(distance, target)| {
            let places = input.addresses.places(&target.address).into_iter();
            // Where each tier has a cluster of its own, their order is that of the aggregate.
            let tier = match input.upstream.0.has_cluster_for_each_tier() {
                true => target.tier,
                false => steering.rank(target.tier),
            };
            places.map(move |place| ((tier, distance, place.priority), target, place))
        })
        .collect();
    places.sort_by_key(|(tier, ..)| *tier);
    let new = places.into_iter().filter(|(_, _, place)| seen.insert(place.socket));
    let members = new.map(|(tier, target, place)| Member {
        tier,
        target,
        host: place.host,
        address: socket_address(place.socket),
        weight: place.weight.unwrap_or(target.weight),
        health: health_status(&input.upstream.0, steering, target),
    });
    shared(members.collect(), steering)
}

/// What is said of a target's health in place of waiting for what its checks say.
fn health_status(upstream: &Upstream, steering: &Steering, target: &Target) -> core::HealthStatus {
    match steering.state(target) {
        Some(State::Drained) => core::HealthStatus::Draining,
        Some(State::Rehearsed) if can_stand_by(upstream) => core::HealthStatus::Degraded,
        Some(State::Rehearsed | State::Down) => core::HealthStatus::Unhealthy,
        None => core::HealthStatus::Unknown,
    }
}

/// Whether degraded targets get no request until all others failed, and then those that are tried again.
///
/// The tables of hash balancers leave them out for good. Connections of TCP stay with them, and so do clients that are led
/// to the target that served them before.
fn can_stand_by(upstream: &Upstream) -> bool {
    !upstream.load_balancer.is_by_hash()
        && upstream.protocol != UpstreamProtocol::Tcp
        && upstream.sticky.is_none()
}

/// Gives tiers that serve together the shares that they should have, whatever the weights of their targets.
fn shared<'a>(mut members: Vec<Member<'a>>, steering: &Steering) -> Vec<Member<'a>> {
    let Some(First { tier: first, home }) = steering.first.filter(|first| first.home > 0) else {
        return members;
    };
    for (tier, percent) in [(0, home), (first, 100 - home.min(100))] {
        let of_tier = |member: &&mut Member<'_>| member.target.tier == tier;
        let all: u64 = members.iter_mut().filter(of_tier).map(|member| u64::from(member.weight)).sum();
        for member in members.iter_mut().filter(of_tier) {
            member.weight = steering::shared_weight(member.weight, all, percent);
        }
    }
    members
}

fn assignment(
    pool: &Pool<'_>,
    upstream: &Upstream,
    members: Vec<Member<'_>>,
) -> envoy::ClusterLoadAssignment {
    let overprovisioning_factor = Some(uint32(overprovisioning_factor(upstream)));
    envoy::ClusterLoadAssignment {
        cluster_name: pool.name.clone(),
        endpoints: localities(upstream, members),
        policy: Some(Policy { overprovisioning_factor, ..Default::default() }),
        ..Default::default()
    }
}

/// The percentage by which Envoy overrates the usable targets of a tier before it looks at the next one.
pub fn overprovisioning_factor(upstream: &Upstream) -> u32 {
    match upstream.failover.mode {
        FailoverMode::Standby => NEVER_SPILL,
        FailoverMode::Spill => upstream.failover.factor,
    }
}

/// Tiers whose names did not resolve are left out: the priorities that Envoy gets have no gaps. What is beyond the
/// last that it takes shares that one.
fn localities(upstream: &Upstream, members: Vec<Member<'_>>) -> Vec<envoy::LocalityLbEndpoints> {
    let tiers: BTreeSet<Tier> = members.iter().map(|member| member.tier).collect();
    let priorities: BTreeMap<Tier, u32> =
        tiers.into_iter().zip((0..=MAX_PRIORITY).chain(std::iter::repeat(MAX_PRIORITY))).collect();
    let mut localities: BTreeMap<(u32, &Locality), Vec<envoy::LbEndpoint>> = BTreeMap::new();
    for member in members {
        let endpoints = localities.entry((priorities[&member.tier], &member.target.locality)).or_default();
        endpoints.push(endpoint(upstream, member));
    }
    localities
        .into_iter()
        .map(|((priority, locality), lb_endpoints)| envoy::LocalityLbEndpoints {
            locality: (*locality != Locality::default()).then(|| core::Locality {
                region: locality.region.clone(),
                zone: locality.zone.clone(),
                sub_zone: locality.sub_zone.clone(),
            }),
            lb_endpoints,
            priority,
            ..Default::default()
        })
        .collect()
}

fn endpoint(upstream: &Upstream, member: Member<'_>) -> envoy::LbEndpoint {
    // As in a URL, where an IPv6 address stands in brackets.
    let host = match &member.host {
        Host::Ip(IpAddr::V6(ip)) => format!("[{ip}]"),
        host => host.to_string(),
    };
    let hostname = match &member.host {
        // Envoy leaves the client's host to targets without one.
        Host::Ip(_) if !upstream.by_name => String::new(),
        _ => host.clone(),
    };
    let endpoint = envoy::Endpoint {
        address: Some(member.address),
        hostname,
        health_check_config: health::endpoint_check(upstream, &member.target.health_check, &host),
        ..Default::default()
    };
    envoy::LbEndpoint {
        health_status: member.health.into(),
        load_balancing_weight: Some(uint32(member.weight)),
        metadata: tls::metadata(&member.target.tls, upstream.protocol),
        host_identifier: Some(HostIdentifier::Endpoint(endpoint)),
    }
}

/// An address as Envoy writes it.
pub(crate) fn socket_address(socket: SocketAddr) -> core::Address {
    address(&socket.ip().to_string(), socket.port())
}

fn address(host: &str, port: u16) -> core::Address {
    let socket = core::SocketAddress {
        address: host.to_owned(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port.into())),
        ..Default::default()
    };
    core::Address { address: Some(core::address::Address::SocketAddress(socket)) }
}
