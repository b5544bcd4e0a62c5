//! Revision log: commits, amendments, and the events of new revisions.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use tracing::{error, info_span};

use crate::build::Build;
use crate::config::edit::Edit;
use crate::control::recorded::RecordedRollout;
use crate::inspect::plan;
use crate::store::{self, Commit, Revision, RevisionSource, RolloutChange, Store};
use crate::telemetry::events::{Event, Events};
use crate::telemetry::metrics::Metrics;

/// Revisions in the store, with events and metrics of new ones, and the rollout as the store has it.
#[derive(Debug)]
pub(super) struct RevisionLog {
    pub(super) store: Arc<dyn Store>,
    pub(super) events: Events,
    pub(super) metrics: Metrics,
    pub(super) recorded: RecordedRollout,
    /// Change of the rollout that could not be stored.
    pub(super) unrecorded: Option<RolloutChange>,
}

impl RevisionLog {
    /// Commits on the revision `expected`, with measured time.
    pub(super) fn commit(&mut self, expected: u64, commit: &Commit) -> Result<(), store::Error> {
        let span = info_span!(target: "understudy::control", "commit", revisions = commit.revisions.len());
        let (_span, since) = (span.entered(), Instant::now());
        let outcome = self.store.commit(expected, commit);
        self.metrics.committed(since.elapsed());
        outcome.inspect(|()| self.recorded.committed(commit))
    }

    /// Commits what is no new revision, whatever the newest revision is.
    pub(super) fn commit_beside(&mut self, commit: &Commit) -> Result<(), store::Error> {
        loop {
            match self.commit(self.store.revision(), commit) {
                Err(store::Error::Conflict { .. }) => {}
                outcome => return outcome,
            }
        }
    }

    /// Records a change of the rollout, if it is one. If that fails, a start tries once more what is in effect
    /// already.
    pub(super) fn record(&mut self, rollout: RolloutChange) {
        if rollout == RolloutChange::default() || self.unrecorded.as_ref() == Some(&rollout) {
            return;
        }
        let commit = Commit { rollout, ..Commit::default() };
        self.unrecorded = match self.commit_beside(&commit) {
            Ok(()) => None,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                error!(error, "the state of the rollout was not stored; a restart would try changes again");
                Some(commit.rollout)
            }
        };
    }

    /// Returns a stored revision; none if it is not kept or cannot be read.
    pub(super) fn revision(&self, number: u64) -> Option<Revision> {
        self.store.revisions(number..=number).ok()?.pop()
    }

    /// Publishes the events of new revisions, and counts them.
    pub(super) fn publish(&self, revisions: &[Revision]) {
        for Revision { number, source, author, reason, summary, .. } in revisions {
            self.metrics.accepted(source.word());
            self.events.publish(&Event::Revision {
                number: *number,
                source: source.word(),
                author: author.clone(),
                reason: reason.clone(),
                summary: summary.clone(),
            });
        }
    }
}

/// Returns a revision with the current time, without a summary.
pub(super) fn new_revision(
    number: u64,
    source: RevisionSource,
    author: String,
    edits: Vec<Edit>,
) -> Revision {
    let (time, summary) = (Timestamp::now(), String::new());
    let (reason, error, refused_by) = (None, None, Vec::new());
    Revision { number, time, author, reason, summary, source, edits, error, refused_by }
}

/// Summarizes edits that made `after` of `before`, in one line.
pub(super) fn summary(edits: &[Edit], before: &Build, after: &Build) -> String {
    plan::summary(&plan::changes(edits, before, after))
}

/// Returns the files of these edits as the author of a revision, at most three by name.
pub(super) fn authors(edits: &[Edit]) -> String {
    let files: BTreeSet<&str> = edits.iter().filter_map(|edit| edit.file.as_deref()).collect();
    let named: Vec<&str> = files.iter().take(3).copied().collect();
    match files.len().saturating_sub(named.len()) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}
