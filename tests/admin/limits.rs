//! Tests of the limits of the admin port: time, number, memory, descriptors, and what never waits for them.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::{PATIENCE, Understudy, eventually, free_port, understudy};
use crate::tls::CertificateAuthority;

/// Time within which the headers of a request must arrive, and its body.
const HEADERS: Duration = Duration::from_secs(10);
const BODY: Duration = Duration::from_secs(30);

/// Time that a busy machine may add to a limit.
const SLACK: Duration = Duration::from_secs(15);

async fn connect(server: &Understudy) -> TcpStream {
    TcpStream::connect(server.admin).await.unwrap()
}

/// Sends a byte from time to time until the server closes the connection or answers, and returns the answer and the
/// time that it took.
async fn trickle(mut stream: TcpStream, begin: &[u8], byte: Option<u8>) -> (String, Duration) {
    let since = Instant::now();
    stream.write_all(begin).await.unwrap();
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match tokio::time::timeout(Duration::from_millis(200), stream.read(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => return (String::from_utf8_lossy(&answer).into_owned(), since.elapsed()),
            Ok(Ok(length)) => answer.extend_from_slice(&buffer[..length]),
            Err(_) => {
                assert!(since.elapsed() < BODY + SLACK, "it is not closed");
                if let Some(byte) = byte {
                    // It may be closed just now.
                    let _ = stream.write_all(&[byte]).await;
                }
            }
        }
    }
}

