//! What was seen of one upstream, by all Envoys together.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::checks::{Checked, NodeChecks};
use super::{Seen, TargetSeen};
use crate::model::target::Address;
use crate::model::upstream::Upstream;

/// What was last seen longer ago than this, and than two and a half of the reports that should have come since, is old.
const FRESH: SignedDuration = SignedDuration::from_millis(2_500);

/// What was seen of an upstream, by all Envoys.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Picture {
    /// The tier that serves at most Envoys that sent requests of late, or did last: as they have them.
    pub serving: Option<u32>,
    /// Since when the first of these Envoys is served by it.
    pub since: Option<Timestamp>,
    /// No Envoy sent requests of late: all of this is what was seen last.
    pub is_stale: bool,
    /// Requests to targets, retries too.
    pub requests_per_second: f64,
    /// By node.
    pub nodes: BTreeMap<Arc<str>, NodePicture>,
    /// By target.
    pub targets: BTreeMap<Address, TargetPicture>,
    /// The nodes that check its targets on our behalf, and said so of late.
    pub checked_by: Vec<Arc<str>>,
}

/// What was seen of an upstream by one Envoy.
#[derive(Debug, Clone, PartialEq)]
pub struct NodePicture {
    /// The tier that serves, as this Envoy has them.
    pub serving: Option<u32>,
    /// Since when.
    pub since: Timestamp,
    /// When it last sent requests.
    pub last: Timestamp,
    /// That was too long ago.
    pub is_stale: bool,
    /// Requests to targets, retries too.
    pub requests_per_second: f64,
    /// What it sends to each target, and what it thinks of it.
    pub targets: BTreeMap<Address, NodeTarget>,
}

/// What one Envoy sends to a target.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct NodeTarget {
    /// None when it never knew.
    pub is_healthy: Option<bool>,
    /// Percent of its requests to the upstream.
    pub share: f64,
    /// Retries too.
    pub requests_per_second: f64,
}

/// What was seen of a target, by all Envoys.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TargetPicture {
    /// What most of those say that know; of what was seen last, if nothing is fresh. None when nobody ever knew.
    pub is_healthy: Option<bool>,
    /// Since when the first of those says so.
    pub since: Option<Timestamp>,
    /// Nobody knows of late.
    pub is_stale: bool,
    /// Percent of the requests to the upstream.
    pub share: f64,
    /// Retries too.
    pub requests_per_second: f64,
    /// The nodes that say so.
    pub reported_by: Vec<Arc<str>>,
    /// The nodes that say otherwise.
    pub disagree: Vec<Arc<str>>,
}

impl Picture {
    /// The declared tier that gets the most requests, or did last; none when nobody sent any. Where distance counts it may
    /// be the first, while another tier serves each Envoy.
    pub fn busiest_tier(&self, upstream: &Upstream) -> Option<u32> {
        busiest_tier(upstream, |address| self.targets.get(address).map(|target| target.share))
    }
}

impl NodePicture {
    /// The declared tier to which it sends the most requests, or did last.
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

/// A picture in the making.
pub(super) struct Drawing<'a> {
    pub(super) upstream: &'a Upstream,
    now: Timestamp,
    /// It should say who says so.
    has_names: bool,
    nodes: BTreeMap<Arc<str>, NodePicture>,
    /// No report is fresh.
    is_stale: bool,
    /// Of what serves, by whether that is fresh, and the tier.
    serving: BTreeMap<(bool, u32), Class>,
    requests_per_second: f64,
    /// By the index of the target.
    targets: Vec<Option<TargetDrawing>>,
    checked_by: Vec<Arc<str>>,
}

/// What a node found of some endpoints.
type Found<'a> = (&'a NodeChecks, &'a [Checked]);

/// What all say of a target.
#[derive(Default)]
struct TargetDrawing {
    /// As it is and as it was last.
    requests_per_second: [f64; 2],
    /// By whether that is fresh, and whether it is healthy.
    votes: [[Class; 2]; 2],
}

/// Those who agree.
#[derive(Default)]
struct Class {
    count: usize,
    /// The first of them, in milliseconds of the epoch.
    since: i64,
    nodes: Vec<Arc<str>>,
}

impl Class {
    fn add(&mut self, since: i64) {
        self.since = if self.count == 0 { since } else { self.since.min(since) };
        self.count += 1;
    }
}

/// What a node says of a target.
struct Vote {
    target: usize,
    is_fresh: bool,
    /// The newest report of its requests shows it.
    is_shown: bool,
    is_healthy: bool,
    since: u32,
}

impl Vote {
    /// Stands beside what the node says of other targets. A name is as healthy as the healthiest of its addresses.
    fn join(self, votes: &mut Vec<Self>) {
        match votes.iter_mut().find(|known| known.target == self.target) {
            Some(known) if (known.is_fresh, known.is_healthy) >= (self.is_fresh, self.is_healthy) => {}
            Some(known) => *known = self,
            None => votes.push(self),
        }
    }
}

/// What `live::seconds_of` was made of, without its fraction.
fn time_of(seconds: u32) -> Timestamp {
    time(i64::from(seconds) * 1000)
}

fn time(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH)
}

