//! Tests of readiness: from the first build that is served until the shutdown begins.

use std::fs;
use std::net::UdpSocket;

use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::harness::{PATIENCE, Process, Understudy, eventually, free_port, understudy};

/// Sends a GET on a connection of its own, and returns the status and the body.
async fn ask(address: &str, path: &str) -> Result<(u16, String), String> {
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
    let response = client.get(format!("http://{address}{path}")).send().await;
    let response = response.map_err(|error| error.to_string())?;
    Ok((response.status().as_u16(), response.text().await.map_err(|error| error.to_string())?))
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_not_ready_before_the_first_build_is_served() {
    let directory = tempfile::tempdir().unwrap();
    // Lookups at this server get no response, and give up after a second.
    let mute = UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = mute.local_addr().unwrap();
    let file = directory.path().join("a.yaml");
    let text = format!(
        "resolver: {{ servers: ['{server}'] }}\nupstreams: [{{ name: a, targets: [{{ target: 'a.example.com:80' }}] }}]\n"
    );
    fs::write(&file, text).unwrap();
    let admin = format!("127.0.0.1:{}", free_port());
    let mut command = understudy(&["serve", "--xds", "127.0.0.1:0", "--admin", &admin, "--data"]);
    let _process = Process::spawn("understudy", command.arg(directory.path().join("data")).arg(&file));
    let first = eventually(PATIENCE, "the port answers", async || ask(&admin, "/readyz").await).await;
    assert_eq!(first.0, 503, "{first:?}");
    assert!(first.1.contains("the first build is not served yet"), "{first:?}");
    assert_eq!(ask(&admin, "/livez").await.unwrap().0, 200);
    assert_eq!(ask(&admin, "/upstreams").await.unwrap().0, 503);
    eventually(PATIENCE, "it is ready", async || match ask(&admin, "/readyz").await? {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(ask(&admin, "/upstreams").await.unwrap().0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_end_what_is_under_way_is_answered_and_nobody_else_is_sent_there() {
    let mut server = Understudy::serve(&[]).await;
    let admin = server.admin.to_string();
    // A follower of the events does not disconnect by itself.
    let events = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut follower = events.get(format!("http://{admin}/events")).send().await.unwrap();
    assert!(follower.chunk().await.unwrap().is_some());

    let body = json!({"name": "late"}).to_string();
    let mut writer = BufReader::new(TcpStream::connect(&admin).await.unwrap());
    let head = format!(
        "POST /upstreams HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nexpect: 100-continue\r\n\r\n",
        body.len()
    );
    writer.write_all(head.as_bytes()).await.unwrap();
    let mut line = String::new();
    writer.read_line(&mut line).await.unwrap();
    assert_eq!(line, "HTTP/1.1 100 Continue\r\n", "it waits for the body now");

    server.process().signal("TERM");
    eventually(PATIENCE, "it is not ready any more", async || match ask(&admin, "/readyz").await? {
        (503, told) if told.contains("shutting down") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(ask(&admin, "/livez").await.unwrap().0, 200);
    writer.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    writer.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("HTTP/1.1 201 Created"), "{answer}");
    assert!(server.process().wait_for_exit().await.success());
    server.restart().await;
    assert_eq!(server.get("/upstreams/late").await.0, 200, "what was answered is there");
}
