//! How an accepted change reaches the fleets: by their canaries first.
//!
//! What is desired is what was accepted last. While a rollout is under way, something older is live, the canaries run
//! a candidate between the two, and changes that were accepted since wait behind it. Changes of endpoints alone do
//! not wait: they are made to all of these at once.
//!
//! A candidate that was refused is put back. If several changes were in it, each is then tried alone, so that none
//! is taken back for another's fault. One that was refused alone is taken back: what came after it is built again
//! without it, and what cannot be is taken back too.

pub mod canary;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use serde::Serialize;
use tracing::{error, info, warn};
use xxhash_rust::xxh3::Xxh3;

use crate::build::{Build, Inputs};
use crate::cache::{Canaries, Serving};
use crate::config::edit::{EntityChange, differences, edits};
use crate::config::{Level, Violation};
use crate::control::rollout::canary::{Load, Phase, Policy, Refusal, Rollout, Sighting, View};
use crate::control::{Reading, State, build_here};
use crate::inspect::plan;
use crate::nodes::{self, Nodes, Presence};
use crate::store::Commit;
use crate::store::records::Revision;
use crate::telemetry::events::Event;

/// The code of files that an Envoy refused.
const REFUSED_BY_ENVOY: &str = "US190";

/// How many Envoys a revision remembers that refused it.
const MAX_REFUSED_BY: usize = 100;

/// How many generations are remembered, each with its revision.
const MAX_PUBLICATIONS: usize = 1_000;

/// A config with what was made of it.
#[derive(Debug, Clone)]
pub(super) struct Point {
    pub(super) inputs: Inputs,
    pub(super) build: Arc<Build>,
}

/// An accepted change.
#[derive(Debug)]
pub(super) struct Step {
    /// None when nobody would call it a change, as when a key was renewed.
    pub(super) revision: Option<u64>,
    pub(super) change: Accepted,
}

/// What was accepted.
#[derive(Debug)]
pub(super) enum Accepted {
    Written(Vec<EntityChange>),
    /// With the files as they were read, and those that they name.
    Saved(Box<Inputs>),
}

/// A rollout that is under way.
#[derive(Debug)]
pub(super) struct Trial {
    live: Point,
    candidate: Point,
    /// What the candidate has and what is live has not.
    steps: Vec<Step>,
    /// What was accepted since.
    queue: Vec<Step>,
    /// So many of the queue are to be tried alone.
    singly: usize,
    rollout: Rollout,
    /// When to look again if nothing happens.
    pub(super) until: Instant,
    since: Timestamp,
}

/// How far the newest changes are.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Progress {
    /// The newest revision that is in effect.
    pub live: u64,
    /// Those that were accepted and are not in effect yet.
    pub rolling_out: BTreeSet<u64>,
    /// Who is asked about the first of these.
    pub canaries: Vec<CanaryProgress>,
    /// Since when.
    pub since: Option<Timestamp>,
    /// What was taken back last, until something newer is in effect.
    pub rejected: Option<Rejected>,
}

/// A change that was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rejected {
    /// Its revisions.
    pub revisions: Vec<u64>,
    /// The Envoys that refused it, by node id.
    pub refused_by: Vec<String>,
    /// Their words.
    pub error: String,
}

/// How a fleet's canary is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CanaryProgress {
    /// The fleet.
    pub fleet: String,
    /// The canary's id; none while one is being chosen.
    pub node: Option<String>,
    /// `choosing`, `asked`, `baking` or `passed`.
    pub phase: &'static str,
}

