//! Effective value of one setting, with its origin.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

/// Effective value of one setting, with its origin.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct EffectiveSetting {
    /// Path within the upstream, such as `health_check.interval`; `targets[10.0.0.1:8080].weight` for a
    /// target, `services[checkout].timeout` for a service, and `envoy.…` for a setting that only Envoy has.
    pub path: String,
    /// Value as the config would write it.
    pub value: Value,
    /// Origin of the value.
    #[serde(flatten)]
    pub origin: SettingOrigin,
}

/// Origin of a value.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "origin", rename_all = "snake_case")]
pub enum SettingOrigin {
    /// Fixed default; nothing is declared.
    Default,
    /// Declaration in a file.
    File {
        /// Name of the file, as given on the command line.
        file: String,
        /// Line, from 1.
        line: Option<u32>,
        /// Column, from 1.
        column: Option<u32>,
    },
    /// Entity written over REST.
    Stored,
    /// Derivation from other settings; nothing is declared.
    Derived {
        /// Reason, in words.
        because: String,
    },
}
