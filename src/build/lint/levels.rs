//! Levels of rules: by default, as set for all entities, and as set for one entity.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::build::lint::explanation::Explanation;
use crate::build::lint::faults::FAULTS;
use crate::config::code;
use crate::config::document::Document;
use crate::config::document::lint::LintSetting;
use crate::config::{Level, Violation, near};
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
        let upstreams = document.upstreams.iter().map(|it| (&it.path, it.entity.lint.as_ref()));
        let services = document.services.iter().map(|it| (&it.path, it.entity.lint.as_ref()));
        let routes = document.routes.iter().map(|it| (&it.path, it.entity.lint.as_ref()));
        let settings = upstreams.chain(services).chain(routes);
        for (path, settings) in settings.filter_map(|(path, settings)| Some((path, settings?))) {
            let place = FaultPlace::new(document, path).key("lint");
            for (code, setting) in settings {
                check(&place, (code, setting), rules, true, &mut faults);
            }
        }
    }
    faults.violations
}

/// Checks one setting. Its code must be that of a rule. A setting of one entity must have a reason, for
/// readers who come later.
fn check(
    place: &FaultPlace<'_>,
    (code, setting): (&str, &LintSetting),
    rules: &[&str],
    needs_reason: bool,
    faults: &mut FaultCollector,
) {
    if !rules.contains(&code) {
        let help = match near(code, rules.iter().copied()).first() {
            _ if FAULTS.iter().any(|fault| fault.code.id == code) => {
                "a fault is no rule, and has no level".to_owned()
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
