//! Rules of the code that can be checked by reading it, as data: rooms, purity, sizes, names, comments.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

#[path = "tidy/circles.rs"]
mod circles;
#[path = "tidy/parser.rs"]
mod parser;
#[path = "tidy/source.rs"]
mod source;

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Source, sources};

/// Rooms of the crate, from the ground up, and the rooms that each may use. A new arrow is a change to this
/// table, with a reason; an arrow that nothing uses any more is a fault.
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
    // `envoy` for the fields of a node that its certificate vouches for, `source` to watch the TLS files, `store`
    // for the tokens.
    ("access", &["envoy", "source", "store"]),
    ("cache", &["build", "envoy"]),
    // `cache` for the receivers of the newest config.
    ("telemetry", &["cache", "config", "model"]),
    ("nodes", &["build", "envoy", "telemetry"]),
    (
        "control",
        &["build", "cache", "config", "envoy", "inspect", "model", "nodes", "source", "store", "telemetry"],
    ),
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
        &[
            "access",
            "admin",
            // For the fleets whose secrets more clients can get than may be meant.
            "build",
            "cache",
            "config",
            "control",
            "failover",
            // For the limits of the losses by files, which the options set.
            "inspect",
            "nodes",
            "source",
            "store",
            "telemetry",
            "xds",
        ],
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
    "source/absence",
    "failover/orders",
    "failover/traffic",
    "failover/history",
    "xds/port/admission",
    "xds/stream",
    "xds/wire",
    "xds/service/health_discovery/specifier",
    "xds/service/load_report/budget",
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

/// Limit of a file, without its tests at the foot.
const FILE_LINES: usize = 600;

/// Limit of a function.
const FUNCTION_LINES: usize = 60;

/// Limit of a type, in functions of all its `impl` blocks in a room.
const METHODS: usize = 25;

/// Percentage of the type names that may stand for two or more types.
const SHARED_NAMES: usize = 8;

/// Words that no comment opens with: a comment opens with a noun phrase or a third-person verb.
const OPENERS: [&str; 12] = [
    "What ",
    "How ",
    "Of ",
    "Those ",
    "Who ",
    "Whose ",
    "Whom ",
    "Which ",
    "The same",
    "As long as ",
    "So many ",
    "Whether ",
];

/// Returns the lines of code with their numbers, without comments, text and the tests at the end.
fn code(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    source.code_without_tests().lines().enumerate().map(|(index, line)| (index + 1, line))
}

fn report(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// Returns the rooms that a line of code uses: the first segment of each path after `crate::`.
fn used_rooms(line: &str) -> impl Iterator<Item = &str> {
    let names = line.split("crate::").skip(1);
    names.map(|path| path.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap())
}

#[test]
fn rooms_use_only_what_their_row_allows_and_every_arrow_is_used() {
    let (mut faults, mut used) = (Vec::new(), BTreeSet::new());
    for source in sources() {
        let file = &source.module;
        let room = file.split('/').next().unwrap();
        // Tests may use the whole program to build their input.
        if matches!(room, "lib" | "main") || source.is_test() {
            continue;
        }
        let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            faults.push(format!("src/{file}.rs: `{room}` has no row in the table of rooms"));
            continue;
        };
        for (number, line) in code(source) {
            for other in used_rooms(line).filter(|other| *other != room) {
                used.insert((room.to_owned(), other.to_owned()));
                if !allowed.contains(&other) {
                    let line = line.trim();
                    faults.push(format!("src/{file}.rs:{number}: `{room}` may not use `{other}`: {line}"));
                }
            }
        }
    }
    for (room, allowed) in ROOMS {
        let stale = allowed.iter().filter(|other| !used.contains(&(room.to_owned(), (**other).to_owned())));
        faults
            .extend(stale.map(|other| format!("`{room}` does not use `{other}` any more: delete the arrow")));
    }
    report(&faults);
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

/// Checks that no two files or folders beside each other use each other, directly or through others; see
/// [`circles`].
#[test]
fn no_folder_holds_an_import_circle() {
    report(&circles::faults(sources()));
}

#[test]
fn no_file_is_too_long() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        let lines = source.code_without_tests().lines().count();
        if lines > FILE_LINES {
            let file = &source.module;
            faults.push(format!(
                "src/{file}.rs:{FILE_LINES}: {lines} lines without tests: split the file by duty"
            ));
        }
    }
    report(&faults);
}

#[test]
fn no_function_is_too_long() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        for function in source.functions().iter().filter(|function| function.lines > FUNCTION_LINES) {
            let (file, line) = (&source.module, function.first_line);
            let (name, lines) = (&function.name, function.lines);
            faults.push(format!("src/{file}.rs:{line}: `{name}` has {lines} lines: take a step out of it"));
        }
    }
    report(&faults);
}

