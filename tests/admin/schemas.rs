//! Tests of the schemas in the description of the API against real responses.

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::google::rpc::Status;
use http::Method;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use crate::harness::{PATIENCE, Understudy, eventually};
use crate::stage::shop;
use crate::tls::CertificateAuthority;

/// Responses and request bodies of a shape that the description need not have, with the reason.
const FREE_FORM: [(&str, &str, &str); 18] = [
    ("get", "/openapi.json", "OpenAPI defines the shape"),
    ("get", "/raw", "Envoy's own JSON"),
    ("put", "/raw", "Envoy's own JSON"),
    ("get", "/raw/{type}", "Envoy's own JSON"),
    ("get", "/raw/{type}/{name}", "Envoy's own JSON"),
    ("put", "/raw/{type}/{name}", "Envoy's own JSON"),
    ("patch", "/raw/{type}/{name}", "Envoy's own JSON"),
    ("get", "/snapshots/{fleet}", "Envoy's own JSON"),
    ("patch", "/fleets/{name}", "a merge patch may have null in place of each field"),
    ("patch", "/listeners/{name}", "a merge patch may have null in place of each field"),
    ("patch", "/certificates/{name}", "a merge patch may have null in place of each field"),
    ("patch", "/routes/{name}", "a merge patch may have null in place of each field"),
    ("patch", "/services/{name}", "a merge patch may have null in place of each field"),
    ("patch", "/upstreams/{name}", "a merge patch may have null in place of each field"),
    ("patch", "/upstreams/{name}/targets/{target}", "a merge patch may have null in place of each field"),
    ("post", "/revisions/{number}/rollback", "fields beside `reason` are ignored"),
    ("post", "/upstreams/{name}/failback", "the fields are ignored"),
    ("post", "/notify/test", "the fields are ignored"),
];

/// True if a schema, or that of its items, says nothing of the fields of an object.
fn is_free_form(document: &Value, schema: &Value) -> bool {
    if let Some(path) = schema["$ref"].as_str() {
        return is_free_form(document, document.pointer(path.trim_start_matches('#')).unwrap());
    }
    if let Some(alternatives) = schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
        return alternatives.iter().any(|schema| is_free_form(document, schema));
    }
    if let Some(properties) = schema["properties"].as_object() {
        return properties.get("items").is_some_and(|items| is_free_form(document, items));
    }
    match (schema.get("items"), schema.get("additionalProperties")) {
        (Some(items), _) => is_free_form(document, items),
        (None, Some(values)) if values.is_object() => is_free_form(document, values),
        (None, _) => schema["type"] == "object" || schema["type"].is_null(),
    }
}

