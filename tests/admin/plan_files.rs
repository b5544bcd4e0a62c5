//! Tests of files that requests name: who may only read can do no harm with them, and learns nothing.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{PATIENCE, Process, Understudy};
use crate::stage::shop;

/// Files of a plan: a certificate whose parts are at this path.
fn naming(path: &Path) -> Value {
    let path = path.display().to_string();
    let text = format!(
        "certificates: [{{ name: c, certificate: {{ file: '{path}' }}, key: {{ file: '{path}' }} }}]"
    );
    json!({"files": {"plan.yaml": text}})
}

fn pipe(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status();
    assert!(made.is_ok_and(|status| status.success()), "mkfifo makes {}", path.display());
}

/// Sends a plan that must be refused soon, and returns its messages without the path.
async fn refused(server: &Understudy, path: &Path) -> Vec<String> {
    let plan = server.post("/plan", naming(path));
    let (status, problem) =
        tokio::time::timeout(Duration::from_secs(5), plan).await.expect("a plan waits for no file");
    assert_eq!(status, 422, "{}: {problem}", path.display());
    let violations = problem["violations"].as_array().unwrap();
    assert!(!violations.is_empty(), "{problem}");
    let message = |violation: &Value| {
        violation["message"].as_str().unwrap().replace(&path.display().to_string(), "PATH")
    };
    violations.iter().map(message).collect()
}

