//! Tests of HTTPS: certificates by name, required client certificates, and renewal.

use std::fs;
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use crate::harness::{Backend, PATIENCE, Understudy, eventually, free_port};
use crate::stage::{Edge, snapshot};
use crate::tls::{CertificateAuthority, CertifiedKey, Connections, TlsClient};

/// Control plane with files, an Envoy, and one backend behind HTTPS.
struct HttpsSetup {
    edge: Edge,
    authority: CertificateAuthority,
    directory: TempDir,
    _backend: Backend,
}

/// Returns the `config.yaml` beside the files of the certificates.
fn config(port: u16, backend: &Backend, listener: &str, certificates: &[&str]) -> String {
    let names = certificates.join(", ");
    let declared = certificates.iter().map(|name| {
        format!("  - {{ name: {name}, certificate: {{ file: {name}.pem }}, key: {{ file: {name}.key }} }}\n")
    });
    let address = backend.address();
    format!(
        "listeners: [{{ name: web, address: 127.0.0.1:{port}, protocol: https, certificates: [{names}]{listener} }}]
certificates:
{}upstreams: [{{ name: shop, targets: [{{ target: {address} }}] }}]
services: [{{ name: shop, upstream: shop }}]
routes: [{{ name: shop, service: shop }}]
",
        declared.collect::<String>()
    )
}

fn write(directory: &Path, name: &str, pair: &CertifiedKey) {
    fs::write(directory.join(format!("{name}.pem")), &pair.chain).expect("writes");
    fs::write(directory.join(format!("{name}.key")), &pair.key).expect("writes");
}

impl HttpsSetup {
    async fn start(listener: &str, certificates: &[(&str, &[&str])]) -> (Self, Vec<CertifiedKey>) {
        let (authority, backend, port) =
            (CertificateAuthority::new("ca"), Backend::start("A").await, free_port());
        let directory = tempfile::tempdir().expect("a temporary directory");
        let pairs: Vec<CertifiedKey> = certificates.iter().map(|(_, names)| authority.issue(names)).collect();
        for ((name, _), pair) in certificates.iter().zip(&pairs) {
            write(directory.path(), name, pair);
        }
        fs::write(directory.path().join("ca.pem"), &authority.pem).expect("writes");
        let names: Vec<&str> = certificates.iter().map(|(name, _)| *name).collect();
        let file = directory.path().join("config.yaml");
        fs::write(&file, config(port, &backend, listener, &names)).expect("writes");
        let understudy = Understudy::serve(&[&file.display().to_string()]).await;
        let edge = Edge::new(understudy, port).await;
        (Self { edge, authority, directory, _backend: backend }, pairs)
    }

