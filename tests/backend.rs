//! Tests of the backend whose faults can be chosen: each fault as a client sees it on the wire.

mod harness;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use harness::{Backend, Envoy, Process, eventually, free_port, understudy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use understudy::cli::demo::load::{LoadOptions, OpenLoad};

/// Time without data after which an exchange counts as silent.
const SILENCE: Duration = Duration::from_millis(300);

/// End of an exchange, as the client sees it.
#[derive(Debug, PartialEq, Eq)]
enum ExchangeEnd {
    /// Complete body, as long as `content-length` announced.
    Whole,
    Fin,
    Rst,
    Silence,
    Refused,
}

/// Raw client that shows what a better one would hide.
struct RawClient(TcpStream);

impl RawClient {
    async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.expect("the backend listens"))
    }

    async fn send(&mut self, method: &str, path: &str, body: &str) {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n");
        self.0.write_all(format!("{head}{body}").as_bytes()).await.expect("the connection is open");
    }

    async fn receive(&mut self) -> (String, ExchangeEnd) {
        let mut text = String::new();
        let mut buffer = [0; 1024];
        loop {
            match timeout(SILENCE, self.0.read(&mut buffer)).await {
                Ok(Ok(0)) => return (text, ExchangeEnd::Fin),
                Ok(Ok(length)) => text.push_str(&String::from_utf8_lossy(&buffer[..length])),
                Ok(Err(error)) if error.kind() == ErrorKind::ConnectionReset => {
                    return (text, ExchangeEnd::Rst);
                }
                Ok(Err(error)) => panic!("{error}"),
                Err(_) => return (text, ExchangeEnd::Silence),
            }
            if missing(&text) == Some(0) {
                return (text, ExchangeEnd::Whole);
            }
        }
    }

    async fn get(&mut self, path: &str) -> (String, ExchangeEnd) {
        self.send("GET", path, "").await;
        self.receive().await
    }
}

/// Returns the number of bytes of the body that are still to come; none before the head is complete.
fn missing(text: &str) -> Option<usize> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
    length.parse::<usize>().ok()?.checked_sub(body.len())
}

