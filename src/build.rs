//! Build pipeline as one pure function: its inputs are everything that may change what an Envoy is sent, its
//! output is the snapshot of every fleet.
//!
//! `serve`, `check`, `compile`, a write over REST and the golden tests call the same [`build`], so they agree
//! by construction. It is incremental by content: an unchanged text is not parsed again, and an unchanged
//! resource keeps its bytes.

pub mod compile;
pub mod lint;
mod patch;
mod same_address;
pub mod snapshot;
mod variant;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use crate::build::compile::Compiled;
use crate::build::lint::Lints;
use crate::build::patch::Patched;
use crate::build::snapshot::Snapshot;
use crate::build::variant::Variants;
use crate::config::document::Document;
use crate::config::edit::{Files, Stored};
use crate::config::material::NamedFiles;
use crate::config::{Level, Violation};
use crate::envoy::node::{Locality, Node};
use crate::model::Model;
use crate::model::addresses::Addresses;
use crate::model::documents::{Documents, Parsed};
use crate::model::drill::Drill;
use crate::model::index::Subsets;
use crate::model::name::Name;
use crate::model::overrides::OverridesByUpstream;
use crate::model::target::Host;
use crate::model::upstream::Upstream;
use crate::model::validate::{self, Meaning, Resolved};

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
    /// Time at which the inputs were read, against which certificates are checked; none: validity periods are
    /// not checked.
    pub now: Option<Timestamp>,
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
    /// Time at which the warnings change although no other input does, since a certificate becomes valid, is
    /// about to expire or expires; none if they do not.
    pub until: Option<Timestamp>,
    /// Parsed documents, of files and of entities written over REST.
    pub documents: Documents,
    /// Entities written over REST, as in the inputs of this build.
    pub stored: Stored,
    subsets: Subsets,
    lints: Lints,
    resolved: Resolved,
    compiled: Compiled,
    patched: Patched,
    variants: Variants,
}

impl Build {
    /// Returns the snapshot for the nodes of a fleet that do not report a locality. That of an unknown fleet
    /// is empty.
    pub fn snapshot(&self, fleet: &Name) -> Arc<Snapshot> {
        self.snapshots.get(fleet).cloned().unwrap_or_default()
    }

    /// Returns the names of the files that the documents name, which contain keys and certificates.
    pub fn named_files(&self) -> BTreeSet<String> {
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

    /// Returns warnings and infos together, by file and position.
    pub fn violations(&self) -> Vec<Violation> {
        let infos = self.lints.violations().filter(|told| told.level == Level::Info);
        in_order(self.warnings.iter().chain(infos).cloned().collect())
    }

    /// Returns the warnings that the build `before` does not have.
    pub fn warnings_since(&self, before: &Self) -> Vec<&Violation> {
        type Key<'k> = (&'k str, &'k str, Option<&'k str>, &'k str);
        fn key(warning: &Violation) -> Key<'_> {
            (warning.code, &warning.path, warning.file.as_deref(), &warning.message)
        }
        let known: BTreeSet<Key<'_>> = before.warnings.iter().map(key).collect();
        self.warnings.iter().filter(|warning| !known.contains(&key(warning))).collect()
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

    /// Returns the fleet of a node.
    pub fn fleet_of(&self, node: &Node) -> Name {
        self.model.fleet_of(node)
    }

    /// Returns the host names and services among the targets that the control plane resolves, without those
    /// that Envoy resolves itself.
    pub fn host_names(&self) -> BTreeSet<Host> {
        let targets = self.subsets.with_names.values().flat_map(|upstream| &upstream.targets);
        let hosts = targets.map(|target| &target.address.host);
        hosts.filter(|host| !matches!(host, Host::Ip(_))).cloned().collect()
    }

    /// Returns the upstreams that have a scheduled drill, each with its drill.
    pub fn drilled(&self) -> impl Iterator<Item = (&Upstream, &Drill)> {
        self.subsets.drilled.values().filter_map(|upstream| Some((&**upstream, upstream.drill.as_ref()?)))
    }

    fn to_lint(&self) -> lint::Config<'_> {
        lint::Config { model: &self.model, resolved: &self.resolved, documents: &self.documents }
    }