    fn client(&self) -> TlsClient {
        TlsClient::new(&self.authority, None, &[])
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_chosen_by_name_and_the_first_is_for_any_other() {
    let names: [(&str, &[&str]); 2] = [
        ("first", &["first.example.com", "else.example.org", "127.0.0.1"]),
        ("wild", &["*.wild.example.com", "named.example.com"]),
    ];
    let (setup, pairs) = HttpsSetup::start("", &names).await;
    let client = setup.client();
    let shown = async |name: &str| {
        let answer = eventually(PATIENCE, name, async || client.get(setup.edge.port, name).await).await;
        assert_eq!(answer.served_by, "A");
        let certificate = answer.certificate.expect("it is TLS");
        pairs.iter().position(|pair| pair.certificate() == certificate)
    };
    for (name, expected) in [
        ("first.example.com", 0),
        ("a.wild.example.com", 1),
        ("named.example.com", 1),
        ("else.example.org", 0),
        // Clients of an address ask for no name.
        ("127.0.0.1", 0),
    ] {
        assert_eq!(shown(name).await, Some(expected), "{name}");
    }
    let unknown = client.get(setup.edge.port, "unknown.example.net").await.expect_err("of no certificate");
    assert!(unknown.contains("handshake"), "the first was shown, and it is of another name: {unknown}");
    let http2 = TlsClient::new(&setup.authority, None, &["h2", "http/1.1"]);
    let answer = http2.get(setup.edge.port, "first.example.com").await.expect("it answers");
    assert_eq!(answer.alpn.as_deref(), Some(&b"h2"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_must_show_a_certificate_of_the_authority() {
    let listener = ", client_ca: { file: ca.pem }";
    let (setup, _) = HttpsSetup::start(listener, &[("shop", &["shop.example.com"])]).await;
    let known = setup.authority.issue(&["client"]);
    let stranger = CertificateAuthority::new("another").issue(&["client"]);
    let get = async |pair: Option<&CertifiedKey>| {
        TlsClient::new(&setup.authority, pair, &[]).get(setup.edge.port, "shop.example.com").await
    };
    let answer = eventually(PATIENCE, "a known client is served", async || get(Some(&known)).await).await;
    assert_eq!(answer.served_by, "A");
    get(None).await.expect_err("it has none");
    get(Some(&stranger)).await.expect_err("it is of another authority");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_shown_without_a_lost_request() {
    let (setup, old) = HttpsSetup::start("", &[("shop", &["shop.example.com"])]).await;
    let (client, port) = (setup.client(), setup.edge.port);
    eventually(PATIENCE, "it serves", async || client.get(port, "shop.example.com").await).await;
    let before = snapshot(&setup.edge.understudy).await;
    let load = Connections::start(100, {
        let client = client.clone();
        move || {
            let client = client.clone();
            async move { client.get(port, "shop.example.com").await.map(|answer| answer.served_by) }
        }
    });
    load.served_by("A").await;

    let mut last = old[0].clone();
    for _ in 0..3 {
        let new = setup.authority.issue(&["shop.example.com"]);
        write(setup.directory.path(), "shop", &new);
        eventually(PATIENCE, "the new one is shown", async || {
            let shown = client.get(port, "shop.example.com").await?.certificate;
            if shown == Some(new.certificate()) { Ok(()) } else { Err("it is the old one".to_owned()) }
        })
        .await;
        last = new;
    }

    // A certificate that does not fit its key changes nothing, and is reported.
    fs::write(setup.directory.path().join("shop.key"), &old[0].key).expect("writes");
    eventually(PATIENCE, "the fault is told", async || {
        let (_, told) = setup.edge.understudy.get("/violations").await;
        if told[0]["code"] == "US142" { Ok(()) } else { Err(told.to_string()) }
    })
    .await;
    let shown = client.get(port, "shop.example.com").await.expect("it serves").certificate;
    assert_eq!(shown, Some(last.certificate()));
    fs::write(setup.directory.path().join("shop.key"), &last.key).expect("writes");
    eventually(PATIENCE, "it is mended", async || {
        let (_, told) = setup.edge.understudy.get("/violations").await;
        if told == json!([]) { Ok(()) } else { Err(told.to_string()) }
    })
    .await;

    let (requests, failed) = load.stop().await;
    assert!(failed.is_empty(), "{} of {requests} failed: {failed:?}", failed.len());
    let after = snapshot(&setup.edge.understudy).await;
    assert_eq!((&before["listeners"], &before["clusters"]), (&after["listeners"], &after["clusters"]));
    assert_ne!(before["secrets"], after["secrets"]);
}

/// Returns the lines of a key's base64, none of which may appear in any output.
fn body(pair: &CertifiedKey) -> Vec<&str> {
    pair.key.lines().filter(|line| !line.starts_with("-----")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_came_by_rest_serves_and_is_shown_to_nobody() {
    let (authority, port) = (CertificateAuthority::new("ca"), free_port());
    let pair = authority.issue(&["shop.example.com"]);
    let backend = Backend::start("A").await;
    let understudy = Understudy::serve(&[]).await;
    let certificate = json!({
        "name": "shop", "certificate": {"inline": pair.chain}, "key": {"inline": pair.key}});
    let mut seen = Vec::new();
    for (path, body) in [
        ("/certificates", certificate.clone()),
        (
            "/listeners",
            json!({"name": "web", "address": format!("127.0.0.1:{port}"), "protocol": "https",
            "certificates": ["shop"]}),
        ),
        ("/upstreams", json!({"name": "shop", "targets": [{"target": backend.address().to_string()}]})),
        ("/services", json!({"name": "shop", "upstream": "shop"})),
        ("/routes", json!({"name": "shop", "service": "shop"})),
    ] {
        let (status, answer) = understudy.post(path, body).await;
        assert_eq!(status, 201, "{answer}");
        seen.push(answer.to_string());
    }
    let edge = Edge::new(understudy, port).await;
    let client = TlsClient::new(&authority, None, &[]);
    let answer = eventually(PATIENCE, "it serves", async || client.get(port, "shop.example.com").await).await;
    assert_eq!(answer.served_by, "A");

    // The response to a GET can be written back, and a key that does not fit is refused without being shown.
    let (_, read) = edge.understudy.get("/certificates/shop").await;
    let (status, written) = edge.understudy.put("/certificates/shop", read.clone()).await;
    assert_eq!((status, &written), (200, &read));
    let other = authority.issue(&["shop.example.com"]);
    let wrong = json!({"name": "shop", "certificate": {"inline": pair.chain}, "key": {"inline": other.key}});
    let (status, refused) = edge.understudy.put("/certificates/shop", wrong).await;
    assert_eq!((status, &refused["violations"][0]["code"]), (422, &json!("US142")));
    seen.extend([read.to_string(), refused.to_string()]);
    for path in ["/certificates", "/snapshots/default", "/fleet", "/violations"] {
        seen.push(edge.understudy.get(path).await.1.to_string());
    }
    seen.push(edge.understudy.log());
    for line in body(&pair).into_iter().chain(body(&other)) {
        for text in &seen {
            assert!(!text.contains(line), "a key is seen in {text}");
        }
    }
}
