//! Traffic of all Envoys, folded from their load reports: serving tier, requests and health of each target.
//!
//! A tier is counted as the reporting Envoy has it: the declared tier or, with locality failover, one tier
//! for each distance within a declared tier ([`Ranks`]). With locality failover, a shift to another zone is
//! therefore a failover.
//!
//! A load report holds, for each endpoint that got requests, the number of requests and their outcome. It
//! says nothing about the health of endpoints without requests, so health is derived from traffic. A target
//! that answers is healthy. A target is unhealthy if it fails requests, or if it gets none while its tier or
//! a later one serves in its place, even if it never got any. The health of all other targets is known from
//! Envoys that run health checks for the control plane (HDS); health that neither source confirms becomes
//! stale.
//!
//! Reports are folded as they arrive. Changes are returned as [`Shift`]s, so that callers need no scan to
//! find them.
//!
//! A thousand Envoys with a thousand upstreams each make a million pairs, so the state of a pair is small: 32
//! bytes, and 12 bytes for each target. Names and addresses are interned as numbers, and most times are whole
//! seconds.

mod checks;
mod summary;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use self::checks::Checks;
use self::summary::Drawing;
pub use self::summary::{NodePicture, NodeTarget, Picture, TargetPicture};
use crate::build::Build;
use crate::config::document::upstream::{FailoverMode, LoadBalancer};
use crate::envoy::checks::Findings;
use crate::envoy::loads::{self, Report};
use crate::envoy::node::Locality;
use crate::model::addresses::Addresses;
use crate::model::locality::Ranks;
use crate::model::name::Name;
use crate::model::overrides::EndpointOverrides;
use crate::model::target::{Host, Target};
use crate::model::upstream::Upstream;

/// Retention of a node's observations after its last report.
const MEMORY: SignedDuration = SignedDuration::from_hours(1);

/// Time without a stream after which a node counts as gone. Envoy reopens a load report stream 5 s after it
/// ended, and every such stream ends now and then.
const ABSENCE: SignedDuration = SignedDuration::from_secs(20);

/// Percentage of the answered requests from which a standby counts as serving. A smaller share is retries.
const SERVES: u64 = 30;

/// Number of requests that a target should have got, by its weight, before a target without any counts as
/// unhealthy.
const ENOUGH: u64 = 20;

/// Minimum sum of requests in progress for a latency estimate, which is then accurate to about a fifth.
const MET: u64 = 20;

/// Change of the tier that serves an upstream at one Envoy.
#[derive(Debug, Clone, PartialEq)]
pub struct Shift {
    /// Id of the node.
    pub node: String,
    /// Name of the upstream.
    pub upstream: Name,
    /// Tier that served before; none if unknown.
    pub from: Option<u32>,
    /// Tier that serves now; none if the node is gone.
    pub to: Option<u32>,
    /// Time of the report, or of the end of the node's stream if the node is gone.
    pub at: Timestamp,
    /// Number of requests that the first tier failed in this report and the one before it.
    pub errors: u64,
}

/// Request counters of an upstream, since the start of the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests to targets, including retries.
    pub requests: u64,
    /// Requests that a target failed.
    pub errors: u64,
    /// Requests in progress at the end of a report, summed over all reports.
    pub in_progress: u64,
    /// Requests in progress times the interval of the report in milliseconds, summed over all reports.
    pub busy: u64,
}

/// Traffic of all Envoys, from load reports and health checks.
#[derive(Debug, Default)]
pub struct Live {
    heard: Mutex<Heard>,
}

#[derive(Debug, Default)]
struct Heard {
    nodes: HashMap<Arc<str>, NodeSeen>,
    upstreams: Numbers<Name>,
    /// State of each upstream, by its number.
    met: Vec<Met>,
    checks: Checks,
    /// Nodes that left, with the time in milliseconds since the epoch, in order of departure.
    left: VecDeque<(i64, Arc<str>)>,
}

