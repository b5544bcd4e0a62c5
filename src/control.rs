//! The one door through which the desired config changes.
//!
//! A thread of its own holds the [`Inputs`]. Every change, by whatever road it comes, is applied to a copy,
//! built whole, made durable and only then published; if any of that fails the old inputs stay. Changes come
//! one after the other, so each sees the last one's outcome.
//!
//! Writes that wait while others are made durable are taken together: each is decided on what the one before it
//! made, all are built at once and become durable in one transaction, in which each has a revision of its own.
//! If what they make together is refused, or is worth a warning, each is built on its own, so that everybody is
//! told of what is theirs. Nobody is answered before the transaction, and if it fails, nothing was ever published.

pub mod rollout;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{Span, error, info, info_span, warn};

use crate::build::{self, Build, Inputs};
use crate::cache::Cache;
use crate::config::edit::{Edit, EntityChange, Files, edits};
use crate::config::material::NamedFiles;
use crate::config::{Violation, render};
use crate::control::rollout::{Accepted, Point, Progress, Rejected, Step, Trial};
use crate::inspect::plan::{self, Plan};
use crate::model::overrides::OverridesByUpstream;
use crate::model::target::Host;
use crate::nodes::Nodes;
use crate::source::files;
use crate::source::resolve::{Names, Resolver};
use crate::store::records::{Answer, Kept, Revision, Source};
use crate::store::{self, Commit, Store};
use crate::telemetry::events::{Event, Events};
use crate::telemetry::metrics::Metrics;

/// How many writes become durable together at most.
const GROUP: usize = 256;

/// Why a write changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The config as a whole would not make sense.
    #[error("the change was refused")]
    Refused(Vec<Violation>),
    /// It could not be made durable.
    #[error("the change could not be stored")]
    Store(#[source] Arc<store::Error>),
    /// The idempotency key was used before, for something else.
    #[error("the idempotency key was used for another request before")]
    Reused,
    /// We are shutting down.
    #[error("understudy is shutting down")]
    ShuttingDown,
}

/// Who writes, and how.
#[derive(Debug, Clone)]
pub struct Terms {
    /// By what road.
    pub source: Source,
    /// Who.
    pub author: String,
    /// Why.
    pub reason: Option<String>,
    /// A key by which the request is known when it is repeated, and its hash.
    pub idempotency: Option<(String, u128)>,
    /// It wants to see the revisions of all writes before it.
    pub alone: bool,
}

/// The newest config.
#[derive(Debug, Clone, Copy)]
pub struct Now<'a> {
    /// What it is made of.
    pub inputs: &'a Inputs,
    /// What was built last. Of what was written over REST since, only the inputs know.
    pub build: &'a Build,
    /// The number of the last revision.
    pub revision: u64,
}

