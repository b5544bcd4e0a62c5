//! Observations of all nodes, by node, upstream and endpoint.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::checks::TargetChecks;
use super::counters::UpstreamCounters;
use super::interner::Interner;
use super::node::NodeTraffic;
use super::upstream::{ResolvedUpstream, UpstreamTraffic};
use crate::model::name::Name;

/// Observations of all nodes.
#[derive(Debug, Default)]
pub(super) struct Observations {
    pub(super) nodes: HashMap<Arc<str>, NodeTraffic>,
    pub(super) names: Interner<Name>,
    /// State of each upstream, by its number.
    pub(super) upstreams: Vec<UpstreamTraffic>,
    pub(super) checks: TargetChecks,
    /// Nodes that left, with the time in milliseconds since the epoch, in order of departure.
    pub(super) departures: VecDeque<(i64, Arc<str>)>,
}

impl Observations {
    /// Returns the state of an upstream, brought up to date with its config.
    pub(super) fn upstream(&mut self, resolved: ResolvedUpstream<'_>) -> &mut UpstreamTraffic {
        let number = self.names.intern(&resolved.upstream.name);
        if self.upstreams.len() == number as usize {
            self.upstreams.push(UpstreamTraffic::new(number));
        }
        let upstream = &mut self.upstreams[number as usize];
        upstream.refresh(resolved);
        upstream
    }

    /// Returns the counters of an upstream; all zero if no Envoy reported it.
    pub(super) fn counters(&self, upstream: &Name) -> UpstreamCounters {
        let number = self.names.find(upstream);
        number.map_or_else(UpstreamCounters::default, |number| self.upstreams[number as usize].counters)
    }

    /// Removes the observations of a node, to be inserted again; new ones if there are none.
    pub(super) fn take_node(&mut self, node: &str) -> (Arc<str>, NodeTraffic) {
        self.nodes.remove_entry(node).unwrap_or_else(|| (node.into(), NodeTraffic::default()))
    }
}
