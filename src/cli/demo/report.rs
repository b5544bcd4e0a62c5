//! Summary of a demo: the requests as clients saw them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::cli::demo::load::Window;

/// Summary of a demo. It is serialised in this shape, on which scripts rely.
#[derive(Debug, Serialize)]
pub(crate) struct DemoReport {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) phases: Vec<PhaseReport>,
}

/// Counts of one phase.
#[derive(Debug, Serialize)]
pub(crate) struct PhaseReport {
    pub(crate) name: &'static str,
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) served_by: BTreeMap<String, u64>,
    #[serde(skip)]
    slowest: Duration,
    #[serde(skip)]
    first_errors: Vec<String>,
}

impl PhaseReport {
    /// Makes a phase of a window. A request without a response by now counts as an error: its client is still
    /// waiting.
    pub(crate) fn new(name: &'static str, window: Window) -> Self {
        let mut first_errors = window.first_errors;
        if window.pending > 0 {
            first_errors.push("no answer yet".to_owned());
        }
        Self {
            name,
            requests: window.requests,
            errors: window.errors + window.pending,
            served_by: window.served_by,
            slowest: window.slowest,
            first_errors,
        }
    }

    /// Formats the phase as one line.
    pub(crate) fn human(&self) -> String {
        let served_by: Vec<_> =
            self.served_by.iter().map(|(name, count)| format!("{name} {count}")).collect();
        format!(
            "{:<22} {:>6}, {:>8}; served by {}",
            self.name,
            counted(self.requests, "request"),
            counted(self.errors, "error"),
            if served_by.is_empty() { "no backend".to_owned() } else { served_by.join(", ") }
        )
    }
}

impl DemoReport {
    pub(crate) fn new(phases: Vec<PhaseReport>) -> Self {
        let requests = phases.iter().map(|phase| phase.requests).sum();
        let errors = phases.iter().map(|phase| phase.errors).sum();
        Self { requests, errors, phases }
    }

    /// Formats the totals, and the errors if there are any.
    pub(crate) fn human(&self) -> String {
        let slowest = self.phases.iter().map(|phase| phase.slowest).max().unwrap_or_default();
        let mut text = format!(
            "{}, {}, the slowest took {} ms",
            counted(self.requests, "request"),
            counted(self.errors, "error"),
            slowest.as_millis()
        );
        if self.errors == 0 {
            text.push_str("\nno client saw an error");
        }
        for phase in &self.phases {
            for error in &phase.first_errors {
                text.push_str(&format!("\n  {}: {error}", phase.name));
            }
        }
        text
    }
}

/// Formats a count with its noun: `1 error`, `2 errors`.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}
