//! The rules of the code that can be checked by reading it. The layers of `src/lib.rs` are held here, as data.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on should say where")]

use std::fs;
use std::path::{Path, PathBuf};

/// What a module of the crate may use of the others. A new arrow is a change to this table, with a reason.
const LAYERS: [(&str, &[&str]); 31] = [
    ("envoy", &[]),
    ("node", &[]),
    ("load", &[]),
    ("memo", &[]),
    ("events", &[]),
    ("access", &[]),
    // `source` to hear of changed files.
    ("tls", &["source"]),
    ("metrics", &[]),
    // `envoy` for the descriptors by which raw resources are judged, each fault with its place.
    ("config", &["envoy"]),
    // `envoy` for the types of raw resources.
    ("model", &["config", "envoy", "memo", "node"]),
    ("snapshot", &["envoy", "memo"]),
    // `config` for the enums of a document that mean the same in the model.
    ("compile", &["model", "node", "snapshot", "envoy", "config", "memo"]),
    // `compile` for what is derived of tries.
    ("lint", &["compile", "config", "memo", "model"]),
    ("pipeline", &["compile", "config", "envoy", "lint", "memo", "model", "node", "snapshot"]),
    // `config` for near words, and for the enums of a document that mean the same in the model.
    ("simulate", &["config", "model", "node"]),
    ("show", &["compile", "config", "model", "pipeline"]),
    ("plan", &["config", "envoy", "model", "pipeline", "snapshot"]),
    // `model` for the addresses that names resolve to.
    ("source", &["config", "model"]),
    // What is in force, decided by the config and by the simulator.
    ("orders", &["model", "pipeline", "simulate"]),
    // `node` for where an Envoy runs: which tier a target is in may depend on it.
    ("live", &["config", "envoy", "model", "node", "pipeline"]),
    ("history", &["live", "model", "orders"]),
    (
        "conductor",
        &["cache", "control", "events", "fleet", "history", "live", "model", "orders", "pipeline", "store"],
    ),
    // `cache` for the receivers of the newest config.
    ("notify", &["cache", "config", "events", "model"]),
    // `plan` for the edits of a revision.
    ("store", &["access", "config", "model", "plan"]),
    ("cache", &["node", "pipeline", "snapshot"]),
    (
        "control",
        &["cache", "config", "events", "fleet", "metrics", "model", "pipeline", "plan", "source", "store"],
    ),
    ("fleet", &["envoy", "events", "node", "snapshot"]),
    ("xds", &["cache", "envoy", "events", "fleet", "metrics", "node", "snapshot", "tls"]),
    (
        "admin",
        &[
            "access",
            "cache",
            "conductor",
            "config",
            "control",
            "envoy",
            "events",
            "fleet",
            "history",
            "live",
            "metrics",
            "model",
            "node",
            "notify",
            "orders",
            "pipeline",
            "plan",
            "simulate",
            "snapshot",
            "source",
            "store",
            "tls",
            "xds",
        ],
    ),
    (
        "app",
        &[
            "admin",
            "cache",
            "conductor",
            "config",
            "control",
            "events",
            "fleet",
            "live",
            "metrics",
            "notify",
            "source",
            "store",
            "tls",
            "xds",
        ],
    ),
    (
        "cli",
        &[
            "access", "admin", "app", "cache", "compile", "config", "control", "envoy", "fleet", "lint",
            "load", "model", "node", "pipeline", "plan", "show", "simulate", "snapshot", "source", "store",
            "tls", "xds",
        ],
    ),
];

/// Modules that are functions of what goes in: no sockets, no files, no clock.
const PURE: &[&str] = &[
    "envoy",
    "node",
    "memo",
    "config",
    "model",
    "snapshot",
    "compile",
    "lint",
    "pipeline",
    "simulate",
    "show",
    "plan",
    "cache/rollout",
    "orders",
    "live",
    "history",
    "xds/admission",
    "xds/subscription",
    "xds/order",
    "xds/pace",
    "xds/quarantine",
    "xds/sotw",
    "xds/specifier",
    "xds/frame",
    "xds/wire",
];

/// What a pure module never mentions.
const IMPURE: [&str; 8] = [
    "tokio",
    "async ",
    "std::fs",
    "std::net::Tcp",
    "Instant::now",
    "SystemTime",
    "Timestamp::now",
    "std::env::var",
];

/// Every source file: its path under `src/` without the ending, and its text.
fn sources() -> Vec<(String, String)> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &mut found);
    assert!(found.len() > 20, "the sources were not found");
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&root).unwrap().with_extension("");
        (name.to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap())
    };
    found.into_iter().map(read).collect()
}

/// The code of a file, without comments and without the tests at its foot.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let text = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

#[test]
fn modules_use_only_what_their_layer_may() {
    let mut faults = Vec::new();
    for (file, text) in sources() {
        let module = file.split('/').next().unwrap();
        // Tests may have what they test made by the whole program.
        if matches!(module, "lib" | "main") || file.ends_with("/tests") {
            continue;
        }
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else {
            faults.push(format!("src/{file}.rs: `{module}` has no row in the table of layers"));
            continue;
        };
        for line in code(&text) {
            for used in line.split("crate::").skip(1) {
                let used = used.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
                if used != module && !allowed.contains(&used) {
                    faults.push(format!("src/{file}.rs: `{module}` may not use `{used}`: {}", line.trim()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn pure_modules_do_no_io_and_see_no_clock() {
    let mut faults = Vec::new();
    for (file, text) in sources() {
        let is_pure = |pure: &str| file == *pure || file.starts_with(&format!("{pure}/"));
        // Tests may bound how long they wait for a refusal.
        if !PURE.iter().any(|pure| is_pure(pure)) || file.ends_with("/tests") {
            continue;
        }
        for line in code(&text) {
            if let Some(word) = IMPURE.iter().find(|word| line.contains(**word)) {
                faults.push(format!(
                    "src/{file}.rs: a pure module mentions `{}`: {}",
                    word.trim(),
                    line.trim()
                ));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_file_opens_with_its_reason() {
    let silent = sources().into_iter().filter(|(_, text)| !text.starts_with("//!"));
    assert_eq!(silent.map(|(file, _)| file).collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn a_line_names_one_module() {
    let lists =
        sources().into_iter().filter(|(_, text)| code(text).any(|line| line.contains("use crate::{")));
    assert_eq!(lists.map(|(file, _)| file).collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn no_test_is_ignored_or_wants_a_panic() {
    let words = [concat!("#[ig", "nore"), concat!("#[should_", "panic")];
    let skipped = sources().into_iter().filter(|(_, text)| words.iter().any(|word| text.contains(word)));
    assert_eq!(skipped.map(|(file, _)| file).collect::<Vec<_>>(), Vec::<String>::new());
}
