//! Lint rules for configs that are valid but harmful, above all for failover that would not happen.
//!
//! A rule is a pure function of one subject: an upstream, a caller of upstreams (a service, or a route that
//! overrides its service) or a route, each with what must be known around it. Findings are kept for as long
//! as the subject does not change. The config sets the level of a rule for all entities, or for one entity
//! with a reason. A finding of level error refuses the config.
//!
//! Claims of rules about Envoy were measured on a real one; the figures are in the rule's `why`.

mod detection;
mod drills;
pub mod estimate;
pub mod explanation;
mod faults;
mod findings;
mod identity;
pub mod input;
mod levels;
mod neighbours;
mod retries;
mod routes;
mod rule;
mod sharing;
mod subject;
#[cfg(test)]
mod tests;
mod tiers;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::build::lint::explanation::Explanation;
use crate::build::lint::findings::{Findings, FindingsBySubject};
use crate::build::lint::input::LintInput;
use crate::build::lint::levels::Levels;
use crate::build::lint::neighbours::Neighbours;
use crate::build::lint::routes::Shadows;
use crate::build::lint::rule::{FindingCollector, LintCheck, LintRule};
use crate::build::lint::subject::{CallerKey, CallerSubject, RouteSubject, UpstreamSubject};
use crate::config::code;
use crate::config::document::{Document, Kind};
use crate::config::{Level, Violation};
use crate::memo::{MapChange, changes};
use crate::model::documents::Documents;
use crate::model::name::Name;

/// Rules by family.
const FAMILIES: [&[LintRule]; 7] = [
    detection::RULES,
    tiers::RULES,
    retries::RULES,
    routes::RULES,
    sharing::RULES,
    drills::RULES,
    identity::RULES,
];

fn rules() -> impl Iterator<Item = &'static LintRule> {
    FAMILIES.into_iter().flatten()
}

/// Returns the explanation of every code of this program by code, so rules first.
pub fn explanations() -> Vec<&'static Explanation> {
    let mut all: Vec<_> = rules().map(|rule| &rule.explanation).chain(faults::FAULTS).collect();
    all.sort_by_key(|explanation| explanation.code.id);
    all
}

/// Findings of all rules in a model, by subject.
#[derive(Debug, Clone, Default)]
pub struct Lints {
    upstreams: FindingsBySubject<Name, UpstreamSubject>,
    callers: FindingsBySubject<CallerKey, CallerSubject>,
    routes: FindingsBySubject<Name, RouteSubject>,
    neighbours: Neighbours,
    shadows: Shadows,
    levels: Arc<Levels>,
}

impl Lints {
    /// Lints `now`. Subjects that are unchanged since `last`, the config that `self` is of, keep their
    /// findings and are not checked again.
    #[must_use]
    pub fn updated(&self, last: LintInput<'_>, now: LintInput<'_>) -> Self {
        let levels = Arc::new(levels::of(now.documents));
        let levels = if *levels == *self.levels { self.levels.clone() } else { levels };
        let mut next = Self { levels, ..self.clone() };
        let changed = next.changed_subjects(last, now, self);
        for service in &changed.services {
            let known = self.callers_of(service).map(|(key, _)| key.clone());
            for key in known.chain(caller_keys(now, service)) {
                let subject = CallerSubject::new(now, &key, &next.levels);
                next.callers.put(key, subject, check_caller);
            }
        }
        for name in changed.upstreams {
            let subject = next.upstream_subject(now, &name);
            next.upstreams.put(name, subject, check_upstream);
        }
        for name in changed.routes {
            let subject = RouteSubject::new(now, &name, next.shadows.of(&name), &next.levels);
            next.routes.put(name, subject, check_route);
        }
        next
    }

    /// Returns all findings.
    pub fn violations(&self) -> impl Iterator<Item = &Violation> {
        self.upstreams.all().chain(self.callers.all()).chain(self.routes.all())
    }

    /// Returns the findings of a level, which must be above info.
    pub fn at_level(&self, level: Level) -> impl Iterator<Item = &Violation> {
        let above_info =
            self.upstreams.above_info().chain(self.callers.above_info()).chain(self.routes.above_info());
        above_info.filter(move |violation| violation.level == level)
    }

