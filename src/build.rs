//! Build pipeline as one pure function: its inputs are everything that may change what an Envoy is sent, its
//! output is the snapshot of every fleet.
//!
//! `serve`, `check`, `compile`, a write over REST and the golden tests call the same [`build`], so they agree
//! by construction. It is incremental by content: an unchanged text is not parsed again, and an unchanged
//! resource keeps its bytes.

pub mod compile;
pub mod index;
pub mod lint;
mod patch;
mod reach;
mod same_address;
pub mod secrecy;
pub mod snapshot;
mod variant;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use crate::build::compile::Compiled;
use crate::build::index::UpstreamIndex;
use crate::build::lint::Lints;
use crate::build::patch::Patched;
use crate::build::secrecy::{InlineSecrets, SecretAccess};
use crate::build::snapshot::Snapshot;
use crate::build::snapshot::store_id::StoreId;
use crate::build::variant::Variants;
use crate::config::cap::capped;
use crate::config::dialect::ReadingTerms;
use crate::config::document::Document;
use crate::config::edit::{Files, Stored};
use crate::config::material::{NamedFile, NamedFiles};
use crate::config::{Level, Violation};
use crate::envoy::node::{Locality, Node, NodeField, VouchedFields};
use crate::model::Model;
use crate::model::addresses::Addresses;
use crate::model::documents::{Documents, Parsed};
use crate::model::drill::ScheduledDrill;
use crate::model::name::Name;
use crate::model::overrides::OverridesByUpstream;
use crate::model::target::Host;
use crate::model::upstream::Upstream;
use crate::model::validate::resolved::ResolvedEntities;
use crate::model::validate::{self, Validated};

/// Inputs of a build: everything that may change what an Envoy is sent, as one value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Inputs {
    /// Config texts, by file name.
    pub files: Files,
    /// Entities written over REST.
    pub stored: Stored,
    /// Resolved addresses of host names.
    pub addresses: Addresses,
    /// Contents of the files that the documents name; [`build_reading`] determines their names and reads
    /// them.
    pub named_files: NamedFiles,
    /// Overrides by operators, drills and failback, by upstream.
    pub overrides: OverridesByUpstream,
    /// Terms under which files are read.
    pub terms: ReadingTerms,
    /// Time at which the inputs were read, against which certificates are checked; none: validity periods are
    /// not checked.
    pub now: Option<Timestamp>,
    /// Store of the entities, which the versions for clients name; none outside of a control plane.
    pub store: Option<StoreId>,
}

/// Accepted config with everything that was made of it.
#[derive(Debug, Default)]
pub struct Build {
    /// Validated entities of the documents.
    pub model: Model,
    /// Resolved addresses of host names.
    pub addresses: Addresses,
    /// Overrides by operators, drills and failback, by upstream.
    pub overrides: OverridesByUpstream,
    /// Snapshots by fleet, for Envoys to which distances do not matter.
    pub snapshots: BTreeMap<Name, Arc<Snapshot>>,
    /// Warnings, by file and position; [`Self::violations`] returns the infos as well.
    pub warnings: Vec<Violation>,
    /// Faults that the config sets to level info; the findings of rules at that level are among the lints.
    infos: Vec<Violation>,
    /// Time at which the warnings change although no other input does, since a certificate becomes valid, is
    /// about to expire or expires; none if they do not.
    pub until: Option<Timestamp>,
    /// Parsed documents, of files and of entities written over REST.
    pub documents: Documents,
    /// Entities written over REST, as in the inputs of this build.
    pub stored: Stored,
    /// Store that the versions for clients name; none outside of a control plane.
    pub store: Option<StoreId>,
    subsets: UpstreamIndex,
    lints: Lints,
    resolved: ResolvedEntities,
    compiled: Compiled,
    patched: Patched,
    variants: Variants,
    inline_secrets: InlineSecrets,
}

impl Build {
    /// Returns the snapshot for the nodes of a fleet that do not report a locality. That of an unknown fleet
    /// is empty.
    pub fn snapshot(&self, fleet: &Name) -> Arc<Snapshot> {
        self.snapshots.get(fleet).cloned().unwrap_or_default()
    }

