//! Tests of refused bodies: each 422 names a value of the body.

use http::Method;
use serde_json::{Value, json};

use crate::stage::{send, shop};

#[tokio::test(flavor = "multi_thread")]
async fn a_422_names_each_value_that_is_refused() {
    let understudy = shop(&[]).await;
    let hash = "[hash 0123456789abcdef0123456789abcdef]";
    let step = |step: Value| json!({ "changes": [{ "method": "PUT", "path": "/upstreams/first", "body": {} }, step] });
    let put_shop = |body: Value| step(json!({ "method": "PUT", "path": "/upstreams/more", "body": body }));
    let secret = json!({ "address": "0.0.0.0:1", "tls": { "key": { "inline": hash } } });
    for (method, path, body, pointers) in [
        (Method::POST, "/upstreams", json!([]), &[""][..]),
        (Method::POST, "/upstreams", json!("shop"), &[""]),
        (
            Method::POST,
            "/upstreams",
            json!({ "name": "a", "tragets": [], "resolve": 1 }),
            &["/resolve", "/tragets"],
        ),
        (Method::POST, "/upstreams", json!({}), &["/name"]),
        (Method::PUT, "/upstreams/shop", json!({ "name": "other" }), &["/name"]),
        (
            Method::PUT,
            "/upstreams/shop/targets/10.0.0.1:80",
            json!({ "target": "10.0.0.9:80" }),
            &["/target"],
        ),
        (Method::PUT, "/upstreams/shop/targets/10.0.0.1:80", json!({ "weight": -1 }), &["/weight"]),
        (Method::PUT, "/listeners/web", secret.clone(), &["/tls/key/inline"]),
        (Method::POST, "/services", json!({ "name": "a", "upstream": "none" }), &["/upstream"]),
        (
            Method::PUT,
            "/raw",
            json!({ "clusters": [{ "nmae": "a" }] }),
            &["/clusters/0/name", "/clusters/0/nmae"],
        ),
        (Method::PATCH, "/config", json!({ "changes": 1 }), &["/changes"]),
        (
            Method::PATCH,
            "/config",
            step(json!({ "method": "W T", "path": "/routes/a" })),
            &["/changes/1/method"],
        ),
        (
            Method::PATCH,
            "/config",
            step(json!({ "method": "LINK", "path": "/routes/a", "body": {} })),
            &["/changes/1/method"],
        ),
        (
            Method::PATCH,
            "/config",
            step(json!({ "method": "PUT", "path": "/routes/a" })),
            &["/changes/1/body"],
        ),
        (Method::PATCH, "/config", put_shop(json!({ "name": "other" })), &["/changes/1/body/name"]),
        (
            Method::PATCH,
            "/config",
            put_shop(json!({ "tls": { "key": { "inline": hash } } })),
            &["/changes/1/body/tls/key/inline"],
        ),
        (Method::PUT, "/config?tag=a", json!({ "raw": [] }), &["/raw"]),
        (Method::PUT, "/config?tag=a", json!({ "upstreams": {} }), &["/upstreams"]),
        (Method::PUT, "/config?tag=a", json!({ "upstreams": [{}] }), &["/upstreams/0"]),
        (
            Method::PUT,
            "/config?tag=a",
            json!({ "services": [{ "name": "a" }, { "name": "a" }] }),
            &["/services/1/name"],
        ),
        (Method::POST, "/simulate", json!({ "upstream": "shop", "down": ["zone=q"] }), &["/down/0"]),
        (Method::POST, "/plan", json!({ "files": 1 }), &["/files"]),
        (Method::POST, "/tokens", json!({ "name": "a b", "role": "read" }), &["/name"]),
        (Method::POST, "/tokens", json!({ "name": "a", "role": "root" }), &["/role"]),
        (Method::PUT, "/upstreams/shop/pin", json!({ "priority": 7 }), &["/priority"]),
        (Method::PUT, "/upstreams/shop/pin", json!({ "priority": 0, "expires_in": "0s" }), &["/expires_in"]),
        (
            Method::PUT,
            "/upstreams/shop/tiers/1/state",
            json!({ "state": "drained", "expires_in": "0s" }),
            &["/expires_in"],
        ),
        (Method::PUT, "/upstreams/shop/tiers/1/state", json!({ "state": "away" }), &["/state"]),
        (Method::POST, "/upstreams/shop/drill", json!({ "down": [] }), &["/down"]),
        (Method::POST, "/upstreams/shop/drill", json!({ "down": ["priority=1", "zone=q"] }), &["/down/1"]),
        (Method::POST, "/upstreams/shop/drill", json!({ "for": "25h" }), &["/for"]),
        (
            Method::POST,
            "/upstreams/shop/drill",
            json!({ "abort_if": { "error_rate": 101 } }),
            &["/abort_if/error_rate"],
        ),
    ] {
        let answer = send(&understudy, method.clone(), path, &[], body.clone()).await;
        let violations = answer.body["violations"].as_array().cloned().unwrap_or_default();
        let mut named: Vec<&str> =
            violations.iter().filter_map(|violation| violation["pointer"].as_str()).collect();
        named.sort_unstable();
        assert_eq!(
            (answer.status, named.as_slice()),
            (422, pointers),
            "{method} {path} {body}: {}",
            answer.body
        );
        for violation in &violations {
            let is_told = |key: &str| violation[key].as_str().is_some_and(|text| !text.is_empty());
            assert!(is_told("code") && is_told("message"), "{method} {path} {body}: {violation}");
        }
    }
    let key = [("idempotency-key", "once")];
    let more = |name: &str| json!({ "name": name });
    assert_eq!(send(&understudy, Method::POST, "/upstreams", &key, more("one")).await.status, 201);
    let reused = send(&understudy, Method::POST, "/upstreams", &key, more("two")).await;
    assert_eq!(
        (reused.status, &reused.body["violations"][0]["pointer"]),
        (422, &json!("")),
        "{}",
        reused.body
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_of_an_empty_body_is_that_of_the_command() {
    let understudy = shop(&[]).await;
    let (status, drill) = understudy.post("/upstreams/shop/drill", json!({})).await;
    assert_eq!(status, 201, "{drill}");
    assert_eq!((&drill["down"], &drill["abort_if"]), (&json!(["priority=0"]), &json!({ "error_rate": 1.0 })));
    let at = |key: &str| drill[key].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert_eq!(at("until").duration_since(at("started")).as_secs(), 60);
}
