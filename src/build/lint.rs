//! Lint rules for configs that are valid but harmful, above all for failover that would not happen.
//!
//! A rule is a pure function of one subject: an upstream, a way to an upstream (a service, or a route that
//! overrides its service) or a route, each with what must be known around it. Findings are kept for as long
//! as the subject does not change. The config sets the level of a rule for all entities, or for one entity
//! with a reason. A finding of level error refuses the config.
//!
//! Claims of rules about Envoy were measured on a real one; the figures are in the rule's `why`.

mod detection;
mod drills;
pub mod estimate;
mod faults;
mod levels;
mod retries;
mod routes;
mod sharing;
mod subject;
#[cfg(test)]
mod tests;
mod tiers;

use std::sync::Arc;

use imbl::OrdMap;

use crate::build::lint::levels::Levels;
use crate::build::lint::routes::Shadows;
use crate::build::lint::sharing::Neighbours;
use crate::build::lint::subject::{CallerSubject, RouteSubject, UpstreamSubject};
use crate::config::document::Document;
use crate::config::{Level, Related, Violation};
use crate::memo::{self, Memo};
use crate::model::Model;
use crate::model::documents::Documents;
use crate::model::name::Name;
use crate::model::place::FaultPlace;
use crate::model::validate::reuse::ResolvedEntities;

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

/// Lint rule: its explanation and its check.
struct LintRule {
    explanation: Explanation,
    check: LintCheck,
}

/// Check of a rule, by the kind of its subject.
enum LintCheck {
    Upstream(fn(&UpstreamSubject, &mut FindingCollector<'_>)),
    Way(fn(&CallerSubject, &mut FindingCollector<'_>)),
    Route(fn(&RouteSubject, &mut FindingCollector<'_>)),
}

const FAMILIES: [&[LintRule]; 6] =
    [detection::RULES, tiers::RULES, retries::RULES, routes::RULES, sharing::RULES, drills::RULES];

fn rules() -> impl Iterator<Item = &'static LintRule> {
    FAMILIES.into_iter().flatten()
}

/// Returns the explanation of every code of this program, rules first.
pub fn explanations() -> Vec<&'static Explanation> {
    rules().map(|rule| &rule.explanation).chain(faults::FAULTS).collect()
}

/// Findings of one rule in one subject.
struct FindingCollector<'a> {
    rule: &'static Explanation,
    level: Level,
    violations: &'a mut Vec<Violation>,
}

impl FindingCollector<'_> {
    /// Reports a finding at `place`.
    fn tell(&mut self, place: &FaultPlace<'_>, message: String) {
        self.tell_with(place, message, Vec::new());
    }

    fn tell_with(&mut self, place: &FaultPlace<'_>, message: String, related: Vec<Related>) {
        let violation = place.document.violation(self.rule.code, self.level, &place.path, message);
        self.violations.push(Violation { help: Some(self.rule.fix.to_owned()), related, ..violation });
    }
}

type Findings = Arc<Vec<Violation>>;

/// Config to lint: its meaning, and the places where it is declared.
#[derive(Debug, Clone, Copy)]
pub struct LintInput<'a> {
    /// Validated entities.
    pub model: &'a Model,
    /// Results of validation, each with everything that it was made of.
    pub resolved: &'a ResolvedEntities,
    /// Documents that declare the entities.
    pub documents: &'a Documents,
}

/// Findings of all rules in a model, by subject.
#[derive(Debug, Clone, Default)]
pub struct Lints {
    upstreams: FindingsBySubject<Name, UpstreamSubject>,
    ways: FindingsBySubject<CallerKey, CallerSubject>,
    routes: FindingsBySubject<Name, RouteSubject>,
    neighbours: Neighbours,
    shadows: Shadows,
    levels: Arc<Levels>,
}

/// Key of a way: a service, and a route to it that may override its policy; without a route the service
/// itself.
type CallerKey = (Name, Option<Name>);

/// Findings in the subjects of one kind.
#[derive(Debug, Clone)]
struct FindingsBySubject<K: Ord, S> {
    memo: Memo<K, S, Findings>,
    /// Findings of the subjects that have at least one above level info.
    loud: OrdMap<K, Findings>,
}

impl<K: Ord, S> Default for FindingsBySubject<K, S> {
    fn default() -> Self {
        Self { memo: Memo::default(), loud: OrdMap::new() }
    }
}

impl<K: Ord + Clone, S: PartialEq + Clone> FindingsBySubject<K, S> {
    fn put(&mut self, key: K, subject: Option<S>, look: fn(&S) -> Findings) {
        if self.memo.put(key.clone(), subject, look) {
            let is_loud = |told: &&Findings| told.iter().any(|violation| violation.level != Level::Info);
            let told = self.memo.get(&key).filter(is_loud).cloned();
            memo::put(&mut self.loud, key, told);
        }
    }

