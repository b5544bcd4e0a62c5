//! Tasks of the writer's thread.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::oneshot;
use tracing::Span;

use crate::build::Build;
use crate::build::snapshot::store_id::StoreId;
use crate::config::Violation;
use crate::config::edit::Files;
use crate::control::desired::DesiredState;
use crate::control::operation::{
    AcceptedWrite, Decision, Operation, OperationReply as _, WriteError, WriteRequest,
};
use crate::control::staging::Staging;
use crate::inspect::removal::AllowedLosses;
use crate::model::overrides::OverridesByUpstream;
use crate::store::{self, KeptAnswer, Store};

/// Task of the writer's thread: sent by `Control`, received in `Writer::perform`.
pub(super) enum Task {
    /// Change of the files.
    Files(Result<Files, Vec<Violation>>),
    /// Reload of the files by request, even if they did not change, with the losses that are meant.
    Reload(Result<Files, Vec<Violation>>, AllowedLosses, oneshot::Sender<()>),
    /// Answer to Envoys that run a config which is not known here.
    AllowForeign(oneshot::Sender<Result<BTreeSet<StoreId>, store::Error>>),
    /// Change of the endpoint overrides.
    Overrides(OverridesByUpstream, oneshot::Sender<()>),
    /// Plan, which changes nothing.
    Plan(Box<dyn FnOnce(&DesiredState) + Send>),
    /// Write over the API.
    Write(Box<dyn QueuedWrite>),
}

/// Write in the queue, of whatever kind.
pub(super) trait QueuedWrite: Send {
    /// True if the write must see the stored revisions of all writes before it.
    fn is_alone(&self) -> bool;
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

    fn stage(&mut self, staging: &mut Staging, desired: &mut DesiredState, store: &dyn Store) {
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
