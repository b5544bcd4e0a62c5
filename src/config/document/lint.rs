//! `lint`: the levels of rules, of a file or of one entity.

use std::fmt;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::config::Level;

/// The level of a rule: `off`, `info`, `warning` or `error`, alone or as `level` with a `reason`.
#[derive(Debug, Clone, PartialEq)]
pub struct LintSetting {
    level: Option<Level>,
    reason: Option<String>,
}

impl LintSetting {
    /// Returns the level; none for off.
    pub fn level(&self) -> Option<Level> {
        self.level
    }

    /// Returns the reason, if one was given.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}

impl<'de> Deserialize<'de> for LintSetting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LevelOrReasoned;
        impl<'de> Visitor<'de> for LevelOrReasoned {
            type Value = LintSetting;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`off`, `info`, `warning`, `error` or a mapping")
            }

            fn visit_bool<E: de::Error>(self, on: bool) -> Result<LintSetting, E> {
                if on {
                    Err(E::invalid_value(de::Unexpected::Bool(true), &self))
                } else {
                    self.visit_str("off")
                }
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<LintSetting, E> {
                let LintLevel(level) = LintLevel::deserialize(de::value::StrDeserializer::new(text))?;
                Ok(LintSetting { level, reason: None })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<LintSetting, A::Error> {
                let Reasoned { level: LintLevel(level), reason } =
                    Reasoned::deserialize(MapAccessDeserializer::new(map))?;
                Ok(LintSetting { level, reason })
            }
        }
        deserializer.deserialize_any(LevelOrReasoned)
    }
}

/// A level with its reason.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(in crate::config) struct Reasoned {
    /// Level of the rule.
    level: LintLevel,
    /// Reason for the level; needed in the `lint` of one entity.
    #[serde(default)]
    reason: Option<String>,
}

/// A level of a rule; none for off.
pub(in crate::config) struct LintLevel(Option<Level>);

impl<'de> Deserialize<'de> for LintLevel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const WORDS: [&str; 4] = ["off", "info", "warning", "error"];
        struct LevelVisitor;
        impl Visitor<'_> for LevelVisitor {
            type Value = LintLevel;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`off`, `info`, `warning` or `error`")
            }

            fn visit_bool<E: de::Error>(self, on: bool) -> Result<LintLevel, E> {
                if on {
                    Err(E::invalid_value(de::Unexpected::Bool(true), &self))
                } else {
                    Ok(LintLevel(None))
                }
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<LintLevel, E> {
                match text {
                    "off" => Ok(LintLevel(None)),
                    "info" => Ok(LintLevel(Some(Level::Info))),
                    "warning" => Ok(LintLevel(Some(Level::Warning))),
                    "error" => Ok(LintLevel(Some(Level::Error))),
                    _ => Err(E::unknown_variant(text, &WORDS)),
                }
            }
        }
        deserializer.deserialize_any(LevelVisitor)
    }
}
