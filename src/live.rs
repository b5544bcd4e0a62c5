//! What the load reports of all Envoys say together: which tier serves, what each target gets, and how it fares.
//!
//! A report says of every endpoint that got requests how many there were and how they ended. What Envoy thinks of an
//! endpoint that got none it does not say; so health is what the traffic shows. A target that answers is healthy. One
//! that fails, or that gets nothing while its tier or a later one serves in its place, is not. Of all others nothing is
//! known, and what was known before is old.
//!
//! Reports are folded as they come, each into the shard of its node, so that thousands of Envoys do not wait for each
//! other. What changed comes back as [`Shift`]s: nobody needs to look at everything to learn that something happened.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
use jiff::{SignedDuration, Timestamp};

use crate::config::document::FailoverMode;
use crate::model::addresses::Addresses;
use crate::model::name::Name;
use crate::model::steering::Steering;
use crate::model::target::{Address, Host, Target};
use crate::model::upstream::Upstream;
use crate::pipeline::Build;

/// Reports of so many nodes can be folded at once.
const SHARDS: usize = 16;

/// What was last seen longer ago than this, and than two and a half of the reports that should have come since, is old.
const FRESH: SignedDuration = SignedDuration::from_millis(2_500);

/// How long what a node saw is kept after its last report.
const MEMORY: SignedDuration = SignedDuration::from_hours(1);

/// A standby serves when it answers so many percent of the requests: a few are retries.
const SERVES: u64 = 30;

/// So many requests must have gone to a tier, for each of its targets, before one without any counts as out of it.
const ENOUGH: u64 = 10;

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
}

/// What was seen of an upstream, by all Envoys.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Picture {
    /// The tier that serves at most Envoys that sent requests of late, or did last.
    pub serving: Option<u32>,
    /// Since when the first of these Envoys is served by it.
    pub since: Option<Timestamp>,
    /// No Envoy sent requests of late: all of this is what was seen last.
    pub is_stale: bool,
    /// Requests to targets, retries too.
    pub requests_per_second: f64,
    /// By node.
    pub nodes: BTreeMap<String, NodePicture>,
    /// By target.
    pub targets: BTreeMap<Address, TargetPicture>,
}

/// What was seen of an upstream by one Envoy.
#[derive(Debug, Clone, PartialEq)]
pub struct NodePicture {
    /// The tier that serves.
    pub serving: Option<u32>,
    /// Since when.
    pub since: Timestamp,
    /// When it last sent requests.
    pub last: Timestamp,
    /// That was too long ago.
    pub is_stale: bool,
    /// Requests to targets, retries too.
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
    pub reported_by: Vec<String>,
    /// The nodes that say otherwise.
    pub disagree: Vec<String>,
}

/// The loads of all Envoys.
#[derive(Debug, Default)]
pub struct Live {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Shard {
    nodes: HashMap<String, NodeSeen>,
    totals: HashMap<Name, Totals>,
    /// Endpoints have numbers, since millions of pairs of a node and one are remembered.
    numbers: HashMap<SocketAddr, u32>,
    sockets: Vec<SocketAddr>,
}

#[derive(Debug, Default)]
struct NodeSeen {
    /// Its stream is open.
    is_here: bool,
    /// Milliseconds of the epoch.
    last: i64,
    upstreams: HashMap<Name, Seen>,
}

/// Times are milliseconds of the epoch.
#[derive(Debug)]
struct Seen {
    serving: Option<u32>,
    since: i64,
    last: i64,
    /// How often the node reports, in seconds.
    interval: f32,
    /// Of the first tier, in the report before.
    errors: u64,
    targets: Vec<TargetSeen>,
}

#[derive(Debug)]
struct TargetSeen {
    number: u32,
    requests_per_second: f32,
    /// Health was known last.
    known: i64,
    since: i64,
    health: Option<bool>,
}

/// What a report says of one endpoint.
#[derive(Debug, Clone, Copy)]
struct Load {
    socket: SocketAddr,
    tier: u32,
    success: u64,
    errors: u64,
}

impl Live {
    /// Takes in a report. What it says of clusters that `build` does not have is left alone.
    pub fn fold(
        &self,
        node: &str,
        at: Timestamp,
        clusters: &[endpoint::ClusterStats],
        build: &Build,
    ) -> Vec<Shift> {
        let mut upstreams: BTreeMap<&str, (f32, Vec<Load>)> = BTreeMap::new();
        for cluster in clusters {
            let (name, pool) = split(&cluster.cluster_name);
            let Some(upstream) = build.model.upstreams.get(name) else { continue };
            let (_, loads) = upstreams.entry(name).or_insert_with(|| (seconds(cluster), Vec::new()));
            loads.extend(loads_of(cluster, upstream, &build.addresses, pool));
        }
        let mut shard = self.shard(node);
        let mut shifts = Vec::new();
        for (name, (seconds, loads)) in upstreams {
            let Some((name, upstream)) = build.model.upstreams.get_key_value(name) else { continue };
            let steering = build.steerings.get(name).map(AsRef::as_ref);
            let shift = shard.take(node, at, (upstream, &build.addresses, steering), seconds, &loads);
            shifts.extend(shift);
        }
        let seen = shard.nodes.entry(node.to_owned()).or_default();
        (seen.is_here, seen.last) = (true, at.as_millisecond());
        shifts
    }

