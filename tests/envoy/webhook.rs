//! Tests of receivers of events: deliveries over HTTPS, signed, and repeated if the receiver was away.

use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::{Router, routing::post};
use serde_json::{Value, json};

use crate::harness::{PATIENCE, Understudy, eventually, free_port, understudy};
use crate::stage::{Backends, Edge, checkout, comes_to_rest, create, faultless};
use crate::tls::{CertificateAuthority, TlsFront};

/// Received requests: each body with its signature and the status of the response.
type ReceivedEvents = Arc<Mutex<Vec<(String, String, StatusCode)>>>;

/// Answers the first event with 503 and the others with 200; a test event is always answered with 200.
async fn receive(State(received): State<ReceivedEvents>, headers: HeaderMap, body: String) -> StatusCode {
    let mut received = received.lock().unwrap_or_else(PoisonError::into_inner);
    let is_test = body.contains("\"event\":\"test\"");
    let events = received.iter().filter(|(body, ..)| !body.contains("\"event\":\"test\"")).count();
    let status = if !is_test && events == 0 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let signature = headers.get("x-understudy-signature").and_then(|value| value.to_str().ok());
    received.push((body, signature.unwrap_or_default().to_owned(), status));
    status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_is_sent_over_https_signed_and_again_until_it_is_received() {
    let received = ReceivedEvents::default();
    let receiver = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let plain = receiver.local_addr().expect("it is bound");
    let routes = Router::new().route("/hook", post(receive)).with_state(received.clone());
    tokio::spawn(async move { axum::serve(receiver, routes).await });
    let authority = CertificateAuthority::new("receivers");
    let front = TlsFront::start(plain, &authority.issue(&["127.0.0.1"]), None).await;

    let directory = tempfile::tempdir().expect("a temporary directory");
    let [trusted, config] = ["authority.pem", "notify.yaml"].map(|name| directory.path().join(name));
    std::fs::write(&trusted, &authority.pem).expect("the directory is ours");
    let url = format!("https://{}/hook", front.address);
    let notify = format!("notify: [{{ url: \"{url}\", events: [failover], secret: s3cret }}]\n");
    std::fs::write(&config, notify).expect("the directory is ours");
    let config = config.to_str().expect("it is text");
    // Variable by which most programs find their trusted certificates.
    let understudy_process = Understudy::serve_with(&[("SSL_CERT_FILE", &trusted)], &[config]).await;

    let mut backends = Backends::start().await;
    let port = free_port();
    let listener = json!({"name": "web", "address": format!("127.0.0.1:{port}")});
    create(&understudy_process, "/listeners", listener).await;
    checkout(&understudy_process, json!({}), &[&backends.a, &backends.b]).await;
    let standby = json!({"target": backends.failover.address().to_string(), "failover": true});
    create(&understudy_process, "/upstreams/checkout/targets", standby).await;
    let edge = Edge::new(understudy_process, port).await;
    let tested = understudy(&["notify", "test", "--admin", &edge.understudy.admin.to_string()]).output();
    let tested = tested.expect("it runs");
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stdout));

    let load = edge.load(300);
    comes_to_rest(&load, &["A", "B"]).await;
    for primary in backends.primaries() {
        primary.kill();
    }
    let told = eventually(PATIENCE, "it is told until it is heard", async || {
        let told = received.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if told.len() == 3 { Ok(told) } else { Err(format!("{told:?}")) }
    })
    .await;
    let statuses: Vec<u16> = told.iter().map(|(.., status)| status.as_u16()).collect();
    assert_eq!(statuses, [200, 503, 200], "the test, the refused event, the same again");
    assert_eq!(told[1].0, told[2].0);
    for (body, signature, _) in &told {
        assert_eq!(*signature, ::understudy::telemetry::webhooks::signature("s3cret", body));
    }
    let event: Value = serde_json::from_str(&told[2].0).expect("JSON");
    assert_eq!(
        (&event["event"], &event["upstream"], &event["to"]),
        (&json!("failover"), &json!("checkout"), &json!(1))
    );
    comes_to_rest(&load, &["FAILOVER"]).await;
    faultless(load).await;
}