    /// Returns the subjects that changed from `last` to `now`. Updates the neighbours and shadows in passing.
    /// `before` are the findings of `last`.
    fn changed_subjects(
        &mut self,
        last: LintInput<'_>,
        now: LintInput<'_>,
        before: &Self,
    ) -> ChangedSubjects {
        let redeclared = |kind| now.documents.changed(kind, last.documents).into_iter().cloned();
        let mut services: BTreeSet<Name> = redeclared(Kind::Service).collect();
        let mut upstreams: BTreeSet<Name> = redeclared(Kind::Upstream).collect();
        let mut routes: BTreeSet<Name> = redeclared(Kind::Route).collect();

        upstreams.extend(self.neighbours.update(&last.model.upstreams, &now.model.upstreams));
        routes.extend(self.shadows.update(&last.model.routes, &now.model.routes));
        for MapChange { key, old, new } in changes(&last.model.routes, &now.model.routes) {
            routes.insert(key.clone());
            let forwards = old.into_iter().chain(new).filter_map(|route| route.forward());
            services.extend(forwards.map(|forward| forward.service.name.clone()));
        }
        for MapChange { key, .. } in changes(&last.model.services, &now.model.services) {
            services.insert(key.clone());
        }
        let are_all_changed = !Arc::ptr_eq(&before.levels, &self.levels)
            || last.model.raw.is_empty() != now.model.raw.is_empty();
        if are_all_changed {
            services.extend(now.model.services.keys().cloned());
            upstreams.extend(now.model.upstreams.keys().cloned());
            routes.extend(now.model.routes.keys().cloned());
        }
        for name in &services {
            let known = [last, now].into_iter().filter_map(|input| input.model.services.get(name));
            let used = known.flat_map(|service| service.upstreams());
            upstreams.extend(used.map(|upstream| upstream.name.clone()));
        }
        ChangedSubjects { services, upstreams, routes }
    }

    /// Returns the callers of a service that were checked.
    fn callers_of<'l>(
        &'l self,
        service: &'l Name,
    ) -> impl Iterator<Item = (&'l CallerKey, &'l CallerSubject)> {
        let from = (service.clone(), None);
        self.callers.memo.inputs().range(from..).take_while(move |((of, _), _)| of == service)
    }

    /// Returns the subject for an upstream; none if there is no such upstream. The callers must be up to date.
    fn upstream_subject(&self, now: LintInput<'_>, name: &Name) -> Option<UpstreamSubject> {
        let uses_upstream = |service: &&Name| {
            let service = now.model.services.get(*service);
            service.is_some_and(|service| service.upstreams().any(|upstream| upstream.name == *name))
        };
        let services = now.resolved.services_of(name).filter(uses_upstream);
        let callers = services.flat_map(|service| self.callers_of(service)).map(|(_, subject)| subject);
        UpstreamSubject::new(now, name, callers, &self.neighbours, &self.levels)
    }
}

/// Names of the subjects that must be checked again.
struct ChangedSubjects {
    /// Services, with all callers that use them.
    services: BTreeSet<Name>,
    upstreams: BTreeSet<Name>,
    routes: BTreeSet<Name>,
}

/// Returns the keys of a service alone and of each route to it.
fn caller_keys(input: LintInput<'_>, service: &Name) -> Vec<CallerKey> {
    let routes = input.resolved.routes_of(service).cloned().map(Some);
    [None].into_iter().chain(routes).map(|route| (service.clone(), route)).collect()
}

/// Returns the faults in the lint settings of these documents.
pub fn faults_of_levels(documents: &[Arc<Document>]) -> Vec<Violation> {
    let rules = rules().map(|rule| rule.explanation.code.id).chain(code::ADJUSTABLE);
    levels::faults(documents, &rules.collect::<Vec<_>>())
}

/// Returns what is to be told of foreign files: the errors, and the warnings and infos. Levels that the config sets count
/// for the codes that it may set.
pub fn foreign(documents: &Documents) -> (Vec<Violation>, Vec<Violation>) {
    let mut violations = documents.foreign().violations();
    if violations.is_empty() {
        return (violations, Vec::new());
    }
    let levels = levels::of(documents);
    violations.retain_mut(|violation| {
        let level = levels.set(violation.code).filter(|_| code::ADJUSTABLE.contains(&violation.code));
        violation.level = level.flatten().unwrap_or(violation.level);
        level != Some(None)
    });
    violations.into_iter().partition(|violation| violation.level == Level::Error)
}

/// Returns faults that are warnings at the levels that the documents set, without those that are off.
pub(super) fn adjusted(documents: &Documents, warnings: Vec<Violation>) -> Vec<Violation> {
    levels::adjusted(documents, warnings)
}

fn check_upstream(subject: &UpstreamSubject) -> Findings {
    findings(&subject.levels.0.over(subject.declared().lint.as_ref()), |rule, findings| {
        if let LintCheck::Upstream(check) = rule.check {
            check(subject, findings);
        }
    })
}

fn check_caller(subject: &CallerSubject) -> Findings {
    findings(&subject.levels.0.over(subject.lint()), |rule, findings| {
        if let LintCheck::Caller(check) = rule.check {
            check(subject, findings);
        }
    })
}

fn check_route(subject: &RouteSubject) -> Findings {
    findings(&subject.levels.0.over(subject.declared().lint.as_ref()), |rule, findings| {
        if let LintCheck::Route(check) = rule.check {
            check(subject, findings);
        }
    })
}

/// Runs all rules at these levels.
fn findings(levels: &Levels, check: impl Fn(&LintRule, &mut FindingCollector<'_>)) -> Findings {
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
