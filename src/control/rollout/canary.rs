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

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Time within which a canary must acknowledge. Envoy itself stops waiting for the endpoints of a cluster
/// after 15 s.
pub const PATIENCE: Duration = Duration::from_secs(30);

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
    /// Error texts of its current refusals.
    pub errors: BTreeSet<String>,
    /// Requests that it has reported.
    pub load: RequestCount,
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
    /// Begins a rollout; none if the build changes no connected Envoy.
    pub fn begin(policy: CanaryPolicy, view: CanaryView<'_>) -> Option<Self> {
        let fleets = (view.affected)().into_iter().map(|state| (state.fleet, FleetTrial::new(view.now)));
        let trials: BTreeMap<String, FleetTrial> = fleets.collect();
        (!trials.is_empty()).then_some(Self { policy, trials })
    }

    /// Checks the canaries and returns the next step. Afterwards the Envoys in [`Self::canaries`] should run
    /// the build, from the next generation on.
    pub fn check(&mut self, view: CanaryView<'_>) -> CanaryStep {
        let mut until: Option<Instant> = None;
        for (fleet, trial) in &mut self.trials {
            if let Err(refusal) = trial.advance(fleet, self.policy, view) {
                return CanaryStep::Rejected(refusal);
            }
            if trial.phase != CanaryPhase::Passed {
                until = until.into_iter().chain([trial.until]).min();
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
    fn new(now: Instant) -> Self {
        Self {
            canary: None,
            phase: CanaryPhase::Choosing,
            until: now + PATIENCE,
            silent: Vec::new(),
            departed: Vec::new(),
        }
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
        let is_late = view.now >= self.until;
        let is_current = |it: &EnvoyState| !it.is_pending && it.seen >= view.generation;
        let rank = |it: &EnvoyState| (!is_current(it), self.departed.contains(&it.id), !it.errors.is_empty());
        let best = self.others(fleet, view).min_by_key(|it| (rank(it), it.id.clone()));
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