    /// Returns the names of the files that the documents name, which contain keys and certificates.
    pub fn named_files(&self) -> BTreeSet<NamedFile> {
        self.documents.named_files()
    }

    /// Returns the snapshot for the nodes of a fleet at one place, with tiers by distance for the upstreams
    /// that ask for them.
    pub fn snapshot_at(&self, fleet: &Name, place: &Locality) -> Arc<Snapshot> {
        self.variants.snapshot(fleet, place, self.snapshot(fleet), |base, last| {
            let patches = patch::Patches::of(&self.documents);
            let amend = |resource_type, resource| patches.applied(resource_type, resource);
            let upstreams = self.subsets.by_distance.keys();
            self.compiled.snapshot_at((fleet, place), upstreams, (base, last), amend)
        })
    }

    /// Returns the snapshot for a node, by its fleet and locality.
    pub fn snapshot_for(&self, node: &Node) -> Arc<Snapshot> {
        self.snapshot_at(&self.fleet_of(node), &node.locality)
    }

    /// Returns the documents of the files, without those of entities written over REST.
    pub fn file_documents(&self) -> impl Iterator<Item = &Arc<Document>> {
        self.documents.of_files()
    }

    /// Returns warnings and infos together, by file and position; of too many, the first and their number.
    pub fn violations(&self) -> Vec<Violation> {
        let infos = self.lints.violations().filter(|told| told.level == Level::Info);
        capped(in_order(self.warnings.iter().chain(&self.infos).chain(infos).cloned().collect()))
    }

    /// Returns warnings about the files themselves at the levels that the config sets, without those that are off.
    pub fn adjusted(&self, warnings: Vec<Violation>) -> Vec<Violation> {
        lint::adjusted(&self.documents, warnings)
    }

