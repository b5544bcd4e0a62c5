//! Tests of concurrent writers: nothing is lost, nothing is done twice, and revisions have no gaps.

use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};

use crate::harness::Understudy;
use crate::stage::{send, shop};

const WRITERS: usize = 64;

/// Returns the numbers of all revisions, the newest first.
async fn numbers(understudy: &Understudy) -> Vec<u64> {
    let (_, page) = understudy.get("/revisions?size=1000").await;
    page["items"].as_array().unwrap().iter().map(|it| it["number"].as_u64().unwrap()).collect()
}

async fn has_no_gaps(understudy: &Understudy) -> u64 {
    let numbers = numbers(understudy).await;
    let last = numbers[0];
    assert_eq!(numbers, (1..=last).rev().collect::<Vec<_>>());
    last
}

async fn at_once<T: Send + 'static>(
    understudy: &Arc<Understudy>,
    write: impl AsyncFn(Arc<Understudy>, usize) -> T + Copy + 'static,
) -> Vec<T> {
    let writers = (0..WRITERS).map(|writer| write(understudy.clone(), writer));
    futures_util::future::join_all(writers).await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_those_who_change_what_they_read_none_is_lost() {
    let understudy = Arc::new(shop(&[]).await);
    at_once(&understudy, async |understudy, writer| {
        loop {
            let read = send(&understudy, Method::GET, "/upstreams/shop", &[], Value::Null).await;
            let mut tags = read.body["tags"].as_array().unwrap().clone();
            tags.push(json!(format!("w{writer}")));
            let headers = [("if-match", read.header("etag"))];
            let body = json!({"tags": tags});
            match send(&understudy, Method::PATCH, "/upstreams/shop", &headers, body).await.status {
                200 => return,
                412 => {}
                other => panic!("{other}"),
            }
        }
    })
    .await;
    let tags = understudy.get("/upstreams/shop").await.1["tags"].as_array().unwrap().len();
    assert_eq!(tags, 2 + WRITERS);
    assert_eq!(has_no_gaps(&understudy).await, 1 + WRITERS as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_those_who_create_the_same_one_succeeds() {
    let understudy = Arc::new(shop(&[]).await);
    let statuses = at_once(&understudy, async |understudy, _| {
        understudy.post("/upstreams/shop/targets", json!({"target": "10.0.0.9:80"})).await.0
    })
    .await;
    let count = |status| statuses.iter().filter(|it| **it == status).count();
    assert_eq!((count(201), count(409)), (1, WRITERS - 1));
    assert_eq!(has_no_gaps(&understudy).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_repeated_is_done_once() {
    let mut understudy = Arc::new(shop(&[]).await);
    let post = async |understudy: &Understudy, key: &str, target: &str| {
        let headers = [("idempotency-key", key)];
        send(understudy, Method::POST, "/upstreams/shop/targets", &headers, json!({"target": target})).await
    };
    let answers = at_once(&understudy, async move |understudy, _| {
        let headers = [("idempotency-key", "k1")];
        let body = json!({"target": "10.0.0.9:80"});
        send(&understudy, Method::POST, "/upstreams/shop/targets", &headers, body).await
    })
    .await;
    for answer in &answers {
        assert_eq!((answer.status, &answer.body), (201, &answers[0].body));
        assert_eq!(answer.header("x-revision"), "2");
    }
    let repeated = answers.iter().filter(|answer| answer.header("idempotency-replayed") == "true").count();
    assert_eq!(repeated, WRITERS - 1);
    assert_eq!(has_no_gaps(&understudy).await, 2);
    // Another body is another request, and failures are not remembered.
    assert_eq!(post(&understudy, "k1", "10.0.0.8:80").await.status, 422);
    assert_eq!(post(&understudy, "k2", "10.0.0.9:80").await.status, 409);
    assert_eq!(post(&understudy, "k2", "10.0.0.7:80").await.status, 201);
    Arc::get_mut(&mut understudy).unwrap().restart().await;
    let after = post(&understudy, "k1", "10.0.0.9:80").await;
    assert_eq!((after.status, after.header("idempotency-replayed")), (201, "true"));
    assert_eq!(post(&understudy, "k1", "10.0.0.8:80").await.status, 422);
    assert_eq!(has_no_gaps(&understudy).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writes_are_all_there_each_with_its_revision() {
    let understudy = Arc::new(shop(&[]).await);
    at_once(&understudy, async |understudy, writer| {
        for number in 0..8 {
            let body = json!({"target": format!("10.1.{writer}.{number}:80")});
            let answer = send(&understudy, Method::POST, "/upstreams/shop/targets", &[], body).await;
            assert_eq!(answer.status, 201, "{}", answer.body);
            let revision = understudy.get(&format!("/revisions/{}", answer.header("x-revision"))).await.1;
            let name = format!("shop/10.1.{writer}.{number}:80");
            assert_eq!(revision["changes"][0]["name"], name, "{revision}");
        }
    })
    .await;
    let (_, page) = understudy.get("/upstreams/shop/targets?size=1000").await;
    assert_eq!(page["items"].as_array().unwrap().len(), 2 + 8 * WRITERS);
    assert_eq!(has_no_gaps(&understudy).await, 1 + 8 * WRITERS as u64);
}
