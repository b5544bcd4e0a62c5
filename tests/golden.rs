//! Golden files of the compiler: every directory of `examples/` against
//! `tests/golden/<example>/<fleet>.json`, every case of `tests/golden/cases/` against the JSON beside it, and
//! every file of `tests/invalid/` against the faults beside it. `UPDATE_EXPECT=1` rewrites them.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on should say where")]

#[path = "golden/defaults.rs"]
mod defaults;
#[path = "golden/dialects.rs"]
mod dialects;
#[path = "golden/reference.rs"]
mod reference;
#[path = "golden/schema.rs"]
mod schema;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use expect_test::expect_file;
use serde_json::{Map, Value, json};
use understudy::build::lint::explanations;
use understudy::build::snapshot::Snapshot;
use understudy::build::{self, Build, Inputs};
use understudy::config::material::NamedFile;
use understudy::config::render;
use understudy::envoy::node::Locality;
use understudy::model::addresses::Addresses;
use understudy::model::name::Name;
use understudy::source::files;
use understudy::source::material;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// Returns the addresses of host names in examples and cases.
fn addresses() -> Addresses {
    let text = fs::read_to_string(root().join("tests/golden/addresses.yaml")).unwrap();
    serde_yaml::from_str(&text).unwrap()
}

fn build(path: &Path) -> Build {
    let files = files::read(&[path.to_owned()]).unwrap();
    let mut inputs = Inputs { files, addresses: addresses(), ..Inputs::default() };
    let build = build::build_reading(&mut inputs, None, |names| material::read_named(names, None));
    build.unwrap_or_else(|faults| panic!("{}", render::human(&faults, &|_| None, false)))
}

/// Snapshot of each fleet.
type Snapshots = BTreeMap<Name, Arc<Snapshot>>;

/// Builds the directories of `examples/`.
fn examples() -> Vec<(String, Snapshots)> {
    let directories = entries(&root().join("examples")).into_iter().filter(|path| path.is_dir());
    let build = |directory: PathBuf| {
        let build = build(&directory);
        assert_eq!(build.warnings, [], "an example should be beyond reproach: {}", directory.display());
        (name(&directory), build.snapshots)
    };
    directories.map(build).collect()
}

/// Builds the files of `tests/golden/cases/`. Each shows one feature, given by its name. A file that begins
/// with `# told to an Envoy at eu/a` is compiled for an Envoy at that locality.
fn cases() -> Vec<(String, Snapshots)> {
    let files = entries(&root().join("tests/golden/cases")).into_iter();
    let files = files.filter(|path| path.extension().is_some_and(|it| it == "yaml"));
    let snapshots = |file: PathBuf| {
        let text = fs::read_to_string(&file).unwrap();
        let place = text.lines().find_map(|line| line.strip_prefix("# told to an Envoy at "));
        let place: Locality = place.unwrap_or_default().parse().unwrap();
        let build = build(&file);
        let fleets = build.snapshots.keys().cloned();
        let snapshots = fleets.map(|fleet| (fleet.clone(), build.snapshot_at(&fleet, &place)));
        (file.file_stem().unwrap().to_string_lossy().into_owned(), snapshots.collect())
    };
    files.map(snapshots).collect()
}

fn pretty(value: &Value) -> String {
    format!("{}\n", serde_json::to_string_pretty(value).unwrap())
}

#[test]
fn every_example_compiles_to_its_golden_file() {
    let mut known = BTreeSet::new();
    for (example, snapshots) in examples() {
        for (fleet, snapshot) in &snapshots {
            let golden = root().join("tests/golden").join(&example).join(format!("{fleet}.json"));
            if std::env::var_os("UPDATE_EXPECT").is_some() {
                fs::create_dir_all(golden.parent().unwrap()).unwrap();
            }
            expect_file![&golden].assert_eq(&pretty(&snapshot.to_json()));
            known.insert(golden);
        }
    }
    let directories = entries(&root().join("tests/golden")).into_iter().filter(|path| path.is_dir());
    for file in directories
        .filter(|path| !["cases", "dialects"].contains(&&*name(path)))
        .flat_map(|directory| entries(&directory))
    {
        assert!(known.contains(&file), "{} belongs to no example: remove it", file.display());
    }
}

