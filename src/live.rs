//! What the load reports of all Envoys say together: which tier serves, what each target gets, and how it fares.
//!
//! A tier is here what it is for the Envoy that reports: the declared one or, where distance counts, one for each distance
//! within it ([`Ranks`]). That another zone serves is a failover there.
//!
//! A report says of every endpoint that got requests how many there were and how they ended. What Envoy thinks of an
//! endpoint that got none it does not say; so health is what the traffic shows. A target that answers is healthy. One
//! that fails, or that gets nothing while its tier or a later one serves in its place, is not, even if it never got
//! anything. Of all others is known what those Envoys found that check on our behalf; what was known before is old.
//!
//! Reports are folded as they come. What changed comes back as [`Shift`]s: nobody needs to look at everything to learn
//! that something happened.
//!
//! A thousand Envoys that send to a thousand upstreams are a million pairs, so what is kept of a pair is small: 32 bytes
//! and 12 for each target. Names and addresses have numbers here, and most times are whole seconds.

mod checks;
mod picture;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use self::checks::Checks;
use self::picture::Drawing;
pub use self::picture::{NodePicture, NodeTarget, Picture, TargetPicture};
use crate::config::document::upstream::{FailoverMode, LoadBalancer};
use crate::envoy::checks::Findings;
use crate::envoy::loads::{self, Report};
use crate::model::addresses::Addresses;
use crate::model::locality::Ranks;
use crate::model::name::Name;
use crate::model::steering::Steering;
use crate::model::target::{Host, Target};
use crate::model::upstream::Upstream;
use crate::node::Locality;
use crate::pipeline::Build;

/// How long what a node saw is kept after its last report.
const MEMORY: SignedDuration = SignedDuration::from_hours(1);

/// How long a node may be away before it counts as gone. Envoy opens a stream of load reports that ended again after 5 s,
/// and every such stream ends now and then.
const ABSENCE: SignedDuration = SignedDuration::from_secs(20);

/// A standby serves when it answers so many percent of the requests: a few are retries.
const SERVES: u64 = 30;

/// So many of the requests that a tier answered should have been a target's before one without any counts as out of it.
const ENOUGH: u64 = 20;

/// So many requests must have been met under way before it is said how long one takes: within a fifth or so.
const MET: u64 = 20;

/// Another tier serves an upstream at one Envoy.
#[derive(Debug, Clone, PartialEq)]
pub struct Shift {
    /// Where.
    pub node: String,
    /// Of which upstream.
    pub upstream: Name,
    /// What served before; none when nothing was known.
    pub from: Option<u32>,
    /// What serves now; none when the node went.
    pub to: Option<u32>,
    /// When it was reported.
    pub at: Timestamp,
    /// How many requests the first tier failed to answer just before.
    pub errors: u64,
}

/// How many requests there were, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// To targets, retries too.
    pub requests: u64,
    /// Those of them that a target failed to answer.
    pub errors: u64,
    /// Requests under way, summed over all reports.
    pub in_progress: u64,
    /// The same for as long as each report is about, in milliseconds.
    pub busy: u64,
}

/// The loads of all Envoys.
#[derive(Debug, Default)]
pub struct Live {
    heard: Mutex<Heard>,
}

#[derive(Debug, Default)]
struct Heard {
    nodes: HashMap<Arc<str>, NodeSeen>,
    upstreams: Numbers<Name>,
    /// By the number of the upstream.
    met: Vec<Met>,
    checks: Checks,
    /// The nodes that left, the first to leave first, and when, in milliseconds of the epoch.
    left: VecDeque<(i64, Arc<str>)>,
}

/// An upstream that got requests, or was checked.
#[derive(Debug, Default)]
struct Met {
    /// Of the upstream.
    number: u32,
    counted: Counted,
    /// As it was when the last report came.
    upstream: Option<Arc<Upstream>>,
    /// What the names among its targets led to then.
    addresses: Addresses,
    /// Its endpoints.
    sockets: Numbers<SocketAddr>,
    /// By the number of the endpoint: the index of its target.
    targets: Vec<Option<usize>>,
    /// The endpoints of the targets: the index of the target, and the number.
    endpoints: Vec<(usize, u16)>,
}

/// What was counted of an upstream, and what had been a minute or two ago.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    totals: Totals,
    /// Of the epoch.
    minute: i64,
    /// At the beginning of that minute, and of the one before it.
    marks: [Totals; 2],
}

