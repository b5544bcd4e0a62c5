//! Rollout: accepted changes reach the fleets by their canaries first.
//!
//! The desired config is what was accepted last. While a rollout is under way, something older is live, the
//! canaries run a candidate between the two, and changes that were accepted since wait in a queue. Changes of
//! endpoints alone do not wait: they are applied to all of these at once.
//!
//! A candidate that was refused is put back. If it contained several changes, each is then tried alone, so
//! that none is taken back for the fault of another. A change that was refused alone is taken back: later
//! changes are built again without it, and those that cannot be built are taken back too.
//!
//! The way of a change is decided before it is durable (`RolloutQueue::plan`), so that its commit says what
//! waits. A start goes on from there: it serves what was live, and awaits the Envoys that are connecting again.

pub mod canary;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::build::secrecy::SecretAccess;
use crate::build::{Build, Inputs};
use crate::cache::{Cache, Canaries, Serving};
use crate::config::Violation;
use crate::config::edit::Files;
use crate::control::desired::{Built, DesiredState, Reading, build_resolved};
use crate::control::pending::PendingChange;
use crate::control::progress::{CanaryProgress, Progress, Rejected};
use crate::control::rollout::canary::{
    AwaitedFleets, CanaryPhase, CanaryPolicy, CanaryRefusal, CanaryRollout, CanaryStep, CanaryView,
    EnvoyState, RequestCount,
};
use crate::nodes::Nodes;
use crate::nodes::status::{AckState, Presence, RecordedStatus};

/// Number of generations that are remembered, each with its revision.
const MAX_GENERATIONS: usize = 1_000;

/// Queue of accepted changes, and the canaries that try the first of them.
#[derive(Debug)]
pub(super) struct RolloutQueue {
    /// Present while an accepted change is not in effect.
    run: Option<CanaryRun>,
    /// Fleets whose Envoys are about to connect again after the start.
    awaited: AwaitedFleets,
    /// Fleets of which no Envoy came.
    pub(super) absent: BTreeSet<String>,
    /// Revision up to which all are decided since the start.
    first: u64,
    /// Later revisions that were taken back.
    rejected: BTreeSet<u64>,
    last_rejected: Option<Rejected>,
    /// Generations since the start that were published to all Envoys, each with its revision.
    generations: VecDeque<(u64, u64)>,
    progress: watch::Sender<Progress>,
    cache: Arc<Cache>,
    nodes: Nodes,
}

/// Rollout under way.
#[derive(Debug)]
struct CanaryRun {
    live: Built,
    candidate: Built,
    /// Changes of the candidate since the live config.
    changes: Vec<PendingChange>,
    /// Changes that were accepted since.
    queue: Vec<PendingChange>,
    /// Number of changes at the head of the queue that are tried alone.
    singly: usize,
    rollout: CanaryRollout,
    /// Time of the next check if nothing happens.
    until: Instant,
    since: Timestamp,
}

/// Way of accepted changes, decided before they are durable.
#[derive(Debug)]
pub(super) enum RolloutPlan {
    /// They go to the canaries of this rollout; without one to all Envoys.
    Begin(Option<CanaryRollout>),
    /// A rollout is under way. Changes of endpoints alone join what is live and what is on trial; the others
    /// wait in the queue.
    Join { live: Box<Built>, candidate: Box<Built>, queued: Vec<PendingChange> },
}

/// Changes that canaries refused, and that have to be taken back.
#[derive(Debug)]
pub(super) struct Rejection {
    pub(super) live: Built,
    pub(super) refused: Vec<PendingChange>,
    /// Changes that were accepted since.
    pub(super) queue: Vec<PendingChange>,
    /// Number of changes at the head of the queue that are tried alone.
    pub(super) singly: usize,
    pub(super) refusal: CanaryRefusal,
}

