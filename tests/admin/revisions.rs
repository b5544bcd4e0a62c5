//! Tests of revisions: every accepted change is one, and can be read, compared and undone.

use std::fs;

use http::Method;
use serde_json::{Value, json};

use crate::harness::{PATIENCE, Understudy, eventually};
use crate::stage::{send, shop};

async fn revision(understudy: &Understudy, number: u64) -> Value {
    let (status, revision) = understudy.get(&format!("/revisions/{number}")).await;
    assert_eq!(status, 200, "{revision}");
    revision
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_a_revision_with_author_reason_and_words() {
    let understudy = shop(&[]).await;
    let first = revision(&understudy, 1).await;
    assert_eq!(
        (&first["reason"], &first["source"], &first["state"]),
        (&json!("the stage"), &json!("api"), &json!("live"))
    );
    assert_eq!(first["summary"], "route shop is new; service shop is new; upstream shop is new");
    let headers = [("x-reason", "the standby moves")];
    let deleted =
        send(&understudy, Method::DELETE, "/upstreams/shop/targets/10.0.0.2:80", &headers, Value::Null).await;
    assert_eq!((deleted.status, deleted.header("x-revision")), (204, "2"));
    let second = revision(&understudy, 2).await;
    assert_eq!(second["summary"], "upstream shop loses its only standby (without target 10.0.0.2:80)");
    assert_eq!(second["reason"], "the standby moves");
    assert!(second["time"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{second}");
    assert_eq!(revision(&understudy, 1).await["state"], "superseded");
    // A write that changes nothing makes no revision.
    assert_eq!(understudy.patch("/services/shop", json!({})).await.0, 200);
    let (_, page) = understudy.get("/revisions?size=1").await;
    assert_eq!(
        (&page["items"][0]["number"], &page["next"]),
        (&json!(2), &json!("/revisions?after=2&size=1"))
    );
    let (_, page) = understudy.get(page["next"].as_str().unwrap()).await;
    assert_eq!((&page["items"][0]["number"], &page["next"]), (&json!(1), &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn revisions_are_compared_and_rolled_back() {
    let mut understudy = shop(&[]).await;
    let before = understudy.get("/config").await.1;
    assert_eq!(understudy.patch("/services/shop", json!({"timeout": "7s"})).await.0, 200);
    assert_eq!(understudy.patch("/services/shop", json!({"timeout": "8s"})).await.0, 200);
    assert_eq!(understudy.post("/upstreams", json!({"name": "more"})).await.0, 201);
    let (_, diff) = understudy.get("/revisions/1..3/diff").await;
    let change = &diff["changes"][0];
    assert_eq!(
        (&change["before"]["timeout"], &change["after"]["timeout"]),
        (&Value::Null, &json!("8s")),
        "{diff}"
    );
    let (_, back) = understudy.get("/revisions/4..3/diff").await;
    assert_eq!(
        (&back["changes"][0]["action"], &back["changes"][0]["name"]),
        (&json!("delete"), &json!("more"))
    );

    let (status, plan) = understudy.post("/revisions/1/rollback?dry_run=true", json!({})).await;
    assert_eq!((status, plan["changes"].as_array().unwrap().len()), (200, 2), "{plan}");
    let (status, rolled_back) = understudy.post("/revisions/1/rollback", json!({"reason": "too slow"})).await;
    assert_eq!((status, &rolled_back["number"]), (201, &json!(5)), "{rolled_back}");
    assert_eq!(rolled_back["rolled_back_to"], 1);
    let mut shown = rolled_back.clone();
    shown.as_object_mut().unwrap().remove("rolled_back_to");
    assert_eq!(shown, revision(&understudy, 5).await, "it is answered as it is read");
    assert_eq!((&shown["reason"], shown["changes"].as_array().unwrap().len()), (&json!("too slow"), 2));
    assert_eq!(understudy.get("/config").await.1, before);
    understudy.restart().await;
    assert_eq!(understudy.get("/config").await.1, before);
    let fifth = revision(&understudy, 5).await;
    assert_eq!((&fifth["source"], &fifth["reason"]), (&json!("rollback"), &json!("too slow")));
    assert_eq!(understudy.get("/revisions/1..5/diff").await.1["changes"], json!([]));
    let (status, nothing) = understudy.post("/revisions/5/rollback", json!({})).await;
    assert_eq!((status, &nothing["number"]), (200, &json!(5)), "there is nothing to do");
    // Rollback to before the first revision, and back.
    assert_eq!(understudy.post("/revisions/0/rollback", json!({})).await.0, 201);
    assert_eq!(understudy.get("/config").await.1["upstreams"], json!([]));
    assert_eq!(understudy.post("/revisions/5/rollback", json!({})).await.0, 201);
    assert_eq!(understudy.get("/config").await.1, before);
}

const SHOP: &str = "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }] }]\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_saved_file_is_a_revision_and_stands_in_the_way_of_a_rollback() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("shop.yaml");
    fs::write(&file, SHOP).unwrap();
    let path = file.display().to_string();
    let mut understudy = Understudy::serve(&[&path]).await;
    let first = revision(&understudy, 1).await;
    assert_eq!((&first["source"], &first["author"]), (&json!("files"), &json!(path)));
    assert_eq!(understudy.post("/upstreams", json!({"name": "more"})).await.0, 201);
    let saved = async |understudy: &Understudy, text: &str, number: u64| {
        fs::write(&file, text).unwrap();
        eventually(PATIENCE, "the file is taken", async || match understudy.get("/status").await.1 {
            status if status["revision"] == number => Ok(()),
            status => Err(status.to_string()),
        })
        .await;
    };
    saved(&understudy, &SHOP.replace("10.0.0.1", "10.0.0.2"), 3).await;
    assert_eq!(revision(&understudy, 3).await["source"], "files");
    assert_eq!(understudy.post("/upstreams", json!({"name": "last"})).await.0, 201);

    let (status, problem) = understudy.post("/revisions/2/rollback", json!({})).await;
    assert_eq!(status, 409, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains(&path), "{problem}");
    assert_eq!(understudy.get("/upstreams/last").await.0, 200, "nothing was done");
    assert_eq!(understudy.post("/revisions/2/rollback?keep=files", json!({})).await.0, 201);
    assert_eq!(understudy.get("/upstreams/last").await.0, 404);
    assert_eq!(understudy.post("/revisions/3/rollback", json!({})).await.0, 200, "there it was not yet");

    // A change while the control plane was down is a revision too; no change is none.
    understudy.kill();
    fs::write(&file, SHOP).unwrap();
    understudy.restart().await;
    assert_eq!(
        revision(&understudy, 6).await["summary"],
        "upstream shop changes new target 10.0.0.1:80, without target 10.0.0.2:80"
    );
    understudy.restart().await;
    assert_eq!(understudy.get("/status").await.1["revision"], 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_broken_files_goes_on_with_those_that_were_accepted_last() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("shop.yaml");
    fs::write(&file, SHOP).unwrap();
    let mut understudy = Understudy::serve(&[&file.display().to_string()]).await;
    assert_eq!(understudy.post("/services", json!({"name": "shop", "upstream": "shop"})).await.0, 201);
    let before = understudy.get("/config").await.1;
    understudy.kill();
    fs::write(&file, "upstreams: [{ name: shop").unwrap();
    understudy.restart().await;
    assert_eq!(understudy.get("/config").await.1, before);
    assert!(understudy.log().contains("accepted last"), "{}", understudy.log());
    assert_eq!(understudy.get("/violations").await.1[0]["code"], "US100");
    // The file is tried again when it is saved.
    fs::write(&file, SHOP.replace("10.0.0.1", "10.0.0.2")).unwrap();
    eventually(PATIENCE, "the file is taken", async || match understudy.get("/violations").await.1 {
        told if told == json!([]) => Ok(()),
        told => Err(told.to_string()),
    })
    .await;
    let (_, targets) = understudy.get("/upstreams/shop/targets").await;
    assert_eq!(targets["items"][0]["target"], "10.0.0.2:80");
    // The last good files serve too if the file cannot be read.
    understudy.kill();
    fs::remove_file(&file).unwrap();
    understudy.restart().await;
    assert_eq!(understudy.get("/upstreams/shop/targets").await.1, targets);
}