/// What has a number.
#[derive(Debug)]
struct Numbers<T> {
    numbers: HashMap<T, u32>,
    /// By number.
    all: Vec<T>,
    /// Numbers that were given back.
    free: Vec<u32>,
}

#[derive(Debug, Default)]
struct NodeSeen {
    /// Its stream is open.
    is_here: bool,
    /// When its stream ended last, in milliseconds of the epoch.
    left: i64,
    /// Milliseconds of the epoch.
    last: i64,
    /// How often it reports, in seconds.
    interval: f32,
    /// Where it runs, if it says so.
    place: Option<Box<Locality>>,
    /// In the order of their numbers.
    upstreams: Vec<Seen>,
    /// Those of all upstreams.
    targets: Vec<TargetSeen>,
}

/// What a node sees of an upstream.
#[derive(Debug)]
struct Seen {
    /// Of the upstream.
    number: u32,
    serving: Option<u8>,
    /// Milliseconds of the epoch.
    since: i64,
    /// Seconds of the epoch.
    last: u32,
    /// Of the first tier, in the report before.
    errors: u32,
    /// Where its targets begin among those of the node, and how many there are. They are in the order of their numbers.
    first: u32,
    count: u32,
}

/// What a node sees of a target.
#[derive(Debug, Clone, Copy)]
struct TargetSeen {
    /// Of its endpoint.
    number: u16,
    health: Health,
    /// Its health is that since; seconds of the epoch.
    since: u32,
    requests_per_second: f32,
}

/// Whether a target is healthy, and how long that was not known again when the last report came: two bits, and seconds,
/// four hours at the most.
#[derive(Debug, Clone, Copy, Default)]
struct Health(u16);

impl Health {
    const IS_KNOWN: u16 = 1;
    const IS_HEALTHY: u16 = 2;
    const SECOND: u16 = 4;

    /// As it is known now.
    fn now(is_healthy: bool) -> Self {
        Self(Self::IS_KNOWN | if is_healthy { Self::IS_HEALTHY } else { 0 })
    }

    fn is_healthy(self) -> Option<bool> {
        (self.0 & Self::IS_KNOWN != 0).then_some(self.0 & Self::IS_HEALTHY != 0)
    }

    /// In seconds.
    fn age(self) -> u32 {
        u32::from(self.0 / Self::SECOND)
    }

    /// The same, so many seconds later.
    fn later(self, seconds: u32) -> Self {
        let age = self.age().saturating_add(seconds).min(u32::from(u16::MAX / Self::SECOND));
        Self(self.0 % Self::SECOND + age as u16 * Self::SECOND)
    }
}

/// What a report says of one endpoint.
#[derive(Debug, Clone, Copy)]
struct Load {
    number: u16,
    tier: u32,
    success: u64,
    errors: u64,
}

/// What a report is about.
#[derive(Debug, Clone, Copy)]
struct Spell {
    seconds: f32,
    /// At its end.
    in_progress: u64,
}

/// An upstream, and all that says which target an endpoint is and what is asked of it.
#[derive(Clone, Copy)]
struct Pool<'b> {
    upstream: &'b Arc<Upstream>,
    addresses: &'b Addresses,
    steering: Option<&'b Steering>,
}