    fn to_compile(&self) -> compile::Config<'_> {
        let Self { model, subsets, addresses, overrides, .. } = self;
        compile::Config { model, subsets, addresses, overrides }
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
    build_parsed(last.documents.updated(&inputs.files, &inputs.stored), inputs, last)
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
    read: impl FnOnce(&BTreeSet<String>) -> NamedFiles,
) -> Result<Build, Vec<Violation>> {
    let nothing = Build::default();
    let last = last.unwrap_or(&nothing);
    let parsed = last.documents.updated(&inputs.files, &inputs.stored);
    inputs.named_files = read(&parsed.documents.named_files());
    build_parsed(parsed, inputs, last)
}

fn build_parsed(parsed: Parsed, inputs: &Inputs, last: &Build) -> Result<Build, Vec<Violation>> {
    let Parsed { documents, new, mut violations } = parsed;
    violations.extend(lint::faults_of_levels(&new));
    let meaning = validate::validate(&documents, &inputs.named_files, inputs.now, &last.resolved);
    let Meaning { model, mut warnings, until, resolved } = match meaning {
        Ok(meaning) if violations.is_empty() => meaning,
        Ok(Meaning { warnings: found, .. }) | Err(found) => {
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
        subsets,
        resolved,
        ..Build::default()
    };
    let lints = last.lints.updated(last.to_lint(), build.to_lint());
    let refused: Vec<Violation> = lints.loud(Level::Error).cloned().collect();
    if !refused.is_empty() {
        return Err(in_order(refused));
    }
    warnings.extend(lints.loud(Level::Warning).cloned());
    let compiled = last.compiled.updated(last.to_compile(), build.to_compile());
    let patched = patch::apply(&build.documents, &build.model, &compiled, &last.patched).map_err(in_order)?;
    let snapshots = snapshots(&build.model, (&compiled, &patched), last);
    let variants = Variants::new(&build.model, &build.subsets, &compiled, &last.variants);
    let warnings = in_order(warnings);
    Ok(Build { snapshots, warnings, lints, compiled, patched, variants, ..build })
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
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::build::snapshot::Resource;
    use crate::config::document::Kind;
    use crate::envoy::ResourceType;
    use crate::model::overrides::{EndpointOverrides, First, State};
    use crate::model::selector::Part;

    const SHOP: &str = "
upstreams:
  - { name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80, failover: true }] }
services:
  - { name: shop, upstream: shop }
routes:
  - { name: shop, service: shop }
