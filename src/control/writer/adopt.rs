//! Adoption of changes that another control plane wrote to the store.

use std::sync::Arc;

use tracing::error;

use crate::config::edit::differences;
use crate::control::desired::{Built, Reading, unread};
use crate::control::pending::{Accepted, PendingChange};
use crate::control::writer::Writer;

/// Source of adopted changes in the log.
const SOURCE: &str = "store";

impl Writer {
    /// Adopts and publishes what others wrote. False if that is not possible.
    pub(super) fn catch_up(&mut self) -> bool {
        let before = self.desired.built();
        match self.adopt() {
            Some(changes) if changes.is_empty() => true,
            Some(changes) => {
                let plan = self.rollout.plan(&before.build, &self.desired.built(), &changes);
                self.publish(SOURCE, before, changes, plan);
                self.files.publish_named_files(&self.desired.inputs);
                true
            }
            None => false,
        }
    }

    /// Makes the newest stored entities the desired ones, with the files of this control plane. Returns the
    /// changes since the own revision; none if the store cannot be read or the result has faults.
    pub(in crate::control) fn adopt(&mut self) -> Option<Vec<PendingChange>> {
        let found = self.revisions.store.load().inspect_err(|error| {
            error!(error = error as &dyn std::error::Error, "what others stored cannot be read");
        });
        let found = found.ok()?;
        if found.revision == self.desired.revision {
            return Some(Vec::new());
        }
        let changes = differences(&self.desired.inputs.stored, &found.stored);
        let mut inputs = self.desired.inputs.clone();
        changes.iter().for_each(|change| change.clone().apply(&mut inputs.stored));
        let mut outcome = self.desired.build(&mut inputs, Reading::Missing);
        let unread = unread(&inputs, Reading::Missing);
        if !unread.is_empty() {
            // The one case in which the writer waits for files: another control plane wrote their names.
            inputs.named_files.extend(self.aside.material.read(&unread));
            outcome = self.desired.build(&mut inputs, Reading::Missing);
        }
        let build = outcome.inspect_err(|violations| {
            error!(?violations, "what others stored makes no config with these files");
        });
        let build = Arc::new(build.ok()?);
        let numbers = self.desired.revision + 1..=found.revision;
        self.desired.replace(Built { inputs, build });
        self.desired.revision = found.revision;
        // One change: those before the newest revision are not in effect without it.
        let change = Accepted::Written(changes);
        Some(vec![PendingChange { revisions: numbers.collect(), change }])
    }
}