/// State of an upstream that got requests or was checked.
#[derive(Debug, Default)]
struct Met {
    /// Number of the upstream.
    number: u32,
    counted: Counted,
    /// Upstream from which `targets` and `endpoints` were derived; none to derive them again.
    upstream: Option<Arc<Upstream>>,
    /// Addresses of its host names from which they were derived.
    addresses: Addresses,
    /// Numbers of its endpoints.
    sockets: Numbers<SocketAddr>,
    /// Index of the target of each endpoint, by the number of the endpoint; none if it belongs to no target.
    targets: Vec<Option<usize>>,
    /// Endpoints of the declared targets: index of the target, number of the endpoint.
    endpoints: Vec<(usize, u16)>,
}

/// Counters of an upstream, with their values one or two minutes ago.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    totals: Totals,
    /// Minute of the newest report, since the epoch.
    minute: i64,
    /// Counters at the beginning of that minute, and of the minute before it.
    marks: [Totals; 2],
}

/// Interner: assigns small numbers to values and reuses those that were released.
#[derive(Debug)]
struct Numbers<T> {
    numbers: HashMap<T, u32>,
    /// Values by number.
    all: Vec<T>,
    /// Released numbers.
    free: Vec<u32>,
}

#[derive(Debug, Default)]
struct NodeSeen {
    /// True while its load report stream is open.
    is_here: bool,
    /// Time at which its stream last ended, in milliseconds since the epoch.
    left: i64,
    /// Time of its last report or departure, in milliseconds since the epoch.
    last: i64,
    /// Interval of its reports, in seconds.
    interval: f32,
    /// Locality of the node, if known.
    place: Option<Box<Locality>>,
    /// Upstreams the node sends to, sorted by number.
    upstreams: Vec<Seen>,
    /// Targets of all its upstreams; each upstream owns a range.
    targets: Vec<TargetSeen>,
}

/// Observations of one node about one upstream.
#[derive(Debug)]
struct Seen {
    /// Number of the upstream.
    number: u32,
    serving: Option<u8>,
    /// Time since which that tier serves, in milliseconds since the epoch.
    since: i64,
    /// Time of the last report, in seconds since the epoch.
    last: u32,
    /// Errors of the first tier in the last report.
    errors: u32,
    /// Start and length of its range in `NodeSeen::targets`. The range is sorted by endpoint number.
    first: u32,
    count: u32,
}

/// Observations of one node about one endpoint.
#[derive(Debug, Clone, Copy)]
struct TargetSeen {
    /// Number of the endpoint.
    number: u16,
    health: Health,
    /// Time since which the health is the same, in seconds since the epoch.
    since: u32,
    requests_per_second: f32,
}

/// Health of an endpoint, and its age: the time from its last confirmation to the last report. Two bits, and
/// 14 bits of seconds, which saturate at 16,383 (4.5 hours).
#[derive(Debug, Clone, Copy, Default)]
struct Health(u16);

impl Health {
    const IS_KNOWN: u16 = 1;
    const IS_HEALTHY: u16 = 2;
    const SECOND: u16 = 4;

    /// Returns health that was confirmed just now.
    fn now(is_healthy: bool) -> Self {
        Self(Self::IS_KNOWN | if is_healthy { Self::IS_HEALTHY } else { 0 })
    }

    fn is_healthy(self) -> Option<bool> {
        (self.0 & Self::IS_KNOWN != 0).then_some(self.0 & Self::IS_HEALTHY != 0)
    }

    /// Returns the age in seconds.
    fn age(self) -> u32 {
        u32::from(self.0 / Self::SECOND)
    }

    /// Returns the same health with its age increased by `seconds`.
    fn later(self, seconds: u32) -> Self {
        let age = self.age().saturating_add(seconds).min(u32::from(u16::MAX / Self::SECOND));
        Self(self.0 % Self::SECOND + age as u16 * Self::SECOND)
    }
}

/// Load of one endpoint in a report.
#[derive(Debug, Clone, Copy)]
struct Load {
    number: u16,
    tier: u32,
    success: u64,
    errors: u64,
}

/// Interval of a report.
#[derive(Debug, Clone, Copy)]
struct Spell {
    seconds: f32,
    /// Requests in progress at its end.
    in_progress: u64,
}

/// Upstream with the addresses that map endpoints to its targets, and the overrides in force.
#[derive(Clone, Copy)]
struct Pool<'b> {
    upstream: &'b Arc<Upstream>,
    addresses: &'b Addresses,
    endpoint_overrides: Option<&'b EndpointOverrides>,
}

