//! Changes that Envoys refused: taken back if they were on trial, else recorded at their revision.

use std::collections::BTreeSet;

use tracing::{error, warn};

use crate::config::edit::{Edit, Files, differences};
use crate::control::desired::Built;
use crate::control::files::{fingerprint, refused_files};
use crate::control::pending::{Accepted, PendingChange};
use crate::control::revisions::RevisionLog;
use crate::control::rollout::canary::CanaryRefusal;
use crate::control::rollout::{Rejection, unbuilt};
use crate::control::writer::Writer;
use crate::inspect::plan;
use crate::nodes::status::Nack;
use crate::store::{self, Commit, Revision, RolloutChange};
use crate::telemetry::events::Event;

/// Maximum number of Envoys that are recorded at a revision they refuse.
const MAX_REFUSED_BY: usize = 100;

/// Queue that was built again on the live config, without the refused changes.
struct Rebased {
    desired: Built,
    kept: Vec<PendingChange>,
    /// Changes that cannot be built any more.
    unbuilt: Vec<(PendingChange, CanaryRefusal)>,
    /// Revisions whose edits are others now.
    amended: Vec<Revision>,
}

/// Change that is taken back, with the reason.
type TakenBack = (PendingChange, CanaryRefusal);

impl Writer {
    /// Takes refused changes back: the desired config becomes the live one, with those later changes that
    /// still can be built on it. Continues the rollout with these.
    pub(super) fn take_back(&mut self, rejection: Rejection) -> Option<Rejection> {
        let Rejection { live, refused, mut queue, singly, refusal } = rejection;
        let refused: Vec<TakenBack> = refused.into_iter().map(|change| (change, refusal.clone())).collect();
        let (rebased, taken) = loop {
            let rebased = self.rebase(&live, queue.clone());
            let taken = [refused.clone(), rebased.unbuilt.clone()].concat();
            let Err(error) = self.commit_take_back(&live.inputs.files, &rebased, &taken) else {
                break (rebased, taken);
            };
            // If another control plane wrote first, its changes join the queue.
            if matches!(error, store::Error::Conflict { .. })
                && let Some(changes) = self.adopt()
            {
                queue.extend(changes);
                continue;
            }
            let error = &error as &dyn std::error::Error;
            error!(error, "that a change was taken back was not stored");
            self.revisions.recorded.not_stored(revisions(&taken));
            break (rebased, taken);
        };
        let Rebased { desired, kept, .. } = rebased;
        self.report_rejection(&taken, &refusal);
        let saved = refused_save(&kept, taken);
        let refused = self.desired.replace(desired);
        self.desired.builder.resolver.configure(&self.desired.build.model.resolver);
        if let Some((saved, CanaryRefusal { by, error })) = saved {
            let edits = plan::file_edits(&self.desired.build, &refused.build);
            let file = edits.iter().find_map(|edit| edit.file.as_deref()).map(str::to_owned);
            self.files.report(vec![refused_files(file, format!("{} refused it: {error}", by.join(", ")))]);
            self.files.refused_by_envoy = Some(*saved);
        }
        self.files.publish_named_files(&self.desired.inputs);
        self.rollout.advance(&mut self.desired, live, kept, singly)
    }

    /// Builds the queue again on the live config.
    fn rebase(&self, live: &Built, queue: Vec<PendingChange>) -> Rebased {
        let mut rebased =
            Rebased { desired: live.clone(), kept: Vec::new(), unbuilt: Vec::new(), amended: Vec::new() };
        for change in queue {
            match change.applied_to(&rebased.desired, &self.desired.inputs) {
                Ok(built) => {
                    let edits = change.edits(&rebased.desired, &built);
                    rebased.amended.extend(amended(&self.revisions, &change, edits));
                    rebased.desired = built;
                    rebased.kept.push(change);
                }
                Err(violations) => rebased.unbuilt.push((change, unbuilt(&violations))),
            }
        }
        rebased
    }

