//! History of failovers: start, end and cause.
//!
//! [`History`] takes in the shifts of single Envoys. A failover begins when the first Envoy leaves the first
//! tier of an upstream, as that Envoy counts tiers, and ends when the last Envoy is back.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::envoy::load_totals::LoadTotals;
use crate::failover::orders::Orders;
use crate::failover::orders::time::Timed;
use crate::failover::traffic::shift::TierShift;
use crate::model::cause::FailoverCause;
use crate::model::failback::Damping;
use crate::model::health::OutlierDetection;
use crate::model::name::Name;
use crate::model::target::Target;
use crate::model::upstream::Upstream;

/// Tier of the primaries.
const PRIMARY_TIER: u32 = 0;

/// Retention of a failover after its end.
pub const RETENTION: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Maximum number of failovers that are kept.
const MAX_FAILOVERS: usize = 10_000;

/// Returns the cause for which an upstream left its first tier. `errors` is the number of requests that the
/// first tier failed just before.
pub fn cause_of(upstream: &Upstream, orders: &Orders, errors: u64) -> FailoverCause {
    let primaries = || upstream.targets.iter().filter(|target| target.tier == PRIMARY_TIER);
    let is_out = |target: &Target| orders.state_of(upstream, target).is_some();
    if primaries().next().is_none() {
        return FailoverCause::Removed;
    }
    if orders.pins.get(&upstream.name).is_some_and(|pin| pin.priority != PRIMARY_TIER) {
        return FailoverCause::Pin;
    }
    if primaries().any(|target| orders.is_drilled(upstream, target)) {
        return FailoverCause::Drill;
    }
    // A single primary may be all that an Envoy has nearby, with locality failover.
    if primaries().all(is_out) || upstream.failover.locality && primaries().any(is_out) {
        return FailoverCause::Drained;
    }
    match (&upstream.health_check, &upstream.outlier_detection) {
        (None, Some(_)) => FailoverCause::OutlierDetection,
        (Some(_), Some(detection)) if is_ejected(detection, errors) => FailoverCause::OutlierDetection,
        _ => FailoverCause::HealthCheck,
    }
}

/// True if so many errors in a row eject a target.
fn is_ejected(detection: &OutlierDetection, errors: u64) -> bool {
    errors >= u64::from(detection.consecutive_5xx.min(detection.consecutive_gateway_failure))
}

/// Period in which a standby served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverRecord {
    /// Name of the upstream.
    pub upstream: Name,
    /// Time at which the first Envoy left the primaries.
    pub start: Timestamp,
    /// Time at which the last Envoy was back; none while the failover lasts.
    pub end: Option<Timestamp>,
    /// FailoverCause of the failover.
    pub cause: FailoverCause,
    /// Tier that served before.
    pub from: u32,
    /// Tier that served last.
    pub to: u32,
    /// Ids of the Envoys that were served by a standby.
    pub nodes: BTreeSet<String>,
    /// Requests to targets while it lasted, including retries.
    pub requests: u64,
    /// Requests that a target failed. Most of them were retried elsewhere.
    pub errors: u64,
    /// True once a hold began for this failover; no second one follows.
    #[serde(default)]
    pub was_held: bool,
}

/// LoadTotals of failovers that are no longer kept, since counters must not decrease.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Number of failovers.
    pub count: u64,
    /// Total duration in seconds.
    pub seconds: f64,
}

/// LoadTotals by cause.
pub type Tallies = BTreeMap<FailoverCause, Tally>;

/// Effect of a shift on the failovers of its upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailoverChange {
    /// A failover with this number began.
    Began(u64),
    /// The failover with this number goes on, at more Envoys or with another tier or cause.
    Spread(u64),
    /// The failover with this number ended.
    Ended(u64),
}

impl FailoverChange {
    /// Returns the number of the failover.
    pub fn id(self) -> u64 {
        let (Self::Began(id) | Self::Spread(id) | Self::Ended(id)) = self;
        id
    }
}

/// Failovers that are kept, and the current state of each upstream.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    /// Failovers by number, from 1.
    pub failovers: BTreeMap<u64, FailoverRecord>,
    /// LoadTotals of failovers that are no longer kept, by upstream.
    pub forgotten: BTreeMap<Name, Tallies>,
    current: BTreeMap<Name, ServingState>,
}