impl Live {
    /// Folds a load report. Clusters that are not in `build` are ignored.
    pub fn fold(&self, node: &str, at: Timestamp, report: &Report, build: &Build) -> Vec<Shift> {
        let mut heard = self.heard();
        let (node, mut seen) =
            heard.nodes.remove_entry(node).unwrap_or_else(|| (node.into(), NodeSeen::default()));
        (seen.is_here, seen.last) = (true, at.as_millisecond());
        seen.interval = report.clusters().map(|it| it.seconds).reduce(f32::max).unwrap_or(seen.interval);
        let mut shifts = Vec::new();
        let mut loads = Vec::new();
        // Clusters of an aggregate are folded as one upstream.
        let mut parts: BTreeMap<&str, (Spell, Vec<Load>)> = BTreeMap::new();
        for cluster in report.clusters() {
            let (name, part) = split(cluster.name);
            let Some(pool) = Pool::of(name, build) else { continue };
            let ranks = pool.upstream.ranks(seen.place.as_deref());
            let met = heard.met(pool);
            let spell = Spell { seconds: cluster.seconds, in_progress: cluster.in_progress };
            let located = cluster.loads.iter().filter_map(|load| met.located(load, (pool, &ranks), part));
            if part.is_some() {
                let (of_all, loads) =
                    parts.entry(name).or_insert((Spell { in_progress: 0, ..spell }, Vec::new()));
                of_all.in_progress = of_all.in_progress.saturating_add(spell.in_progress);
                loads.extend(located);
            } else {
                loads.clear();
                loads.extend(located);
                shifts.extend(met.take((&node, &mut seen), at, pool, spell, &mut loads));
            }
        }
        for (name, (spell, mut loads)) in parts {
            let Some(pool) = Pool::of(name, build) else { continue };
            let met = heard.met(pool);
            shifts.extend(met.take((&node, &mut seen), at, pool, spell, &mut loads));
        }
        seen.settle();
        heard.nodes.insert(node, seen);
        shifts
    }

    /// Takes in the health check results of a node, which it sends every `interval`. Clusters that are not in
    /// `build` are ignored.
    pub fn check(&self, node: &str, at: Timestamp, interval: Duration, findings: Findings, build: &Build) {
        let mut heard = self.heard();
        let mut found: HashMap<u32, Vec<(u16, bool)>> = HashMap::new();
        for cluster in findings.clusters {
            let Some(pool) = Pool::of(split(&cluster.name).0, build) else { continue };
            let met = heard.met(pool);
            let upstream = met.number;
            let numbered = cluster.endpoints.into_iter().filter_map(|(socket, is_healthy)| {
                let (number, _) = met.find(socket, pool, false)?;
                Some((u16::try_from(number).ok()?, is_healthy))
            });
            found.entry(upstream).or_default().extend(numbered);
        }
        heard.checks.take(node, seconds_of(at), interval.as_secs_f32(), found);
    }

    /// Records that a node in this locality has begun to report.
    pub fn here(&self, node: &str, place: Locality) {
        let mut heard = self.heard();
        let (node, seen) =
            heard.nodes.remove_entry(node).unwrap_or_else(|| (node.into(), NodeSeen::default()));
        let place = (place != Locality::default()).then(|| Box::new(place));
        heard.nodes.insert(node, NodeSeen { is_here: true, place, ..seen });
    }

    /// Records that the stream of a node ended. The node may return: see [`Self::absent`].
    pub fn left(&self, node: &str, at: Timestamp) {
        let mut heard = self.heard();
        let left = at.as_millisecond();
        let (node, seen) =
            heard.nodes.remove_entry(node).unwrap_or_else(|| (node.into(), NodeSeen::default()));
        heard.left.push_back((left, node.clone()));
        heard.nodes.insert(node, NodeSeen { is_here: false, left, last: seen.last.max(left), ..seen });
    }

    /// Returns the nodes that left and did not return in time, with the time of departure. Each departure is
    /// returned once.
    pub fn absent(&self, now: Timestamp) -> Vec<(Arc<str>, Timestamp)> {
        let latest = now.saturating_sub(ABSENCE).unwrap_or(now).as_millisecond();
        let mut heard = self.heard();
        let Heard { left, nodes, .. } = &mut *heard;
        let due = left.partition_point(|(at, _)| *at <= latest);
        let is_gone = |(at, node): &(i64, Arc<str>)| {
            nodes.get(node).is_none_or(|seen| !seen.is_here && seen.left == *at)
        };
        let gone = left.drain(..due).filter(is_gone);
        gone.map(|(at, node)| (node, Timestamp::from_millisecond(at).unwrap_or(now))).collect()
    }