/// What a write comes to.
pub struct Decision {
    /// In the order in which they apply.
    pub changes: Vec<EntityChange>,
    /// What is answered once they did.
    pub answer: Box<dyn FnOnce(Now<'_>) -> Answer + Send>,
}

/// A write that is durable and published.
#[derive(Debug)]
pub struct Written {
    /// What is answered.
    pub answer: Answer,
    /// It was answered before; nothing changed this time.
    pub is_repeated: bool,
    /// The config before it.
    pub before: Arc<Build>,
    /// The config with it.
    pub build: Arc<Build>,
    /// The generation that has it; see [`Cache::publish`].
    pub generation: u64,
}

/// What would be, for [`Control::plan`].
#[derive(Debug)]
pub struct Proposal {
    /// In place of the files; none for those that are served.
    pub files: Option<Files>,
    /// In the order in which they apply.
    pub changes: Vec<EntityChange>,
}

/// What the thread is asked to do.
enum Task {
    Files(Result<Files, Vec<Violation>>),
    Reload(Result<Files, Vec<Violation>>, oneshot::Sender<()>),
    Steer(OverridesByUpstream, oneshot::Sender<()>),
    Plan(Box<dyn FnOnce(&State) + Send>),
    Write(Box<dyn Write>),
}

/// What the thread wakes for.
enum Wake {
    Task(Task),
    Addresses,
    Nodes,
    Clock,
    End,
}

/// A write on its way through the thread.
trait Write: Send {
    /// It wants to see the revisions of all writes before it.
    fn is_alone(&self) -> bool;
    /// Decides on what is staged and stages what that comes to. Once more, if another one beside it was refused.
    fn stage(&mut self, state: &mut State);
    /// What was staged became a part of a build.
    fn accept(&mut self, before: &Arc<Build>, build: &Arc<Build>);
    /// What was staged is out again: with it there would be no config.
    fn refuse(&mut self, violations: Vec<Violation>);
    /// Answers. What was staged is published, or could not be stored.
    fn finish(self: Box<Self>, stored: Result<u64, Arc<store::Error>>);
}

/// A write, and who waits for its outcome.
struct Asked<D, E> {
    terms: Terms,
    decide: D,
    outcome: Option<Result<Written, E>>,
    sender: oneshot::Sender<Result<Written, E>>,
    span: Span,
}

impl<D, E> Write for Asked<D, E>
where
    D: Fn(Now<'_>) -> Result<Decision, E> + Send,
    E: From<WriteError> + Send,
{
    fn is_alone(&self) -> bool {
        self.terms.alone
    }

    fn stage(&mut self, state: &mut State) {
        self.outcome = Some(self.span.in_scope(|| state.stage(&self.terms, &self.decide)));
    }

    fn accept(&mut self, before: &Arc<Build>, build: &Arc<Build>) {
        if let Some(Ok(written)) = &mut self.outcome {
            (written.before, written.build) = (before.clone(), build.clone());
        }
    }

    fn refuse(&mut self, violations: Vec<Violation>) {
        self.outcome = Some(Err(WriteError::Refused(violations).into()));
    }

    fn finish(self: Box<Self>, stored: Result<u64, Arc<store::Error>>) {
        let outcome = self.outcome.unwrap_or_else(|| Err(WriteError::ShuttingDown.into()));
        let outcome = outcome.and_then(|written| match stored {
            Ok(generation) => Ok(Written { generation, ..written }),
            Err(error) => Err(WriteError::Store(error).into()),
        });
        // Whoever asked may have hung up; the change stands all the same.
        let _ = self.sender.send(outcome);
    }
}

/// What was staged up to some point.
struct Mark {
    inputs: Inputs,
    revision: u64,
    changes: usize,
    revisions: usize,
    answers: usize,
    steps: usize,
}

/// The door. Cheap to clone: clones share.
#[derive(Debug, Clone)]
pub struct Control {
    tasks: mpsc::UnboundedSender<Task>,
    violations: watch::Receiver<Faults>,
    named_files: watch::Receiver<BTreeSet<String>>,
    progress: watch::Receiver<Progress>,
    names: Names,
    store: Arc<Store>,
}

/// What the thread owns.
struct State {
    inputs: Inputs,
    build: Arc<Build>,
    /// The last revision.
    revision: u64,
    /// What was staged and is not durable yet.
    staged: Commit,
    /// The same as changes that are to be brought to the fleets.
    steps: Vec<Step>,
    /// While something that was accepted is not in effect.
    trial: Option<Trial>,
    /// The revision that was in effect at the start.
    first: u64,
    /// Those since that were taken back.
    rejected: BTreeSet<u64>,
    last_rejected: Option<Rejected>,
    /// Since the start, the generations by which all Envoys were told of a revision, and which that was.
    generations: VecDeque<(u64, u64)>,
    progress: watch::Sender<Progress>,
    cache: Arc<Cache>,
    nodes: Nodes,
    store: Arc<Store>,
    resolver: Resolver,
    runtime: tokio::runtime::Handle,
    /// With files that were refused, to be tried again when something else changed.
    refused: Option<Inputs>,
    /// With files that a canary refused, to be tried again when they change.
    refused_by_envoy: Option<Inputs>,
    violations: watch::Sender<Faults>,
    events: Events,
    metrics: Metrics,
    /// Those of the config and of one that was refused, which may be mended in them.
    named_files: watch::Sender<BTreeSet<String>>,
}

/// What is wrong with the files, and since when they are not what is served.
#[derive(Debug, Default)]
struct Faults {
    violations: Vec<Violation>,
    since: Option<Timestamp>,
}

/// How files are read that the documents name.
#[derive(Debug, Clone, Copy)]
enum Reading {
    /// All of them.
    Anew,
    /// Those that were not named before. What is about something else must not fail because of a key that is
    /// just being renewed.
    Missing,
}

/// Everything that a config starts from.
#[derive(Debug)]
pub struct Start {
    /// The texts of the config paths, or why they cannot be read.
    pub files: Result<Files, Vec<Violation>>,
    /// What was written over REST before.
    pub store: Store,
    /// For host names among the targets.
    pub resolver: Resolver,
    /// Where it is told what happened.
    pub events: Events,
    /// Where it is counted.
    pub metrics: Metrics,
    /// Who is connected.
    pub nodes: Nodes,
    /// What is asked of the endpoints.
    pub overrides: OverridesByUpstream,
}

/// After a start it is known what Envoys have that left before the last so many changes. Each is undone and built.
const REMEMBERED: u64 = 100;

/// Builds the first config and opens the door. With files that cannot be used, it starts from those that were
/// accepted last, if there are any.
///
/// # Errors
///
/// When the store cannot be read, or with all that is wrong with the config.
pub fn start(start: Start, runtime: &tokio::runtime::Handle) -> Result<(Control, Arc<Cache>), WriteError> {
    let Start { files, store, mut resolver, overrides, events, metrics, nodes } = start;
    let store::State { stored, files: last_files, refused_files, revision } =
        store.load().map_err(|error| WriteError::Store(Arc::new(error)))?;
    let mut build_of = |files: Files| {
        let (stored, overrides) = (stored.clone(), overrides.clone());
        let mut inputs = Inputs { files, stored, overrides, ..Inputs::default() };
        match build(&mut inputs, None, Reading::Anew, &mut resolver, runtime) {
            Ok(build) => Ok((inputs, Arc::new(build))),
            Err(violations) => Err((Some(Box::new(inputs)), violations)),
        }
    };
    let wanted = files.map_err(|violations| (None, violations)).and_then(&mut build_of);
    let (mut refused_by_envoy, mut usable) = (None, last_files.clone());
    let wanted = match wanted {
        Ok((inputs, _)) if refused_files == Some(rollout::fingerprint(&inputs)) => {
            let message = "an Envoy refused these files before; they have not changed since".to_owned();
            refused_by_envoy = Some(inputs);
            usable.get_or_insert_default();
            Err((None, vec![rollout::refused_files(None, message)]))
        }
        wanted => wanted,
    };
    let (started, refused, violations) = match wanted {
        Ok(started) => (started, None, Vec::new()),
        Err((refused, violations)) => match usable.map(&mut build_of).and_then(Result::ok) {
            Some(started) => (started, refused, violations),
            None => return Err(WriteError::Refused(violations)),
        },
    };
    let (inputs, build) = started;
    let cache = Arc::new(Cache::new(build.clone()));
    // Envoys have what they were told before the files changed, or before what was written since they left.
    let last_accepted = match last_files.clone().filter(|last_files| *last_files != inputs.files) {
        Some(last_files) => build_of(last_files).ok(),
        None => Some((inputs.clone(), build.clone())),
    };
    if let Some(last_accepted) = last_accepted {
        let last = revision.saturating_sub(REMEMBERED)..=revision;
        let revisions = store.revisions(last).map_err(|error| WriteError::Store(Arc::new(error)))?;
        for before in builds_before(&revisions, last_accepted).iter().rev() {
            before.snapshots.values().for_each(|snapshot| cache.past().remember_snapshot(snapshot));
        }
    }
    let (sender, watched) = watch::channel(Faults::default());
    let (named_files, watched_files) = watch::channel(inputs.named_files.keys().cloned().collect());
    let (store, names) = (Arc::new(store), resolver.names());
    let (progress, watched_progress) = watch::channel(Progress::default());
    let mut state = State {
        inputs,
        build,
        revision,
        staged: Commit::default(),
        steps: Vec::new(),
        trial: None,
        first: 0,
        rejected: BTreeSet::new(),
        last_rejected: None,
        generations: VecDeque::new(),
        progress,
        cache: cache.clone(),
        nodes,
        store: store.clone(),
        resolver,
        runtime: runtime.clone(),
        refused: refused.map(|refused| *refused),
        refused_by_envoy,
        violations: sender,
        events,
        metrics,
        named_files,
    };
    state.build.warnings.iter().for_each(warn);
    if violations.is_empty() {
        state.note_new_files(last_files);
    } else {
        warn!("the files cannot be used, so it starts from those that were accepted last");
        state.tell(violations);
        state.tell_named_files();
    }
    state.first =
        last_in_effect(&state.store, state.revision).map_err(|error| WriteError::Store(Arc::new(error)))?;
    state.generations.push_back((state.cache.generation(), state.first));
    state.tell_progress();
    let (tasks, queue) = mpsc::unbounded_channel();
    std::thread::spawn(move || state.run(queue));
    let control = Control {
        tasks,
        violations: watched,
        named_files: watched_files,
        progress: watched_progress,
        names,
        store,
    };
    Ok((control, cache))
}

/// The build of now and those before it, as far back as only the store changed: what files held is not kept.
fn builds_before(revisions: &[Revision], (mut inputs, now): (Inputs, Arc<Build>)) -> Vec<Arc<Build>> {
    let mut builds = vec![now.clone()];
    let mut last = now;
    for revision in revisions.iter().rev().filter(|revision| revision.error.is_none()) {
        if revision.edits.iter().any(|edit| edit.file.is_some()) {
            break;
        }
        for edit in revision.edits.iter().rev() {
            EntityChange::undoing(edit.clone()).apply(&mut inputs.stored);
        }
        let Ok(before) = build::build(&inputs, Some(&last)) else { break };
        last = Arc::new(before);
        builds.push(last.clone());
    }
    builds
}

impl Control {
    /// Takes what the config paths hold now. A broken one leaves everything as it is and is told in
    /// [`Self::violations`] and in the log. False when we are shutting down.
    pub fn files(&self, read: Result<Files, Vec<Violation>>) -> bool {
        self.tasks.send(Task::Files(read)).is_ok()
    }

    /// The same at somebody's request: what was refused is tried again, whether it changed or not. When this
    /// returns, the files are taken or [`Self::violations`] says why not.
    ///
    /// # Errors
    ///
    /// When we are shutting down.
    pub async fn reload(&self, read: Result<Files, Vec<Violation>>) -> Result<(), WriteError> {
        let (sender, receiver) = oneshot::channel();
        self.tasks.send(Task::Reload(read, sender)).map_err(|_| WriteError::ShuttingDown)?;
        receiver.await.map_err(|_| WriteError::ShuttingDown)
    }

    /// Tells Envoys what operators, drills and failback ask of the endpoints. False when we are shutting down.
    pub async fn set_overrides(&self, overrides: OverridesByUpstream) -> bool {
        let (done, receiver) = oneshot::channel();
        self.tasks.send(Task::Steer(overrides, done)).is_ok() && receiver.await.is_ok()
    }

    /// The files that the config names, and those that one names which was refused: they want to be watched too.
    pub fn named_files(&self) -> watch::Receiver<BTreeSet<String>> {
        self.named_files.clone()
    }

    /// What is wrong with the files now, while the last good config serves.
    pub fn violations(&self) -> Vec<Violation> {
        self.violations.borrow().violations.clone()
    }

    /// Since when the files are not what is served; none while they are.
    pub fn stale_since(&self) -> Option<Timestamp> {
        self.violations.borrow().since
    }

    /// How far the newest changes are.
    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// Waits until a revision is in effect or was taken back; at most so long. False when it is neither.
    pub async fn decided(&self, revision: u64, patience: Duration) -> bool {
        let mut progress = self.progress.clone();
        let decided = progress.wait_for(|progress| !progress.rolling_out.contains(&revision));
        tokio::time::timeout(patience, decided).await.is_ok()
    }

    /// What is known of the host names among the targets.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The revisions, and all else that is durable, to be read.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Resolves when no change can be made any more: the thread that makes them panicked.
    pub async fn ended(&self) {
        self.tasks.closed().await;
    }

    /// Decides on a change by the newest config and applies it, all or nothing. When this returns, it is
    /// durable and published. `decide` may be called again, on another config.
    ///
    /// # Errors
    ///
    /// What `decide` returned, or why the change was refused.
    pub async fn write<E>(
        &self,
        terms: Terms,
        decide: impl Fn(Now<'_>) -> Result<Decision, E> + Send + 'static,
    ) -> Result<Written, E>
    where
        E: From<WriteError> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let write = Asked { terms, decide, outcome: None, sender, span: Span::current() };
        self.tasks.send(Task::Write(Box::new(write))).map_err(|_| WriteError::ShuttingDown)?;
        receiver.await.map_err(|_| WriteError::ShuttingDown)?
    }

    /// What would become of the newest config; nothing changes.
    ///
    /// # Errors
    ///
    /// What `decide` returned, or why the change would be refused.
    pub async fn plan<E>(
        &self,
        decide: impl FnOnce(Now<'_>) -> Result<Proposal, E> + Send + 'static,
    ) -> Result<(Plan, Build), E>
    where
        E: From<WriteError> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let span = Span::current();
        let plan = move |state: &State| {
            let _entered = span.entered();
            let outcome = decide(state.now()).and_then(|proposal| {
                state.propose(proposal).map_err(|violations| WriteError::Refused(violations).into())
            });
            // Whoever asked may have hung up.
            let _ = sender.send(outcome);
        };
        self.tasks.send(Task::Plan(Box::new(plan))).map_err(|_| WriteError::ShuttingDown)?;
        receiver.await.map_err(|_| WriteError::ShuttingDown)?
    }
}

impl State {
    fn run(mut self, mut queue: mpsc::UnboundedReceiver<Task>) {
        let runtime = self.runtime.clone();
        let mut next = None;
        loop {
            // Between changes names are looked up again as their answers expire.
            let until = self.trial.as_ref().map(|trial| trial.until);
            let wake = match next.take() {
                Some(task) => Wake::Task(task),
                None => runtime.block_on(async {
                    tokio::select! {
                        task = queue.recv() => task.map_or(Wake::End, Wake::Task),
                        () = self.resolver.changed() => Wake::Addresses,
                        () = self.nodes.stirs() => Wake::Nodes,
                        () = due(until) => Wake::Nodes,
                        () = passed(self.build.until) => Wake::Clock,
                    }
                }),
            };
            match wake {
                Wake::Task(Task::Files(read)) => self.take_files(read),
                Wake::Task(Task::Reload(read, done)) => {
                    (self.refused, self.refused_by_envoy) = (None, None);
                    self.take_files(read);
                    // Whoever asked may have hung up.
                    let _ = done.send(());
                }
                Wake::Task(Task::Steer(overrides, done)) => self.take_steerings(overrides, done),
                Wake::Task(Task::Plan(plan)) => plan(&self),
                Wake::Task(Task::Write(write)) => next = self.take_writes(write, &mut queue),
                Wake::Addresses => self.take_addresses(),
                Wake::Nodes => self.look(),
                Wake::Clock => self.take_time(),
                Wake::End => return,
            }
        }
    }

    fn make(&mut self, inputs: &mut Inputs, reading: Reading) -> Result<Build, Vec<Violation>> {
        let (_span, since) = (info_span!("build").entered(), Instant::now());
        let outcome = build(inputs, Some(&self.build), reading, &mut self.resolver, &self.runtime);
        self.metrics.built(since.elapsed(), outcome.is_ok());
        outcome
    }

    fn now(&self) -> Now<'_> {
        Now { inputs: &self.inputs, build: &self.build, revision: self.revision }
    }

    /// Stages this write and those that wait behind it, makes them durable and publishes what they made.
    /// Returns the task that ended the group, if one did.
    fn take_writes(
        &mut self,
        first: Box<dyn Write>,
        queue: &mut mpsc::UnboundedReceiver<Task>,
    ) -> Option<Task> {
        let (inputs, build, revision) = (self.inputs.clone(), self.build.clone(), self.revision);
        let mut writes = vec![first];
        let mut next = None;
        while writes.len() < GROUP && !writes[0].is_alone() && next.is_none() {
            match queue.try_recv() {
                Ok(Task::Write(write)) if !write.is_alone() => writes.push(write),
                Ok(other) => next = Some(other),
                Err(_) => break,
            }
        }
        if writes.len() == 1 || !self.stage_together(&mut writes) {
            for write in &mut writes {
                self.stage_alone(&mut **write);
            }
        }
        let staged = std::mem::take(&mut self.staged);
        let outcome = match staged.revisions.is_empty() && staged.answers.is_empty() {
            true => Ok(()),
            false => self.commit(&staged).map_err(Arc::new),
        };
        let outcome = match outcome {
            Ok(()) if staged.revisions.is_empty() => Ok(self.cache.generation()),
            Ok(()) => {
                let steps = std::mem::take(&mut self.steps);
                Ok(self.publish(Source::Api.word(), Point { inputs, build }, steps))
            }
            Err(error) => {
                error!(error = &*error as &dyn std::error::Error, "changes were not stored");
                (self.inputs, self.build, self.revision) = (inputs, build, revision);
                self.steps.clear();
                // What the resolver was told and found out meanwhile was for those changes.
                self.resolver.configure(&self.build.model.resolver);
                self.take_addresses();
                Err(error)
            }
        };
        let changed = outcome.is_ok() && !staged.revisions.is_empty();
        if changed {
            self.tell_revisions(&staged.revisions);
        }
        for write in writes {
            write.finish(outcome.clone());
        }
        // What the files lacked may be there now.
        if changed && let Some(refused) = self.refused.take() {
            self.try_files(refused.files);
        }
        self.tell_named_files();
        next
    }

    /// Stages writes that need not be told apart: together they make a config, and one without a new warning. Else
    /// nothing is staged.
    fn stage_together(&mut self, writes: &mut [Box<dyn Write>]) -> bool {
        let mark = self.mark();
        writes.iter_mut().for_each(|write| write.stage(self));
        match self.build_staged(&mark) {
            Ok(before) if before.warnings == self.build.warnings => {
                writes.iter_mut().for_each(|write| write.accept(&before, &self.build));
                true
            }
            Ok(before) => {
                self.build = before;
                self.reset(mark);
                false
            }
            Err(_) => {
                self.reset(mark);
                false
            }
        }
    }

    fn stage_alone(&mut self, write: &mut dyn Write) {
        let mark = self.mark();
        write.stage(self);
        match self.build_staged(&mark) {
            Ok(before) => write.accept(&before, &self.build),
            Err(violations) => {
                self.reset(mark);
                write.refuse(violations);
            }
        }
    }

    fn mark(&self) -> Mark {
        let Commit { changes, revisions, answers, .. } = &self.staged;
        Mark {
            inputs: self.inputs.clone(),
            revision: self.revision,
            changes: changes.len(),
            revisions: revisions.len(),
            answers: answers.len(),
            steps: self.steps.len(),
        }
    }

    fn reset(&mut self, mark: Mark) {
        let Mark { inputs, revision, changes, revisions, answers, steps } = mark;
        (self.inputs, self.revision) = (inputs, revision);
        self.staged.changes.truncate(changes);
        self.staged.revisions.truncate(revisions);
        self.staged.answers.truncate(answers);
        self.steps.truncate(steps);
    }

    /// Builds what was staged since, and says what each revision of it means. Gives the build before.
    fn build_staged(&mut self, mark: &Mark) -> Result<Arc<Build>, Vec<Violation>> {
        let before = self.build.clone();
        if self.revision == mark.revision {
            return Ok(before);
        }
        let mut inputs = self.inputs.clone();
        let build = self.make(&mut inputs, Reading::Missing)?;
        for revision in &mut self.staged.revisions[mark.revisions..] {
            revision.summary = meaning(&revision.edits, &before, &build);
        }
        (self.inputs, self.build) = (inputs, Arc::new(build));
        Ok(before)
    }

    /// Decides on what is staged already.
    fn stage<E: From<WriteError>>(
        &mut self,
        terms: &Terms,
        decide: impl Fn(Now<'_>) -> Result<Decision, E>,
    ) -> Result<Written, E> {
        let build = self.build.clone();
        let written = |answer, is_repeated| {
            let (before, build) = (build.clone(), build.clone());
            Written { answer, is_repeated, before, build, generation: 0 }
        };
        if let Some((key, request)) = &terms.idempotency
            && let Some(kept) = self.kept(key)?
        {
            if kept.request != *request {
                return Err(WriteError::Reused.into());
            }
            return Ok(written(kept.answer, true));
        }
        let Decision { changes, answer } = decide(self.now())?;
        let revision = self.apply(changes, terms);
        let answer = Answer { revision, ..answer(self.now()) };
        if let Some((key, request)) = &terms.idempotency {
            let kept = Kept { time: Timestamp::now(), request: *request, answer: answer.clone() };
            self.staged.answers.push((key.clone(), kept));
        }
        Ok(written(answer, false))
    }

    /// What was answered to this key, durable or staged.
    fn kept(&self, key: &str) -> Result<Option<Kept>, WriteError> {
        match self.staged.answers.iter().find(|(staged, _)| staged == key) {
            Some((_, kept)) => Ok(Some(kept.clone())),
            None => {
                let kept = self.store.kept(key, Timestamp::now());
                kept.map_err(|error| WriteError::Store(Arc::new(error)))
            }
        }
    }

    /// Stages the changes, if they change anything, and returns their revision. What that means is known once it is
    /// built.
    fn apply(&mut self, changes: Vec<EntityChange>, terms: &Terms) -> Option<u64> {
        let edits = edits(&changes, &self.inputs.stored);
        if edits.is_empty() {
            return None;
        }
        for change in changes.clone() {
            change.apply(&mut self.inputs.stored);
        }
        self.revision += 1;
        let revision = revision(self.revision, terms.source, terms.author.clone(), edits);
        self.staged.revisions.push(Revision { reason: terms.reason.clone(), ..revision });
        self.steps.push(Step { revision: Some(self.revision), change: Accepted::Written(changes.clone()) });
        self.staged.changes.extend(changes);
        Some(self.revision)
    }

    /// Builds without a trace: no name is looked up.
    fn propose(&self, proposal: Proposal) -> Result<(Plan, Build), Vec<Violation>> {
        let Proposal { files, changes } = proposal;
        let mut edits = edits(&changes, &self.inputs.stored);
        let mut inputs = self.inputs.clone();
        changes.into_iter().for_each(|change| change.apply(&mut inputs.stored));
        if let Some(files) = files {
            inputs.files = files;
        }
        let build = build_here(&mut inputs, Some(&self.build), Reading::Missing)?;
        edits.extend(plan::file_edits(&self.build, &build));
        Ok((Plan::new(&edits, &self.build, &build), build))
    }

    fn take_files(&mut self, read: Result<Files, Vec<Violation>>) {
        match read {
            Ok(files) if is_as_read(&self.inputs, &files) => {
                self.refused_by_envoy = None;
                if self.refused.take().is_some() || self.violations.borrow().since.is_some() {
                    info!("the files are again what is being served");
                    self.tell_recovered();
                }
            }
            Ok(files) if self.refused.as_ref().is_some_and(|refused| is_as_read(refused, &files)) => {}
            Ok(files) if self.refused_by_envoy.as_ref().is_some_and(|it| is_as_read(it, &files)) => {}
            Ok(files) => self.try_files(files),
            Err(violations) => {
                self.refused = None;
                self.tell(violations);
            }
        }
        self.tell_named_files();
    }

    fn tell_named_files(&self) {
        let all = std::iter::once(&self.inputs).chain(&self.refused).chain(&self.refused_by_envoy);
        let named: BTreeSet<String> = all.flat_map(|inputs| inputs.named_files.keys().cloned()).collect();
        self.named_files.send_if_modified(|told| {
            let differs = *told != named;
            *told = named;
            differs
        });
    }

    fn try_files(&mut self, files: Files) {
        let mut inputs = Inputs { files, ..self.inputs.clone() };
        match self.make(&mut inputs, Reading::Anew) {
            Ok(build) => {
                (self.refused, self.refused_by_envoy) = (None, None);
                let edits = plan::file_edits(&self.build, &build);
                let revision = self.note_files(&inputs.files, edits, &build);
                let change = Accepted::Saved(Box::new(inputs.clone()));
                let before = Point {
                    inputs: std::mem::replace(&mut self.inputs, inputs),
                    build: std::mem::replace(&mut self.build, Arc::new(build)),
                };
                self.tell_recovered();
                self.publish(Source::Files.word(), before, vec![Step { revision, change }]);
            }
            Err(violations) => {
                self.refused = Some(inputs);
                self.tell(violations);
            }
        }
    }

    /// Makes the files that a start found durable, and what they change since the last time.
    fn note_new_files(&mut self, last: Option<Files>) {
        let files = self.inputs.files.clone();
        let last = last.unwrap_or_default();
        if last == files {
            return;
        }
        let mut inputs = Inputs { files: last, ..self.inputs.clone() };
        let before = build_here(&mut inputs, Some(&self.build), Reading::Missing).unwrap_or_default();
        let edits = plan::file_edits(&before, &self.build);
        let build = std::mem::replace(&mut self.build, Arc::new(before));
        self.note_files(&files, edits, &build);
        self.build = build;
    }

    /// Makes a change of the files durable, and gives its revision. What cannot be stored is served all the same:
    /// the files are their own record.
    fn note_files(&mut self, files: &Files, edits: Vec<Edit>, build: &Build) -> Option<u64> {
        let mut revisions = Vec::new();
        if !edits.is_empty() {
            let summary = meaning(&edits, &self.build, build);
            let revision = revision(self.revision + 1, Source::Files, authors(&edits), edits);
            revisions.push(Revision { summary, ..revision });
        }
        let count = revisions.len() as u64;
        let commit = Commit { revisions, files: Some(files.clone()), ..Commit::default() };
        match self.commit(&commit) {
            Ok(()) => {
                self.revision += count;
                self.tell_revisions(&commit.revisions);
                (count > 0).then_some(self.revision)
            }
            Err(error) => {
                error!(error = &error as &dyn std::error::Error, "a change of the files has no revision");
                None
            }
        }
    }

    /// Notes and logs what is wrong with the files, once.
    fn tell(&mut self, violations: Vec<Violation>) {
        if self.violations.borrow().violations == violations {
            return;
        }
        for violation in &violations {
            warn!("{}", render::line(violation));
        }
        warn!(faults = violations.len(), "the files were refused; the last good config keeps serving");
        let event = Event::FilesRefused { violations: violations.len() };
        self.violations.send_modify(|faults| {
            faults.since = faults.since.or_else(|| Some(Timestamp::now()));
            faults.violations = violations;
        });
        // Whoever hears of it and looks finds it so.
        self.events.publish(&event);
    }

    /// Notes that what the files say is what is served.
    fn tell_recovered(&self) {
        if self.violations.send_replace(Faults::default()).since.is_some() {
            self.events.publish(&Event::FilesRecovered {});
        }
    }

    fn tell_revisions(&self, revisions: &[Revision]) {
        for Revision { number, source, author, reason, summary, .. } in revisions {
            self.metrics.accepted(source.word());
            self.events.publish(&Event::Revision {
                number: *number,
                source: source.word(),
                author: author.clone(),
                reason: reason.clone(),
                summary: summary.clone(),
            });
        }
    }

    fn commit(&self, commit: &Commit) -> Result<(), store::Error> {
        let (_span, since) =
            (info_span!("commit", revisions = commit.revisions.len()).entered(), Instant::now());
        let outcome = self.store.commit(commit);
        self.metrics.committed(since.elapsed());
        outcome
    }

    fn take_addresses(&mut self) {
        let addresses = self.resolver.addresses();
        if addresses == self.inputs.addresses {
            return;
        }
        let mut inputs = Inputs { addresses, ..self.inputs.clone() };
        match self.make(&mut inputs, Reading::Missing) {
            Ok(build) => {
                (self.inputs, self.build) = (inputs, Arc::new(build));
                self.tell_endpoints();
                info!(source = "addresses", revision = self.revision, "config accepted");
            }
            Err(violations) => error!(?violations, "new addresses made a good config bad, which cannot be"),
        }
    }

    /// Says what time alone brought: a certificate that expires, or did.
    fn take_time(&mut self) {
        let mut inputs = self.inputs.clone();
        match build_here(&mut inputs, Some(&self.build), Reading::Missing) {
            Ok(build) => {
                build.warnings_since(&self.build).into_iter().for_each(warn);
                (self.inputs, self.build) = (inputs, Arc::new(build));
                self.tell_endpoints();
            }
            Err(violations) => error!(?violations, "time made a good config bad, which cannot be"),
        }
    }

    fn take_steerings(&mut self, overrides: OverridesByUpstream, done: oneshot::Sender<()>) {
        let mut inputs = Inputs { overrides, ..self.inputs.clone() };
        match build_here(&mut inputs, Some(&self.build), Reading::Missing) {
            Ok(build) => {
                (self.inputs, self.build) = (inputs, Arc::new(build));
                self.tell_endpoints();
                info!(source = "orders", revision = self.revision, "config accepted");
            }
            Err(violations) => error!(?violations, "orders made a good config bad, which cannot be"),
        }
        // Whoever asked may have hung up.
        let _ = done.send(());
    }

    /// Brings what was accepted to the fleets.
    fn publish(&mut self, source: &str, before: Point, steps: Vec<Step>) -> u64 {
        let changed = before.build.snapshots != self.build.snapshots;
        self.build.warnings_since(&before.build).into_iter().for_each(warn);
        let generation = self.roll_out(before, steps);
        let upstreams = self.build.model.upstreams.len();
        info!(source, changed, revision = self.revision, upstreams, "config accepted");
        generation
    }
}

/// The newest revision, this one or one before it, that was not taken back.
fn last_in_effect(store: &Store, newest: u64) -> Result<u64, store::Error> {
    for number in (1..=newest).rev() {
        match store.revisions(number..=number)?.pop() {
            Some(revision) if revision.error.is_some() => {}
            _ => return Ok(number),
        }
    }
    Ok(0)
}

/// Resolves at that time, if there is one.
async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Resolves when that time has come, if there is one. The clock may be set meanwhile, so it is looked at again and again.
async fn passed(at: Option<Timestamp>) {
    const GLANCE: Duration = Duration::from_secs(60);
    let Some(at) = at else { return std::future::pending().await };
    while let Ok(rest) = Duration::try_from(at.duration_since(Timestamp::now()))
        && !rest.is_zero()
    {
        tokio::time::sleep(rest.min(GLANCE)).await;
    }
}

/// A revision of now, without what it means.
fn revision(number: u64, source: Source, author: String, edits: Vec<Edit>) -> Revision {
    let (time, summary) = (Timestamp::now(), String::new());
    let (reason, error, refused_by) = (None, None, Vec::new());
    Revision { number, time, author, reason, summary, source, edits, error, refused_by }
}

/// What edits that made `after` of `before` mean, in one line.
fn meaning(edits: &[Edit], before: &Build, after: &Build) -> String {
    plan::summary(&plan::changes(edits, before, after))
}

/// The files of these edits, three at most by name.
fn authors(edits: &[Edit]) -> String {
    let files: BTreeSet<&str> = edits.iter().filter_map(|edit| edit.file.as_deref()).collect();
    let named: Vec<&str> = files.iter().take(3).copied().collect();
    match files.len().saturating_sub(named.len()) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

fn warn(violation: &Violation) {
    warn!("{}", render::line(violation));
}

/// True when the config paths hold `files`, and the files that these name are as they were.
fn is_as_read(inputs: &Inputs, files: &Files) -> bool {
    let names = || inputs.named_files.keys().cloned().collect();
    inputs.files == *files && inputs.named_files == files::read_named(&names())
}

/// Builds, and builds again if names came up that were never looked up: an upstream of nothing but new names
/// must not be published empty for the moment that the look-up takes.
fn build(
    inputs: &mut Inputs,
    last: Option<&Build>,
    reading: Reading,
    resolver: &mut Resolver,
    runtime: &tokio::runtime::Handle,
) -> Result<Build, Vec<Violation>> {
    let build = build_here(inputs, last, reading)?;
    let names: BTreeSet<Host> = build.host_names();
    resolver.configure(&build.model.resolver);
    runtime.block_on(resolver.learn(&names));
    let addresses = resolver.addresses();
    if addresses == inputs.addresses {
        return Ok(build);
    }
    inputs.addresses = addresses;
    build::build(inputs, last)
}

/// Builds with the addresses that are known.
fn build_here(inputs: &mut Inputs, last: Option<&Build>, reading: Reading) -> Result<Build, Vec<Violation>> {
    let known = std::mem::take(&mut inputs.named_files);
    inputs.now = Some(Timestamp::now());
    build::build_reading(inputs, last, |names| match reading {
        Reading::Anew => files::read_named(names),
        Reading::Missing => read_missing(known, names),
    })
}

fn read_missing(mut known: NamedFiles, names: &BTreeSet<String>) -> NamedFiles {
    known.retain(|name, _| names.contains(name));
    let missing = names.iter().filter(|name| !known.contains_key(*name)).cloned().collect();
    known.extend(files::read_named(&missing));
    known
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::document::Kind;
    use crate::envoy::ResourceType;
    use crate::model::name::Name;

    async fn started(data: &std::path::Path) -> (Control, Arc<Cache>) {
        // Another may have just ended, and its thread with it.
        let deadline = Instant::now() + Duration::from_secs(10);
        let store = loop {
            match Store::open(data) {
                Ok(store) => break store,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::task::yield_now().await;
        };
        let start = Start {
            files: Ok(Files::default()),
            store,
            overrides: OverridesByUpstream::default(),
            resolver: Resolver::new(),
            events: Events::default(),
            metrics: Metrics::default(),
            nodes: Nodes::default(),
        };
        let runtime = tokio::runtime::Handle::current();
        let started = tokio::task::spawn_blocking(move || self::start(start, &runtime));
        started.await.expect("it ends").expect("nothing is wrong")
    }

    fn terms() -> Terms {
        let (author, reason, idempotency) = (String::new(), None, None);
        Terms { source: Source::Api, author, reason, idempotency, alone: false }
    }

    fn decision(change: EntityChange) -> Decision {
        let answer = |now: Now<'_>| Answer {
            revision: None,
            status: 200,
            location: None,
            etag: None,
            body: now.inputs.stored.len().into(),
        };
        Decision { changes: vec![change], answer: Box::new(answer) }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_start_knows_what_envoys_have_that_left_before_the_last_writes() {
        let data = tempfile::tempdir().expect("the temporary directory can be written");
        let (control, cache) = started(data.path()).await;
        let put = |name: &str| {
            let body = serde_json::json!({ "name": name, "targets": [{ "target": "10.0.0.1:80" }] });
            EntityChange::Put { kind: Kind::Upstream, name: name.to_owned(), body: Arc::new(body) }
        };
        let delete = |name: &str| EntityChange::Delete { kind: Kind::Upstream, name: name.to_owned() };
        let mut told = Vec::new();
        for change in [put("shop"), put("other"), delete("shop")] {
            let decide = move |_: Now<'_>| -> Result<_, WriteError> { Ok(decision(change.clone())) };
            control.write(terms(), decide).await.expect("it is accepted");
            let snapshot = cache.build().snapshot(&Name::default_fleet());
            told.push(Some(snapshot.set(ResourceType::Cluster).version()));
        }
        drop((control, cache));
        let (_control, cache) = started(data.path()).await;
        let recalled = told.iter().flatten().map(|version| Some(cache.past().recall(*version)?.0.version()));
        assert_eq!(recalled.collect::<Vec<_>>(), told);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_writes_that_are_taken_together_each_is_told_what_is_its_own() {
        let data = tempfile::tempdir().expect("the temporary directory can be written");
        let (control, _) = started(data.path()).await;
        let put = |kind: Kind, name: &str, body: serde_json::Value| EntityChange::Put {
            kind,
            name: name.to_owned(),
            body: Arc::new(body),
        };
        let write = |kind: Kind, name: &str, body: serde_json::Value| {
            let (control, change) = (control.clone(), put(kind, name, body));
            let decide = move |_: Now<'_>| -> Result<_, WriteError> { Ok(decision(change.clone())) };
            async move { control.write(terms(), decide).await }
        };
        // While the first is being decided on, the others come.
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let target = |address: &str| serde_json::json!([{ "target": address }]);
        let body = serde_json::json!({ "name": "first", "targets": target("10.0.0.1:80") });
        let change = put(Kind::Upstream, "first", body);
        let first = control.write(terms(), move |_: Now<'_>| -> Result<_, WriteError> {
            // The others hang up when they have all come.
            let _ = wait.lock().expect("nobody panicked").recv();
            Ok(decision(change.clone()))
        });
        let twice = serde_json::json!([{ "target": "10.0.0.2:80" }, { "target": "10.0.0.2:80" }]);
        let good = write(
            Kind::Upstream,
            "good",
            serde_json::json!({ "name": "good", "targets": target("10.0.0.3:80") }),
        );
        let bad = write(Kind::Service, "bad", serde_json::json!({ "name": "bad", "upstream": "nobody" }));
        let odd = write(Kind::Upstream, "odd", serde_json::json!({ "name": "odd", "targets": twice }));
        let last = write(Kind::Service, "last", serde_json::json!({ "name": "last", "upstream": "good" }));
        let come = async move { drop(go) };
        let (first, good, bad, odd, last, ()) = tokio::join!(biased; first, good, bad, odd, last, come);

        let [first, good, odd, last] = [first, good, odd, last].map(|it| it.expect("it is right"));
        let Err(WriteError::Refused(violations)) = bad else { panic!("nobody is there") };
        assert_eq!(violations.iter().map(|it| it.code).collect::<Vec<_>>(), ["US111"]);
        let told = |written: &Written| {
            let warnings = written.build.warnings_since(&written.before).len();
            (written.answer.revision, written.answer.body.clone(), warnings)
        };
        let all = [&first, &good, &odd, &last].map(told);
        let expected = [(1, 0), (2, 0), (3, 1), (4, 0)];
        assert_eq!(all, expected.map(|(number, warnings): (u64, _)| (Some(number), number.into(), warnings)));
        let revisions = control.store().revisions(1..=9).expect("reads");
        let summaries: Vec<&str> = revisions.iter().map(|revision| revision.summary.as_str()).collect();
        assert_eq!(
            summaries,
            ["upstream first is new", "upstream good is new", "upstream odd is new", "service last is new"]
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_fault_of_our_own_is_the_end_and_not_a_door_that_stays_shut() {
        let data = tempfile::tempdir().expect("the temporary directory can be written");
        let (control, _) = started(data.path()).await;
        let fault = |_: Now<'_>| -> Result<Decision, WriteError> { panic!("a fault, for the test") };
        assert!(matches!(control.write(terms(), fault).await, Err(WriteError::ShuttingDown)));
        tokio::time::timeout(std::time::Duration::from_secs(20), control.ended()).await.expect("it is told");
    }
}
