//! Explanation of a code: its meaning, the harm and the remedy.

use crate::config::Level;

/// Explanation of a code: its meaning, the harm and the remedy.
#[derive(Debug, Clone, Copy)]
pub struct Explanation {
    /// Stable code, such as `US012`.
    pub code: &'static str,
    /// Default level, which the config can override for a rule. The level of a fault is fixed: error for
    /// most, warning for some.
    pub level: Level,
    /// Summary in one line.
    pub title: &'static str,
    /// Harm that results.
    pub why: &'static str,
    /// Remedy.
    pub fix: &'static str,
    /// Example config that has the finding; empty if it takes more than a line to show.
    pub bad: &'static str,
    /// Example config without the finding; empty if `bad` is.
    pub good: &'static str,
}
