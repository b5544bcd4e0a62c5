//! Tasks of the writer's thread.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::oneshot;
use tracing::Span;

use crate::build::Build;
use crate::build::snapshot::store_id::StoreId;
use crate::config::Violation;
use crate::config::edit::Files;
use crate::config::material::{NamedFile, NamedFiles};
use crate::control::desired::{DesiredState, Unbuilt};
use crate::control::operation::{
    AcceptedWrite, Decision, Operation, OperationReply as _, WriteError, WriteRequest,
};
use crate::control::staging::Staging;
use crate::inspect::plan::Plan;
use crate::inspect::removal::AllowedLosses;
use crate::model::overrides::OverridesByUpstream;
use crate::store::{self, KeptAnswer, Store};

/// Task of the writer's thread: sent by `Control`, received in `Writer::perform`.
pub(super) enum Task {
    /// Change of the files.
    Files(FilesChange),
    /// Answer to Envoys that run a config which is not known here.
    AllowForeign(oneshot::Sender<Result<BTreeSet<StoreId>, store::Error>>),
    /// Change of the endpoint overrides.
    Overrides(OverridesByUpstream, oneshot::Sender<()>),
    /// Plan, which changes nothing.
    Plan(Box<dyn QueuedPlan>),
    /// Write over the API.
    Write(Box<dyn QueuedWrite>),
    /// Question if the thread still does its work.
    Ping(oneshot::Sender<()>),
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Files(_) => "Files",
            Self::AllowForeign(_) => "AllowForeign",
            Self::Overrides(..) => "Overrides",
            Self::Plan(_) => "Plan",
            Self::Write(_) => "Write",
            Self::Ping(_) => "Ping",
        })
    }
}

/// Files as they were read.
pub(super) struct FilesChange {
    /// Texts of the config paths.
    pub(super) read: Result<Files, Vec<Violation>>,
    /// Texts of the files that documents name, read at the same time.
    pub(super) texts: NamedFiles,
    /// Losses that are meant.
    pub(super) allowed: AllowedLosses,
    /// Receiver of the end of a reload by request, which tries refused files again.
    pub(super) reload: Option<oneshot::Sender<()>>,
}

/// Plan in the queue, of whatever kind.
pub(super) trait QueuedPlan: Send {
    /// True if nobody waits for the outcome any more.
    fn is_abandoned(&self) -> bool;
    /// Adds texts of files that were read for the plan.
    fn add_texts(&mut self, texts: NamedFiles);
    /// Plans and sends the outcome. Returns the files that must be read first, if there are any; nothing was sent
    /// then.
    fn plan(&mut self, desired: &DesiredState) -> Option<BTreeSet<NamedFile>>;
}

/// Write in the queue, of whatever kind.
pub(super) trait QueuedWrite: Send {
    /// True if the write must see the stored revisions of all writes before it.
    fn is_alone(&self) -> bool;
    /// True if nobody waits for the outcome any more.
    fn is_abandoned(&self) -> bool;
    /// Returns the texts of files that were read for the write.
    fn texts(&self) -> &NamedFiles;
    /// Adds texts of files that were read for the write.
    fn add_texts(&mut self, texts: NamedFiles);
    /// Records that the staged changes were dropped until these files are read.
    fn postpone(&mut self, unread: BTreeSet<NamedFile>);
    /// Takes the files that must be read first, if there are any.
    fn take_unread(&mut self) -> Option<BTreeSet<NamedFile>>;
    /// Decides and stages the changes. May be called again, if a write beside it was refused or another
    /// control plane wrote first.
    fn stage(&mut self, staging: &mut Staging, desired: &mut DesiredState, store: &dyn Store);
    /// Records the build that contains the staged changes.
    fn accept(&mut self, before: &Arc<Build>, build: &Arc<Build>);
    /// Records that the staged changes were dropped because of these faults.
    fn refuse(&mut self, violations: Vec<Violation>);
    /// Sends the outcome, once the changes are published or could not be stored.
    fn finish(self: Box<Self>, stored: Result<u64, Arc<store::Error>>);
}

/// Operation in the queue, with the receiver of its outcome.
pub(super) struct QueuedOperation<O: Operation> {
    pub(super) request: WriteRequest,
    pub(super) operation: O,
    pub(super) staged: Option<Staged<O>>,
    pub(super) sender: oneshot::Sender<Result<AcceptedWrite<O::Reply>, O::Refusal>>,
    pub(super) span: Span,
    /// Texts of files that were read for it.
    pub(super) texts: NamedFiles,
    /// Files that must be read before it can be built.
    pub(super) unread: Option<BTreeSet<NamedFile>>,
}

/// Sender of a plan with its build, or of the refusal.
type PlanSender<O> = oneshot::Sender<Result<(Plan, Build), <O as Operation>::Refusal>>;

/// Operation that is only planned, with the receiver of the plan.
pub(super) struct PlannedOperation<O: Operation> {
    pub(super) operation: O,
    /// Files in place of the served ones, if there are any.
    pub(super) files: Option<Files>,
    /// None once the outcome is sent.
    pub(super) sender: Option<PlanSender<O>>,
    pub(super) span: Span,
    /// Texts of files that were read for it.
    pub(super) texts: NamedFiles,
}

