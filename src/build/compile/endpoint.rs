//! Load assignments: the targets of an upstream as Envoy endpoints.
//!
//! Every EDS cluster has an assignment, also if it is empty: a cluster whose assignment never arrives holds
//! up all resources that are sent with it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as envoy;
use envoy_types::pb::envoy::config::endpoint::v3::cluster_load_assignment::Policy;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;

use crate::build::compile::target_cluster::{self, AddressSource, TargetCluster};
use crate::build::compile::{health, tls, uint32};
use crate::build::snapshot::resource::Resource;
use crate::config::document::upstream::{FailoverMode, UpstreamProtocol};
use crate::envoy::node::Locality;
use crate::memo::ArcEq;
use crate::model::addresses::Addresses;
use crate::model::locality::{Distance, TierRank};
use crate::model::overrides::{self, EndpointOverrides, First, OverrideState};
use crate::model::target::{Host, MAX_PRIORITY, Target};
use crate::model::upstream::Upstream;

/// Overprovisioning factor by which a tier with one usable target is as available as a full one, whatever its
/// size. Envoy multiplies the share of usable targets by this percentage, in 64 bits; this is the largest
/// value that it accepts.
const NEVER_SPILL: u32 = u32::MAX;

/// Everything that the load assignments of an upstream depend on.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointInput {
    upstream: ArcEq<Upstream>,
    /// Addresses of the host names among the targets, and of no others.
    addresses: Addresses,
    /// Override of the declared states and tiers; none if there is none.
    endpoint_overrides: Option<ArcEq<EndpointOverrides>>,
    /// Locality of the Envoy; none if it is unknown or distance does not count.
    from: Option<Locality>,
}

impl EndpointInput {
    /// Collects what the load assignments of `upstream` depend on, for an Envoy whose locality is unknown.
    pub fn new(
        upstream: ArcEq<Upstream>,
        addresses: &Addresses,
        endpoint_overrides: Option<ArcEq<EndpointOverrides>>,
    ) -> Self {
        let addresses = addresses.of(upstream.0.targets.iter().map(|target| &target.address.host));
        Self { upstream, addresses, endpoint_overrides, from: None }
    }

    fn endpoint_overrides(&self) -> &EndpointOverrides {
        static NONE: EndpointOverrides = EndpointOverrides { states: BTreeMap::new(), first: None };
        self.endpoint_overrides.as_ref().map_or(&NONE, |endpoint_overrides| &endpoint_overrides.0)
    }

    /// Returns this input for an Envoy at `place`; none if distance does not count.
    pub fn from(&self, place: &Locality) -> Option<Self> {
        let counts = self.upstream.0.failover.locality;
        counts.then(|| Self { from: Some(place.clone()), ..self.clone() })
    }
}

/// Compiles the load assignments of an upstream, one for each of its EDS clusters.
pub fn compile(input: &EndpointInput) -> Vec<Resource> {
    let upstream = &*input.upstream.0;
    // Two names may resolve to one address. It is kept once, in the first tier, as Envoy itself would do.
    let mut seen: BTreeSet<SocketAddr> = BTreeSet::new();
    let target_clusters = target_cluster::all(upstream)
        .into_iter()
        .filter(|target_cluster| target_cluster.discovery == AddressSource::Eds);
    target_clusters
        .map(|target_cluster| {
            Resource::new(
                &target_cluster.name,
                &assignment(&target_cluster, upstream, members(&target_cluster, input, &mut seen)),
            )
        })
        .collect()
}

/// Returns the load assignment of a cluster whose host names Envoy resolves itself.
pub(super) fn by_name(
    target_cluster: &TargetCluster<'_>,
    upstream: &Upstream,
) -> envoy::ClusterLoadAssignment {
    let members = target_cluster.targets.iter().map(|target| AssignedEndpoint {
        tier: (target.tier, Distance::Elsewhere, 0),
        target,
        host: target.address.host.clone(),
        address: address(&target.address.host.to_string(), target.address.port),
        port: target.address.port,
        weight: target.weight,
        health: core::HealthStatus::Unknown,
    });
    assignment(target_cluster, upstream, members.collect())
}

/// Endpoint before it is encoded.
struct AssignedEndpoint<'a> {
    tier: TierRank,
    target: &'a Target,
    /// Host as declared, or as the SRV record names it.
    host: Host,
    address: core::Address,
    port: u16,
    weight: u32,
    /// Health status that is set from outside; unknown leaves the status to the health checks.
    health: core::HealthStatus,
}

