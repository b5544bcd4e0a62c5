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

/// Random decK files: fields that matter together, each absent or one of a few values.
mod random {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    fn entity(name: &str, fields: &[(&'static str, Vec<Value>)]) -> impl Strategy<Value = Value> + use<> {
        let name = name.to_owned();
        let field = |(key, values): &(&'static str, Vec<Value>)| {
            let key = *key;
            prop_oneof![1 => Just(None), 1 => prop::sample::select(values.clone()).prop_map(move |value| Some((key, value)))]
        };
        fields.iter().map(field).collect::<Vec<_>>().prop_map(move |fields| {
            let fields = fields.into_iter().flatten().map(|(key, value)| (key.to_owned(), value));
            let mut entity: Map<String, Value> = fields.collect();
            entity.insert("name".to_owned(), name.clone().into());
            Value::Object(entity)
        })
    }

    fn route(name: &'static str, service: &'static str) -> impl Strategy<Value = Value> + use<> {
        let fields = [
            ("paths", vec![json!(["/"]), json!(["/a", "/b/"]), json!(["~/v\\d+", "/aa"])]),
            ("hosts", vec![json!(["a.test"]), json!(["*.test", "b.*"]), json!(["a.test:8080"])]),
            ("methods", vec![json!(["GET"]), json!(["GET", "POST"])]),
            ("headers", vec![json!({ "x-a": ["b", "c"] }), json!({ "x-a": ["~*b+"] })]),
            ("protocols", vec![json!(["http"]), json!(["https"]), json!(["http", "https"])]),
            ("strip_path", vec![json!(false), json!(true)]),
            ("preserve_host", vec![json!(true)]),
            ("regex_priority", vec![json!(3)]),
        ];
        entity(name, &fields).prop_map(move |mut route| {
            route["service"] = json!({ "name": service });
            route
        })
    }

    fn service(name: &'static str) -> impl Strategy<Value = Value> + use<> {
        let fields = [
            ("protocol", vec![json!("https"), json!("grpc"), json!("http")]),
            ("port", vec![json!(80), json!(8443)]),
            ("path", vec![json!("/"), json!("/base")]),
            ("retries", vec![json!(0), json!(5), json!(2)]),
            ("connect_timeout", vec![json!(60000), json!(1500)]),
            ("read_timeout", vec![json!(60000), json!(3000)]),
            ("write_timeout", vec![json!(60000), json!(90000)]),
            ("enabled", vec![json!(false)]),
        ];
        (entity(name, &fields), prop::sample::select(vec!["pool", "other.test", "10.0.0.7"])).prop_map(
            |(mut service, host)| {
                service["host"] = json!(host);
                service
            },
        )
    }

    fn upstream() -> impl Strategy<Value = Value> {
        let fields = [
            ("algorithm", vec![json!("least-connections"), json!("consistent-hashing"), json!("latency")]),
            ("hash_on", vec![json!("ip"), json!("path"), json!("none")]),
            ("host_header", vec![json!("shop.test")]),
            ("slots", vec![json!(10000), json!(100)]),
            (
                "healthchecks",
                vec![
                    json!({ "threshold": 50 }),
                    json!({ "active": { "healthy": { "interval": 2 } } }),
                    json!({ "active": { "type": "tcp", "unhealthy": { "interval": 1, "timeouts": 3 } } }),
                    json!({ "passive": { "unhealthy": { "http_failures": 3, "timeouts": 2 } } }),
                ],
            ),
            (
                "targets",
                vec![
                    json!([{ "target": "10.0.0.1:80" }, { "target": "10.0.0.2", "weight": 50 }]),
                    json!([{ "target": "10.0.0.1:80" }, { "target": "10.0.0.2:80", "failover": true }]),
                    json!([{ "target": "10.0.0.1:80", "weight": 0 }]),
                ],
            ),
        ];
        entity("pool", &fields)
    }

    pub(super) fn file() -> impl Strategy<Value = Value> {
        let services = (service("one"), service("two"));
        let routes = (route("r1", "one"), route("r2", "one"), route("r3", "two"));
        (services, routes, upstream()).prop_map(|((one, two), (r1, r2, r3), upstream)| {
            json!({
                "_format_version": "3.0",
                "services": [one, two],
                "routes": [r1, r2, r3],
                "upstreams": [upstream],
            })
        })
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..proptest::prelude::ProptestConfig::with_cases(100) })]

    #[test]
    fn any_file_converts_to_what_compiles_to_the_same_resources(file in random::file()) {
        let text = file.to_string();
        if let Ok(build) = build::build(&inputs("kong.json", &text), None) {
            let native = serde_yaml::to_string(&conversion::native(&build)).unwrap();
            let again = built("native.yaml", &native);
            for (fleet, snapshot) in &build.snapshots {
                proptest::prop_assert_eq!(snapshot.to_json(), again.snapshots[fleet].to_json());
            }
        } else {
            let faults = build::build(&inputs("kong.json", &text), None).expect_err("it was refused");
            proptest::prop_assert!(false, "{}\n{}", text, told(&faults, &text));
        }
        let report = conversion::report(&inputs("kong.json", &text).files, &terms(), true);
        let paths: BTreeSet<&str> = report.items.iter().map(|item| item.path.as_str()).collect();
        scalars(&file, String::new(), &mut |path| {
            let is_above = |known: &&str| {
                path.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            };
            assert!(paths.iter().any(is_above), "{path} has no fate");
        });
    }
}

