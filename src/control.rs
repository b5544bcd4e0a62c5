//! Control: the only way to change the desired config.
//!
//! A [`Control`] is a handle of the writer's thread. Files, endpoint overrides and writes over the API are
//! tasks of that thread, which makes one change after the other: see `writer`. An [`Operation`] is a write.

mod aside;
mod desired;
mod files;
mod foreign;
pub mod operation;
mod pending;
pub mod progress;
mod queue;
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
use tokio::sync::{oneshot, watch};
use tracing::Span;

use crate::build::Build;
use crate::build::snapshot::store_id::StoreId;
use crate::config::Violation;
use crate::config::edit::Files;
use crate::config::material::{NamedFile, NamedFiles};
use crate::control::files::FileFaults;
use crate::control::operation::{AcceptedWrite, Operation, WriteError, WriteRequest};
use crate::control::progress::Progress;
use crate::control::queue::TaskSender;
use crate::control::task::{FilesChange, PlannedOperation, QueuedOperation, Task};
use crate::inspect::plan::Plan;
use crate::inspect::removal::AllowedLosses;
use crate::model::overrides::OverridesByUpstream;
use crate::source::material::MaterialReader;

/// Handle of the writer's thread. Cheap to clone: clones share the thread.
#[derive(Debug, Clone)]
pub struct Control {
    tasks: TaskSender,
    material: MaterialReader,
    faults: watch::Receiver<FileFaults>,
    named_files: watch::Receiver<BTreeSet<NamedFile>>,
    progress: watch::Receiver<Progress>,
}

impl Control {
    /// Applies the texts of the config paths. Files with faults change nothing; [`Self::violations`] and the
    /// log have the faults. Blocks while the files are read that documents name, for some seconds if their file
    /// system does not answer. Returns false if the control plane is shutting down.
    pub fn files(&self, read: Result<Files, Vec<Violation>>) -> bool {
        let (texts, allowed) = (read_named(&self.material, &self.named_files), AllowedLosses::default());
        self.tasks.send(Task::Files(FilesChange { read, texts, allowed, reload: None }))
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
        let (material, named) = (self.material.clone(), self.named_files.clone());
        let texts = tokio::task::spawn_blocking(move || read_named(&material, &named)).await;
        let texts = texts.map_err(|_| WriteError::ShuttingDown)?;
        let reload = Some(sender);
        if !self.tasks.send(Task::Files(FilesChange { read, texts, allowed, reload })) {
            return Err(WriteError::ShuttingDown);
        }
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
        if !self.tasks.send(Task::AllowForeign(sender)) {
            return Err(WriteError::ShuttingDown);
        }
        let released = receiver.await.map_err(|_| WriteError::ShuttingDown)?;
        released.map_err(|error| WriteError::Store(Arc::new(error)))
    }

    /// Waits until the writer's thread has done whatever came from within before, and what it is doing now. Returns
    /// false if the control plane is shutting down.
    pub async fn answers(&self) -> bool {
        let (sender, receiver) = oneshot::channel();
        self.tasks.send(Task::Ping(sender)) && receiver.await.is_ok()
    }

    /// Publishes the overrides of endpoints by operators, drills and failback. Returns false if the control
    /// plane is shutting down.
    pub async fn set_overrides(&self, overrides: OverridesByUpstream) -> bool {
        let (done, receiver) = oneshot::channel();
        self.tasks.send(Task::Overrides(overrides, done)) && receiver.await.is_ok()
    }

    /// Watches the files that the config names, and those that a refused config names.
    pub fn named_files(&self) -> watch::Receiver<BTreeSet<NamedFile>> {
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
    /// published. A write whose future is dropped before its turn is not done.
    ///
    /// # Errors
    ///
    /// Fails with the refusal of the operation, or with [`WriteError::Busy`] if too many requests wait.
    pub async fn write<O: Operation>(
        &self,
        request: WriteRequest,
        operation: O,
    ) -> Result<AcceptedWrite<O::Reply>, O::Refusal> {
        let (sender, receiver) = oneshot::channel();
        let (staged, span, texts, unread) = (None, Span::current(), NamedFiles::new(), None);
        let write = QueuedOperation { request, operation, staged, sender, span, texts, unread };
        self.tasks.request(Task::Write(Box::new(write)))?;
        receiver.await.map_err(|_| WriteError::ShuttingDown)?
    }

    /// Plans a write, with these files in place of the served ones if there are any. Nothing changes.
    ///
    /// # Errors
    ///
    /// Fails with the refusal of the operation, or with [`WriteError::Busy`] if too many requests wait.
    pub async fn plan<O: Operation>(
        &self,
        operation: O,
        files: Option<Files>,
    ) -> Result<(Plan, Build), O::Refusal> {
        let (sender, receiver) = oneshot::channel();
        let (sender, span, texts) = (Some(sender), Span::current(), NamedFiles::new());
        let plan = PlannedOperation { operation, files, sender, span, texts };
        self.tasks.request(Task::Plan(Box::new(plan)))?;
        receiver.await.map_err(|_| WriteError::ShuttingDown)?
    }
}

/// Reads the files that documents name; blocks.
fn read_named(material: &MaterialReader, named: &watch::Receiver<BTreeSet<NamedFile>>) -> NamedFiles {
    let names = named.borrow().clone();
    material.read(&names)
}

#[cfg(test)]
mod tests;
