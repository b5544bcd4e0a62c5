//! Tests of tokens under attack: those that end each other, those that are guessed, and streams of those that
//! were revoked.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};

use crate::harness::{PATIENCE, Process, Understudy, eventually, understudy};
use crate::stage::{ApiResponse, send, shop};

/// Sends a request with a token.
async fn with(server: &Understudy, token: &str, method: Method, path: &str, body: Value) -> ApiResponse {
    send(server, method, path, &[("authorization", &format!("Bearer {token}"))], body).await
}

async fn made(server: &Understudy, name: &str, role: &str) -> String {
    let (status, made) = server.post("/tokens", json!({"name": name, "role": role})).await;
    assert_eq!(status, 201, "{made}");
    made["token"].as_str().unwrap().to_owned()
}

/// Returns a control plane that needs tokens, and two that may write.
async fn two_writers() -> (Understudy, [String; 2]) {
    let mut server = shop(&[]).await;
    let tokens = [made(&server, "a", "write").await, made(&server, "b", "write").await];
    server.restart_with(&["--require-token"]).await;
    (server, tokens)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_tokens_that_revoke_each_other_at_once_one_stays() {
    let (server, mut tokens) = two_writers().await;
    for round in 0..25 {
        let delete = |token: usize, path: &'static str| {
            with(&server, &tokens[token], Method::DELETE, path, Value::Null)
        };
        let (a, b) = tokio::join!(delete(0, "/tokens/b"), delete(1, "/tokens/a"));
        let statuses = [a.status, b.status];
        // The later one is the last, or was revoked before it was asked.
        assert!(
            matches!(statuses, [204, 409 | 401] | [409 | 401, 204]),
            "round {round}: {statuses:?} {} {}",
            a.body,
            b.body
        );
        let [winner, loser, name] = if a.status == 204 { [0, 1, 1] } else { [1, 0, 0] };
        let name = ["a", "b"][name];
        let body = json!({"name": name, "role": "write"});
        let again = with(&server, &tokens[winner], Method::POST, "/tokens", body).await;
        assert_eq!(again.status, 201, "round {round}: {}", again.body);
        tokens[loser] = again.body["token"].as_str().unwrap().to_owned();
    }
}

/// Tests an address that is not loopback by name, though only this machine reaches it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_token_once_closed_is_never_open_again() {
    let data = tempfile::tempdir().unwrap();
    let directory = data.path().to_str().unwrap();
    let start = async || {
        let arguments = ["serve", "--insecure", "--xds", "127.0.0.1:0", "--admin", "[::ffff:127.0.0.1]:0"];
        let process = Process::spawn("understudy", understudy(&arguments).args(["--data", directory]));
        process.line(0, "ready").await;
        let admin = process.line(0, "admin ").await;
        let port = admin.rsplit(':').next().unwrap().to_owned();
        (process, format!("http://127.0.0.1:{port}/upstreams"))
    };
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
    let status = async |url: &str| client.get(url).send().await.unwrap().status().as_u16();
    let (process, url) = start().await;
    assert_eq!(status(&url).await, 200, "there was no token yet");
    drop(process);
    let run = |arguments: &[&str]| {
        let output = understudy(arguments).args(["--data", directory]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run(&["token", "create", "root"]);
    // Whoever has the directory may do that; it closes the API, and opens it to nobody.
    run(&["token", "revoke", "root"]);
    let (process, url) = start().await;
    assert_eq!(status(&url).await, 401);
    assert!(process.log().contains("token create"), "what to do is told: {}", process.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_are_limited_and_do_not_fill_the_log() {
    let (server, tokens) = two_writers().await;
    let mut statuses = [0; 2];
    let began = Instant::now();
    for guess in 0..600 {
        let answer = with(&server, &format!("understudy_{guess}"), Method::GET, "/status", Value::Null).await;
        match answer.status {
            401 => statuses[0] += 1,
            429 => {
                assert!(answer.header("retry-after").parse::<u32>().is_ok(), "{:?}", answer.headers);
                statuses[1] += 1;
            }
            other => panic!("{other}: {}", answer.body),
        }
    }
    let allowed = 100 + 20 * (began.elapsed().as_secs() + 1);
    assert!(statuses[0] <= allowed, "{} guesses of 600 were answered", statuses[0]);
    let log = server.log();
    let lines = log.lines().filter(|line| line.contains("wrong_token")).count();
    assert!(lines <= 30, "{lines} lines for 600 guesses");
    eventually(PATIENCE, "the number of the others is logged", async || {
        let log = server.log();
        if log.contains("refused more requests") { Ok(()) } else { Err(log) }
    })
    .await;
    // Who has a token is not held up by who guesses.
    assert_eq!(with(&server, &tokens[0], Method::GET, "/status", Value::Null).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_events_ends_with_its_token() {
    let (server, tokens) = two_writers().await;
    let body = json!({"name": "eye", "role": "read"});
    let eye = with(&server, &tokens[0], Method::POST, "/tokens", body).await;
    let eye = eye.body["token"].as_str().unwrap().to_owned();
    let follow = async |token: &str| {
        let request =
            server.request(Method::GET, "/events").header("authorization", format!("Bearer {token}"));
        let mut stream = request.send().await.unwrap();
        assert_eq!(stream.status(), 200);
        assert!(stream.chunk().await.unwrap().is_some(), "it begins with a comment");
        stream
    };
    let (mut revoked, mut other) = (follow(&eye).await, follow(&tokens[1]).await);
    assert_eq!(with(&server, &tokens[0], Method::DELETE, "/tokens/eye", Value::Null).await.status, 204);
    let end = async { while let Ok(Some(_)) = revoked.chunk().await {} };
    tokio::time::timeout(Duration::from_secs(5), end).await.expect("it ends");
    assert_eq!(with(&server, &tokens[0], Method::PUT, "/upstreams/new", json!({})).await.status, 201);
    let mut text = String::new();
    while !text.contains("revision") {
        let chunk = tokio::time::timeout(PATIENCE, other.chunk()).await.expect("an event comes");
        text += std::str::from_utf8(&chunk.unwrap().expect("the stream goes on")).unwrap();
    }
}