/// Checks that writes are still made.
async fn writes_go_on(server: &Understudy) {
    let write = server.put("/upstreams/more", json!({}));
    let (status, _) = tokio::time::timeout(Duration::from_secs(5), write).await.expect("writes go on");
    assert!(matches!(status, 200 | 201), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_can_name_no_file_unless_a_directory_is_for_that() {
    let server = shop(&[]).await;
    let directory = tempfile::tempdir().unwrap();
    let there = directory.path().join("there.pem");
    fs::write(&there, "this is no certificate").unwrap();
    fs::create_dir(directory.path().join("directory")).unwrap();
    let missing = refused(&server, &directory.path().join("missing.pem")).await;
    assert!(missing[0].contains("--material-dir"), "{missing:?}");
    for path in
        [&there, Path::new("/dev/null"), &directory.path().join("directory"), Path::new("/proc/self/mem")]
    {
        assert_eq!(refused(&server, path).await, missing, "{} says no more than none", path.display());
    }
    let body = json!({"certificate": {"file": there}, "key": {"file": there}});
    let (status, problem) = server.put("/certificates/c", body).await;
    assert_eq!(status, 422, "{problem}");
    assert!(problem["violations"][0]["message"].as_str().unwrap().contains("--material-dir"), "{problem}");
    writes_go_on(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_holds_up_no_plan_and_no_write() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe.pem");
    pipe(&path);
    let server = shop(&["--material-dir", directory.path().to_str().unwrap()]).await;
    let told = refused(&server, &path).await;
    assert!(told[0].contains("no regular file"), "{told:?}");
    writes_go_on(&server).await;
}

/// Tests a device that never ends, with a limit on memory, so that the machine survives a failure.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_without_an_end_takes_no_memory() {
    let data = tempfile::tempdir().unwrap();
    let script = format!(
        "ulimit -v 2000000; exec {} serve --xds 127.0.0.1:0 --admin 127.0.0.1:0 --data {} --material-dir /dev",
        env!("CARGO_BIN_EXE_understudy"),
        data.path().display()
    );
    let process = Process::spawn("understudy", Command::new("sh").args(["-c", &script]));
    process.line(0, "ready").await;
    let admin = process.line(0, "admin ").await;
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
    for device in ["/dev/null", "/dev/zero"] {
        let url = format!("http://{admin}/plan");
        let answer = client.post(url).json(&naming(Path::new(device))).send().await.unwrap();
        assert_eq!(answer.status(), 422, "{device}");
        let told = answer.text().await.unwrap();
        assert!(told.contains("no regular file"), "{device}: {told}");
    }
    assert!(process.memory().1 < 500, "{} MiB", process.memory().1);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_below_the_directory_is_read_and_1_mb_of_it_at_most() {
    let root = tempfile::tempdir().unwrap();
    let (inside, outside) = (root.path().join("inside"), root.path().join("outside"));
    fs::create_dir(&inside).unwrap();
    fs::create_dir(&outside).unwrap();
    let pem = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/");
    for (file, to) in [("shop.pem", &inside), ("shop.key", &inside), ("shop.pem", &outside)] {
        fs::copy(format!("{pem}{file}"), to.join(file)).unwrap();
    }
    fs::write(inside.join("large.pem"), vec![b'x'; (1 << 20) + 1]).unwrap();
    std::os::unix::fs::symlink(outside.join("shop.pem"), inside.join("link.pem")).unwrap();
    std::os::unix::fs::symlink(inside.join("shop.pem"), inside.join("own.pem")).unwrap();
    let server = shop(&["--material-dir", inside.to_str().unwrap()]).await;

    let good = |chain: &str| json!({"certificate": {"file": inside.join(chain)}, "key": {"file": inside.join("shop.key")}});
    for chain in ["shop.pem", "own.pem"] {
        let (status, answer) = server.put("/certificates/shop", good(chain)).await;
        assert!(matches!(status, 200 | 201), "{chain}: {answer}");
    }
    let far = refused(&server, &outside.join("missing.pem")).await;
    for path in [outside.join("shop.pem"), inside.join("../outside/shop.pem"), inside.join("link.pem")] {
        assert_eq!(refused(&server, &path).await, far, "{}", path.display());
    }
    let large = refused(&server, &inside.join("large.pem")).await;
    assert!(large[0].contains("1 MB"), "{large:?}");
    writes_go_on(&server).await;
}

/// Tests files of the config paths, whose writer is trusted to name any file, but not to hang the control plane.
#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_that_a_config_file_names_is_a_fault() {
    let directory = tempfile::tempdir().unwrap();
    pipe(&directory.path().join("pipe"));
    let file = directory.path().join("config.yaml");
    fs::write(&file, "upstreams: [{ name: a, targets: [{ target: 10.0.0.1:80 }] }]\n").unwrap();
    let server = Understudy::serve(&[file.to_str().unwrap()]).await;
    fs::write(&file, "certificates: [{ name: c, certificate: { file: pipe }, key: { file: pipe } }]\n")
        .unwrap();
    crate::harness::eventually(PATIENCE, "it is told", async || {
        let (_, told) = server.get("/violations").await;
        if told.to_string().contains("no regular file") { Ok(()) } else { Err(told.to_string()) }
    })
    .await;
    writes_go_on(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_headers_that_carry_secrets_are_masked() {
    let server = shop(&[]).await;
    let secret = "c2VjcmV0LXRoYXQtbm9ib2R5LXNlZXM";
    let names = ["authorization", "Proxy-Authorization", "cookie", "set-cookie", "x-api-key", "x-auth-token"];
    let set: Value = names
        .iter()
        .map(|name| ((*name).to_owned(), json!(format!("Bearer {secret}"))))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let (status, answer) = server
        .patch("/routes/shop", json!({"request_headers": {"set": set}, "response_headers": {"add": set}}))
        .await;
    assert_eq!(status, 200, "{answer}");
    assert!(!answer.to_string().contains(secret), "{answer}");
    let check = json!({"http": {"path": "/", "headers": {"authorization": secret}}});
    let (status, answer) = server.patch("/upstreams/shop", json!({"health_check": check})).await;
    assert_eq!(status, 200, "{answer}");
    let paths = [
        "/routes/shop",
        "/upstreams/shop",
        "/config",
        "/snapshots/default",
        "/revisions/2",
        "/revisions/1..3/diff",
    ];
    for path in paths {
        let (status, told) = server.get(path).await;
        assert_eq!(status, 200, "{path}");
        assert!(!told.to_string().contains(secret), "{path}: {told}");
    }
    // What was shown masked may be sent back, and changes nothing.
    let (_, shown) = server.get("/routes/shop").await;
    let (status, answer) = server.put("/routes/shop", shown).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(server.get("/status").await.1["revision"], 3, "{answer}");
}