    fn told(&self, is_loud: bool) -> impl Iterator<Item = &Violation> {
        let told = if is_loud { &self.loud } else { self.memo.outputs() };
        told.values().flat_map(|told| told.iter())
    }
}

impl Lints {
    /// Lints `now`. Subjects that are unchanged since `last`, the config that `self` is of, keep their
    /// findings and are not checked again.
    #[must_use]
    pub fn updated(&self, last: LintInput<'_>, now: LintInput<'_>) -> Self {
        let levels = Arc::new(levels::of(now.documents));
        let levels = if *levels == *self.levels { self.levels.clone() } else { levels };
        let mut next = Self { levels, ..self.clone() };
        let changed = subject::changed(last, now, self, &mut next);
        for service in &changed.services {
            for key in subject::ways_of(&self.ways.memo, service).map(|(key, _)| key) {
                let subject = subject::way(now, key, &next.levels);
                next.ways.put(key.clone(), subject, way);
            }
            for key in subject::way_keys(now, service) {
                let subject = subject::way(now, &key, &next.levels);
                next.ways.put(key, subject, way);
            }
        }
        for name in changed.upstreams {
            let subject = subject::upstream(now, &name, &next);
            next.upstreams.put(name, subject, upstream);
        }
        for name in changed.routes {
            let subject = subject::route(now, &name, &next);
            next.routes.put(name, subject, route);
        }
        next
    }

    /// Returns all findings.
    pub fn violations(&self) -> impl Iterator<Item = &Violation> {
        self.upstreams.told(false).chain(self.ways.told(false)).chain(self.routes.told(false))
    }

    /// Returns the findings of a level, which must be above info.
    pub fn loud(&self, level: Level) -> impl Iterator<Item = &Violation> {
        let loud = self.upstreams.told(true).chain(self.ways.told(true)).chain(self.routes.told(true));
        loud.filter(move |told| told.level == level)
    }
}

/// Returns the faults in the lint settings of these documents.
pub fn faults_of_levels(documents: &[Arc<Document>]) -> Vec<Violation> {
    levels::faults(documents)
}

fn upstream(subject: &UpstreamSubject) -> Findings {
    told(&subject.levels.0.over(subject.declared().lint.as_ref()), |rule, findings| {
        if let LintCheck::Upstream(check) = rule.check {
            check(subject, findings);
        }
    })
}

fn way(subject: &CallerSubject) -> Findings {
    told(&subject.levels.0.over(subject.lint()), |rule, findings| {
        if let LintCheck::Way(check) = rule.check {
            check(subject, findings);
        }
    })
}

fn route(subject: &RouteSubject) -> Findings {
    told(&subject.levels.0.over(subject.declared().lint.as_ref()), |rule, findings| {
        if let LintCheck::Route(check) = rule.check {
            check(subject, findings);
        }
    })
}

fn told(levels: &Levels, check: impl Fn(&LintRule, &mut FindingCollector<'_>)) -> Findings {
    let mut violations = Vec::new();
    for rule in rules() {
        if let Some(level) = levels.of(&rule.explanation) {
            let findings =
                &mut FindingCollector { rule: &rule.explanation, level, violations: &mut violations };
            check(rule, findings);
        }
    }
    Arc::new(violations)
}