#[test]
fn no_type_has_too_many_methods() {
    let mut definitions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for source in sources() {
        for (_, name) in source.types() {
            definitions.entry(name).or_default().push(&source.module);
        }
    }
    let mut methods: BTreeMap<(&str, String), (usize, Vec<String>)> = BTreeMap::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        for block in source.impls() {
            let modules = definitions.get(block.name.as_str()).map(Vec::as_slice).unwrap_or_default();
            let (count, places) = methods.entry((owner(modules, &source.module), block.name)).or_default();
            *count += block.functions;
            places.push(format!("src/{}.rs:{}", source.module, block.first_line));
        }
    }
    let too_many = methods.into_iter().filter(|(_, (count, _))| *count > METHODS);
    let faults = too_many.map(|((_, name), (count, places))| {
        let places = places.join(", ");
        format!("{places}: `{name}` has {count} methods: give some duties a type of their own")
    });
    report(&faults.collect::<Vec<_>>());
}

/// Returns the module, out of those that define a type of one name, whose type another module implements: the
/// nearest one above, else one in the same room.
fn owner<'a>(definitions: &[&'a str], module: &'a str) -> &'a str {
    let room = |module: &'a str| module.split('/').next();
    let is_above = |other: &str| module == other || module.starts_with(&format!("{other}/"));
    let above = definitions.iter().filter(|other| is_above(other)).max_by_key(|other| other.len());
    let nearest = above.or_else(|| definitions.iter().find(|other| room(other) == room(module)));
    nearest.copied().unwrap_or(module)
}

/// Checks that most type names stand for one type. Twins do not count: a document's type and the model's type
/// for it, the `Error` of a module, the `Options` of a command.
#[test]
fn a_type_name_stands_for_one_type() {
    let mut places: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for source in sources() {
        for (line, name) in source.types() {
            places.entry(name).or_default().push(format!("src/{}.rs:{line}", source.module));
        }
    }
    let names = places.len();
    places.retain(|name, places| {
        let is_in = |place: &String, room: &str| place.starts_with(&format!("src/{room}"));
        let is_twin = places.iter().any(|it| is_in(it, "config/document"))
            && places.iter().any(|it| is_in(it, "model"));
        !matches!(*name, "Error" | "Options") && places.len() > 1 + usize::from(is_twin)
    });
    let shared: Vec<String> =
        places.iter().map(|(name, places)| format!("`{name}`: {}", places.join(", "))).collect();
    assert!(
        shared.len() * 100 <= names * SHARED_NAMES,
        "{} of {names} type names stand for two or more types: rename all but one of each\n{}",
        shared.len(),
        shared.join("\n")
    );
}

#[test]
fn comments_open_with_a_noun_or_a_verb() {
    let mut faults = Vec::new();
    for source in sources() {
        let mut last = "";
        for (index, line) in source.text.lines().enumerate() {
            let line = line.trim_start();
            let kind =
                ["///", "//!", "//"].into_iter().find(|kind| line.starts_with(kind)).unwrap_or_default();
            let text = line[kind.len()..].trim_start();
            if !kind.is_empty() && kind != last && OPENERS.iter().any(|opener| text.starts_with(opener)) {
                let (file, number) = (&source.module, index + 1);
                faults.push(format!("src/{file}.rs:{number}: open with a noun phrase or a verb: {line}"));
            }
            last = kind;
        }
    }
    report(&faults);
}

#[test]
fn pure_modules_do_no_io_and_see_no_clock() {
    let exists = |pure: &str| sources().iter().any(|source| source.module == pure);
    let stale = PURE.iter().filter(|pure| !exists(pure));
    let mut faults: Vec<String> =
        stale.map(|pure| format!("`{pure}` is no module: delete or rename it here")).collect();
    for source in sources() {
        let file = &source.module;
        let is_pure = |pure: &str| file == pure || file.starts_with(&format!("{pure}/"));
        // Tests may use the clock to limit a wait.
        if !PURE.iter().any(|pure| is_pure(pure)) || source.is_test() {
            continue;
        }
        for (number, line) in code(source) {
            if let Some(word) = IMPURE.iter().find(|word| line.contains(**word)) {
                let (word, line) = (word.trim(), line.trim());
                faults.push(format!("src/{file}.rs:{number}: a pure module mentions `{word}`: {line}"));
            }
        }
    }
    report(&faults);
}

#[test]
fn every_file_opens_with_its_reason() {
    let silent = sources().iter().filter(|source| !source.text.starts_with("//! "));
    let faults = silent
        .map(|source| format!("src/{}.rs:1: open with `//!` and the concept of the file", source.module));
    report(&faults.collect::<Vec<_>>());
}

#[test]
fn a_line_names_one_module() {
    let mut faults = Vec::new();
    for source in sources() {
        let lists = code(source).filter(|(_, line)| line.contains("use crate::{"));
        faults.extend(
            lists.map(|(line, _)| format!("src/{}.rs:{line}: write a `use` for each module", source.module)),
        );
    }
    report(&faults);
}

#[test]
fn no_test_is_ignored_or_wants_a_panic() {
    let words = [concat!("#[ig", "nore"), concat!("#[should_", "panic")];
    let skipped = sources().iter().filter(|source| words.iter().any(|word| source.text.contains(word)));
    let faults = skipped
        .map(|source| format!("src/{}.rs: let the test run, and compare what it returns", source.module));
    report(&faults.collect::<Vec<_>>());
}
