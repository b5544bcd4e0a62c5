//! `rollout`: the order in which Envoys get a change.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::values::{Duration, OnOff, Switch};

/// The order in which Envoys get a change.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rollout {
    /// Delivery of a change to one Envoy of each fleet before the others. A change of endpoints alone goes to all.
    #[schemars(extend("default" = Rollout::CANARY))]
    pub canary: Option<OnOff>,
    /// Time that the canary is watched after it acknowledged a change, before the others follow.
    #[schemars(extend("default" = Rollout::BAKE, "examples" = ["30s"]))]
    pub bake: Option<Duration>,
    /// Conditions that take a change back while the canary is watched, or `off`.
    #[schemars(extend("default" = {}, "examples" = ["off"]))]
    pub abort_if: Option<Switch<RolloutAbort>>,
}

impl Rollout {
    /// Default of `canary`.
    pub const CANARY: bool = true;
    /// Default of `bake`: the others follow at once.
    pub const BAKE: Duration = Duration::ZERO;
}

/// The conditions that take a change back while its canary is watched.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RolloutAbort {
    /// Percent of the canary's requests; more failures than that take the change back.
    #[schemars(extend(
        "default" = RolloutAbort::ERROR_RATE, "examples" = [1], "minimum" = 0, "maximum" = 100
    ))]
    pub error_rate: Option<f64>,
}

impl RolloutAbort {
    /// Default of `error_rate`.
    pub const ERROR_RATE: f64 = 5.0;
}