";

    fn files(files: &[(&str, &str)]) -> Inputs {
        let files = files.iter().map(|(name, text)| ((*name).to_owned(), Arc::from(*text)));
        Inputs { files: files.collect(), ..Inputs::default() }
    }

    fn stored(inputs: &mut Inputs, kind: Kind, name: &str, body: Value) {
        inputs.stored.insert((kind, name.to_owned()), Arc::new(body));
    }

    fn targets(build: &Build, upstream: &str) -> Vec<String> {
        let upstream = &build.model.upstreams[&Name::parse(upstream).expect("a name")];
        upstream.targets.iter().map(|target| format!("{} {}", target.tier, target.address)).collect()
    }

    /// Returns the faults as `code path: message`, one per line.
    fn refused(inputs: &Inputs) -> String {
        let faults = build(inputs, None).expect_err("it should be refused");
        let lines = faults.iter().map(|fault| format!("{} {}: {}", fault.code, fault.path, fault.message));
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn rule_44_equal_inputs_make_equal_versions_on_any_replica() {
        let inputs = files(&[("shop.yaml", SHOP)]);
        let builds = [build(&inputs, None), build(&inputs, None)].map(|build| build.expect("it builds"));
        assert_eq!(builds[0].snapshots, builds[1].snapshots);
    }

    #[test]
    fn a_changed_target_changes_its_endpoints_and_nothing_else() {
        let before = build(&files(&[("shop.yaml", SHOP)]), None).expect("it builds");
        let text = SHOP.replace("10.0.0.1", "10.0.0.9");
        let after = build(&files(&[("shop.yaml", &text)]), Some(&before)).expect("it builds");
        let (before, after) =
            (before.snapshot(&Name::default_fleet()), after.snapshot(&Name::default_fleet()));
        let changed =
            ResourceType::ALL.into_iter().filter(|it| !Arc::ptr_eq(before.set(*it), after.set(*it)));
        assert_eq!(changed.collect::<Vec<_>>(), [ResourceType::Endpoints]);
    }

    /// Returns the snapshots without and with an override of the upstream `shop`. Asserts that the build
    /// history does not matter, and that nothing remains of the override once it is removed.
    fn led(text: &str, endpoint_overrides: EndpointOverrides) -> [Arc<Snapshot>; 2] {
        let mut inputs = files(&[("shop.yaml", text)]);
        let before = build(&inputs, None).expect("it builds");
        inputs.overrides.insert(Name::parse("shop").expect("a name"), Arc::new(endpoint_overrides));
        let after = build(&inputs, Some(&before)).expect("it builds");
        let alone = build(&inputs, None).expect("it builds");
        assert_eq!(after.snapshots, alone.snapshots, "whatever was before");
        let released = build(&Inputs { overrides: OverridesByUpstream::new(), ..inputs }, Some(&after))
            .expect("it builds");
        assert_eq!(released.snapshots, before.snapshots, "nothing is left of it");
        [before, after].map(|build| build.snapshot(&Name::default_fleet()))
    }

    fn changed(old: &Snapshot, new: &Snapshot) -> Vec<ResourceType> {
        ResourceType::ALL.into_iter().filter(|kind| !Arc::ptr_eq(old.set(*kind), new.set(*kind))).collect()
    }

    /// Returns the endpoints under an override, each as `priority address health weight`. Asserts that
    /// nothing but endpoints changes.
    fn steered(text: &str, endpoint_overrides: EndpointOverrides) -> Vec<String> {
        let [old, new] = led(text, endpoint_overrides);
        assert_eq!(changed(&old, &new), [ResourceType::Endpoints], "nothing but endpoints");
        let told = new.to_json();
        let mut lines = Vec::new();
        for assignment in told["endpoints"].as_array().into_iter().flatten() {
            for locality in assignment["endpoints"].as_array().into_iter().flatten() {
                for endpoint in locality["lb_endpoints"].as_array().into_iter().flatten() {
                    let address = &endpoint["endpoint"]["address"]["socket_address"]["address"];
                    let health = endpoint["health_status"].as_str().unwrap_or("-");
                    let weight = &endpoint["load_balancing_weight"];
                    let priority = locality["priority"].as_u64().unwrap_or_default();
                    lines.push(format!(
                        "{priority} {} {health} {weight}",
                        address.as_str().unwrap_or_default()
                    ));
                }
            }
        }
        lines
    }

    #[test]
    fn an_order_changes_the_endpoints_of_its_upstream_and_nothing_else() {
        let part = |text: &str| Part::read(text).expect("a part");
        let states = [(part("10.0.0.1:80"), State::Drained), (part("priority=1"), State::Down)].into();
        let told = steered(SHOP, EndpointOverrides { states, first: None });
        assert_eq!(told, ["0 10.0.0.1 DRAINING 100", "1 10.0.0.2 UNHEALTHY 100"]);
    }

    #[test]
    fn what_a_drill_takes_down_stands_by_where_that_keeps_requests_away() {
        let check = |settings: &str, health: &str| {
            let states = [(Part::Priority(0), State::Rehearsed)].into();
            let text = SHOP.replace("targets:", &format!("{settings}targets:"));
            let told = steered(&text, EndpointOverrides { states, first: None });
            assert_eq!(told[0], format!("0 10.0.0.1 {health} 100"), "{settings}");
        };
        check("", "DEGRADED");
        check("load_balancer: least_request, failover: { mode: spill }, ", "DEGRADED");
        check("load_balancer: ring_hash, ", "UNHEALTHY");
        check("load_balancer: weighted_random, ", "UNHEALTHY");
        check("sticky: { header: x-seat }, ", "UNHEALTHY");
        let tcp = "
upstreams: [{ name: shop, protocol: tcp, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80, failover: true }] }]
services: [{ name: shop, upstream: shop }]
listeners: [{ name: db, address: \"127.0.0.1:7000\", protocol: tcp, service: shop }]
";
        let states = [(Part::Priority(0), State::Rehearsed)].into();
        assert_eq!(steered(tcp, EndpointOverrides { states, first: None })[0], "0 10.0.0.1 UNHEALTHY 100");
    }

    #[test]
    fn a_tier_that_serves_first_becomes_the_first_priority() {
        let first =
            |home| EndpointOverrides { first: Some(First { tier: 1, home }), ..EndpointOverrides::default() };
        assert_eq!(steered(SHOP, first(0)), ["0 10.0.0.2 - 100", "1 10.0.0.1 - 100"]);
        assert_eq!(steered(SHOP, first(10)), ["0 10.0.0.1 - 100000", "0 10.0.0.2 - 900000"]);
    }

    #[test]
    fn where_each_tier_is_a_cluster_the_first_is_put_first_in_every_aggregate_and_nothing_else_changes() {
        let hashed = SHOP.replace("targets:", "load_balancer: maglev, targets:").replace(
            "services:",
            "  - { name: far, targets: [{ target: 10.0.0.3:80 }] }
services:
  - { name: both, upstreams: [{ name: shop }, { name: far, failover: true }] }",
        ) + "  - { name: both, service: both, paths: [/both] }";
        let first =
            EndpointOverrides { first: Some(First { tier: 1, home: 0 }), ..EndpointOverrides::default() };
        let [old, new] = led(&hashed, first);
        assert_eq!(changed(&old, &new), [ResourceType::Cluster]);
        let is_new = |it: &&Arc<Resource>| old.set(ResourceType::Cluster).get(&it.name) != Some(it);
        let members = |it: &Arc<Resource>| format!("{}: {}", it.name, it.clusters.join(" "));
        let told: Vec<String> = new.set(ResourceType::Cluster).iter().filter(is_new).map(members).collect();
        assert_eq!(told, ["service/both/shop: shop/p1 shop/p0 far", "shop: shop/p1 shop/p0"]);
    }

    #[test]
    fn what_is_not_read_again_is_not_parsed_again() {
        let inputs = files(&[("a.yaml", SHOP), ("b.yaml", "fleets: []")]);
        let first = build(&inputs, None).expect("it builds");
        let mut inputs = inputs;
        inputs.files.insert("b.yaml".into(), "listeners: []".into());
        let second = build(&inputs, Some(&first)).expect("it builds");
        let of = |build: &Build| build.documents.of_files().cloned().collect::<Vec<_>>();
        let same = of(&first).iter().zip(of(&second)).map(|(a, b)| Arc::ptr_eq(a, &b)).collect::<Vec<_>>();
        assert_eq!(same, [true, false]);
    }

    #[test]
    fn a_target_that_rest_added_lives_beside_the_files_targets() {
        let mut inputs = files(&[("shop.yaml", SHOP)]);
        stored(&mut inputs, Kind::Target, "shop/10.0.0.3:80", json!({ "target": "10.0.0.3:80" }));
        let build = build(&inputs, None).expect("it builds");
        assert_eq!(targets(&build, "shop"), ["0 10.0.0.1:80", "0 10.0.0.3:80", "1 10.0.0.2:80"]);
    }

    #[test]
    fn a_target_whose_upstream_went_is_no_fault_and_returns_with_it() {
        let mut inputs = files(&[]);
        stored(&mut inputs, Kind::Target, "shop/10.0.0.3:80", json!({ "target": "10.0.0.3:80" }));
        let without = build(&inputs, None).expect("it builds");
        inputs.files = files(&[("shop.yaml", SHOP)]).files;
        let with = build(&inputs, Some(&without)).expect("it builds");
        assert!(targets(&with, "shop").contains(&"0 10.0.0.3:80".to_owned()));
    }

    #[test]
    fn a_name_is_unique_across_files_and_store_and_the_file_is_told() {
        let mut inputs = files(&[("shop.yaml", SHOP)]);
        stored(&mut inputs, Kind::Upstream, "shop", json!({ "name": "shop" }));
        assert_eq!(refused(&inputs), "US110 upstreams[0].name: another upstream is named `shop`");
    }

    #[test]
    fn rule_28_an_upstream_without_targets_has_endpoints_all_the_same() {
        let mut inputs = files(&[]);
        stored(&mut inputs, Kind::Upstream, "shop", json!({ "name": "shop" }));
        let build = build(&inputs, None).expect("it builds");
        assert_eq!(targets(&build, "shop"), Vec::<String>::new());
        let snapshot = build.snapshot(&Name::default_fleet());
        assert!(snapshot.set(ResourceType::Endpoints).get("shop").is_some());
    }

    #[test]
    fn a_fault_in_a_stored_entity_has_a_pointer_into_it() {
        let mut inputs = files(&[]);
        let body =
            json!({ "name": "shop", "targets": [{ "target": "10.0.0.1:80" }, { "target": "10.0.0.2:0" }] });
        stored(&mut inputs, Kind::Upstream, "shop", body);
        let faults = build(&inputs, None).expect_err("port 0");
        assert_eq!(faults[0].pointer.as_deref(), Some("/targets/1/target"));
        assert_eq!(faults[0].path, "upstreams.shop.targets[1].target");
    }

    #[test]
    fn names_that_a_broken_file_might_declare_are_not_missed() {
        let broken = "upstreams:\n  - name: shop\n   targets: []\n";
        let inputs = files(&[("a.yaml", broken), ("b.yaml", "services: [{ name: shop, upstream: shop }]")]);
        assert!(
            refused(&inputs).starts_with("US100") && !refused(&inputs).contains("US111"),
            "{}",
            refused(&inputs)
        );
    }

    #[test]
    fn a_fault_in_an_entity_does_not_hide_its_name() {
        let text = "
upstreams: [{ name: shop, load_balancer: none, targets: [{ target: 10.0.0.1:80 }] }]
services: [{ name: shop, upstream: shop, timeout: soon }]
routes: [{ name: shop, service: shop }]
";
        let lines = refused(&files(&[("shop.yaml", text)]));
        assert_eq!(lines.lines().count(), 2, "{lines}");
    }

    #[test]
    fn an_address_that_is_listed_twice_is_kept_once_in_its_first_tier() {
        let text = "
upstreams:
  - name: shop
    targets: [{ target: 10.0.0.1:80, priority: 1 }, { target: 10.0.0.2:80 }, { target: 10.0.0.1:80 }]
";
        let build = build(&files(&[("shop.yaml", text)]), None).expect("it builds");
        assert_eq!(targets(&build, "shop"), ["0 10.0.0.1:80", "0 10.0.0.2:80"]);
        assert_eq!(build.warnings.iter().map(|warning| warning.code).collect::<Vec<_>>(), ["US116"]);
    }

    #[test]
    fn of_an_address_that_is_listed_twice_the_one_in_use_is_kept() {
        let text = "
upstreams:
  - name: shop
    targets:
      - { target: 10.0.0.1:80, enabled: false }
      - { target: 10.0.0.1:80, priority: 1 }
      - { target: 10.0.0.2:80, failover: true }
      - { target: 10.0.0.2:80, weight: 0 }
";
        let build = build(&files(&[("shop.yaml", text)]), None).expect("it builds");
        assert_eq!(targets(&build, "shop"), ["1 10.0.0.1:80", "1 10.0.0.2:80"]);
        let codes: Vec<_> = build.warnings.iter().map(|warning| warning.code).collect();
        assert_eq!(codes, ["US020", "US116", "US116"]);
    }

    #[test]
    fn an_address_that_two_targets_lead_to_is_told_when_it_shows() {
        let text = "
upstreams:
  - name: shop
    targets: [{ target: 10.0.0.1:80 }, { target: a.example.com:80 }, { target: a.example.com:81 }]
";
        let mut inputs = files(&[("shop.yaml", text)]);
        let before = build(&inputs, None).expect("it builds");
        assert_eq!(before.warnings, []);
        let ips = ["10.0.0.2", "10.0.0.1"].map(|ip| ip.parse().expect("an IP"));
        inputs.addresses.names.insert("a.example.com".to_owned(), ips.into());
        let after = build(&inputs, Some(&before)).expect("it builds");
        let told = after.warnings.iter().map(|it| format!("{} {}: {}", it.code, it.path, it.message));
        let expected = "US116 upstreams[0].targets[1].target: \
                        `10.0.0.1:80` leads to 10.0.0.1:80 too; it is kept once, in the first tier";
        assert_eq!(told.collect::<Vec<_>>(), [expected]);
    }

    #[test]
    fn envoys_at_the_same_distances_share_a_snapshot_and_keep_what_did_not_change() {
        let text = |weight: u32| {
            format!(
                "
upstreams:
  - name: near
    failover: {{ locality: true }}
    targets:
      - {{ target: 10.0.0.1:80, region: eu, zone: a }}
      - {{ target: 10.0.0.2:80, region: eu, zone: b }}
  - {{ name: plain, targets: [{{ target: 10.0.0.3:80, weight: {weight} }}] }}
"
            )
        };
        let at = |build: &Build, place: &str| {
            build.snapshot_at(&Name::default_fleet(), &place.parse().expect("a locality"))
        };
        let get = |snapshot: &Snapshot, name: &str| {
            snapshot.set(ResourceType::Endpoints).get(name).expect("there").clone()
        };
        let priorities = |snapshot: &Snapshot| -> Vec<u64> {
            let told = get(snapshot, "near").to_json(ResourceType::Endpoints);
            let localities = told["endpoints"].as_array().expect("a list").clone();
            localities.iter().map(|it| it["priority"].as_u64().unwrap_or(0)).collect()
        };
        let first = build(&files(&[("a.yaml", &text(1))]), None).expect("it builds");
        let before = at(&first, "eu/a");
        assert_eq!(priorities(&before), [0, 1]);
        assert_eq!(priorities(&at(&first, "eu/c")), [0, 0]);
        assert!(Arc::ptr_eq(&before, &at(&first, "eu/a/rack")));
        assert!(Arc::ptr_eq(&at(&first, "us/x"), &first.snapshot(&Name::default_fleet())));

        let second = build(&files(&[("a.yaml", &text(2))]), Some(&first)).expect("it builds");
        let after = at(&second, "eu/a");
        assert!(Arc::ptr_eq(&get(&before, "near"), &get(&after, "near")));
        assert_ne!(get(&before, "plain").version, get(&after, "plain").version);

        let third = build(&files(&[("a.yaml", &text(2))]), Some(&second)).expect("it builds");
        assert!(Arc::ptr_eq(&after, &at(&third, "eu/a")), "nothing changed, so nothing is sent");
    }

    #[test]
    fn a_patch_holds_at_every_distance() {
        let text = "
upstreams:
  - name: near
    failover: { locality: true }
    targets: [{ target: 10.0.0.1:80, zone: a }, { target: 10.0.0.2:80, zone: b }]
raw: { patches: [{ kind: endpoints, name: near, merge: { policy: { overprovisioning_factor: 150 } } }] }
";
        let build = build(&files(&[("a.yaml", text)]), None).expect("it builds");
        let place = "/a".parse().expect("a locality");
        let told = build.snapshot_at(&Name::default_fleet(), &place).to_json();
        assert_eq!(told["endpoints"][0]["policy"]["overprovisioning_factor"], 150);
        assert_eq!(told["endpoints"][0]["endpoints"][1]["priority"], 1);
    }

    #[test]
    fn tiers_have_no_gaps_and_a_gap_that_was_written_is_told() {
        let text = "
upstreams:
  - name: shop
    targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80, priority: 5 }, { target: 10.0.0.3:80, priority: 9 }]
  - name: standby-only
    targets: [{ target: 10.0.0.1:80, failover: true }]
