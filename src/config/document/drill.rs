//! `upstreams[].drill`: a failover that is rehearsed on a schedule.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::values::Duration;

/// A failover that is rehearsed on a schedule.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["schedule"]))]
pub struct Drill {
    /// Times as cron writes them: minute, hour, day of the month, month, day of the week; in UTC.
    #[schemars(extend("examples" = ["0 3 * * 1"]))]
    pub schedule: Option<String>,
    /// Targets to take out, as in a simulation: addresses, tiers, zones.
    #[schemars(extend("default" = Drill::DOWN, "examples" = [["zone=eu-1a"]]))]
    pub down: Option<Vec<String>>,
    /// Length of the drill, 1s to 24h.
    #[serde(rename = "for")]
    #[schemars(extend("default" = Drill::LENGTH, "examples" = ["5m"]))]
    pub length: Option<Duration>,
    /// Conditions that end the drill early.
    #[schemars(extend("default" = {}, "examples" = [{ "error_rate": 0.5 }]))]
    pub abort_if: Option<DrillAbort>,
}

impl Drill {
    /// Default of `down`: the first tier.
    pub const DOWN: [&str; 1] = ["priority=0"];
    /// Default of `for`.
    pub const LENGTH: Duration = Duration::from_secs(60);
}

/// The conditions that end a drill early.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DrillAbort {
    /// Percent of the upstream's requests; more failures than that end the drill.
    #[schemars(extend(
        "default" = DrillAbort::ERROR_RATE, "examples" = [0.5], "minimum" = 0, "maximum" = 100
    ))]
    pub error_rate: Option<f64>,
}

impl DrillAbort {
    /// Default of `error_rate`.
    pub const ERROR_RATE: f64 = 1.0;
}
