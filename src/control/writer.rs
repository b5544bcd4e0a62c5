//! Writer: the thread that makes every change of the desired config.
//!
//! Each change is applied to a copy of the inputs, built whole, made durable and only then published; if any
//! step fails, the old config stays. Changes are made one after the other, so each sees the outcome of the
//! last.

mod adopt;
mod record;
pub(super) mod saved;
mod take_back;
mod writes;

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;
use tracing::info;

use crate::control::aside::AsideReader;
use crate::control::desired::{Built, DesiredState, log_warnings};
use crate::control::files::FileState;
use crate::control::foreign::ForeignStores;
use crate::control::pending::PendingChange;
use crate::control::queue::TaskQueue;
use crate::control::revisions::RevisionLog;
use crate::control::rollout::{Rejection, RolloutPlan, RolloutQueue};
use crate::control::staging::Staging;
use crate::control::task::{QueuedPlan, Task};

/// State of the writer's thread.
pub(super) struct Writer {
    pub(super) desired: DesiredState,
    pub(super) staging: Staging,
    pub(super) rollout: RolloutQueue,
    pub(super) files: FileState,
    pub(super) revisions: RevisionLog,
    pub(super) foreign: ForeignStores,
    /// Newest revision in the store, which other control planes may write too.
    pub(super) stored_revision: watch::Receiver<u64>,
    pub(super) aside: AsideReader,
}

/// Reason for which the thread wakes.
enum Wake {
    Task(Task),
    Addresses,
    Nodes,
    Clock,
    Store,
    End,
}

impl Writer {
    /// Runs until all handles are dropped.
    pub(super) fn run(mut self, mut queue: TaskQueue) {
        let runtime = self.desired.builder.runtime.clone();
        let mut next = None;
        loop {
            let wake = match next.take().or_else(|| queue.next_own()) {
                Some(task) => Wake::Task(task),
                None => runtime.block_on(self.wait(&mut queue)),
            };
            match wake {
                Wake::Task(task) => next = self.perform(task, &mut queue),
                Wake::Addresses => self.update_addresses(),
                Wake::Nodes => self.check_canary(),
                Wake::Clock => {
                    if self.desired.update_time() {
                        self.rollout.publish_endpoints(&mut self.desired);
                    }
                }
                Wake::Store => {
                    if self.catch_up() {
                        self.retry_refused_files();
                    }
                }
                Wake::End => return,
            }
        }
    }

    /// Waits for the next event. Between tasks, names are looked up again as their answers expire.
    async fn wait(&mut self, queue: &mut TaskQueue) -> Wake {
        let (own, until) = (self.desired.revision, self.rollout.until());
        tokio::select! {
            task = queue.next() => task.map_or(Wake::End, Wake::Task),
            () = self.desired.builder.resolver.changed() => Wake::Addresses,
            () = self.rollout.nodes().changed() => Wake::Nodes,
            () = due(until) => Wake::Nodes,
            () = passed(self.desired.build.until) => Wake::Clock,
            () = moved(&mut self.stored_revision, own) => Wake::Store,
        }
    }

    /// Performs a task. Returns the next one, if it was taken from the queue already.
    fn perform(&mut self, task: Task, queue: &mut TaskQueue) -> Option<Task> {
        match task {
            Task::Write(write) => return self.write(write, queue),
            Task::Files(change) => self.change_files(change),
            // The receiver may be gone with its request.
            Task::AllowForeign(done) => drop(done.send(self.foreign.release())),
            Task::Overrides(overrides, done) => {
                if self.desired.update_overrides(overrides) {
                    self.rollout.publish_endpoints(&mut self.desired);
                    info!(source = "orders", revision = self.desired.revision, "config accepted");
                }
                let _ = done.send(());
            }
            Task::Plan(plan) => self.plan(plan),
            // The receiver may be gone.
            Task::Ping(answered) => drop(answered.send(())),
        }
        None
    }

    /// Plans, or sets the plan aside.
    fn plan(&mut self, mut plan: Box<dyn QueuedPlan>) {
        if plan.is_abandoned() {
            return;
        }
        if let Some(unread) = plan.plan(&self.desired) {
            self.aside.read(unread, move |texts| {
                plan.add_texts(texts);
                Task::Plan(plan)
            });
        }
    }

    fn update_addresses(&mut self) {
        if self.desired.update_addresses() {
            self.rollout.publish_endpoints(&mut self.desired);
            info!(source = "addresses", revision = self.desired.revision, "config accepted");
        }
    }

    /// Rolls out the changes that were accepted since `before`, as planned. Returns the generation that contains
    /// them.
    fn publish(
        &mut self,
        source: &str,
        before: Built,
        changes: Vec<PendingChange>,
        plan: RolloutPlan,
    ) -> u64 {
        let changed = before.build.snapshots != self.desired.build.snapshots;
        log_warnings(&self.desired.build.warnings_since(&before.build));
        let rejection = self.rollout.roll_out(&mut self.desired, before, changes, plan);
        self.resolve(rejection);
        self.record_rollout();
        let generation = self.rollout.generation();
        let (revision, upstreams) = (self.desired.revision, self.desired.build.model.upstreams.len());
        info!(source, changed, revision, upstreams, "config accepted");
        generation
    }

    /// Checks the canaries, and amends the revisions that other Envoys refuse.
    fn check_canary(&mut self) {
        self.record_refusals();
        self.foreign.adopt_answered();
        let rejection = self.rollout.check_canary(&mut self.desired);
        self.resolve(rejection);
        self.record_rollout();
        self.record_fleets();
    }

    /// Takes refused changes back, until the rest of the queue is published or on trial.
    pub(super) fn resolve(&mut self, mut rejection: Option<Rejection>) {
        while let Some(rejected) = rejection {
            rejection = self.take_back(rejected);
        }
    }
}

/// Resolves at that time, if there is one.
async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Resolves when that time has come, if there is one. The clock may be set meanwhile, so it is read again
/// every minute.
async fn passed(at: Option<Timestamp>) {
    const INTERVAL: Duration = Duration::from_secs(60);
    let Some(at) = at else { return std::future::pending().await };
    while let Ok(rest) = Duration::try_from(at.duration_since(Timestamp::now()))
        && !rest.is_zero()
    {
        tokio::time::sleep(rest.min(INTERVAL)).await;
    }
}

/// Resolves when the store has a revision other than `own` that was not seen before.
async fn moved(revision: &mut watch::Receiver<u64>, own: u64) {
    while revision.changed().await.is_ok() {
        if *revision.borrow_and_update() != own {
            return;
        }
    }
    std::future::pending().await
}