    /// Returns the warnings that the build `before` does not have; of too many, the first and their number.
    pub fn warnings_since(&self, before: &Self) -> Vec<Violation> {
        type Key<'k> = (&'k str, &'k str, Option<&'k str>, &'k str);
        fn key(warning: &Violation) -> Key<'_> {
            (warning.code, &warning.path, warning.file.as_deref(), &warning.message)
        }
        let known: BTreeSet<Key<'_>> = before.warnings.iter().map(key).collect();
        let new = self.warnings.iter().filter(|warning| !known.contains(&key(warning)));
        capped(new.cloned().collect())
    }

    /// Returns true if the snapshots of all fleets differ in nothing but endpoints, and the fleets select the
    /// same nodes.
    pub fn is_alike(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.snapshots, &other.snapshots);
        let are_alike = |fleet| self.snapshot(fleet).is_alike(&other.snapshot(fleet));
        self.model.fleets == other.model.fleets && ours.keys().chain(theirs.keys()).all(are_alike)
    }

    /// Returns true if the snapshots of the node's fleets differ in nothing but endpoints.
    pub fn is_alike_for(&self, other: &Self, node: &Node) -> bool {
        self.snapshot(&self.fleet_of(node)).is_alike(&other.snapshot(&other.fleet_of(node)))
    }

    /// Returns true if this fleet has the same nodes in both builds, and the snapshots differ in nothing but
    /// endpoints.
    pub fn is_alike_in(&self, other: &Self, fleet: &str) -> bool {
        let are_alike = |fleet: &Name| self.snapshot(fleet).is_alike(&other.snapshot(fleet));
        self.model.fleets == other.model.fleets && Name::parse(fleet).is_none_or(|fleet| are_alike(&fleet))
    }

    /// Returns the name of the fleet that the nodes of a fleet of an earlier build may have: the default one if
    /// it is gone.
    pub fn fleet_after(&self, fleet: &str) -> String {
        let is_there = self.model.fleets.iter().any(|it| it.name.as_str() == fleet);
        if is_there { fleet.to_owned() } else { Name::default_fleet().to_string() }
    }

    /// Returns the fleet of a node.
    pub fn fleet_of(&self, node: &Node) -> Name {
        self.model.fleet_of(node)
    }

    /// Returns the access of a node to the secrets of its fleet, if certificates vouch for these fields of nodes.
    pub fn secret_access(&self, node: &Node, vouched: &VouchedFields) -> SecretAccess {
        let fleet = self.fleet_of(node);
        let snapshot = self.snapshot(&fleet);
        if self.unvouched(&fleet, vouched).is_empty() {
            SecretAccess::Full
        } else if self.inline_secrets.are_in(&snapshot) {
            SecretAccess::Refused
        } else if snapshot.without_private_secrets().is_some() {
            SecretAccess::Withheld
        } else {
            SecretAccess::Full
        }
    }

    /// Returns the fields that select a fleet although no certificate vouches for them. None select the default
    /// fleet.
    pub fn unvouched(&self, fleet: &Name, vouched: &VouchedFields) -> Vec<&NodeField> {
        let fleet = self.model.fleets.iter().find(|own| own.name == *fleet);
        let fields = fleet.into_iter().flat_map(|fleet| fleet.selecting_fields());
        fields.filter(|field| !vouched.include(field)).collect()
    }

    /// Returns the fleets that fields select for which no certificate vouches, each with those fields.
    pub fn unvouched_fleets(&self, vouched: &VouchedFields) -> Vec<(&Name, Vec<&NodeField>)> {
        let fleets =
            self.model.fleets.iter().map(|fleet| (&fleet.name, self.unvouched(&fleet.name, vouched)));
        fleets.filter(|(_, fields)| !fields.is_empty()).collect()
    }

    /// Returns the fleets that have secrets.
    pub fn fleets_with_secrets(&self) -> Vec<&Name> {
        let has = |snapshot: &Snapshot| {
            self.inline_secrets.are_in(snapshot) || snapshot.without_private_secrets().is_some()
        };
        self.snapshots.iter().filter(|(_, snapshot)| has(snapshot)).map(|(name, _)| name).collect()
    }

    /// Returns the host names and services among the targets that the control plane resolves, without those
    /// that Envoy resolves itself.
    pub fn host_names(&self) -> BTreeSet<Host> {
        let targets = self.subsets.with_names.values().flat_map(|upstream| &upstream.targets);
        let hosts = targets.map(|target| &target.address.host);
        hosts.filter(|host| !matches!(host, Host::Ip(_))).cloned().collect()
    }

    /// Returns the upstreams that have a scheduled drill, each with its drill.
    pub fn drilled(&self) -> impl Iterator<Item = (&Upstream, &ScheduledDrill)> {
        self.subsets.drilled.values().filter_map(|upstream| Some((&**upstream, upstream.drill.as_ref()?)))
    }

    fn to_lint(&self) -> lint::input::LintInput<'_> {
        lint::input::LintInput { model: &self.model, resolved: &self.resolved, documents: &self.documents }
    }

    fn to_compile(&self) -> compile::CompileInput<'_> {
        let Self { model, subsets, addresses, overrides, store, .. } = self;
        compile::CompileInput { model, subsets, addresses, overrides, store: *store }
    }
}

/// Builds the snapshots of all fleets. Whatever did not change is taken from `last`.
///
/// # Errors
///
/// Returns all faults of all documents at once. Without faults: the findings of rules at level error, or else
/// the patches that do not apply.
pub fn build(inputs: &Inputs, last: Option<&Build>) -> Result<Build, Vec<Violation>> {
    let nothing = Build::default();
    let last = last.unwrap_or(&nothing);
    build_parsed(last.documents.updated(&inputs.files, &inputs.stored, &inputs.terms), inputs, last)
}

/// Builds like [`build`], after `read` has returned the contents of the files that the documents name. Stores
/// them in `inputs`.
///
/// # Errors
///
/// Fails as [`build`] does.
pub fn build_reading(
    inputs: &mut Inputs,
    last: Option<&Build>,
    read: impl FnOnce(&BTreeSet<NamedFile>) -> NamedFiles,
) -> Result<Build, Vec<Violation>> {
    let nothing = Build::default();
    let last = last.unwrap_or(&nothing);
    let parsed = last.documents.updated(&inputs.files, &inputs.stored, &inputs.terms);
    inputs.named_files = read(&parsed.documents.named_files());
    build_parsed(parsed, inputs, last)
}

