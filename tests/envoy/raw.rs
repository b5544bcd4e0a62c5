//! Tests of Envoy's own resources over REST: passed on unchanged, as an exact set or one by one.

use std::fs;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::harness::{Backend, Envoy, PATIENCE, Understudy, eventually, free_port};
use crate::stage::{Edge, create, snapshot};

const MANAGER: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";

fn cluster(name: &str) -> Value {
    let eds = json!({"eds_config": {"ads": {}, "resource_api_version": "V3"}});
    json!({"name": name, "type": "EDS", "connect_timeout": "0.25s", "eds_cluster_config": eds})
}

fn endpoints(name: &str, backend: &Backend) -> Value {
    let address = backend.address();
    let socket = json!({"address": address.ip().to_string(), "port_value": address.port()});
    let endpoint = json!({"endpoint": {"address": {"socket_address": socket}}});
    json!({"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]})
}

fn listener(port: u16) -> Value {
    let rds = json!({"route_config_name": "raw", "config_source": {"ads": {}, "resource_api_version": "V3"}});
    let filters = json!([{"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}]);
    let manager = json!({"@type": MANAGER, "stat_prefix": "raw", "rds": rds, "http_filters": filters});
    let filter = json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": manager});
    let socket = json!({"address": "127.0.0.1", "port_value": port});
    json!({"name": "raw", "address": {"socket_address": socket}, "filter_chains": [{"filters": [filter]}]})
}

fn routes(cluster: &str) -> Value {
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": cluster}});
    json!({"name": "raw", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]})
}

async fn set(understudy: &Understudy, body: Value) -> Value {
    let (status, answer) = understudy.put("/raw", body.clone()).await;
    assert_eq!(status, 200, "PUT /raw {body}: {answer}");
    answer
}

/// Waits for acknowledgement, and returns the versions that the Envoy acknowledged, by type.
async fn versions(understudy: &Understudy) -> Value {
    eventually(PATIENCE, "everything is acknowledged", async || {
        let (_, node) = understudy.get("/fleet/edge-1").await;
        let types = ["clusters", "endpoints", "listeners", "routes"];
        match types.iter().all(|kind| node["types"][kind]["state"] == "acked") {
            true => Ok(types.iter().map(|kind| node["types"][kind]["version"].clone()).collect()),
            false => Err(node.to_string()),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_is_served_as_it_is_and_what_stays_keeps_its_version() {
    let (first, second) = (Backend::start("FIRST").await, Backend::start("SECOND").await);
    let (understudy, port) = (Understudy::serve(&[]).await, free_port());
    let body = json!({
        "clusters": [cluster("a")], "endpoints": [endpoints("a", &first)],
        "listeners": [listener(port)], "routes": [routes("a")],
    });
    let answer = set(&understudy, body.clone()).await;
    for (kind, list) in body.as_object().expect("it is one") {
        assert_eq!(answer[kind], *list);
    }
    assert_eq!(understudy.get("/raw").await, (200, answer));
    let told = snapshot(&understudy).await;
    let count = |kind: &str| told[kind].as_array().map(Vec::len);
    let counts = ["clusters", "endpoints", "listeners", "routes"].map(count);
    assert_eq!(counts, [Some(1); 4], "nothing is added: {told}");

    let mut edge = Edge::new(understudy, port).await;
    edge.serves("FIRST", PATIENCE).await;
    let before = versions(&edge.understudy).await;

    // Endpoints alone: all else stays, and so do its versions.
    set(&edge.understudy, json!({"endpoints": [endpoints("a", &second)]})).await;
    edge.serves("SECOND", PATIENCE).await;
    let after = versions(&edge.understudy).await;
    assert_eq!([&before[0], &before[2], &before[3]], [&after[0], &after[2], &after[3]]);
    assert_ne!(before[1], after[1]);

    // A new cluster and the route to it, in one call.
    let clusters = json!([cluster("a"), cluster("b")]);
    let assignments = json!([endpoints("a", &second), endpoints("b", &first)]);
    set(&edge.understudy, json!({"clusters": clusters, "endpoints": assignments, "routes": [routes("b")]}))
        .await;
    edge.serves("FIRST", PATIENCE).await;
    let last = versions(&edge.understudy).await;
    assert_eq!(last[2], after[2], "the listener did not change");

    // Raw resources are durable, and writing the same again changes nothing.
    let (_, kept) = edge.understudy.get("/raw").await;
    edge.understudy.restart().await;
    assert_eq!(edge.understudy.get("/raw").await, (200, kept.clone()));
    assert_eq!(set(&edge.understudy, kept.clone()).await, kept);
    edge.serves("FIRST", Duration::from_secs(1)).await;

    // An empty list empties its type.
    set(&edge.understudy, json!({"listeners": []})).await;
    eventually(PATIENCE, "the listener is gone", async || match edge.serving_backend().await {
        Err(_) => Ok(()),
        Ok(name) => Err(name),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_alone_is_taken_and_a_dangling_reference_is_no_fault() {
    let understudy = Understudy::serve(&[]).await;
    set(&understudy, json!({"routes": [routes("nowhere")]})).await;
    set(&understudy, json!({"clusters": [cluster("a")]})).await;
    let told = snapshot(&understudy).await;
    assert_eq!(told["routes"][0]["virtual_hosts"][0]["routes"][0]["route"]["cluster"], "nowhere");
    assert_eq!([&told["listeners"], &told["endpoints"]], [&json!([]), &json!([])]);
    assert!(understudy.log().contains("US130"), "{}", understudy.log());

    let runtime = json!({"name": "limits", "layer": {"x.y": 3}});
    let answer = set(&understudy, json!({"runtimes": [runtime]})).await;
    assert_eq!(answer["runtimes"], json!([runtime]));
    assert_eq!(snapshot(&understudy).await["runtimes"], json!([{"name": "limits", "layer": {"x.y": 3.0}}]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_with_faults_changes_nothing_and_names_them_all() {
    let understudy = Understudy::serve(&[]).await;
    create(&understudy, "/upstreams", json!({"name": "shop"})).await;
    set(&understudy, json!({"clusters": [cluster("a")]})).await;
    let before = snapshot(&understudy).await;
    let check = async |body: Value, expected: &[&str]| {
        let (status, problem) = understudy.put("/raw", body.clone()).await;
        assert_eq!(status, 422, "{body}: {problem}");
        let violations = problem["violations"].as_array().cloned().unwrap_or_default();
        let faults = violations.iter().filter(|violation| violation["level"] == "error");
        let pointers: Vec<&str> = faults.filter_map(|one| one["pointer"].as_str()).collect();
        assert_eq!(pointers, expected, "{body}: {problem}");
        assert_eq!(snapshot(&understudy).await, before);
    };
    check(
        json!({
            "clusters": [cluster("b"), {"name": "c", "lb_polcy": "RANDOM", "connect_timeout": 3}, cluster("b"), {}],
            "endpoints": [{"clusterName": "b", "endpoints": {}}],
            "listners": [],
            "routes": {},
        }),
        &[
            "/clusters/1/connect_timeout",
            "/clusters/1/lb_polcy",
            "/clusters/2/name",
            "/clusters/3/name",
            "/endpoints/0/endpoints",
            "/listners",
            "/routes",
        ],
    )
    .await;
    check(json!({"clusters": [cluster("b"), cluster("shop")]}), &["/clusters/1/name"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_is_written_read_and_deleted_like_any_entity() {
    let directory = tempfile::tempdir().expect("the temporary directory can be written");
    let file = directory.path().join("raw.yaml");
    let text =
        "raw: { resources: [{ \"@type\": x/envoy.config.cluster.v3.Cluster, name: filed, type: STATIC }] }";
    fs::write(&file, text).expect("the directory is ours");
    let understudy = Understudy::serve(&[&file.to_string_lossy()]).await;

    let (status, _) = understudy.put("/raw/clusters/a", json!({"type": "STATIC"})).await;
    assert_eq!(status, 201);
    let (status, body) = understudy.get("/raw/clusters/a").await;
    assert_eq!((status, &body), (200, &json!({"type": "STATIC", "name": "a"})));
    let answer = understudy.request(Method::GET, "/raw/clusters/a").send().await.expect("it answers");
    let tag = answer.headers()["etag"].clone();
    assert_eq!(understudy.put("/raw/clusters/a", cluster("a")).await.0, 200);
    let stale = understudy.request(Method::PUT, "/raw/clusters/a").header("if-match", tag).json(&body);
    assert_eq!(stale.send().await.expect("it answers").status(), 412);

    // Names of raw resources may contain a slash.
    assert_eq!(understudy.put("/raw/endpoints/a/b", json!({})).await.0, 201);
    assert_eq!(understudy.get("/raw/endpoints/a%2Fb").await, (200, json!({"cluster_name": "a/b"})));

    assert_eq!(understudy.put("/raw/clusters/a", json!({"name": "b"})).await.0, 422);
    assert_eq!(understudy.put("/raw/clutsers/a", json!({})).await.0, 404);
    let (status, problem) = understudy.put("/raw/clusters/a", json!({"nope": 1})).await;
    assert_eq!((status, &problem["violations"][0]["pointer"]), (422, &json!("/nope")), "{problem}");

    // Resources that a file declares can be changed only there.
    assert_eq!(understudy.put("/raw/clusters/filed", json!({"type": "EDS"})).await.0, 409);
    assert_eq!(understudy.delete("/raw/clusters/filed").await.0, 409);
    assert_eq!(understudy.put("/raw", json!({"clusters": []})).await.0, 409);
    let (_, all) = understudy.get("/raw").await;
    assert_eq!(understudy.put("/raw", all.clone()).await, (200, all));

    assert_eq!(understudy.delete("/raw/clusters/a").await.0, 204);
    assert_eq!(understudy.delete("/raw/clusters/a").await.0, 404);
    assert_eq!(understudy.get("/raw/clusters").await.1["clusters"].as_array().map(Vec::len), Some(1));

    let key = json!({"tls_certificate": {"private_key": {"inline_string": "hidden"}}});
    assert_eq!(understudy.put("/raw/secrets/shop", key).await.0, 201);
    let shown = [understudy.get("/raw").await.1, snapshot(&understudy).await].map(|it| it.to_string());
    assert!(shown.iter().all(|text| text.contains("[hash ") && !text.contains("hidden")), "{shown:?}");
}

/// Tests scoped routes, the routes of a scope and a filter's config, each asked for on its own, in both
/// variants.
#[tokio::test(flavor = "multi_thread")]
async fn the_further_types_are_served_to_a_real_envoy() {
    for variant in [&[][..], &["--delta"]] {
        let (backend, port) = (Backend::start("SCOPED").await, free_port());
        let understudy = Understudy::serve(&[]).await;
        let ads = json!({"ads": {}, "resource_api_version": "V3"});
        let mut web = listener(port);
        let manager = &mut web["filter_chains"][0]["filters"][0]["typed_config"];
        let fields = manager.as_object_mut().expect("a manager");
        fields.remove("rds");
        let header =
            json!({"header_value_extractor": {"name": "x-scope", "element": {"separator": "=", "key": "s"}}});
        fields.insert(
            "scoped_routes".into(),
            json!({
                "name": "scopes", "scope_key_builder": {"fragments": [header]}, "rds_config_source": ads,
                "scoped_rds": {"scoped_rds_config_source": ads},
            }),
        );
        let discovery = json!({"config_source": ads, "type_urls": [ROUTER]});
        fields.insert("http_filters".into(), json!([{"name": "router", "config_discovery": discovery}]));
        let scope = |key: &str| {
            let fragments = json!([{"string_key": key}]);
            json!({"name": key, "route_configuration_name": "raw", "key": {"fragments": fragments}})
        };
        set(
            &understudy,
            json!({
                "clusters": [cluster("a")], "endpoints": [endpoints("a", &backend)], "listeners": [web],
                "routes": [routes("a")], "scoped_routes": [scope("one")],
                "extension_configs": [{"name": "router", "typed_config": {"@type": ROUTER}}],
            }),
        )
        .await;
        let _envoy = Envoy::start(&understudy, "edge-1", "edge", variant).await;
        let client = reqwest::Client::builder().no_proxy().build().expect("plain HTTP needs nothing");
        let serves = async |key: &str, expected: u16| {
            eventually(PATIENCE, &format!("{expected} in scope {key}, {variant:?}"), async || {
                let request =
                    client.get(format!("http://127.0.0.1:{port}/")).header("x-scope", format!("s={key}"));
                match request.send().await.map_err(|error| error.to_string())?.status().as_u16() {
                    status if status == expected => Ok(()),
                    status => Err(status.to_string()),
                }
            })
            .await;
        };
        serves("one", 200).await;
        serves("two", 404).await;
        set(&understudy, json!({"scoped_routes": [scope("two"), scope("three")]})).await;
        serves("two", 200).await;
        serves("one", 404).await;
        set(&understudy, json!({"scoped_routes": [scope("one"), scope("two"), scope("three")]})).await;
        serves("one", 200).await;
        serves("three", 200).await;
    }
}
