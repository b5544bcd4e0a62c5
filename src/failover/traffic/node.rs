//! Observations of one node: 32 bytes for each upstream that it sends to, and 12 bytes for each endpoint.

use std::ops::Range;

use jiff::Timestamp;

use super::health::ObservedHealth;
use super::load::TargetLoad;
use crate::envoy::node::Locality;

/// Observations of one node.
#[derive(Debug, Default)]
pub(super) struct NodeTraffic {
    /// True while its load report stream is open.
    pub(super) is_connected: bool,
    /// Time at which its stream last ended, in milliseconds since the epoch.
    pub(super) left: i64,
    /// Time of its last report or departure, in milliseconds since the epoch.
    pub(super) last: i64,
    /// Interval of its reports, in seconds.
    pub(super) interval: f32,
    /// Locality of the node, if known.
    pub(super) locality: Option<Box<Locality>>,
    /// Upstreams the node sends to, sorted by number.
    pub(super) upstreams: Vec<UpstreamObservation>,
    /// Endpoints of all its upstreams; each upstream owns a range.
    pub(super) endpoints: Vec<EndpointObservation>,
}

/// Observations of one node about one upstream.
#[derive(Debug)]
pub(super) struct UpstreamObservation {
    /// Number of the upstream.
    pub(super) number: u32,
    pub(super) serving: Option<u8>,
    /// Time since which that tier serves, in milliseconds since the epoch.
    pub(super) since: i64,
    /// Time of the last report, in seconds since the epoch.
    pub(super) last: u32,
    /// Errors of the first tier in the last report.
    pub(super) errors: u32,
    /// Start and length of its range in [`NodeTraffic::endpoints`]. The range is sorted by endpoint number.
    first: u32,
    count: u32,
}

/// Observations of one node about one endpoint.
#[derive(Debug, Clone, Copy)]
pub(super) struct EndpointObservation {
    /// Number of the endpoint.
    pub(super) number: u16,
    pub(super) health: ObservedHealth,
    /// Time since which the health is the same, in seconds since the epoch.
    pub(super) since: u32,
    pub(super) requests_per_second: f32,
}

/// Returns seconds since the epoch; 0 before 1970 and after 2106.
pub(super) fn seconds_since_epoch(at: Timestamp) -> u32 {
    u32::try_from(at.as_second()).unwrap_or_default()
}

impl NodeTraffic {
    /// Returns the position of an upstream, or the position at which to insert it.
    fn position(&self, number: u32) -> Result<usize, usize> {
        self.upstreams.binary_search_by_key(&number, |observation| observation.number)
    }

    /// Returns the observations of an upstream and its endpoints.
    pub(super) fn find(&self, number: u32) -> Option<(&UpstreamObservation, &[EndpointObservation])> {
        let observation = &self.upstreams[self.position(number).ok()?];
        Some((observation, &self.endpoints[observation.range()]))
    }

    /// Returns the observations of an upstream, which are created if missing, and the endpoints of all
    /// upstreams.
    pub(super) fn entry(
        &mut self,
        number: u32,
        now: i64,
    ) -> (&mut UpstreamObservation, &mut Vec<EndpointObservation>) {
        let position = self.position(number).unwrap_or_else(|position| {
            self.upstreams.insert(position, UpstreamObservation::new(number, now));
            position
        });
        (&mut self.upstreams[position], &mut self.endpoints)
    }

    /// Drops the observations of these endpoints of an upstream.
    pub(super) fn remove_endpoints(&mut self, upstream: u32, removed: &[u32]) {
        let Ok(position) = self.position(upstream) else { return };
        let observation = &mut self.upstreams[position];
        let own = self.endpoints[observation.range()].iter();
        let left = own.filter(|endpoint| !removed.contains(&u32::from(endpoint.number)));
        let left: Vec<EndpointObservation> = left.copied().collect();
        observation.relocate(&mut self.endpoints, &left);
        self.compact();
    }

    /// Compacts the storage: drops endpoints in no range, and spare capacity.
    pub(super) fn compact(&mut self) {
        self.upstreams.shrink_to_fit();
        let count: usize = self.upstreams.iter().map(|observation| observation.range().len()).sum();
        if count < self.endpoints.len() {
            let scattered = std::mem::replace(&mut self.endpoints, Vec::with_capacity(count));
            for observation in &mut self.upstreams {
                observation.relocate(&mut self.endpoints, &scattered[observation.range()]);
            }
        }
        self.endpoints.shrink_to_fit();
    }
}

impl UpstreamObservation {
    fn new(number: u32, now: i64) -> Self {
        Self { number, serving: None, since: now, last: 0, errors: 0, first: 0, count: 0 }
    }

    /// Returns its range in [`NodeTraffic::endpoints`].
    pub(super) fn range(&self) -> Range<usize> {
        self.first as usize..(self.first + self.count) as usize
    }

    /// Records the serving tier and the request rate of each endpoint, and ages their health.
    pub(super) fn record(
        &mut self,
        endpoints: &mut Vec<EndpointObservation>,
        at: Timestamp,
        serving: Option<u32>,
        seconds: f32,
        loads: &[TargetLoad],
    ) {
        let passed = seconds_since_epoch(at).saturating_sub(self.last);
        self.last = seconds_since_epoch(at);
        // Envoy has at most 128 tiers.
        let serving = serving.and_then(|serving| u8::try_from(serving).ok());
        if serving.is_some() && serving != self.serving {
            (self.serving, self.since) = (serving, at.as_millisecond());
        }
        self.ensure_endpoints(endpoints, loads.iter().map(|load| load.number));
        let own = &mut endpoints[self.range()];
        for endpoint in &mut *own {
            endpoint.requests_per_second = 0.0;
            endpoint.health = endpoint.health.aged(passed);
        }
        for load in loads {
            if let Some(position) = position(own, load.number) {
                let count = load.success.saturating_add(load.errors);
                own[position].requests_per_second += count as f32 / seconds;
            }
        }
    }

    /// Ensures an entry for each of these endpoints.
    pub(super) fn ensure_endpoints(
        &mut self,
        endpoints: &mut Vec<EndpointObservation>,
        numbers: impl Iterator<Item = u16>,
    ) {
        let own = &endpoints[self.range()];
        let new: Vec<u16> = numbers.filter(|number| position(own, *number).is_none()).collect();
        if new.is_empty() {
            return;
        }
        let new = new.into_iter().map(|number| EndpointObservation {
            number,
            health: ObservedHealth::default(),
            since: 0,
            requests_per_second: 0.0,
        });
        let mut all: Vec<EndpointObservation> = own.iter().copied().chain(new).collect();
        all.sort_by_key(|endpoint| endpoint.number);
        all.dedup_by_key(|endpoint| endpoint.number);
        self.relocate(endpoints, &all);
    }

    /// Appends its entries to `endpoints` and points its range there. The old range is unused until the next
    /// compaction.
    fn relocate(&mut self, endpoints: &mut Vec<EndpointObservation>, own: &[EndpointObservation]) {
        let number = |count: usize| u32::try_from(count).expect("a report has 16 MB at the most");
        (self.first, self.count) = (number(endpoints.len()), number(own.len()));
        endpoints.extend_from_slice(own);
    }
}

/// Returns the position of an endpoint among those of its upstream.
fn position(endpoints: &[EndpointObservation], number: u16) -> Option<usize> {
    endpoints.binary_search_by_key(&number, |endpoint| endpoint.number).ok()
}