    /// Makes durable that changes were taken back.
    fn commit_take_back(
        &mut self,
        live: &Files,
        rebased: &Rebased,
        taken: &[TakenBack],
    ) -> Result<(), store::Error> {
        let rejected = taken.iter().flat_map(|(change, CanaryRefusal { by, error })| {
            let revisions = change.revisions.iter().filter_map(|number| self.revisions.revision(*number));
            revisions.map(|it| Revision { error: Some(error.clone()), refused_by: by.clone(), ..it })
        });
        let (own, files) = (&self.desired.inputs, &rebased.desired.inputs.files);
        let saved = refused_save(&rebased.kept, taken.to_vec());
        let commit = Commit {
            changes: differences(&own.stored, &rebased.desired.inputs.stored),
            amended: rebased.amended.iter().cloned().chain(rejected).collect(),
            files: (own.files != *files).then(|| files.clone()),
            refused_files: saved.map(|(saved, _)| fingerprint(&saved)),
            rollout: RolloutChange {
                decided: revisions(taken).collect(),
                ..self.revisions.recorded.beginning(BTreeSet::new(), Some(live).filter(|live| *live != files))
            },
            ..Commit::default()
        };
        self.revisions.commit(self.desired.revision, &commit)
    }

    /// Publishes that changes were taken back.
    fn report_rejection(&mut self, taken: &[TakenBack], refusal: &CanaryRefusal) {
        taken.iter().for_each(|_| self.revisions.metrics.rejected());
        let revisions: Vec<u64> = revisions(taken).collect();
        self.rollout.set_rejected(revisions.clone(), refusal);
        let CanaryRefusal { by, error } = refusal.clone();
        self.revisions.events.publish(&Event::Rejected { revisions, by, error });
    }

    /// Records Envoys at the revisions that they refuse, except canaries, whose refusal is a rejection.
    pub(super) fn record_refusals(&mut self) {
        let canaries = self.rollout.canaries();
        let mut amended: Vec<Revision> = Vec::new();
        for nack in self.rollout.nodes().take_nacks() {
            let Nack { node, generation, .. } = &*nack;
            let known = self.rollout.revision_of(*generation);
            let Some(number) = known.filter(|_| !canaries.contains(node)) else { continue };
            if !amended.iter().any(|revision| revision.number == number) {
                amended.extend(self.revisions.revision(number));
            }
            let revision = amended.iter_mut().find(|revision| revision.number == number);
            let Some(Revision { refused_by, .. }) = revision else { continue };
            if refused_by.len() < MAX_REFUSED_BY && !refused_by.contains(node) {
                warn!(node, revision = number, "this Envoy refuses what others have; it keeps its last good");
                refused_by.push(node.clone());
            }
        }
        if !amended.is_empty()
            && let Err(error) = self.revisions.commit_beside(&Commit { amended, ..Commit::default() })
        {
            let error = &error as &dyn std::error::Error;
            error!(error, "that an Envoy refused a revision was not stored");
        }
    }
}

/// Returns the revisions of a change with these edits. If it has several, the last one has all edits.
fn amended(log: &RevisionLog, change: &PendingChange, mut edits: Vec<Edit>) -> Vec<Revision> {
    let newest_first = change.revisions.iter().rev();
    let revisions = newest_first.filter_map(|number| log.revision(*number));
    revisions.map(|revision| Revision { edits: std::mem::take(&mut edits), ..revision }).collect()
}

/// Iterates over the revisions of changes that were taken back.
fn revisions(taken: &[TakenBack]) -> impl Iterator<Item = u64> {
    taken.iter().flat_map(|(change, _)| change.revisions.iter().copied())
}

/// Returns the last change of files that was taken back, unless a later one is kept.
fn refused_save(
    kept: &[PendingChange],
    taken: Vec<TakenBack>,
) -> Option<(Box<crate::build::Inputs>, CanaryRefusal)> {
    taken.into_iter().rev().find_map(|(change, refusal)| match change.change {
        Accepted::Saved(inputs) if !kept.iter().any(PendingChange::is_saved) => Some((inputs, refusal)),
        _ => None,
    })
}