const POOL: &str = "_format_version: \"3.0\"
services: [{ name: shop, host: pool, routes: [{ name: shop, paths: [/] }] }]
upstreams:
  - name: pool
    targets:
      - { target: \"10.0.0.1:80\" }
      - { target: \"10.0.0.2:80\", weight: 7 }
";

fn with(files: &[(&str, &str)]) -> Result<Build, Vec<Violation>> {
    let files = files.iter().map(|(name, text)| ((*name).to_owned(), Arc::from(*text))).collect();
    build::build(&Inputs { files, terms: terms(), ..Inputs::default() }, None)
}

/// Code, level, file, line and path of each violation.
fn places(violations: &[Violation]) -> Vec<String> {
    let place = |told: &Violation| {
        let file = told.file.as_deref().unwrap_or_default();
        format!("{} {} {file}:{} {}", told.code, told.level, told.line.unwrap_or(0), told.path)
    };
    violations.iter().map(place).collect()
}

#[test]
fn a_native_file_beside_lowers_what_is_refused() {
    let guarded = format!("{POOL}plugins:\n  - name: key-auth\n");
    let refused = with(&[("kong.yaml", &guarded)]).expect_err("without the plugin everyone gets in");
    assert_eq!(places(&refused), ["US207 error kong.yaml:9 plugins[0]"]);
    let build =
        with(&[("kong.yaml", &guarded), ("lint.yaml", "lint: { US207: warning }")]).expect("accepted");
    assert_eq!(places(&build.warnings), ["US207 warning kong.yaml:9 plugins[0]"]);
}

#[test]
fn native_rules_point_into_the_foreign_file() {
    let text = POOL.replace("10.0.0.2:80", "10.0.0.2:0");
    let refused = with(&[("kong.yaml", &text)]).expect_err("port 0 is none");
    assert_eq!(places(&refused), ["US103 error kong.yaml:7 upstreams[0].targets[1].target"]);
    let text = POOL.replace("paths: [/]", "paths: [\"~/(a\"]");
    let refused = with(&[("kong.yaml", &text)]).expect_err("the regex is none");
    assert!(
        places(&refused).iter().all(|place| place.contains("kong.yaml:2 services[0].routes[0]")),
        "{refused:?}"
    );
}

#[test]
fn what_two_files_declare_adds_up_and_each_keeps_its_place() {
    let more = "_format_version: \"3.0\"\ntargets:\n  - { target: \"10.0.0.3:0\", upstream: pool }\n";
    let refused = with(&[("kong.yaml", POOL), ("more.yaml", more)]).expect_err("port 0 is none");
    assert_eq!(places(&refused), ["US103 error more.yaml:3 targets[0].target"]);
}

#[test]
fn settings_name_the_line_of_the_foreign_file() {
    let build = with(&[("kong.yaml", POOL)]).expect("it builds");
    let settings = understudy::inspect::settings::effective(&build, "pool").expect("there is one").settings;
    let shown = serde_json::to_value(settings).unwrap();
    let weight = shown.as_array().unwrap().iter().find(|it| it["path"] == "targets[10.0.0.2:80].weight");
    let weight = weight.expect("the weight is shown");
    assert_eq!(
        (&weight["value"], &weight["origin"], &weight["file"], &weight["line"]),
        (&7.into(), &"file".into(), &"kong.yaml".into(), &7.into())
    );
}

#[test]
fn values_of_variables_are_in_no_message() {
    let text = POOL.replace("host: pool", "host: \"${{ env \"DECK_HOST\" }}\"").replace("7 }", "0 }");
    let build = with(&[("kong.yaml", &text)]).expect("it builds");
    let told: Vec<String> =
        build.violations().iter().map(|told| format!("{} {:?}", told.message, told.help)).collect();
    assert!(told.iter().any(|told| told.contains("DECK_HOST")), "{told:?}");
    assert!(!told.iter().any(|told| told.contains("secret.example.com")), "{told:?}");
}

#[test]
fn documents_of_two_formats_stand_in_one_file() {
    let text = format!("{POOL}---\nlisteners: [{{ name: web, address: \"127.0.0.1:81\" }}]\n");
    let build = with(&[("all.yaml", &text)]).expect("it builds");
    let listeners: Vec<String> =
        build.model.listeners.iter().map(|listener| listener.name.to_string()).collect();
    assert_eq!(listeners, ["web"], "Kong's own listener stands in for a missing one only");
    let forced = ReadingTerms { dialect: Some(understudy::config::dialect::Dialect::Native), ..terms() };
    let files = imbl::OrdMap::unit("kong.yaml".to_owned(), POOL.into());
    let refused = build::build(&Inputs { files, terms: forced, ..Inputs::default() }, None);
    assert!(
        refused.is_err_and(|faults| faults.iter().any(|fault| fault.message.contains("_format_version")))
    );
}
