//! What is valid and will hurt all the same: will it ever fail over?
//!
//! A rule is a pure function of one subject: an upstream, a way to it (a service, or a route that says otherwise
//! than its service) or a route, each with what must be known around it. So what it told is kept for as long as
//! the subject does not change. Rules are levelled by the config, for all or for one entity with a reason; those of level
//! error refuse.
//!
//! What a rule claims of Envoy was measured on a real one; the figures stand in its reason.

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
use crate::build::lint::subject::{RouteSubject, UpstreamSubject, WaySubject};
use crate::config::document::Document;
use crate::config::{Level, Related, Violation};
use crate::memo::{self, Memo};
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

const FAMILIES: [&[Rule]; 6] =
    [detection::RULES, tiers::RULES, retries::RULES, routes::RULES, sharing::RULES, drills::RULES];

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

/// A config that is looked at: what it means, and where that is declared.
#[derive(Debug, Clone, Copy)]
pub struct Config<'a> {
    /// What it means.
    pub model: &'a Model,
    /// Of what that was made.
    pub resolved: &'a Resolved,
    /// Where it stands.
    pub documents: &'a Documents,
}

/// What the rules told of a model, by subject.
#[derive(Debug, Clone, Default)]
pub struct Lints {
    upstreams: Kept<Name, UpstreamSubject>,
    ways: Kept<WayKey, WaySubject>,
    routes: Kept<Name, RouteSubject>,
    neighbours: Neighbours,
    shadows: Shadows,
    levels: Arc<Levels>,
}

/// A service, and a route to it that may say otherwise.
type WayKey = (Name, Option<Name>);

/// What was told of each subject of a kind.
#[derive(Debug, Clone)]
struct Kept<K: Ord, S> {
    memo: Memo<K, S, Told>,
    /// Of those of which more was told than what is good to know.
    loud: OrdMap<K, Told>,
}

impl<K: Ord, S> Default for Kept<K, S> {
    fn default() -> Self {
        Self { memo: Memo::default(), loud: OrdMap::new() }
    }
}

impl<K: Ord + Clone, S: PartialEq + Clone> Kept<K, S> {
    fn put(&mut self, key: K, subject: Option<S>, look: fn(&S) -> Told) {
        if self.memo.put(key.clone(), subject, look) {
            let is_loud = |told: &&Told| told.iter().any(|violation| violation.level != Level::Info);
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
    /// What the rules tell of a config. Subjects that are as in `last`, of which these lints are, are not looked at
    /// again.
    #[must_use]
    pub fn updated(&self, last: Config<'_>, now: Config<'_>) -> Self {
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

    /// All that was told.
    pub fn violations(&self) -> impl Iterator<Item = &Violation> {
        self.upstreams.told(false).chain(self.ways.told(false)).chain(self.routes.told(false))
    }

    /// What was told of this level, which is more than what is good to know.
    pub fn loud(&self, level: Level) -> impl Iterator<Item = &Violation> {
        let loud = self.upstreams.told(true).chain(self.ways.told(true)).chain(self.routes.told(true));
        loud.filter(move |told| told.level == level)
    }
}

/// What is wrong with what these documents say of rules.
pub fn faults_of_levels(documents: &[Arc<Document>]) -> Vec<Violation> {
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
