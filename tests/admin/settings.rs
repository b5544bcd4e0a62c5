//! Test of the effective settings over the API against those of `understudy show`.

use serde_json::Value;

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