impl<'a> Drawing<'a> {
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
        self.now.duration_since(time_of(seconds)) <= FRESH + some_reports
    }

    pub(super) fn add(
        &mut self,
        (node, interval): (&Arc<str>, f32),
        (seen, seen_targets): (&Seen, &[TargetSeen]),
        found: Option<Found<'_>>,
        targets: &[Option<usize>],
    ) {
        let is_fresh = self.is_fresh(seen.last, interval);
        let mut requests_per_second = 0.0;
        let mut votes: Vec<Vote> = Vec::new();
        let mut sent: Vec<(usize, f64)> = Vec::new();
        for own in seen_targets {
            let Some(target) = targets[usize::from(own.number)] else { continue };
            let drawing = self.targets[target].get_or_insert_default();
            let last = f64::from(own.requests_per_second);
            let rate = if is_fresh { last } else { 0.0 };
            requests_per_second += rate;
            sent.push((target, last));
            drawing.requests_per_second[0] += rate;
            drawing.requests_per_second[1] += last;
            if let Some(is_healthy) = own.health.is_healthy() {
                let is_fresh = self.is_fresh(seen.last.saturating_sub(own.health.age()), interval);
                let is_shown = is_fresh && own.health.age() == 0;
                Vote { target, is_fresh, is_shown, is_healthy, since: own.since }.join(&mut votes);
            }
        }
        // Traffic shows more than checks do, as long as there is some.
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
        let serving = seen.serving.map(u32::from);
        if let Some(serving) = serving {
            self.serving.entry((is_fresh, serving)).or_default().add(seen.since);
        }
        if let Some(targets) = targets {
            let (since, last) = (time(seen.since), time_of(seen.last));
            let told =
                NodePicture { serving, since, last, is_stale: !is_fresh, requests_per_second, targets };
            self.nodes.insert(node.clone(), told);
        }
    }

    /// What a node sends to each target, or did last: so many requests a second.
    fn sent(&self, sent: &[(usize, f64)], is_fresh: bool, votes: &[Vote]) -> BTreeMap<Address, NodeTarget> {
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

    /// What a node found that sent no requests to the upstream.
    pub(super) fn add_checks(&mut self, node: &Arc<str>, found: Found<'_>, targets: &[Option<usize>]) {
        let votes = self.votes(node, found, targets);
        self.cast(node, votes);
    }

    /// What the checks of a node say of each target.
    fn votes(
        &mut self,
        node: &Arc<str>,
        (checks, endpoints): Found<'_>,
        targets: &[Option<usize>],
    ) -> Vec<Vote> {
        let is_fresh = self.is_fresh(checks.at, checks.interval);
        if is_fresh {
            self.checked_by.push(node.clone());
        }
        let mut votes = Vec::new();
        for Checked { number, is_healthy, since } in endpoints.iter().copied() {
            let Some(target) = targets[usize::from(number)] else { continue };
            Vote { target, is_fresh, is_shown: false, is_healthy, since }.join(&mut votes);
        }
        votes
    }

    fn cast(&mut self, node: &Arc<str>, votes: Vec<Vote>) {
        for Vote { target, is_fresh, is_healthy, since, .. } in votes {
            let votes = &mut self.targets[target].get_or_insert_default().votes;
            let class = &mut votes[usize::from(is_fresh)][usize::from(is_healthy)];
            class.add(i64::from(since) * 1000);
            if self.has_names {
                class.nodes.push(node.clone());
            }
        }
    }

    pub(super) fn finish(self) -> Picture {
        let Self { upstream, nodes, is_stale, serving, requests_per_second, targets, mut checked_by, .. } =
            self;
        checked_by.sort();
        // Those that know, or, if nobody does of late, those that did.
        let counting = serving.iter().filter(|((is_fresh, _), _)| *is_fresh || is_stale);
        let most = counting.max_by_key(|((_, tier), class)| (class.count, u32::MAX - *tier));
        let (serving, since) = most.map(|((_, tier), class)| (*tier, time(class.since))).unzip();
        // As it is, or, if nobody sends anything, as it was last.
        let which = usize::from(is_stale);
        let all: f64 = targets.iter().flatten().map(|target| target.requests_per_second[which]).sum();
        let drawn = upstream.targets.iter().zip(targets);
        let targets =
            drawn.filter_map(|(target, drawing)| Some((target.address.clone(), drawing?.finish(which, all))));
        let targets = targets.collect();
        Picture { serving, since, is_stale, requests_per_second, nodes, targets, checked_by }
    }
}

impl TargetDrawing {
    /// The picture, where all targets had so many requests in a second, as it is or as it was.
    fn finish(self, which: usize, all: f64) -> TargetPicture {
        let requests_per_second = self.requests_per_second;
        let [old, fresh] = self.votes;
        let is_stale = fresh.iter().all(|class| class.count == 0);
        let [unhealthy, healthy] = if is_stale { old } else { fresh };
        let is_healthy = healthy.count >= unhealthy.count;
        let (mut most, mut others) = if is_healthy { (healthy, unhealthy) } else { (unhealthy, healthy) };
        most.nodes.sort();
        others.nodes.sort();
        let is_known = most.count > 0;
        TargetPicture {
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
