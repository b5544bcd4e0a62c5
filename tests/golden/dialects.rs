//! Cases of dialects, `tests/golden/dialects/<name>/<case>.{yaml,json}`, against the native config, the report and
//! Envoy's JSON beside each; and real files, against what `check` says of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use expect_test::expect_file;
use understudy::build::{self, Build, Inputs};
use understudy::config::dialect::ReadingTerms;
use understudy::config::{Level, Violation, render};
use understudy::inspect::conversion;

use crate::{addresses, entries, name, pretty, root};

fn terms() -> ReadingTerms {
    let variables = [("DECK_HOST", "secret.example.com"), ("DECK_PORT", "8080")];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    ReadingTerms { dialect: None, variables: Arc::new(variables.into()) }
}

fn inputs(file: &str, text: &str) -> Inputs {
    let files = imbl::OrdMap::unit(file.to_owned(), text.into());
    Inputs { files, addresses: addresses(), terms: terms(), ..Inputs::default() }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn cases(directory: &Path) -> Vec<PathBuf> {
    let is_case = |path: &PathBuf| {
        let name = name(path);
        let is_output = [".native.yaml", ".report.json", ".envoy.json"].iter().any(|end| name.ends_with(end));
        !is_output && (name.ends_with(".yaml") || name.ends_with(".json"))
    };
    entries(directory).into_iter().filter(is_case).collect()
}

fn told(violations: &[Violation], text: &str) -> String {
    render::human(violations, &|_| Some(text.into()), false)
}

fn built(file: &str, text: &str) -> Build {
    build::build(&inputs(file, text), None).unwrap_or_else(|faults| panic!("{}", told(&faults, text)))
}

#[test]
fn every_case_of_a_dialect_becomes_what_stands_beside_it() {
    for dialect in entries(&root().join("tests/golden/dialects")) {
        let mut known = BTreeSet::new();
        for case in cases(&dialect) {
            let text = read(&case);
            let file = name(&case);
            let build = built(&file, &text);
            let native = serde_yaml::to_string(&conversion::native(&build)).unwrap();
            let report = conversion::report(&inputs(&file, &text).files, &terms(), true);
            let snapshots: serde_json::Map<_, _> =
                build.snapshots.iter().map(|(fleet, it)| (fleet.to_string(), it.to_json())).collect();
            let beside = |end: &str| case.with_extension("").with_extension(end);
            expect_file![beside("native.yaml")].assert_eq(&native);
            expect_file![beside("report.json")].assert_eq(&pretty(&serde_json::to_value(&report).unwrap()));
            expect_file![beside("envoy.json")].assert_eq(&pretty(&snapshots.into()));
            known.extend([case.clone(), beside("native.yaml"), beside("report.json"), beside("envoy.json")]);
        }
        for file in entries(&dialect).into_iter().filter(|path| path.is_file()) {
            assert!(known.contains(&file), "{} belongs to no case: remove it", file.display());
        }
    }
}

#[test]
fn what_convert_prints_compiles_to_the_same_resources() {
    let directory = root().join("tests/golden/dialects/kong");
    for case in cases(&directory).into_iter().chain(cases(&directory.join("samples"))) {
        let text = read(&case);
        let Ok(build) = build::build(&inputs(&name(&case), &text), None) else { continue };
        let native = serde_yaml::to_string(&conversion::native(&build)).unwrap();
        let again = built("native.yaml", &native);
        for (fleet, snapshot) in &build.snapshots {
            assert_eq!(snapshot.to_json(), again.snapshots[fleet].to_json(), "{}", case.display());
        }
    }
}

/// Every value of a file has an item at its path or above it, and the summary counts the items.
#[test]
fn the_report_on_real_files_is_complete() {
    let directory = root().join("tests/golden/dialects/kong");
    for case in cases(&directory).into_iter().chain(cases(&directory.join("samples"))) {
        let text = read(&case);
        let report = conversion::report(&inputs(&name(&case), &text).files, &terms(), true);
        let paths: BTreeSet<&str> = report.items.iter().map(|item| item.path.as_str()).collect();
        let value: serde_json::Value = match serde_yaml::from_str(&text) {
            Ok(value) => value,
            Err(_) => continue,
        };
        let mut missing = Vec::new();
        scalars(&value, String::new(), &mut |path| {
            let is_covered = paths.iter().any(|known| {
                path.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            });
            if !is_covered {
                missing.push(path.to_owned());
            }
        });
        assert_eq!(missing, Vec::<String>::new(), "{}", case.display());
        let counts = report.summary;
        let total = counts.exact + counts.approximated + counts.ignored + counts.refused;
        assert_eq!(total, report.items.len());
        for item in &report.items {
            let is_exact = item.fate == understudy::config::dialect::note::Fate::Exact;
            assert_eq!(item.code.is_none(), is_exact, "{item:?}");
            assert!(is_exact || !item.words.is_empty(), "{item:?}");
        }
    }
}

fn scalars(value: &serde_json::Value, path: String, visit: &mut dyn FnMut(&str)) {
    match value {
        serde_json::Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                scalars(value, path, visit);
            }
        }
        serde_json::Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            for (index, item) in items.iter().enumerate() {
                scalars(item, format!("{path}[{index}]"), visit);
            }
        }
        _ => visit(&path),
    }
}

#[test]
fn real_files_are_accepted_or_refused_as_their_text_says() {
    let directory = root().join("tests/golden/dialects/kong/samples");
    for sample in cases(&directory) {
        let text = read(&sample);
        let (ok, violations) = match build::build(&inputs(&name(&sample), &text), None) {
            Ok(build) => (true, build.violations()),
            Err(violations) => (false, violations),
        };
        assert_eq!(ok, violations.iter().all(|violation| violation.level != Level::Error));
        let verdict = if ok { "accepted" } else { "refused" };
        let said = format!("{verdict}\n\n{}\n", told(&violations, &text).trim_end());
        expect_file![sample.with_extension("txt")].assert_eq(&said);
    }
}
