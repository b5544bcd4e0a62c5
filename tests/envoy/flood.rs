//! Tests of an Envoy whose control plane has a flood of connections on its admin port.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::{Backend, PATIENCE, Understudy, eventually, free_port};
use crate::stage::{Edge, checkout, create};

/// Hard limit of the descriptors of the control plane, of which a quarter is for its admin port.
const DESCRIPTORS: u32 = 200;

/// Connects and says nothing, again and again.
async fn idle(admin: SocketAddr) {
    loop {
        if let Ok(mut stream) = TcpStream::connect(admin).await {
            // Ends when the server closes the connection.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
        tokio::task::yield_now().await;
    }
}

/// Waits until the admin port refuses a connection because there are too many.
async fn is_full(admin: SocketAddr) {
    eventually(PATIENCE, "the admin port is full", async || {
        let mut stream = TcpStream::connect(admin).await.map_err(|error| error.to_string())?;
        let mut text = String::new();
        let read = tokio::time::timeout(Duration::from_secs(1), stream.read_to_string(&mut text)).await;
        read.map_err(|_| "it is accepted")?.map_err(|error| error.to_string())?;
        if text.starts_with("HTTP/1.1 503") { Ok(()) } else { Err(text) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_connects_and_is_served_while_the_admin_port_is_full_of_idle_connections() {
    let (a, b) = (Backend::start("A").await, Backend::start("B").await);
    let (understudy, port) = (Understudy::serve_with_descriptors(DESCRIPTORS, &[]).await, free_port());
    let address = format!("127.0.0.1:{port}");
    create(&understudy, "/listeners", json!({"name": "web", "address": address})).await;
    checkout(&understudy, json!({}), &[&a]).await;
    let admin = understudy.admin;
    let mut flood = JoinSet::new();
    for _ in 0..3 * DESCRIPTORS {
        flood.spawn(idle(admin));
    }
    is_full(admin).await;
    // It waits until the Envoy has its first listeners and clusters.
    let edge = Edge::new(understudy, port).await;
    edge.serves("A", PATIENCE).await;
    is_full(admin).await;
    flood.shutdown().await;
    let targets = json!([{"target": b.address().to_string()}]);
    eventually(PATIENCE, "a write is accepted again", async || {
        let body = json!({"name": "checkout", "targets": targets});
        let request = edge.understudy.request(reqwest::Method::PUT, "/upstreams/checkout").json(&body);
        let answer = request.send().await.map_err(|error| error.to_string())?;
        if answer.status().is_success() { Ok(()) } else { Err(answer.status().to_string()) }
    })
    .await;
    edge.serves("B", PATIENCE).await;
}
