//! Pending change: accepted, and not yet in effect at every Envoy.

use std::sync::Arc;

use crate::build::Inputs;
use crate::config::Violation;
use crate::config::edit::{Edit, EntityChange, edits};
use crate::control::desired::{Built, Reading, add_texts, build_resolved};
use crate::inspect::plan;

/// Accepted change, with its revisions.
#[derive(Debug, Clone)]
pub(super) struct PendingChange {
    /// Numbers of its revisions, which are in effect together: none if no entity changed, as with a renewed
    /// key; several if only their sum is known.
    pub(super) revisions: Vec<u64>,
    pub(super) change: Accepted,
}

/// Content of an accepted change.
#[derive(Debug, Clone)]
pub(super) enum Accepted {
    /// Entities written over REST.
    Written(Vec<EntityChange>),
    /// Files as they were read, with the files that they name.
    Saved(Box<Inputs>),
}

impl PendingChange {
    /// Applies the change to another config, with the addresses and overrides of the newest inputs.
    pub(super) fn applied_to(&self, built: &Built, newest: &Inputs) -> Result<Built, Vec<Violation>> {
        let Inputs { addresses, overrides, .. } = newest.clone();
        let mut inputs = Inputs { addresses, overrides, ..built.inputs.clone() };
        match &self.change {
            Accepted::Written(changes) => {
                changes.iter().for_each(|change| change.clone().apply(&mut inputs.stored));
                add_texts(&mut inputs, &newest.named_files);
            }
            Accepted::Saved(saved) => {
                inputs.files.clone_from(&saved.files);
                inputs.named_files.clone_from(&saved.named_files);
            }
        }
        let build = build_resolved(&mut inputs, Some(&built.build), Reading::Missing)?;
        Ok(Built { inputs, build: Arc::new(build) })
    }

    /// Returns the edits with which the change led from one config to the other.
    pub(super) fn edits(&self, before: &Built, after: &Built) -> Vec<Edit> {
        match &self.change {
            Accepted::Written(changes) => edits(changes, &before.inputs.stored),
            Accepted::Saved(_) => plan::file_edits(&before.build, &after.build),
        }
    }

    /// True if the change is one of files.
    pub(super) fn is_saved(&self) -> bool {
        matches!(self.change, Accepted::Saved(_))
    }
}
