//! Revision log: commits, amendments, and the events of new revisions.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use tracing::info_span;

use crate::build::Build;
use crate::config::edit::Edit;
use crate::inspect::plan;
use crate::store::{self, Commit, Revision, RevisionSource, Store};
use crate::telemetry::events::{Event, Events};
use crate::telemetry::metrics::Metrics;

/// Revisions in the store, with events and metrics of new ones.
#[derive(Debug)]
pub(super) struct RevisionLog {
    pub(super) store: Arc<dyn Store>,
    pub(super) events: Events,
    pub(super) metrics: Metrics,
}

impl RevisionLog {
    /// Commits on the revision `expected`, with measured time.
    pub(super) fn commit(&self, expected: u64, commit: &Commit) -> Result<(), store::Error> {
        let span = info_span!(target: "understudy::control", "commit", revisions = commit.revisions.len());
        let (_span, since) = (span.entered(), Instant::now());
        let outcome = self.store.commit(expected, commit);
        self.metrics.committed(since.elapsed());
        outcome
    }

    /// Commits what is no new revision, whatever the newest revision is.
    pub(super) fn commit_beside(&self, commit: &Commit) -> Result<(), store::Error> {
        loop {
            match self.commit(self.store.revision(), commit) {
                Err(store::Error::Conflict { .. }) => {}
                outcome => return outcome,
            }
        }
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
