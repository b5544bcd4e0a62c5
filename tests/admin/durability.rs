//! Tests of durability: acknowledged writes survive any end, and no write is there by half.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::harness::{PATIENCE, Process, Understudy, eventually, understudy};
use crate::stage::shop;

/// Returns the number of kills; `UNDERSTUDY_KILLS=2000 cargo test --test admin kill` raises it.
fn kills() -> usize {
    std::env::var("UNDERSTUDY_KILLS").ok().and_then(|count| count.parse().ok()).unwrap_or(200)
}

/// Number of writers, each with its own pairs of upstreams. Both of a pair are written at once, or neither.
const WRITERS: usize = 4;

#[derive(Default)]
struct WrittenPairs {
    /// Pairs whose creation was acknowledged.
    answered: Mutex<BTreeSet<String>>,
    /// Acknowledged pairs whose deletion has begun.
    doubtful: Mutex<BTreeSet<String>>,
    /// Pairs whose deletion was acknowledged.
    gone: Mutex<BTreeSet<String>>,
}

/// Writes pairs, and deletes every third again, until the control plane is gone.
async fn write(client: reqwest::Client, admin: String, life: usize, writer: usize, seen: Arc<WrittenPairs>) {
    for number in 0.. {
        let pair = format!("l{life}w{writer}n{number}");
        let create = |side: &str| json!({"method": "POST", "path": "/upstreams", "body": {"name": format!("{pair}{side}")}});
        let delete = |side: &str| json!({"method": "DELETE", "path": format!("/upstreams/{pair}{side}")});
        let change = async |changes: [Value; 2]| {
            let url = format!("http://{admin}/config");
            match client.patch(url).json(&json!({ "changes": changes })).send().await {
                Ok(response) => assert_eq!(response.status(), 200),
                Err(_) => return false,
            }
            true
        };
        if !change([create("a"), create("b")]).await {
            return;
        }
        seen.answered.lock().unwrap().insert(pair.clone());
        if number % 3 == 2 {
            seen.doubtful.lock().unwrap().insert(pair.clone());
            if !change([delete("a"), delete("b")]).await {
                return;
            }
            seen.gone.lock().unwrap().insert(pair);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_200_kills_each_write_that_was_answered_is_there_and_none_by_half() {
    let mut understudy = Understudy::serve(&["--log", "warn"]).await;
    let (mut last, mut total) = (0, 0);
    for life in 0..kills() {
        let seen = Arc::new(WrittenPairs::default());
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        let admin = understudy.admin.to_string();
        let writers = (0..WRITERS)
            .map(|writer| tokio::spawn(write(client.clone(), admin.clone(), life, writer, seen.clone())));
        let writers: Vec<_> = writers.collect();
        let wanted = 1 + life % 7;
        eventually(PATIENCE, "some writes are answered", async || {
            let answered = seen.answered.lock().unwrap().len();
            if answered >= wanted { Ok(()) } else { Err(answered.to_string()) }
        })
        .await;
        understudy.kill();
        for writer in writers {
            writer.await.unwrap();
        }
        understudy.restart().await;
        let config = understudy.get("/config").await.1;
        let names: BTreeSet<&str> =
            config["upstreams"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
        let answered = seen.answered.lock().unwrap().clone();
        let (doubtful, gone) = (seen.doubtful.lock().unwrap().clone(), seen.gone.lock().unwrap().clone());
        for pair in answered.difference(&doubtful) {
            assert!(names.contains(&*format!("{pair}a")), "{pair} was answered and is not there");
        }
        for pair in &gone {
            assert!(!names.contains(&*format!("{pair}a")), "the end of {pair} was answered and it is there");
        }
        for name in &names {
            let (pair, side) = name.split_at(name.len() - 1);
            let other = format!("{pair}{}", if side == "a" { "b" } else { "a" });
            assert!(names.contains(other.as_str()), "{name} is there without {other}");
        }
        total += answered.len();
        let revision = understudy.get("/status").await.1["revision"].as_u64().unwrap();
        // An unacknowledged deletion may have been made; the remaining upstreams show whether it was.
        let there = |pair: &&String| names.contains(&*format!("{pair}a"));
        let ended = doubtful.len() - doubtful.iter().filter(there).count();
        let created = names.len() / 2 + ended;
        assert_eq!(revision - last, (created + ended) as u64, "one revision a write, without gaps");
        // The next life begins empty, so that all of this stays quick.
        let gone: Vec<Value> = names
            .iter()
            .map(|name| json!({"method": "DELETE", "path": format!("/upstreams/{name}")}))
            .collect();
        let (status, answer) = understudy.patch("/config", json!({"changes": gone})).await;
        assert_eq!(status, 200, "{answer}");
        last = revision + u64::from(!names.is_empty());
    }
    assert!(total >= kills(), "{total}");
}

/// Tests a full disk by a limit for the size of files, which needs no rights to set.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_the_write_keeps_serving_and_is_over_when_it_is_over() {
    let data = tempfile::tempdir().unwrap();
    let start = async |limit: &str| {
        let mut command = std::process::Command::new("sh");
        let program = env!("CARGO_BIN_EXE_understudy");
        // The signal is ignored, so that writing fails as on a full disk.
        let script = format!(
            "trap '' XFSZ; ulimit -f {limit}; exec {program} serve --xds 127.0.0.1:0 --admin 127.0.0.1:0 --data {}",
            data.path().display()
        );
        let process = Process::spawn("understudy", command.args(["-c", &script]));
        let admin = process.line(0, "admin ").await;
        process.line(0, "ready").await;
        (process, admin)
    };
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
    let put = async |admin: &str, number: usize| {
        let targets: Vec<Value> = (0..200)
            .map(|it| json!({"target": format!("10.{}.{}.{it}:80", number / 250, number % 250)}))
            .collect();
        let url = format!("http://{admin}/upstreams/u{number}");
        let response = client.put(url).json(&json!({"targets": targets})).send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };
    let (mut process, admin) = start("4096").await;
    let mut number = 0;
    let problem = loop {
        match put(&admin, number).await {
            (201, _) => number += 1,
            (507, problem) => break problem,
            other => panic!("{other:?}"),
        }
        assert!(number < 1000, "2 MB should be full by now");
    };
    assert!(problem["detail"].as_str().unwrap().contains("could not be stored"), "{problem}");
    let revision = async |admin: &str| {
        let response = client.get(format!("http://{admin}/status")).send().await.unwrap();
        response.json::<Value>().await.unwrap()["revision"].as_u64().unwrap()
    };
    assert_eq!(revision(&admin).await, number as u64, "it goes on answering, and counts what it stored");
    assert_eq!(put(&admin, number).await.0, 507);
    process.kill();
    let (_process, admin) = start("unlimited").await;
    assert_eq!(revision(&admin).await, number as u64, "nothing that was refused is there");
    assert_eq!(put(&admin, number).await.0, 201);
    assert_eq!(revision(&admin).await, number as u64 + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_taken_while_writes_go_on_and_is_restored() {
    let mut source = shop(&[]).await;
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("backup").display().to_string();
    let is_over = AtomicBool::new(false);
    let writes = async {
        let mut number = 0;
        while !is_over.load(Ordering::Relaxed) {
            number += 1;
            assert_eq!(source.put(&format!("/upstreams/n{number}"), json!({})).await.0, 201);
        }
    };
    let backup = async {
        let admin = source.admin.to_string();
        let mut command = understudy(&["backup", &file, "--admin", &admin]);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        is_over.store(true, Ordering::Relaxed);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    tokio::join!(writes, backup);
    source.kill();
    let restore = |more: &[&str]| {
        let data = source.data().display().to_string();
        understudy(&["restore", &file, "--data", &data]).args(more).output().unwrap()
    };
    let refused = restore(&[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--force"));
    assert!(restore(&["--force"]).status.success());
    source.restart().await;
    let revision = source.get("/status").await.1["revision"].as_u64().unwrap();
    let upstreams = source.get("/upstreams?size=1000").await.1["items"].as_array().unwrap().len() as u64;
    assert_eq!(upstreams, revision, "each revision made one");
    assert_eq!(source.get("/services/shop").await.0, 200);
    // A restore is refused while the control plane serves.
    let data = source.data().display().to_string();
    let in_use = understudy(&["restore", &file, "--data", &data, "--force"]).output().unwrap();
    assert!(String::from_utf8_lossy(&in_use.stderr).contains("in use by another understudy"));
}

#[test]
fn what_cannot_be_used_is_told_with_what_to_do() {
    let serve = |data: &std::path::Path| {
        let mut command = understudy(&["serve", "--xds", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data"]);
        let output = command.arg(data).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("understudy.redb");
    std::fs::write(&file, "this was a database once, before somebody edited it").unwrap();
    let told = serve(directory.path());
    assert!(told.contains("is damaged; restore a backup"), "{told}");
    // A directory in place of the file fails even if permissions stop nothing, as for root.
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let told = serve(directory.path());
    assert!(
        told.contains(&directory.path().display().to_string()) && told.contains("cannot be used"),
        "{told}"
    );
}
