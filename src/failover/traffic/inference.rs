//! Health of endpoints, inferred from the requests that they got and those that they should have got.
//!
//! A target that answers is healthy. A target is unhealthy if it fails requests, or if it gets none while its
//! tier or a later one serves in its place, even if it never got any.

use super::health::ObservedHealth;
use super::load::TargetLoad;
use super::node::{EndpointObservation, UpstreamObservation};
use super::upstream::{ResolvedUpstream, UpstreamTraffic};
use crate::config::document::upstream::LoadBalancer;
use crate::model::locality::Ranks;
use crate::model::target::{Host, Target};
use crate::model::upstream::Upstream;

/// Number of requests that a target should have got, by its weight, before a target without any counts as
/// unhealthy.
const MIN_DUE_REQUESTS: u64 = 20;

/// Traffic that the targets of an upstream should have got, in one report.
struct DueTraffic<'a> {
    resolved: ResolvedUpstream<'a>,
    ranks: &'a Ranks<'a>,
    /// Tier that serves.
    serving: u32,
    /// Requests that this tier answered.
    answered: u64,
    /// Sum of the weights of its targets.
    weights: u64,
    /// True if each of its targets gets its share.
    spreads: bool,
    /// True if an order puts a tier first.
    is_reordered: bool,
}

impl<'a> DueTraffic<'a> {
    fn new(
        (resolved, ranks): (ResolvedUpstream<'a>, &'a Ranks<'a>),
        serving: u32,
        loads: &[TargetLoad],
    ) -> Self {
        let in_tier = loads.iter().filter(|load| load.tier == serving);
        let mut due = Self {
            resolved,
            ranks,
            serving,
            answered: in_tier.fold(0, |sum: u64, load| sum.saturating_add(load.success)),
            weights: 0,
            spreads: spreads(resolved.upstream),
            is_reordered: resolved.overrides.is_some_and(|overrides| overrides.first.is_some()),
        };
        due.weights = due.peers().map(weight).sum();
        due
    }

    /// Returns the targets of the tier that serves.
    fn peers(&self) -> impl Iterator<Item = &Target> {
        let targets = self.resolved.upstream.targets.iter().enumerate();
        targets.filter(|(index, _)| self.ranks.of(*index) == self.serving).map(|(_, target)| target)
    }

    /// True if the target at this index would get requests if it were healthy.
    fn is_due(&self, index: usize) -> bool {
        let (target, rank) = (&self.resolved.upstream.targets[index], self.ranks.of(index));
        let is_out = self.resolved.overrides.is_some_and(|overrides| overrides.state(target).is_some());
        let is_before = rank < self.serving && !self.is_reordered;
        let is_beside = rank == self.serving && self.spreads;
        let has_share = || self.answered.saturating_mul(weight(target)) >= MIN_DUE_REQUESTS * self.weights;
        !is_out && (is_before || (is_beside && has_share()))
    }
}

/// Infers the health of each known endpoint of an upstream from the loads of one report, which are sorted by
/// endpoint.
pub(super) fn infer_health(
    (observation, endpoints): (&mut UpstreamObservation, &mut Vec<EndpointObservation>),
    upstream: &UpstreamTraffic,
    (resolved, ranks): (ResolvedUpstream<'_>, &Ranks<'_>),
    loads: &[TargetLoad],
) {
    let Some(serving) = observation.serving.map(u32::from) else { return };
    let due = DueTraffic::new((resolved, ranks), serving, loads);
    let loaded = loads.iter().filter(|load| load.tier == serving).count();
    if serving > 0 || loaded < due.peers().count() {
        let missing = upstream.endpoints.iter().filter(|(target, _)| due.is_due(*target));
        observation.ensure_endpoints(endpoints, missing.map(|(_, number)| *number));
    }
    for endpoint in &mut endpoints[observation.range()] {
        let load = loads.binary_search_by_key(&endpoint.number, |load| load.number).ok();
        let health = match load.map(|load| &loads[load]) {
            Some(load) if load.success > 0 => Some(true),
            Some(load) if load.errors > 0 => Some(false),
            _ => {
                let target = upstream.targets[usize::from(endpoint.number)];
                target.is_some_and(|target| due.is_due(target)).then_some(false)
            }
        };
        let Some(is_healthy) = health else { continue };
        if endpoint.health.is_healthy() != Some(is_healthy) {
            endpoint.since = observation.last;
        }
        endpoint.health = ObservedHealth::confirmed(is_healthy);
    }
}

fn weight(target: &Target) -> u64 {
    u64::from(target.weight)
}

/// True if every Envoy sends each target of a tier its share, whatever the key of the requests.
fn spreads(upstream: &Upstream) -> bool {
    let is_by_key = matches!(upstream.load_balancer, LoadBalancer::RingHash | LoadBalancer::Maglev);
    let is_by_record = |target: &Target| matches!(target.address.host, Host::Service(_));
    !is_by_key && upstream.sticky.is_none() && !upstream.targets.iter().any(is_by_record)
}
