//! Property test: a secret written at any place that can hold one, rightly or wrongly, comes back in no
//! response, log line, event, revision, dump or metric.

use std::fs;
use std::sync::{Arc, Mutex};

use base64_lite::encode;
use http::Method;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::string::string_regex;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::harness::{PATIENCE, Understudy, eventually};
use crate::stage::{ApiResponse, send, shop};
use crate::tls::{CertificateAuthority, CertifiedKey};

/// Base64 encoder without a crate, only to search for encoded secrets.
mod base64_lite {
    pub(super) fn encode(bytes: &[u8]) -> String {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let digit = |bits: u32| char::from(DIGITS[(bits & 63) as usize]);
        bytes
            .chunks(3)
            .flat_map(|chunk| {
                let at = |index: usize| u32::from(chunk.get(index).copied().unwrap_or_default());
                let bits = at(0) << 16 | at(1) << 8 | at(2);
                let pad =
                    |index: usize, shift: u32| if chunk.len() > index { digit(bits >> shift) } else { '=' };
                [digit(bits >> 18), digit(bits >> 12), pad(1, 6), pad(2, 0)]
            })
            .collect()
    }
}

/// Request with a secret in it: method, path and body around the value at the place of the secret.
type SecretPlace = Box<dyn Fn(Value) -> (Method, String, Value)>;

fn place(path: &str, body: impl Fn(Value) -> Value + 'static) -> SecretPlace {
    let path = path.to_owned();
    Box::new(move |leaf| (Method::PUT, path.clone(), body(leaf)))
}

/// Returns a place in a raw listener: an HTTP filter in front of a router.
fn filter(name: &'static str, url: &'static str, fields: impl Fn(Value) -> Value + 'static) -> SecretPlace {
    place(&format!("/raw/listeners/{name}"), move |leaf| {
        let mut config = fields(leaf);
        config["@type"] = format!("type.googleapis.com/{url}").into();
        let manager = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "a", "route_config": {}, "http_filters": [{"name": "a", "typed_config": config}],
        });
        json!({
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}},
            "filter_chains": [{"filters": [{"name": "a", "typed_config": manager}]}],
        })
    })
}

/// Returns every place that can hold a secret in a write over REST.
fn places(pair: &CertifiedKey) -> Vec<SecretPlace> {
    let chain = pair.chain.clone();
    let tls = |private_key: Value| {
        json!({"name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": {"tls_certificates": [{"private_key": private_key}]},
        }})
    };
    vec![
        place(
            "/certificates/c1",
            move |leaf| json!({"certificate": {"inline": chain}, "key": {"inline": leaf}}),
        ),
        place("/certificates/c2", |leaf| json!({"certificate": {"file": "/none"}, "key": leaf})),
        place("/raw/secrets/s1", |leaf| json!({"generic_secret": {"secret": {"inline_string": leaf}}})),
        place("/raw/secrets/s2", |leaf| json!({"genericSecret": {"secret": {"inlineString": leaf}}})),
        place("/raw/secrets/s3", |leaf| json!({"generic_secret": {"secret": leaf}})),
        place("/raw/secrets/s4", |leaf| json!({"tls_certificate": {"private_key": {"inline_string": leaf}}})),
        place("/raw/secrets/s5", |leaf| json!({"tls_certificate": {"password": {"inline_string": leaf}}})),
        place("/raw/secrets/s6", |leaf| json!({"session_ticket_keys": {"keys": [{"inline_string": leaf}]}})),
        place(
            "/raw/clusters/k1",
            move |leaf| json!({"type": "STATIC", "transport_socket": tls(json!({"inline_string": leaf}))}),
        ),
        place(
            "/raw/patches/clusters/shop",
            move |leaf| json!({"merge": {"transport_socket": tls(json!({"inline_string": leaf}))}}),
        ),
        filter(
            "l1",
            "envoy.extensions.filters.http.basic_auth.v3.BasicAuth",
            |leaf| json!({"users": {"inline_string": leaf}}),
        ),
        filter(
            "l2",
            "envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth",
            |leaf| json!({"credentials": [{"key": leaf, "client": "a"}], "key_sources": [{"header": "a"}]}),
        ),
        filter("l3", "envoy.extensions.filters.http.aws_request_signing.v3.AwsRequestSigning", |leaf| {
            let credential = json!({"access_key_id": "a", "secret_access_key": leaf, "session_token": "b"});
            json!({"service_name": "s3", "region": "eu", "credential_provider": {"inline_credential": credential}})
        }),
    ]
}