    /// Records that a node is gone: returns a shift to no tier for each upstream it served.
    pub fn gone(&self, node: &str, at: Timestamp) -> Vec<Shift> {
        let mut heard = self.heard();
        let Heard { nodes, upstreams, .. } = &mut *heard;
        let Some(seen) = nodes.get_mut(node) else { return Vec::new() };
        let shift = |seen: &mut Seen| {
            let from = Some(u32::from(seen.serving.take()?));
            let upstream = upstreams.all[seen.number as usize].clone();
            Some(Shift { node: node.to_owned(), upstream, from, to: None, at, errors: 0 })
        };
        seen.upstreams.iter_mut().filter_map(shift).collect()
    }

    /// Drops old observations: nodes without a stream and without a report for an hour, old check results,
    /// and endpoints that belong to no target of `build`.
    pub fn forget(&self, now: Timestamp, build: &Build) {
        let oldest = now.saturating_sub(MEMORY).unwrap_or(now).as_millisecond();
        let mut heard = self.heard();
        heard.nodes.retain(|_, seen| seen.is_here || seen.last >= oldest);
        heard.checks.forget(u32::try_from(oldest / 1000).unwrap_or_default());
        heard.forget_endpoints(build);
    }

    /// Returns the counters of an upstream since the start of the process.
    pub fn totals(&self, upstream: &Name) -> Totals {
        self.counted(upstream).totals
    }

    /// Returns the counters of the last minute or two.
    pub fn recent(&self, upstream: &Name, now: Timestamp) -> Totals {
        let counted = self.counted(upstream);
        match now.as_second() / 60 - counted.minute {
            0 => counted.totals.since(counted.marks[1]),
            1 => counted.totals.since(counted.marks[0]),
            _ => Totals::default(),
        }
    }

    fn counted(&self, upstream: &Name) -> Counted {
        let heard = self.heard();
        heard
            .upstreams
            .find(upstream)
            .map_or_else(Counted::default, |number| heard.met[number as usize].counted)
    }

    /// Returns the summary of an upstream of `build`.
    pub fn picture(&self, upstream: &Upstream, build: &Build, now: Timestamp) -> Picture {
        self.draw(Drawing::new(upstream, now, true), build)
    }

    /// Returns the summary without node names, which takes a fraction of the time.
    pub fn outline(&self, upstream: &Upstream, build: &Build, now: Timestamp) -> Picture {
        self.draw(Drawing::new(upstream, now, false), build)
    }

