//! Summary of the observations of all Envoys about one upstream.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::checks::{CheckResult, NodeCheckResults};
use super::node::{EndpointObservation, UpstreamObservation};
use crate::failover::orders::time::Timed;
use crate::model::target::Address;
use crate::model::upstream::Upstream;

/// Age, beyond two and a half report intervals, from which an observation is stale.
const FRESH: SignedDuration = SignedDuration::from_millis(2_500);

/// Observations of all Envoys about an upstream.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    /// Tier that serves at most Envoys that sent requests recently or, if none did, that ever did. Tiers are
    /// counted as each Envoy has them.
    pub serving: Option<u32>,
    /// Time since which the first of these Envoys is served by that tier.
    pub since: Option<Timestamp>,
    /// True if no Envoy sent requests recently. The serving tier and the shares are then the last known ones.
    pub is_stale: bool,
    /// Requests to targets per second, including retries.
    pub requests_per_second: f64,
    /// Observations by node.
    pub nodes: BTreeMap<Arc<str>, NodeSummary>,
    /// Observations by target.
    pub targets: BTreeMap<Address, TargetSummary>,
    /// Nodes that recently sent results of health checks of its targets.
    pub checked_by: Vec<Arc<str>>,
}

impl Timed for Summary {
    fn map_times(&mut self, map: &dyn Fn(Timestamp) -> Timestamp) {
        self.since.map_times(map);
        for node in self.nodes.values_mut() {
            node.since.map_times(map);
            node.last.map_times(map);
        }
        self.targets.values_mut().for_each(|target| target.since.map_times(map));
    }
}

/// Observations of one Envoy about an upstream.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeSummary {
    /// Tier that serves, as this Envoy counts tiers.
    pub serving: Option<u32>,
    /// Time since which that tier serves.
    pub since: Timestamp,
    /// Time of its last report with requests.
    pub last: Timestamp,
    /// True if that report is too old.
    pub is_stale: bool,
    /// Requests to targets per second, including retries.
    pub requests_per_second: f64,
    /// Traffic to each target, and its health.
    pub targets: BTreeMap<Address, NodeTarget>,
}

/// Traffic of one Envoy to a target.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct NodeTarget {
    /// Health of the target; none if the Envoy never knew it.
    pub is_healthy: Option<bool>,
    /// Percentage of the Envoy's requests to the upstream.
    pub share: f64,
    /// Requests per second, including retries.
    pub requests_per_second: f64,
}

/// Observations of all Envoys about a target.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TargetSummary {
    /// Health by majority of the Envoys that know it recently or, if none does, that ever did; none if none
    /// ever did. A tie is healthy.
    pub is_healthy: Option<bool>,
    /// Time since which the first Envoy of that majority reports this health.
    pub since: Option<Timestamp>,
    /// True if no Envoy knows the health recently.
    pub is_stale: bool,
    /// Percentage of all requests to the upstream.
    pub share: f64,
    /// Requests per second, including retries.
    pub requests_per_second: f64,
    /// Nodes that report this health.
    pub reported_by: Vec<Arc<str>>,
    /// Nodes that report the opposite health.
    pub disagree: Vec<Arc<str>>,
}

impl Summary {
    /// Returns the declared tier that gets the most requests, or last got them; none if there were no
    /// requests. With locality failover it can be the first although each Envoy is served by a later tier, as
    /// that Envoy counts tiers.
    pub fn busiest_tier(&self, upstream: &Upstream) -> Option<u32> {
        busiest_tier(upstream, |address| self.targets.get(address).map(|target| target.share))
    }
}

impl NodeSummary {
    /// Returns the declared tier to which it sends the most requests, or last sent them.
    pub fn busiest_tier(&self, upstream: &Upstream) -> Option<u32> {
        busiest_tier(upstream, |address| self.targets.get(address).map(|target| target.share))
    }
}

fn busiest_tier(upstream: &Upstream, share: impl Fn(&Address) -> Option<f64>) -> Option<u32> {
    let mut tiers: BTreeMap<u32, f64> = BTreeMap::new();
    for target in &upstream.targets {
        *tiers.entry(target.tier).or_default() += share(&target.address).unwrap_or_default();
    }
    let busy = tiers.into_iter().filter(|(_, share)| *share > 0.0);
    busy.max_by(|(one, a), (other, b)| a.total_cmp(b).then(other.cmp(one))).map(|(tier, _)| tier)
}

/// Builder of a summary.
pub(super) struct SummaryBuilder<'a> {
    pub(super) upstream: &'a Upstream,
    now: Timestamp,
    /// True to include the nodes with their names.
    has_names: bool,
    nodes: BTreeMap<Arc<str>, NodeSummary>,
    /// True while no report is fresh.
    is_stale: bool,
    /// Nodes by freshness of their last report and by the tier that serves them.
    serving: BTreeMap<(bool, u32), Agreement>,
    requests_per_second: f64,
    /// Votes and request rates by the index of the target.
    targets: Vec<Option<TargetVotes>>,
    checked_by: Vec<Arc<str>>,
}

