//! Changes of the config files.

use std::sync::Arc;

use tracing::error;

use crate::build::{Build, Inputs};
use crate::config::Violation;
use crate::config::edit::{Edit, Files};
use crate::control::desired::{Built, Reading};
use crate::control::pending::{Accepted, PendingChange};
use crate::control::revisions::{authors, new_revision, summary};
use crate::control::writer::Writer;
use crate::inspect::plan;
use crate::inspect::removal::{self, AllowedLosses};
use crate::store::{self, Commit, Revision, RevisionSource, RolloutChange};

impl Writer {
    /// Applies the files that were read, or reports their faults. `allowed` are losses that are meant.
    pub(super) fn change_files(&mut self, read: Result<Files, Vec<Violation>>, allowed: AllowedLosses) {
        if let Some(files) = self.files.changed(read, &self.desired.inputs) {
            self.try_files(files, allowed);
        }
        self.files.publish_named_files(&self.desired.inputs);
    }

    /// Tries refused files again: what they lacked may be there now.
    pub(super) fn retry_refused_files(&mut self) {
        if let Some(refused) = self.files.refused.take() {
            self.try_files(refused.files, AllowedLosses::default());
        }
    }

    /// Builds, records and publishes the files, or reports their faults.
    fn try_files(&mut self, files: Files, allowed: AllowedLosses) {
        let limits = self.desired.loss_limits.lifted(allowed);
        loop {
            let mut inputs = Inputs { files: files.clone(), ..self.desired.inputs.clone() };
            let outcome = self.desired.build(&mut inputs, Reading::Anew).and_then(|build| {
                let before = (&self.desired.inputs.files, &*self.desired.build);
                let losses = removal::refusals(before, (&inputs.files, &build), &limits);
                if losses.is_empty() { Ok(build) } else { Err(losses) }
            });
            let build = match outcome {
                Ok(build) => build,
                Err(violations) => {
                    self.files.refused = Some(inputs);
                    self.files.report(violations);
                    return;
                }
            };
            let after = Built { inputs, build: Arc::new(build) };
            let (mut change, edits) = saved_change(&self.desired.build, &after, self.desired.revision);
            let changes = std::slice::from_ref(&change);
            let plan = self.rollout.plan(&self.desired.build, &after, changes);
            let before = &self.desired.inputs.files;
            let live_files = plan.live_files(before, &after.inputs.files);
            let rollout = self.revisions.recorded.beginning(plan.waiting(changes), live_files);
            let before = self.desired.build.clone();
            let plan = match self.record_files(&after, edits, &before, rollout) {
                Err(store::Error::Conflict { .. }) if self.catch_up() => continue,
                Ok(()) => plan,
                Err(error) => {
                    no_revision(&error);
                    change.revisions.clear();
                    self.rollout.plan(&before, &after, std::slice::from_ref(&change))
                }
            };
            self.files.forget_refused();
            let before = self.desired.replace(after);
            self.files.report_recovery();
            self.publish(RevisionSource::Files.word(), before, vec![change], plan);
            return;
        }
    }

    /// Makes a change of the files durable, as a revision if it has edits.
    pub(in crate::control) fn record_files(
        &mut self,
        after: &Built,
        edits: Vec<Edit>,
        before: &Build,
        rollout: RolloutChange,
    ) -> Result<(), store::Error> {
        let mut revisions = Vec::new();
        if !edits.is_empty() {
            let summary = summary(&edits, before, &after.build);
            let number = self.desired.revision + 1;
            let revision = new_revision(number, RevisionSource::Files, authors(&edits), edits);
            revisions.push(Revision { summary, ..revision });
        }
        let files = Some(after.inputs.files.clone());
        let commit = Commit { revisions, files, rollout, ..Commit::default() };
        self.revisions.commit(self.desired.revision, &commit)?;
        self.revisions.publish(&commit.revisions);
        self.desired.revision = commit.revisions.first().map_or(self.desired.revision, |it| it.number);
        Ok(())
    }
}

/// Returns the change of files that makes `after` of `before`, and its edits. It has a revision, after the
/// `newest` one, if it has edits.
pub(in crate::control) fn saved_change(
    before: &Build,
    after: &Built,
    newest: u64,
) -> (PendingChange, Vec<Edit>) {
    let edits = plan::file_edits(before, &after.build);
    let number = (!edits.is_empty()).then_some(newest + 1);
    let change = Accepted::Saved(Box::new(after.inputs.clone()));
    (PendingChange { revisions: number.into_iter().collect(), change }, edits)
}

/// Reports that files could not be recorded. They are served nevertheless, without a revision: the files are
/// their own record.
pub(in crate::control) fn no_revision(error: &store::Error) {
    error!(error = error as &dyn std::error::Error, "a change of the files has no revision");
}