    fn draw(&self, mut drawing: Drawing<'_>, build: &Build) -> Picture {
        let name = &drawing.upstream.name;
        let mut heard = self.heard();
        if let (Some(number), Some(pool)) = (heard.upstreams.find(name), Pool::of(name.as_str(), build)) {
            heard.met[number as usize].follow(pool);
            let targets = &heard.met[number as usize].targets;
            let mut checks = heard.checks.of(number);
            for (node, all) in &heard.nodes {
                if let Some(seen) = all.find(number) {
                    drawing.add((node, all.interval), seen, checks.remove(node), targets);
                }
            }
            for (node, found) in checks {
                drawing.add_checks(node, found, targets);
            }
        }
        drop(heard);
        drawing.finish()
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Default for Numbers<T> {
    fn default() -> Self {
        Self { numbers: HashMap::new(), all: Vec::new(), free: Vec::new() }
    }
}

impl<T: Clone + Eq + std::hash::Hash> Numbers<T> {
    fn find(&self, one: &T) -> Option<u32> {
        self.numbers.get(one).copied()
    }

    fn of(&mut self, one: &T) -> u32 {
        if let Some(number) = self.find(one) {
            return number;
        }
        let number = match self.free.pop() {
            Some(number) => {
                self.all[number as usize] = one.clone();
                number
            }
            None => {
                self.all.push(one.clone());
                u32::try_from(self.all.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.numbers.insert(one.clone(), number);
        number
    }

    /// Releases the numbers of values that are not wanted, and returns these numbers.
    fn retain(&mut self, is_wanted: impl Fn(&T) -> bool) -> Vec<u32> {
        let unwanted: Vec<u32> =
            self.numbers.extract_if(|one, _| !is_wanted(one)).map(|(_, number)| number).collect();
        self.free.extend(&unwanted);
        unwanted
    }
}

impl<'b> Pool<'b> {
    fn of(name: &str, build: &'b Build) -> Option<Self> {
        let upstream = build.model.upstreams.get(name)?;
        let endpoint_overrides = build.overrides.get(name).map(AsRef::as_ref);
        Some(Self { upstream, addresses: &build.addresses, endpoint_overrides })
    }

    /// Returns the index of the target that an endpoint belongs to.
    fn target(&self, socket: SocketAddr) -> Option<usize> {
        target_of(self.upstream, self.addresses, socket)
    }
}

impl NodeSeen {
    /// Returns the position of an upstream, or the position at which to insert it.
    fn place(&self, number: u32) -> Result<usize, usize> {
        self.upstreams.binary_search_by_key(&number, |seen| seen.number)
    }

    /// Returns the observations of an upstream and its targets.
    fn find(&self, number: u32) -> Option<(&Seen, &[TargetSeen])> {
        let seen = &self.upstreams[self.place(number).ok()?];
        Some((seen, &self.targets[seen.targets()]))
    }

    /// Returns the observations of an upstream, which are created if missing, and the targets of all
    /// upstreams.
    fn of(&mut self, number: u32, now: i64) -> (&mut Seen, &mut Vec<TargetSeen>) {
        let place = self.place(number).unwrap_or_else(|place| {
            self.upstreams.insert(place, Seen::new(number, now));
            place
        });
        (&mut self.upstreams[place], &mut self.targets)
    }

    /// Compacts the storage: drops targets in no range, and spare capacity.
    fn settle(&mut self) {
        self.upstreams.shrink_to_fit();
        let count: usize = self.upstreams.iter().map(|seen| seen.targets().len()).sum();
        if count < self.targets.len() {
            let scattered = std::mem::replace(&mut self.targets, Vec::with_capacity(count));
            for seen in &mut self.upstreams {
                seen.keep(&mut self.targets, &scattered[seen.targets()]);
            }
        }
        self.targets.shrink_to_fit();
    }
}

impl Heard {
    /// Returns the state of an upstream, brought up to date with its config.
    fn met(&mut self, pool: Pool<'_>) -> &mut Met {
        let number = self.upstreams.of(&pool.upstream.name);
        if self.met.len() == number as usize {
            self.met.push(Met { number, ..Met::default() });
        }
        let met = &mut self.met[number as usize];
        met.follow(pool);
        met
    }

    /// Drops the observations of endpoints that belong to no target any more, so that their numbers can be
    /// reused.
    fn forget_endpoints(&mut self, build: &Build) {
        for (upstream, met) in self.upstreams.all.iter().zip(&mut self.met) {
            let pool = Pool::of(upstream.as_str(), build);
            let is_target = |socket: &SocketAddr| pool.is_some_and(|pool| pool.target(*socket).is_some());
            let gone = met.sockets.retain(is_target);
            if gone.is_empty() {
                continue;
            }
            met.upstream = None;
            self.checks.forget_endpoints(met.number, &gone);
            for node in self.nodes.values_mut() {
                let Ok(place) = node.place(met.number) else { continue };
                let seen = &mut node.upstreams[place];
                let own = node.targets[seen.targets()].iter();
                let left = own.filter(|target| !gone.contains(&u32::from(target.number)));
                let left: Vec<TargetSeen> = left.copied().collect();
                seen.keep(&mut node.targets, &left);
                node.settle();
            }
        }
    }
}

impl Met {
    /// Derives the targets of the endpoints again if the upstream or its addresses changed.
    fn follow(&mut self, pool: Pool<'_>) {
        let addresses = pool.addresses.of(pool.upstream.targets.iter().map(|target| &target.address.host));
        let is_same = self.upstream.as_ref().is_some_and(|last| Arc::ptr_eq(last, pool.upstream));
        if is_same && self.addresses == addresses {
            return;
        }
        (self.upstream, self.addresses) = (Some(pool.upstream.clone()), addresses);
        self.endpoints.clear();
        let mut targets = HashMap::new();
        for (index, target) in pool.upstream.targets.iter().enumerate() {
            for socket in pool.addresses.sockets(&target.address) {
                let number = self.sockets.of(&socket);
                targets.entry(number).or_insert(index);
                // An upstream never has more endpoints than fit in a `u16`.
                self.endpoints.extend(u16::try_from(number).map(|number| (index, number)));
            }
        }
        let all = (0..).zip(&self.sockets.all);
        let index = |(number, socket): (u32, &SocketAddr)| {
            targets.get(&number).copied().or_else(|| pool.target(*socket))
        };
        self.targets = all.map(index).collect();
    }

    /// Returns the load of an endpoint with its tier. `part` is the number of the cluster, if the upstream
    /// has several; none is returned for an endpoint of unknown tier.
    fn located(
        &mut self,
        load: &loads::Load,
        (pool, ranks): (Pool<'_>, &Ranks<'_>),
        part: Option<u32>,
    ) -> Option<Load> {
        let loads::Load { socket, success, errors } = *load;
        // The number of a cluster is not its tier with locality failover: some clusters have no targets then.
        let part = part.filter(|_| !pool.upstream.failover.locality);
        let (number, target) = self.find(socket, pool, part.is_some())?;
        let tier = target.map(|index| ranks.of(index)).or(part)?;
        Some(Load { number: u16::try_from(number).ok()?, tier, success, errors })
    }

    /// Returns the number of an endpoint and the index of its target. An unknown endpoint of no target gets a
    /// number only if its tier is known.
    fn find(&mut self, socket: SocketAddr, pool: Pool<'_>, has_tier: bool) -> Option<(u32, Option<usize>)> {
        let number = self.sockets.find(&socket).or_else(|| {
            let target = pool.target(socket);
            // An endpoint of no target and unknown tier is not interned.
            (target.is_some() || has_tier).then(|| self.learn(socket, target))
        })?;
        Some((number, self.targets[number as usize]))
    }

    fn learn(&mut self, socket: SocketAddr, target: Option<usize>) -> u32 {
        let number = self.sockets.of(&socket);
        self.targets.resize(self.sockets.all.len(), None);
        self.targets[number as usize] = target;
        number
    }

    /// Takes in the loads of the upstream in a report. Returns the shift of the serving tier, if it changed.
    fn take(
        &mut self,
        (node, seen): (&str, &mut NodeSeen),
        at: Timestamp,
        pool: Pool<'_>,
        spell: Spell,
        loads: &mut [Load],
    ) -> Option<Shift> {
        if loads.is_empty() {
            return None;
        }
        loads.sort_unstable_by_key(|load| load.number);
        self.counted.count(at, spell, loads);
        let ranks = pool.upstream.ranks(seen.place.as_deref());
        let (seen, targets) = seen.of(self.number, at.as_millisecond());
        let from = seen.serving.map(u32::from);
        seen.note(targets, at, serving(pool.upstream, loads), spell.seconds, loads);
        seen.judge(targets, self, (pool, &ranks), loads);
        let of_first = |load: &&Load| load.tier == 0;
        let failed: u64 = loads.iter().filter(of_first).map(|load| load.errors).sum();
        let before = std::mem::replace(&mut seen.errors, u32::try_from(failed).unwrap_or(u32::MAX));
        let (to, errors) = (seen.serving.map(u32::from), failed.saturating_add(u64::from(before)));
        let upstream = || pool.upstream.name.clone();
        (to != from).then(|| Shift { node: node.to_owned(), upstream: upstream(), from, to, at, errors })
    }
}

impl Counted {
    fn count(&mut self, at: Timestamp, spell: Spell, loads: &[Load]) {
        let minute = at.as_second() / 60;
        if minute != self.minute {
            let before = if minute == self.minute + 1 { self.marks[0] } else { self.totals };
            (self.minute, self.marks) = (minute, [self.totals, before]);
        }
        let milliseconds = (spell.seconds * 1000.0) as u64;
        let busy = spell.in_progress.saturating_mul(milliseconds);
        let errors = loads.iter().fold(0, |sum: u64, load| sum.saturating_add(load.errors));
        let requests = loads.iter().fold(errors, |sum, load| sum.saturating_add(load.success));
        let totals = Totals { requests, errors, in_progress: spell.in_progress, busy };
        self.totals = self.totals.plus(totals);
    }
}

impl Totals {
    fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            errors: self.errors.saturating_add(other.errors),
            in_progress: self.in_progress.saturating_add(other.in_progress),
            busy: self.busy.saturating_add(other.busy),
        }
    }

    /// Returns the difference to the earlier counters `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(before.requests),
            errors: self.errors.saturating_sub(before.errors),
            in_progress: self.in_progress.saturating_sub(before.in_progress),
            busy: self.busy.saturating_sub(before.busy),
        }
    }

    /// Returns the mean duration of a try in milliseconds, by Little's law: requests in progress are the
    /// arrival rate times the duration. None if too few requests in progress were seen for an estimate.
    pub fn latency(self) -> Option<f64> {
        let is_known = self.in_progress >= MET && self.requests > 0;
        is_known.then(|| self.busy as f64 / self.requests as f64)
    }
}

impl Seen {
    fn new(number: u32, now: i64) -> Self {
        Self { number, serving: None, since: now, last: 0, errors: 0, first: 0, count: 0 }
    }