/// Returns the values that a client might write at such a place.
fn leaves(secret: &str) -> Vec<Value> {
    vec![
        json!(secret),
        json!([secret]),
        json!({"inline_strnig": secret}),
        json!({"inline_string": secret}),
        json!({"inline_bytes": encode(secret.as_bytes())}),
    ]
}

/// Every text that left the program, each with its source.
#[derive(Default)]
struct DisclosedTexts(Vec<(String, String)>);

impl DisclosedTexts {
    fn record(&mut self, what: String, answer: &ApiResponse) {
        self.0.push((what, format!("{:?} {}", answer.headers, answer.body)));
    }

    fn contains_none_of(&self, secrets: &[String]) {
        for secret in secrets {
            let encoded = encode(secret.as_bytes());
            for (what, text) in &self.0 {
                assert!(!text.contains(secret) && !text.contains(&encoded), "{what} tells {secret}: {text}");
            }
        }
    }
}

/// Collects the events in a text.
fn follow(understudy: &Understudy) -> Arc<Mutex<String>> {
    let told = Arc::new(Mutex::new(String::new()));
    let (sink, url) = (told.clone(), format!("http://{}/events", understudy.admin));
    tokio::spawn(async move {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut response = client.get(url).send().await.unwrap();
        while let Ok(Some(chunk)) = response.chunk().await {
            sink.lock().unwrap().push_str(&String::from_utf8_lossy(&chunk));
        }
    });
    told
}