/// Check results of a node for the endpoints of the upstream.
type UpstreamChecks<'a> = (&'a NodeCheckResults, &'a [CheckResult]);

/// Votes of all nodes on a target, and its request rate.
#[derive(Default)]
struct TargetVotes {
    /// Requests per second: of fresh reports, and of the last reports.
    requests_per_second: [f64; 2],
    /// Votes by freshness and health: `votes[is_fresh][is_healthy]`.
    votes: [[Agreement; 2]; 2],
}

/// Nodes that agree.
#[derive(Default)]
struct Agreement {
    count: usize,
    /// Earliest time since which one of them agrees, in milliseconds since the epoch.
    since: i64,
    nodes: Vec<Arc<str>>,
}

impl Agreement {
    fn add(&mut self, since: i64) {
        self.since = if self.count == 0 { since } else { self.since.min(since) };
        self.count += 1;
    }
}

/// Health of a target according to a node.
struct HealthVote {
    target: usize,
    is_fresh: bool,
    /// True if the newest report of the node confirms it.
    is_shown: bool,
    is_healthy: bool,
    since: u32,
}

impl HealthVote {
    /// Adds the vote to those of the same node. Of several votes on a target (a host name with several
    /// addresses), a fresh one wins, then a healthy one.
    fn join(self, votes: &mut Vec<Self>) {
        match votes.iter_mut().find(|known| known.target == self.target) {
            Some(known) if (known.is_fresh, known.is_healthy) >= (self.is_fresh, self.is_healthy) => {}
            Some(known) => *known = self,
            None => votes.push(self),
        }
    }
}

/// Inverse of [`seconds_since_epoch`](super::node::seconds_since_epoch); fractions of a second are lost.
fn time_of(seconds: u32) -> Timestamp {
    time(i64::from(seconds) * 1000)
}

fn time(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH)
}

impl<'a> SummaryBuilder<'a> {
    pub(super) fn new(upstream: &'a Upstream, now: Timestamp, has_names: bool) -> Self {
        Self {
            upstream,
            now,
            has_names,
            nodes: BTreeMap::new(),
            is_stale: true,
            serving: BTreeMap::new(),
            requests_per_second: 0.0,
            targets: upstream.targets.iter().map(|_| None).collect(),
            checked_by: Vec::new(),
        }
    }

    fn is_fresh(&self, seconds: u32, interval: f32) -> bool {
        let some_reports = SignedDuration::try_from_secs_f32(2.5 * interval).unwrap_or(FRESH);
        self.now.duration_since(time_of(seconds)) <= FRESH.saturating_add(some_reports)
    }

    pub(super) fn add(
        &mut self,
        (node, interval): (&Arc<str>, f32),
        (observation, endpoints): (&UpstreamObservation, &[EndpointObservation]),
        found: Option<UpstreamChecks<'_>>,
        targets: &[Option<usize>],
    ) {
        let is_fresh = self.is_fresh(observation.last, interval);
        let mut requests_per_second = 0.0;
        let mut votes: Vec<HealthVote> = Vec::new();
        let mut sent: Vec<(usize, f64)> = Vec::new();
        for own in endpoints {
            let Some(target) = targets[usize::from(own.number)] else { continue };
            let target_votes = self.targets[target].get_or_insert_default();
            let last = f64::from(own.requests_per_second);
            let rate = if is_fresh { last } else { 0.0 };
            requests_per_second += rate;
            sent.push((target, last));
            target_votes.requests_per_second[0] += rate;
            target_votes.requests_per_second[1] += last;
            if let Some(is_healthy) = own.health.is_healthy() {
                let is_fresh = self.is_fresh(observation.last.saturating_sub(own.health.age()), interval);
                let is_shown = is_fresh && own.health.age() == 0;
                HealthVote { target, is_fresh, is_shown, is_healthy, since: own.since }.join(&mut votes);
            }
        }
        // Health that the last report confirms overrides checks; any other yields to a fresh check.
        for vote in found.map(|found| self.votes(node, found, targets)).unwrap_or_default() {
            match votes.iter_mut().find(|known| known.target == vote.target) {
                Some(known) if known.is_shown || !vote.is_fresh => {}
                Some(known) => *known = vote,
                None => votes.push(vote),
            }
        }
        let targets = self.has_names.then(|| self.sent(&sent, is_fresh, &votes));
        self.cast(node, votes);
        self.is_stale &= !is_fresh;
        self.requests_per_second += requests_per_second;
        let serving = observation.serving.map(u32::from);
        if let Some(serving) = serving {
            self.serving.entry((is_fresh, serving)).or_default().add(observation.since);
        }
        if let Some(targets) = targets {
            let (since, last) = (time(observation.since), time_of(observation.last));
            let summary =
                NodeSummary { serving, since, last, is_stale: !is_fresh, requests_per_second, targets };
            self.nodes.insert(node.clone(), summary);
        }
    }