    /// Returns its range in `NodeSeen::targets`.
    fn targets(&self) -> Range<usize> {
        self.first as usize..(self.first + self.count) as usize
    }

    /// Records the serving tier and the request rate of each target, and ages their health.
    fn note(
        &mut self,
        targets: &mut Vec<TargetSeen>,
        at: Timestamp,
        serving: Option<u32>,
        seconds: f32,
        loads: &[Load],
    ) {
        let passed = seconds_of(at).saturating_sub(self.last);
        self.last = seconds_of(at);
        // Envoy has at most 128 tiers.
        let serving = serving.and_then(|serving| u8::try_from(serving).ok());
        if serving.is_some() && serving != self.serving {
            (self.serving, self.since) = (serving, at.as_millisecond());
        }
        self.make_room(targets, loads.iter().map(|load| load.number));
        let own = &mut targets[self.targets()];
        for target in &mut *own {
            target.requests_per_second = 0.0;
            target.health = target.health.later(passed);
        }
        for load in loads {
            if let Some(place) = place(own, load.number) {
                let count = load.success.saturating_add(load.errors);
                own[place].requests_per_second += count as f32 / seconds;
            }
        }
    }

    /// Ensures an entry for each of these endpoints.
    fn make_room(&mut self, targets: &mut Vec<TargetSeen>, numbers: impl Iterator<Item = u16>) {
        let own = &targets[self.targets()];
        let new: Vec<u16> = numbers.filter(|number| place(own, *number).is_none()).collect();
        if new.is_empty() {
            return;
        }
        let new = new.into_iter().map(|number| TargetSeen {
            number,
            health: Health::default(),
            since: 0,
            requests_per_second: 0.0,
        });
        let mut all: Vec<TargetSeen> = own.iter().copied().chain(new).collect();
        all.sort_by_key(|target| target.number);
        all.dedup_by_key(|target| target.number);
        self.keep(targets, &all);
    }

