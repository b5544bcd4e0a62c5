//! Records of the rollout in the store, so that a start goes on where this process ends.

use std::collections::BTreeSet;

use crate::control::writer::Writer;
use crate::nodes::status::Presence;
use crate::store::RolloutChange;

impl Writer {
    /// Records what waits and what is in effect, where the store does not know it yet.
    pub(in crate::control) fn record_rollout(&mut self) {
        let accepted = &self.desired.inputs.files;
        let live_files = self.rollout.live_files(accepted);
        let change = self.revisions.recorded.change(&self.rollout.waiting(), live_files, accepted);
        self.revisions.record(change);
    }

    /// Records fleets of which the first Envoy connected, and forgets those whose Envoys did not come back.
    pub(super) fn record_fleets(&mut self) {
        let arrived = self.rollout.nodes().take_arrivals();
        let absent = std::mem::take(&mut self.rollout.absent);
        if arrived.is_empty() && absent.is_empty() {
            return;
        }
        let build = &self.desired.build;
        let known = self.revisions.recorded.fleets();
        let mut fleets: BTreeSet<String> = known.into_iter().flatten().cloned().collect();
        fleets.retain(|fleet| !absent.contains(fleet));
        fleets.extend(arrived.iter().map(|node| build.fleet_of(node).to_string()));
        if !absent.is_empty() {
            let returned = |presence: &Presence| absent.contains(build.fleet_of(&presence.node).as_str());
            let returned = self.rollout.nodes().select(returned);
            fleets.extend(returned.iter().map(|presence| build.fleet_of(&presence.node).to_string()));
        }
        if known != Some(&fleets) {
            self.revisions.record(RolloutChange { fleets: Some(fleets), ..RolloutChange::default() });
        }
    }
}