/// Returns the endpoints of a cluster whose address is not in `seen` yet, by tier, then as declared. Adds the
/// addresses to `seen`.
fn members<'a>(
    target_cluster: &TargetCluster<'a>,
    input: &EndpointInput,
    seen: &mut BTreeSet<SocketAddr>,
) -> Vec<AssignedEndpoint<'a>> {
    let distance = |target: &Target| input.upstream.0.distance(input.from.as_ref(), &target.locality);
    let targets = target_cluster.targets.iter().map(|target| (distance(target), target));
    let targets = targets
        .filter(|(distance, _)| target_cluster.distance.is_none_or(|of_cluster| of_cluster == *distance));
    let endpoint_overrides = input.endpoint_overrides();
    let mut places: Vec<_> = targets
        .flat_map(|(distance, target)| {
            let places = input.addresses.resolve(&target.address).into_iter();
            // The aggregate orders the tiers if each has a cluster of its own.
            let tier = if input.upstream.0.has_cluster_for_each_tier() {
                target.tier
            } else {
                endpoint_overrides.rank(target.tier)
            };
            places.map(move |place| ((tier, distance, place.priority), target, place))
        })
        .collect();
    places.sort_by_key(|(tier, ..)| *tier);
    let new = places.into_iter().filter(|(_, _, place)| seen.insert(place.socket));
    let members = new.map(|(tier, target, place)| AssignedEndpoint {
        tier,
        target,
        host: place.host,
        address: socket_address(place.socket),
        port: place.socket.port(),
        weight: place.weight.unwrap_or(target.weight),
        health: health_status(&input.upstream.0, endpoint_overrides, target),
    });
    shared(members.collect(), endpoint_overrides)
}

/// Returns the health status that an override sets for a target, regardless of its health checks; unknown
/// without an override.
fn health_status(
    upstream: &Upstream,
    endpoint_overrides: &EndpointOverrides,
    target: &Target,
) -> core::HealthStatus {
    match endpoint_overrides.state(target) {
        Some(OverrideState::Drained) => core::HealthStatus::Draining,
        Some(OverrideState::Rehearsed) if can_stand_by(upstream) => core::HealthStatus::Degraded,
        Some(OverrideState::Rehearsed | OverrideState::Down) => core::HealthStatus::Unhealthy,
        None => core::HealthStatus::Unknown,
    }
}

/// Returns true if marking a target degraded keeps requests away from it until all other targets have failed,
/// and then lets it serve.
///
/// The tables of hash balancers exclude degraded targets permanently. TCP connections and sticky clients stay
/// with a degraded target.
fn can_stand_by(upstream: &Upstream) -> bool {
    !upstream.load_balancer.is_by_hash()
        && upstream.protocol != UpstreamProtocol::Tcp
        && upstream.sticky.is_none()
}

/// Scales the weights of two tiers that serve together so that each gets its percentage of the requests,
/// whatever the declared weights of their targets.
fn shared<'a>(
    mut members: Vec<AssignedEndpoint<'a>>,
    endpoint_overrides: &EndpointOverrides,
) -> Vec<AssignedEndpoint<'a>> {
    let Some(First { tier: first, home }) = endpoint_overrides.first.filter(|first| first.home > 0) else {
        return members;
    };
    for (tier, percent) in [(0, home), (first, 100 - home.min(100))] {
        let of_tier = |member: &&mut AssignedEndpoint<'_>| member.target.tier == tier;
        let all: u64 = members.iter_mut().filter(of_tier).map(|member| u64::from(member.weight)).sum();
        for member in members.iter_mut().filter(of_tier) {
            member.weight = overrides::shared_weight(member.weight, all, percent);
        }
    }
    members
}

fn assignment(
    target_cluster: &TargetCluster<'_>,
    upstream: &Upstream,
    members: Vec<AssignedEndpoint<'_>>,
) -> envoy::ClusterLoadAssignment {
    let overprovisioning_factor = Some(uint32(overprovisioning_factor(upstream)));
    envoy::ClusterLoadAssignment {
        cluster_name: target_cluster.name.clone(),
        endpoints: localities(upstream, members),
        policy: Some(Policy { overprovisioning_factor, ..Default::default() }),
        ..Default::default()
    }
}

/// Returns the percentage by which Envoy multiplies the share of usable targets of a tier before it sends
/// requests to the next tier.
pub fn overprovisioning_factor(upstream: &Upstream) -> u32 {
    match upstream.failover.mode {
        // A tier whose targets are not all usable has to be less than fully available for Envoy to consider the minimum.
        _ if upstream.failover.minimum_healthy > 0 => 100,
        FailoverMode::Standby => NEVER_SPILL,
        FailoverMode::Spill => upstream.failover.factor,
    }
}

/// Groups endpoints by priority and locality. Tiers whose names did not resolve are skipped, so that the
/// priorities have no gaps. Tiers beyond Envoy's last priority are merged into that one.
fn localities(upstream: &Upstream, members: Vec<AssignedEndpoint<'_>>) -> Vec<envoy::LocalityLbEndpoints> {
    let tiers: BTreeSet<TierRank> = members.iter().map(|member| member.tier).collect();
    let priorities: BTreeMap<TierRank, u32> =
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

fn endpoint(upstream: &Upstream, member: AssignedEndpoint<'_>) -> envoy::LbEndpoint {
    // An IPv6 address is written in brackets, as in a URL.
    let host = match &member.host {
        Host::Ip(IpAddr::V6(ip)) => format!("[{ip}]"),
        host => host.to_string(),
    };
    let hostname = match &member.host {
        _ if upstream.by_name_and_port => with_port(&host, member.port),
        // Envoy keeps the client's host header for an endpoint without a host name.
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

/// Returns a host with its port, unless that is one which clients leave out.
fn with_port(host: &str, port: u16) -> String {
    match port {
        80 | 443 => host.to_owned(),
        _ => format!("{host}:{port}"),
    }
}

/// Encodes a socket address as an Envoy address.
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
