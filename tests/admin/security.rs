//! Tests of access: the clients that are let in, the ones that are refused and how, and that secrets never
//! leak.

use std::path::{Path, PathBuf};
use std::process::Output;

use http::Method;
use serde_json::{Value, json};

use crate::harness::{PATIENCE, Process, Understudy, eventually, understudy};
use crate::stage::{ApiResponse, send, shop};
use crate::tls::{CertificateAuthority, CertifiedKey};

const GET: Method = Method::GET;
const POST: Method = Method::POST;
const PUT: Method = Method::PUT;
const DELETE: Method = Method::DELETE;

/// Makes a token over the API, and returns it.
async fn token(understudy: &Understudy, name: &str, role: &str) -> String {
    let (status, made) = understudy.post("/tokens", json!({"name": name, "role": role})).await;
    assert_eq!(status, 201, "{made}");
    made["token"].as_str().unwrap().to_owned()
}

async fn with(understudy: &Understudy, token: &str, method: Method, path: &str, body: Value) -> ApiResponse {
    let bearer = format!("Bearer {token}");
    send(understudy, method, path, &[("authorization", &bearer)], body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_may_do_what_it_is_for() {
    let understudy = shop(&[]).await;
    let (read, operate) =
        (token(&understudy, "eye", "read").await, token(&understudy, "hand", "operate").await);
    let write = token(&understudy, "ci", "write").await;
    let cases = [
        (GET, "/upstreams", Value::Null, [200, 200, 200]),
        (GET, "/metrics", Value::Null, [200, 200, 200]),
        (GET, "/livez", Value::Null, [200, 200, 200]),
        (POST, "/simulate", json!({"upstream": "shop"}), [200, 200, 200]),
        (PUT, "/upstreams/other", json!({}), [403, 403, 201]),
        (POST, "/upstreams/shop/targets", json!({"target": "10.0.0.9:80"}), [403, 403, 201]),
        (DELETE, "/upstreams/other", Value::Null, [403, 403, 204]),
        (GET, "/backup", Value::Null, [403, 403, 200]),
        (GET, "/tokens", Value::Null, [403, 403, 200]),
        (POST, "/tokens", json!({"name": "more", "role": "write"}), [403, 403, 201]),
    ];
    for (method, path, body, statuses) in cases {
        for (token, status) in [&read, &operate, &write].into_iter().zip(statuses) {
            let answer = with(&understudy, token, method.clone(), path, body.clone()).await;
            assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
            if status == 403 {
                assert_eq!(answer.header("content-type"), "application/problem+json");
                let detail = answer.body["detail"].as_str().unwrap();
                assert!(detail.contains("this needs `write`"), "{detail}");
            }
        }
    }
    let log = understudy.log();
    assert!(log.contains("refused a request") && log.contains("reason=\"role\""), "{log}");
    let author = understudy.get("/revisions?size=1").await.1["items"][0]["author"].clone();
    assert_eq!(author, "ci", "who wrote is the token's name");
    // A text that is no token is refused though none is needed here.
    let answer = with(&understudy, "understudy_0123", GET, "/upstreams", Value::Null).await;
    assert_eq!(answer.status, 401);
    assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"understudy\", error=\"invalid_token\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_made_once_listed_without_their_text_and_revoked() {
    let understudy = shop(&[]).await;
    let secret = token(&understudy, "ci", "write").await;
    for (body, status) in [
        (json!({"name": "ci", "role": "read"}), 409),
        (json!({"name": "two words", "role": "read"}), 422),
        (json!({"name": "x", "role": "root"}), 422),
        (json!({"name": "x"}), 422),
        (json!({"name": "x", "role": "read", "token": "mine"}), 422),
    ] {
        assert_eq!(understudy.post("/tokens", body.clone()).await.0, status, "{body}");
    }
    let (_, list) = understudy.get("/tokens").await;
    assert_eq!((&list["items"][0]["name"], &list["items"][0]["role"]), (&json!("ci"), &json!("write")));
    assert!(!list.to_string().contains(&secret), "{list}");
    // Only a hash is stored.
    let stored = std::fs::read(understudy.data().join("understudy.redb")).unwrap();
    assert!(!stored.windows(secret.len()).any(|window| window == secret.as_bytes()));
    assert_eq!(with(&understudy, &secret, GET, "/upstreams", Value::Null).await.status, 200);
    assert_eq!(understudy.delete("/tokens/ci").await.0, 204);
    assert_eq!(understudy.delete("/tokens/ci").await.0, 404);
    assert_eq!(with(&understudy, &secret, GET, "/upstreams", Value::Null).await.status, 401);
}

/// Runs `understudy` with these arguments, which must succeed, and returns its output.
fn run(arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = understudy(arguments).output().unwrap();
    assert!(status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_token_is_made_beside_the_data_and_then_nobody_gets_in_without_one() {
    let data = tempfile::tempdir().unwrap();
    let directory = data.path().to_str().unwrap();
    let secret = run(&["token", "create", "root", "--data", directory]);
    assert!(run(&["token", "list", "--data", directory]).contains("root"));
    let file = data.path().join("token");
    std::fs::write(&file, &secret).unwrap();
    let mut command = understudy(&["serve", "--xds", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let process = Process::spawn("understudy", command.args(["--require-token", "--data", directory]));
    process.line(0, "ready").await;
    let admin = process.line(0, "admin ").await;

    let refused = understudy(&["status", "--admin", &admin]).output().unwrap();
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && words.contains("this needs a token"), "{words}");
    let with_file = run(&["status", "--admin", &admin, "--token-file", file.to_str().unwrap()]);
    assert!(with_file.contains("revision"), "{with_file}");
    let by_environment =
        understudy(&["get", "upstreams", "--admin", &admin]).env("UNDERSTUDY_TOKEN", secret.trim()).output();
    assert!(by_environment.unwrap().status.success());
    let last = ["token", "revoke", "root", "--admin", &admin, "--token-file", file.to_str().unwrap()];
    let kept = understudy(&last).output().unwrap();
    let words = String::from_utf8_lossy(&kept.stderr).into_owned();
    assert!(words.contains("the last token with the role `write`"), "{words}");
    assert!(!process.log().contains(secret.trim()));
    // Liveness needs no token.
    let alive = reqwest::get(format!("http://{admin}/livez")).await.unwrap();
    assert_eq!(alive.status(), 200);
    let stranger = reqwest::get(format!("http://{admin}/upstreams")).await.unwrap();
    assert_eq!(stranger.status(), 401);
    assert_eq!(stranger.headers()["www-authenticate"], "Bearer realm=\"understudy\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_from_elsewhere_and_names_of_others_are_refused() {
    let understudy = shop(&[]).await;
    let admin = understudy.admin.to_string();
    let own = format!("http://{admin}");
    let cases: [(&[(&str, &str)], u16); 7] = [
        (&[("host", "evil.example.com")], 421),
        (&[("host", "localhost.evil.example.com:8001")], 421),
        (&[("host", "localhost:1")], 200),
        (&[("origin", "https://evil.example.com")], 403),
        (&[("origin", "null")], 403),
        (&[("origin", &own)], 200),
        (&[], 200),
    ];
    for (headers, status) in cases {
        let answer = send(&understudy, GET, "/upstreams", headers, Value::Null).await;
        assert_eq!(answer.status, status, "{headers:?}");
        if status != 200 {
            assert_eq!(answer.header("content-type"), "application/problem+json", "{headers:?}");
        }
    }
    let headers = [("origin", "https://evil.example.com")];
    let answer = send(&understudy, PUT, "/upstreams/evil", &headers, json!({})).await;
    assert_eq!((answer.status, understudy.get("/upstreams/evil").await.0), (403, 404));
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_is_refused_and_each_request_has_an_id() {
    let understudy = shop(&[]).await;
    let answer = send(&understudy, GET, "/status", &[("x-request-id", "deploy-17")], Value::Null).await;
    assert_eq!(answer.header("x-request-id"), "deploy-17");
    let answer = send(&understudy, GET, "/nothing", &[("x-request-id", &"x".repeat(200))], Value::Null).await;
    assert_eq!(answer.header("x-request-id").len(), 16);
    let other = send(&understudy, GET, "/nothing", &[], Value::Null).await;
    assert_ne!(answer.header("x-request-id"), other.header("x-request-id"));

    let large = understudy.request(PUT, "/upstreams/large").header("content-type", "application/json");
    let answer = crate::stage::receive(large.body(vec![b' '; (16 << 20) + 1])).await;
    assert_eq!(answer.status, 413, "{}", answer.body);
    assert_eq!(answer.header("content-type"), "application/problem+json");

    let slow = Understudy::serve(&["--rate-limit", "3"]).await;
    let mut statuses = Vec::new();
    for _ in 0..30 {
        let answer = send(&slow, GET, "/status", &[], Value::Null).await;
        if answer.status == 429 {
            assert!(answer.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds >= 1));
            assert_eq!(answer.header("content-type"), "application/problem+json");
        }
        statuses.push(answer.status);
    }
    assert_eq!(statuses[..3], [200, 200, 200]);
    assert!(statuses.contains(&429), "{statuses:?}");
    assert_eq!(slow.get("/livez").await.0, 200, "probes are not counted");
}

pub(crate) fn write(directory: &Path, name: &str, pair: &CertifiedKey) -> [PathBuf; 2] {
    let [chain, key] = ["pem", "key"].map(|ending| directory.join(format!("{name}.{ending}")));
    std::fs::write(&key, &pair.key).unwrap();
    std::fs::write(&chain, &pair.chain).unwrap();
    [chain, key]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_port_speaks_tls_shows_renewed_certificates_and_can_ask_for_the_client_s() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (first, second, clients) = (
        CertificateAuthority::new("first"),
        CertificateAuthority::new("second"),
        CertificateAuthority::new("clients"),
    );
    for (name, authority) in [("first.ca", &first), ("second.ca", &second), ("clients.ca", &clients)] {
        std::fs::write(path(name), &authority.pem).unwrap();
    }
    write(directory.path(), "server", &first.issue(&["localhost", "127.0.0.1"]));
    write(directory.path(), "client", &clients.issue(&["ci"]));
    let secret = run(&["token", "create", "root", "--data", &path("data")]);
    std::fs::write(path("token"), secret).unwrap();

    let (certificate, key, ca, data) =
        (path("server.pem"), path("server.key"), path("clients.ca"), path("data"));
    let mut command = understudy(&["serve", "--xds", "127.0.0.1:0", "--admin", "0.0.0.0:0", "--data", &data]);
    command.args(["--admin-tls-cert", &certificate, "--admin-tls-key", &key, "--admin-client-ca", &ca]);
    let process = Process::spawn("understudy", &mut command);
    process.line(0, "ready").await;
    let port = process.line(0, "admin 0.0.0.0:").await;
    let status = |host: &str, more: &[&str]| {
        let admin = format!("https://{host}:{port}");
        let output = understudy(&["status", "--admin", &admin]).args(more).output().unwrap();
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    };
    let (first_ca, second_ca) = (path("first.ca"), path("second.ca"));
    let (certificate, key, token) = (path("client.pem"), path("client.key"), path("token"));
    let mine = ["--client-cert", &certificate, "--client-key", &key, "--token-file", &token, "--ca"];
    let whole = |ca| [&mine[..], &[ca]].concat();
    assert_eq!(status("localhost", &whole(&first_ca)), Ok(()));
    assert_eq!(status("127.0.0.1", &whole(&first_ca)), Ok(()));
    assert!(status("localhost", &whole(&second_ca)).is_err(), "of another authority");
    assert!(
        status("localhost", &["--ca", &first_ca, "--token-file", &token]).is_err(),
        "without a certificate"
    );
    let without_token =
        status("localhost", &["--client-cert", &certificate, "--client-key", &key, "--ca", &first_ca]);
    assert!(without_token.is_err_and(|error| error.contains("needs a token")));

    write(directory.path(), "server", &second.issue(&["localhost"]));
    eventually(PATIENCE, "the renewed certificate is shown", async || {
        status("localhost", &whole(&second_ca))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_others_reach_wants_tls_or_the_word_and_then_a_token_once_there_is_one() {
    let data = tempfile::tempdir().unwrap();
    let directory = data.path().to_str().unwrap();
    for option in ["--admin", "--xds"] {
        let refused = understudy(&["serve", "--data", directory, option, "0.0.0.0:0"]).output().unwrap();
        let words = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success(), "{words}");
        for word in [option, "0.0.0.0:0", "--insecure", &format!("{option}-tls-cert")] {
            assert!(words.contains(word), "{word}: {words}");
        }
    }
    let mut command = understudy(&["serve", "--insecure", "--xds", "127.0.0.1:0", "--admin", "0.0.0.0:0"]);
    let process = Process::spawn("understudy", command.args(["--data", directory]));
    process.line(0, "ready").await;
    let admin = format!("127.0.0.1:{}", process.line(0, "admin 0.0.0.0:").await);
    let open = reqwest::get(format!("http://{admin}/upstreams")).await.unwrap();
    assert_eq!(open.status(), 200);
    assert!(process.log().contains("WARN"), "{}", process.log());
    let secret = run(&["token", "create", "root", "--admin", &admin]);
    let closed = reqwest::get(format!("http://{admin}/upstreams")).await.unwrap();
    assert_eq!(closed.status(), 401, "from the first token on");
    assert!(secret.trim().starts_with("understudy_"), "{secret}");
}

/// Mark in secrets, which must not appear in any output.
const MARK: &str = "zq7SECRETzq7";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_discloses_a_secret() {
    let understudy = Understudy::serve(&["--log", "debug"]).await;
    let authority = CertificateAuthority::new("us");
    let pair = authority.issue(&["shop.example.com"]);
    let marked_key = format!("-----BEGIN PRIVATE KEY-----\n{MARK}\n-----END PRIVATE KEY-----\n");
    let reason = [("x-reason", "renew")];
    let certificate = |key: &str| json!({"certificate": {"inline": pair.chain}, "key": {"inline": key}});
    // An unusable key is refused, in words that do not repeat it.
    let answer = send(&understudy, PUT, "/certificates/web", &reason, certificate(&marked_key)).await;
    assert_eq!(answer.status, 422, "{}", answer.body);
    assert!(!answer.body.to_string().contains(MARK), "{}", answer.body);
    // A good key, one line of which is the mark.
    let answer = send(&understudy, PUT, "/certificates/web", &reason, certificate(&pair.key)).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    let mark = pair.key.lines().nth(1).unwrap().to_owned();
    let resource =
        |text: &str| json!({"name": "token", "generic_secret": {"secret": {"inline_string": text}}});
    let answer = send(&understudy, PUT, "/raw/secrets/token", &[], resource(MARK)).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    send(&understudy, PUT, "/raw/secrets/token", &[], resource(&format!("{MARK}2"))).await;
    // Writes that are refused, and writes that are only planned.
    for body in [json!({"secret": MARK}), json!({"generic_secret": {"secrte": {"inline_string": MARK}}})] {
        let answer = send(&understudy, PUT, "/raw/secrets/other", &[], body).await;
        assert_eq!(answer.status, 422, "{}", answer.body);
        assert!(!answer.body.to_string().contains(MARK), "{}", answer.body);
    }
    let answer = send(&understudy, PUT, "/raw/secrets/token?dry_run=true", &[], resource("other")).await;
    assert!(!answer.body.to_string().contains(MARK), "{}", answer.body);
    let token = token(&understudy, "ci", "write").await;

    let (_, openapi) = understudy.get("/openapi.json").await;
    let mut paths: Vec<String> = ["/revisions/1", "/revisions/2", "/revisions/3", "/revisions/0..3/diff"]
        .iter()
        .chain(&[
            "/certificates/web",
            "/raw/secrets/token",
            "/raw/secrets",
            "/snapshots/default",
            "/tokens/ci",
        ])
        .map(ToString::to_string)
        .collect();
    let all = openapi["paths"].as_object().unwrap().iter();
    let plain = all.filter(|(path, item)| {
        item.get("get").is_some() && !path.contains('{') && !["/backup", "/events"].contains(&path.as_str())
    });
    paths.extend(plain.map(|(path, _)| path.clone()));
    assert!(paths.len() > 20, "{paths:?}");
    for path in &paths {
        let answer = send(&understudy, GET, path, &[], Value::Null).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        for secret in [MARK, &mark, &token] {
            assert!(!answer.body.to_string().contains(secret), "{path} tells {secret}: {}", answer.body);
        }
    }
    // A restart logs the state that it reads.
    let mut understudy = understudy;
    let log = understudy.log();
    understudy.restart().await;
    for secret in [MARK, &mark, &token] {
        assert!(!log.contains(secret) && !understudy.log().contains(secret), "the log tells {secret}");
    }
}
