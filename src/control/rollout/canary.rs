//! Canary rollouts: the Envoys that get a change first, and the time at which the others follow.
//!
//! A build that changes more than endpoints goes to one Envoy of each fleet, its canary. When each canary has
//! acknowledged all of it, and was watched for as long as the policy requires, the build is accepted and goes
//! to all Envoys. When a canary refuses it, or too many of the canary's requests fail meanwhile, the build is
//! rejected and no other Envoy gets it. All fleets share one outcome: a change is in effect everywhere or
//! nowhere.
//!
//! An Envoy is chosen only when it has acknowledged its current config. An error that it reports from then
//! on, with a text that it did not report before, is therefore about this build.
//!
//! An Envoy may also disconnect or never answer. Then another one is chosen. Several departures count as a
//! refusal: a config that makes Envoys crash shows in no other way. So do several Envoys that never answer.
//! With no Envoy to choose, there is nothing to wait for.
//!
//! After a start of the control plane that is different: the Envoys are still running and about to connect
//! again. So fleets that had Envoys are awaited for a while, and an Envoy is chosen only after it had the time
//! to ask for all that it wants: what it has not asked for it cannot refuse.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Time within which a canary must acknowledge. Envoy itself stops waiting for the endpoints of a cluster
/// after 15 s.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Time for which an Envoy that connects after a start must be there before it is chosen. It asks for all types
/// at once when it connects again.
pub const SETTLING: Duration = Duration::from_secs(2);

/// Time for an Envoy that has not asked for listeners: one that starts asks for them when its clusters are
/// ready, for whose endpoints it waits 15 s at most.
pub const STARTING: Duration = Duration::from_secs(16);

/// Time after the first arrival within which an Envoy that is ready waits for others to be: the first by id was
/// the canary before the start, and no second one should meet a bad change.
pub const GATHERING: Duration = Duration::from_secs(5);

/// Number of departures in a fleet that count as a refusal.
const DEPARTURES: usize = 3;

/// Limit on the Envoys of a fleet that are tried in turn while none answers.
const SILENT: usize = 3;

/// Smallest number of requests for which an error rate counts.
const REQUESTS: u64 = 20;

/// Conditions that canaries must meet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CanaryPolicy {
    /// Time for which they are watched after the acknowledgement.
    pub bake: Duration,
    /// Highest tolerated error rate during that time, in percent; none if errors do not count.
    pub error_rate: Option<f64>,
}

/// Requests that an Envoy sent to targets, since its first report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestCount {
    /// Completed requests, successful or not.
    pub requests: u64,
    /// Failed requests among them.
    pub errors: u64,
}

/// State of an Envoy at the time of a check.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EnvoyState {
    /// Node id.
    pub id: String,
    /// Fleet whose canary it would be.
    pub fleet: String,
    /// Newest generation that it was sent.
    pub seen: u64,
    /// True if it has not answered every response, or was not sent everything yet.
    pub is_pending: bool,
    /// True if it asked for listeners, which Envoy does last.
    pub has_listeners: bool,
    /// Error texts of its current refusals.
    pub errors: BTreeSet<String>,
    /// Requests that it has reported.
    pub load: RequestCount,
}

/// Fleets whose Envoys are about to connect again after a start.
#[derive(Debug, Clone, Default)]
pub struct AwaitedFleets {
    /// Names of the fleets.
    pub names: BTreeSet<String>,
    /// Time until which they are awaited.
    pub until: Option<Instant>,
}

/// Input of a check.
#[derive(Clone, Copy)]
pub struct CanaryView<'a> {
    /// Current time.
    pub now: Instant,
    /// Newest generation.
    pub generation: u64,
    /// Lists every connected Envoy for which the build changes more than endpoints.
    pub affected: &'a dyn Fn() -> Vec<EnvoyState>,
    /// Looks up one Envoy; none while it is not connected.
    pub one: &'a dyn Fn(&str) -> Option<EnvoyState>,
}

/// Reason for which a build was rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanaryRefusal {
    /// Node ids of the canaries that failed.
    pub by: Vec<String>,
    /// Their error text, or a description of their failure.
    pub error: String,
}

/// Result of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CanaryStep {
    /// Undecided; the next check is due after an event, or at this time.
    Wait(Instant),
    /// The build goes to all Envoys.
    Accepted,
    /// No other Envoy gets the build, and the canaries return to their earlier one.
    Rejected(CanaryRefusal),
}

