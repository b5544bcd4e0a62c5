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
use crate::config::document::FailoverMode;
use crate::memo::Shared;
use crate::model::target::{Addresses, Host, Target};
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
}

impl Input {
    /// What the load assignments of this upstream depend on.
    pub fn new(upstream: Shared<Upstream>, addresses: &Addresses) -> Self {
        let names = match addresses.is_empty() {
            true => [].iter(),
            false => upstream.0.targets.iter(),
        };
        let names = names.filter_map(|target| match &target.address.host {
            Host::Name(name) => addresses.get_key_value(name),
            Host::Ip(_) => None,
        });
        let addresses = names.map(|(name, ips)| (name.clone(), ips.clone())).collect();
        Self { upstream, addresses }
    }
}

/// The load assignments of an upstream, one for each of its clusters that gets its targets by EDS.
pub fn compile(input: &Input) -> Vec<Resource> {
    let Input { upstream: Shared(upstream), addresses } = input;
    // Two names may resolve to one address: as Envoy would, it is kept once, in the first tier.
    let mut seen: BTreeSet<SocketAddr> = BTreeSet::new();
    let pools = pool::of(upstream).into_iter().filter(|pool| pool.discovery == Discovery::Eds);
    pools
        .map(|pool| {
            let mut resolved = |target: &Target| -> Vec<core::Address> {
                let addresses = resolve(target, addresses).into_iter();
                addresses.filter(|address| seen.insert(*address)).map(socket_address).collect()
            };
            Resource::new(&pool.name, &assignment(&pool, upstream, &mut resolved))
        })
        .collect()
}

/// The load assignment of a cluster whose host names Envoy looks up itself.
pub(super) fn by_name(pool: &Pool<'_>, upstream: &Upstream) -> envoy::ClusterLoadAssignment {
    assignment(pool, upstream, &mut |target| {
        vec![address(&target.address.host.to_string(), target.address.port)]
    })
}

fn assignment(
    pool: &Pool<'_>,
    upstream: &Upstream,
    addresses_of: &mut dyn FnMut(&Target) -> Vec<core::Address>,
) -> envoy::ClusterLoadAssignment {
    let mut localities: BTreeMap<(u32, &Locality), Vec<envoy::LbEndpoint>> = BTreeMap::new();
    for target in pool.targets {
        for address in addresses_of(target) {
            let endpoints = localities.entry((target.tier, &target.locality)).or_default();
            endpoints.push(endpoint(upstream, target, address));
        }
    }
    envoy::ClusterLoadAssignment {
        cluster_name: pool.name.clone(),
        endpoints: occupied_tiers(localities),
        policy: Some(Policy {
            overprovisioning_factor: Some(uint32(overprovisioning_factor(upstream))),
            ..Default::default()
        }),
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

/// Tiers whose names did not resolve are left out: the priorities that Envoy gets have no gaps.
fn occupied_tiers(
    localities: BTreeMap<(u32, &Locality), Vec<envoy::LbEndpoint>>,
) -> Vec<envoy::LocalityLbEndpoints> {
    let tiers: BTreeSet<u32> = localities.keys().map(|(tier, _)| *tier).collect();
    let priority =
        |tier: u32| u32::try_from(tiers.range(..tier).count()).expect("there are at most 128 tiers");
    localities
        .into_iter()
        .map(|((tier, locality), lb_endpoints)| envoy::LocalityLbEndpoints {
            locality: (*locality != Locality::default()).then(|| core::Locality {
                region: locality.region.clone(),
                zone: locality.zone.clone(),
                sub_zone: locality.sub_zone.clone(),
            }),
            lb_endpoints,
            priority: priority(tier),
            ..Default::default()
        })
        .collect()
}

fn resolve(target: &Target, addresses: &Addresses) -> Vec<SocketAddr> {
    let port = target.address.port;
    match &target.address.host {
        Host::Ip(ip) => vec![SocketAddr::new(*ip, port)],
        Host::Name(name) => {
            let ips = addresses.get(name).map(Vec::as_slice).unwrap_or_default();
            ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect()
        }
    }
}

fn endpoint(upstream: &Upstream, target: &Target, address: core::Address) -> envoy::LbEndpoint {
    // As in a URL, where an IPv6 address stands in brackets.
    let host = match &target.address.host {
        Host::Ip(IpAddr::V6(ip)) => format!("[{ip}]"),
        host => host.to_string(),
    };
    let hostname = match &target.address.host {
        // Envoy leaves the client's host to targets without one.
        Host::Ip(_) if !upstream.by_name => String::new(),
        _ => host.clone(),
    };
    let endpoint = envoy::Endpoint {
        address: Some(address),
        hostname,
        health_check_config: health::endpoint_check(upstream, &target.health_check, &host),
        ..Default::default()
    };
    envoy::LbEndpoint {
        load_balancing_weight: Some(uint32(target.weight)),
        metadata: tls::metadata(&target.tls, upstream.protocol),
        host_identifier: Some(HostIdentifier::Endpoint(endpoint)),
        ..Default::default()
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