/// Reads every path of the description with GET, and the paths that the writes made.
async fn read_all(understudy: &Understudy, told: &mut DisclosedTexts, more: &[String]) {
    let (_, document) = understudy.get("/openapi.json").await;
    let item = |(path, item): (&String, &Value)| {
        let is_plain = item.get("get").is_some()
            && !path.contains('{')
            && !["/backup", "/events"].contains(&path.as_str());
        is_plain.then(|| path.clone())
    };
    let mut paths: Vec<String> = document["paths"].as_object().unwrap().iter().filter_map(item).collect();
    let (_, status) = understudy.get("/status").await;
    let last = status["revision"].as_u64().unwrap();
    paths.extend((1..=last).map(|number| format!("/revisions/{number}")));
    paths.push(format!("/revisions/0..{last}/diff"));
    paths.push("/snapshots/default".to_owned());
    paths.extend_from_slice(more);
    for path in paths {
        let answer = send(understudy, Method::GET, &path, &[], Value::Null).await;
        assert!([200, 404].contains(&answer.status), "{path}: {}", answer.body);
        told.record(format!("GET {path}"), &answer);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_written_anywhere_over_rest_is_disclosed_nowhere() {
    let mut understudy = shop(&["--log", "debug"]).await;
    let events = follow(&understudy);
    let mut runner = TestRunner::deterministic();
    let random = string_regex("zq[A-Za-z0-9]{30}qz").unwrap();
    let mut secret = || random.new_tree(&mut runner).unwrap().current();
    let (mut told, mut secrets, mut paths, mut accepted) =
        (DisclosedTexts::default(), Vec::new(), Vec::new(), 0);
    let pair = CertificateAuthority::new("us").issue(&["shop.example.com"]);
    for write in places(&pair) {
        for form in 0..leaves("").len() {
            for flags in ["?dry_run=true", ""] {
                let secret = secret();
                let (method, path, mut body) = write(leaves(&secret).swap_remove(form));
                let what = format!("{method} {path}{flags} {body}");
                let answer =
                    send(&understudy, method.clone(), &format!("{path}{flags}"), &[], body.clone()).await;
                assert!(answer.status < 500, "{what}: {}", answer.body);
                accepted += usize::from(answer.status < 300);
                told.record(what, &answer);
                // Further writes of the secret: with a fault beside it, in a batch of changes, and in a plan.
                body["nothing"] = json!(1);
                let steps = json!({"changes": [{"method": "PUT", "path": path, "body": body}]});
                for (method, path, body) in [
                    (method, path.as_str(), body),
                    (Method::PATCH, "/config", steps.clone()),
                    (Method::POST, "/plan", steps),
                ] {
                    let answer = send(&understudy, method.clone(), path, &[], body).await;
                    told.record(format!("{method} {path} with a fault"), &answer);
                }
                secrets.push(secret);
                paths.push(path);
            }
        }
    }
    assert!(accepted >= 20, "{accepted} of the writes were right: the property is about those too");
    // Tokens that are made, and texts that are none.
    let (_, made) = understudy.post("/tokens", json!({"name": "ci", "role": "write"})).await;
    secrets.push(made["token"].as_str().unwrap().to_owned());
    for scheme in ["Bearer", "Basic", "bearer  "] {
        let secret = secret();
        let header = format!("{scheme} {secret}");
        let answer =
            send(&understudy, Method::PUT, "/upstreams/x", &[("authorization", &header)], json!({})).await;
        assert_eq!(answer.status, 401, "{}", answer.body);
        told.record("a request with a token that is none".to_owned(), &answer);
        secrets.push(secret);
    }
    paths.sort();
    paths.dedup();
    read_all(&understudy, &mut told, &paths).await;
    let last = understudy.get("/status").await.1["revision"].as_u64().unwrap();
    eventually(PATIENCE, "the events are told", async || match events.lock().unwrap().clone() {
        text if text.contains(&format!("\"number\":{last},")) => Ok(()),
        text => Err(text),
    })
    .await;
    told.0.push(("the events".to_owned(), events.lock().unwrap().clone()));
    told.0.push(("the log".to_owned(), understudy.log()));
    understudy.restart().await;
    told.0.push(("the log after a restart".to_owned(), understudy.log()));
    read_all(&understudy, &mut told, &paths).await;
    assert!(secrets.len() > 100 && told.0.len() > 400, "{} {}", secrets.len(), told.0.len());
    told.contains_none_of(&secrets);
    // A check of the search itself: hashes must be found where secrets were replaced.
    assert!(told.0.iter().any(|(_, text)| text.contains("[hash ")), "hashes stand in their places");
}

/// Returns config files around a secret.
fn files(secret: &str) -> Vec<String> {
    let upstream = "upstreams: [{ name: a, targets: [{ target: 10.0.0.1:80 }] }]\n";
    vec![
        format!(
            "{upstream}notify: [{{ url: 'http://127.0.0.1:9/', secret: {secret}, events: [failover] }}]\n"
        ),
        format!(
            "{upstream}notify: [{{ url: 'http://127.0.0.1:9/', secret: {secret}, evnets: [failover] }}]\n"
        ),
        format!("{upstream}notify:\n  - url: 'http://127.0.0.1:9/'\n    secret: [{secret}]\n"),
        format!(
            "{upstream}certificates: [{{ name: c, certificate: {{ file: none.pem }}, key: {{ inline: {secret} }} }}]\n"
        ),
        format!(
            "{upstream}certificates: [{{ name: c, certificate: {{ file: none.pem }}, key: {secret} }}]\n"
        ),
        format!(
            "{upstream}certificates:\n  - name: c\n    key:\n      inline: |\n        {secret}\n    nothing: 1\n"
        ),
        format!(
            "{upstream}raw:\n  resources:\n    - '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret\n      name: s\n      \
             generic_secret: {{ secret: {{ inline_string: {secret} }}, nothing: 1 }}\n"
        ),
        format!(
            "{upstream}raw:\n  resources:\n    - '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret\n      name: s\n      \
             generic_secret: {{ secret: {{ inline_string: {secret} }} }}\n"
        ),
        format!("{upstream}certificates: [{{ name: c, key: {{ inline: \"{secret}\" }}\n"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_a_file_is_disclosed_nowhere_whether_the_file_is_right_or_not() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.yaml");
    fs::write(&file, "").unwrap();
    let path = file.display().to_string();
    let understudy = Understudy::serve(&["--log", "debug", &path]).await;
    let mut runner = TestRunner::deterministic();
    let random = string_regex("zq[A-Za-z0-9]{30}qz").unwrap();
    let (mut told, mut secrets, mut accepted) = (DisclosedTexts::default(), Vec::new(), 0);
    for form in 0..files("").len() {
        let secret = random.new_tree(&mut runner).unwrap().current();
        fs::write(&file, &files(&secret)[form]).unwrap();
        let answer = send(&understudy, Method::POST, "/reload", &[], Value::Null).await;
        accepted += usize::from(answer.status == 200);
        told.record(format!("POST /reload {form}"), &answer);
        read_all(&understudy, &mut told, &[]).await;
        for arguments in [&["check"][..], &["check", "--format", "json"], &["check", "--format", "github"]] {
            let output = crate::harness::understudy(arguments).arg(&file).output().unwrap();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            told.0.push((format!("{arguments:?} {form}"), text(&output.stdout) + &text(&output.stderr)));
        }
        secrets.push(secret);
    }
    assert_eq!(accepted, 2, "two of the files are right");
    told.0.push(("the log".to_owned(), understudy.log()));
    told.contains_none_of(&secrets);
}
