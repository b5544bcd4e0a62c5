//! What Envoys found that check targets on our behalf: the health of those without traffic, too.

use std::collections::HashMap;
use std::sync::Arc;

/// The findings of all Envoys that check.
#[derive(Debug, Default)]
pub(super) struct Checks {
    nodes: HashMap<Arc<str>, NodeChecks>,
}

/// What one Envoy found.
#[derive(Debug)]
pub(super) struct NodeChecks {
    /// When it said so, in seconds of the epoch.
    pub(super) at: u32,
    /// How often it does, in seconds.
    pub(super) interval: f32,
    /// By the number of the upstream, its endpoints in the order of their numbers.
    upstreams: HashMap<u32, Vec<Checked>>,
}

/// What was found of an endpoint.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checked {
    /// Of the endpoint.
    pub(super) number: u16,
    pub(super) is_healthy: bool,
    /// Since when, in seconds of the epoch.
    pub(super) since: u32,
}

impl Checks {
    /// Takes in what a node found: the number of each endpoint, by that of its upstream, and whether it is healthy.
    pub(super) fn take(&mut self, node: &str, at: u32, interval: f32, found: HashMap<u32, Vec<(u16, bool)>>) {
        let (node, before) = self
            .nodes
            .remove_entry(node)
            .map_or_else(|| (node.into(), HashMap::new()), |(node, before)| (node, before.upstreams));
        let upstreams = found.into_iter().map(|(upstream, mut endpoints)| {
            endpoints.sort_unstable_by_key(|(number, _)| *number);
            let before = before.get(&upstream).map(Vec::as_slice).unwrap_or_default();
            let checked = |(number, is_healthy)| {
                let known = before.binary_search_by_key(&number, |known| known.number).ok();
                let known = known.map(|place| before[place]).filter(|known| known.is_healthy == is_healthy);
                Checked { number, is_healthy, since: known.map_or(at, |known| known.since) }
            };
            (upstream, endpoints.into_iter().map(checked).collect())
        });
        let upstreams = upstreams.collect();
        self.nodes.insert(node, NodeChecks { at, interval, upstreams });
    }

    /// Who checked an upstream, and what was found.
    pub(super) fn of(&self, upstream: u32) -> HashMap<&Arc<str>, (&NodeChecks, &[Checked])> {
        let nodes = self.nodes.iter();
        nodes
            .filter_map(|(node, checks)| Some((node, (checks, checks.upstreams.get(&upstream)?.as_slice()))))
            .collect()
    }

    /// Forgets what was said before then, in seconds of the epoch.
    pub(super) fn forget(&mut self, oldest: u32) {
        self.nodes.retain(|_, checks| checks.at >= oldest);
    }

    /// Forgets endpoints of an upstream.
    pub(super) fn forget_endpoints(&mut self, upstream: u32, gone: &[u32]) {
        for checks in self.nodes.values_mut() {
            if let Some(endpoints) = checks.upstreams.get_mut(&upstream) {
                endpoints.retain(|checked| !gone.contains(&u32::from(checked.number)));
            }
        }
    }
}