#[test]
fn every_case_compiles_to_the_json_beside_it() {
    let directory = root().join("tests/golden/cases");
    let mut known = BTreeSet::new();
    for (case, snapshots) in cases() {
        let golden = directory.join(format!("{case}.json"));
        let snapshots = match snapshots.iter().collect::<Vec<_>>().as_slice() {
            [(_, only)] => only.to_json(),
            fleets => fleets.iter().map(|(fleet, it)| (fleet.to_string(), it.to_json())).collect(),
        };
        expect_file![&golden].assert_eq(&pretty(&snapshots));
        known.extend([golden, directory.join(format!("{case}.yaml"))]);
    }
    for file in entries(&directory).into_iter().filter(|path| path.is_file()) {
        assert!(known.contains(&file), "{} belongs to no case: remove it", file.display());
    }
}

#[test]
fn a_real_envoy_accepts_every_example_and_every_case() {
    let envoy = understudy::cli::offline::envoy::locate(&|line| eprintln!("{line}"))
        .unwrap_or_else(|error| panic!("{error}"));
    let directory = tempfile::tempdir().unwrap();
    let validate = |(name, snapshots): &(String, Snapshots)| {
        for (fleet, snapshot) in snapshots {
            let file = directory.path().join(format!("{name}-{fleet}.json"));
            fs::write(&file, bootstrap(snapshot.to_json()).to_string()).unwrap();
            let mut validation = Command::new(&envoy);
            let output =
                validation.args(["--mode", "validate", "-l", "error", "-c"]).arg(&file).output().unwrap();
            let snapshots = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{name}, fleet {fleet}: {snapshots}");
        }
    };
    let all: Vec<(String, Snapshots)> = examples().into_iter().chain(cases()).collect();
    let (one, other) = all.split_at(all.len() / 2);
    std::thread::scope(|scope| {
        scope.spawn(|| one.iter().for_each(validate));
        other.iter().for_each(validate);
    });
}

/// Turns the snapshot into a bootstrap. Resources that Envoy would ask for are inlined, so that Envoy
/// validates them too.
fn bootstrap(snapshot: Value) -> Value {
    let by_name = |kind: &str, key: &str| -> BTreeMap<String, Value> {
        let resources = snapshot[kind].as_array().unwrap().iter();
        resources.map(|resource| (resource[key].as_str().unwrap().to_owned(), resource.clone())).collect()
    };
    let (routes, endpoints) = (by_name("routes", "name"), by_name("endpoints", "cluster_name"));
    let mut resources = json!({
        "listeners": snapshot["listeners"],
        "clusters": snapshot["clusters"],
        "secrets": snapshot["secrets"],
    });
    for cluster in resources["clusters"].as_array_mut().unwrap() {
        let cluster: &mut Map<String, Value> = cluster.as_object_mut().unwrap();
        if cluster.get("type") != Some(&json!("EDS")) {
            continue;
        }
        let eds = cluster.remove("eds_cluster_config").expect("endpoints come by EDS");
        cluster.insert("type".into(), "STATIC".into());
        let name = eds.get("service_name").unwrap_or(&cluster["name"]);
        let mut assignment = endpoints[name.as_str().unwrap()].clone();
        assignment["cluster_name"] = cluster["name"].clone();
        cluster.insert("load_assignment".into(), assignment);
    }
    inline(&mut resources, &routes);
    json!({ "static_resources": resources })
}