";
        let build = build(&files(&[("shop.yaml", text)]), None).expect("it builds");
        assert_eq!(targets(&build, "shop"), ["0 10.0.0.1:80", "1 10.0.0.2:80", "2 10.0.0.3:80"]);
        assert_eq!(targets(&build, "standby-only"), ["1 10.0.0.1:80"], "it stays one");
        let told = build.snapshot(&Name::default_fleet()).to_json();
        let endpoints = told["endpoints"].as_array().expect("a list").iter();
        let mut standby = endpoints.filter(|of| of["cluster_name"] == "standby-only");
        let priority = standby.next().map(|of| of["endpoints"][0]["priority"].clone());
        assert_eq!(priority, Some(Value::Null), "Envoy's first priority has targets");
        assert_eq!(build.warnings.iter().map(|warning| warning.code).collect::<Vec<_>>(), ["US117", "US020"]);
    }

    const RAW: &str = "
raw:
  resources:
    - { \"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: tracing, type: STATIC }
";

    fn told(build: &Build) -> Value {
        build.snapshot(&Name::default_fleet()).to_json()
    }

    fn names(build: &Build, kind: &str, field: &str) -> Vec<String> {
        let told = told(build);
        let resources = told[kind].as_array().expect("a list").iter();
        resources.map(|resource| resource[field].as_str().unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn raw_resources_stand_beside_compiled_ones_in_every_fleet() {
        let build = build(
            &files(&[("raw.yaml", RAW), ("shop.yaml", SHOP), ("f.yaml", "fleets: [{ name: edge }]")]),
            None,
        );
        let build = build.expect("it builds");
        assert_eq!(names(&build, "clusters", "name"), ["shop", "tracing"]);
        let edge = build.snapshot(&Name::parse("edge").expect("a name"));
        assert!(edge.set(ResourceType::Cluster).get("tracing").is_some());
    }

    #[test]
    fn nothing_is_added_to_raw_resources_and_routes_keep_the_default_listener() {
        let alone = build(&files(&[("raw.yaml", RAW)]), None).expect("it builds");
        assert_eq!(names(&alone, "listeners", "name"), Vec::<String>::new());
        assert_eq!(alone.warnings, []);
        let beside = build(&files(&[("raw.yaml", RAW), ("shop.yaml", SHOP)]), None).expect("it builds");
        assert_eq!(names(&beside, "listeners", "name"), ["default"]);
    }

    #[test]
    fn a_raw_cluster_waits_for_the_endpoints_that_it_names() {
        let mut inputs = Inputs::default();
        stored(&mut inputs, Kind::Raw, "clusters/a", json!({ "name": "a", "type": "EDS" }));
        let service = json!({ "serviceName": "x" });
        stored(
            &mut inputs,
            Kind::Raw,
            "clusters/b",
            json!({ "name": "b", "type": "EDS", "edsClusterConfig": service }),
        );
        stored(&mut inputs, Kind::Raw, "clusters/c", json!({ "name": "c", "type": "STATIC" }));
        let snapshot = build(&inputs, None).expect("it builds").snapshot(&Name::default_fleet());
        let awaited = ["a", "b", "c"]
            .map(|name| snapshot.set(ResourceType::Cluster).get(name).expect("there").endpoints.clone());
        assert_eq!(awaited.each_ref().map(|it| it.as_deref()), [Some("a"), Some("x"), None]);
    }

    #[test]
    fn a_raw_resource_keeps_its_version_and_its_parsed_form_while_others_change() {
        let mut inputs = Inputs::default();
        stored(&mut inputs, Kind::Raw, "clusters/a", json!({ "name": "a", "type": "STATIC" }));
        stored(&mut inputs, Kind::Raw, "clusters/b", json!({ "name": "b" }));
        let first = build(&inputs, None).expect("it builds");
        stored(&mut inputs, Kind::Raw, "clusters/b", json!({ "name": "b", "lbPolicy": "RANDOM" }));
        let second = build(&inputs, Some(&first)).expect("it builds");
        let get = |build: &Build, name: &str| {
            build
                .snapshot(&Name::default_fleet())
                .set(ResourceType::Cluster)
                .get(name)
                .expect("there")
                .clone()
        };
        assert!(Arc::ptr_eq(&get(&first, "a"), &get(&second, "a")));
        assert_ne!(get(&first, "b").version, get(&second, "b").version);
        assert!(Arc::ptr_eq(&first.model.raw[0], &second.model.raw[0]));
        // A different spelling of the same message is no change.
        stored(&mut inputs, Kind::Raw, "clusters/b", json!({ "lb_policy": "RANDOM", "name": "b" }));
        let third = build(&inputs, Some(&second)).expect("it builds");
        assert!(Arc::ptr_eq(&get(&second, "b"), &get(&third, "b")));
    }

    #[test]
    fn what_a_raw_resource_names_and_is_not_there_is_a_warning() {
        let ads = json!({ "ads": {} });
        let rds = json!({ "@type": "x/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "rds": { "config_source": ads, "route_config_name": "web" } });
        let tcp =
            json!({ "@type": "x/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "cluster": "shop" });
        let elsewhere = json!({ "@type": "x/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "rds": { "config_source": { "path_config_source": { "path": "x" } }, "route_config_name": "nowhere" } });
        let filters =
            json!([{ "typed_config": rds }, { "typed_config": tcp }, { "typed_config": elsewhere }]);
        let listener = json!({ "name": "a", "filter_chains": [{ "filters": filters }] });
        let route = json!({ "weightedClusters": { "clusters": [{ "name": "shop" }, { "name": "shp" }] } });
        let routes = json!({ "name": "b", "virtual_hosts": [{ "routes": [{ "route": route }] }] });
        let eds = json!({ "name": "c", "type": "EDS", "eds_cluster_config": { "eds_config": ads } });
        let mut inputs = files(&[("shop.yaml", SHOP)]);
        stored(&mut inputs, Kind::Raw, "listeners/a", listener);
        stored(&mut inputs, Kind::Raw, "routes/b", routes);
        stored(&mut inputs, Kind::Raw, "clusters/c", eds);
        let warnings = build(&inputs, None).expect("it builds").warnings;
        let told = warnings.iter().map(|it| format!("{} {}: {}", it.code, it.path, it.message));
        assert_eq!(
            told.collect::<Vec<_>>(),
            [
                "US130 raw.clusters/c: there are no endpoints for `c`",
                "US130 raw.listeners/a.filter_chains[0].filters[0].typed_config.rds.route_config_name: \
                 no route is named `web`",
                "US130 raw.routes/b.virtual_hosts[0].routes[0].route.weightedClusters.clusters[1].name: \
                 no cluster is named `shp`",
            ]
        );
        assert_eq!(warnings[2].help.as_deref(), Some("did you mean `shop`?"));
    }

    #[test]
    fn a_patch_changes_what_it_names_and_nothing_else() {
        let patch = "raw: { patches: [{ kind: clusters, name: shop, merge: { connectTimeout: 3s, health_checks: null } }] }";
        let plain = build(&files(&[("shop.yaml", SHOP)]), None).expect("it builds");
        let patched = build(&files(&[("shop.yaml", SHOP), ("patch.yaml", patch)]), None).expect("it builds");
        let mut expected = told(&plain);
        expected["clusters"][0]["connect_timeout"] = "3s".into();
        expected["clusters"][0].as_object_mut().expect("a cluster").remove("health_checks");
        assert_eq!(told(&patched), expected);
        let snapshot = patched.snapshot(&Name::default_fleet());
        let cluster = snapshot.set(ResourceType::Cluster).get("shop").expect("there").clone();
        assert_eq!(cluster.endpoints.as_deref(), Some("shop"), "its endpoints still follow it");
    }

    #[test]
    fn a_value_that_does_not_fit_is_told_where_it_stands() {
        let check = |body: Value, expected: &str| {
            let mut inputs = Inputs::default();
            stored(&mut inputs, Kind::Raw, "clusters/a", body);
            assert_eq!(refused(&inputs), expected);
        };
        check(
            json!({ "name": "a", "loadAssignment": { "endpoints": [{ "lbEndpoints": [{ "healthStatus": "DEAD" }] }] } }),
            "US103 raw.clusters/a.loadAssignment.endpoints[0].lbEndpoints[0].healthStatus: unknown value `DEAD`",
        );
        check(json!({ "name": 5 }), "US102 raw.clusters/a.name: expected a string, found the integer 5");
        check(
            json!({ "name": "a", "metadata": { "filter_metadata": { "x": 5 } } }),
            "US102 raw.clusters/a.metadata.filter_metadata.x: expected a mapping, found the integer 5",
        );
        check(
            json!({ "name": "a", "transport_socket": { "name": "tls", "typed_config": { "x": 1 } } }),
            "US105 raw.clusters/a.transport_socket.typed_config.@type: `@type` is missing",
        );
        check(
            json!({ "@type": "x/envoy.config.route.v3.VirtualHost", "name": "a" }),
            "US103 raw.clusters/a.@type: this should be envoy.config.cluster.v3.Cluster, \
             not envoy.config.route.v3.VirtualHost",
        );
    }
}
