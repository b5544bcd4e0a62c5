//! Rules of the code that can be checked by reading it. The layers of `src/lib.rs` are listed here, as data.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on should say where")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms of the crate, from the ground up, and the rooms each may use. A new arrow is a change to this table,
/// with a reason; an arrow that nothing uses any more is a fault.
const ROOMS: [(&str, &[&str]); 18] = [
    ("envoy", &[]),
    ("memo", &[]),
    // `envoy` for the descriptors by which raw resources are checked, each fault with its place.
    ("config", &["envoy"]),
    ("model", &["config", "envoy", "memo"]),
    ("build", &["config", "envoy", "memo", "model"]),
    ("inspect", &["build", "config", "envoy", "model"]),
    // `model` for the addresses that names resolve to.
    ("source", &["config", "model"]),
    ("store", &["config"]),
    // `source` to watch the TLS files, `store` for the tokens.
    ("access", &["source", "store"]),
    ("cache", &["build", "envoy"]),
    // `cache` for the receivers of the newest config.
    ("telemetry", &["cache", "config", "model"]),
    ("nodes", &["build", "envoy", "telemetry"]),
    ("control", &["build", "cache", "config", "inspect", "model", "nodes", "source", "store", "telemetry"]),
    (
        "failover",
        &["build", "cache", "config", "control", "envoy", "inspect", "model", "nodes", "store", "telemetry"],
    ),
    ("xds", &["access", "build", "cache", "envoy", "nodes", "telemetry"]),
    (
        "admin",
        &[
            "access",
            "build",
            "cache",
            "config",
            "control",
            "envoy",
            "failover",
            "inspect",
            "model",
            "nodes",
            "source",
            "store",
            "telemetry",
        ],
    ),
    (
        "app",
        &["access", "admin", "config", "control", "failover", "nodes", "source", "store", "telemetry", "xds"],
    ),
    ("cli", &["access", "admin", "app", "build", "config", "envoy", "inspect", "model", "source", "store"]),
];

/// Modules that are pure functions of their input: no sockets, no files, no clock.
const PURE: &[&str] = &[
    "envoy",
    "memo",
    "config",
    "model",
    "build",
    "inspect",
    "control/rollout/canary",
    "failover/orders",
    "failover/traffic",
    "failover/history",
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

/// Words that a pure module never contains.
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

/// Returns every source file: its path under `src/` without the extension, and its text.
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

/// Returns the code of a file, without comments and without the tests at its end.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let text = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

/// The names that a line of code takes from the crate: the first segment of each path after `crate::`.
fn used_rooms(line: &str) -> impl Iterator<Item = &str> {
    let names = line.split("crate::").skip(1);
    names.map(|path| path.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap())
}

#[test]
fn rooms_use_only_what_their_row_allows_and_every_arrow_is_used() {
    let (mut faults, mut used) = (Vec::new(), BTreeSet::new());
    for (file, text) in sources() {
        let room = file.split('/').next().unwrap();
        // Tests may use the whole program to build their input.
        if matches!(room, "lib" | "main") || file.ends_with("/tests") || file.ends_with("/properties") {
            continue;
        }
        let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            faults.push(format!("src/{file}.rs: `{room}` has no row in the table of rooms"));
            continue;
        };
        for line in code(&text) {
            for other in used_rooms(line).filter(|other| *other != room) {
                used.insert((room.to_owned(), other.to_owned()));
                if !allowed.contains(&other) {
                    faults.push(format!("src/{file}.rs: `{room}` may not use `{other}`: {}", line.trim()));
                }
            }
        }
    }
    for (room, allowed) in ROOMS {
        let stale = allowed.iter().filter(|other| !used.contains(&(room.to_owned(), (**other).to_owned())));
        faults
            .extend(stale.map(|other| format!("`{room}` does not use `{other}` any more: delete the arrow")));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn there_are_at_most_twenty_rooms_and_their_arrows_point_down() {
    assert!(ROOMS.len() <= 20, "{} rooms", ROOMS.len());
    for (index, (room, allowed)) in ROOMS.iter().enumerate() {
        for other in *allowed {
            let is_below = ROOMS[..index].iter().any(|(name, _)| name == other);
            assert!(is_below, "`{room}` stands above `{other}` in the table, or `{other}` has no row");
        }
    }
}

#[test]
fn pure_modules_do_no_io_and_see_no_clock() {
    let mut faults = Vec::new();
    for (file, text) in sources() {
        let is_pure = |pure: &str| file == *pure || file.starts_with(&format!("{pure}/"));
        // Tests may use the clock to limit a wait.
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
