//! Records of the rollout in the store, so that a start goes on where this process ends.

use std::collections::BTreeSet;

use tracing::error;

use crate::control::writer::Writer;
use crate::nodes::status::Presence;
use crate::store::{self, Commit, RolloutChange};

impl Writer {
    /// Commits on the own revision.
    pub(super) fn commit(&mut self, expected: u64, commit: &Commit) -> Result<(), store::Error> {
        self.revisions.commit(expected, commit)?;
        self.recorded.committed(commit);
        Ok(())
    }

    /// Records what waits and what is in effect, where the store does not know it yet. If that fails, a start
    /// tries once more what is in effect already.
    pub(in crate::control) fn record_rollout(&mut self) {
        let accepted = &self.desired.inputs.files;
        let live_files = self.rollout.live_files(accepted);
        self.record(self.recorded.change(&self.rollout.waiting(), live_files, accepted));
    }

    /// Records fleets of which the first Envoy connected, and forgets those whose Envoys did not come back.
    pub(super) fn record_fleets(&mut self) {
        let arrived = self.rollout.nodes().take_arrivals();
        let absent = std::mem::take(&mut self.rollout.absent);
        if arrived.is_empty() && absent.is_empty() {
            return;
        }
        let build = &self.desired.build;
        let known = self.recorded.fleets();
        let mut fleets: BTreeSet<String> = known.into_iter().flatten().cloned().collect();
        fleets.retain(|fleet| !absent.contains(fleet));
        fleets.extend(arrived.iter().map(|node| build.fleet_of(node).to_string()));
        if !absent.is_empty() {
            let returned = |presence: &Presence| absent.contains(build.fleet_of(&presence.node).as_str());
            let returned = self.rollout.nodes().select(returned);
            fleets.extend(returned.iter().map(|presence| build.fleet_of(&presence.node).to_string()));
        }
        if known != Some(&fleets) {
            self.record(RolloutChange { fleets: Some(fleets), ..RolloutChange::default() });
        }
    }

    fn record(&mut self, rollout: RolloutChange) {
        if rollout == RolloutChange::default() || self.unrecorded.as_ref() == Some(&rollout) {
            return;
        }
        let commit = Commit { rollout, ..Commit::default() };
        match self.revisions.commit_beside(&commit) {
            Ok(()) => {
                self.unrecorded = None;
                self.recorded.committed(&commit);
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                error!(error, "the state of the rollout was not stored; a restart would try changes again");
                self.unrecorded = Some(commit.rollout);
            }
        }
    }
}