fn is_about(took: Duration, limit: Duration) -> bool {
    (limit - Duration::from_secs(1)..limit + SLACK).contains(&took)
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_have_ten_seconds_and_silence_has_too() {
    let server = Understudy::serve(&[]).await;
    let request = format!("GET /status HTTP/1.1\r\nhost: {}\r\n", server.admin);
    let (whole, part) = (format!("{request}\r\n"), format!("{request}x-slow: "));
    let (silent, slow, idle) = tokio::join!(
        trickle(connect(&server).await, b"", None),
        trickle(connect(&server).await, part.as_bytes(), Some(b'x')),
        trickle(connect(&server).await, whole.as_bytes(), None),
    );
    for (what, (answer, took)) in [("silent", silent), ("slow", slow)] {
        assert!(is_about(took, HEADERS), "{what}: {took:?}");
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{what}: {answer}");
    }
    assert!(idle.0.starts_with("HTTP/1.1 200") && is_about(idle.1, HEADERS), "idle: {idle:?}");
    let (large, _) = trickle(connect(&server).await, &vec![b'x'; 1 << 20], None).await;
    assert!(large.is_empty() || large.starts_with("HTTP/1.1 4"), "endless headers: {large}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_has_thirty_seconds_and_an_event_stream_lives_on() {
    let server = Understudy::serve(&[]).await;
    let mut events = server.request(Method::GET, "/events").timeout(2 * BODY).send().await.unwrap();
    assert!(events.chunk().await.unwrap().is_some());
    let head = format!(
        "POST /upstreams HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n{{",
        server.admin
    );
    let (answer, took) = trickle(connect(&server).await, head.as_bytes(), Some(b' ')).await;
    assert!(is_about(took, BODY), "{took:?}");
    assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{answer}");
    assert!(answer.contains("application/problem+json") && answer.contains("within 30 s"), "{answer}");
    let (status, _) = server.post("/upstreams", json!({"name": "late"})).await;
    assert_eq!(status, 201);
    let told = async {
        let mut told = String::new();
        while !told.contains("late") {
            told += &String::from_utf8_lossy(&events.chunk().await.unwrap().expect("the stream goes on"));
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("the event comes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_has_ten_seconds() {
    let directory = tempfile::tempdir().unwrap();
    let authority = CertificateAuthority::new("admin");
    crate::security::write(directory.path(), "server", &authority.issue(&["localhost"]));
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (certificate, key) = (path("server.pem"), path("server.key"));
    let server = Understudy::serve(&["--admin-tls-cert", &certificate, "--admin-tls-key", &key]).await;
    // The beginning of a client's first record.
    let (answer, took) = trickle(connect(&server).await, &[0x16, 0x03, 0x01], None).await;
    assert!(answer.is_empty() && is_about(took, HEADERS), "{took:?}: {answer}");
}

/// Reads what a connection beyond the limit gets.
async fn refusal(server: &Understudy) -> String {
    let mut text = String::new();
    let mut stream = connect(server).await;
    let read = tokio::time::timeout(Duration::from_secs(2), stream.read_to_string(&mut text)).await;
    assert!(read.is_err() || read.unwrap().is_ok());
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded_and_further_ones_are_told() {
    let server = Understudy::serve_with_descriptors(200, &[]).await;
    let open = || fs::read_dir(format!("/proc/{}/fd", server.id())).unwrap().count();
    let before = open();
    let idle: Vec<TcpStream> = {
        let mut idle = Vec::new();
        for _ in 0..50 {
            idle.push(connect(&server).await);
        }
        idle
    };
    let told = eventually(PATIENCE, "the port is full", async || match refusal(&server).await {
        text if text.is_empty() => Err("it is accepted".to_owned()),
        text => Ok(text),
    })
    .await;
    assert!(told.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{told}");
    assert!(told.contains("retry-after: 1") && told.contains("there are too many connections"), "{told}");
    let mut flood = JoinSet::new();
    for _ in 0..300 {
        let admin = server.admin;
        flood.spawn(async move { TcpStream::connect(admin).await });
    }
    let connections = flood.join_all().await;
    assert!(open() <= before + 50 + 40, "{} descriptors, {before} before", open());
    drop((idle, connections));
    eventually(PATIENCE, "there is room again", async || {
        let answer =
            server.request(Method::GET, "/status").send().await.map_err(|error| error.to_string())?;
        if answer.status().is_success() { Ok(()) } else { Err(answer.status().to_string()) }
    })
    .await;
    assert_eq!(server.log().matches("there are too many connections").count(), 1, "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_descriptors_is_raised_to_the_hard_one() {
    let server = Understudy::serve_with_descriptors(300, &[]).await;
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers, ["300", "300"], "the shell set a soft limit of half of it: {line}");
    assert!(server.log().contains("few descriptors"), "{}", server.log());
}

/// Returns bodies of 15 MB: one with a long text, which is parsed to its end and then refused, and one with many
/// values, each of which takes more memory than its text.
fn large_bodies() -> [String; 2] {
    let text = format!(r#"{{"name": "large", "targets": [], "pad": "{}"}}"#, "x".repeat(15 << 20));
    [text, format!(r#"{{"name": "large", "pad": [1{}]}}"#, ",1".repeat(15 << 19))]
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_large_bodies_at_once_take_a_bounded_memory() {
    let mut server = Understudy::serve(&[]).await;
    let (before, _) = server.process().memory();
    let bodies = large_bodies();
    let mut requests = JoinSet::new();
    for body in bodies.iter().cycle().take(60) {
        let request = server.request(Method::POST, "/upstreams").header("content-type", "application/json");
        requests.spawn(request.timeout(4 * PATIENCE).body(body.clone()).send());
    }
    let mut statuses: Vec<u16> = Vec::new();
    while let Some(sent) = requests.join_next().await {
        // A connection may be cut while the client still sends.
        statuses.extend(sent.unwrap().map(|answer| answer.status().as_u16()));
    }
    assert!(statuses.iter().all(|status| [400, 422, 503].contains(status)), "{statuses:?}");
    assert!(statuses.contains(&400) && statuses.contains(&422) && statuses.contains(&503), "{statuses:?}");
    let (_, most) = server.process().memory();
    assert!(most < before + 400, "{before} MiB before, at most {most} MiB");
    let small = server.post("/upstreams", json!({"name": "small"})).await;
    assert_eq!(small.0, 201, "{}", small.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_client_hangs_up_in_the_queue_is_not_done() {
    let directory = tempfile::tempdir().unwrap();
    // Lookups at this server get no response; each holds the writer for a second.
    let mute = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let file = directory.path().join("a.yaml");
    fs::write(&file, format!("resolver: {{ servers: ['{}'] }}\n", mute.local_addr().unwrap())).unwrap();
    let server = Understudy::serve(&[file.to_str().unwrap()]).await;
    // On a busy machine the hang-up may be noticed only after the second.
    for attempt in 0..5 {
        let target = json!([{"target": format!("a{attempt}.example.com:80")}]);
        let body = json!({"name": format!("slow-{attempt}"), "targets": target});
        let slow = tokio::spawn(server.request(Method::POST, "/upstreams").json(&body).send());
        // The resolver asks again for names of earlier attempts.
        let mut query = [0; 512];
        let name = format!("a{attempt}");
        loop {
            let (length, _) = mute.recv_from(&mut query).await.unwrap();
            if query[..length].windows(name.len()).any(|part| part == name.as_bytes()) {
                break;
            }
        }
        let body = json!({"name": format!("gone-{attempt}")}).to_string();
        let head = format!(
            "POST /upstreams HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            server.admin,
            body.len()
        );
        let mut gone = connect(&server).await;
        gone.write_all(head.as_bytes()).await.unwrap();
        drop(gone);
        assert_eq!(slow.await.unwrap().unwrap().status(), 201);
        // This one was decided after it.
        assert_eq!(server.put("/upstreams/last", json!({"name": "last"})).await.0 / 100, 2);
        if server.get(&format!("/upstreams/gone-{attempt}")).await.0 == 404 {
            return;
        }
    }
    panic!("each write was done although its client was gone");
}

fn mkfifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_in_the_place_of_a_file_holds_up_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (config, pipe) = (directory.path().join("config"), directory.path().join("config/shop.pem"));
    fs::create_dir(&config).unwrap();
    let file = config.join("a.yaml");
    fs::write(&file, "upstreams: [{ name: a, targets: [{ target: '10.0.0.1:80' }] }]\n").unwrap();
    let server =
        Understudy::serve(&[config.to_str().unwrap(), "--material-dir", config.to_str().unwrap()]).await;
    let is_refused = async |what: &str| {
        let started = Instant::now();
        let (status, told) = server.post("/reload", json!({})).await;
        assert_eq!(status, 422, "{what}: {told}");
        assert!(told.to_string().contains("it is no regular file"), "{what}: {told}");
        let (status, told) = server.put("/upstreams/b", json!({"name": "b"})).await;
        assert_eq!(status / 100, 2, "{what}: {told}");
        assert!(started.elapsed() < PATIENCE, "{what}: {:?}", started.elapsed());
        assert_eq!(server.get("/readyz").await.0, 200, "{what}");
    };
    mkfifo(&pipe);
    let certificate = json!({"name": "shop", "certificate": {"file": pipe}, "key": {"file": pipe}});
    let (status, told) = server.put("/certificates/shop", certificate).await;
    assert_eq!(status, 422, "{told}");
    fs::write(
        config.join("b.yaml"),
        format!(
            "certificates: [{{ name: c, certificate: {{ file: '{0}' }}, key: {{ file: '{0}' }} }}]\n",
            pipe.display()
        ),
    )
    .unwrap();
    is_refused("a certificate").await;
    fs::remove_file(config.join("b.yaml")).unwrap();
    mkfifo(&config.join("b.yaml"));
    is_refused("a config file").await;
    assert_eq!(server.get("/upstreams/a").await.0, 200, "the last good config serves");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_not_ready_when_the_writer_does_not_answer() {
    let directory = tempfile::tempdir().unwrap();
    let admin = format!("127.0.0.1:{}", free_port());
    // Nobody reads its log, so the writer, which alone has lines in it, waits for good once the pipe is full.
    let log = "off,understudy::control=info";
    let mut child = understudy(&["serve", "--xds", "127.0.0.1:0", "--admin", &admin, "--log", log, "--data"])
        .arg(directory.path().join("data"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 8];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let ready = async || {
        let asked = client.get(format!("http://{admin}/readyz")).timeout(Duration::from_secs(3)).send().await;
        let answer = asked.map_err(|error| error.to_string())?;
        Ok::<_, String>((answer.status().as_u16(), answer.text().await.map_err(|error| error.to_string())?))
    };
    eventually(PATIENCE, "it is ready", async || match ready().await? {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    // Each upstream has a warning, which is a line.
    let targets = json!([{"target": "10.0.0.1:80"}, {"target": "10.0.0.1:80"}]);
    let put = |name: String| {
        let path = format!("/upstreams/{name}");
        json!({"method": "PUT", "path": path, "body": {"name": name, "targets": targets}})
    };
    let change = |round: usize| {
        let changes: Vec<Value> = (0..50).map(|index| put(format!("u{round}-{index}"))).collect();
        client
            .patch(format!("http://{admin}/config"))
            .json(&json!({ "changes": changes }))
            .timeout(20 * PATIENCE)
    };
    let changes: Vec<_> = (0..20).map(change).collect();
    let writes = tokio::spawn(async move {
        for change in changes {
            assert_eq!(change.send().await.unwrap().status(), 200);
        }
    });
    eventually(4 * PATIENCE, "it is not ready any more", async || match ready().await? {
        (503, told) if told.contains("has not answered for 10 s") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    // Once the log is read, it goes on.
    let mut log = child.stderr.take().unwrap();
    let reader = std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    eventually(PATIENCE, "it is ready again", async || match ready().await? {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    writes.await.expect("what was held up is done");
    child.kill().unwrap();
    child.wait().unwrap();
    let _ = reader.join();
}

#[tokio::test(flavor = "multi_thread")]
async fn shown_hashes_are_equal_in_one_store_and_differ_between_two() {
    let route = json!({"name": "r", "paths": ["/"], "headers": {"authorization": "hush", "x-token": "hush"}, "service": "s"});
    let hashes = async |server: &Understudy| -> Vec<Value> {
        let (status, shown) = server.get("/routes/r").await;
        assert_eq!(status, 200, "{shown}");
        let headers = shown["headers"].as_object().unwrap();
        headers.values().cloned().collect()
    };
    let mut all = Vec::new();
    for _ in 0..2 {
        let mut server = Understudy::serve(&[]).await;
        assert_eq!(server.post("/upstreams", json!({"name": "u"})).await.0, 201);
        assert_eq!(server.post("/services", json!({"name": "s", "upstream": "u"})).await.0, 201);
        let (status, told) = server.post("/routes", route.clone()).await;
        assert_eq!(status, 201, "{told}");
        let shown = hashes(&server).await;
        assert!(shown.iter().all(|hash| hash.as_str().unwrap().starts_with("[hash ")), "{shown:?}");
        assert_eq!(shown[0], shown[1], "equal secrets of one store");
        server.restart().await;
        assert_eq!(hashes(&server).await, shown, "the key is kept");
        let (status, orders) = server.get("/orders").await;
        assert_eq!(status, 200, "{orders}");
        assert!(!orders.to_string().contains("hash_key"), "{orders}");
        all.push(shown[0].clone());
    }
    assert_ne!(all[0], all[1], "equal secrets of two stores");
}
