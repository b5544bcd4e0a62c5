//! Tests of the data directory: who may read it, a start on what is left of it, and its loss while it is used.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::harness::{PATIENCE, Process, Understudy, eventually, understudy};
use crate::stage::shop;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_may_read_the_data_and_its_backups() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("of/new/data");
    // The most that a process may be given.
    let start = async || {
        let script = format!(
            "umask 0; exec {} serve --xds 127.0.0.1:0 --admin 127.0.0.1:0 --data {}",
            env!("CARGO_BIN_EXE_understudy"),
            data.display()
        );
        let process = Process::spawn("understudy", std::process::Command::new("sh").args(["-c", &script]));
        process.line(0, "ready").await;
        let admin = process.line(0, "admin ").await;
        (process, admin)
    };
    let (process, admin) = start().await;
    let check = || {
        assert_eq!(mode(&data), 0o700, "{}", data.display());
        for entry in fs::read_dir(&data).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(mode(&path), if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
        }
    };
    check();
    let backup = root.path().join("backup");
    let script = format!(
        "umask 0; exec {} backup {} --admin {admin}",
        env!("CARGO_BIN_EXE_understudy"),
        backup.display()
    );
    let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(mode(&backup), 0o600, "a backup");
    drop(process);

    // Those of an older version are closed at the next start, and the log says so.
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(data.join("understudy.redb"), fs::Permissions::from_mode(0o644)).unwrap();
    let (mut process, _) = start().await;
    check();
    process.kill();
    let log = process.log();
    assert!(log.contains("the data directory was open to other users"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_moment_of_the_first_start_leaves_what_can_start() {
    let root = tempfile::tempdir().unwrap();
    // Over the time that a first start takes, evenly.
    for attempt in 0..40_u64 {
        let data = root.path().join(attempt.to_string());
        let arguments = ["serve", "--xds", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data"];
        let mut process = Process::spawn("understudy", understudy(&arguments).arg(&data));
        std::thread::sleep(Duration::from_micros(attempt * 1_500));
        process.kill();
        let again = Process::spawn("understudy again", understudy(&arguments).arg(&data));
        again.line(0, "ready").await;
    }
}

/// Checks that nothing is acknowledged any more, while what was is served.
async fn acknowledges_nothing(understudy: &Understudy) {
    eventually(PATIENCE, "it is not ready", async || match understudy.get("/readyz").await {
        (503, problem) if problem.to_string().contains("data directory") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let (status, problem) = understudy.put("/upstreams/new", json!({})).await;
    assert_eq!(status, 507, "{problem}");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("data directory"), "{detail}");
    assert_eq!(understudy.get("/upstreams/new").await.0, 404);
    assert_eq!(understudy.get("/upstreams/shop").await.0, 200, "reads go on");
    assert_eq!(understudy.get("/livez").await.0, 200);
    let backup = understudy.request(http::Method::GET, "/backup").send().await.unwrap();
    assert_eq!(backup.status(), 200, "what is open is not lost yet");
    let (status, problem) = understudy.post("/tokens", json!({"name": "new", "role": "read"})).await;
    assert_eq!(status, 507, "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_that_is_removed_acknowledges_nothing_more() {
    let understudy = shop(&[]).await;
    fs::remove_dir_all(understudy.data()).unwrap();
    // The first write after it is refused too, however soon.
    assert_eq!(understudy.put("/upstreams/soon", json!({})).await.0, 507);
    acknowledges_nothing(&understudy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_that_is_replaced_acknowledges_nothing_until_it_returns() {
    let understudy = shop(&[]).await;
    let mut other = Understudy::serve(&[]).await;
    other.kill();
    let aside = tempfile::tempdir().unwrap();
    let (file, kept) = (understudy.data().join("understudy.redb"), aside.path().join("understudy.redb"));
    // A hard link: it is the file that is open, elsewhere.
    fs::hard_link(&file, &kept).unwrap();
    fs::remove_file(&file).unwrap();
    fs::copy(other.data().join("understudy.redb"), &file).unwrap();
    acknowledges_nothing(&understudy).await;
    fs::rename(&kept, &file).unwrap();
    eventually(PATIENCE, "it is ready again", async || match understudy.get("/readyz").await {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(understudy.put("/upstreams/new", json!({})).await.0, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_no_bytes_is_damage() {
    let mut understudy = shop(&[]).await;
    understudy.kill();
    let file = understudy.data().join("understudy.redb");
    fs::write(&file, "").unwrap();
    let printed = understudy.fails_to_start().await;
    assert!(printed.contains("is damaged; restore a backup"), "{printed}");
    assert_eq!(fs::metadata(&file).unwrap().len(), 0, "it is left as it was found");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_changes_are_told_at_the_start_until_something_is_written() {
    let mut server = shop(&[]).await;
    server.kill();
    let file = server.data().join("understudy.redb");
    let older = fs::read(&file).unwrap();
    server.restart().await;
    let revision = server.get("/status").await.1["revision"].as_u64().unwrap();
    assert_eq!(server.post("/upstreams", json!({"name": "lost"})).await.0, 201);
    server.kill();
    // As a copy from before, or a disk that lost its last writes with the power.
    fs::write(&file, older).unwrap();
    server.restart().await;
    let (_, status) = server.get("/status").await;
    let expected = json!({"commits": 1, "acknowledged": revision + 1, "found": revision});
    assert_eq!(status["lost_changes"], expected, "{status}");
    assert!(server.log().contains("changes that were acknowledged are not in the data directory"));
    let printed = understudy(&["status", "--admin", &server.admin.to_string()]).output().unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.contains("changes were lost"), "{printed}");

    assert_eq!(server.post("/upstreams", json!({"name": "found"})).await.0, 201);
    server.restart().await;
    assert_eq!(server.get("/status").await.1["lost_changes"], serde_json::Value::Null);
}
