//! Lint rules: an explanation and a check, which reports its findings to a collector.

use crate::build::lint::explanation::Explanation;
use crate::build::lint::subject::{CallerSubject, RouteSubject, UpstreamSubject};
use crate::config::{Level, Related, Violation};
use crate::model::place::FaultPlace;

/// Lint rule: its explanation and its check.
pub(super) struct LintRule {
    pub(super) explanation: Explanation,
    pub(super) check: LintCheck,
}

/// Check of a rule, by the kind of its subject.
pub(super) enum LintCheck {
    Upstream(fn(&UpstreamSubject, &mut FindingCollector<'_>)),
    Caller(fn(&CallerSubject, &mut FindingCollector<'_>)),
    Route(fn(&RouteSubject, &mut FindingCollector<'_>)),
}

/// Findings of one rule in one subject.
pub(super) struct FindingCollector<'a> {
    pub(super) rule: &'static Explanation,
    pub(super) level: Level,
    pub(super) violations: &'a mut Vec<Violation>,
}

impl FindingCollector<'_> {
    /// Reports a finding at `place`.
    pub(super) fn report(&mut self, place: &FaultPlace<'_>, message: String) {
        self.report_with(place, message, Vec::new());
    }

    /// Reports a finding at `place`, with the places that explain it.
    pub(super) fn report_with(&mut self, place: &FaultPlace<'_>, message: String, related: Vec<Related>) {
        let violation = place.document.violation(self.rule.code.id, self.level, &place.path, message);
        self.violations.push(Violation { help: Some(self.rule.fix.to_owned()), related, ..violation });
    }
}