impl RolloutQueue {
    /// Creates an empty queue.
    pub(super) fn new(cache: Arc<Cache>, nodes: Nodes, awaited: AwaitedFleets) -> Self {
        Self {
            run: None,
            awaited,
            absent: BTreeSet::new(),
            first: 0,
            rejected: BTreeSet::new(),
            last_rejected: None,
            generations: VecDeque::new(),
            progress: watch::Sender::default(),
            cache,
            nodes,
        }
    }

    /// Begins with the revision `first` in effect, and these later ones taken back, of all up to `newest`.
    pub(super) fn begin_at(&mut self, first: u64, rejected: BTreeSet<u64>, newest: u64) {
        (self.first, self.rejected) = (first, rejected);
        self.generations.push_back((self.cache.generation(), first));
        self.publish_progress(newest);
    }

    /// Watches the progress.
    pub(super) fn watch_progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Returns the time of the next check if nothing happens; none without a rollout.
    pub(super) fn until(&self) -> Option<Instant> {
        self.run.as_ref().map(|run| run.until)
    }

    /// Returns the newest generation.
    pub(super) fn generation(&self) -> u64 {
        self.cache.generation()
    }

    /// Returns the connected nodes.
    pub(super) fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// Returns the node ids of the current canaries.
    pub(super) fn canaries(&self) -> BTreeSet<String> {
        self.run.as_ref().map(|run| run.rollout.canaries()).unwrap_or_default()
    }

    /// Returns the revision that was in effect at all Envoys in a generation; none if it is forgotten.
    pub(super) fn revision_of(&self, generation: u64) -> Option<u64> {
        let known = self.generations.iter().rev().find(|(known, _)| *known <= generation);
        known.map(|(_, revision)| *revision)
    }

    /// Returns the files that are in effect, while those of `desired` are not.
    pub(super) fn live_files(&self, desired: &Files) -> Option<&Files> {
        let live = self.run.as_ref().map(|run| &run.live.inputs.files);
        live.filter(|files| *files != desired)
    }

    /// Decides on the way of changes that make `after` of `before`.
    pub(super) fn plan(&self, before: &Build, after: &Built, changes: &[PendingChange]) -> RolloutPlan {
        let Some(run) = &self.run else { return RolloutPlan::Begin(self.begin(before, &after.build)) };
        let (mut live, mut candidate) = (run.live.clone(), run.candidate.clone());
        let mut queued = Vec::new();
        for change in changes {
            let beside = |built: &Built| {
                let applied = change.applied_to(built, &after.inputs).ok();
                applied.filter(|applied| applied.build.is_alike(&built.build))
            };
            match beside(&live).zip(beside(&candidate)) {
                Some(both) => (live, candidate) = both,
                None => queued.push(change.clone()),
            }
        }
        RolloutPlan::Join { live: Box::new(live), candidate: Box::new(candidate), queued }
    }

    /// Rolls out the changes that were accepted since `before`, as planned.
    pub(super) fn roll_out(
        &mut self,
        desired: &mut DesiredState,
        before: Built,
        changes: Vec<PendingChange>,
        plan: RolloutPlan,
    ) -> Option<Rejection> {
        match (self.run.take(), plan) {
            (Some(mut run), RolloutPlan::Join { live, candidate, queued }) => {
                (run.live, run.candidate) = (*live, *candidate);
                run.queue.extend(queued);
                self.publish_run(desired, run);
                None
            }
            (None, RolloutPlan::Begin(Some(rollout))) => {
                let run = CanaryRun::new(before, desired.built(), changes, rollout);
                self.try_on_canaries(desired, run)
            }
            _ => {
                self.publish_to_all(desired);
                None
            }
        }
    }

    /// Publishes new addresses and overrides to all nodes, without canaries.
    pub(super) fn publish_endpoints(&mut self, desired: &mut DesiredState) {
        let Some(mut run) = self.run.take() else { return self.publish_to_all(desired) };
        for built in [&mut run.live, &mut run.candidate] {
            let Inputs { addresses, overrides, .. } = desired.inputs.clone();
            let mut inputs = Inputs { addresses, overrides, ..built.inputs.clone() };
            match build_resolved(&mut inputs, Some(&built.build), Reading::Missing) {
                Ok(build) => *built = Built { inputs, build: Arc::new(build) },
                Err(violations) => {
                    error!(?violations, "new endpoints made a good config bad, which cannot be");
                }
            }
        }
        self.publish_run(desired, run);
    }