impl Step {
    /// The same change made to another config.
    fn made_to(&self, point: &Point, newest: &Inputs) -> Result<Point, Vec<Violation>> {
        let Inputs { addresses, overrides, .. } = newest.clone();
        let mut inputs = Inputs { addresses, overrides, ..point.inputs.clone() };
        match &self.change {
            Accepted::Written(changes) => {
                changes.iter().for_each(|change| change.clone().apply(&mut inputs.stored))
            }
            Accepted::Saved(saved) => {
                inputs.files.clone_from(&saved.files);
                inputs.named_files.clone_from(&saved.named_files);
            }
        }
        let build = build_here(&mut inputs, Some(&point.build), Reading::Missing)?;
        Ok(Point { inputs, build: Arc::new(build) })
    }
}

impl State {
    /// Brings what was accepted since `before` to the fleets. Returns the generation that has it.
    pub(super) fn roll_out(&mut self, before: Point, steps: Vec<Step>) -> u64 {
        match self.trial.take() {
            Some(trial) => self.join(trial, steps),
            None => self.advance(before, steps, 0),
        }
        self.cache.generation()
    }

    /// Brings new addresses and orders to the fleets, about which nobody needs to be asked.
    pub(super) fn tell_endpoints(&mut self) {
        let Some(mut trial) = self.trial.take() else { return self.settle() };
        for point in [&mut trial.live, &mut trial.candidate] {
            let Inputs { addresses, overrides, .. } = self.inputs.clone();
            let mut inputs = Inputs { addresses, overrides, ..point.inputs.clone() };
            match build_here(&mut inputs, Some(&point.build), Reading::Missing) {
                Ok(build) => *point = Point { inputs, build: Arc::new(build) },
                Err(violations) => {
                    error!(?violations, "new endpoints made a good config bad, which cannot be");
                }
            }
        }
        self.ask(trial);
    }

    /// Makes what is in the queue live, or begins to ask about it.
    fn advance(&mut self, mut live: Point, mut queue: Vec<Step>, mut singly: usize) {
        while !queue.is_empty() {
            let rest = if singly > 0 { queue.split_off(1) } else { Vec::new() };
            singly = singly.saturating_sub(1);
            let candidate = match queue.as_slice() {
                [first] if !rest.is_empty() => first.made_to(&live, &self.inputs),
                _ => Ok(Point { inputs: self.inputs.clone(), build: self.build.clone() }),
            };
            let candidate = match candidate {
                Ok(candidate) => candidate,
                Err(violations) => return self.take_back(live, queue, rest, singly, &unbuilt(&violations)),
            };
            if let Some(rollout) = self.begin(&live.build, &candidate.build) {
                let (until, since) = (Instant::now(), Timestamp::now());
                let trial =
                    Trial { live, candidate, steps: queue, queue: rest, singly, rollout, until, since };
                self.nodes.follow_closely(true);
                return self.watch(trial, None);
            }
            (live, queue) = (candidate, rest);
        }
        self.settle();
    }

    /// Everybody runs what is desired.
    fn settle(&mut self) {
        self.resolver.retain(&self.build.host_names());
        self.nodes.follow_closely(false);
        let generation = self.cache.publish(Serving::everywhere(self.build.clone()));
        self.generations.push_back((generation, self.in_effect()));
        if self.generations.len() > MAX_PUBLICATIONS {
            self.generations.pop_front();
        }
        self.tell_progress();
    }

    /// None where nobody needs to be asked.
    fn begin(&self, live: &Build, candidate: &Build) -> Option<Rollout> {
        let settings = &candidate.model.rollout;
        if !settings.canary || candidate.is_alike(live) {
            return None;
        }
        let policy = Policy { bake: settings.bake, error_rate: settings.error_rate };
        self.with_view(live, candidate, |view| Rollout::begin(policy, view))
    }