impl Live {
    /// Takes in a report. What it says of clusters that `build` does not have is left alone.
    pub fn fold(&self, node: &str, at: Timestamp, report: &Report, build: &Build) -> Vec<Shift> {
        let mut heard = self.heard();
        let (node, mut seen) =
            heard.nodes.remove_entry(node).unwrap_or_else(|| (node.into(), NodeSeen::default()));
        (seen.is_here, seen.last) = (true, at.as_millisecond());
        seen.interval = report.clusters().map(|it| it.seconds).reduce(f32::max).unwrap_or(seen.interval);
        let mut shifts = Vec::new();
        let mut loads = Vec::new();
        // The clusters of an aggregate are one upstream.
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

    /// Takes in what a node found when it checked targets, which it says this often. What is of no upstream of `build` is
    /// left alone.
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

    /// Notes that a node at this place reports from now on.
    pub fn here(&self, node: &str, place: Locality) {
        let mut heard = self.heard();
        let (node, seen) =
            heard.nodes.remove_entry(node).unwrap_or_else(|| (node.into(), NodeSeen::default()));
        let place = (place != Locality::default()).then(|| Box::new(place));
        heard.nodes.insert(node, NodeSeen { is_here: true, place, ..seen });
    }

    /// Notes that a node does not report any more. It may return: see [`Self::absent`].
    pub fn left(&self, node: &str, at: Timestamp) {
        let mut heard = self.heard();
        let left = at.as_millisecond();
        let (node, seen) =
            heard.nodes.remove_entry(node).unwrap_or_else(|| (node.into(), NodeSeen::default()));
        heard.left.push_back((left, node.clone()));
        heard.nodes.insert(node, NodeSeen { is_here: false, left, last: seen.last.max(left), ..seen });
    }

    /// The nodes that left and did not return in time, and when they left. Each is told of once.
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

    /// Notes that a node went: nothing serves there as far as is known.
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

    /// Forgets what was seen too long ago.
    pub fn forget(&self, now: Timestamp, build: &Build) {
        let oldest = now.saturating_sub(MEMORY).unwrap_or(now).as_millisecond();
        let mut heard = self.heard();
        heard.nodes.retain(|_, seen| seen.is_here || seen.last >= oldest);
        heard.checks.forget(u32::try_from(oldest / 1000).unwrap_or_default());
        heard.forget_endpoints(build);
    }

    /// How many requests there were to an upstream.
    pub fn totals(&self, upstream: &Name) -> Totals {
        self.counted(upstream).totals
    }

    /// The same within the last minute or two.
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

    /// What was seen of an upstream of `build`.
    pub fn picture(&self, upstream: &Upstream, build: &Build, now: Timestamp) -> Picture {
        self.draw(Drawing::new(upstream, now, true), build)
    }

    /// The same without who says so: it takes a fraction of the time.
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

    /// Those who are not as wanted give their numbers back, which are returned.
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
        let steering = build.steerings.get(name).map(AsRef::as_ref);
        Some(Self { upstream, addresses: &build.addresses, steering })
    }

    /// The index of the target that an endpoint belongs to.
    fn target(&self, socket: SocketAddr) -> Option<usize> {
        target_of(self.upstream, self.addresses, socket)
    }
}

impl NodeSeen {
    /// Where an upstream is, or would be.
    fn place(&self, number: u32) -> Result<usize, usize> {
        self.upstreams.binary_search_by_key(&number, |seen| seen.number)
    }

    /// What it sees of an upstream, and of its targets.
    fn find(&self, number: u32) -> Option<(&Seen, &[TargetSeen])> {
        let seen = &self.upstreams[self.place(number).ok()?];
        Some((seen, &self.targets[seen.targets()]))
    }

    /// What it sees of an upstream, and the targets among which those of the upstream are.
    fn of(&mut self, number: u32, now: i64) -> (&mut Seen, &mut Vec<TargetSeen>) {
        let place = self.place(number).unwrap_or_else(|place| {
            self.upstreams.insert(place, Seen::new(number, now));
            place
        });
        (&mut self.upstreams[place], &mut self.targets)
    }

    /// Leaves no room that is not used.
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
    /// What is known of an upstream, as it is now.
    fn met(&mut self, pool: Pool<'_>) -> &mut Met {
        let number = self.upstreams.of(&pool.upstream.name);
        if self.met.len() == number as usize {
            self.met.push(Met { number, ..Met::default() });
        }
        let met = &mut self.met[number as usize];
        met.follow(pool);
        met
    }

    /// What was said of endpoints that are of no target any more goes, so that their numbers are free.
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
    /// Learns which targets the endpoints are of, unless that is as it was.
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
                // There are not more endpoints than that in an upstream.
                self.endpoints.extend(u16::try_from(number).map(|number| (index, number)));
            }
        }
        let all = (0..).zip(&self.sockets.all);
        let index = |(number, socket): (u32, &SocketAddr)| {
            targets.get(&number).copied().or_else(|| pool.target(*socket))
        };
        self.targets = all.map(index).collect();
    }

    /// What a report says of an endpoint of the upstream, or of that part of it.
    fn located(
        &mut self,
        load: &loads::Load,
        (pool, ranks): (Pool<'_>, &Ranks<'_>),
        part: Option<u32>,
    ) -> Option<Load> {
        let loads::Load { socket, success, errors } = *load;
        // Where distance counts there are clusters without targets, so that the number of one is not that of its tier.
        let part = part.filter(|_| !pool.upstream.failover.locality);
        let (number, target) = self.find(socket, pool, part.is_some())?;
        let tier = target.map(|index| ranks.of(index)).or(part)?;
        Some(Load { number: u16::try_from(number).ok()?, tier, success, errors })
    }

    /// The number of an endpoint, and the index of its target. A stranger has none, unless its tier is known.
    fn find(&mut self, socket: SocketAddr, pool: Pool<'_>, has_tier: bool) -> Option<(u32, Option<usize>)> {
        let number = self.sockets.find(&socket).or_else(|| {
            let target = pool.target(socket);
            // A stranger is not remembered.
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

    /// Takes in what a report says of the upstream.
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

    /// What came since it was `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(before.requests),
            errors: self.errors.saturating_sub(before.errors),
            in_progress: self.in_progress.saturating_sub(before.in_progress),
            busy: self.busy.saturating_sub(before.busy),
        }
    }

    /// How long a try took, on average, in milliseconds: by Little's law as many are under way as come in that time.
    /// None where too few were met under way to tell.
    pub fn latency(self) -> Option<f64> {
        let is_known = self.in_progress >= MET && self.requests > 0;
        is_known.then(|| self.busy as f64 / self.requests as f64)
    }
}