/// Current state of an upstream.
#[derive(Debug, Clone, Default, PartialEq)]
struct ServingState {
    /// Number of Envoys that each tier serves.
    tally: BTreeMap<u32, u32>,
    /// Ids of the Envoys that another tier than the first serves.
    away: BTreeSet<String>,
    /// Number of the failover that lasts, if any.
    open: Option<u64>,
    /// Counters of the upstream at the beginning of that failover; zero if it was restored.
    began: LoadTotals,
    /// Requests and errors of that failover before the restart.
    before: (u64, u64),
}

impl History {
    /// Restores the history after a restart. Open failovers last until their Envoys are back or gone.
    pub fn restored(failovers: BTreeMap<u64, FailoverRecord>, forgotten: BTreeMap<Name, Tallies>) -> Self {
        let open = failovers.iter().filter(|(_, failover)| failover.end.is_none());
        let state = |(id, failover): (&u64, &FailoverRecord)| {
            let (away, before) = (failover.nodes.clone(), (failover.requests, failover.errors));
            let state = ServingState { away, open: Some(*id), before, ..ServingState::default() };
            (failover.upstream.clone(), state)
        };
        let current = open.map(state).collect();
        Self { failovers, forgotten, current }
    }

    /// Takes in the shift of one Envoy. `totals` are the current counters of the upstream, and `cause` is
    /// asked for when a failover begins.
    pub fn apply(
        &mut self,
        shift: &TierShift,
        cause: impl FnOnce() -> FailoverCause,
        totals: LoadTotals,
    ) -> Option<FailoverChange> {
        let next = self.failovers.last_key_value().map_or(1, |(last, _)| last.saturating_add(1));
        let state = self.current.entry(shift.upstream.clone()).or_default();
        state.move_node(shift);
        match (state.open, shift.to.filter(|to| *to != PRIMARY_TIER)) {
            (None, None) => None,
            (None, Some(to)) => {
                // Errors just before the shift count as errors of the failover.
                let errors = totals.errors.saturating_sub(shift.errors);
                (state.open, state.before) = (Some(next), (0, 0));
                state.began = LoadTotals { errors, ..totals };
                let failover = FailoverRecord {
                    upstream: shift.upstream.clone(),
                    start: shift.at,
                    end: None,
                    cause: cause(),
                    from: shift.from.unwrap_or(PRIMARY_TIER),
                    to,
                    nodes: [shift.node.clone()].into(),
                    requests: 0,
                    errors: shift.errors,
                    was_held: false,
                };
                self.failovers.insert(next, failover);
                Some(FailoverChange::Began(next))
            }
            (Some(open), to) => {
                let failover = self.failovers.get_mut(&open)?;
                (failover.requests, failover.errors) = state.counts(totals);
                if let Some(to) = to {
                    failover.to = to;
                    failover.nodes.insert(shift.node.clone());
                    return Some(FailoverChange::Spread(open));
                }
                if !state.away.is_empty() {
                    return None;
                }
                state.open = None;
                failover.end = Some(shift.at);
                Some(FailoverChange::Ended(open))
            }
        }
    }

    /// Sets the cause of a failover.
    pub fn set_cause(&mut self, id: u64, cause: FailoverCause) {
        if let Some(failover) = self.failovers.get_mut(&id) {
            failover.cause = cause;
        }
    }

    /// Updates the requests and errors of open failovers.
    pub fn update_counts(&mut self, totals: impl Fn(&Name) -> LoadTotals) {
        for (name, state) in &self.current {
            let Some(failover) = state.open.and_then(|open| self.failovers.get_mut(&open)) else {
                continue;
            };
            (failover.requests, failover.errors) = state.counts(totals(name));
        }
    }

    /// Ends the failovers of upstreams that do not exist any more.
    pub fn end_removed(
        &mut self,
        now: Timestamp,
        is_declared: impl Fn(&Name) -> bool,
    ) -> Vec<FailoverChange> {
        let gone: Vec<Name> = self.current.keys().filter(|name| !is_declared(name)).cloned().collect();
        let mut ended = Vec::new();
        for name in gone {
            let open = self.current.remove(&name).and_then(|state| state.open);
            let Some(open) = open else { continue };
            if let Some(failover) = self.failovers.get_mut(&open) {
                failover.end = Some(now);
                ended.push(FailoverChange::Ended(open));
            }
        }
        ended
    }