impl<O: Operation> QueuedPlan for PlannedOperation<O> {
    fn is_abandoned(&self) -> bool {
        self.sender.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    fn add_texts(&mut self, texts: NamedFiles) {
        self.texts.extend(texts);
    }

    fn plan(&mut self, desired: &DesiredState) -> Option<BTreeSet<NamedFile>> {
        let _entered = self.span.clone().entered();
        let outcome = match self.operation.decide(desired.view()) {
            Err(refusal) => Err(refusal),
            Ok(Decision { changes, details }) => {
                match desired.propose(self.files.clone(), changes, &self.texts) {
                    Ok(planned) => Ok(planned),
                    Err(Unbuilt::Faults(violations)) => Err(self.operation.refuse(&details, violations)),
                    Err(Unbuilt::Unread(unread)) => return Some(unread),
                }
            }
        };
        if let Some(sender) = self.sender.take() {
            // The receiver may be gone with its request.
            let _ = sender.send(outcome);
        }
        None
    }
}

/// Result of staging an operation.
pub(super) struct Staged<O: Operation> {
    outcome: Result<AcceptedWrite<O::Reply>, O::Refusal>,
    /// Details of the decision; none for a repeated request or a refusal.
    details: Option<O::Details>,
}

impl<O: Operation> QueuedWrite for QueuedOperation<O> {
    fn is_alone(&self) -> bool {
        self.request.alone
    }

    fn is_abandoned(&self) -> bool {
        self.sender.is_closed()
    }

    fn texts(&self) -> &NamedFiles {
        &self.texts
    }

    fn add_texts(&mut self, texts: NamedFiles) {
        self.texts.extend(texts);
    }

    fn postpone(&mut self, unread: BTreeSet<NamedFile>) {
        (self.staged, self.unread) = (None, Some(unread));
    }

    fn take_unread(&mut self) -> Option<BTreeSet<NamedFile>> {
        self.unread.take()
    }

    fn stage(&mut self, staging: &mut Staging, desired: &mut DesiredState, store: &dyn Store) {
        self.unread = None;
        let staged = self.span.in_scope(|| stage(&self.operation, &self.request, staging, desired, store));
        self.staged = Some(staged.unwrap_or_else(|refusal| Staged { outcome: Err(refusal), details: None }));
    }

    fn accept(&mut self, before: &Arc<Build>, build: &Arc<Build>) {
        if let Some(Staged { outcome: Ok(written), .. }) = &mut self.staged {
            (written.before, written.build) = (before.clone(), build.clone());
        }
    }

    fn refuse(&mut self, violations: Vec<Violation>) {
        let details = self.staged.take().and_then(|staged| staged.details);
        let refusal = match details {
            Some(details) => self.operation.refuse(&details, violations),
            None => WriteError::Refused(violations).into(),
        };
        self.staged = Some(Staged { outcome: Err(refusal), details: None });
    }

    fn finish(self: Box<Self>, stored: Result<u64, Arc<store::Error>>) {
        let outcome = self.staged.map(|staged| staged.outcome);
        let outcome = outcome.unwrap_or_else(|| Err(WriteError::ShuttingDown.into()));
        let outcome = outcome.and_then(|written| match stored {
            Ok(generation) => Ok(AcceptedWrite { generation, ..written }),
            Err(error) => Err(WriteError::Store(error).into()),
        });
        // The receiver may be gone with its request; the change stands nevertheless.
        let _ = self.sender.send(outcome);
    }
}

/// Decides on the desired config and stages the changes; a repeated request gets the kept reply.
fn stage<O: Operation>(
    operation: &O,
    request: &WriteRequest,
    staging: &mut Staging,
    desired: &mut DesiredState,
    store: &dyn Store,
) -> Result<Staged<O>, O::Refusal> {
    let build = desired.build.clone();
    let written = |reply, revision, is_repeated| {
        let (before, build) = (build.clone(), build.clone());
        AcceptedWrite { reply, revision, is_repeated, before, build, generation: 0 }
    };
    if let Some((key, hash)) = &request.idempotency
        && let Some(kept) = kept(key, staging, store)?
    {
        if kept.request != *hash {
            return Err(WriteError::Reused.into());
        }
        let damaged = || WriteError::from(store::Error::Damaged { key: format!("answers/{key}") });
        let reply = O::Reply::decode(&kept.answer).ok_or_else(damaged)?;
        return Ok(Staged { outcome: Ok(written(reply, kept.revision, true)), details: None });
    }
    let Decision { changes, details } = operation.decide(desired.view())?;
    let revision = staging.add(desired, changes, request);
    let reply = operation.reply(&details, desired.view());
    if let Some((key, hash)) = &request.idempotency {
        let (time, answer) = (Timestamp::now(), reply.encode());
        staging.keep(key, KeptAnswer { time, request: *hash, revision, answer });
    }
    Ok(Staged { outcome: Ok(written(reply, revision, false)), details: Some(details) })
}

/// Returns the answer kept for this key, staged or stored.
fn kept(key: &str, staging: &Staging, store: &dyn Store) -> Result<Option<KeptAnswer>, WriteError> {
    match staging.answer(key) {
        Some(answer) => Ok(Some(answer.clone())),
        None => Ok(store.answer(key, Timestamp::now())?),
    }
}
