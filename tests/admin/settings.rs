//! Test of the effective settings over the API against those of `understudy show`.

use serde_json::{Value, json};

use crate::harness::{Understudy, understudy};

const SHOP: &str = "
upstreams:
  - name: shop
    targets:
      - { target: 10.0.0.1:80 }
      - { target: 10.0.0.9:80, failover: true }
    health_check: { interval: 3s }
    failback: { after: 5m }
services:
  - { name: shop, upstream: shop, timeout: 3s }
";

#[tokio::test(flavor = "multi_thread")]
async fn the_settings_are_those_that_show_prints() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("shop.yaml");
    std::fs::write(&file, SHOP).unwrap();
    let path = file.to_str().unwrap();
    let server = Understudy::serve(&[path]).await;
    let shown = understudy(&["show", path, "--upstream", "shop", "--format", "json"]).output().unwrap();
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(server.get("/upstreams/shop/settings").await, (200, shown));
    let (status, problem) = server.get("/upstreams/none/settings").await;
    assert_eq!((status, problem["detail"].as_str()), (404, Some("no upstream is named `none`")));
}

/// Tests that fields which other gateways have are written, read, kept and refused over REST like all others.
#[tokio::test(flavor = "multi_thread")]
async fn ranks_wildcards_silence_and_minima_are_written_over_rest() {
    let server = Understudy::serve(&[]).await;
    let upstream = json!({"name": "shop", "failover": {"minimum_healthy": 50}});
    assert_eq!(server.post("/upstreams", upstream).await.0, 201);
    for target in ["10.0.0.1:80", "10.0.0.2:80"] {
        assert_eq!(server.post("/upstreams/shop/targets", json!({"target": target})).await.0, 201);
    }
    let standby = json!({"target": "10.0.0.9:80", "failover": true});
    let (status, problem) = server.post("/upstreams/shop/targets", standby).await;
    assert_eq!(status, 422, "{problem}");
    assert!(problem.to_string().contains("this is about a single tier"), "{problem}");

    let service =
        json!({"name": "shop", "upstream": "shop", "try_idle_timeout": "5s", "host_header": "target_port"});
    assert_eq!(server.post("/services", service).await.0, 201);
    let route = json!({"name": "shop", "rank": 7, "hosts": ["shop.*"], "paths": ["/a*"], "service": "shop"});
    assert_eq!(server.post("/routes", route.clone()).await.0, 201);
    let twin = json!({"name": "twin", "rank": 7, "hosts": ["shop.*"], "paths": ["/a*"], "service": "shop"});
    assert_eq!(server.post("/routes", twin).await.0, 422);
    let (status, stored) = server.get("/routes/shop").await;
    assert_eq!((status, &stored["rank"], &stored["paths"]), (200, &json!(7), &json!(["/a*"])));
    let (status, patched) = server.patch("/routes/shop", json!({"rank": null})).await;
    assert_eq!((status, patched.get("rank").is_none_or(Value::is_null)), (200, true), "{patched}");

    // A replacement that says nothing of targets leaves those that there are.
    assert_eq!(server.put("/upstreams/shop", json!({"name": "shop"})).await.0, 200);
    let (_, targets) = server.get("/upstreams/shop/targets").await;
    assert!(targets.to_string().contains("10.0.0.2:80"), "{targets}");
}