/// Returns the operations of a description: method, path and operation.
fn operations(document: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    paths.flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().iter();
        methods.map(move |(method, operation)| (method.as_str(), path.as_str(), operation))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shape_is_described_but_for_those_that_others_define() {
    let understudy = Understudy::serve(&[]).await;
    let (_, document) = understudy.get("/openapi.json").await;
    let mut free_form = Vec::new();
    for (method, path, operation) in operations(&document) {
        let responses = operation["responses"].as_object().unwrap().iter();
        let successes = responses.filter(|(status, _)| status.starts_with('2')).map(|(_, response)| response);
        let contents = successes.chain(operation.get("requestBody")).map(|of| &of["content"]);
        let mut schemas = contents.filter_map(|content| content.get("application/json")?.get("schema"));
        if schemas.any(|schema| is_free_form(&document, schema)) {
            free_form.push((method, path));
        }
    }
    let mut expected = FREE_FORM.map(|(method, path, _)| (method, path));
    expected.sort_unstable();
    free_form.sort_unstable();
    assert_eq!(free_form, expected, "left: the description; right: the list in this test");
}

/// Requests of all GET operations that respond with JSON, by path.
const READS: [(&str, &[&str]); 36] = [
    ("/fleets", &["/fleets"]),
    ("/fleets/{name}", &["/fleets/edge"]),
    ("/listeners", &["/listeners"]),
    ("/listeners/{name}", &["/listeners/web"]),
    ("/certificates", &["/certificates"]),
    ("/certificates/{name}", &["/certificates/web"]),
    ("/routes", &["/routes?size=1", "/routes?tag=none"]),
    ("/routes/{name}", &["/routes/shop"]),
    ("/services", &["/services"]),
    ("/services/{name}", &["/services/shop"]),
    ("/upstreams", &["/upstreams"]),
    ("/upstreams/{name}", &["/upstreams/shop"]),
    ("/upstreams/{name}/targets", &["/upstreams/shop/targets"]),
    ("/upstreams/{name}/targets/{target}", &["/upstreams/shop/targets/10.0.0.1:80"]),
    (
        "/upstreams/{name}/targets/{target}/state",
        &["/upstreams/shop/targets/10.0.0.1:80/state", "/upstreams/shop/targets/10.0.0.2:80/state"],
    ),
    ("/upstreams/{name}/tiers/{priority}/state", &["/upstreams/shop/tiers/1/state"]),
    ("/upstreams/{name}/zones/{zone}/state", &["/upstreams/shop/zones/a/state"]),
    ("/upstreams/{name}/health", &["/upstreams/shop/health", "/upstreams/named/health"]),
    ("/upstreams/{name}/settings", &["/upstreams/shop/settings", "/upstreams/named/settings"]),
    ("/raw", &["/raw"]),
    ("/raw/{type}", &["/raw/clusters", "/raw/patches"]),
    ("/raw/{type}/{name}", &["/raw/clusters/own"]),
    ("/config", &["/config", "/config?tag=a"]),
    ("/revisions", &["/revisions?size=2"]),
    ("/revisions/{number}", &["/revisions/1", "/revisions/2"]),
    ("/revisions/{number}/diff", &["/revisions/0..4/diff", "/revisions/4..1/diff"]),
    ("/tokens", &["/tokens"]),
    ("/tokens/{name}", &["/tokens/ci"]),
    ("/fleet", &["/fleet"]),
    ("/violations", &["/violations"]),
    ("/lint", &["/lint"]),
    ("/topology", &["/topology"]),
    ("/orders", &["/orders"]),
    ("/drills", &["/drills", "/drills?upstream=none"]),
    ("/failovers", &["/failovers"]),
    ("/status", &["/status"]),
];

/// Operations without a request in [`READS`], with the reason.
const UNREAD: [(&str, &str); 4] = [
    ("/drills/{id}", "its number is not known in advance; it is read beside the others"),
    ("/fleet/{node}", "an Envoy has to be connected; it is read where one is"),
    ("/snapshots/{fleet}", "Envoy's own JSON"),
    ("/openapi.json", "OpenAPI's own test has it"),
];

/// Starts a control plane with an entity of each kind, orders, and a drill.
async fn furnished() -> Understudy {
    let understudy = shop(&[]).await;
    let pair = CertificateAuthority::new("us").issue(&["shop.example.com"]);
    let cluster = json!({ "name": "own", "type": "STATIC", "connect_timeout": "1s" });
    let patch = json!({ "merge": { "altStatName": "other" } });
    for (path, body) in [
        ("/fleets/edge", json!({ "select": { "cluster": "edge" } })),
        ("/listeners/web", json!({ "address": "0.0.0.0:8080" })),
        (
            "/certificates/web",
            json!({ "certificate": { "inline": pair.chain }, "key": { "inline": pair.key } }),
        ),
        (
            "/upstreams/named",
            json!({ "targets": [{ "target": "localhost:80", "zone": "a" }, { "target": "10.0.0.5:80", "failover": true }], "resolve": "control_plane",
                "outlier_detection": "off", "failback": { "after": "5m" }, "health_check": { "tcp": {} } }),
        ),
        ("/services/named", json!({ "upstream": "named" })),
        ("/upstreams/shop/targets/10.0.0.3:80", json!({ "zone": "a" })),
        ("/raw/clusters/own", cluster),
        ("/raw/patches/clusters/shop", patch),
        ("/upstreams/shop/targets/10.0.0.1:80/state", json!({ "state": "drained", "expires_in": "1h" })),
        ("/upstreams/shop/tiers/1/state", json!({ "state": "auto" })),
        ("/upstreams/shop/pin?force=true", json!({ "priority": 1, "reason": "a test" })),
    ] {
        let (status, answer) = understudy.put(path, body).await;
        assert!(status < 300, "{path}: {status} {answer}");
    }
    let (status, answer) = understudy.post("/tokens", json!({ "name": "ci", "role": "read" })).await;
    assert_eq!(status, 201, "{answer}");
    understudy
}

/// Returns a schema with the components that it refers to, such that unknown fields are faults.
fn closed(document: &Value, schema: &Value) -> Value {
    let mut components = document["components"].clone();
    for (_, component) in components["schemas"].as_object_mut().unwrap() {
        if component.get("properties").is_some() && component.get("additionalProperties").is_none() {
            component["unevaluatedProperties"] = false.into();
        }
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "allOf": [schema],
        "components": components,
    })
}