    /// Publishes the changes of the queue to all nodes, or begins a rollout with the first of them.
    pub(super) fn advance(
        &mut self,
        desired: &mut DesiredState,
        mut live: Built,
        mut queue: Vec<PendingChange>,
        mut singly: usize,
    ) -> Option<Rejection> {
        while !queue.is_empty() {
            let rest = if singly > 0 { queue.split_off(1) } else { Vec::new() };
            singly = singly.saturating_sub(1);
            let candidate = match queue.as_slice() {
                [first] if !rest.is_empty() => first.applied_to(&live, &desired.inputs),
                _ => Ok(desired.built()),
            };
            let candidate = match candidate {
                Ok(candidate) => candidate,
                Err(violations) => {
                    let refusal = unbuilt(&violations);
                    return Some(Rejection { live, refused: queue, queue: rest, singly, refusal });
                }
            };
            if let Some(rollout) = self.begin(&live.build, &candidate.build) {
                let run =
                    CanaryRun { queue: rest, singly, ..CanaryRun::new(live, candidate, queue, rollout) };
                return self.try_on_canaries(desired, run);
            }
            (live, queue) = (candidate, rest);
        }
        self.publish_to_all(desired);
        None
    }

    fn try_on_canaries(&mut self, desired: &mut DesiredState, run: CanaryRun) -> Option<Rejection> {
        self.nodes.follow_closely(true);
        self.check(desired, run, None)
    }

    /// Publishes the desired config to all nodes.
    fn publish_to_all(&mut self, desired: &mut DesiredState) {
        desired.builder.resolver.retain(&desired.build.host_names());
        self.nodes.follow_closely(false);
        let generation = self.cache.publish(Serving::everywhere(desired.build.clone()));
        self.generations.push_back((generation, self.in_effect(desired.revision)));
        if self.generations.len() > MAX_GENERATIONS {
            self.generations.pop_front();
        }
        self.publish_progress(desired.revision);
    }

    /// Begins a rollout; none if no canary is needed.
    fn begin(&self, live: &Build, candidate: &Build) -> Option<CanaryRollout> {
        let settings = &candidate.model.rollout;
        if !settings.canary || candidate.is_alike(live) {
            return None;
        }
        let policy = CanaryPolicy { bake: settings.bake, error_rate: settings.error_rate };
        let AwaitedFleets { names, until } = &self.awaited;
        let changed = names.iter().filter(|fleet| !candidate.is_alike_in(live, fleet));
        let names = changed.map(|fleet| candidate.fleet_after(fleet)).collect();
        let awaited = AwaitedFleets { names, until: *until };
        self.with_view(live, candidate, |view| CanaryRollout::begin(policy, awaited, view))
    }