/// Progress of a fleet's canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CanaryPhase {
    /// No canary yet.
    Choosing,
    /// The canary has not acknowledged everything.
    Asked,
    /// The canary has acknowledged everything and is watched.
    Baking,
    /// The canary met all conditions, or there was no Envoy to choose.
    Passed,
}

/// Rollout of one build.
#[derive(Debug, Clone)]
pub struct CanaryRollout {
    policy: CanaryPolicy,
    trials: BTreeMap<String, FleetTrial>,
    /// Time until which Envoys are awaited; none in a rollout that began later.
    awaits: Option<Instant>,
}

/// Trial of the build in one fleet.
#[derive(Debug, Clone)]
struct FleetTrial {
    canary: Option<Canary>,
    phase: CanaryPhase,
    /// Time at which the phase ends if nothing happens.
    until: Instant,
    silent: Vec<String>,
    departed: Vec<String>,
    /// Present in a rollout that awaits Envoys.
    arrival: Option<FleetArrival>,
}

/// Arrival of a fleet's Envoys after a start.
#[derive(Debug, Clone)]
struct FleetArrival {
    /// Time until which the first of them is awaited.
    until: Instant,
    /// Time since which each of them is there.
    since: BTreeMap<String, Instant>,
}

#[derive(Debug, Clone)]
struct Canary {
    id: String,
    /// Generation with which it got the build.
    given: u64,
    /// Errors that it reported before it got the build.
    errors: BTreeSet<String>,
    /// Requests at the beginning of the phase.
    load: RequestCount,
}

impl CanaryRollout {
    /// Begins a rollout; none if the build changes no connected Envoy and no awaited fleet. `awaited` are those
    /// fleets that it changes.
    pub fn begin(policy: CanaryPolicy, awaited: AwaitedFleets, view: CanaryView<'_>) -> Option<Self> {
        let AwaitedFleets { names, until } = awaited;
        let awaits = until.filter(|until| view.now < *until && !names.is_empty());
        let is_awaited = |fleet: &String| awaits.filter(|_| names.contains(fleet));
        let connected = (view.affected)().into_iter().map(|state| state.fleet);
        let fleets = connected.chain(names.iter().filter(|_| awaits.is_some()).cloned());
        let trial = |fleet: String| (fleet.clone(), FleetTrial::new(view.now, is_awaited(&fleet)));
        let trials: BTreeMap<String, FleetTrial> = fleets.map(trial).collect();
        (!trials.is_empty()).then_some(Self { policy, trials, awaits })
    }

    /// Returns the fleets of which no Envoy came while they were awaited.
    pub fn absent(&self) -> impl Iterator<Item = &str> {
        let never = |trial: &FleetTrial| {
            let arrival = trial.arrival.as_ref();
            trial.phase == CanaryPhase::Passed
                && trial.canary.is_none()
                && trial.departed.is_empty()
                && arrival.is_some_and(|arrival| arrival.since.is_empty())
        };
        self.trials.iter().filter(move |(_, trial)| never(trial)).map(|(fleet, _)| fleet.as_str())
    }

    /// Adds fleets of which an Envoy came that were not awaited.
    fn add_arrived(&mut self, view: CanaryView<'_>) {
        if self.awaits.is_some_and(|until| view.now < until) {
            for EnvoyState { fleet, .. } in (view.affected)() {
                self.trials.entry(fleet).or_insert_with(|| FleetTrial::new(view.now, self.awaits));
            }
        }
    }

    /// Checks the canaries and returns the next step. Afterwards the Envoys in [`Self::canaries`] should run
    /// the build, from the next generation on.
    pub fn check(&mut self, view: CanaryView<'_>) -> CanaryStep {
        self.add_arrived(view);
        let mut until: Option<Instant> = None;
        for (fleet, trial) in &mut self.trials {
            if let Err(refusal) = trial.advance(fleet, self.policy, view) {
                return CanaryStep::Rejected(refusal);
            }
            if trial.phase != CanaryPhase::Passed {
                until = until.into_iter().chain([trial.next(view.now)]).min();
            }
        }
        until.map_or(CanaryStep::Accepted, CanaryStep::Wait)
    }

    /// Returns the node ids of the Envoys that should run the build.
    pub fn canaries(&self) -> BTreeSet<String> {
        let canaries = self.trials.values().filter_map(|trial| trial.canary.as_ref());
        canaries.map(|canary| canary.id.clone()).collect()
    }

