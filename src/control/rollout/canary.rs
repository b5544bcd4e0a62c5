//! Which Envoys get a change first, and when the others follow: the canaries.
//!
//! A build that changes more than endpoints goes to one Envoy of each fleet. When each of those has acknowledged all
//! of it, and was watched for as long as the policy asks for, the build is accepted and everybody follows. When one
//! of them refuses it, or too many of its requests fail meanwhile, the build is rejected and nobody else ever had it.
//! The outcome is one for all fleets: a change is in effect everywhere or nowhere.
//!
//! An Envoy is asked only when it has settled on what it runs now. What it refuses from then on, in words that it
//! did not use before, is about this build and nothing else.
//!
//! An Envoy may also leave or never answer. Then another one is asked. Several departures are taken for a refusal: a
//! config that ends Envoys says so in no other way. So are several Envoys that never answer. If there is nobody to
//! ask, there is nothing to wait for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long a canary may take to acknowledge. Envoy itself stops waiting for the endpoints of a cluster after 15 s.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// So many departures are a refusal.
const DEPARTURES: usize = 3;

/// How many Envoys of a fleet are asked when none answers.
const SILENT: usize = 3;

/// How many requests say something about a rate.
const REQUESTS: u64 = 20;

/// What canaries must show.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// How long they are watched after they acknowledged.
    pub bake: Duration,
    /// Of the requests meanwhile this many percent may fail; none when they do not count.
    pub error_rate: Option<f64>,
}

/// Requests that an Envoy sent to targets, since it first reported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// That ended, one way or the other.
    pub requests: u64,
    /// Of these, those that failed.
    pub errors: u64,
}

/// An Envoy as it is seen now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sighting {
    /// Its node id.
    pub id: String,
    /// The fleet whose canary it would be.
    pub fleet: String,
    /// The newest generation that it was told of.
    pub seen: u64,
    /// It has not answered all that it was told, or was not told all of it.
    pub is_pending: bool,
    /// Its words about what it refuses.
    pub errors: BTreeSet<String>,
    /// What it reported.
    pub load: Load,
}

/// What is known when somebody looks.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// When that is.
    pub now: Instant,
    /// The newest generation.
    pub generation: u64,
    /// Every connected Envoy that the build changes in more than endpoints.
    pub affected: &'a dyn Fn() -> Vec<Sighting>,
    /// One Envoy; none while it is not connected.
    pub one: &'a dyn Fn(&str) -> Option<Sighting>,
}

/// Why a build was rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The canaries that did not take it.
    pub by: Vec<String>,
    /// What they said, or what was seen of them.
    pub error: String,
}

/// What follows from a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet; look again when something happened, or at this time.
    Wait(Instant),
    /// Everybody follows.
    Accepted,
    /// Nobody follows, and the canaries return to what they had.
    Rejected(Refusal),
}

/// How a fleet's canary is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// There is none yet.
    Choosing,
    /// It has not acknowledged everything.
    Asked,
    /// It has, and is watched.
    Baking,
    /// It did all that was asked for, or there was nobody to ask.
    Passed,
}

/// A build on its way.
#[derive(Debug, Clone)]
pub struct Rollout {
    policy: Policy,
    trials: BTreeMap<String, Trial>,
}

/// One fleet's part.
#[derive(Debug, Clone)]
struct Trial {
    canary: Option<Canary>,
    phase: Phase,
    /// When the phase ends if nothing happens.
    until: Instant,
    silent: Vec<String>,
    departed: Vec<String>,
}

#[derive(Debug, Clone)]
struct Canary {
    id: String,
    /// The generation with which it was told.
    given: u64,
    /// What it refused before.
    errors: BTreeSet<String>,
    /// At the beginning of the phase.
    load: Load,
}

impl Rollout {
    /// Begins; none when there is no Envoy that the build changes.
    pub fn begin(policy: Policy, view: View<'_>) -> Option<Self> {
        let fleets = (view.affected)().into_iter().map(|sighting| (sighting.fleet, Trial::new(view.now)));
        let trials: BTreeMap<String, Trial> = fleets.collect();
        (!trials.is_empty()).then_some(Self { policy, trials })
    }

    /// Looks at the canaries and says what follows. Whoever is among [`Self::canaries`] afterwards should run the
    /// build, from the next generation on.
    pub fn look(&mut self, view: View<'_>) -> Step {
        let mut until: Option<Instant> = None;
        for (fleet, trial) in &mut self.trials {
            if let Err(refusal) = trial.advance(fleet, self.policy, view) {
                return Step::Rejected(refusal);
            }
            if trial.phase != Phase::Passed {
                until = until.into_iter().chain([trial.until]).min();
            }
        }
        until.map_or(Step::Accepted, Step::Wait)
    }

    /// Who should run the build.
    pub fn canaries(&self) -> BTreeSet<String> {
        let canaries = self.trials.values().filter_map(|trial| trial.canary.as_ref());
        canaries.map(|canary| canary.id.clone()).collect()
    }

    /// Each fleet with its canary and how that is doing.
    pub fn progress(&self) -> impl Iterator<Item = (&str, Option<&str>, Phase)> {
        self.trials.iter().map(|(fleet, trial)| {
            let canary = trial.canary.as_ref().map(|canary| canary.id.as_str());
            (fleet.as_str(), canary, trial.phase)
        })
    }
}

