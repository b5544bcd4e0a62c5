//! Secrets of a fleet, and the nodes that may have them.
//!
//! A fleet is selected by fields that a node states of itself. Where certificates vouch for fields of nodes, a fleet
//! that is selected by any other field has no secret that is sent to anybody. SDS secrets are left out then. A
//! resource that has a secret within cannot be sent without it, nor left out, since Envoys that have it would drop
//! it: such a fleet is not served at all.

use crate::build::snapshot::Snapshot;
use crate::config::document::Kind;
use crate::config::raw::Resource;
use crate::envoy::ResourceType;
use crate::model::Model;
use crate::model::documents::Documents;

/// Access of a node to the secrets of its fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretAccess {
    /// It may have all of them, or there are none.
    Full,
    /// It gets the config without private secrets.
    Withheld,
    /// It gets nothing, since secrets stand within other resources.
    Refused,
}

/// Resources with secrets within, other than SDS secrets.
#[derive(Debug, Default)]
pub(super) struct InlineSecrets {
    /// True if a raw resource has one. Those are sent to all fleets.
    is_raw: bool,
    /// Compiled resources that a patch gives one.
    patched: Vec<(ResourceType, String)>,
}

impl InlineSecrets {
    pub(super) fn new(model: &Model, documents: &Documents) -> Self {
        let patches = documents.of(Kind::Raw).flat_map(|document| &document.patches);
        let patches = patches.map(|declared| &declared.entity);
        let patched = patches.filter(|patch| patch.has_secret && patch.resource_type != ResourceType::Secret);
        let is_open = |raw: &Resource| raw.resource_type != ResourceType::Secret;
        Self {
            is_raw: model.raw.iter().any(|raw| raw.has_secret && is_open(raw)),
            patched: patched.map(|patch| (patch.resource_type, patch.name.clone())).collect(),
        }
    }

    pub(super) fn are_in(&self, snapshot: &Snapshot) -> bool {
        let has =
            |(resource_type, name): &(ResourceType, String)| snapshot.set(*resource_type).get(name).is_some();
        self.is_raw || self.patched.iter().any(has)
    }
}
