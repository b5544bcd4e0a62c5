//! State of one upstream: its counters, and its endpoints with the targets that they belong to.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::counters::UpstreamCounters;
use super::interner::Interner;
use super::load::TargetLoad;
use crate::build::Build;
use crate::envoy::loads;
use crate::model::addresses::Addresses;
use crate::model::locality::Ranks;
use crate::model::overrides::EndpointOverrides;
use crate::model::target::{Host, Target};
use crate::model::upstream::Upstream;

/// Upstream with the addresses that map endpoints to its targets, and the overrides in force.
#[derive(Clone, Copy)]
pub(super) struct ResolvedUpstream<'b> {
    pub(super) upstream: &'b Arc<Upstream>,
    pub(super) addresses: &'b Addresses,
    pub(super) overrides: Option<&'b EndpointOverrides>,
}

/// State of an upstream that got requests or was checked.
#[derive(Debug, Default)]
pub(super) struct UpstreamTraffic {
    /// Number of the upstream.
    pub(super) number: u32,
    pub(super) counters: UpstreamCounters,
    /// Upstream from which `targets` and `endpoints` were derived; none to derive them again.
    upstream: Option<Arc<Upstream>>,
    /// Addresses of its host names from which they were derived.
    addresses: Addresses,
    /// Numbers of its endpoints.
    pub(super) sockets: Interner<SocketAddr>,
    /// Index of the target of each endpoint, by the number of the endpoint; none if it belongs to no target.
    pub(super) targets: Vec<Option<usize>>,
    /// Endpoints of the declared targets: index of the target, number of the endpoint.
    pub(super) endpoints: Vec<(usize, u16)>,
}

impl<'b> ResolvedUpstream<'b> {
    /// Returns the upstream of this name, if `build` has one.
    pub(super) fn find(name: &str, build: &'b Build) -> Option<Self> {
        let upstream = build.model.upstreams.get(name)?;
        let overrides = build.overrides.get(name).map(AsRef::as_ref);
        Some(Self { upstream, addresses: &build.addresses, overrides })
    }

    /// Returns the index of the target that an endpoint belongs to.
    pub(super) fn target(&self, socket: SocketAddr) -> Option<usize> {
        let targets = &self.upstream.targets;
        let is_exact = |target: &Target| self.has_address(target, socket);
        targets.iter().position(is_exact).or_else(|| {
            // A name that Envoy resolves itself is matched by its port alone.
            targets.iter().position(|target| {
                matches!(target.address.host, Host::Name(_))
                    && target.address.port == socket.port()
                    && !self.addresses.knows(&target.address.host)
            })
        })
    }

    fn has_address(&self, target: &Target, socket: SocketAddr) -> bool {
        match &target.address.host {
            Host::Ip(ip) => SocketAddr::new(*ip, target.address.port) == socket,
            Host::Name(name) => {
                let ips = self.addresses.names.get(name).map(Vec::as_slice).unwrap_or_default();
                target.address.port == socket.port() && ips.contains(&socket.ip())
            }
            Host::Service(name) => {
                let endpoints = self.addresses.services.get(name);
                endpoints.is_some_and(|endpoints| endpoints.iter().any(|it| it.socket == socket))
            }
        }
    }
}

impl UpstreamTraffic {
    /// Returns the empty state of the upstream with this number.
    pub(super) fn new(number: u32) -> Self {
        Self { number, ..Self::default() }
    }

    /// Derives the targets of the endpoints again if the upstream or its addresses changed.
    pub(super) fn refresh(&mut self, resolved: ResolvedUpstream<'_>) {
        let hosts = resolved.upstream.targets.iter().map(|target| &target.address.host);
        let addresses = resolved.addresses.of(hosts);
        let is_same = self.upstream.as_ref().is_some_and(|last| Arc::ptr_eq(last, resolved.upstream));
        if is_same && self.addresses == addresses {
            return;
        }
        (self.upstream, self.addresses) = (Some(resolved.upstream.clone()), addresses);
        self.endpoints.clear();
        let mut targets = HashMap::new();
        for (index, target) in resolved.upstream.targets.iter().enumerate() {
            for socket in resolved.addresses.sockets(&target.address) {
                let number = self.sockets.intern(&socket);
                targets.entry(number).or_insert(index);
                // An upstream never has more endpoints than fit in a `u16`.
                self.endpoints.extend(u16::try_from(number).map(|number| (index, number)));
            }
        }
        let all = (0..).zip(self.sockets.values());
        let index = |(number, socket): (u32, &SocketAddr)| {
            targets.get(&number).copied().or_else(|| resolved.target(*socket))
        };
        self.targets = all.map(index).collect();
    }

    /// Returns the load of an endpoint with its tier. `cluster` is the number of the cluster, if the upstream
    /// has several; none is returned for an endpoint of unknown tier.
    pub(super) fn locate(
        &mut self,
        load: &loads::EndpointLoad,
        (resolved, ranks): (ResolvedUpstream<'_>, &Ranks<'_>),
        cluster: Option<u32>,
    ) -> Option<TargetLoad> {
        let loads::EndpointLoad { socket, success, errors } = *load;
        // The number of a cluster is not its tier with locality failover: some clusters have no targets then.
        let cluster = cluster.filter(|_| !resolved.upstream.failover.locality);
        let (number, target) = self.find(socket, resolved, cluster.is_some())?;
        let tier = target.map(|index| ranks.of(index)).or(cluster)?;
        Some(TargetLoad { number: u16::try_from(number).ok()?, tier, success, errors })
    }

    /// Returns the number of an endpoint and the index of its target. An unknown endpoint of no target gets a
    /// number only if its tier is known.
    pub(super) fn find(
        &mut self,
        socket: SocketAddr,
        resolved: ResolvedUpstream<'_>,
        has_tier: bool,
    ) -> Option<(u32, Option<usize>)> {
        let number = self.sockets.find(&socket).or_else(|| {
            let target = resolved.target(socket);
            // An endpoint of no target and unknown tier is not interned.
            (target.is_some() || has_tier).then(|| self.intern(socket, target))
        })?;
        Some((number, self.targets[number as usize]))
    }

    fn intern(&mut self, socket: SocketAddr, target: Option<usize>) -> u32 {
        let number = self.sockets.intern(&socket);
        self.targets.resize(self.sockets.values().len(), None);
        self.targets[number as usize] = target;
        number
    }

    /// Releases the numbers of endpoints that belong to no target of `resolved`, and returns them.
    pub(super) fn release_endpoints(&mut self, resolved: Option<ResolvedUpstream<'_>>) -> Vec<u32> {
        let is_target =
            |socket: &SocketAddr| resolved.is_some_and(|resolved| resolved.target(*socket).is_some());
        let released = self.sockets.retain(is_target);
        if !released.is_empty() {
            self.upstream = None;
        }
        released
    }
}
