//! Tests of events: clients that follow get them, and so do clients that reconnect.

use http::Method;
use serde_json::{Value, json};

use crate::harness::{PATIENCE, Understudy};
use crate::stage::{send, shop};

/// Client that follows `GET /events`.
struct EventReader {
    response: reqwest::Response,
    text: String,
}

/// Event: its kind, its id, and its data.
#[derive(Debug)]
struct ReceivedEvent {
    word: String,
    id: String,
    data: Value,
}

impl EventReader {
    async fn new(understudy: &Understudy, last: Option<&str>) -> Self {
        let mut request = understudy.request(Method::GET, "/events");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: String::new() }
    }

    async fn next(&mut self) -> ReceivedEvent {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let lines = block.lines().filter_map(|line| line.strip_prefix(name));
                    lines.map(|line| line.trim_start_matches(':').trim()).collect::<String>()
                };
                let event = ReceivedEvent {
                    word: field("event"),
                    id: field("id"),
                    data: serde_json::from_str(&field("data")).unwrap_or_default(),
                };
                self.text = rest.to_owned();
                // A message without a kind is a comment.
                if !event.word.is_empty() {
                    return event;
                }
                continue;
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await;
            let chunk = chunk.expect("an event comes").unwrap().expect("the stream goes on");
            self.text += std::str::from_utf8(&chunk).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_an_event_and_a_client_that_returns_gets_the_missed_ones() {
    let understudy = shop(&[]).await;
    let mut follower = EventReader::new(&understudy, None).await;
    let headers = [("x-reason", "more of them")];
    send(&understudy, Method::PUT, "/upstreams/two", &headers, json!({})).await;
    let event = follower.next().await;
    assert_eq!(event.word, "revision");
    assert_eq!((&event.data["number"], &event.data["reason"]), (&json!(2), &json!("more of them")));
    assert!(event.data["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{event:?}");
    drop(follower);

    understudy.put("/upstreams/three", json!({})).await;
    understudy.put("/upstreams/three", json!({})).await;
    understudy.put("/upstreams/four", json!({})).await;
    let mut again = EventReader::new(&understudy, Some(&event.id)).await;
    let numbers = [again.next().await.data["number"].clone(), again.next().await.data["number"].clone()];
    assert_eq!(numbers, [json!(3), json!(4)], "a write that changes nothing is no revision");

    let mut stranger = EventReader::new(&understudy, Some("of-another-run")).await;
    assert_eq!(stranger.next().await.word, "missed");
    assert_eq!(stranger.next().await.data["number"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_refused_are_reported_until_they_are_good_again() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("shop.yaml");
    let good = "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }] }]";
    std::fs::write(&file, good).unwrap();
    let understudy = Understudy::serve(&[file.to_str().unwrap()]).await;
    assert_eq!(understudy.get("/status").await.1["files_stale_since"], Value::Null);
    let mut follower = EventReader::new(&understudy, None).await;
    std::fs::write(&file, "upstreams: [{ nmae: shop }]").unwrap();
    let refused = follower.next().await;
    assert_eq!(
        (refused.word.as_str(), refused.data["violations"].as_u64() > Some(0)),
        ("files_refused", true)
    );
    assert!(understudy.get("/status").await.1["files_stale_since"].is_string());
    assert!(metric(&understudy, "understudy_files_stale_since_seconds").await > 1e9);
    std::fs::write(&file, good).unwrap();
    assert_eq!(follower.next().await.word, "files_recovered");
    assert_eq!(metric(&understudy, "understudy_files_stale_since_seconds").await, 0.0);
}

/// Returns the value of the series with this name and these labels.
async fn metric(understudy: &Understudy, series: &str) -> f64 {
    let response = understudy.request(Method::GET, "/metrics").send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let text = response.text().await.unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{series} is not in\n{text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_measured_counts_what_was_done_and_nobody_chooses_its_labels() {
    let understudy = shop(&[]).await;
    for number in 0..40 {
        let path = format!("/upstreams/none-{number}");
        assert_eq!(send(&understudy, Method::GET, &path, &[], Value::Null).await.status, 404);
        send(&understudy, Method::GET, &format!("/nothing/{number}"), &[], Value::Null).await;
        let method = Method::from_bytes(format!("ODD{number}").as_bytes()).unwrap();
        send(&understudy, method, "/upstreams", &[], Value::Null).await;
    }
    for (series, value) in [
        ("understudy_revision", 1.0),
        ("understudy_revisions_total{source=\"api\"}", 1.0),
        ("understudy_entities{kind=\"upstreams\"}", 1.0),
        ("understudy_entities{kind=\"targets\"}", 2.0),
        ("understudy_connected_nodes{fleet=\"default\"}", 0.0),
        ("understudy_files_stale_since_seconds", 0.0),
        ("understudy_http_requests_total{method=\"GET\",route=\"/upstreams/{name}\",status=\"404\"}", 40.0),
        ("understudy_http_requests_total{method=\"GET\",route=\"other\",status=\"404\"}", 40.0),
        ("understudy_http_requests_total{method=\"other\",route=\"/upstreams\",status=\"405\"}", 40.0),
        ("understudy_store_commit_duration_seconds_count", 1.0),
    ] {
        assert_eq!(metric(&understudy, series).await, value, "{series}");
    }
    assert!(metric(&understudy, "understudy_builds_total{outcome=\"accepted\"}").await >= 1.0);
}
