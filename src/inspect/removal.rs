//! Losses of a change by files: parts of the config that a mistake takes away as easily as a decision.
//!
//! A deleted file, an unmounted volume and a template without values all read like files that declare less.
//! So a change by files is refused if a fleet would be left without listeners or routes where it had some, or
//! if more than a share of all routes, upstreams or targets would go.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use crate::build::Build;
use crate::config::code;
use crate::config::document::Kind;
use crate::config::edit::{EditAction, Files};
use crate::config::{Level, Violation};
use crate::envoy::ResourceType;
use crate::inspect::plan::PlannedChange;
use crate::model::Model;
use crate::model::documents::Documents;
use crate::model::listener::{Listener, ProtocolSettings};
use crate::model::name::{Name, Scope};

/// Minimum number of removed entities that is refused.
const MIN_REMOVED: usize = 10;

/// Default of [`LossLimits::max_removal`].
pub const MAX_REMOVAL: u8 = 50;

/// Losses that are meant, so that they are no reason to refuse a change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AllowedLosses {
    /// True if a fleet may be left without listeners or routes.
    pub empty: bool,
    /// True if any share of the routes, upstreams and targets may go.
    pub mass_removal: bool,
}

/// Limits of the losses that a change by files may cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LossLimits {
    /// Maximum percentage of routes, upstreams or targets that may go, from ten on.
    pub max_removal: u8,
    /// Losses without a limit.
    pub allowed: AllowedLosses,
}

/// Loss of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// A fleet that would be left without listeners, routes or both.
    Empty {
        /// Name of the fleet.
        fleet: Name,
        /// True if it had listeners and would have none.
        listeners: bool,
        /// True if it had routes and would have none.
        routes: bool,
    },
    /// A large share of the entities of one kind.
    Share {
        /// Kind of the entities.
        kind: Kind,
        /// Number of entities that would go.
        removed: usize,
        /// Number of entities before the change.
        total: usize,
    },
}

/// Parts of a config that a fleet gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FleetParts {
    /// True for a declared or raw listener. The default listener is no substitute for a declared one: clients
    /// do not know its address.
    listeners: bool,
    routes: bool,
}

impl Default for LossLimits {
    fn default() -> Self {
        Self { max_removal: MAX_REMOVAL, allowed: AllowedLosses::default() }
    }
}

impl LossLimits {
    /// Returns these limits without those that are lifted for one change.
    pub fn lifted(self, by: AllowedLosses) -> Self {
        let Self { max_removal, allowed } = self;
        let empty = allowed.empty || by.empty;
        Self {
            max_removal,
            allowed: AllowedLosses { empty, mass_removal: allowed.mass_removal || by.mass_removal },
        }
    }
}

impl Loss {
    /// Returns the fault because of which the files are refused.
    fn violation(&self, file: Option<String>) -> Violation {
        let word = self.word();
        let (option, parameter) = (word.replace('_', "-"), word);
        let help = format!(
            "bring back what is missing; or, if this is meant, reload with `POST /reload?allow={parameter}` or \
             start with `--allow-{option}`"
        );
        Violation {
            code: self.code(),
            level: Level::Error,
            message: self.message(),
            help: Some(help),
            file,
            line: None,
            column: None,
            path: String::new(),
            pointer: None,
            related: Vec::new(),
        }
    }

    /// Describes the loss in a plan.
    fn planned(&self) -> PlannedChange {
        let (kind, name, action) = match self {
            Self::Empty { fleet, .. } => (Kind::Fleet, fleet.to_string(), EditAction::Update),
            Self::Share { kind, removed, total } => {
                (*kind, format!("{removed} of {total}"), EditAction::Delete)
            }
        };
        let option = self.word().replace('_', "-");
        let refusal = format!("{}: {}; refused without --allow-{option}", self.code(), self.message());
        PlannedChange {
            kind: kind.singular(),
            name,
            action,
            summary: refusal.clone(),
            level: Level::Warning,
            of_many: refusal,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Empty { .. } => code::EMPTIED_FLEET,
            Self::Share { .. } => code::MASS_REMOVAL,
        }
    }