    /// Iterates over the fleets, each with its canary and the phase.
    pub fn progress(&self) -> impl Iterator<Item = (&str, Option<&str>, CanaryPhase)> {
        self.trials.iter().map(|(fleet, trial)| {
            let canary = trial.canary.as_ref().map(|canary| canary.id.as_str());
            (fleet.as_str(), canary, trial.phase)
        })
    }
}

impl FleetTrial {
    /// Begins to choose a canary. `awaits` is the time until which its fleet is awaited.
    fn new(now: Instant, awaits: Option<Instant>) -> Self {
        Self {
            canary: None,
            phase: CanaryPhase::Choosing,
            until: now + PATIENCE,
            silent: Vec::new(),
            departed: Vec::new(),
            arrival: awaits.map(|until| FleetArrival { until, since: BTreeMap::new() }),
        }
    }

    /// Returns the time of the next check if nothing happens.
    fn next(&self, now: Instant) -> Instant {
        let arrival = self.arrival.as_ref().filter(|_| self.phase == CanaryPhase::Choosing);
        arrival.and_then(|arrival| arrival.next(now)).map_or(self.until, |next| next.min(self.until))
    }

    fn advance(
        &mut self,
        fleet: &str,
        policy: CanaryPolicy,
        view: CanaryView<'_>,
    ) -> Result<(), CanaryRefusal> {
        let Some(canary) = &mut self.canary else {
            if self.phase == CanaryPhase::Choosing {
                self.choose(fleet, view);
            }
            return Ok(());
        };
        let Some(seen) = (view.one)(&canary.id) else { return self.depart(fleet, view) };
        if let Some(error) = canary.refusal(&seen) {
            return Err(CanaryRefusal { by: vec![canary.id.clone()], error });
        }
        if self.phase == CanaryPhase::Asked && canary.has_all(&seen) {
            canary.load = seen.load;
            (self.phase, self.until) = (CanaryPhase::Baking, view.now + policy.bake);
        }
        match self.phase {
            CanaryPhase::Baking => self.bake(policy, seen.load, view.now),
            CanaryPhase::Asked if view.now >= self.until => self.give_up(fleet, view),
            _ => Ok(()),
        }
    }

    /// Chooses a canary that has acknowledged its current config; preferably one that did not disconnect
    /// before and refuses nothing; the first by id. An Envoy that does not acknowledge is chosen after
    /// [`PATIENCE`].
    fn choose(&mut self, fleet: &str, view: CanaryView<'_>) {
        let others: Vec<EnvoyState> = self.others(fleet, view).collect();
        if let Some(arrival) = &mut self.arrival {
            self.until = arrival.observe(&others, view.now, self.until);
        }
        let is_late = view.now >= self.until;
        let is_gathered = self.arrival.as_ref().is_none_or(|arrival| arrival.is_gathered(&others, view.now));
        let is_settled = |it: &EnvoyState| {
            is_gathered && self.arrival.as_ref().is_none_or(|arrival| arrival.is_settled(it, view.now))
        };
        let is_current = |it: &EnvoyState| !it.is_pending && it.seen >= view.generation && is_settled(it);
        let rank = |it: &EnvoyState| (!is_current(it), self.departed.contains(&it.id), !it.errors.is_empty());
        let best = others.into_iter().min_by_key(|it| (rank(it), it.id.clone()));
        match best {
            Some(best) if is_current(&best) || is_late => {
                let errors = if is_current(&best) { best.errors } else { BTreeSet::new() };
                let given = view.generation + 1;
                self.canary = Some(Canary { id: best.id, given, errors, load: best.load });
                (self.phase, self.until) = (CanaryPhase::Asked, view.now + PATIENCE);
            }
            None if is_late => self.phase = CanaryPhase::Passed,
            _ => {}
        }
    }