    /// Drops failovers that ended 30 days ago, and the first ended ones beyond the maximum. They go on to count
    /// in the totals. An open failover is never dropped.
    pub fn drop_expired(&mut self, now: Timestamp) {
        let is_old =
            |failover: &FailoverRecord| failover.end.is_some_and(|end| now.duration_since(end) >= RETENTION);
        let too_many = self.failovers.len().saturating_sub(MAX_FAILOVERS);
        let ended = self.failovers.iter().filter(|(_, failover)| failover.end.is_some());
        let mut first = ended.map(|(id, _)| *id).take(too_many).collect::<BTreeSet<u64>>();
        first.extend(self.failovers.iter().filter(|(_, failover)| is_old(failover)).map(|(id, _)| *id));
        for failover in first.iter().filter_map(|id| self.failovers.remove(id)) {
            let tally = self.forgotten.entry(failover.upstream.clone()).or_default();
            tally.entry(failover.cause).or_default().add(&failover, now);
        }
    }

    /// Returns the number and total duration of all failovers, by upstream and cause, including dropped and
    /// open ones.
    pub fn tallies(&self, now: Timestamp) -> BTreeMap<Name, Tallies> {
        let mut tallies = self.forgotten.clone();
        for failover in self.failovers.values() {
            let tally = tallies.entry(failover.upstream.clone()).or_default();
            tally.entry(failover.cause).or_default().add(failover, now);
        }
        tallies
    }

    /// Returns the tier that serves an upstream at most Envoys; none if no Envoy reported any.
    pub fn serving(&self, upstream: &Name) -> Option<u32> {
        let tally = &self.current.get(upstream)?.tally;
        let most = tally.iter().filter(|(_, count)| **count > 0);
        most.max_by_key(|(tier, count)| (**count, u32::MAX - **tier)).map(|(tier, _)| *tier)
    }

    /// Returns the open failover of an upstream and its number.
    pub fn open(&self, upstream: &Name) -> Option<(u64, &FailoverRecord)> {
        let open = self.current.get(upstream)?.open?;
        Some((open, self.failovers.get(&open)?))
    }

    /// True while a standby serves because the primaries failed.
    pub fn has_failed(&self, upstream: &Name) -> bool {
        self.open(upstream).is_some_and(|(_, failover)| failover.cause.is_failure())
    }

    /// Returns all open failovers with their numbers.
    pub fn all_open(&self) -> impl Iterator<Item = (u64, &FailoverRecord)> {
        let open = self.current.values().filter_map(|state| state.open);
        open.filter_map(|id| Some((id, self.failovers.get(&id)?)))
    }

    /// Returns the upstreams that another tier than the first serves at this Envoy.
    pub fn on_standby(&self, node: &str) -> Vec<&Name> {
        self.current.iter().filter(|(_, state)| state.away.contains(node)).map(|(name, _)| name).collect()
    }

    /// Returns the Envoys at which another tier than the first serves any upstream.
    pub fn nodes_on_standby(&self) -> impl Iterator<Item = &str> {
        let nodes: BTreeSet<&String> = self.current.values().flat_map(|state| &state.away).collect();
        nodes.into_iter().map(String::as_str)
    }

    /// True if no failover is open.
    pub fn is_quiet(&self) -> bool {
        self.current.values().all(|state| state.open.is_none())
    }

    /// True if at least `at_most.count` failovers of the upstream that failures caused have ended within the
    /// last `at_most.per`.
    pub fn is_flapping(&self, upstream: &Name, now: Timestamp, at_most: Damping) -> bool {
        let is_recent = |end: Timestamp| {
            now.duration_since(end) <= SignedDuration::try_from(at_most.per).unwrap_or(SignedDuration::MAX)
        };
        let of = self.failovers.values().filter(|failover| failover.upstream == *upstream);
        let failures =
            of.filter(|failover| failover.cause.is_failure() && failover.end.is_some_and(is_recent));
        failures.count() >= usize::try_from(at_most.count).unwrap_or(usize::MAX)
    }
}

impl Timed for FailoverRecord {
    fn map_times(&mut self, map: &dyn Fn(Timestamp) -> Timestamp) {
        self.start.map_times(map);
        self.end.map_times(map);
    }
}

impl Timed for History {
    fn map_times(&mut self, map: &dyn Fn(Timestamp) -> Timestamp) {
        self.failovers.values_mut().for_each(|failover| failover.map_times(map));
    }
}

impl Tally {
    fn add(&mut self, failover: &FailoverRecord, now: Timestamp) {
        self.count += 1;
        self.seconds += failover.end.unwrap_or(now).duration_since(failover.start).as_secs_f64().max(0.0);
    }
}

