//! Changes of the config files.

use std::collections::BTreeSet;
use std::sync::Arc;

use tracing::error;

use crate::build::{Build, Inputs};
use crate::config::edit::{Edit, Files};
use crate::config::material::{NamedFile, NamedFiles};
use crate::control::desired::{Built, Reading, unread};
use crate::control::pending::{Accepted, PendingChange};
use crate::control::revisions::{authors, new_revision, summary};
use crate::control::task::FilesChange;
use crate::control::writer::Writer;
use crate::inspect::plan;
use crate::inspect::removal::{self, AllowedLosses};
use crate::store::{self, Commit, Revision, RevisionSource, RolloutChange};

impl Writer {
    /// Applies the files that were read, or reports their faults. Sets the change aside if files that documents
    /// name must be read first.
    pub(super) fn change_files(&mut self, change: FilesChange) {
        if change.reload.is_some() {
            self.files.forget_refused();
        }
        let mut unread = self.files.compared(&self.desired.inputs);
        unread.retain(|named| !change.texts.contains_key(named));
        if unread.is_empty()
            && let Some(files) = self.files.changed(change.read.clone(), &change.texts, &self.desired.inputs)
        {
            unread = self.try_files(files, &change.texts, change.allowed);
        }
        if !unread.is_empty() {
            return self.aside.read_for(unread, change);
        }
        self.files.publish_named_files(&self.desired.inputs);
        // The receiver may be gone with its request.
        let _ = change.reload.map(|done| done.send(()));
    }

    /// Tries refused files again: what they lacked may be there now.
    pub(super) fn retry_refused_files(&mut self) {
        let Some(refused) = self.files.refused.take() else { return };
        let Inputs { files, named_files: texts, .. } = refused;
        let allowed = AllowedLosses::default();
        let unread = self.try_files(files.clone(), &texts, allowed);
        if !unread.is_empty() {
            self.aside.read_for(unread, FilesChange { read: Ok(files), texts, allowed, reload: None });
        }
    }

    /// Builds, records and publishes the files, or reports their faults. Returns the files that must be read first;
    /// if there are any, nothing was done.
    fn try_files(&mut self, files: Files, texts: &NamedFiles, allowed: AllowedLosses) -> BTreeSet<NamedFile> {
        let limits = self.desired.loss_limits.lifted(allowed);
        loop {
            let (files, named_files) = (files.clone(), texts.clone());
            let mut inputs = Inputs { files, named_files, ..self.desired.inputs.clone() };
            let outcome = self.desired.build(&mut inputs, Reading::Missing);
            let unread = unread(&inputs, Reading::Missing);
            if !unread.is_empty() {
                return unread;
            }
            let outcome = outcome.and_then(|build| {
                let before = (&self.desired.inputs.files, &*self.desired.build);
                let losses = removal::refusals(before, (&inputs.files, &build), &limits);
                if losses.is_empty() { Ok(build) } else { Err(losses) }
            });
            let build = match outcome {
                Ok(build) => build,
                Err(violations) => {
                    self.files.refused = Some(inputs);
                    self.files.report(violations);
                    return BTreeSet::new();
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
            return BTreeSet::new();
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