/// Returns the faults of a response to a GET of this path.
fn faults(document: &Value, template: &str, status: &str, answer: &Value) -> Vec<String> {
    let response = &document["paths"][template]["get"]["responses"][status];
    let schema = closed(document, &response["content"]["application/json"]["schema"]);
    let validator = jsonschema::validator_for(&schema).unwrap();
    validator.iter_errors(answer).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_response_to_a_get_has_the_shape_that_is_described() {
    let understudy = furnished().await;
    let (_, document) = understudy.get("/openapi.json").await;
    let mut wrong = Vec::new();
    for (template, paths) in READS {
        for path in paths {
            let (status, answer) = understudy.get(path).await;
            assert_eq!(status, 200, "{path}: {answer}");
            let faults = faults(&document, template, "200", &answer);
            wrong.extend(faults.into_iter().map(|fault| format!("{path}: {fault}")));
        }
    }
    let body = json!({ "down": ["priority=0"], "for": "1m", "abort_if": { "error_rate": 5 } });
    let (status, drill) = understudy.post("/upstreams/named/drill?force=true", body).await;
    assert_eq!(status, 201, "{drill}");
    let path = format!("/drills/{}", drill["id"].as_str().unwrap());
    for (template, path) in [("/drills/{id}", &*path), ("/drills", "/drills"), ("/orders", "/orders")] {
        wrong.extend(faults(&document, template, "200", &understudy.get(path).await.1));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let gets = operations(&document).filter(|(method, ..)| *method == "get");
    let json = gets.filter(|(_, _, of)| of["responses"]["200"]["content"].get("application/json").is_some());
    for (_, path, _) in json {
        let is_read = READS.iter().any(|(read, _)| *read == path);
        assert!(is_read || UNREAD.iter().any(|(unread, _)| *unread == path), "{path} is not read here");
    }
}

/// Connects an Envoy that refuses its clusters and asks for endpoints that do not exist, and returns its stream.
async fn connect(understudy: &Understudy) -> Vec<mpsc::Sender<DiscoveryRequest>> {
    let endpoint = Endpoint::from_shared(format!("http://{}", understudy.xds)).unwrap();
    let mut ads = AggregatedDiscoveryServiceClient::new(endpoint.connect().await.unwrap());
    let (requests, outgoing) = mpsc::channel(8);
    let node = Some(Node { id: "edge-1".into(), cluster: "edge".into(), ..Node::default() });
    let ask = |kind: &str, names: &[&str]| DiscoveryRequest {
        node: node.clone(),
        type_url: format!("type.googleapis.com/envoy.config.{kind}"),
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..DiscoveryRequest::default()
    };
    requests.send(ask("cluster.v3.Cluster", &[])).await.unwrap();
    let mut responses =
        ads.stream_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    let clusters = responses.message().await.unwrap().unwrap();
    let refusal = DiscoveryRequest {
        response_nonce: clusters.nonce,
        error_detail: Some(Status { message: "no".into(), ..Status::default() }),
        ..ask("cluster.v3.Cluster", &[])
    };
    requests.send(refusal).await.unwrap();
    requests.send(ask("endpoint.v3.ClusterLoadAssignment", &["none"])).await.unwrap();
    tokio::spawn(async move { while let Ok(Some(_)) = responses.message().await {} });
    vec![requests]
}

#[tokio::test(flavor = "multi_thread")]
async fn envoys_are_shown_as_it_is_described() {
    let understudy = furnished().await;
    let _stream = connect(&understudy).await;
    let (_, document) = understudy.get("/openapi.json").await;
    eventually(PATIENCE, "the Envoy is shown with its refusal", async || {
        let (_, node) = understudy.get("/fleet/edge-1").await;
        let types = &node["types"];
        let is_shown = types["clusters"]["state"] == "nacked" && types["endpoints"].is_object();
        if is_shown { Ok(()) } else { Err(node.to_string()) }
    })
    .await;
    let mut wrong = Vec::new();
    for (template, path) in [
        ("/fleet", "/fleet"),
        ("/fleet/{node}", "/fleet/edge-1"),
        ("/status", "/status"),
        ("/topology", "/topology"),
        ("/upstreams/{name}/health", "/upstreams/shop/health"),
    ] {
        let (status, answer) = understudy.get(path).await;
        assert_eq!(status, 200, "{path}: {answer}");
        wrong.extend(
            faults(&document, template, "200", &answer).into_iter().map(|it| format!("{path}: {it}")),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let (_, fleet) = understudy.get("/fleet").await;
    assert_eq!(
        (&fleet["nodes"][0]["id"], &fleet["nodes"][0]["types"]["endpoints"]["state"]),
        (&json!("edge-1"), &json!("acked"))
    );
}

/// Responses to writes that are described, by method, path, request and status.
#[tokio::test(flavor = "multi_thread")]
async fn every_response_to_a_write_has_the_shape_that_is_described() {
    let understudy = furnished().await;
    let (_, document) = understudy.get("/openapi.json").await;
    let target = json!({ "target": "10.0.0.7:80" });
    let steps =
        json!({ "changes": [{ "method": "PATCH", "path": "/upstreams/shop", "body": { "tags": ["a"] } }] });
    let case = json!({ "upstream": "shop", "down": ["10.0.0.1:80"] });
    let writes = [
        (Method::POST, "/upstreams", "/upstreams", json!({ "name": "new", "targets": [target.clone()] })),
        (Method::PUT, "/upstreams/{name}", "/upstreams/new?dry_run=true", json!({ "targets": [] })),
        (Method::PATCH, "/upstreams/{name}", "/upstreams/new", json!({ "connect_timeout": "2s" })),
        (
            Method::POST,
            "/upstreams/{name}/targets",
            "/upstreams/new/targets",
            json!({ "target": "10.0.0.8:80" }),
        ),
        (Method::PATCH, "/config", "/config", steps.clone()),
        (Method::PUT, "/config", "/config?tag=b", json!({ "upstreams": [] })),
        (Method::POST, "/plan", "/plan", steps),
        (Method::POST, "/simulate", "/simulate", case.clone()),
        (Method::POST, "/simulate", "/simulate", json!({ "cases": [case] })),
        (Method::DELETE, "/upstreams/{name}", "/upstreams/named?cascade=true", Value::Null),
        (
            Method::POST,
            "/revisions/{number}/rollback",
            "/revisions/3/rollback",
            json!({ "reason": "a test" }),
        ),
        (Method::PUT, "/upstreams/{name}/pin", "/upstreams/shop/pin?force=true", json!({ "priority": 0 })),
        (Method::POST, "/tokens", "/tokens", json!({ "name": "more", "role": "read" })),
        (Method::POST, "/reload", "/reload", Value::Null),
        (Method::POST, "/notify/test", "/notify/test", json!({})),
    ];
    let mut wrong = Vec::new();
    for (method, template, path, body) in writes {
        let answer = crate::stage::send(&understudy, method.clone(), path, &[], body).await;
        let operation = &document["paths"][template][method.as_str().to_lowercase()];
        let response = &operation["responses"][answer.status.to_string()];
        let Some(content) = response.get("content").filter(|_| answer.status < 300) else {
            wrong.push(format!(
                "{method} {path}: {} is no success with content: {}",
                answer.status, answer.body
            ));
            continue;
        };
        let schema = closed(&document, &content["application/json"]["schema"]);
        let validator = jsonschema::validator_for(&schema).unwrap();
        let faults = validator.iter_errors(&answer.body);
        wrong.extend(faults.map(|fault| format!("{method} {path}: {}: {fault}", fault.instance_path())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