    /// Notes that a node went: nothing serves there as far as is known.
    pub fn gone(&self, node: &str, at: Timestamp) -> Vec<Shift> {
        let mut shard = self.shard(node);
        let Some(seen) = shard.nodes.get_mut(node) else { return Vec::new() };
        seen.is_here = false;
        let upstreams = seen.upstreams.iter_mut();
        let shift = |(name, seen): (&Name, &mut Seen)| {
            let from = seen.serving.take();
            from?;
            Some(Shift { node: node.to_owned(), upstream: name.clone(), from, to: None, at, errors: 0 })
        };
        upstreams.filter_map(shift).collect()
    }

    /// Forgets what was seen too long ago.
    pub fn forget(&self, now: Timestamp) {
        let oldest = now.saturating_sub(MEMORY).unwrap_or(now).as_millisecond();
        for shard in &self.shards {
            lock(shard).nodes.retain(|_, seen| seen.is_here || seen.last >= oldest);
        }
    }

    /// How many requests there were to an upstream.
    pub fn totals(&self, upstream: &Name) -> Totals {
        self.shards.iter().fold(Totals::default(), |sum, shard| {
            let own = lock(shard).totals.get(upstream).copied().unwrap_or_default();
            Totals { requests: sum.requests + own.requests, errors: sum.errors + own.errors }
        })
    }

    /// What was seen of an upstream.
    pub fn picture(&self, upstream: &Upstream, addresses: &Addresses, now: Timestamp) -> Picture {
        let mut drawing =
            Drawing { upstream, addresses, now, picture: Picture::default(), votes: Vec::new() };
        for shard in &self.shards {
            let shard = lock(shard);
            for (node, seen) in &shard.nodes {
                if let Some(seen) = seen.upstreams.get(&upstream.name) {
                    drawing.add(node, seen, &shard.sockets);
                }
            }
        }
        drawing.finish()
    }

    fn shard(&self, node: &str) -> MutexGuard<'_, Shard> {
        let hash = usize::try_from(self.hasher.hash_one(node) % SHARDS as u64).unwrap_or(0);
        lock(&self.shards[hash])
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shard {
    fn take(
        &mut self,
        node: &str,
        at: Timestamp,
        (upstream, addresses, steering): (&Upstream, &Addresses, Option<&Steering>),
        seconds: f32,
        loads: &[Load],
    ) -> Option<Shift> {
        let totals = self.totals.entry(upstream.name.clone()).or_default();
        let errors: u64 = loads.iter().map(|load| load.errors).sum();
        totals.errors += errors;
        totals.requests += errors + loads.iter().map(|load| load.success).sum::<u64>();
        let numbered: Vec<(u32, Load)> = loads.iter().map(|load| (self.number(load.socket), *load)).collect();
        if !self.nodes.contains_key(node) {
            self.nodes.insert(node.to_owned(), NodeSeen::default());
        }
        let seen = self.nodes.get_mut(node)?.upstreams.entry(upstream.name.clone()).or_insert_with(|| Seen {
            serving: None,
            since: at.as_millisecond(),
            last: 0,
            interval: 1.0,
            errors: 0,
            targets: Vec::new(),
        });
        let from = seen.serving;
        seen.note(at.as_millisecond(), serving(upstream, loads), seconds, &numbered);
        seen.judge(at.as_millisecond(), &self.sockets, (upstream, addresses, steering), &numbered);
        let of_first = |load: &&Load| load.tier == 0;
        let failed: u64 = loads.iter().filter(of_first).map(|load| load.errors).sum();
        let before = std::mem::replace(&mut seen.errors, failed);
        let (node, upstream, to) = (node.to_owned(), upstream.name.clone(), seen.serving);
        (to != from).then(|| Shift { node, upstream, from, to, at, errors: before + failed })
    }

    fn number(&mut self, socket: SocketAddr) -> u32 {
        let next = u32::try_from(self.sockets.len()).unwrap_or(u32::MAX);
        *self.numbers.entry(socket).or_insert_with(|| {
            self.sockets.push(socket);
            next
        })
    }
}

impl Seen {
    /// What each target got, and which tier serves.
    fn note(&mut self, now: i64, serving: Option<u32>, seconds: f32, loads: &[(u32, Load)]) {
        if loads.is_empty() {
            return;
        }
        (self.last, self.interval) = (now, seconds);
        if let Some(serving) = serving.filter(|serving| self.serving != Some(*serving)) {
            (self.serving, self.since) = (Some(serving), now);
        }
        for target in &mut self.targets {
            target.requests_per_second = 0.0;
        }
        for (number, load) in loads {
            let count = load.success + load.errors;
            let rate = count as f32 / seconds;
            self.target(*number, now).requests_per_second += rate;
        }
    }