    /// Appends its entries to `targets` and points its range there. The old range is unused until the next
    /// compaction.
    fn keep(&mut self, targets: &mut Vec<TargetSeen>, own: &[TargetSeen]) {
        let number = |count: usize| u32::try_from(count).expect("a report has 16 MB at the most");
        (self.first, self.count) = (number(targets.len()), number(own.len()));
        targets.extend_from_slice(own);
    }

    /// Derives the health of each known target from the traffic.
    fn judge(
        &mut self,
        targets: &mut Vec<TargetSeen>,
        met: &Met,
        (pool, ranks): (Pool<'_>, &Ranks<'_>),
        loads: &[Load],
    ) {
        let Some(serving) = self.serving.map(u32::from) else { return };
        let Pool { upstream, endpoint_overrides, .. } = pool;
        let is_led = endpoint_overrides.is_some_and(|endpoint_overrides| endpoint_overrides.first.is_some());
        let peers = || upstream.targets.iter().enumerate().filter(|(index, _)| ranks.of(*index) == serving);
        let in_tier = || loads.iter().filter(|load| load.tier == serving);
        let answered = in_tier().fold(0, |sum: u64, load| sum.saturating_add(load.success));
        let weights: u64 = peers().map(|(_, target)| weight(target)).sum();
        let spreads = spreads(upstream);
        // True if the target would get requests if it were healthy.
        let is_asked_for = |index: usize| {
            let (declared, rank) = (&upstream.targets[index], ranks.of(index));
            let is_out = endpoint_overrides.is_some_and(|it| it.state(declared).is_some());
            let is_before = rank < serving && !is_led;
            let is_beside = rank == serving && spreads;
            let is_due = || answered.saturating_mul(weight(declared)) >= ENOUGH * weights;
            !is_out && (is_before || (is_beside && is_due()))
        };
        if serving > 0 || in_tier().count() < peers().count() {
            let missing = met.endpoints.iter().filter(|(target, _)| is_asked_for(*target));
            self.make_room(targets, missing.map(|(_, number)| *number));
        }
        for target in &mut targets[self.targets()] {
            let load = loads.binary_search_by_key(&target.number, |load| load.number).ok();
            let health = match load.map(|load| &loads[load]) {
                Some(load) if load.success > 0 => Some(true),
                Some(load) if load.errors > 0 => Some(false),
                _ => {
                    let declared = met.targets[usize::from(target.number)];
                    declared.is_some_and(is_asked_for).then_some(false)
                }
            };
            let Some(is_healthy) = health else { continue };
            if target.health.is_healthy() != Some(is_healthy) {
                target.since = self.last;
            }
            target.health = Health::now(is_healthy);
        }
    }
}

/// Returns the position of an endpoint among those of its upstream.
fn place(targets: &[TargetSeen], number: u16) -> Option<usize> {
    targets.binary_search_by_key(&number, |target| target.number).ok()
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

/// Returns seconds since the epoch; 0 before 1970 and after 2106.
fn seconds_of(at: Timestamp) -> u32 {
    u32::try_from(at.as_second()).unwrap_or_default()
}

/// Returns the tier that serves, by answered requests. In standby mode it is the last tier with at least
/// [`SERVES`] percent of them, in spill mode the tier with the most. None if no tier qualifies.
fn serving(upstream: &Upstream, loads: &[Load]) -> Option<u32> {
    let mut tiers: BTreeMap<u32, u64> = BTreeMap::new();
    for load in loads.iter().filter(|load| load.success > 0) {
        *tiers.entry(load.tier).or_default() += load.success;
    }
    let all: u64 = tiers.values().sum();
    match upstream.failover.mode {
        FailoverMode::Standby => {
            tiers.iter().rev().find(|(_, count)| **count * 100 >= all * SERVES).map(|(tier, _)| *tier)
        }
        FailoverMode::Spill => {
            tiers.iter().max_by_key(|(tier, count)| (**count, u32::MAX - **tier)).map(|(tier, _)| *tier)
        }
    }
}

/// Splits a cluster name into the upstream and the number of its cluster, if the upstream has several.
fn split(cluster: &str) -> (&str, Option<u32>) {
    match cluster.split_once("/p") {
        Some((upstream, number)) => (upstream, number.parse().ok()),
        None => (cluster, None),
    }
}

/// Returns the index of the target that an endpoint belongs to.
fn target_of(upstream: &Upstream, addresses: &Addresses, socket: SocketAddr) -> Option<usize> {
    let is_it = |target: &Target| match &target.address.host {
        Host::Ip(ip) => SocketAddr::new(*ip, target.address.port) == socket,
        Host::Name(name) => {
            let ips = addresses.names.get(name).map(Vec::as_slice).unwrap_or_default();
            target.address.port == socket.port() && ips.contains(&socket.ip())
        }
        Host::Service(name) => {
            addresses.services.get(name).is_some_and(|places| places.iter().any(|it| it.socket == socket))
        }
    };
    // A name that Envoy resolves itself is matched by its port alone.
    let may_be = |target: &Target| {
        matches!(target.address.host, Host::Name(_))
            && target.address.port == socket.port()
            && !addresses.knows(&target.address.host)
    };
    upstream.targets.iter().position(is_it).or_else(|| upstream.targets.iter().position(may_be))
}

#[cfg(test)]
mod tests;