/// Replaces references to routes and secrets by the resources themselves.
fn inline(value: &mut Value, routes: &BTreeMap<String, Value>) {
    match value {
        Value::Object(object) => {
            object.remove("sds_config");
            if let Some(rds) = object.remove("rds") {
                let name = rds["route_config_name"].as_str().unwrap();
                object.insert("route_config".into(), routes[name].clone());
            }
            object.values_mut().for_each(|value| inline(value, routes));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| inline(value, routes)),
        _ => {}
    }
}

#[test]
fn every_invalid_file_is_refused_with_the_faults_beside_it() {
    let directory = root().join("tests/invalid");
    let (configs, texts): (Vec<_>, Vec<_>) =
        entries(&directory).into_iter().partition(|path| path.extension().is_some_and(|it| it == "yaml"));
    for config in &configs {
        let text: Arc<str> = fs::read_to_string(config).unwrap().into();
        let mut inputs =
            Inputs { files: imbl::OrdMap::unit(name(config), text.clone()), ..Inputs::default() };
        let read = |names: &BTreeSet<NamedFile>| {
            let beside = |named: &NamedFile| {
                let path = directory.join(&named.path).display().to_string();
                NamedFile { path, ..named.clone() }
            };
            let read =
                |named: &NamedFile| material::read_named(&[beside(named)].into(), None).into_values().next();
            names.iter().filter_map(|named| Some((named.clone(), read(named)?))).collect()
        };
        let faults = build::build_reading(&mut inputs, None, read).expect_err(&name(config));
        let snapshots = render::human(&faults, &|_| Some(text.clone()), false);
        expect_file![config.with_extension("txt")].assert_eq(&format!("{}\n", snapshots.trim_end()));
        expect_file![config.with_extension("json")].assert_eq(&pretty(&json!(faults)));
    }
    for text in texts {
        let config = text.with_extension("yaml");
        assert!(configs.contains(&config), "{} belongs to no config: remove it", text.display());
    }
}

/// Codes that need more than a text to occur (files that cannot be read, that an Envoy refuses or that take
/// much away; time), and
/// codes that are warnings.
const NOT_OF_TEXTS: [&str; 12] = [
    "US107", "US108", "US116", "US130", "US143", "US145", "US190", "US191", "US192", "US202", "US203",
    "US208",
];

#[test]
fn every_fault_has_an_invalid_file() {
    let files = entries(&root().join("tests/invalid")).into_iter();
    let files = files.filter(|path| path.extension().is_some_and(|it| it == "json"));
    let snapshots: Vec<Value> =
        files.map(|file| serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()).collect();
    let snapshots: BTreeSet<&str> = snapshots
        .iter()
        .flat_map(|faults| faults.as_array().unwrap())
        .filter_map(|it| it["code"].as_str())
        .collect();
    let faults = explanations().into_iter().map(|it| it.code.id).filter(|code| *code >= "US100");
    let missing: Vec<&str> =
        faults.filter(|code| !snapshots.contains(code) && !NOT_OF_TEXTS.contains(code)).collect();
    assert_eq!(missing, Vec::<&str>::new());
}

#[test]
fn the_bootstraps_are_what_the_command_prints_and_a_real_envoy_accepts_them() {
    let envoy = understudy::cli::offline::envoy::locate(&|line| eprintln!("{line}"))
        .unwrap_or_else(|error| panic!("{error}"));
    for file in entries(&root().join("envoy-bootstrap")) {
        let text = fs::read_to_string(&file).unwrap();
        let command =
            text.lines().find_map(|line| line.strip_prefix("#   understudy ")).expect("how it was made");
        let printed =
            Command::new(env!("CARGO_BIN_EXE_understudy")).args(command.split(' ')).output().unwrap();
        let body: String =
            text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
        assert_eq!(String::from_utf8_lossy(&printed.stdout), body, "{}", file.display());
        let output = Command::new(&envoy)
            .args(["--mode", "validate", "-l", "error", "-c"])
            .arg(&file)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
