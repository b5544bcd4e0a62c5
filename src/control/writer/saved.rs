//! Changes of the config files.

use std::sync::Arc;

use tracing::error;

use crate::build::{Build, Inputs};
use crate::config::Violation;
use crate::config::edit::{Edit, Files};
use crate::control::desired::{Built, Reading, build_resolved};
use crate::control::pending::{Accepted, PendingChange};
use crate::control::revisions::{authors, new_revision, summary};
use crate::control::writer::Writer;
use crate::inspect::plan;
use crate::inspect::removal::{self, AllowedLosses};
use crate::store::{self, Commit, Revision, RevisionSource};

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
            let edits = plan::file_edits(&self.desired.build, &build);
            let revision = match self.record_files(&inputs.files, edits, &self.desired.build.clone(), &build)
            {
                Err(store::Error::Conflict { .. }) if self.catch_up() => continue,
                outcome => recorded(outcome),
            };
            self.files.forget_refused();
            let change = Accepted::Saved(Box::new(inputs.clone()));
            let before = self.desired.replace(Built { inputs, build: Arc::new(build) });
            self.files.report_recovery();
            let changes = vec![PendingChange { revision, change }];
            self.publish(RevisionSource::Files.word(), before, changes);
            return;
        }
    }

    /// Records the files that a start found, if they changed since they were accepted last.
    pub(in crate::control) fn record_new_files(&mut self, last: Option<Files>) {
        let files = self.desired.inputs.files.clone();
        let last = last.unwrap_or_default();
        if last == files {
            return;
        }
        loop {
            let mut inputs = Inputs { files: last.clone(), ..self.desired.inputs.clone() };
            let now = self.desired.build.clone();
            let before = build_resolved(&mut inputs, Some(&now), Reading::Missing).unwrap_or_default();
            let edits = plan::file_edits(&before, &now);
            match self.record_files(&files, edits, &before, &now) {
                Err(store::Error::Conflict { .. }) if self.catch_up() => {}
                outcome => {
                    recorded(outcome);
                    return;
                }
            }
        }
    }

    /// Makes a change of the files durable. Returns its revision; none if no entity changed.
    fn record_files(
        &mut self,
        files: &Files,
        edits: Vec<Edit>,
        before: &Build,
        after: &Build,
    ) -> Result<Option<u64>, store::Error> {
        let mut revisions = Vec::new();
        if !edits.is_empty() {
            let summary = summary(&edits, before, after);
            let number = self.desired.revision + 1;
            let revision = new_revision(number, RevisionSource::Files, authors(&edits), edits);
            revisions.push(Revision { summary, ..revision });
        }
        let commit = Commit { revisions, files: Some(files.clone()), ..Commit::default() };
        self.revisions.commit(self.desired.revision, &commit)?;
        self.revisions.publish(&commit.revisions);
        let number = commit.revisions.first().map(|revision| revision.number);
        self.desired.revision = number.unwrap_or(self.desired.revision);
        Ok(number)
    }
}

/// Returns the revision of recorded files. Files that could not be recorded are served nevertheless, without
/// a revision: the files are their own record.
fn recorded(outcome: Result<Option<u64>, store::Error>) -> Option<u64> {
    outcome.unwrap_or_else(|error| {
        error!(error = &error as &dyn std::error::Error, "a change of the files has no revision");
        None
    })
}
