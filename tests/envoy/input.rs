//! Tests of bad input: it is refused whole, every fault of it is named at once, and nothing changes.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{PATIENCE, Understudy, eventually, understudy};
use crate::stage::{create, snapshot};

/// Tests that the listener that the manual expects exists by default.
#[tokio::test(flavor = "multi_thread")]
async fn the_default_listener_is_on_port_8000_of_every_address() {
    let understudy = Understudy::serve(&[]).await;
    let listeners = snapshot(&understudy).await["listeners"].clone();
    let socket = &listeners[0]["address"]["socket_address"];
    assert_eq!(listeners.as_array().map(Vec::len), Some(1), "{listeners}");
    assert_eq!(*socket, json!({"address": "0.0.0.0", "port_value": 8000}));
}

/// Checks a POST to a config with an upstream, a service and a route named `checkout`: it is refused with
/// this status, with faults at these places of the body, and nothing changes.
async fn refused(path: &str, body: Value, status: u16, pointers: &[&str]) {
    let understudy = Understudy::serve(&[]).await;
    create(&understudy, "/upstreams", json!({"name": "checkout"})).await;
    create(&understudy, "/upstreams/checkout/targets", json!({"target": "127.0.0.1:1"})).await;
    create(&understudy, "/services", json!({"name": "checkout", "upstream": "checkout"})).await;
    create(&understudy, "/routes", json!({"name": "checkout", "service": "checkout"})).await;
    let before = snapshot(&understudy).await;

    let (answered, problem) = understudy.post(path, body.clone()).await;
    assert_eq!(answered, status, "POST {path} {body}: {problem}");
    let violations = problem["violations"].as_array().cloned().unwrap_or_default();
    let mut found: Vec<&str> = violations.iter().filter_map(|one| one["pointer"].as_str()).collect();
    found.sort_unstable();
    assert_eq!(found, pointers, "POST {path} {body}: {problem}");
    for violation in &violations {
        let told = ["code", "message"].map(|key| violation[key].as_str().unwrap_or_default());
        assert!(told.iter().all(|text| !text.is_empty()), "{violation}");
    }
    assert_eq!(snapshot(&understudy).await, before, "POST {path} {body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_field_is_refused() {
    refused("/upstreams", json!({"name": "x", "load_balancr": "random"}), 422, &["/load_balancr"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_type_is_refused() {
    refused("/upstreams", json!({"name": "x", "targets": "127.0.0.1:1"}), 422, &["/targets"]).await;
    refused("/services", json!({"name": "x", "upstream": ["checkout"]}), 422, &["/upstream"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_name_is_refused() {
    refused("/upstreams", json!({"targets": []}), 422, &["/name"]).await;
    refused("/upstreams/checkout/targets", json!({"weight": 1}), 422, &["/target"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dangling_reference_is_refused() {
    refused("/services", json!({"name": "x", "upstream": "chekout"}), 422, &["/upstream"]).await;
    refused("/routes", json!({"name": "x", "service": "x", "paths": ["/x"]}), 422, &["/service"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn port_0_is_refused() {
    refused("/upstreams/checkout/targets", json!({"target": "127.0.0.1:0"}), 422, &["/target"]).await;
    refused("/listeners", json!({"name": "x", "address": "127.0.0.1:0"}), 422, &["/address"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken_is_refused() {
    refused("/upstreams", json!({"name": "checkout"}), 409, &[]).await;
    refused("/upstreams/checkout/targets", json!({"target": "127.0.0.1:1"}), 409, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_faults_of_a_body_are_named_at_once() {
    let body = json!({
        "name": "x y",
        "load_balancr": "random",
        "connect_timeout": "soon",
        "targets": [{"target": "127.0.0.1:0"}, {"target": "127.0.0.1:1", "weight": -1}],
    });
    let pointers = ["/connect_timeout", "/load_balancr", "/name", "/targets/0/target", "/targets/1/weight"];
    refused("/upstreams", body, 422, &pointers).await;
}

const GOOD: &str = "upstreams: [{ name: good, targets: [{ target: 127.0.0.1:1 }] }]\n";

const BAD: &str = "\
listeners:
  - { name: web, address: 127.0.0.1:0 }
routes:
  - { name: checkout, service: chekout, pahts: [/a] }
services:
  - { name: checkout, upstream: checkout, timeout: soon }
  - { upstream: checkout }
upstreams:
  - name: checkout
    connect_timeout: [1s]
  - name: checkout
    targets: [{ target: 127.0.0.1:1 }]
  - name: empty
";

/// Line, column and path of each fault.
const FAULTS: [(u64, u64, &str); 9] = [
    (2, 27, "listeners[0].address"),
    (4, 32, "routes[0].service"),
    (4, 41, "routes[0].pahts"),
    (6, 52, "services[0].timeout"),
    (7, 5, "services[1].name"),
    (9, 5, "upstreams[0].targets"),
    (10, 22, "upstreams[0].connect_timeout"),
    (11, 11, "upstreams[1].name"),
    (13, 5, "upstreams[2].targets"),
];

fn are_all_faults(violations: &Value, file: &Path) {
    let found: Vec<_> = violations.as_array().into_iter().flatten().collect();
    let places: Vec<_> = found
        .iter()
        .map(|one| (one["line"].as_u64(), one["column"].as_u64(), one["path"].as_str().unwrap_or_default()))
        .collect();
    let expected = FAULTS.map(|(line, column, path)| (Some(line), Some(column), path));
    assert_eq!(places, expected, "{violations:#}");
    for one in found {
        assert_eq!(one["file"], file.display().to_string());
        assert_eq!(one["level"], "error");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_every_fault_of_a_file_and_exits_with_1() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (bad, good) = (directory.path().join("bad.yaml"), directory.path().join("good.yaml"));
    fs::write(&bad, BAD).expect("writes");
    fs::write(&good, GOOD).expect("writes");
    let check = |path: &Path, format: &str| {
        let path = path.display().to_string();
        understudy(&["check", &path, "--format", format]).output().expect("cargo has built it")
    };
    let output = check(&bad, "json");
    assert_eq!(output.status.code(), Some(1));
    let answer: Value = serde_json::from_slice(&output.stdout).expect("it prints JSON");
    assert_eq!(answer["ok"], false);
    are_all_faults(&answer["violations"], &bad);

    let output = check(&bad, "human");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    for (line, column, _) in FAULTS {
        assert!(text.contains(&format!("{}:{line}:{column}\n", bad.display())), "{line}:{column} in\n{text}");
    }
    let output = check(&good, "json");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_faults_changes_nothing_of_what_is_served() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::write(directory.path().join("good.yaml"), GOOD).expect("writes");
    let understudy = Understudy::serve(&[&directory.path().display().to_string()]).await;
    let before = snapshot(&understudy).await;
    assert_eq!(before["clusters"][0]["name"], "good");
    let bad = directory.path().join("bad.yaml");
    fs::write(&bad, BAD).expect("writes");
    let told =
        eventually(PATIENCE, "the faults are told", async || match understudy.get("/violations").await.1 {
            told if told.as_array().is_some_and(|told| !told.is_empty()) => Ok(told),
            told => Err(told.to_string()),
        })
        .await;
    are_all_faults(&told, &bad);
    assert_eq!(snapshot(&understudy).await, before);
    // Writes over REST are accepted meanwhile, beside the last good files.
    create(&understudy, "/upstreams", json!({"name": "more"})).await;
    assert_eq!(snapshot(&understudy).await["clusters"].as_array().map(Vec::len), Some(2));
    assert_eq!(understudy.get("/violations").await.1, told);
}

#[tokio::test(flavor = "multi_thread")]
async fn simulations_are_reported_by_case_and_missing_targets_by_their_place() {
    let understudy = Understudy::serve(&[]).await;
    let targets = json!([
        {"target": "10.0.0.1:80", "zone": "a"}, {"target": "10.0.0.2:80", "zone": "b", "weight": 300},
        {"target": "10.0.0.3:80", "failover": true},
    ]);
    create(&understudy, "/upstreams", json!({"name": "shop", "targets": targets})).await;
    let answer = |shares: [f64; 3]| {
        let names = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"].into_iter().zip([0, 0, 1]).zip(shares);
        let target =
            |((target, priority), share)| json!({"target": target, "priority": priority, "share": share});
        json!({"upstream": "shop", "targets": names.map(target).collect::<Vec<_>>(), "unserved": 0.0})
    };
    let case = json!({"upstream": "shop", "down": ["10.0.0.1:80"]});
    assert_eq!(understudy.post("/simulate", case.clone()).await, (200, answer([0.0, 100.0, 0.0])));
    let cases = json!({"cases": [{"upstream": "shop"}, case, {"upstream": "shop", "down": ["priority=0"]}]});
    let results = [answer([25.0, 75.0, 0.0]), answer([0.0, 100.0, 0.0]), answer([0.0, 0.0, 100.0])];
    assert_eq!(understudy.post("/simulate", cases).await, (200, json!({ "results": results })));

    let wrong = json!({"cases": [{"upstream": "shpo"}, {"upstream": "shop", "down": ["zone=a", "zone=c"]}]});
    let (status, problem) = understudy.post("/simulate", wrong).await;
    let pointers: Vec<&Value> =
        problem["violations"].as_array().into_iter().flatten().map(|it| &it["pointer"]).collect();
    assert_eq!(
        (status, pointers),
        (422, vec![&json!("/cases/0/upstream"), &json!("/cases/1/down/1")]),
        "{problem}"
    );
    let (status, problem) = understudy.post("/simulate", json!({"upstream": "shop", "dwon": []})).await;
    assert_eq!(
        (status, &problem["violations"][0]["help"]),
        (422, &json!("did you mean `down`?")),
        "{problem}"
    );
}

#[test]
fn the_command_simulates_too_and_names_what_is_not_there() {
    let run = |arguments: &[&str]| {
        let output =
            understudy(&["simulate", "examples/active-passive"]).args(arguments).output().expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, stdout, stderr) = run(&["--upstream", "checkout", "--down", "priority=0", "--json"]);
    assert_eq!(code, Some(0), "{stderr}");
    let simulated: Value = serde_json::from_str(&stdout).expect("it is JSON");
    let served: f64 = simulated["targets"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|target| target["priority"] == 1)
        .filter_map(|target| target["share"].as_f64())
        .sum();
    assert!((served - 100.0).abs() < 0.1, "{simulated}");
    let (code, _, stderr) = run(&["--upstream", "chekcout"]);
    assert_eq!(
        (code, stderr.trim()),
        (Some(2), "error: no upstream is named `chekcout`; did you mean `checkout`?")
    );
    let (code, _, stderr) = run(&["--upstream", "checkout", "--down", "zone=nowhere"]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("has no zone `nowhere`"), "{stderr}");
}
