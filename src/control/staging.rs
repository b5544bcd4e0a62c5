//! Staging: writes that were decided on and are not durable yet.

use std::sync::Arc;

use crate::build::{Build, Inputs};
use crate::config::edit::{EntityChange, edits};
use crate::config::material::NamedFiles;
use crate::control::desired::{DesiredState, Reading, Unbuilt, add_texts, built};
use crate::control::operation::WriteRequest;
use crate::control::pending::{Accepted, PendingChange};
use crate::control::revisions::{new_revision, summary};
use crate::store::{Commit, KeptAnswer, Revision};

/// Writes that become durable in one transaction.
#[derive(Debug, Default)]
pub(super) struct Staging {
    commit: Commit,
    pending: Vec<PendingChange>,
}

/// State to which staging can be reset.
pub(super) struct Mark {
    inputs: Inputs,
    revision: u64,
    changes: usize,
    revisions: usize,
    answers: usize,
    pending: usize,
}

impl Staging {
    /// Returns the current state.
    pub(super) fn mark(&self, desired: &DesiredState) -> Mark {
        let Commit { changes, revisions, answers, .. } = &self.commit;
        Mark {
            inputs: desired.inputs.clone(),
            revision: desired.revision,
            changes: changes.len(),
            revisions: revisions.len(),
            answers: answers.len(),
            pending: self.pending.len(),
        }
    }

    /// Drops everything that was staged after the mark.
    pub(super) fn reset(&mut self, desired: &mut DesiredState, mark: Mark) {
        let Mark { inputs, revision, changes, revisions, answers, pending } = mark;
        (desired.inputs, desired.revision) = (inputs, revision);
        self.commit.changes.truncate(changes);
        self.commit.revisions.truncate(revisions);
        self.commit.answers.truncate(answers);
        self.pending.truncate(pending);
    }

    /// Stages the changes as a revision, if they change anything, and returns its number. The summary follows
    /// with the build.
    pub(super) fn add(
        &mut self,
        desired: &mut DesiredState,
        changes: Vec<EntityChange>,
        request: &WriteRequest,
    ) -> Option<u64> {
        let edits = edits(&changes, &desired.inputs.stored);
        if edits.is_empty() {
            return None;
        }
        for change in changes.clone() {
            change.apply(&mut desired.inputs.stored);
        }
        desired.revision += 1;
        let number = desired.revision;
        let revision = new_revision(number, request.source, request.author.clone(), edits);
        self.commit.revisions.push(Revision { reason: request.reason.clone(), ..revision });
        let change = Accepted::Written(changes.clone());
        self.pending.push(PendingChange { revisions: vec![number], change });
        self.commit.changes.extend(changes);
        Some(number)
    }

    /// Stages an answer to keep.
    pub(super) fn keep(&mut self, key: &str, answer: KeptAnswer) {
        self.commit.answers.push((key.to_owned(), answer));
    }

    /// Returns the staged answer with this idempotency key.
    pub(super) fn answer(&self, key: &str) -> Option<&KeptAnswer> {
        self.commit.answers.iter().find(|(staged, _)| staged == key).map(|(_, answer)| answer)
    }

    /// Builds what was staged after the mark, and summarizes each of its revisions. Returns the build before.
    /// `texts` are those of files that were read for it.
    pub(super) fn build(
        &mut self,
        desired: &mut DesiredState,
        mark: &Mark,
        texts: &NamedFiles,
    ) -> Result<Arc<Build>, Unbuilt> {
        let before = desired.build.clone();
        if desired.revision == mark.revision {
            return Ok(before);
        }
        let mut inputs = desired.inputs.clone();
        add_texts(&mut inputs, texts);
        let outcome = desired.build(&mut inputs, Reading::Missing);
        let build = built(outcome, &inputs, Reading::Missing)?;
        for revision in &mut self.commit.revisions[mark.revisions..] {
            revision.summary = summary(&revision.edits, &before, &build);
        }
        (desired.inputs, desired.build) = (inputs, Arc::new(build));
        Ok(before)
    }

    /// Takes everything that is staged.
    pub(super) fn take(&mut self) -> (Commit, Vec<PendingChange>) {
        (std::mem::take(&mut self.commit), std::mem::take(&mut self.pending))
    }
}
