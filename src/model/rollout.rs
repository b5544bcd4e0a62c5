//! Which Envoys get a change first, and what they must show before the others follow.

use std::time::Duration;

use crate::config::document::{self, Declared};
use crate::config::values::Switch;
use crate::model::documents::Documents;
use crate::model::place::{Faults, Place, code};

/// Which Envoys get a change first.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollout {
    /// One Envoy of each fleet gets a change before the others.
    pub canary: bool,
    /// How long it is watched after it has acknowledged.
    pub bake: Duration,
    /// The change is taken back if more of the canary's requests fail while it is watched, in percent; none when
    /// they do not count.
    pub error_rate: Option<f64>,
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            canary: document::rollout::Rollout::CANARY,
            bake: document::rollout::Rollout::BAKE.0,
            error_rate: Some(document::rollout::RolloutAbort::ERROR_RATE),
        }
    }
}

/// The rollout that the documents declare, at most one.
pub(crate) fn resolve(documents: &Documents, faults: &mut Faults) -> Rollout {
    let mut declared =
        documents.of_files().filter_map(|document| Some((document, document.rollout.as_ref()?)));
    let Some((document, first)) = declared.next() else { return Rollout::default() };
    let place = Place::new(document, &first.path);
    for (document, Declared { path, .. }) in declared {
        let message = "the rollout is declared twice".to_owned();
        let help = "say all of it in one place".to_owned();
        let related = vec![place.related("first declared here")];
        faults.error_with(&Place::new(document, path), code::DECLARED_TWICE, message, help, related);
    }
    understand(&place, &first.entity, faults)
}

fn understand(place: &Place<'_>, declared: &document::rollout::Rollout, faults: &mut Faults) -> Rollout {
    let default = Rollout::default();
    let error_rate = match &declared.abort_if {
        None => default.error_rate,
        Some(Switch::Off) => None,
        Some(Switch::On(abort_if)) => abort_if.error_rate.or(default.error_rate),
    };
    if let Some(rate) = error_rate.filter(|rate| !(0.0..=100.0).contains(rate)) {
        let place = place.key("abort_if").key("error_rate");
        faults.wrong(&place, format!("{rate} is no percentage"), "0 to 100".to_owned());
    }
    Rollout {
        canary: declared.canary.map_or(default.canary, |canary| canary.0),
        bake: declared.bake.map_or(default.bake, |time| time.0),
        error_rate,
    }
}