    fn target(&mut self, number: u32, now: i64) -> &mut TargetSeen {
        let at = self.targets.iter().position(|target| target.number == number).unwrap_or_else(|| {
            let new = TargetSeen { number, requests_per_second: 0.0, known: 0, since: now, health: None };
            self.targets.push(new);
            self.targets.len() - 1
        });
        &mut self.targets[at]
    }

    /// What the traffic shows of the health of each target that was ever seen.
    fn judge(
        &mut self,
        now: i64,
        sockets: &[SocketAddr],
        (upstream, addresses, steering): (&Upstream, &Addresses, Option<&Steering>),
        loads: &[(u32, Load)],
    ) {
        let Some(serving) = self.serving.filter(|_| !loads.is_empty()) else { return };
        let is_led = steering.is_some_and(|steering| steering.first.is_some());
        let peers = upstream.targets.iter().filter(|target| target.tier == serving).count() as u64;
        let in_tier = loads.iter().filter(|(_, load)| load.tier == serving);
        let is_busy = in_tier.map(|(_, load)| load.success).sum::<u64>() >= ENOUGH * peers;
        for target in &mut self.targets {
            let load = loads.iter().find(|(number, _)| *number == target.number).map(|(_, load)| load);
            let health = match load {
                Some(load) if load.success > 0 => Some(true),
                Some(load) if load.errors > 0 => Some(false),
                _ => {
                    let declared = target_of(upstream, addresses, sockets[target.number as usize]);
                    let is_asked_for = declared.is_some_and(|declared| {
                        let is_out = steering.is_some_and(|it| it.state(declared).is_some());
                        let is_before = declared.tier < serving && !is_led;
                        !is_out && (is_before || (declared.tier == serving && is_busy))
                    });
                    is_asked_for.then_some(false)
                }
            };
            let Some(health) = health else { continue };
            target.known = now;
            if target.health != Some(health) {
                (target.health, target.since) = (Some(health), now);
            }
        }
    }
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

fn seconds(cluster: &endpoint::ClusterStats) -> f32 {
    let interval = cluster.load_report_interval.as_ref();
    let millis =
        interval.map_or(1000, |it| it.seconds.saturating_mul(1000) + i64::from(it.nanos) / 1_000_000);
    f32::from(u16::try_from(millis.clamp(1, 60_000)).unwrap_or(u16::MAX)) / 1000.0
}

fn loads_of<'a>(
    cluster: &'a endpoint::ClusterStats,
    upstream: &'a Upstream,
    addresses: &'a Addresses,
    pool: Option<u32>,
) -> impl Iterator<Item = Load> + 'a {
    let endpoints = cluster.upstream_locality_stats.iter().flat_map(|it| &it.upstream_endpoint_stats);
    endpoints.filter_map(move |stats| {
        let socket = socket_of(stats.address.as_ref()?)?;
        let target = target_of(upstream, addresses, socket);
        let tier = target.map(|target| target.tier).or(pool)?;
        let (success, errors) = (stats.total_successful_requests, stats.total_error_requests);
        (success + errors > 0).then_some(Load { socket, tier, success, errors })
    })
}

fn socket_of(address: &core::Address) -> Option<SocketAddr> {
    let core::address::Address::SocketAddress(socket) = address.address.as_ref()? else { return None };
    let core::socket_address::PortSpecifier::PortValue(port) = socket.port_specifier.as_ref()? else {
        return None;
    };
    Some(SocketAddr::new(socket.address.parse().ok()?, u16::try_from(*port).ok()?))
}

/// The target that an endpoint belongs to.
fn target_of<'u>(upstream: &'u Upstream, addresses: &Addresses, socket: SocketAddr) -> Option<&'u Target> {
    let is_it = |target: &&Target| match &target.address.host {
        Host::Ip(ip) => SocketAddr::new(*ip, target.address.port) == socket,
        _ => addresses.places(&target.address).iter().any(|place| place.socket == socket),
    };
    upstream.targets.iter().find(is_it).or_else(|| {
        // What Envoy looked up is known by its port alone.
        let by_name = |target: &&Target| matches!(target.address.host, Host::Name(_));
        let mut named = upstream.targets.iter().filter(by_name);
        named.find(|target| target.address.port == socket.port() && !addresses.knows(&target.address.host))
    })
}