    /// Returns the traffic of a node to each target. `sent` has the requests per second of the last report,
    /// by target.
    fn sent(
        &self,
        sent: &[(usize, f64)],
        is_fresh: bool,
        votes: &[HealthVote],
    ) -> BTreeMap<Address, NodeTarget> {
        let all: f64 = sent.iter().map(|(_, rate)| rate).sum();
        let mut targets: BTreeMap<usize, NodeTarget> = BTreeMap::new();
        for (target, rate) in sent {
            let own = targets.entry(*target).or_default();
            own.share += if all > 0.0 { 100.0 * rate / all } else { 0.0 };
            own.requests_per_second += if is_fresh { *rate } else { 0.0 };
        }
        for vote in votes {
            targets.entry(vote.target).or_default().is_healthy = Some(vote.is_healthy);
        }
        let address =
            |(target, own): (usize, NodeTarget)| (self.upstream.targets[target].address.clone(), own);
        targets.into_iter().map(address).collect()
    }

    /// Adds the check results of a node that sent no requests to the upstream.
    pub(super) fn add_checks(
        &mut self,
        node: &Arc<str>,
        found: UpstreamChecks<'_>,
        targets: &[Option<usize>],
    ) {
        let votes = self.votes(node, found, targets);
        self.cast(node, votes);
    }

    /// Returns the vote of each check result of a node. A node with fresh results is added to `checked_by`.
    fn votes(
        &mut self,
        node: &Arc<str>,
        (checks, endpoints): UpstreamChecks<'_>,
        targets: &[Option<usize>],
    ) -> Vec<HealthVote> {
        let is_fresh = self.is_fresh(checks.at, checks.interval);
        if is_fresh {
            self.checked_by.push(node.clone());
        }
        let mut votes = Vec::new();
        for CheckResult { number, is_healthy, since } in endpoints.iter().copied() {
            let Some(target) = targets[usize::from(number)] else { continue };
            HealthVote { target, is_fresh, is_shown: false, is_healthy, since }.join(&mut votes);
        }
        votes
    }

    fn cast(&mut self, node: &Arc<str>, votes: Vec<HealthVote>) {
        for HealthVote { target, is_fresh, is_healthy, since, .. } in votes {
            let votes = &mut self.targets[target].get_or_insert_default().votes;
            let class = &mut votes[usize::from(is_fresh)][usize::from(is_healthy)];
            class.add(i64::from(since) * 1000);
            if self.has_names {
                class.nodes.push(node.clone());
            }
        }
    }

    pub(super) fn finish(self) -> Summary {
        let Self { upstream, nodes, is_stale, serving, requests_per_second, targets, mut checked_by, .. } =
            self;
        checked_by.sort();
        // Nodes with fresh reports count or, if there are none, all nodes.
        let counting = serving.iter().filter(|((is_fresh, _), _)| *is_fresh || is_stale);
        let most = counting.max_by_key(|((_, tier), class)| (class.count, u32::MAX - *tier));
        let (serving, since) = most.map(|((_, tier), class)| (*tier, time(class.since))).unzip();
        // Index of the current rates or, if all reports are stale, of the last known ones.
        let which = usize::from(is_stale);
        let all: f64 = targets.iter().flatten().map(|target| target.requests_per_second[which]).sum();
        let voted = upstream.targets.iter().zip(targets);
        let targets = voted.filter_map(|(target, target_votes)| {
            Some((target.address.clone(), target_votes?.finish(which, all)))
        });
        let targets = targets.collect();
        Summary { serving, since, is_stale, requests_per_second, nodes, targets, checked_by }
    }
}

impl TargetVotes {
    /// Returns the summary of the target. `which` selects the current rates (0) or the last known ones (1),
    /// of which `all` is the sum over all targets.
    fn finish(self, which: usize, all: f64) -> TargetSummary {
        let requests_per_second = self.requests_per_second;
        let [old, fresh] = self.votes;
        let is_stale = fresh.iter().all(|class| class.count == 0);
        let [unhealthy, healthy] = if is_stale { old } else { fresh };
        let is_healthy = healthy.count >= unhealthy.count;
        let (mut most, mut others) = if is_healthy { (healthy, unhealthy) } else { (unhealthy, healthy) };
        most.nodes.sort();
        others.nodes.sort();
        let is_known = most.count > 0;
        TargetSummary {
            is_healthy: is_known.then_some(is_healthy),
            since: is_known.then(|| time(most.since)),
            is_stale,
            share: if all > 0.0 { 100.0 * requests_per_second[which] / all } else { 0.0 },
            requests_per_second: requests_per_second[0],
            reported_by: most.nodes,
            disagree: others.nodes,
        }
    }
}