    /// Iterates over the Envoys of the fleet that can be chosen.
    fn others<'a>(
        &'a self,
        fleet: &'a str,
        view: CanaryView<'_>,
    ) -> impl Iterator<Item = EnvoyState> + use<'a> {
        let here = (view.affected)().into_iter().filter(move |it| it.fleet == fleet);
        here.filter(|it| !self.silent.contains(&it.id))
    }

    /// Handles the disconnection of the canary.
    fn depart(&mut self, fleet: &str, view: CanaryView<'_>) -> Result<(), CanaryRefusal> {
        if self.phase == CanaryPhase::Passed {
            return Ok(());
        }
        self.departed.extend(self.canary.take().map(|canary| canary.id));
        if self.departed.len() >= DEPARTURES {
            let error = format!("{} left while they had it", self.departed.join(", "));
            return Err(CanaryRefusal { by: self.departed.clone(), error });
        }
        (self.phase, self.until) = (CanaryPhase::Choosing, view.now + PATIENCE);
        if let Some(arrival) = &mut self.arrival {
            arrival.until = arrival.until.max(self.until);
        }
        self.choose(fleet, view);
        Ok(())
    }

    /// Handles a canary that did not answer in time: tries another Envoy, up to [`SILENT`] in all. If there
    /// is none, two or more silent Envoys count as a refusal; a single one passes, since there is no other
    /// Envoy to protect.
    fn give_up(&mut self, fleet: &str, view: CanaryView<'_>) -> Result<(), CanaryRefusal> {
        self.silent.extend(self.canary.as_ref().map(|canary| canary.id.clone()));
        if self.silent.len() < SILENT && self.others(fleet, view).next().is_some() {
            (self.canary, self.phase, self.until) = (None, CanaryPhase::Choosing, view.now + PATIENCE);
            self.choose(fleet, view);
        } else if self.silent.len() > 1 {
            let error = format!("{} did not answer within {PATIENCE:?}", self.silent.join(", "));
            return Err(CanaryRefusal { by: self.silent.clone(), error });
        } else {
            self.phase = CanaryPhase::Passed;
        }
        Ok(())
    }

    fn bake(&mut self, policy: CanaryPolicy, load: RequestCount, now: Instant) -> Result<(), CanaryRefusal> {
        let Some(canary) = &self.canary else { return Ok(()) };
        let requests = load.requests.saturating_sub(canary.load.requests);
        let errors = load.errors.saturating_sub(canary.load.errors);
        let rate = 100.0 * errors as f64 / requests.max(1) as f64;
        if requests >= REQUESTS && policy.error_rate.is_some_and(|most| rate > most) {
            let error = format!("{errors} of {requests} requests failed ({rate:.1} %) while it was watched");
            return Err(CanaryRefusal { by: vec![canary.id.clone()], error });
        }
        if now >= self.until {
            self.phase = CanaryPhase::Passed;
        }
        Ok(())
    }
}

impl FleetArrival {
    /// Records the Envoys that are there. Returns the time at which an Envoy is chosen although none is ready,
    /// `planned` at the earliest, or at which the fleet is awaited no more.
    fn observe(&mut self, present: &[EnvoyState], now: Instant, planned: Instant) -> Instant {
        self.since.retain(|id, _| present.iter().any(|it| it.id == *id));
        for it in present {
            self.since.entry(it.id.clone()).or_insert(now);
        }
        self.since.values().min().map_or(self.until, |first| planned.max(*first + PATIENCE))
    }

    /// Returns the next time, after `now`, at which an Envoy may have become ready.
    fn next(&self, now: Instant) -> Option<Instant> {
        let times = self.since.values().flat_map(|it| [SETTLING, GATHERING, STARTING].map(|time| *it + time));
        times.filter(|time| *time > now).min()
    }

    /// True if all Envoys that are there are settled, or the first had to wait long enough for the others.
    fn is_gathered(&self, present: &[EnvoyState], now: Instant) -> bool {
        let first = self.since.values().min();
        first.is_some_and(|first| now >= *first + GATHERING)
            || present.iter().all(|it| self.is_settled(it, now))
    }

    /// True if the Envoy had the time to ask for all that it wants.
    fn is_settled(&self, it: &EnvoyState, now: Instant) -> bool {
        let settling = if it.has_listeners { SETTLING } else { STARTING };
        self.since.get(&it.id).is_some_and(|since| now >= *since + settling)
    }
}

impl Canary {
    /// Returns an error that the canary reports about the build and did not report before.
    fn refusal(&self, seen: &EnvoyState) -> Option<String> {
        seen.errors.difference(&self.errors).next().filter(|_| seen.seen >= self.given).cloned()
    }

    fn has_all(&self, seen: &EnvoyState) -> bool {
        seen.seen >= self.given && !seen.is_pending
    }
}

#[cfg(test)]
mod tests;
