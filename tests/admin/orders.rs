//! Tests of operators' orders without any Envoy: they are durable, listed, and in the responses.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{PATIENCE, Understudy, eventually, understudy};

const SHOP: &str = "
upstreams:
  - name: shop
    targets:
      - { target: 10.0.0.1:80, zone: a }
      - { target: 10.0.0.2:80, zone: b }
      - { target: 10.0.0.9:80, failover: true }
";

/// Starts a control plane with this config in a file.
async fn serve(config: &str) -> (Understudy, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("shop.yaml");
    std::fs::write(&file, config).unwrap();
    (Understudy::serve(&[file.to_str().unwrap()]).await, directory)
}

/// Returns the output of a command, which must succeed.
fn said(server: &Understudy, arguments: &[&str]) -> String {
    let output = understudy(arguments).arg("--admin").arg(server.admin.to_string()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {out}{err}");
    out.into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_of_a_file_is_drained_and_that_outlives_the_control_plane() {
    let (mut server, _directory) = serve(SHOP).await;
    let drained = said(&server, &["target", "drain", "shop", "10.0.0.1:80", "--reason", "new disks"]);
    assert_eq!(drained, "10.0.0.1:80 of shop is drained\n");
    server.kill();
    server.restart().await;
    let (status, state) = server.get("/upstreams/shop/targets/10.0.0.1:80/state").await;
    assert_eq!((status, &state["state"], &state["reason"]), (200, &json!("drained"), &json!("new disks")));
    let (_, snapshot) = server.get("/snapshots/default").await;
    assert!(snapshot["endpoints"].to_string().contains("DRAINING"), "{snapshot}");
    assert_eq!(said(&server, &["target", "auto", "shop", "10.0.0.1:80"]), "10.0.0.1:80 of shop is auto\n");
    let (_, orders) = server.get("/orders").await;
    assert_eq!(orders, json!({ "states": [], "pins": [], "holds": [], "drills": [] }));
}

#[tokio::test(flavor = "multi_thread")]
async fn zones_may_have_any_name() {
    for zone in ["c d", "a/b", "100%", "?", "ü"] {
        let (server, _directory) = serve(&SHOP.replace("zone: a", &format!("zone: \"{zone}\""))).await;
        let part = format!("zone={zone}");
        let drained = said(&server, &["target", "drain", "shop", &part]);
        assert_eq!(drained, format!("{part} of shop is drained\n"));
        let (_, orders) = server.get("/orders").await;
        assert_eq!(orders["states"][0]["zone"], zone, "{orders}");
        let (_, health) = server.get("/upstreams/shop/health").await;
        assert_eq!(health["targets"][0]["state"], "drained", "{health}");
        said(&server, &["target", "auto", "shop", &part]);
        let (_, orders) = server.get("/orders").await;
        assert_eq!(orders["states"], json!([]), "{orders}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_force_is_shown_by_status() {
    let (server, _directory) = serve(SHOP).await;
    said(&server, &["target", "down", "shop", "zone=a", "--expires", "10m"]);
    said(&server, &["pin", "shop", "--priority", "1", "--reason", "audit"]);
    let status = said(&server, &["status"]);
    for words in ["zone=a", "down", "PINNED TO", "audit", "unknown"] {
        assert!(status.contains(words), "{words}: {status}");
    }
    let json: Value = serde_json::from_str(&said(&server, &["status", "--json"])).unwrap();
    assert_eq!(json["orders"]["pins"][0]["priority"], 1, "{json}");
    let (_, snapshot) = server.get("/snapshots/default").await;
    let first = &snapshot["endpoints"][0]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"];
    assert_eq!(first["socket_address"]["address"], "10.0.0.9", "the pinned tier is the first: {snapshot}");
    assert_eq!(said(&server, &["pin", "shop", "--off"]), "shop is pinned no more\n");
    assert_eq!(said(&server, &["failovers"]), "none\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_without_traffic_ends_with_its_time_and_its_report_can_be_kept() {
    let (server, _directory) = serve(SHOP).await;
    let (status, drill) =
        server.post("/upstreams/shop/drill", json!({"down": ["priority=0"], "for": "1s"})).await;
    assert_eq!((status, &drill["state"]), (201, &json!("running")), "{drill}");
    let (status, second) = server.post("/upstreams/shop/drill", json!({"down": ["zone=a"]})).await;
    assert_eq!(status, 409, "{second}");
    eventually(PATIENCE, "the drill ends", async || {
        let (_, drill) = server.get("/drills/1").await;
        if drill["state"] == "done" { Ok(()) } else { Err(drill.to_string()) }
    })
    .await;
    let (_, markdown) = server.get("/drills/1?format=markdown").await;
    assert!(markdown.as_str().is_some_and(|text| text.starts_with("# Drill 1 of `shop`")), "{markdown}");
    let (_, drills) = server.get("/drills").await;
    assert_eq!((drills["items"].as_array().map(Vec::len), &drills["next"]), (Some(1), &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn receivers_get_drills_signed() {
    let receiver = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", receiver.local_addr().unwrap());
    let notify = format!("notify: [{{ url: \"{url}\", events: [drill], secret: s3cret }}]\n{SHOP}");
    let (server, _directory) = serve(&notify).await;
    // The receiver answers both in turn: the test event, and that of the drill that begins.
    let told = tokio::task::spawn_blocking(move || [heard(&receiver), heard(&receiver)]);
    assert!(said(&server, &["notify", "test"]).contains("told"));
    let (status, drill) =
        server.post("/upstreams/shop/drill", json!({"down": ["zone=a"], "for": "60s"})).await;
    assert_eq!(status, 201, "{drill}");
    let [test, drill] = told.await.unwrap();
    for (body, signature) in [&test, &drill] {
        assert_eq!(*signature, ::understudy::telemetry::webhooks::signature("s3cret", body));
    }
    assert!(test.0.contains("\"event\":\"test\""), "{test:?}");
    let drill: Value = serde_json::from_str(&drill.0).unwrap();
    assert_eq!(
        (&drill["event"], &drill["upstream"], &drill["state"]),
        (&json!("drill"), &json!("shop"), &json!("running"))
    );
}

/// Returns the body of the next request, and its signature.
fn heard(receiver: &TcpListener) -> (String, String) {
    receiver.set_nonblocking(true).unwrap();
    let end = Instant::now() + PATIENCE;
    let mut stream = loop {
        match receiver.accept() {
            Ok((stream, _)) => break stream,
            Err(error) => assert!(Instant::now() < end, "nobody came: {error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    stream.set_nonblocking(false).unwrap();
    let mut text = String::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).unwrap();
        text += std::str::from_utf8(&buffer[..read]).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let header = |name: &str| {
            let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(name));
            line.and_then(|line| line.split_once(": ")).map(|(_, value)| value.to_owned())
        };
        let length: usize = header("content-length").and_then(|length| length.parse().ok()).unwrap();
        if body.len() == length {
            let answer = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer.as_bytes()).unwrap();
            return (body.to_owned(), header("x-understudy-signature").unwrap_or_default());
        }
    }
}