    fn with_view<T>(&self, live: &Build, candidate: &Build, with: impl FnOnce(View<'_>) -> T) -> T {
        let one = |id: &str| sighting(&self.nodes, id, candidate);
        let affected = || {
            let changes = |presence: &Presence| !candidate.is_alike_for(live, &presence.node);
            let nodes = self.nodes.select(changes).into_iter().map(|presence| presence.node.id);
            nodes.collect::<BTreeSet<String>>().iter().filter_map(|id| one(id)).collect()
        };
        let (now, generation) = (Instant::now(), self.cache.generation());
        with(View { now, generation, affected: &affected, one: &one })
    }

    /// What was accepted while a rollout is under way: endpoints alone change everywhere, the rest waits.
    fn join(&mut self, mut trial: Trial, steps: Vec<Step>) {
        for step in steps {
            let beside = |point: &Point| {
                step.made_to(point, &self.inputs).ok().filter(|made| made.build.is_alike(&point.build))
            };
            match beside(&trial.live).zip(beside(&trial.candidate)) {
                Some((live, candidate)) => (trial.live, trial.candidate) = (live, candidate),
                None => trial.queue.push(step),
            }
        }
        self.ask(trial);
    }

    /// Looks how the canaries are doing, and who else refuses something.
    pub(super) fn look(&mut self) {
        self.note_refusals();
        if let Some(trial) = self.trial.take() {
            let canaries = trial.rollout.canaries();
            self.watch(trial, Some(canaries));
        }
    }

    /// `told` are the canaries that were told of the candidate; none when nobody was.
    fn watch(&mut self, mut trial: Trial, told: Option<BTreeSet<String>>) {
        let step = self.with_view(&trial.live.build, &trial.candidate.build, |view| trial.rollout.look(view));
        let revisions: Vec<u64> = trial.steps.iter().filter_map(|step| step.revision).collect();
        match step {
            canary::Step::Wait(until) => {
                trial.until = until;
                let canaries = trial.rollout.canaries();
                if told.as_ref() == Some(&canaries) {
                    self.trial = Some(trial);
                    self.tell_progress();
                } else {
                    info!(?revisions, ?canaries, "a change goes to the canaries first");
                    self.ask(trial);
                }
            }
            canary::Step::Accepted => {
                info!(?revisions, "the canaries took the change; all follow");
                self.advance(trial.candidate, trial.queue, trial.singly);
            }
            canary::Step::Rejected(refusal) => {
                let Refusal { by, error } = &refusal;
                warn!(?revisions, ?by, error, "the change was refused; no other Envoy gets it");
                self.reject(trial, &refusal);
            }
        }
    }

    /// Publishes who should run what, with the canaries as they are now.
    fn ask(&mut self, trial: Trial) {
        let builds = [&self.build, &trial.live.build, &trial.candidate.build];
        self.resolver.retain(&builds.into_iter().flat_map(|build| build.host_names()).collect());
        let canaries = Canaries { nodes: trial.rollout.canaries(), build: trial.candidate.build.clone() };
        let live = trial.live.build.clone();
        self.cache.publish(Serving { desired: self.build.clone(), live, canaries: Some(canaries) });
        self.trial = Some(trial);
        self.tell_progress();
    }

    /// The canaries return to what is live before anything else is tried.
    fn reject(&mut self, trial: Trial, refusal: &Refusal) {
        let Trial { live, mut steps, queue, singly, .. } = trial;
        let (desired, lives) = (self.build.clone(), live.build.clone());
        self.cache.publish(Serving { desired, live: lives, canaries: None });
        if steps.len() > 1 {
            let singly = singly + steps.len();
            steps.extend(queue);
            self.advance(live, steps, singly);
        } else {
            self.take_back(live, steps, queue, singly, refusal);
        }
    }

    /// Takes the refused steps back: the desired config becomes what is live, with what still can be built on that.
    fn take_back(
        &mut self,
        live: Point,
        refused: Vec<Step>,
        queue: Vec<Step>,
        singly: usize,
        refusal: &Refusal,
    ) {
        let mut refused: Vec<(Step, Refusal)> =
            refused.into_iter().map(|step| (step, refusal.clone())).collect();
        let (mut desired, mut kept, mut amended) = (live.clone(), Vec::new(), Vec::new());
        for step in queue {
            match step.made_to(&desired, &self.inputs) {
                Ok(point) => {
                    amended.extend(self.rebased(&step, &desired, &point));
                    desired = point;
                    kept.push(step);
                }
                Err(violations) => refused.push((step, unbuilt(&violations))),
            }
        }
        for (step, Refusal { by, error }) in &refused {
            self.rejected.extend(step.revision);
            self.metrics.rejected();
            let revision = step.revision.and_then(|number| self.revision(number));
            let rejected = |it| Revision { error: Some(error.clone()), refused_by: by.clone(), ..it };
            amended.extend(revision.map(rejected));
        }
        let is_saved = |step: &Step| matches!(step.change, Accepted::Saved(_));
        let revisions: Vec<u64> = refused.iter().filter_map(|(step, _)| step.revision).collect();
        let Refusal { by, error } = refusal.clone();
        self.last_rejected =
            Some(Rejected { revisions: revisions.clone(), refused_by: by.clone(), error: error.clone() });
        self.events.publish(&Event::Rejected { revisions, by, error });
        let saved = refused.into_iter().rev().find_map(|(step, refusal)| match step.change {
            Accepted::Saved(inputs) if !kept.iter().any(is_saved) => Some((inputs, refusal)),
            _ => None,
        });
        let commit = Commit {
            changes: differences(&self.inputs.stored, &desired.inputs.stored),
            amended,
            files: (self.inputs.files != desired.inputs.files).then(|| desired.inputs.files.clone()),
            refused_files: saved.as_ref().map(|(saved, _)| fingerprint(saved)),
            ..Commit::default()
        };
        if let Err(error) = self.commit(&commit) {
            error!(error = &error as &dyn std::error::Error, "that a change was taken back was not stored");
        }
        let refused_build = std::mem::replace(&mut self.build, desired.build);
        self.inputs = desired.inputs;
        self.resolver.configure(&self.build.model.resolver);
        if let Some((saved, Refusal { by, error })) = saved {
            let edits = plan::file_edits(&self.build, &refused_build);
            let file = edits.iter().find_map(|edit| edit.file.as_deref()).map(str::to_owned);
            self.tell(vec![refused_files(file, format!("{} refused it: {error}", by.join(", ")))]);
            self.refused_by_envoy = Some(*saved);
        }
        self.tell_named_files();
        self.advance(live, kept, singly);
    }

    /// The revision of a step as it stands when one before it was taken back.
    fn rebased(&self, step: &Step, before: &Point, after: &Point) -> Option<Revision> {
        let edits = match &step.change {
            Accepted::Written(changes) => edits(changes, &before.inputs.stored),
            Accepted::Saved(_) => plan::file_edits(&before.build, &after.build),
        };
        Some(Revision { edits, ..self.revision(step.revision?)? })
    }

    fn revision(&self, number: u64) -> Option<Revision> {
        self.store.revisions(number..=number).ok()?.pop()
    }

    /// Notes at the revisions which Envoys refuse them, but for canaries, who are asked.
    fn note_refusals(&mut self) {
        let canaries = self.trial.as_ref().map(|trial| trial.rollout.canaries()).unwrap_or_default();
        let mut amended: Vec<Revision> = Vec::new();
        for nodes::Refused { node, seen } in self.nodes.take_refusals() {
            let known = self.generations.iter().rev().find(|(generation, _)| *generation <= seen);
            let Some((_, number)) = known.filter(|_| !canaries.contains(&node)) else { continue };
            if !amended.iter().any(|revision| revision.number == *number) {
                amended.extend(self.revision(*number));
            }
            let revision = amended.iter_mut().find(|revision| revision.number == *number);
            let Some(Revision { refused_by, .. }) = revision else { continue };
            if refused_by.len() < MAX_REFUSED_BY && !refused_by.contains(&node) {
                warn!(node, revision = number, "this Envoy refuses what others have; it keeps its last good");
                refused_by.push(node);
            }
        }
        if !amended.is_empty()
            && let Err(error) = self.commit(&Commit { amended, ..Commit::default() })
        {
            error!(
                error = &error as &dyn std::error::Error,
                "that an Envoy refused a revision was not stored"
            );
        }
    }

    /// The newest revision that is in effect.
    fn in_effect(&self) -> u64 {
        let waiting = self.waiting();
        let mut newer = (self.first..=self.revision).rev();
        newer
            .find(|number| !waiting.contains(number) && !self.rejected.contains(number))
            .unwrap_or(self.first)
    }

    fn waiting(&self) -> BTreeSet<u64> {
        let steps = self.trial.iter().flat_map(|trial| trial.steps.iter().chain(&trial.queue));
        steps.filter_map(|step| step.revision).collect()
    }

    pub(super) fn tell_progress(&self) {
        let canary = |(fleet, node, phase): (&str, Option<&str>, Phase)| CanaryProgress {
            fleet: fleet.to_owned(),
            node: node.map(str::to_owned),
            phase: word(phase),
        };
        let live = self.in_effect();
        let progress = Progress {
            live,
            rolling_out: self.waiting(),
            canaries: self.trial.iter().flat_map(|trial| trial.rollout.progress().map(canary)).collect(),
            since: self.trial.as_ref().map(|trial| trial.since),
            rejected: self
                .last_rejected
                .clone()
                .filter(|it| it.revisions.iter().all(|number| *number > live)),
        };
        self.progress.send_if_modified(|told| {
            let differs = *told != progress;
            *told = progress;
            differs
        });
    }
}

fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Choosing => "choosing",
        Phase::Asked => "asked",
        Phase::Baking => "baking",
        Phase::Passed => "passed",
    }
}

