//! Tests of files that change under a running control plane, without an Envoy: when they are read again, and
//! what is reported.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{PATIENCE, Understudy, eventually};
use crate::tls::{CertificateAuthority, CertifiedKey};

/// Time limit for writing and reading 5,000 files, on a machine that is busy.
const STORM: Duration = Duration::from_secs(120);

fn upstream(name: &str) -> String {
    format!("upstreams: [{{ name: {name}, targets: [{{ target: 10.0.0.1:80 }}] }}]\n")
}

async fn serve(directory: &Path) -> Understudy {
    Understudy::serve(&[&directory.display().to_string()]).await
}

async fn upstreams(understudy: &Understudy) -> Value {
    understudy.get("/status").await.1["upstreams"].clone()
}

/// Waits until there are this many upstreams.
async fn become_many(understudy: &Understudy, many: usize, deadline: Duration) {
    eventually(deadline, &format!("there are {many} upstreams"), async || {
        match upstreams(understudy).await {
            found if found == json!(many) => Ok(()),
            found => Err(found.to_string()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_read_at_once_when_that_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.yaml"), upstream("a")).unwrap();
    let understudy = serve(directory.path()).await;
    fs::write(directory.path().join("b.yaml"), upstream("b")).unwrap();
    let (status, answer) = understudy.post("/reload", json!({})).await;
    assert_eq!((status, &answer["revision"]), (200, &json!(2)), "{answer}");
    assert_eq!(upstreams(&understudy).await, json!(2));

    // A broken file is answered with its faults, and changes nothing.
    fs::write(directory.path().join("b.yaml"), "upstreams: [{ nmae: b }]").unwrap();
    let (status, problem) = understudy.post("/reload", json!({})).await;
    assert_eq!(status, 422, "{problem}");
    assert_eq!(problem["violations"][0]["line"], 1);
    assert_eq!(upstreams(&understudy).await, json!(2));
    assert_eq!(understudy.get("/readyz").await.0, 200);
    let (_, state) = understudy.get("/status").await;
    assert!(state["files_stale_since"].is_string(), "{state}");
    assert_eq!(understudy.get("/violations").await.1, problem["violations"]);

    fs::remove_file(directory.path().join("b.yaml")).unwrap();
    assert_eq!(understudy.post("/reload", json!({})).await.0, 200);
    assert_eq!(upstreams(&understudy).await, json!(1));
    assert_eq!(understudy.get("/status").await.1["files_stale_since"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_reads_the_files_and_ends_nothing() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.yaml"), upstream("a")).unwrap();
    let mut understudy = serve(directory.path()).await;
    fs::write(directory.path().join("b.yaml"), upstream("b")).unwrap();
    understudy.process().signal("HUP");
    become_many(&understudy, 2, PATIENCE).await;
    eventually(PATIENCE, "the log says so", async || match understudy.log() {
        log if log.contains("told to read the files again") => Ok(()),
        log => Err(log),
    })
    .await;
}

/// Tests a write through another link to a file: it is an event of that other place. The watched directory
/// reports nothing, as on file systems that have no events.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_event_tells_of_is_found_all_the_same() {
    let (directory, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = directory.path().join("server/config");
    fs::create_dir_all(&config).unwrap();
    fs::write(config.join("a.yaml"), upstream("a")).unwrap();
    let link = elsewhere.path().join("a.yaml");
    fs::hard_link(config.join("a.yaml"), &link).unwrap();
    // A watcher that does not poll proves that there is no event.
    let config_path = config.display().to_string();
    let deaf = Understudy::serve(&["--poll", "1h", &config_path]).await;
    let understudy = Understudy::serve(&["--poll", "250ms", &config_path]).await;
    fs::write(&link, upstream("a") + &upstream("b").replace("upstreams", "---\nupstreams")).unwrap();
    become_many(&understudy, 2, PATIENCE).await;
    assert_eq!(upstreams(&deaf).await, json!(1), "nothing told it");
    assert_eq!(deaf.post("/reload", json!({})).await.0, 200);
    assert_eq!(upstreams(&deaf).await, json!(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_files_is_a_few_changes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display().to_string();
    let understudy = Understudy::serve(&[&path, "--allow-mass-removal"]).await;
    let began = Instant::now();
    for number in 0..5_000 {
        let name = format!("u{number}");
        fs::write(directory.path().join(format!("{name}.yaml")), upstream(&name)).unwrap();
    }
    become_many(&understudy, 5_000, STORM).await;
    let revisions = understudy.get("/status").await.1["revision"].as_u64().unwrap();
    // One revision at the end of the storm, and one every two seconds while it lasts.
    let most = 2 + began.elapsed().as_secs() / 2;
    assert!(revisions <= most, "{revisions} revisions in {:?}", began.elapsed());
    for number in 0..5_000 {
        fs::remove_file(directory.path().join(format!("u{number}.yaml"))).unwrap();
    }
    become_many(&understudy, 0, STORM).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_cut_and_written_again_is_one_change() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.yaml");
    fs::write(&file, upstream("a")).unwrap();
    let understudy = serve(directory.path()).await;
    for number in 0..5 {
        let name = format!("a{number}");
        drop(fs::File::create(&file).unwrap());
        eventually(PATIENCE, "the cut is seen by others", async || match fs::read_to_string(&file) {
            Ok(text) if text.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        fs::write(&file, upstream(&name)).unwrap();
        eventually(PATIENCE, "it is read", async || {
            match understudy.get(&format!("/upstreams/{name}")).await {
                (200, _) => Ok(()),
                (status, told) => Err(format!("{status} {told}")),
            }
        })
        .await;
    }
    let (_, revisions) = understudy.get("/revisions").await;
    assert_eq!(revisions["items"].as_array().unwrap().len(), 6, "never without upstreams: {revisions}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_expires_is_reported_though_nothing_else_happens() {
    let understudy = Understudy::serve(&[]).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let authority = CertificateAuthority::new("us");
    let write = async |name: &str, pair: CertifiedKey| {
        let body = json!({"certificate": {"inline": pair.chain}, "key": {"inline": pair.key}});
        let (status, answer) = understudy.put(&format!("/certificates/{name}"), body).await;
        assert_eq!(status, 201, "{answer}");
        answer["warnings"][0]["code"].clone()
    };
    assert_eq!(
        write("far", authority.issue_until("far.example.com", now + 60 * 24 * 60 * 60)).await,
        Value::Null
    );
    // 9999-12-31T23:59:59Z, which means "never", is beyond the last time of the calendar in use.
    assert_eq!(write("ever", authority.issue_until("ever.example.com", 253_402_300_799)).await, Value::Null);
    assert_eq!(write("soon", authority.issue_until("soon.example.com", now + 8)).await, json!("US145"));
    let (_, status) = understudy.get("/status").await;
    let told = eventually(PATIENCE, "it is told", async || {
        let (_, lint) = understudy.get("/lint").await;
        let told = lint.as_array().unwrap().iter().find(|it| it["code"] == "US143").cloned();
        told.ok_or_else(|| lint.to_string())
    })
    .await;
    assert_eq!(
        (&told["level"], &told["path"]),
        (&json!("warning"), &json!("certificates.soon.certificate.inline"))
    );
    assert!(understudy.log().contains("this certificate expired at"), "{}", understudy.log());
    assert_eq!(understudy.get("/status").await.1["revision"], status["revision"], "nobody changed anything");
}
