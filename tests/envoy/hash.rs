//! Tests of hashing: requests that are equal in the hashed parts go to the same target.

use std::collections::BTreeSet;

use http::Method;
use serde_json::json;

use crate::harness::{Backend, PATIENCE};
use crate::stage::{Edge, create};

/// Number of keys: enough that each of three targets has some, except once in ten million runs.
const KEYS: u32 = 50;

/// Returns the targets that serve requests for these paths, each with one header.
async fn served_by(
    edge: &Edge,
    requests: impl Iterator<Item = (String, (&str, String))>,
) -> BTreeSet<String> {
    let mut served_by = BTreeSet::new();
    for (path, (name, value)) in requests {
        let request = edge.request(Method::GET, "shop.test", &path).header(name, value);
        let answer = request.send().await.expect("it is answered");
        assert_eq!(answer.status(), 200, "{path}");
        let by = answer.headers().get("x-backend").expect("a backend answered");
        served_by.insert(by.to_str().expect("ASCII").to_owned());
    }
    served_by
}

/// Tests services that hash by one part each; the path names the part.
#[tokio::test(flavor = "multi_thread")]
async fn equal_keys_go_to_the_same_target() {
    let (a, b, c) = (Backend::start("A").await, Backend::start("B").await, Backend::start("C").await);
    let edge = Edge::by_rest(async |understudy| {
        let targets = [&a, &b, &c].map(|backend| json!({"target": backend.address().to_string()}));
        let upstream = json!({"name": "shop", "load_balancer": "maglev", "targets": targets});
        create(understudy, "/upstreams", upstream).await;
        let cookie = json!({"cookie": {"name": "sid"}});
        for (name, hash_by) in [
            ("header", json!([{"header": "X-User"}])),
            ("query", json!([{"query": "user"}])),
            ("cookie", json!([cookie])),
            ("path", json!(["path"])),
            ("address", json!(["source_ip"])),
            ("several", json!([{"header": "x-user"}, {"query": "user"}, "source_ip"])),
            ("made", json!([{"cookie": {"name": "sid", "ttl": "1h"}}])),
        ] {
            let service = json!({"name": name, "upstream": "shop", "hash_by": hash_by});
            create(understudy, "/services", service).await;
            let route = json!({"name": name, "paths": [format!("/{name}")], "service": name});
            create(understudy, "/routes", route).await;
        }
        create(understudy, "/services", json!({"name": "any", "upstream": "shop"})).await;
        create(understudy, "/routes", json!({"name": "any", "service": "any"})).await;
    })
    .await;
    for backend in ["A", "B", "C"] {
        edge.serves(backend, PATIENCE).await;
    }

    // Requests that differ in one part, and whether all targets must serve them.
    let keys = || (0..KEYS).map(|key| key.to_string());
    let user = |key: &str| ("x-user", key.to_owned());
    let query = |path: &str, key: &str| format!("/{path}?user={key}");
    for (what, requests, all) in [
        ("header", keys().map(|key| (query("header", &key), user("same"))).collect::<Vec<_>>(), false),
        ("header", keys().map(|key| (query("header", "same"), user(&key))).collect(), true),
        ("query", keys().map(|key| (query("query", "same"), user(&key))).collect(), false),
        ("query", keys().map(|key| (query("query", &key), user("same"))).collect(), true),
        (
            "cookie",
            keys().map(|_| ("/cookie".to_owned(), ("cookie", "sid=same".to_owned()))).collect(),
            false,
        ),
        (
            "cookie",
            keys().map(|key| ("/cookie".to_owned(), ("cookie", format!("sid={key}")))).collect(),
            true,
        ),
        ("path", keys().map(|key| (query("path", &key), user(&key))).collect(), false),
        ("path", keys().map(|key| (format!("/path/{key}"), user("same"))).collect(), true),
        ("address", keys().map(|key| (query("address", &key), user(&key))).collect(), false),
        // The first part that is present counts, and none after it.
        ("several", keys().map(|key| (query("several", &key), user("same"))).collect(), false),
        ("several", keys().map(|key| (query("several", "same"), user(&key))).collect(), true),
        ("several", keys().map(|key| (query("several", &key), ("x-other", key))).collect(), true),
        ("several", keys().map(|key| ("/several".to_owned(), ("x-other", key))).collect(), false),
        // Requests without a key are distributed at random.
        ("nothing", keys().map(|_| ("/header".to_owned(), ("x-other", String::new()))).collect(), true),
    ] {
        let first = requests[0].clone();
        let served_by = served_by(&edge, requests.into_iter()).await;
        assert_eq!(served_by.len(), if all { 3 } else { 1 }, "{what}, as {first:?}: {served_by:?}");
    }

    // Envoy makes the missing cookie, and a client that sends it back stays at its target.
    let answer = edge.request(Method::GET, "shop.test", "/made").send().await.expect("it is answered");
    let by = answer.headers()["x-backend"].to_str().expect("ASCII").to_owned();
    let made = answer.headers()["set-cookie"].to_str().expect("ASCII");
    assert!(made.starts_with("sid=") && made.contains("; Max-Age=3600; Path=/;"), "{made}");
    let cookie = made.split(';').next().expect("a text has a first part").to_owned();
    let again = keys().map(|_| ("/made".to_owned(), ("cookie", cookie.clone())));
    assert_eq!(served_by(&edge, again).await, BTreeSet::from([by]));
}
