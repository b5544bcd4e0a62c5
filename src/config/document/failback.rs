//! `upstreams[].failback`: the return of the traffic to primaries that recovered.

use std::fmt;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::config::values::Duration;

/// The return of the traffic: `auto`, `manual`, or rules.
#[derive(Debug, Clone, PartialEq)]
pub enum Failback {
    /// A word alone.
    Word(FailbackMode),
    /// A mapping.
    Settings(FailbackSettings),
}

/// A return without rules.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailbackMode {
    /// Return as soon as Envoys find the primaries healthy.
    #[default]
    Auto,
    /// Release by an operator.
    Manual,
}

/// The rules of a return: `after` or `steps`, and a bound on their number.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FailbackSettings {
    /// Time that primaries have been healthy before they get traffic. Absent, without `steps`: none.
    #[schemars(extend("examples" = ["5m"]))]
    pub after: Option<Duration>,
    /// Percent of the traffic in each step, ascending to 100. Absent: one step.
    #[schemars(extend("examples" = [[10, 50, 100]]))]
    pub steps: Option<Vec<u32>>,
    /// Length of a step, with `steps` only.
    #[schemars(extend("default" = FailbackSettings::EVERY, "examples" = ["5m"]))]
    pub every: Option<Duration>,
    /// Number of returns within a time, such as `3 per 1h`, after which the standby stays until an operator releases
    /// it. Absent: no bound.
    #[schemars(extend("examples" = ["3 per 1h"]))]
    pub max_failbacks: Option<String>,
}

impl FailbackSettings {
    /// Default of `every`.
    pub const EVERY: Duration = Duration::from_secs(60);
}

impl<'de> Deserialize<'de> for Failback {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordOrSettings;
        impl<'de> Visitor<'de> for WordOrSettings {
            type Value = Failback;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`auto`, `manual` or a mapping")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Failback, E> {
                FailbackMode::deserialize(de::value::StrDeserializer::new(text)).map(Failback::Word)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Failback, A::Error> {
                FailbackSettings::deserialize(MapAccessDeserializer::new(map)).map(Failback::Settings)
            }
        }
        deserializer.deserialize_any(WordOrSettings)
    }
}
