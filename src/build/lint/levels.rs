//! Levels of rules and of faults that are warnings: by default, as set for all entities, and as set for one entity.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::build::lint::explanation::Explanation;
use crate::build::lint::faults::FAULTS;
use crate::config::code;
use crate::config::document::lint::LintSetting;
use crate::config::document::{Document, Kind};
use crate::config::{Level, Path, Violation, near};
use crate::model::documents::Documents;
use crate::model::place::{FaultCollector, FaultPlace};

/// Levels that the config sets, by code; none for a rule that is off.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Levels(BTreeMap<String, Option<Level>>);

impl Levels {
    /// Returns the level of a rule; none if the rule is off.
    pub(super) fn of(&self, rule: &Explanation) -> Option<Level> {
        self.0.get(rule.code.id).copied().unwrap_or(Some(rule.code.level))
    }

    /// Returns the level that the config sets for a code; none if it sets none.
    pub(super) fn set(&self, code: &str) -> Option<Option<Level>> {
        self.0.get(code).copied()
    }

    /// Returns these levels, overridden by the settings of one entity.
    pub(super) fn over(&self, own: Option<&BTreeMap<String, LintSetting>>) -> Self {
        let own = own.into_iter().flatten().map(|(code, setting)| (code.clone(), setting.level()));
        Self(self.0.clone().into_iter().chain(own).collect())
    }
}

/// Returns the levels that the documents set for all entities.
pub(super) fn of(documents: &Documents) -> Levels {
    let settings =
        documents.of_files().flat_map(|document| &document.lint).flat_map(|declared| &declared.entity);
    Levels(settings.map(|(code, setting)| (code.clone(), setting.level())).collect())
}

/// Returns faults that are warnings at the levels that the documents set, for all entities and for the entity that
/// each is in. Those that are off are left out.
pub(super) fn adjusted(documents: &Documents, warnings: Vec<Violation>) -> Vec<Violation> {
    if warnings.is_empty() {
        return warnings;
    }
    let levels = of(documents);
    let all = [Kind::Upstream, Kind::Service, Kind::Route].into_iter().flat_map(|kind| documents.of(kind));
    let own: Vec<EntityLevels<'_>> = all.flat_map(|document| entity_settings(document)).collect();
    let adjust = |warning: Violation| {
        let is_around = |entity: &&EntityLevels<'_>| entity.holds(&warning);
        let own = own.iter().find(is_around).and_then(|entity| entity.settings.get(warning.code));
        let level = own.map(LintSetting::level).or_else(|| levels.0.get(warning.code).copied());
        let level = level.unwrap_or(Some(warning.level))?;
        Some(Violation { level, ..warning })
    };
    warnings.into_iter().filter_map(adjust).collect()
}

/// Lint settings of one entity.
struct EntityLevels<'d> {
    document: &'d Document,
    path: &'d Path,
    settings: &'d BTreeMap<String, LintSetting>,
}

impl EntityLevels<'_> {
    /// True if a violation is in the entity.
    fn holds(&self, violation: &Violation) -> bool {
        let own = self.document.violation(violation.code, violation.level, self.path, String::new());
        let rest = violation.path.strip_prefix(&own.path);
        own.file == violation.file && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    }
}

/// Returns the lint settings of the entities of a document.
fn entity_settings(document: &Document) -> impl Iterator<Item = EntityLevels<'_>> {
    let upstreams = document.upstreams.iter().map(|it| (&it.path, it.entity.lint.as_ref()));
    let services = document.services.iter().map(|it| (&it.path, it.entity.lint.as_ref()));
    let routes = document.routes.iter().map(|it| (&it.path, it.entity.lint.as_ref()));
    let all = upstreams.chain(services).chain(routes);
    all.filter_map(move |(path, settings)| Some(EntityLevels { document, path, settings: settings? }))
}

/// Returns the faults in the lint settings of the documents, for all entities and for single ones.
/// `rules` are the codes of all rules.
pub(super) fn faults(documents: &[Arc<Document>], rules: &[&str]) -> Vec<Violation> {
    let mut faults = FaultCollector::default();
    for document in documents {
        for declared in &document.lint {
            let place = FaultPlace::new(document, &declared.path);
            for (code, setting) in &declared.entity {
                check(&place, (code, setting), rules, false, &mut faults);
            }
        }
        for EntityLevels { path, settings, .. } in entity_settings(document) {
            let place = FaultPlace::new(document, path).key("lint");
            for (code, setting) in settings {
                check(&place, (code, setting), rules, true, &mut faults);
            }
        }
    }
    faults.violations
}

/// Checks one setting. Its code must be that of a rule, or of a fault that is a warning. A setting of one entity must have a reason, for
/// readers who come later.
fn check(
    place: &FaultPlace<'_>,
    (code, setting): (&str, &LintSetting),
    rules: &[&str],
    needs_reason: bool,
    faults: &mut FaultCollector,
) {
    let is_warning = FAULTS.iter().any(|fault| fault.code.id == code && fault.code.level == Level::Warning);
    if !rules.contains(&code) && !is_warning {
        let help = match near(code, rules.iter().copied()).first() {
            _ if FAULTS.iter().any(|fault| fault.code.id == code) => {
                "a fault that refuses the config has no other level".to_owned()
            }
            Some(word) => format!("did you mean `{word}`?"),
            None => "`understudy explain` lists the rules".to_owned(),
        };
        faults.error(&place.key(code), code::UNKNOWN_FIELD, format!("no rule has the code `{code}`"), help);
    }
    if needs_reason && setting.reason().is_none_or(|reason| reason.trim().is_empty()) {
        let help = format!("say why, as in `{code}: {{ level: off, reason: \"…\" }}`");
        faults.missing(&place.key(code).key("reason"), "`reason`", &help);
    }
}