    fn with_view<T>(&self, live: &Build, candidate: &Build, with: impl FnOnce(CanaryView<'_>) -> T) -> T {
        let one = |id: &str| envoy_state(&self.nodes, id, candidate);
        let vouched = self.cache.vouched();
        let affected = || {
            // A node that may have nothing of the candidate cannot take it.
            let changes = |Presence { node, provenance, .. }: &Presence| {
                let secrets = candidate.secret_access(node, &vouched);
                provenance.withheld.is_none()
                    && !candidate.is_alike_for(live, node)
                    && secrets != SecretAccess::Refused
            };
            let nodes = self.nodes.select(changes).into_iter().map(|presence| presence.node.id);
            nodes.collect::<BTreeSet<String>>().iter().filter_map(|id| one(id)).collect()
        };
        let (now, generation) = (Instant::now(), self.cache.generation());
        with(CanaryView { now, generation, affected: &affected, one: &one })
    }

    /// Checks the canaries of the rollout under way.
    pub(super) fn check_canary(&mut self, desired: &mut DesiredState) -> Option<Rejection> {
        let run = self.run.take()?;
        let canaries = run.rollout.canaries();
        self.check(desired, run, Some(canaries))
    }

    /// Checks the canaries. `published` are those to which the candidate was published; none if it was not
    /// yet.
    fn check(
        &mut self,
        desired: &mut DesiredState,
        mut run: CanaryRun,
        published: Option<BTreeSet<String>>,
    ) -> Option<Rejection> {
        let step = self.with_view(&run.live.build, &run.candidate.build, |view| run.rollout.check(view));
        let revisions: Vec<u64> = run.changes.iter().flat_map(|change| change.revisions.clone()).collect();
        match step {
            CanaryStep::Wait(until) => {
                run.until = until;
                let canaries = run.rollout.canaries();
                if published.as_ref() == Some(&canaries) {
                    self.run = Some(run);
                    self.publish_progress(desired.revision);
                } else {
                    info!(?revisions, ?canaries, "a change goes to the canaries first");
                    self.publish_run(desired, run);
                }
                None
            }
            CanaryStep::Accepted => {
                let absent: Vec<String> = run.rollout.absent().map(ToOwned::to_owned).collect();
                if !absent.is_empty() {
                    info!(?revisions, fleets = ?absent, "no Envoy of these fleets came back to try the change");
                }
                // Each that came has shown that it is back.
                for (fleet, ..) in run.rollout.progress() {
                    self.awaited.names.remove(fleet);
                }
                self.absent.extend(absent);
                info!(?revisions, "the canaries took the change; all follow");
                self.advance(desired, run.candidate, run.queue, run.singly)
            }
            CanaryStep::Rejected(refusal) => {
                let CanaryRefusal { by, error } = &refusal;
                warn!(?revisions, ?by, error, "the change was refused; no other Envoy gets it");
                self.reject(desired, run, refusal)
            }
        }
    }

    /// Publishes the live config, and the candidate to the current canaries.
    fn publish_run(&mut self, desired: &mut DesiredState, run: CanaryRun) {
        let builds = [&desired.build, &run.live.build, &run.candidate.build];
        let names = builds.into_iter().flat_map(|build| build.host_names()).collect();
        desired.builder.resolver.retain(&names);
        let canaries = Canaries { nodes: run.rollout.canaries(), build: run.candidate.build.clone() };
        let live = run.live.build.clone();
        self.cache.publish(Serving { desired: desired.build.clone(), live, canaries: Some(canaries) });
        self.run = Some(run);
        self.publish_progress(desired.revision);
    }

    /// Returns the canaries to the live config. Several refused changes are then tried one by one; a single
    /// one has to be taken back.
    fn reject(
        &mut self,
        desired: &mut DesiredState,
        run: CanaryRun,
        refusal: CanaryRefusal,
    ) -> Option<Rejection> {
        let CanaryRun { live, mut changes, queue, singly, .. } = run;
        let serving = Serving { desired: desired.build.clone(), live: live.build.clone(), canaries: None };
        self.cache.publish(serving);
        if changes.len() > 1 {
            let singly = singly + changes.len();
            changes.extend(queue);
            self.advance(desired, live, changes, singly)
        } else {
            Some(Rejection { live, refused: changes, queue, singly, refusal })
        }
    }

    /// Records that changes were taken back: those that the canaries refused, and others that cannot be built
    /// without them.
    pub(super) fn set_rejected(&mut self, revisions: Vec<u64>, refusal: &CanaryRefusal) {
        self.rejected.extend(&revisions);
        let CanaryRefusal { by, error } = refusal.clone();
        self.last_rejected = Some(Rejected { revisions, refused_by: by, error });
    }

    /// Returns the newest revision that is in effect.
    fn in_effect(&self, newest: u64) -> u64 {
        let waiting = self.waiting();
        let mut newer = (self.first..=newest).rev();
        newer
            .find(|number| !waiting.contains(number) && !self.rejected.contains(number))
            .unwrap_or(self.first)
    }

    /// Returns the revisions that are not in effect yet.
    pub(super) fn waiting(&self) -> BTreeSet<u64> {
        let changes = self.run.iter().flat_map(|run| run.changes.iter().chain(&run.queue));
        changes.flat_map(|change| &change.revisions).copied().collect()
    }

    /// Publishes the progress, if it changed.
    pub(super) fn publish_progress(&self, newest: u64) {
        let canary = |(fleet, node, phase): (&str, Option<&str>, CanaryPhase)| CanaryProgress {
            fleet: fleet.to_owned(),
            node: node.map(str::to_owned),
            phase: word(phase),
        };
        let live = self.in_effect(newest);
        let is_newest = |rejected: &Rejected| rejected.revisions.iter().all(|number| *number > live);
        let progress = Progress {
            live,
            rolling_out: self.waiting(),
            canaries: self.run.iter().flat_map(|run| run.rollout.progress().map(canary)).collect(),
            since: self.run.as_ref().map(|run| run.since),
            rejected: self.last_rejected.clone().filter(is_newest),
        };
        self.progress.send_if_modified(|published| {
            let differs = *published != progress;
            *published = progress;
            differs
        });
    }
}

impl CanaryRun {
    fn new(live: Built, candidate: Built, changes: Vec<PendingChange>, rollout: CanaryRollout) -> Self {
        let (until, since) = (Instant::now(), Timestamp::now());
        Self { live, candidate, changes, queue: Vec::new(), singly: 0, rollout, until, since }
    }
}

impl RolloutPlan {
    /// Returns the revisions among those of `changes` that will wait.
    pub(super) fn waiting(&self, changes: &[PendingChange]) -> BTreeSet<u64> {
        let changes = match self {
            Self::Begin(None) => &[],
            Self::Begin(Some(_)) => changes,
            Self::Join { queued, .. } => queued,
        };
        changes.iter().flat_map(|change| change.revisions.clone()).collect()
    }

