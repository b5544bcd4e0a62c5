//! Control: the only way to change the desired config.
//!
//! A [`Control`] is a handle of the writer's thread. Files, endpoint overrides and writes over the API are
//! tasks of that thread, which makes one change after the other: see `writer`. An [`Operation`] is a write.

mod desired;
mod files;
mod foreign;
pub mod operation;
mod pending;
pub mod progress;
mod recorded;
mod revisions;
pub mod rollout;
mod staging;
pub mod start;
mod task;
mod writer;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::Span;

use crate::build::Build;
use crate::build::snapshot::store_id::StoreId;
use crate::config::Violation;
use crate::config::edit::Files;
use crate::control::desired::DesiredState;
use crate::control::files::FileFaults;
use crate::control::operation::{AcceptedWrite, Operation, WriteError, WriteRequest};
use crate::control::progress::Progress;
use crate::control::task::{QueuedOperation, Task};
use crate::inspect::plan::Plan;
use crate::inspect::removal::AllowedLosses;
use crate::model::overrides::OverridesByUpstream;

/// Handle of the writer's thread. Cheap to clone: clones share the thread.
#[derive(Debug, Clone)]
pub struct Control {
    tasks: mpsc::UnboundedSender<Task>,
    faults: watch::Receiver<FileFaults>,
    named_files: watch::Receiver<BTreeSet<String>>,
    progress: watch::Receiver<Progress>,
}

impl Control {
    /// Applies the texts of the config paths. Files with faults change nothing; [`Self::violations`] and the
    /// log have the faults. Returns false if the control plane is shutting down.
    pub fn files(&self, read: Result<Files, Vec<Violation>>) -> bool {
        self.tasks.send(Task::Files(read)).is_ok()
    }

    /// Applies the files by request: refused ones are tried again even if they did not change. `allowed` are
    /// losses that are meant this once. After it returned, the files are in use or [`Self::violations`] has
    /// the faults.
    ///
    /// # Errors
    ///
    /// Fails if the control plane is shutting down.
    pub async fn reload(
        &self,
        read: Result<Files, Vec<Violation>>,
        allowed: AllowedLosses,
    ) -> Result<(), WriteError> {
        let (sender, receiver) = oneshot::channel();
        self.tasks.send(Task::Reload(read, allowed, sender)).map_err(|_| WriteError::ShuttingDown)?;
        receiver.await.map_err(|_| WriteError::ShuttingDown)
    }

    /// Answers the Envoys that run a config which is not known here and were not answered because of it, and
    /// others of their stores. Returns the stores.
    ///
    /// # Errors
    ///
    /// Fails if that cannot be recorded, or if the control plane is shutting down.
    pub async fn allow_foreign(&self) -> Result<BTreeSet<StoreId>, WriteError> {
        let (sender, receiver) = oneshot::channel();
        self.tasks.send(Task::AllowForeign(sender)).map_err(|_| WriteError::ShuttingDown)?;
        let released = receiver.await.map_err(|_| WriteError::ShuttingDown)?;
        released.map_err(|error| WriteError::Store(Arc::new(error)))
    }

    /// Publishes the overrides of endpoints by operators, drills and failback. Returns false if the control
    /// plane is shutting down.
    pub async fn set_overrides(&self, overrides: OverridesByUpstream) -> bool {
        let (done, receiver) = oneshot::channel();
        self.tasks.send(Task::Overrides(overrides, done)).is_ok() && receiver.await.is_ok()
    }

    /// Watches the names of the files that the config names, and of those that a refused config names.
    pub fn named_files(&self) -> watch::Receiver<BTreeSet<String>> {
        self.named_files.clone()
    }

    /// Returns the faults of the current files, while the last good config is served.
    pub fn violations(&self) -> Vec<Violation> {
        self.faults.borrow().violations.clone()
    }

    /// Returns the time since which the files are not what is served; none while they are.
    pub fn stale_since(&self) -> Option<Timestamp> {
        self.faults.borrow().since
    }

    /// Returns the progress of the newest changes.
    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// Waits until a revision is in effect or was taken back. Returns false if it is neither after
    /// `patience`.
    pub async fn decided(&self, revision: u64, patience: Duration) -> bool {
        let mut progress = self.progress.clone();
        let decided = progress.wait_for(|progress| !progress.rolling_out.contains(&revision));
        tokio::time::timeout(patience, decided).await.is_ok()
    }

    /// Resolves when no change can be made any more because the writer's thread panicked.
    pub async fn ended(&self) {
        self.tasks.closed().await;
    }

    /// Decides on a write and applies it, all or nothing. After it returned, the write is durable and
    /// published.
    ///
    /// # Errors
    ///
    /// Fails with the refusal of the operation.
    pub async fn write<O: Operation>(
        &self,
        request: WriteRequest,
        operation: O,
    ) -> Result<AcceptedWrite<O::Reply>, O::Refusal> {
        let (sender, receiver) = oneshot::channel();
        let write = QueuedOperation { request, operation, staged: None, sender, span: Span::current() };
        self.tasks.send(Task::Write(Box::new(write))).map_err(|_| WriteError::ShuttingDown)?;
        receiver.await.map_err(|_| WriteError::ShuttingDown)?
    }

    /// Plans a write, with these files in place of the served ones if there are any. Nothing changes.
    ///
    /// # Errors
    ///
    /// Fails with the refusal of the operation.
    pub async fn plan<O: Operation>(
        &self,
        operation: O,
        files: Option<Files>,
    ) -> Result<(Plan, Build), O::Refusal> {
        let (sender, receiver) = oneshot::channel();
        let span = Span::current();
        let plan = move |desired: &DesiredState| {
            let _entered = span.entered();
            let outcome = operation.decide(desired.view()).and_then(|decision| {
                let planned = desired.propose(files, decision.changes);
                planned.map_err(|violations| operation.refuse(&decision.details, violations))
            });
            // The receiver may be gone with its request.
            let _ = sender.send(outcome);
        };
        self.tasks.send(Task::Plan(Box::new(plan))).map_err(|_| WriteError::ShuttingDown)?;
        receiver.await.map_err(|_| WriteError::ShuttingDown)?
    }
}

#[cfg(test)]
mod tests;
