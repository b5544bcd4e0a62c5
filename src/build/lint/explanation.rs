//! Explanation of a code: its meaning, the harm and the remedy.

use crate::config::code::Code;

/// Explanation of a code: its meaning, the harm and the remedy.
#[derive(Debug, Clone, Copy)]
pub struct Explanation {
    /// Code, with its default level and its title.
    pub code: Code,
    /// Harm that results.
    pub why: &'static str,
    /// Remedy.
    pub fix: &'static str,
    /// Example config that has the finding; empty if it takes more than a line to show.
    pub bad: &'static str,
    /// Example config without the finding; empty if `bad` is.
    pub good: &'static str,
}
