//! What is valid and will hurt all the same: will it ever fail over?
//!
//! A rule is a pure function of one subject: an upstream, a way to it (a service, or a route that says otherwise
//! than its service) or a route, each with what must be known around it. So what it told is kept for as long as
//! the subject does not change. Rules are levelled by the config, for all or for one entity with a reason; those of level
//! error refuse.
//!
//! What a rule claims of Envoy was measured on a real one; the figures stand in its reason.

mod detection;
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

use crate::config::{Level, Related, Violation};
use crate::lint::levels::Levels;
use crate::lint::routes::Shadows;
use crate::lint::sharing::Neighbours;
use crate::lint::subject::{RouteSubject, Subjects, UpstreamSubject, WaySubject};
use crate::memo::Memo;
use crate::model::Model;
use crate::model::documents::Documents;
use crate::model::name::Name;
use crate::model::place::Place;
use crate::model::validate::Resolved;

/// What a code means, why it hurts and what to do about it.
#[derive(Debug, Clone, Copy)]
pub struct Explanation {
    /// Stable, such as `US012`.
    pub code: &'static str,
    /// Unless the config says otherwise; faults are always errors, or always warnings.
    pub level: Level,
    /// What is so, in one line.
    pub title: &'static str,
    /// Why that hurts.
    pub why: &'static str,
    /// What to do.
    pub fix: &'static str,
    /// A config that it is told of.
    pub bad: &'static str,
    /// The same without it.
    pub good: &'static str,
}

/// A rule: what it means, and when it is told.
struct Rule {
    explanation: Explanation,
    check: Check,
}

/// When a rule is told, by what it looks at.
enum Check {
    Upstream(fn(&UpstreamSubject, &mut Findings<'_>)),
    Way(fn(&WaySubject, &mut Findings<'_>)),
    Route(fn(&RouteSubject, &mut Findings<'_>)),
}

const FAMILIES: [&[Rule]; 5] =
    [detection::RULES, tiers::RULES, retries::RULES, routes::RULES, sharing::RULES];

fn rules() -> impl Iterator<Item = &'static Rule> {
    FAMILIES.into_iter().flatten()
}

/// Every code that this program tells, rules first.
pub fn explanations() -> Vec<&'static Explanation> {
    rules().map(|rule| &rule.explanation).chain(faults::FAULTS).collect()
}

/// What one rule found in one subject.
struct Findings<'a> {
    rule: &'static Explanation,
    level: Level,
    violations: &'a mut Vec<Violation>,
}

impl Findings<'_> {
    /// Tells what is so at `place`.
    fn tell(&mut self, place: &Place<'_>, message: String) {
        self.tell_with(place, message, Vec::new());
    }

    fn tell_with(&mut self, place: &Place<'_>, message: String, related: Vec<Related>) {
        let violation = place.document.violation(self.rule.code, self.level, &place.path, message);
        self.violations.push(Violation { help: Some(self.rule.fix.to_owned()), related, ..violation });
    }
}

type Told = Arc<Vec<Violation>>;

/// What the rules told of a model, by subject.
#[derive(Debug, Default)]
pub struct Lints {
    upstreams: Memo<Name, UpstreamSubject, Told>,
    ways: Memo<(Name, Option<Name>), WaySubject, Told>,
    routes: Memo<Name, RouteSubject, Told>,
    neighbours: Neighbours,
    shadows: Shadows,
}

impl Lints {
    /// What the rules tell of a model, whose entities are declared as in `resolved`. Subjects that did not change are
    /// not looked at again.
    pub fn new(model: &Model, resolved: &Resolved, documents: &Documents, last: &Self) -> Self {
        let levels = Arc::new(levels::of(documents));
        let neighbours = last.neighbours.updated(&model.upstreams);
        let shadows = last.shadows.updated(&model.routes);
        let Subjects { upstreams, ways, routes } =
            subject::subjects(model, resolved, (&neighbours, &shadows), &levels);
        Self {
            upstreams: Memo::map(&last.upstreams, upstreams, upstream),
            ways: Memo::map(&last.ways, ways, way),
            routes: Memo::map(&last.routes, routes, route),
            neighbours,
            shadows,
        }
    }

    /// All that was told.
    pub fn violations(&self) -> impl Iterator<Item = &Violation> {
        let upstreams = self.upstreams.iter().flat_map(|(_, told)| told.iter());
        let ways = self.ways.iter().flat_map(|(_, told)| told.iter());
        let routes = self.routes.iter().flat_map(|(_, told)| told.iter());
        upstreams.chain(ways).chain(routes)
    }
}

/// What is wrong with what the documents say of rules.
pub fn faults_of_levels(documents: &Documents) -> Vec<Violation> {
    levels::faults(documents)
}

fn upstream(subject: &UpstreamSubject) -> Told {
    told(&subject.levels.0.over(subject.declared().lint.as_ref()), |rule, findings| {
        if let Check::Upstream(check) = rule.check {
            check(subject, findings);
        }
    })
}

fn way(subject: &WaySubject) -> Told {
    told(&subject.levels.0.over(subject.lint()), |rule, findings| {
        if let Check::Way(check) = rule.check {
            check(subject, findings);
        }
    })
}

fn route(subject: &RouteSubject) -> Told {
    told(&subject.levels.0.over(subject.declared().lint.as_ref()), |rule, findings| {
        if let Check::Route(check) = rule.check {
            check(subject, findings);
        }
    })
}

fn told(levels: &Levels, check: impl Fn(&Rule, &mut Findings<'_>)) -> Told {
    let mut violations = Vec::new();
    for rule in rules() {
        if let Some(level) = levels.of(&rule.explanation) {
            let findings = &mut Findings { rule: &rule.explanation, level, violations: &mut violations };
            check(rule, findings);
        }
    }
    Arc::new(violations)
}