    /// Returns the word that allows it.
    fn word(&self) -> &'static str {
        match self {
            Self::Empty { .. } => "empty",
            Self::Share { .. } => "mass_removal",
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Empty { fleet, listeners, routes } => {
                let parts = match (listeners, routes) {
                    (true, true) => "listeners and routes",
                    (true, false) => "listeners",
                    (false, _) => "routes",
                };
                format!("the fleet `{fleet}` would be left without {parts}")
            }
            Self::Share { kind, removed, total } => {
                format!("{removed} of {total} {} would go", kind.plural())
            }
        }
    }
}

/// Returns the losses of a change from `before` to `after` that exceed the limits.
pub fn losses(before: &Build, after: &Build, limits: &LossLimits) -> Vec<Loss> {
    let mut losses = Vec::new();
    if !limits.allowed.empty {
        losses.extend(emptied_fleets(before, after));
    }
    if !limits.allowed.mass_removal {
        losses.extend(large_shares(&before.model, &after.model, limits.max_removal));
    }
    losses
}

/// Returns the faults because of which files are refused: the losses that exceed the limits. If exactly one
/// file is missing or blank, it is the place of the faults.
pub fn refusals(
    (old_files, before): (&Files, &Build),
    (new_files, after): (&Files, &Build),
    limits: &LossLimits,
) -> Vec<Violation> {
    let losses = losses(before, after, limits);
    if losses.is_empty() {
        return Vec::new();
    }
    let file = missing_file(old_files, new_files);
    losses.iter().map(|loss| loss.violation(file.clone())).collect()
}

/// Returns the faults because of which files are refused that leave every fleet without listeners and
/// routes, if the files before them declared some and cannot be built any more: what is missing may be what
/// they need too.
pub fn refusals_of_nothing(
    old_files: &Files,
    (new_files, after): (&Files, &Build),
    limits: &LossLimits,
) -> Vec<Violation> {
    let documents = Documents::default().updated(old_files, &after.stored, after.documents.terms()).documents;
    let declared = |kind| documents.sites(kind).next().is_some();
    let (listeners, routes) = (declared(Kind::Listener), declared(Kind::Route));
    let nothing = FleetParts { listeners: false, routes: false };
    let (mut fleets, parts) = (after.model.fleet_names().into_iter(), PartsByFleet::new(after));
    let is_nothing = fleets.all(|fleet| parts.of(&fleet) == nothing);
    if limits.allowed.empty || !is_nothing || !(listeners || routes) {
        return Vec::new();
    }
    let loss = Loss::Empty { fleet: Name::default_fleet(), listeners, routes };
    vec![loss.violation(missing_file(old_files, new_files))]
}

/// Describes the losses that exceed the limits, for a plan.
pub fn planned(before: &Build, after: &Build, limits: &LossLimits) -> Vec<PlannedChange> {
    losses(before, after, limits).iter().map(Loss::planned).collect()
}

fn emptied_fleets(before: &Build, after: &Build) -> Vec<Loss> {
    let (old_parts, new_parts) = (PartsByFleet::new(before), PartsByFleet::new(after));
    let names: HashSet<Name> = after.model.fleets.iter().map(|it| it.name.clone()).collect();
    let emptied = before.model.fleet_names().into_iter().filter_map(|fleet| {
        let old = old_parts.of(&fleet);
        let new = if names.contains(&fleet) {
            new_parts.of(&fleet)
        } else {
            new_parts.of(&successor(&before.model, &after.model, &fleet))
        };
        let (listeners, routes) = (old.listeners && !new.listeners, old.routes && !new.routes);
        (listeners || routes).then_some(Loss::Empty { fleet, listeners, routes })
    });
    emptied.collect()
}

/// Returns the fleet that gets the nodes of a removed fleet after the change: one that selects the same nodes under
/// another name, or the default one.
fn successor(before: &Model, after: &Model, fleet: &Name) -> Name {
    let removed = before.fleets.iter().find(|it| it.name == *fleet);
    let alike = removed.and_then(|removed| after.fleets.iter().find(|it| it.selects_alike(removed)));
    alike.map_or_else(Name::default_fleet, |alike| alike.name.clone())
}

/// Parts of a build by fleet. The routes are gone over once, however many fleets there are.
struct PartsByFleet<'b> {
    model: &'b Model,
    /// A raw listener may have its routes within itself.
    has_raw_listener: bool,
    has_raw_route: bool,
    has_declared_listener: bool,
    /// Pairs of a listener and a fleet that a route is for; none where it is for all.
    routes: HashSet<(Option<&'b Name>, Option<&'b Name>)>,
}

