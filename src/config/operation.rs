//! What is declared about the day after a failure: when traffic returns, what is rehearsed, and who is told.

use std::fmt;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::config::document::AbortIf;
use crate::config::values::Duration;

/// `upstreams[].failback`: `auto`, `manual`, or how the primaries get their traffic back once they recovered.
#[derive(Debug, Clone, PartialEq)]
pub enum Failback {
    /// A word alone.
    Word(FailbackMode),
    /// A mapping.
    Settings(FailbackSettings),
}

/// A way to return that needs no further word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailbackMode {
    /// As soon as Envoys find the primaries healthy.
    Auto,
    /// When an operator says so.
    Manual,
}

/// `upstreams[].failback` as a mapping.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct FailbackSettings {
    pub after: Option<Duration>,
    pub steps: Option<Vec<u32>>,
    pub every: Option<Duration>,
    /// Such as `3 per 1h`.
    pub max_failbacks: Option<String>,
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

/// `upstreams[].drill`: a failover that is rehearsed on a schedule.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct Drill {
    /// As cron has it: minute, hour, day of the month, month, day of the week; in UTC.
    pub schedule: Option<String>,
    pub down: Option<Vec<String>>,
    #[serde(rename = "for")]
    pub length: Option<Duration>,
    pub abort_if: Option<AbortIf>,
}

/// `notify[]`: who is told of events.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct Notify {
    pub url: Option<String>,
    pub events: Option<Vec<NotifyEvent>>,
    /// What the body is signed with.
    pub secret: Option<String>,
}

/// What a receiver may be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NotifyEvent {
    /// A standby serves.
    Failover,
    /// The primaries serve again.
    Failback,
    /// An Envoy refuses something.
    Nack,
    /// The files were refused.
    StaleFiles,
    /// A drill began or ended.
    Drill,
}

impl NotifyEvent {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Failover, Self::Failback, Self::Nack, Self::StaleFiles, Self::Drill];
}
