//! Tests of access logs: Envoys log for each request and connection which target served, and how often it was
//! tried.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Backend, PATIENCE, Understudy, eventually, free_port};
use crate::stage::{Edge, create};
use crate::tls;

/// Waits for a line of a log in JSON that `fits`, and returns it.
async fn line(path: &std::path::Path, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    eventually(PATIENCE, what, async || {
        let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
        // The last line may be half written.
        let mut lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        lines.find(&fits).ok_or(text)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_names_the_backend_and_the_number_of_tries() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let logs = ["requests", "connections", "text"].map(|name| directory.path().join(name));
    let [requests, connections, text] = &logs;
    let (mut a, failover) = (Backend::start("A").await, Backend::start("FAILOVER").await);
    let (understudy, ports) = (Understudy::serve(&[]).await, [free_port(), free_port(), free_port()]);
    let targets = json!([
        {"target": a.address().to_string()},
        {"target": failover.address().to_string(), "failover": true},
    ]);
    for (name, protocol) in [("shop", "http1"), ("db", "tcp")] {
        let upstream = json!({"name": name, "protocol": protocol, "targets": targets});
        create(&understudy, "/upstreams", upstream).await;
        create(&understudy, "/services", json!({"name": name, "upstream": name})).await;
    }
    create(&understudy, "/routes", json!({"name": "shop", "service": "shop"})).await;
    for (listener, port) in [
        json!({"name": "web", "access_log": {"path": requests, "format": "json"}}),
        json!({"name": "db", "protocol": "tcp", "service": "db", "access_log": {"path": connections, "format": "json"}}),
        json!({"name": "plain", "access_log": {"path": text, "format": "text"}}),
    ]
    .into_iter()
    .zip(ports)
    {
        let mut listener = listener;
        listener["address"] = json!(format!("127.0.0.1:{port}"));
        create(&understudy, "/listeners", listener).await;
    }
    let edge = Edge::new(understudy, ports[0]).await;
    edge.serves("A", PATIENCE).await;
    let first = line(requests, "A served", |line| line["status"] == 200).await;
    assert_eq!(first["target"], json!(a.address().to_string()), "{first}");
    assert_eq!((&first["attempts"], &first["upstream"]), (&json!(1), &json!("shop")), "{first}");

    a.mode("status 503").await;
    edge.serves("FAILOVER", PATIENCE).await;
    let tried = line(requests, "FAILOVER served", |line| line["attempts"].as_u64() > Some(1)).await;
    assert_eq!(tried["target"], json!(failover.address().to_string()), "{tried}");
    assert_eq!((&tried["status"], &tried["method"]), (&json!(200), &json!("GET")), "{tried}");

    a.mode("ok").await;
    tls::get(ports[1]).await.expect("a connection is a connection");
    let connection = line(connections, "a connection was made", |line| line["upstream"] == "db").await;
    assert!(connection["bytes_sent"].as_u64() > Some(0), "{connection}");

    eventually(PATIENCE, "the third listener is there", async || tls::get(ports[2]).await).await;
    eventually(PATIENCE, "a line of Envoy's own format", async || match fs::read_to_string(text) {
        Ok(text) if text.contains("\"GET / HTTP/1.1\" 200") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}