/// A node by all of its streams; none when it has none.
fn sighting(nodes: &Nodes, id: &str, candidate: &Build) -> Option<Sighting> {
    let streams = nodes.streams(id);
    let types = || streams.iter().flat_map(|presence| presence.types.values());
    let is_pending = |noted: &nodes::Noted| !noted.current || noted.state == nodes::State::Pending;
    let nodes::Totals { requests, errors } = nodes.totals(id);
    Some(Sighting {
        id: id.to_owned(),
        fleet: candidate.fleet_of(&streams.first()?.node).to_string(),
        seen: streams.iter().map(|presence| presence.seen).min()?,
        is_pending: types().next().is_none() || types().any(is_pending),
        errors: types().filter_map(|noted| noted.error.clone()).collect(),
        load: Load { requests, errors },
    })
}

/// Why a change cannot stand that came after one which was taken back.
fn unbuilt(violations: &[Violation]) -> Refusal {
    let first = violations.first().map(|violation| violation.message.as_str()).unwrap_or_default();
    let error = format!("it cannot stand without the change before it, which was refused: {first}");
    Refusal { by: Vec::new(), error }
}

/// What is told of files that an Envoy refused, at the first file that they changed.
pub(super) fn refused_files(file: Option<String>, message: String) -> Violation {
    Violation {
        code: REFUSED_BY_ENVOY,
        level: Level::Error,
        message,
        help: Some("correct what the Envoy names; the files are tried again when they change".to_owned()),
        file,
        line: None,
        column: None,
        path: String::new(),
        pointer: None,
        related: Vec::new(),
    }
}

/// The hash of the files and of those that they name.
pub(super) fn fingerprint(inputs: &Inputs) -> u64 {
    let mut hash = Xxh3::new();
    let named = inputs.named_files.iter();
    let named = named.map(|(name, text)| (name, text.as_deref().unwrap_or_default()));
    for (name, text) in inputs.files.iter().map(|(name, text)| (name, &**text)).chain(named) {
        for part in [name.as_str(), text] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
    }
    hash.digest()
}