    /// Returns the files that will be in effect, if they are not those of `after`. Before the change, those of
    /// `before` are, unless a rollout is under way.
    pub(super) fn live_files<'a>(&'a self, before: &'a Files, after: &Files) -> Option<&'a Files> {
        let live = match self {
            Self::Begin(None) => None,
            Self::Begin(Some(_)) => Some(before),
            Self::Join { live, .. } => Some(&live.inputs.files),
        };
        live.filter(|files| *files != after)
    }
}

fn word(phase: CanaryPhase) -> &'static str {
    match phase {
        CanaryPhase::Choosing => "choosing",
        CanaryPhase::Asked => "asked",
        CanaryPhase::Baking => "baking",
        CanaryPhase::Passed => "passed",
    }
}

/// Returns the state of a node over all of its streams; none if it has none.
fn envoy_state(nodes: &Nodes, id: &str, candidate: &Build) -> Option<EnvoyState> {
    let streams = nodes.streams(id);
    let types = || streams.iter().flat_map(|presence| presence.types.values());
    let is_pending = |status: &RecordedStatus| !status.current || status.state == AckState::Pending;
    let totals = nodes.totals(id);
    Some(EnvoyState {
        id: id.to_owned(),
        fleet: candidate.fleet_of(&streams.first()?.node).to_string(),
        seen: streams.iter().map(|presence| presence.generation).min()?,
        is_pending: types().next().is_none() || types().any(is_pending),
        has_listeners: streams.iter().any(Presence::has_listeners),
        errors: types().filter_map(|status| status.error.clone()).collect(),
        load: RequestCount { requests: totals.requests, errors: totals.errors },
    })
}

/// Returns the refusal of a change that cannot be built without an earlier one that was taken back.
pub(super) fn unbuilt(violations: &[Violation]) -> CanaryRefusal {
    let first = violations.first().map(|violation| violation.message.as_str()).unwrap_or_default();
    let error = format!("it cannot stand without the change before it, which was refused: {first}");
    CanaryRefusal { by: Vec::new(), error }
}