fn build_parsed(parsed: Parsed, inputs: &Inputs, last: &Build) -> Result<Build, Vec<Violation>> {
    let Parsed { documents, new, mut violations } = parsed;
    violations.extend(lint::faults_of_levels(&new));
    // Every resource names the store.
    let nothing = Build::default();
    let last = if last.store == inputs.store { last } else { &nothing };
    let (refused, foreign) = lint::foreign(&documents);
    violations.extend(refused);
    let meaning = validate::validate(&documents, &inputs.named_files, inputs.now, &last.resolved);
    let Validated { model, mut warnings, until, resolved } = match meaning {
        Ok(meaning) if violations.is_empty() => meaning,
        Ok(Validated { warnings: found, .. }) | Err(found) => {
            violations.extend(found);
            return Err(in_order(violations));
        }
    };
    let (addresses, stored, overrides) =
        (inputs.addresses.clone(), inputs.stored.clone(), inputs.overrides.clone());
    let subsets = last.subsets.updated(&last.model.upstreams, &model.upstreams);
    warnings.extend(same_address::warnings(&subsets, &addresses, &documents));
    let build = Build {
        model,
        until,
        addresses,
        overrides,
        documents,
        stored,
        store: inputs.store,
        subsets,
        resolved,
        ..Build::default()
    };
    let lints = last.lints.updated(last.to_lint(), build.to_lint());
    let told = lint::adjusted(&build.documents, warnings).into_iter();
    let told = told.chain(lints.at_level(Level::Warning).cloned()).chain(foreign);
    let (mut refused, told): (Vec<_>, Vec<_>) = told.partition(|it| it.level == Level::Error);
    refused.extend(lints.at_level(Level::Error).cloned());
    if !refused.is_empty() {
        return Err(in_order(refused));
    }
    let (infos, warnings): (Vec<_>, Vec<_>) = told.into_iter().partition(|it| it.level == Level::Info);
    let compiled = last.compiled.updated(last.to_compile(), build.to_compile());
    let patched = patch::apply(&build.documents, &build.model, &compiled, &last.patched).map_err(in_order)?;
    let snapshots = snapshots(&build.model, (&compiled, &patched), last);
    let inline_secrets = InlineSecrets::new(&build.model, &build.documents);
    let variants = Variants::new(&build.model, &build.subsets, &compiled, &last.variants);
    let warnings = in_order(warnings);
    Ok(Build { snapshots, warnings, infos, lints, compiled, patched, variants, inline_secrets, ..build })
}

/// Sorts violations: errors first, then by file and position.
fn in_order(mut violations: Vec<Violation>) -> Vec<Violation> {
    violations
        .sort_by(|a, b| (&a.file, a.line, a.column, &a.path).cmp(&(&b.file, b.line, b.column, &b.path)));
    violations.sort_by_key(|violation| violation.level != Level::Error);
    violations
}

fn snapshots(
    model: &Model,
    (compiled, patched): (&Compiled, &Patched),
    last: &Build,
) -> BTreeMap<Name, Arc<Snapshot>> {
    let is_patched_alike = patched.outputs() == last.patched.outputs();
    let of = |fleet: Name| {
        let amend = |resource_type, resource: &_| patch::amended(patched, resource_type, resource);
        let known = last.snapshots.get(&fleet);
        let base = known.filter(|_| is_patched_alike).map(|known| (&last.compiled, &**known));
        let snapshot = compiled.snapshot(&fleet, base, amend);
        match known {
            Some(known) if **known == snapshot => (fleet, known.clone()),
            Some(known) => (fleet, Arc::new(snapshot.keeping(known))),
            None => (fleet, Arc::new(snapshot)),
        }
    };
    model.fleet_names().into_iter().map(of).collect()
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests;
