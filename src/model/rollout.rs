//! Rollout of a change: canary Envoys get it first, and their results decide if the others follow.

use std::time::Duration;

use crate::config::code;
use crate::config::document::{self, Declared};
use crate::config::values::Switch;
use crate::model::documents::Documents;
use crate::model::place::{FaultCollector, FaultPlace};

/// Settings of the rollout of a change.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollout {
    /// True if one Envoy of each fleet gets a change before the others.
    pub canary: bool,
    /// Time for which a canary is observed after its acknowledgement.
    pub bake: Duration,
    /// Share of failed requests of the canary, in percent, above which the change is reverted during the
    /// observation. `None` if failures do not count.
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

/// Resolves the rollout that the documents declare. A second declaration is a fault.
pub(crate) fn resolve(documents: &Documents, faults: &mut FaultCollector) -> Rollout {
    let mut declared =
        documents.of_files().filter_map(|document| Some((document, document.rollout.as_ref()?)));
    let Some((document, first)) = declared.next() else { return Rollout::default() };
    let place = FaultPlace::new(document, &first.path);
    for (document, Declared { path, .. }) in declared {
        let message = "the rollout is declared twice".to_owned();
        let help = "say all of it in one place".to_owned();
        let related = vec![place.related("first declared here")];
        faults.error_with(&FaultPlace::new(document, path), code::DECLARED_TWICE, message, help, related);
    }
    understand(&place, &first.entity, faults)
}

fn understand(
    place: &FaultPlace<'_>,
    declared: &document::rollout::Rollout,
    faults: &mut FaultCollector,
) -> Rollout {
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
