//! Tests of routes: the choice of a route, and the changes to a request on its way.

use std::fs;

use http::{HeaderMap, Method, StatusCode};
use reqwest::redirect::Policy;

use crate::echo::{ReceivedRequest, TestServer};
use crate::harness::{PATIENCE, Understudy, eventually, free_port};
use crate::stage::Edge;

/// Starts an Envoy in front of this config, which has no listener.
async fn edge(config: &str) -> Edge {
    let (port, directory) = (free_port(), tempfile::tempdir().expect("a temporary directory"));
    let listener = format!("listeners: [{{ name: web, address: 127.0.0.1:{port} }}]\n");
    fs::write(directory.path().join("shop.yaml"), listener + config).expect("writes");
    let understudy = Understudy::serve(&[&directory.path().display().to_string()]).await;
    let edge = Edge::new(understudy, port).await;
    eventually(PATIENCE, "the listener is there", async || {
        match edge.request(Method::GET, "nobody.example", "/").send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
    edge
}

/// Tests the order of routes, given by the comment at `routes` in the config's reference, line by line. Each
/// route answers with its name.
#[tokio::test(flavor = "multi_thread")]
async fn the_most_specific_route_serves() {
    let edge = edge(
        r#"
routes:
  - { name: any, respond: { body: any } }
  - { name: any-cart, paths: [/cart], respond: { body: any-cart } }
  - { name: wildcard, hosts: ["*.example.com"], respond: { body: wildcard } }
  - { name: wildcard-exact, hosts: ["*.example.com"], paths: [=/exact], respond: { body: wildcard-exact } }
  - { name: longer, hosts: ["*.shop.example.com"], respond: { body: longer } }
  - { name: host, hosts: [www.shop.example.com], paths: [/cart], respond: { body: host } }
  - { name: p-exact, hosts: [p.test], paths: [=/cart/items], respond: { body: p-exact } }
  - { name: p-long, hosts: [p.test], paths: [/cart/items], respond: { body: p-long } }
  - { name: p-short, hosts: [p.test], paths: [/cart], respond: { body: p-short } }
  - { name: p-regex, hosts: [p.test], paths: ["~/[a-z]+/?.*"], respond: { body: p-regex } }
  - { name: p-longer-regex, hosts: [p.test], paths: ["~/x[0-9]+/[a-z]+/?.*"], respond: { body: p-longer-regex } }
  - { name: m-none, hosts: [m.test], respond: { body: m-none } }
  - { name: m-query, hosts: [m.test], query: { page: "*" }, respond: { body: m-query } }
  - { name: m-header, hosts: [m.test], headers: { x-tier: gold }, respond: { body: m-header } }
  - { name: m-headers, hosts: [m.test], headers: { x-tier: gold, x-old: "!" }, respond: { body: m-headers } }
  - { name: m-method, hosts: [m.test], methods: [PUT], respond: { body: m-method } }
"#,
    )
    .await;
    for (method, host, path, header, expected) in [
        (Method::GET, "other.test", "/", None, "any"),
        (Method::GET, "other.test", "/cart/x", None, "any-cart"),
        (Method::GET, "other.test", "/carts", None, "any"),
        (Method::GET, "a.example.com", "/", None, "wildcard"),
        // The host counts before the path.
        (Method::GET, "a.example.com", "/cart", None, "wildcard"),
        (Method::GET, "a.shop.example.com", "/exact", None, "longer"),
        (Method::GET, "A.Shop.Example.Com:8080", "/", None, "longer"),
        (Method::GET, "www.shop.example.com", "/cart", None, "host"),
        // Requests that match no route of the host go to those of wider hosts, and at last to those without a
        // host.
        (Method::GET, "www.shop.example.com", "/exact", None, "longer"),
        (Method::GET, "m.test", "/cart", None, "m-none"),
        (Method::GET, "p.test", "/", None, "any"),
        (Method::GET, "p.test", "/cart/items", None, "p-exact"),
        (Method::GET, "p.test", "/cart/items/1", None, "p-long"),
        (Method::GET, "p.test", "/cart/itemsx", None, "p-short"),
        (Method::GET, "p.test", "/abc", None, "p-regex"),
        (Method::GET, "p.test", "/x1/a", None, "p-longer-regex"),
        (Method::GET, "m.test", "/?page=1", None, "m-query"),
        (Method::GET, "m.test", "/?page=1", Some(("x-tier", "gold")), "m-headers"),
        (Method::GET, "m.test", "/?page=1", Some(("x-tier", "silver")), "m-query"),
        (Method::PUT, "m.test", "/?page=1", Some(("x-tier", "gold")), "m-method"),
        (Method::POST, "m.test", "/", None, "m-none"),
    ] {
        let mut request = edge.request(method.clone(), host, path);
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let answer = request.send().await.expect("it is answered").text().await.expect("a text");
        assert_eq!(answer, expected, "{method} {host}{path} {header:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_redirects_and_answers_by_itself() {
    let long = "A page that is longer than what Envoy takes by default. ".repeat(200);
    let edge = edge(&format!(
        r#"
routes:
  - {{ name: https, paths: [/https], redirect: {{ scheme: https }} }}
  - {{ name: host, paths: [/host], redirect: {{ host: "shop.example.com:8443", status: 302 }} }}
  - {{ name: path, paths: [/path], redirect: {{ path: /new, status: 303 }} }}
  - {{ name: query, paths: [/query], redirect: {{ path: "/new?a=b", status: 307 }} }}
  - {{ name: all, paths: [/all], redirect: {{ scheme: https, host: shop.example.com, path: /, status: 308 }} }}
  - name: gone
    paths: [/gone]
    respond: {{ status: 410, body: '{{"%": "%PROTOCOL%"}}', headers: {{ content-type: application/json, x-a: b, x-c: d }} }}
    response_headers: {{ set: {{ x-a: "100%", x-env: prod }}, add: {{ x-c: e }} }}
  - {{ name: empty, paths: [/empty], respond: {{ status: 204 }} }}
  - {{ name: long, paths: [/long], respond: {{ body: "{long}" }} }}
"#
    ))
    .await;
    let client = reqwest::Client::builder().no_proxy().redirect(Policy::none()).timeout(PATIENCE);
    let client = client.build().expect("plain HTTP needs nothing");
    let get = async |path: &str| {
        let url = format!("http://127.0.0.1:{}{path}", edge.port);
        client.get(url).header("host", "old.test:8000").send().await.expect("it is answered")
    };
    for (path, status, location) in [
        ("/https/a?b=c", 301, "https://old.test:8000/https/a?b=c"),
        ("/host/a?b=c", 302, "http://shop.example.com:8443/host/a?b=c"),
        ("/path/a?b=c", 303, "http://old.test:8000/new?b=c"),
        ("/query/a?b=c", 307, "http://old.test:8000/new?a=b"),
        ("/all/a", 308, "https://shop.example.com/"),
    ] {
        let answer = get(path).await;
        let found = answer.headers().get("location").map(|value| value.to_str().expect("ASCII"));
        assert_eq!((answer.status().as_u16(), found), (status, Some(location)), "{path}");
    }

    let answer = get("/gone").await;
    assert_eq!(answer.status(), 410);
    let values = |headers: &HeaderMap, name: &str| -> Vec<String> {
        headers.get_all(name).iter().map(|value| value.to_str().expect("ASCII").to_owned()).collect()
    };
    for (name, expected) in [
        ("content-type", vec!["application/json"]),
        ("x-a", vec!["100%"]),
        ("x-c", vec!["d", "e"]),
        ("x-env", vec!["prod"]),
    ] {
        assert_eq!(values(answer.headers(), name), expected, "{name}");
    }
    assert_eq!(answer.text().await.expect("a text"), r#"{"%": "%PROTOCOL%"}"#);

    let answer = get("/empty").await;
    assert_eq!((answer.status().as_u16(), answer.text().await.expect("a text")), (204, String::new()));
    assert_eq!(get("/long").await.text().await.expect("a text"), long);
}

async fn seen(request: reqwest::RequestBuilder) -> (ReceivedRequest, HeaderMap) {
    let answer = request.send().await.expect("it is answered");
    let headers = answer.headers().clone();
    (answer.json().await.expect("a target tells what it saw"), headers)
}

async fn serves(edge: &Edge, path: &str) {
    eventually(PATIENCE, &format!("{path} is served"), async || {
        match edge.request(Method::GET, "shop.test", path).send().await {
            Ok(answer) if answer.status() == StatusCode::OK => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_see_rewritten_paths_and_changed_headers() {
    let echo = TestServer::echo("A", StatusCode::OK).await;
    let edge = edge(&format!(
        r#"
upstreams: [{{ name: echo, targets: [{{ target: "{}" }}] }}]
services: [{{ name: echo, upstream: echo }}, {{ name: named, upstream: echo, host_header: "in.test:81" }}]
routes:
  - {{ name: all, hosts: [all.test], service: echo, rewrite: {{ prefix: /new }} }}
  - {{ name: all-the-same, hosts: [same.test], service: echo, rewrite: {{ prefix: / }} }}
  - {{ name: strip, paths: [/checkout, "=/only"], service: echo, rewrite: {{ prefix: / }} }}
  - {{ name: dots, paths: [/a.b], service: echo, rewrite: {{ prefix: / }} }}
  - {{ name: replace, paths: [/news, "=/one"], service: echo, rewrite: {{ prefix: /v2/cart/ }} }}
  - {{ name: fixed, paths: [/fixed, "~/any/.*"], service: echo, rewrite: {{ path: '/f\1xed' }} }}
  - {{ name: regex, paths: [/v1], service: echo, rewrite: {{ regex: "^/v1/([a-z]+)/(.*)", to: '/\2/\\/\1' }} }}
  - name: headers
    paths: [/headers]
    service: echo
    request_headers: {{ set: {{ x-env: prod, x-old: new, x-empty: "" }}, add: {{ x-hop: edge }}, remove: [X-Debug, x-old] }}
    response_headers: {{ set: {{ x-env: prod }}, remove: [x-powered-by] }}
  - {{ name: named, paths: [/named], service: named }}
"#,
        echo.address
    ))
    .await;
    serves(&edge, "/checkout").await;
    for (host, path, expected) in [
        ("all.test", "/", "/new/"),
        ("all.test", "/x?q=1", "/new/x?q=1"),
        ("same.test", "/x", "/x"),
        ("shop.test", "/checkout", "/"),
        ("shop.test", "/checkout/", "/"),
        ("shop.test", "/checkout/x", "/x"),
        ("shop.test", "/checkout/x/checkout/y?q=/checkout", "/x/checkout/y?q=/checkout"),
        ("shop.test", "/checkout?q=1", "/?q=1"),
        ("shop.test", "/only?q=1", "/?q=1"),
        ("shop.test", "/a.b/x", "/x"),
        ("shop.test", "/news", "/v2/cart"),
        ("shop.test", "/news/x", "/v2/cart/x"),
        ("shop.test", "/one", "/v2/cart"),
        ("shop.test", "/fixed/x?q=1", r"/f\1xed?q=1"),
        ("shop.test", "/any/x", r"/f\1xed"),
        ("shop.test", "/v1/users/7?q=1", r"/7/\/users?q=1"),
        ("shop.test", "/v1/7", "/v1/7"),
    ] {
        for method in [Method::GET, Method::POST] {
            let (seen, _) = seen(edge.request(method, host, path)).await;
            assert_eq!(seen.path, expected, "{host}{path}");
            assert_eq!(seen.headers["host"], host);
        }
    }

    let request = edge.request(Method::GET, "shop.test", "/headers");
    let request = request.header("x-hop", "client").header("x-old", "old").header("x-debug", "1");
    let (request, answer) = seen(request).await;
    for (name, expected) in [
        ("x-env", Some("prod")),
        ("x-old", Some("new")),
        ("x-empty", Some("")),
        ("x-hop", Some("client, edge")),
        ("x-debug", None),
    ] {
        assert_eq!(request.headers.get(name).map(String::as_str), expected, "{name}");
    }
    assert_eq!((answer.get("x-env").is_some(), answer.get("x-powered-by")), (true, None));

    let (named, answer) = seen(edge.request(Method::GET, "shop.test", "/named")).await;
    assert_eq!((named.headers["host"].as_str(), answer.get("x-powered-by").is_some()), ("in.test:81", true));
}

/// Tests host rewriting, also for a retry elsewhere: each try has the name of the target to which it goes.
#[tokio::test(flavor = "multi_thread")]
async fn each_target_gets_its_own_name() {
    let primary = TestServer::echo("A", StatusCode::SERVICE_UNAVAILABLE).await;
    let standby = TestServer::echo("FAILOVER", StatusCode::OK).await;
    let edge = edge(&format!(
        r#"
upstreams:
  - name: echo
    outlier_detection: off
    targets: [{{ target: "{}" }}, {{ target: "localhost:{}", failover: true }}]
services:
  - {{ name: target, upstream: echo, host_header: target }}
  - {{ name: once, upstream: echo, host_header: target, retries: off }}
  - {{ name: keep, upstream: echo }}
routes:
  - {{ name: target, service: target }}
  - {{ name: once, paths: [/once], service: once }}
  - {{ name: keep, paths: [/keep], service: keep }}
"#,
        primary.address,
        standby.address.port()
    ))
    .await;
    serves(&edge, "/").await;
    for (path, by, host) in
        [("/", "FAILOVER", "localhost"), ("/once", "A", "127.0.0.1"), ("/keep", "FAILOVER", "shop.test")]
    {
        let (seen, _) = seen(edge.request(Method::GET, "shop.test", path)).await;
        assert_eq!((seen.by.as_str(), seen.headers["host"].as_str()), (by, host), "{path}");
    }
}
