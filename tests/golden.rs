//! The compiler's golden files: every directory of `examples/` against `tests/golden/<example>/<fleet>.json`,
//! and every file of `tests/invalid/` against the faults beside it. `UPDATE_EXPECT=1` rewrites them.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on should say where")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use expect_test::expect_file;
use serde_json::{Map, Value, json};
use understudy::config::render;
use understudy::model::target::Addresses;
use understudy::pipeline::{self, Build, Inputs};
use understudy::source::files;

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

/// The examples, built; host names have the addresses that stand beside the golden file.
fn examples() -> Vec<(String, Build)> {
    let build = |directory: PathBuf| {
        let addresses = root().join("tests/golden").join(name(&directory)).join("addresses.yaml");
        let addresses: Addresses = fs::read_to_string(addresses)
            .map(|text| serde_yaml::from_str(&text).unwrap())
            .unwrap_or_default();
        let files = files::read(std::slice::from_ref(&directory)).unwrap();
        let build = pipeline::build(&Inputs { files, addresses, ..Inputs::default() }, None);
        let build = build.unwrap_or_else(|faults| panic!("{}", render::human(&faults, &|_| None, false)));
        assert_eq!(build.warnings, [], "an example should be beyond reproach: {}", directory.display());
        (name(&directory), build)
    };
    entries(&root().join("examples")).into_iter().filter(|path| path.is_dir()).map(build).collect()
}

#[test]
fn every_example_compiles_to_its_golden_file() {
    let mut known = BTreeSet::new();
    for (example, build) in examples() {
        known.insert(root().join("tests/golden").join(&example).join("addresses.yaml"));
        for (fleet, snapshot) in &build.snapshots {
            let golden = root().join("tests/golden").join(&example).join(format!("{fleet}.json"));
            if std::env::var_os("UPDATE_EXPECT").is_some() {
                fs::create_dir_all(golden.parent().unwrap()).unwrap();
            }
            let text = serde_json::to_string_pretty(&snapshot.to_json()).unwrap();
            expect_file![&golden].assert_eq(&format!("{text}\n"));
            known.insert(golden);
        }
    }
    for directory in entries(&root().join("tests/golden")) {
        for file in entries(&directory) {
            assert!(known.contains(&file), "{} belongs to no example: remove it", file.display());
        }
    }
}

#[test]
fn a_real_envoy_accepts_every_example() {
    let envoy =
        understudy::cli::envoy::locate(&|line| eprintln!("{line}")).unwrap_or_else(|error| panic!("{error}"));
    let directory = tempfile::tempdir().unwrap();
    for (example, build) in examples() {
        for (fleet, snapshot) in &build.snapshots {
            let file = directory.path().join(format!("{example}-{fleet}.json"));
            fs::write(&file, bootstrap(snapshot.to_json()).to_string()).unwrap();
            let mut validation = Command::new(&envoy);
            let output =
                validation.args(["--mode", "validate", "-l", "error", "-c"]).arg(&file).output().unwrap();
            let told = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{example}, fleet {fleet}: {told}");
        }
    }
}

/// The snapshot as a bootstrap: what Envoy would ask for is put in its place, so that it is looked at too.
fn bootstrap(snapshot: Value) -> Value {
    let by_name = |kind: &str, key: &str| -> BTreeMap<String, Value> {
        let resources = snapshot[kind].as_array().unwrap().iter();
        resources.map(|resource| (resource[key].as_str().unwrap().to_owned(), resource.clone())).collect()
    };
    let (routes, endpoints) = (by_name("routes", "name"), by_name("endpoints", "cluster_name"));
    let mut listeners = snapshot["listeners"].clone();
    for listener in listeners.as_array_mut().unwrap() {
        let manager = listener["filter_chains"][0]["filters"][0]["typed_config"].as_object_mut().unwrap();
        let rds = manager.remove("rds").expect("routes come by RDS");
        manager.insert("route_config".into(), routes[rds["route_config_name"].as_str().unwrap()].clone());
    }
    let mut clusters = snapshot["clusters"].clone();
    for cluster in clusters.as_array_mut().unwrap() {
        let cluster: &mut Map<String, Value> = cluster.as_object_mut().unwrap();
        if cluster["type"] != "EDS" {
            continue;
        }
        cluster.remove("eds_cluster_config").expect("endpoints come by EDS");
        cluster.insert("type".into(), "STATIC".into());
        let assignment = endpoints[cluster["name"].as_str().unwrap()].clone();
        cluster.insert("load_assignment".into(), assignment);
    }
    json!({ "static_resources": { "listeners": listeners, "clusters": clusters } })
}

#[test]
fn every_invalid_file_is_refused_with_the_faults_beside_it() {
    let directory = root().join("tests/invalid");
    let (texts, configs): (Vec<_>, Vec<_>) =
        entries(&directory).into_iter().partition(|path| path.extension().is_some_and(|it| it == "txt"));
    for config in &configs {
        let text: Arc<str> = fs::read_to_string(config).unwrap().into();
        let inputs = Inputs { files: [(name(config), text.clone())].into(), ..Inputs::default() };
        let faults = pipeline::build(&inputs, None).expect_err(&name(config));
        let told = render::human(&faults, &|_| Some(text.clone()), false);
        expect_file![config.with_extension("txt")].assert_eq(&format!("{}\n", told.trim_end()));
    }
    for text in texts {
        let config = text.with_extension("yaml");
        assert!(configs.contains(&config), "{} belongs to no config: remove it", text.display());
    }
}

#[test]
fn the_bootstraps_are_what_the_command_prints_and_a_real_envoy_accepts_them() {
    let envoy =
        understudy::cli::envoy::locate(&|line| eprintln!("{line}")).unwrap_or_else(|error| panic!("{error}"));
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
