//! Rollout that an earlier process left: what is live, and what is on trial or changed since.

use std::collections::BTreeSet;
use std::sync::Arc;

use tracing::{info, warn};

use crate::build::Inputs;
use crate::config::edit::{EntityChange, Files, Stored};
use crate::control::desired::{Builder, Built, Reading, build_resolved};
use crate::control::operation::WriteError;
use crate::control::pending::{Accepted, PendingChange};
use crate::control::writer::Writer;
use crate::control::writer::saved::{no_revision, saved_change};
use crate::source::material::MaterialReader;
use crate::store::{self, Revision, Store, StoredState};

/// Rollout that an earlier process left.
pub(super) struct LeftRollout {
    pub(super) live: Built,
    /// Accepted changes that are not in effect, in order.
    changes: Vec<PendingChange>,
}

impl LeftRollout {
    /// Reads the rollout; none if all of `now` is live: it was live before, or it is the first config ever, or
    /// what was live cannot be built any more.
    pub(super) fn read(
        builder: &mut Builder,
        material: &MaterialReader,
        store: &dyn Store,
        state: &StoredState,
        now: &Built,
    ) -> Result<Option<Self>, WriteError> {
        let StoredState { stored, files, revision, rollout, .. } = state;
        let accepted = files.clone().unwrap_or_default();
        let live_files = rollout.live_files.clone().unwrap_or_else(|| accepted.clone());
        let is_first = *revision == 0 && files.is_none() && stored.is_empty();
        if is_first || (rollout.waiting.is_empty() && live_files == now.inputs.files) {
            return Ok(None);
        }
        let first = rollout.waiting.first().map_or(u64::MAX, |first| *first);
        let revisions = store.revisions(first..=*revision)?;
        if revisions.first().map_or(u64::MAX, |revision| revision.number) != first {
            warn!(first, "what was live is not known any more, so that all changes are live now");
            return Ok(None);
        }
        let stored = live_entities(&revisions, stored.clone(), &rollout.waiting);
        let mut inputs = Inputs { files: live_files.clone(), stored, ..now.inputs.clone() };
        let built = builder.build(&mut inputs, Some(&now.build), Reading::Anew(material));
        builder.resolver.configure(&now.build.model.resolver);
        let build = match built {
            Ok(build) => Arc::new(build),
            Err(faults) => {
                let first = faults.first().map(|fault| fault.message.as_str());
                warn!(first, "what was live cannot be built any more, so that all changes are live now");
                return Ok(None);
            }
        };
        let saved = Inputs { files: accepted.clone(), ..now.inputs.clone() };
        let saved = (live_files != accepted).then_some(saved);
        let changes = waiting_changes(&revisions, &rollout.waiting, saved);
        Ok(Some(Self { live: Built { inputs, build }, changes }))
    }

    /// True if an accepted change is not in effect.
    pub(super) fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// True if no revision waits that is as old as this one.
    pub(super) fn is_live(&self, number: u64) -> bool {
        revisions(&self.changes).iter().all(|waiting| *waiting > number)
    }
}

/// Records the files that were found, if they are not those that were accepted last, and goes on with the
/// rollout that an earlier process left.
pub(super) fn go_on(
    writer: &mut Writer,
    left: Option<LeftRollout>,
    accepted: &Files,
) -> Result<(), WriteError> {
    let (live, mut changes) = left.map_or((None, Vec::new()), |left| (Some(left.live), left.changes));
    if writer.desired.inputs.files != *accepted {
        record_new_files(writer, accepted, live.as_ref(), &mut changes);
    }
    let newest = writer.desired.revision;
    let waiting = if live.is_some() { revisions(&changes) } else { BTreeSet::new() };
    let (first, rejected) = decided(&*writer.revisions.store, &waiting, newest)?;
    writer.rollout.begin_at(first, rejected, newest);
    if let Some(live) = live {
        info!(revisions = ?waiting, "what is not live yet goes on from what is");
        let rejection = writer.rollout.advance(&mut writer.desired, live, changes, 0);
        writer.resolve(rejection);
    }
    writer.record_rollout();
    Ok(())
}

