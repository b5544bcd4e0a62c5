//! Retention of observations: nodes that come and go, and observations that nothing needs any more.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::node::{NodeTraffic, UpstreamObservation};
use super::observations::Observations;
use super::shift::TierShift;
use super::upstream::ResolvedUpstream;
use crate::build::Build;
use crate::envoy::node::Locality;

/// Retention of a node's observations after its last report.
pub(super) const RETENTION: SignedDuration = SignedDuration::from_hours(1);

/// Time without a stream after which a node counts as gone. Envoy reopens a load report stream 5 s after it
/// ended, and every such stream ends now and then.
const ABSENCE: SignedDuration = SignedDuration::from_secs(20);

impl Observations {
    /// Records that a node in this locality has begun to report.
    pub(super) fn join(&mut self, node: &str, locality: Locality) {
        let (node, traffic) = self.take_node(node);
        let locality = (locality != Locality::default()).then(|| Box::new(locality));
        self.nodes.insert(node, NodeTraffic { is_connected: true, locality, ..traffic });
    }

    /// Records that the stream of a node ended.
    pub(super) fn leave(&mut self, node: &str, at: Timestamp) {
        let left = at.as_millisecond();
        let (node, traffic) = self.take_node(node);
        self.departures.push_back((left, node.clone()));
        let last = traffic.last.max(left);
        self.nodes.insert(node, NodeTraffic { is_connected: false, left, last, ..traffic });
    }

    /// Takes the nodes that left [`ABSENCE`] ago and did not return, with the time of departure.
    pub(super) fn take_absent(&mut self, now: Timestamp) -> Vec<(Arc<str>, Timestamp)> {
        let latest = now.saturating_sub(ABSENCE).unwrap_or(now).as_millisecond();
        let Self { departures, nodes, .. } = self;
        let due = departures.partition_point(|(at, _)| *at <= latest);
        let is_gone = |(at, node): &(i64, Arc<str>)| {
            nodes.get(node).is_none_or(|traffic| !traffic.is_connected && traffic.left == *at)
        };
        let gone = departures.drain(..due).filter(is_gone);
        gone.map(|(at, node)| (node, Timestamp::from_millisecond(at).unwrap_or(now))).collect()
    }

    /// Records that no tier serves a node any more. Returns a shift for each upstream it was served by.
    pub(super) fn clear_serving(&mut self, node: &str, at: Timestamp) -> Vec<TierShift> {
        let Self { nodes, names, .. } = self;
        let Some(traffic) = nodes.get_mut(node) else { return Vec::new() };
        let shift = |observation: &mut UpstreamObservation| {
            let from = Some(u32::from(observation.serving.take()?));
            let upstream = names.values()[observation.number as usize].clone();
            Some(TierShift { node: node.to_owned(), upstream, from, to: None, at, errors: 0 })
        };
        traffic.upstreams.iter_mut().filter_map(shift).collect()
    }

    /// Drops nodes without a stream and without a report for [`RETENTION`], check results of that age, and
    /// endpoints that belong to no target of `build`.
    pub(super) fn drop_expired(&mut self, now: Timestamp, build: &Build) {
        let oldest = now.saturating_sub(RETENTION).unwrap_or(now).as_millisecond();
        self.nodes.retain(|_, traffic| traffic.is_connected || traffic.last >= oldest);
        self.checks.drop_before(u32::try_from(oldest / 1000).unwrap_or_default());
        self.drop_endpoints(build);
    }

    /// Drops the observations of endpoints that belong to no target any more, so that their numbers can be
    /// reused.
    fn drop_endpoints(&mut self, build: &Build) {
        for (name, upstream) in self.names.values().iter().zip(&mut self.upstreams) {
            let released = upstream.release_endpoints(ResolvedUpstream::find(name.as_str(), build));
            if released.is_empty() {
                continue;
            }
            self.checks.remove_endpoints(upstream.number, &released);
            for node in self.nodes.values_mut() {
                node.remove_endpoints(upstream.number, &released);
            }
        }
    }
}