/// Checks the result of one GET in `mode`: the status, the body, the end.
async fn check(mode: &str, status: &str, body: &str, end: ExchangeEnd) {
    let mut backend = Backend::start("PRIMARY").await;
    backend.mode(mode).await;
    let (text, ended) = RawClient::connect(backend.address()).await.get("/").await;
    let (head, sent) = text.split_once("\r\n\r\n").unwrap_or_default();
    let answered = head.lines().next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    assert_eq!((answered, sent, ended), (status, body, end), "{mode}: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mode_is_seen_as_it_is_named() {
    check("ok", "200", "PRIMARY\n", ExchangeEnd::Whole).await;
    check("status 503", "503", "PRIMARY\n", ExchangeEnd::Whole).await;
    check("slow 100ms", "200", "PRIMARY\n", ExchangeEnd::Whole).await;
    check("hang", "", "", ExchangeEnd::Silence).await;
    check("reset", "", "", ExchangeEnd::Rst).await;
    check("close", "", "", ExchangeEnd::Fin).await;
    check("cut", "200", "PRIM", ExchangeEnd::Rst).await;
    check("cut fin", "200", "PRIM", ExchangeEnd::Fin).await;
    check("cut chunked", "200", "4\r\nPRIM\r\n", ExchangeEnd::Rst).await;
    check("stall", "200", "PRIM", ExchangeEnd::Silence).await;
}

/// Checks the end of a new connection, and of one that was open before, in the state `listener`.
async fn check_listener(listener: &str, new: ExchangeEnd, old: ExchangeEnd) {
    let mut backend = Backend::start("A").await;
    let mut before = RawClient::connect(backend.address()).await;
    assert_eq!(before.get("/").await.1, ExchangeEnd::Whole);
    assert_eq!(backend.run_command(&format!("listener {listener}")).await, "ok");
    let connected = match timeout(SILENCE, TcpStream::connect(backend.address())).await {
        Err(_) => ExchangeEnd::Silence,
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => ExchangeEnd::Refused,
        // The reset may be faster than the end of the connect.
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionReset => ExchangeEnd::Rst,
        Ok(Err(error)) => panic!("{error}"),
        Ok(Ok(stream)) => RawClient(stream).receive().await.1,
    };
    assert_eq!((connected, before.get("/").await.1), (new, old), "{listener}");
    assert_eq!(backend.run_command("listener open").await, "ok");
    assert_eq!(
        RawClient::connect(backend.address()).await.get("/").await.1,
        ExchangeEnd::Whole,
        "{listener}, and open"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn new_connections_fare_as_the_listener_is_set_and_old_ones_stay() {
    check_listener("closed", ExchangeEnd::Refused, ExchangeEnd::Whole).await;
    check_listener("reset", ExchangeEnd::Rst, ExchangeEnd::Whole).await;
    check_listener("mute", ExchangeEnd::Silence, ExchangeEnd::Whole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_begins_with_http_2_is_answered_in_it() {
    let mut backend = Backend::start("A").await;
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().expect("plain HTTP/2");
    let url = format!("http://{}/", backend.address());
    let response = client.get(&url).send().await.expect("it answers");
    assert_eq!((response.version(), response.status().as_u16()), (reqwest::Version::HTTP_2, 200));
    assert_eq!(response.text().await.expect("a text"), "A\n");
    backend.mode("reset").await;
    client.get(&url).send().await.expect_err("the connection is reset");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_names_the_backend_and_the_number_of_the_request() {
    let backend = Backend::start("A").await;
    let mut client = RawClient::connect(backend.address()).await;
    for number in 1..=2 {
        let (text, _) = client.get("/").await;
        assert!(text.contains("\r\nx-backend: A\r\n"), "{text}");
        assert!(text.contains(&format!("\r\nx-request-count: {number}\r\n")), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_answer_takes_its_time() {
    let mut backend = Backend::start("A").await;
    backend.mode("slow 200ms").await;
    let began = Instant::now();
    RawClient::connect(backend.address()).await.get("/").await;
    assert!(began.elapsed() >= Duration::from_millis(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_reads_the_whole_request_first() {
    let mut backend = Backend::start("A").await;
    backend.mode("close").await;
    let mut client = RawClient::connect(backend.address()).await;
    client.send("POST", "/", &"x".repeat(1 << 20)).await;
    assert_eq!(client.receive().await, (String::new(), ExchangeEnd::Fin), "unread bytes would make it RST");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grey_failure_looks_healthy_to_checks_only() {
    let mut backend = Backend::start("A").await;
    let mut client = RawClient::connect(backend.address()).await;
    backend.mode("status 500").await;
    assert!(client.get("/healthz").await.0.starts_with("HTTP/1.1 500"));
    backend.health("ok").await;
    assert!(client.get("/healthz").await.0.starts_with("HTTP/1.1 200"));
    assert!(client.get("/").await.0.starts_with("HTTP/1.1 500"));
    backend.health("same").await;
    assert!(client.get("/healthz").await.0.starts_with("HTTP/1.1 500"));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_counted_by_method_and_checks_apart() {
    let mut backend = Backend::start("A").await;
    let mut client = RawClient::connect(backend.address()).await;
    for (method, path) in [("GET", "/"), ("POST", "/orders"), ("GET", "/healthz"), ("GET", "/orders")] {
        client.send(method, path, "").await;
        client.receive().await;
    }
    assert_eq!(backend.run_command("count").await, r#"{"/healthz":1,"GET":2,"POST":1}"#);
    assert_eq!(backend.run_command("connections").await, r#"{"accepted":1,"open":1}"#);
    drop(client);
    eventually(
        harness::PATIENCE,
        "the connection is gone",
        async || match backend.connections().await["open"] {
            0 => Ok(()),
            open => Err(format!("{open} open")),
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_command_changes_nothing() {
    let mut backend = Backend::start("A").await;
    assert!(backend.run_command("mode sleepy").await.starts_with("error unknown mode `sleepy`"));
    assert_eq!(RawClient::connect(backend.address()).await.get("/").await.1, ExchangeEnd::Whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_one_refuses_and_returns_on_its_port() {
    let mut backend = Backend::start("A").await;
    let mut client = RawClient::connect(backend.address()).await;
    client.get("/").await;
    backend.kill();
    assert!(matches!(client.receive().await.1, ExchangeEnd::Fin | ExchangeEnd::Rst));
    let refused = TcpStream::connect(backend.address()).await.expect_err("nobody listens");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    backend.restart().await;
    assert_eq!(RawClient::connect(backend.address()).await.get("/").await.1, ExchangeEnd::Whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_one_is_silent_and_answers_when_thawed() {
    let backend = Backend::start("A").await;
    backend.freeze();
    let mut client = RawClient::connect(backend.address()).await;
    assert_eq!(client.get("/").await, (String::new(), ExchangeEnd::Silence));
    backend.thaw();
    assert_eq!(client.receive().await.1, ExchangeEnd::Whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_with_its_input_only_when_asked() {
    let arguments = ["backend", "--listen", "127.0.0.1:0"];
    let mut stays = Process::spawn("stays", &mut understudy(&arguments));
    let mut ends = Process::spawn("ends", understudy(&arguments).arg("--exit-with-stdin"));
    let address = stays.line(0, "listening ").await.parse().expect("it prints an address");
    ends.line(0, "listening ").await;
    stays.close_stdin();
    ends.close_stdin();
    assert!(ends.wait_for_exit().await.success());
    assert_eq!(RawClient::connect(address).await.get("/").await.1, ExchangeEnd::Whole);
    stays.signal("TERM");
    assert!(stays.wait_for_exit().await.success());
}

/// Checks a target behind an Envoy with a plain bootstrap: the processes of the harness fit together, and
/// faults reach the clients of an Envoy.
#[tokio::test(flavor = "multi_thread")]
async fn envoy_and_load_see_the_faults_too() {
    let mut backend = Backend::start("A").await;
    let port = free_port();
    let bootstrap = include_str!("harness/static.yaml")
        .replace("$PORT", &port.to_string())
        .replace("$BACKEND", &backend.address().port().to_string());
    let envoy = Envoy::launch("static", &bootstrap).await;
    envoy.live().await;
    let url = format!("http://127.0.0.1:{port}/").parse().expect("a URL");
    let load = OpenLoad::start(LoadOptions::get(url, 200));

    let answers = async |least: u64| {
        eventually(harness::PATIENCE, "the load is answered", async || {
            let current = load.current();
            if current.requests - current.pending >= least { Ok(()) } else { Err(format!("{current:?}")) }
        })
        .await;
    };
    answers(20).await;
    backend.mode("reset").await;
    let healthy = load.complete_window(load.end_window()).await;
    answers(20).await;
    let broken = load.complete_window(load.end_window()).await;

    assert!(healthy.served_by["A"] >= 19, "{healthy:?}");
    assert_eq!(broken.errors, broken.requests);
    assert!(broken.first_errors[0].starts_with("503: upstream connect error"), "{broken:?}");
    let stats = envoy.stats("cluster.backends.upstream_rq_").await;
    assert!(stats["cluster.backends.upstream_rq_5xx"] >= broken.errors, "{stats:?}");
}