impl Trial {
    fn new(now: Instant) -> Self {
        Self {
            canary: None,
            phase: Phase::Choosing,
            until: now + PATIENCE,
            silent: Vec::new(),
            departed: Vec::new(),
        }
    }

    fn advance(&mut self, fleet: &str, policy: Policy, view: View<'_>) -> Result<(), Refusal> {
        let Some(canary) = &mut self.canary else {
            if self.phase == Phase::Choosing {
                self.choose(fleet, view);
            }
            return Ok(());
        };
        let Some(seen) = (view.one)(&canary.id) else { return self.depart(fleet, view) };
        if let Some(error) = canary.refusal(&seen) {
            return Err(Refusal { by: vec![canary.id.clone()], error });
        }
        if self.phase == Phase::Asked && canary.has_all(&seen) {
            canary.load = seen.load;
            (self.phase, self.until) = (Phase::Baking, view.now + policy.bake);
        }
        match self.phase {
            Phase::Baking => self.bake(policy, seen.load, view.now),
            Phase::Asked if view.now >= self.until => self.give_up(fleet, view),
            _ => Ok(()),
        }
    }

    /// Asks one who has settled on what it runs; rather one who did not leave and refuses nothing; the first by id.
    /// Who does not settle is asked when there was patience enough.
    fn choose(&mut self, fleet: &str, view: View<'_>) {
        let is_late = view.now >= self.until;
        let is_settled = |it: &Sighting| !it.is_pending && it.seen >= view.generation;
        let rank = |it: &Sighting| (!is_settled(it), self.departed.contains(&it.id), !it.errors.is_empty());
        let best = self.others(fleet, view).min_by_key(|it| (rank(it), it.id.clone()));
        match best {
            Some(best) if is_settled(&best) || is_late => {
                let errors = if is_settled(&best) { best.errors } else { BTreeSet::new() };
                let given = view.generation + 1;
                self.canary = Some(Canary { id: best.id, given, errors, load: best.load });
                (self.phase, self.until) = (Phase::Asked, view.now + PATIENCE);
            }
            None if is_late => self.phase = Phase::Passed,
            _ => {}
        }
    }

    /// The Envoys of the fleet that can be asked.
    fn others<'a>(&'a self, fleet: &'a str, view: View<'_>) -> impl Iterator<Item = Sighting> + use<'a> {
        let here = (view.affected)().into_iter().filter(move |it| it.fleet == fleet);
        here.filter(|it| !self.silent.contains(&it.id))
    }

    /// The canary is not connected any more.
    fn depart(&mut self, fleet: &str, view: View<'_>) -> Result<(), Refusal> {
        if self.phase == Phase::Passed {
            return Ok(());
        }
        self.departed.extend(self.canary.take().map(|canary| canary.id));
        if self.departed.len() >= DEPARTURES {
            let error = format!("{} left while they had it", self.departed.join(", "));
            return Err(Refusal { by: self.departed.clone(), error });
        }
        (self.phase, self.until) = (Phase::Choosing, view.now + PATIENCE);
        self.choose(fleet, view);
        Ok(())
    }

    /// The canary was asked for long enough. If it was the only one, there is nobody left to be protected.
    fn give_up(&mut self, fleet: &str, view: View<'_>) -> Result<(), Refusal> {
        self.silent.extend(self.canary.as_ref().map(|canary| canary.id.clone()));
        if self.silent.len() < SILENT && self.others(fleet, view).next().is_some() {
            (self.canary, self.phase, self.until) = (None, Phase::Choosing, view.now + PATIENCE);
            self.choose(fleet, view);
        } else if self.silent.len() > 1 {
            let error = format!("{} did not answer within {PATIENCE:?}", self.silent.join(", "));
            return Err(Refusal { by: self.silent.clone(), error });
        } else {
            self.phase = Phase::Passed;
        }
        Ok(())
    }

    fn bake(&mut self, policy: Policy, load: Load, now: Instant) -> Result<(), Refusal> {
        let Some(canary) = &self.canary else { return Ok(()) };
        let requests = load.requests.saturating_sub(canary.load.requests);
        let errors = load.errors.saturating_sub(canary.load.errors);
        let rate = 100.0 * errors as f64 / requests.max(1) as f64;
        if requests >= REQUESTS && policy.error_rate.is_some_and(|most| rate > most) {
            let error = format!("{errors} of {requests} requests failed ({rate:.1} %) while it was watched");
            return Err(Refusal { by: vec![canary.id.clone()], error });
        }
        if now >= self.until {
            self.phase = Phase::Passed;
        }
        Ok(())
    }
}

impl Canary {
    /// What it says of the build and did not say before it.
    fn refusal(&self, seen: &Sighting) -> Option<String> {
        seen.errors.difference(&self.errors).next().filter(|_| seen.seen >= self.given).cloned()
    }

    fn has_all(&self, seen: &Sighting) -> bool {
        seen.seen >= self.given && !seen.is_pending
    }
}

#[cfg(test)]
mod tests;