/// Records the files that a start found. They follow the other changes.
fn record_new_files(
    writer: &mut Writer,
    last: &Files,
    live: Option<&Built>,
    changes: &mut Vec<PendingChange>,
) {
    loop {
        let after = writer.desired.built();
        let mut inputs = Inputs { files: last.clone(), ..after.inputs.clone() };
        let before = build_resolved(&mut inputs, Some(&after.build), Reading::Anew(&writer.aside.material))
            .unwrap_or_default();
        let (mut change, edits) = saved_change(&before, &after, writer.desired.revision);
        let new = std::slice::from_ref(&change);
        let rollout = live.map(|live| {
            let plan = writer.rollout.plan(&live.build, &after, new);
            let live_files = plan.live_files(&live.inputs.files, &after.inputs.files);
            writer.revisions.recorded.beginning(plan.waiting(new), live_files)
        });
        match writer.record_files(&after, edits, &before, rollout.unwrap_or_default()) {
            Err(store::Error::Conflict { .. }) if let Some(adopted) = writer.adopt() => {
                changes.extend(adopted);
                continue;
            }
            Ok(()) => {}
            Err(error) => {
                no_revision(&error);
                change.revisions.clear();
            }
        }
        changes.push(change);
        return;
    }
}

fn revisions(changes: &[PendingChange]) -> BTreeSet<u64> {
    changes.iter().flat_map(|change| change.revisions.iter().copied()).collect()
}

/// Returns the entities that are in effect. `revisions` are those from the first that waits to the newest.
fn live_entities(revisions: &[Revision], mut stored: Stored, waiting: &BTreeSet<u64>) -> Stored {
    let accepted = || revisions.iter().filter(|revision| revision.error.is_none());
    let written = |revision: &Revision| {
        revision.edits.iter().filter(|edit| edit.file.is_none()).cloned().collect::<Vec<_>>()
    };
    for edit in accepted().rev().flat_map(|revision| written(revision).into_iter().rev()) {
        EntityChange::undoing(edit).apply(&mut stored);
    }
    // Changes of endpoints alone did not wait for those before them.
    let live = accepted().filter(|revision| !waiting.contains(&revision.number));
    live.flat_map(written).for_each(|edit| EntityChange::redoing(edit).apply(&mut stored));
    stored
}

/// Returns the changes that wait. Of those of files, only the last texts are kept: they are one change, in the
/// place of the last.
fn waiting_changes(
    revisions: &[Revision],
    waiting: &BTreeSet<u64>,
    saved: Option<Inputs>,
) -> Vec<PendingChange> {
    let is_saved = |revision: &&Revision| revision.edits.iter().any(|edit| edit.file.is_some());
    let waits = revisions.iter().filter(|it| waiting.contains(&it.number) && it.error.is_none());
    let (of_files, written): (Vec<&Revision>, Vec<&Revision>) = waits.partition(is_saved);
    let written = written.into_iter().map(|revision| {
        let changes = revision.edits.iter().cloned().map(EntityChange::redoing).collect();
        PendingChange { revisions: vec![revision.number], change: Accepted::Written(changes) }
    });
    let mut changes: Vec<PendingChange> = written.collect();
    let numbers: Vec<u64> = of_files.iter().map(|revision| revision.number).collect();
    let place = numbers.last().map_or(changes.len(), |last| {
        changes.partition_point(|change| change.revisions.iter().all(|number| number < last))
    });
    let change = match saved {
        Some(saved) => Accepted::Saved(Box::new(saved)),
        None if numbers.is_empty() => return changes,
        // Their sum changes nothing.
        None => Accepted::Written(Vec::new()),
    };
    changes.insert(place, PendingChange { revisions: numbers, change });
    changes
}

/// Returns the number of the newest revision, up to `newest`, that is in effect, or 0, and those after it that
/// were taken back.
fn decided(
    store: &dyn Store,
    waiting: &BTreeSet<u64>,
    newest: u64,
) -> Result<(u64, BTreeSet<u64>), store::Error> {
    let mut rejected = BTreeSet::new();
    for number in (1..=newest).rev() {
        match store.revisions(number..=number)?.pop() {
            Some(revision) if revision.error.is_some() => drop(rejected.insert(number)),
            _ if waiting.contains(&number) => {}
            _ => return Ok((number, rejected)),
        }
    }
    Ok((0, rejected))
}