/// A picture in the making.
struct Drawing<'a> {
    upstream: &'a Upstream,
    addresses: &'a Addresses,
    now: Timestamp,
    picture: Picture,
    votes: Vec<Vote>,
}

/// What a node says of a target.
struct Vote {
    target: Address,
    node: String,
    is_healthy: bool,
    since: i64,
    is_fresh: bool,
}

fn time(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH)
}

impl Drawing<'_> {
    fn is_fresh(&self, millis: i64, interval: f32) -> bool {
        let some_reports = SignedDuration::try_from_secs_f32(2.5 * interval).unwrap_or(FRESH);
        self.now.duration_since(time(millis)) <= FRESH + some_reports
    }

    fn add(&mut self, node: &str, seen: &Seen, sockets: &[SocketAddr]) {
        let is_fresh = self.is_fresh(seen.last, seen.interval);
        let mut requests_per_second = 0.0;
        for target in &seen.targets {
            let Some(declared) = target_of(self.upstream, self.addresses, sockets[target.number as usize])
            else {
                continue;
            };
            let rate = if is_fresh { f64::from(target.requests_per_second) } else { 0.0 };
            requests_per_second += rate;
            let picture = self.picture.targets.entry(declared.address.clone()).or_default();
            picture.requests_per_second += rate;
            picture.share += f64::from(target.requests_per_second);
            if let Some(is_healthy) = target.health {
                let is_fresh = self.is_fresh(target.known, seen.interval);
                let (target, node, since) = (declared.address.clone(), node.to_owned(), target.since);
                self.votes.push(Vote { target, node, is_healthy, since, is_fresh });
            }
        }
        let (serving, since, last) = (seen.serving, time(seen.since), time(seen.last));
        self.picture.requests_per_second += requests_per_second;
        let node_picture = NodePicture { serving, since, last, is_stale: !is_fresh, requests_per_second };
        self.picture.nodes.insert(node.to_owned(), node_picture);
    }

    fn finish(self) -> Picture {
        let Self { mut picture, votes, .. } = self;
        picture.is_stale = picture.nodes.values().all(|node| node.is_stale);
        let counting = |node: &&NodePicture| !node.is_stale || picture.is_stale;
        let mut tally: BTreeMap<u32, (usize, Timestamp)> = BTreeMap::new();
        for node in picture.nodes.values().filter(counting) {
            let Some(serving) = node.serving else { continue };
            let entry = tally.entry(serving).or_insert((0, node.since));
            *entry = (entry.0 + 1, entry.1.min(node.since));
        }
        let most = tally.into_iter().max_by_key(|(tier, (count, _))| (*count, u32::MAX - *tier));
        (picture.serving, picture.since) = most.map(|(tier, (_, since))| (tier, since)).unzip();
        let all: f64 = picture.targets.values().map(|target| target.share).sum();
        for (address, target) in &mut picture.targets {
            target.share = if all > 0.0 { 100.0 * target.share / all } else { 0.0 };
            let own: Vec<&Vote> = votes.iter().filter(|vote| vote.target == *address).collect();
            target.count(&own);
        }
        picture
    }
}

impl TargetPicture {
    /// Takes the votes of those that know, or, if nobody does of late, of those that did.
    fn count(&mut self, votes: &[&Vote]) {
        self.is_stale = votes.iter().all(|vote| !vote.is_fresh);
        let counting = votes.iter().filter(|vote| vote.is_fresh || self.is_stale);
        let (healthy, unhealthy): (Vec<&Vote>, Vec<&Vote>) =
            counting.copied().partition(|vote| vote.is_healthy);
        let is_healthy = healthy.len() >= unhealthy.len();
        let (most, others) = if is_healthy { (healthy, unhealthy) } else { (unhealthy, healthy) };
        self.is_healthy = (!most.is_empty()).then_some(is_healthy);
        self.since = most.iter().map(|vote| time(vote.since)).min();
        let nodes = |votes: &[&Vote]| {
            let mut nodes: Vec<String> = votes.iter().map(|vote| vote.node.clone()).collect();
            nodes.sort();
            nodes
        };
        (self.reported_by, self.disagree) = (nodes(&most), nodes(&others));
    }
}

#[cfg(test)]
mod tests;
