//! Changes of the config files.

use std::collections::BTreeSet;
use std::sync::Arc;

use tracing::error;

use crate::build::{Build, Inputs};
use crate::config::edit::{Edit, Files};
use crate::config::material::{NamedFile, NamedFiles};
use crate::control::desired::{Built, Reading, build_resolved, unread};
use crate::control::pending::{Accepted, PendingChange};
use crate::control::revisions::{authors, new_revision, summary};
use crate::control::task::FilesChange;
use crate::control::writer::Writer;
use crate::inspect::plan;
use crate::inspect::removal::{self, AllowedLosses};
use crate::store::{self, Commit, Revision, RevisionSource};

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
            return BTreeSet::new();
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
            let reading = Reading::Anew(&self.aside.material);
            let before = build_resolved(&mut inputs, Some(&now), reading).unwrap_or_default();
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