impl<'b> PartsByFleet<'b> {
    fn new(build: &'b Build) -> Self {
        fn names(scope: &Scope) -> Vec<Option<&Name>> {
            match scope {
                Scope::All => vec![None],
                Scope::Only(names) => names.iter().map(Some).collect(),
            }
        }
        let model = &build.model;
        let mut routes = HashSet::new();
        for route in model.routes.values() {
            for listener in names(&route.listeners) {
                routes.extend(names(&route.fleets).into_iter().map(|fleet| (listener, fleet)));
            }
        }
        Self {
            model,
            has_raw_listener: model.has_raw(ResourceType::Listener),
            has_raw_route: model.has_raw(ResourceType::Route),
            has_declared_listener: build.documents.sites(Kind::Listener).next().is_some(),
            routes,
        }
    }

    fn of(&self, fleet: &Name) -> FleetParts {
        let mut opened = self.model.listeners_of(fleet);
        let has_routes = opened.any(|listener| self.has_routes(fleet, listener));
        let has_listener = self.model.listeners_of(fleet).next().is_some();
        FleetParts {
            listeners: self.has_raw_listener || (self.has_declared_listener && has_listener),
            routes: self.has_raw_listener || self.has_raw_route || has_routes,
        }
    }

    /// True if a listener passes requests or connections on.
    fn has_routes(&self, fleet: &Name, listener: &Listener) -> bool {
        match &listener.protocol {
            ProtocolSettings::Http | ProtocolSettings::Https(_) => {
                let listeners = [Some(&listener.name), None];
                let scopes = listeners.into_iter().flat_map(|it| [(it, Some(fleet)), (it, None)]);
                scopes.into_iter().any(|scope| self.routes.contains(&scope))
            }
            ProtocolSettings::TlsPassthrough => {
                self.model.passthroughs_of(fleet, &listener.name).next().is_some()
            }
            ProtocolSettings::Tcp(_) | ProtocolSettings::FailoverGateway(_) => true,
        }
    }
}

fn large_shares(before: &Model, after: &Model, max_removal: u8) -> impl Iterator<Item = Loss> {
    let shares = [
        (Kind::Route, removed_routes(before, after), before.routes.len() + before.passthroughs.len()),
        (Kind::Upstream, removed_upstreams(before, after), before.upstreams.len()),
        (Kind::Target, removed_targets(before, after), target_count(before)),
    ];
    shares.into_iter().filter_map(move |(kind, removed, total)| {
        let is_large = removed >= MIN_REMOVED && removed * 100 > usize::from(max_removal) * total;
        is_large.then_some(Loss::Share { kind, removed, total })
    })
}

fn removed_routes(before: &Model, after: &Model) -> usize {
    let passthroughs: BTreeSet<&Name> = after.passthroughs.iter().map(|route| &route.name).collect();
    let names = before.routes.keys().chain(before.passthroughs.iter().map(|route| &route.name));
    names.filter(|name| !after.routes.contains_key(*name) && !passthroughs.contains(name)).count()
}

fn removed_upstreams(before: &Model, after: &Model) -> usize {
    before.upstreams.keys().filter(|name| !after.upstreams.contains_key(*name)).count()
}

fn removed_targets(before: &Model, after: &Model) -> usize {
    let removed = before.upstreams.iter().map(|(name, old)| match after.upstreams.get(name) {
        None => old.targets.len(),
        // An upstream that did not change is shared by both models.
        Some(new) if Arc::ptr_eq(new, old) => 0,
        Some(new) if new.targets == old.targets => 0,
        Some(new) => {
            let kept: BTreeSet<_> = new.targets.iter().map(|target| &target.address).collect();
            old.targets.iter().filter(|target| !kept.contains(&target.address)).count()
        }
    });
    removed.sum()
}

fn target_count(model: &Model) -> usize {
    model.upstreams.values().map(|upstream| upstream.targets.len()).sum()
}

/// Returns the file that is missing or blank now and was not before, if it is the only one.
fn missing_file(before: &Files, after: &Files) -> Option<String> {
    let has_text = |text: &str| !text.trim().is_empty();
    let is_missing = |name: &String| !after.get(name).is_some_and(|text| has_text(text));
    let mut missing = before.iter().filter(|(name, text)| has_text(text) && is_missing(name));
    let (name, _) = missing.next()?;
    missing.next().is_none().then(|| name.clone())
}

#[cfg(test)]
mod tests;