impl ServingState {
    /// Returns requests and errors since the open failover began.
    fn counts(&self, totals: LoadTotals) -> (u64, u64) {
        let since = totals.since(self.began);
        let (requests, errors) = self.before;
        (requests.saturating_add(since.requests), errors.saturating_add(since.errors))
    }

    fn move_node(&mut self, shift: &TierShift) {
        if let Some(count) = shift.from.and_then(|from| self.tally.get_mut(&from)) {
            *count = count.saturating_sub(1);
        }
        if let Some(to) = shift.to {
            *self.tally.entry(to).or_default() += 1;
        }
        match shift.to {
            Some(to) if to != PRIMARY_TIER => drop(self.away.insert(shift.node.clone())),
            _ => drop(self.away.remove(&shift.node)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::{Inputs, build};
    use crate::failover::orders::{OrderMetadata, StateOrder};
    use crate::model::overrides::OverrideState;
    use crate::model::selector::TargetSelector;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("within the calendar")
    }

    fn shop() -> Name {
        Name::parse("shop").expect("a name")
    }

    fn shift(node: &str, second: i64, from: impl Into<Option<u32>>, to: impl Into<Option<u32>>) -> TierShift {
        let (from, to) = (from.into(), to.into());
        TierShift { node: node.into(), upstream: shop(), from, to, at: at(second), errors: 0 }
    }

    fn take(history: &mut History, shift: &TierShift) -> Option<FailoverChange> {
        let seconds = u64::try_from(shift.at.as_second()).expect("after 1970");
        let totals = LoadTotals { requests: seconds * 100, errors: seconds, ..LoadTotals::default() };
        history.apply(shift, || FailoverCause::HealthCheck, totals)
    }

    #[test]
    fn a_failover_lasts_from_the_first_envoy_that_leaves_to_the_last_that_is_back() {
        let mut history = History::default();
        let changes = [
            shift("a", 1, None, 0),
            shift("b", 1, None, 0),
            shift("a", 5, 0, 1),
            shift("b", 6, 0, 1),
            shift("a", 20, 1, 0),
            shift("b", 25, 1, 0),
        ]
        .map(|shift| take(&mut history, &shift));
        let expected = [
            None,
            None,
            Some(FailoverChange::Began(1)),
            Some(FailoverChange::Spread(1)),
            None,
            Some(FailoverChange::Ended(1)),
        ];
        assert_eq!(changes, expected);
        let failover = &history.failovers[&1];
        assert_eq!((failover.start, failover.end), (at(5), Some(at(25))));
        assert_eq!((failover.from, failover.to, failover.nodes.len()), (0, 1, 2));
        assert_eq!((failover.requests, failover.errors), (2000, 20));
    }

    #[test]
    fn an_envoy_that_goes_counts_as_back() {
        let mut history = History::default();
        take(&mut history, &shift("a", 5, 0, 1));
        assert_eq!(take(&mut history, &shift("a", 9, 1, None)), Some(FailoverChange::Ended(1)));
        assert_eq!(history.serving(&shop()), None);
    }

    #[test]
    fn what_lasted_at_a_restart_ends_when_its_envoys_say_so() {
        let mut history = History::default();
        take(&mut history, &shift("a", 5, 0, 1));
        history.update_counts(|_| LoadTotals { requests: 900, errors: 9, ..LoadTotals::default() });
        let mut history = History::restored(history.failovers, BTreeMap::new());
        let again = |second| LoadTotals { requests: second, errors: 1, ..LoadTotals::default() };
        let mut say = |from, to, second| {
            let shift = shift("a", second, from, to);
            history.apply(&shift, || FailoverCause::HealthCheck, again(second.unsigned_abs()))
        };
        assert_eq!(say(None, Some(1), 30), Some(FailoverChange::Spread(1)));
        assert_eq!(say(Some(1), Some(0), 40), Some(FailoverChange::Ended(1)));
        let failover = &history.failovers[&1];
        assert_eq!((failover.requests, failover.errors), (400 + 40, 4 + 1), "what was counted before counts");
    }

    #[test]
    fn most_envoys_say_which_tier_serves() {
        let mut history = History::default();
        for (node, tier) in [("a", 0), ("b", 1), ("c", 1)] {
            take(&mut history, &shift(node, 1, None, tier));
        }
        assert_eq!(history.serving(&shop()), Some(1));
        take(&mut history, &shift("b", 2, 1, 0));
        assert_eq!(history.serving(&shop()), Some(0));
    }

    #[test]
    fn failures_that_ended_of_late_are_flaps() {
        let mut history = History::default();
        for round in 0..3 {
            take(&mut history, &shift("a", round * 10, 0, 1));
            take(&mut history, &shift("a", round * 10 + 5, 1, 0));
        }
        let flaps = |now, count| {
            let at_most = Damping { count, per: std::time::Duration::from_secs(20) };
            history.is_flapping(&shop(), at(now), at_most)
        };
        assert_eq!([flaps(25, 3), flaps(25, 4), flaps(26, 3)], [true, false, false]);
    }

    #[test]
    fn failovers_are_forgotten_after_thirty_days() {
        let mut history = History::default();
        take(&mut history, &shift("a", 5, 0, 1));
        take(&mut history, &shift("a", 6, 1, 0));
        let month = 30 * 24 * 3600;
        history.drop_expired(at(month));
        assert_eq!(history.failovers.len(), 1);
        history.drop_expired(at(6 + month));
        assert_eq!(history.failovers.len(), 0);
    }

    #[test]
    fn one_that_lasts_is_never_forgotten() {
        let mut history = History::default();
        take(&mut history, &shift("a", 1, 0, 1));
        let open = history.failovers[&1].clone();
        let ended = FailoverRecord { end: Some(at(2)), ..open };
        for id in 2..=u64::try_from(MAX_FAILOVERS).expect("a number") + 3 {
            history.failovers.insert(id, ended.clone());
        }
        history.drop_expired(at(10));
        assert_eq!(history.failovers.len(), MAX_FAILOVERS);
        assert_eq!(
            history.failovers.keys().take(2).collect::<Vec<_>>(),
            [&1, &5],
            "the first ended ones went"
        );
        assert_eq!(take(&mut history, &shift("a", 20, 1, 0)), Some(FailoverChange::Ended(1)));
        assert!(matches!(take(&mut history, &shift("a", 30, 0, 1)), Some(FailoverChange::Began(_))));
    }

    #[test]
    fn what_is_forgotten_is_counted_still() {
        let mut history = History::default();
        for second in [5, 1000] {
            take(&mut history, &shift("a", second, 0, 1));
            take(&mut history, &shift("a", second + 7, 1, 0));
        }
        let tallies = |history: &History| history.tallies(at(2000))[&shop()][&FailoverCause::HealthCheck];
        let before = tallies(&history);
        assert_eq!(before, Tally { count: 2, seconds: 14.0 });
        history.drop_expired(at(30 * 24 * 3600 + 100));
        assert_eq!(history.failovers.len(), 1);
        assert_eq!(tallies(&history), before);
        let kept = serde_json::to_value(&history.forgotten).expect("JSON");
        let kept = serde_json::from_value(kept).expect("as it was");
        assert_eq!(tallies(&History::restored(history.failovers, kept)), before);
    }

    #[test]
    fn a_zone_that_is_out_drains_those_who_are_near_it() {
        let text = "upstreams: [{ name: shop, failover: { locality: true }, targets: [
            { target: 10.0.0.1:80, zone: a }, { target: 10.0.0.2:80, zone: b }] }]";
        let cause = |text: &str, out: &[&str]| {
            let mut inputs = Inputs::default();
            inputs.files.insert("shop.yaml".into(), text.into());
            let build = build(&inputs, None).expect("it builds");
            let mut orders = Orders::default();
            for part in out {
                let part = TargetSelector::read(part).expect("a part");
                let metadata =
                    OrderMetadata { author: "ann".into(), reason: None, since: at(1), expires_at: None };
                orders.states.insert((shop(), part), StateOrder { state: OverrideState::Drained, metadata });
            }
            cause_of(&build.model.upstreams["shop"], &orders, 5)
        };
        assert_eq!(cause(text, &[]), FailoverCause::OutlierDetection);
        assert_eq!(cause(text, &["zone=a"]), FailoverCause::Drained);
        let far = text.replace("locality: true", "locality: false");
        assert_eq!(
            cause(&far, &["zone=a"]),
            FailoverCause::OutlierDetection,
            "the others of its tier are left"
        );
        assert_eq!(cause(&far, &["zone=a", "zone=b"]), FailoverCause::Drained);
    }
}
