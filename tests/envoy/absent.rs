//! Tests of Envoys whose bootstrap asks for names that are not served: nothing waits for them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Envoy, PATIENCE, Understudy, eventually, free_port, understudy};
use crate::stage::{DELTA, STATE_OF_THE_WORLD, Variant, create};

/// Returns the bootstrap with a cluster of its own, whose endpoints and certificate nobody declares.
fn bootstrap(served: &Understudy, variant: Variant) -> String {
    let xds = served.xds.to_string();
    let arguments = ["bootstrap", "--xds", &xds, "--node-id", "edge-1", "--node-cluster", "edge"];
    let printed = understudy(&arguments).args(["--envoy-admin", "127.0.0.1:0"]).args(variant).output();
    let printed = printed.expect("cargo has built understudy").stdout;
    let mut bootstrap: Value = serde_yaml::from_slice(&printed).expect("it is YAML");
    let source = json!({ "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0.5s" });
    let context = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    let secret = json!([{ "name": "no-such-secret", "sds_config": source }]);
    let tls =
        json!({ "@type": context, "common_tls_context": { "tls_certificate_sds_secret_configs": secret } });
    let cluster = json!({
        "name": "own", "type": "EDS", "connect_timeout": "1s",
        "eds_cluster_config": { "service_name": "no-such-endpoints", "eds_config": source },
        "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": tls },
    });
    let clusters =
        bootstrap["static_resources"]["clusters"].as_array_mut().expect("that of the control plane");
    clusters.push(cluster);
    bootstrap.to_string()
}

async fn nothing_waits_for_what_is_not_there(variant: Variant) {
    let server = Understudy::serve(&[]).await;
    let envoy = Envoy::launch("edge-1", &bootstrap(&server, variant)).await;
    eventually(PATIENCE, "all that the Envoy asks for is acknowledged", async || {
        let (_, fleet) = server.get("/fleet").await;
        let types = &fleet["nodes"][0]["types"];
        let is_acked = |name: &str| types[name]["state"] == "acked";
        let all = ["clusters", "endpoints", "listeners", "secrets"].iter().all(|name| is_acked(name));
        if all { Ok(()) } else { Err(fleet.to_string()) }
    })
    .await;
    envoy.live().await;
    // The wait for a canary that does not acknowledge is 30 s.
    let began = Instant::now();
    for _ in 0..3 {
        let listener =
            json!({ "name": format!("l{}", free_port()), "address": format!("127.0.0.1:{}", free_port()) });
        create(&server, "/listeners?wait=acked&timeout=20s", listener).await;
    }
    assert!(began.elapsed() < Duration::from_secs(20), "three rollouts took {:?}", began.elapsed());
    let (_, status) = server.get("/status").await;
    let number = status["revision"].as_u64().expect("a number");
    assert_eq!(server.get(&format!("/revisions/{number}")).await.1["state"], "live");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_waits_for_what_is_not_there_in_state_of_the_world() {
    nothing_waits_for_what_is_not_there(STATE_OF_THE_WORLD).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_waits_for_what_is_not_there_in_delta() {
    nothing_waits_for_what_is_not_there(DELTA).await;
}