impl Seen {
    fn new(number: u32, now: i64) -> Self {
        Self { number, serving: None, since: now, last: 0, errors: 0, first: 0, count: 0 }
    }

    /// Where its targets are among those of the node.
    fn targets(&self) -> Range<usize> {
        self.first as usize..(self.first + self.count) as usize
    }

    /// What each target got, and which tier serves.
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
        // Envoy has 128 tiers at the most.
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

    /// Each target that was met has a place.
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

    /// Puts its targets behind those that are there.
    fn keep(&mut self, targets: &mut Vec<TargetSeen>, own: &[TargetSeen]) {
        let number = |count: usize| u32::try_from(count).expect("a report has 16 MB at the most");
        (self.first, self.count) = (number(targets.len()), number(own.len()));
        targets.extend_from_slice(own);
    }

    /// What the traffic shows of the health of each target that was ever seen.
    fn judge(
        &mut self,
        targets: &mut Vec<TargetSeen>,
        met: &Met,
        (pool, ranks): (Pool<'_>, &Ranks<'_>),
        loads: &[Load],
    ) {
        let Some(serving) = self.serving.map(u32::from) else { return };
        let Pool { upstream, steering, .. } = pool;
        let is_led = steering.is_some_and(|steering| steering.first.is_some());
        let peers = || upstream.targets.iter().enumerate().filter(|(index, _)| ranks.of(*index) == serving);
        let in_tier = || loads.iter().filter(|load| load.tier == serving);
        let answered = in_tier().fold(0, |sum: u64, load| sum.saturating_add(load.success));
        let weights: u64 = peers().map(|(_, target)| weight(target)).sum();
        let spreads = spreads(upstream);
        // Whether a target would get requests if it were healthy.
        let is_asked_for = |index: usize| {
            let (declared, rank) = (&upstream.targets[index], ranks.of(index));
            let is_out = steering.is_some_and(|it| it.state(declared).is_some());
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

/// Where a target is among those of its upstream.
fn place(targets: &[TargetSeen], number: u16) -> Option<usize> {
    targets.binary_search_by_key(&number, |target| target.number).ok()
}

fn weight(target: &Target) -> u64 {
    u64::from(target.weight)
}

/// True when each target of a tier gets its share from every Envoy, whoever asks.
fn spreads(upstream: &Upstream) -> bool {
    let is_by_key = matches!(upstream.load_balancer, LoadBalancer::RingHash | LoadBalancer::Maglev);
    let is_by_record = |target: &Target| matches!(target.address.host, Host::Service(_));
    !is_by_key && upstream.sticky.is_none() && !upstream.targets.iter().any(is_by_record)
}

/// Seconds of the epoch; those before it and after the year 2106 are not met.
fn seconds_of(at: Timestamp) -> u32 {
    u32::try_from(at.as_second()).unwrap_or_default()
}

/// The tier that answers. None when nothing was answered.
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

/// The upstream of a cluster, and which of its clusters that is, if it has several.
fn split(cluster: &str) -> (&str, Option<u32>) {
    match cluster.split_once("/p") {
        Some((upstream, number)) => (upstream, number.parse().ok()),
        None => (cluster, None),
    }
}

/// The target that an endpoint belongs to, by its index.
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
    // What Envoy looked up is known by its port alone.
    let may_be = |target: &Target| {
        matches!(target.address.host, Host::Name(_))
            && target.address.port == socket.port()
            && !addresses.knows(&target.address.host)
    };
    upstream.targets.iter().position(is_it).or_else(|| upstream.targets.iter().position(may_be))
}

#[cfg(test)]
mod tests;
