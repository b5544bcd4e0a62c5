//! Rollout as the store has it, and the changes that bring the store up to date.
//!
//! A change of the config and what it means for the rollout are one commit: none waits for the disk twice. Only
//! the end of a trial, a fleet's first Envoy, and a failed commit are recorded by a commit of their own.

use std::collections::BTreeSet;

use crate::config::edit::Files;
use crate::store::{Commit, LiveFiles, RolloutChange, StoredRollout, StoredState};

/// Rollout in the store.
#[derive(Debug, Clone)]
pub(super) struct RecordedRollout {
    rollout: StoredRollout,
    /// Files that were accepted last.
    files: Files,
    /// Revisions that were taken back, which the store does not know. They wait there, so that a start tries
    /// them again and does not take them for live.
    unstored: BTreeSet<u64>,
}

impl RecordedRollout {
    /// Begins with what was loaded.
    pub(super) fn new(state: &StoredState) -> Self {
        let files = state.files.clone().unwrap_or_default();
        Self { rollout: state.rollout.clone(), files, unstored: BTreeSet::new() }
    }

    /// Returns the change after which these revisions wait and no others, and these files are in effect, or the
    /// `accepted` ones.
    pub(super) fn change(
        &self,
        waiting: &BTreeSet<u64>,
        live_files: Option<&Files>,
        accepted: &Files,
    ) -> RolloutChange {
        let known = &self.rollout.waiting;
        let decided = known.difference(waiting).filter(|number| !self.unstored.contains(number));
        // Files that could not be stored are not what a start finds as accepted.
        let is_stored = *accepted == self.files;
        RolloutChange {
            waiting: waiting.difference(known).copied().collect(),
            decided: decided.copied().collect(),
            live_files: self.live_files(live_files).filter(|_| is_stored),
            fleets: None,
        }
    }

    /// Returns the change after which these new revisions wait too, and these files are in effect, or those that
    /// are accepted then.
    pub(super) fn beginning(&self, new: BTreeSet<u64>, live_files: Option<&Files>) -> RolloutChange {
        RolloutChange { waiting: new, live_files: self.live_files(live_files), ..RolloutChange::default() }
    }

    fn live_files(&self, live: Option<&Files>) -> Option<LiveFiles> {
        let is_known = live == self.rollout.live_files.as_ref();
        let live = live.map_or(LiveFiles::Accepted, |files| LiveFiles::Other(files.clone()));
        Some(live).filter(|_| !is_known)
    }

    /// Returns the fleets that had a connected Envoy.
    pub(super) fn fleets(&self) -> Option<&BTreeSet<String>> {
        self.rollout.fleets.as_ref()
    }

    /// Records that the commit is durable.
    pub(super) fn committed(&mut self, commit: &Commit) {
        let Commit { files, rollout: RolloutChange { waiting, decided, live_files, fleets }, .. } = commit;
        self.rollout.waiting.extend(waiting);
        self.rollout.waiting.retain(|number| !decided.contains(number));
        match live_files {
            Some(LiveFiles::Accepted) => self.rollout.live_files = None,
            Some(LiveFiles::Other(files)) => self.rollout.live_files = Some(files.clone()),
            None => {}
        }
        if let Some(fleets) = fleets {
            self.rollout.fleets = Some(fleets.clone());
        }
        if let Some(files) = files {
            self.files.clone_from(files);
        }
    }

    /// Records that revisions were taken back, and that this could not be stored.
    pub(super) fn not_stored(&mut self, taken_back: impl IntoIterator<Item = u64>) {
        self.unstored.extend(taken_back);
    }
}
