//! Tests of plans: changes are reported before they are made, also by the command line.

use std::fs;

use http::Method;
use serde_json::{Value, json};

use crate::harness::{Understudy, understudy as command};
use crate::stage::{send, shop};

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_reports_its_effects_and_changes_nothing() {
    let understudy = shop(&[]).await;
    let before = understudy.get("/config").await.1;
    let requests = [
        (
            Method::POST,
            "/upstreams",
            json!({"name": "new", "targets": [{"target": "10.0.0.1:80"}]}),
            "create",
        ),
        (Method::PATCH, "/upstreams/shop", json!({"health_check": "off"}), "update"),
        (Method::PUT, "/upstreams/shop", json!({"targets": [{"target": "10.0.0.1:80"}]}), "update"),
        (Method::DELETE, "/routes/shop", Value::Null, "delete"),
        (Method::PUT, "/raw/clusters/raw", json!({"type": "STATIC"}), "create"),
        (Method::PUT, "/raw", json!({"clusters": [{"name": "raw", "type": "STATIC"}]}), "create"),
        (Method::PUT, "/config?tag=x", json!({"upstreams": [{"name": "x"}]}), "create"),
    ];
    for (method, path, body, action) in requests {
        let path = format!("{path}{}dry_run=true", if path.contains('?') { '&' } else { '?' });
        let answer = send(&understudy, method.clone(), &path, &[], body).await;
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.body);
        let changes = answer.body["changes"].as_array().unwrap();
        assert_eq!(
            (changes.len(), &changes[0]["action"]),
            (1, &json!(action)),
            "{method} {path}: {}",
            answer.body
        );
        for key in ["kind", "name", "summary", "level"] {
            assert!(changes[0][key].is_string(), "{method} {path}: {}", answer.body);
        }
        assert!(answer.body["envoy"]["clusters"]["added"].is_array(), "{}", answer.body);
    }
    let (status, problem) = understudy.post("/upstreams?dry_run=true", json!({"name": "x y"})).await;
    assert_eq!(status, 422, "{problem}");
    assert_eq!(understudy.get("/config").await.1, before);
    assert_eq!(understudy.get("/status").await.1["revision"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn plan_compares_files_with_what_is_served() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("shop.yaml");
    let text = "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80, failover: true }] }]\n";
    fs::write(&file, text).unwrap();
    let path = file.display().to_string();
    let understudy = Understudy::serve(&[&path]).await;
    let changed = directory.path().join("changed.yaml");
    fs::write(&changed, text.replace(", { target: 10.0.0.2:80, failover: true }", "")).unwrap();
    let plan = |path: &str, more: &[&str]| {
        let admin = understudy.admin.to_string();
        let output = command(&["plan", path, "--admin", &admin]).args(more).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = plan(&changed.display().to_string(), &["--format", "json", "--exit-code"]);
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(code, Some(3), "{told}");
    assert_eq!(
        told["changes"][0]["summary"],
        "upstream shop loses its only standby (without target 10.0.0.2:80)"
    );
    assert_eq!(told["changes"][0]["level"], "warning");
    assert_eq!(told["envoy"]["endpoints"]["changed"], json!(["shop"]));
    let (code, text) = plan(&changed.display().to_string(), &[]);
    assert_eq!(code, Some(0));
    assert!(text.contains("loses its only standby"), "{text}");
    let (code, text) = plan(&path, &["--exit-code"]);
    assert_eq!((code, text.trim()), (Some(0), "nothing changes"));
    fs::write(&changed, "upstreams: [{ nmae: shop }]").unwrap();
    assert_eq!(plan(&changed.display().to_string(), &["--exit-code"]).0, Some(1));
}
