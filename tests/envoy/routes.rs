//! Tests of routes: the choice of a route, and the changes to a request on its way.

use std::fs;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use reqwest::redirect::Policy;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::echo::{ReceivedRequest, TestServer, head};
use crate::harness::{PATIENCE, Understudy, eventually, free_port};
use crate::stage::{DELTA, Edge, STATE_OF_THE_WORLD, Variant, create};

/// Starts an Envoy in front of this config, which has no listener.
async fn edge(config: &str) -> Edge {
    edge_speaking(STATE_OF_THE_WORLD, config).await
}

async fn edge_speaking(variant: Variant, config: &str) -> Edge {
    let (port, directory) = (free_port(), tempfile::tempdir().expect("a temporary directory"));
    let listener = format!("listeners:\n  - {{ name: web, address: 127.0.0.1:{port} }}\n");
    fs::write(directory.path().join("shop.yaml"), listener + config).expect("writes");
    let understudy = Understudy::serve(&[&directory.path().display().to_string()]).await;
    let edge = Edge::speaking(variant, understudy, port).await;
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

/// Asserts which route answers these requests, each of a method, a host and a path. Each route answers with its name.
async fn answered_by(edge: &Edge, requests: &[(Method, &str, &str, &str)]) {
    for (method, host, path, expected) in requests {
        let answer = edge.request(method.clone(), host, path).send().await.expect("it is answered");
        assert_eq!(answer.text().await.expect("a text"), *expected, "{method} {host}{path}");
    }
}

/// Tests that the order by rank holds for requests of every host: of those that a route names, of those that two
/// wildcards have in common, and of all others.
#[tokio::test(flavor = "multi_thread")]
async fn a_larger_rank_wins_over_the_host_and_equal_ranks_go_by_what_they_name() {
    let edge = edge_speaking(
        DELTA,
        r#"
routes:
  - { name: any, respond: { body: any } }
  - { name: host, hosts: [shop.example.com], respond: { body: host } }
  - { name: left, hosts: ["*.example.com"], paths: [/left], respond: { body: left } }
  - { name: right, hosts: ["shop.*"], paths: [/right], respond: { body: right } }
  - { name: right-longer, hosts: ["shop.eu.*"], paths: [/right], respond: { body: right-longer } }
  - { name: both, hosts: ["*.example.com", "shop.*"], paths: [/both], respond: { body: both } }
  - { name: high, rank: 2, paths: [/high], respond: { body: high } }
  - { name: higher, rank: 3, methods: [PUT], paths: [/high], respond: { body: higher } }
  - { name: high-right, rank: 1, hosts: ["cart.*"], paths: [/left], respond: { body: high-right } }
  - { name: low, rank: -1, hosts: [low.test], respond: { body: low } }
  - { name: catch-all, hosts: [r.test], respond: { body: catch-all } }
  - { name: regex, rank: 1, hosts: [r.test], paths: [=/exact, "~/api/[0-9]+/.*"], respond: { body: regex } }
"#,
    )
    .await;
    answered_by(
        &edge,
        &[
            (Method::GET, "other.test", "/", "any"),
            (Method::GET, "other.test", "/high", "high"),
            (Method::GET, "shop.example.com", "/", "host"),
            (Method::GET, "shop.example.com", "/high/x", "high"),
            (Method::PUT, "shop.example.com", "/high", "higher"),
            (Method::PUT, "a.example.com", "/high", "higher"),
            (Method::GET, "shop.test", "/high", "high"),
            // An exact host goes before a wildcard on the right, and that before any host.
            (Method::GET, "shop.example.com", "/right", "host"),
            (Method::GET, "shop.test", "/right", "right"),
            (Method::GET, "shop.eu.test:8080", "/right", "right-longer"),
            (Method::GET, "shop.test", "/", "any"),
            (Method::GET, "shopping.test", "/right", "any"),
            // Hosts that a wildcard on either side matches.
            (Method::GET, "a.example.com", "/left", "left"),
            (Method::GET, "shop.de.example.com", "/left", "left"),
            (Method::GET, "shop.de.example.com", "/right", "right"),
            (Method::GET, "SHOP.DE.Example.Com:8080", "/right", "right"),
            (Method::GET, "shop.eu.example.com", "/right", "right-longer"),
            (Method::GET, "shopping.example.com", "/right", "any"),
            (Method::GET, "a.example.com", "/both", "both"),
            (Method::GET, "shop.test", "/both", "both"),
            (Method::GET, "cart.example.com", "/left", "high-right"),
            (Method::GET, "cart.test", "/left", "high-right"),
            (Method::GET, "low.test", "/", "any"),
            (Method::GET, "r.test", "/api/17/store", "regex"),
            (Method::GET, "r.test", "/api/x", "catch-all"),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_may_end_within_a_segment() {
    let edge = edge(
        r#"
routes:
  - { name: segments, paths: [/check], respond: { body: segments } }
  - { name: text, paths: ["/check*"], respond: { body: text } }
  - { name: longer, paths: ["/checkout/c*"], respond: { body: longer } }
  - { name: all, paths: ["/*"], respond: { body: all } }
"#,
    )
    .await;
    answered_by(
        &edge,
        &[
            (Method::GET, "shop.test", "/check", "segments"),
            (Method::GET, "shop.test", "/check/x", "segments"),
            (Method::GET, "shop.test", "/checkout", "text"),
            (Method::GET, "shop.test", "/check*", "text"),
            (Method::GET, "shop.test", "/checkout/d", "text"),
            (Method::GET, "shop.test", "/checkout/cart", "longer"),
            (Method::GET, "shop.test", "/chec", "all"),
        ],
    )
    .await;
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
  - {{ name: prefix, paths: [/prefix, "=/one"], redirect: {{ prefix: /new }} }}
  - {{ name: stripped, paths: [/stripped], redirect: {{ host: shop.test, prefix: / }} }}
  - {{ name: text, paths: ["/tex*"], redirect: {{ prefix: /new }} }}
  - {{ name: regex, paths: ["~/v[0-9]+/.*"], redirect: {{ regex: "^/v([0-9]+)/(.*)", to: '/\2/\1' }} }}
  - {{ name: everything, hosts: [every.test], redirect: {{ host: shop.test, prefix: /old }} }}
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
        ("/prefix", 301, "http://old.test:8000/new"),
        ("/prefix/a?b=c", 301, "http://old.test:8000/new/a?b=c"),
        ("/one?b=c", 301, "http://old.test:8000/new?b=c"),
        ("/stripped", 301, "http://shop.test/"),
        ("/stripped/a?b=c", 301, "http://shop.test/a?b=c"),
        ("/text?b=c", 301, "http://old.test:8000/newt?b=c"),
        ("/v2/a?b=c", 301, "http://old.test:8000/a/2?b=c"),
    ] {
        let answer = get(path).await;
        let found = answer.headers().get("location").map(|value| value.to_str().expect("ASCII"));
        assert_eq!((answer.status().as_u16(), found), (status, Some(location)), "{path}");
    }

    let url = format!("http://127.0.0.1:{}/a?b=c", edge.port);
    let answer = client.get(url).header("host", "every.test").send().await.expect("it is answered");
    assert_eq!(answer.headers()["location"], "http://shop.test/old/a?b=c");

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
  - {{ name: text, paths: ["/tex*"], service: echo, rewrite: {{ prefix: /new }} }}
  - {{ name: stripped, paths: ["/old*"], service: echo, rewrite: {{ prefix: / }} }}
  - {{ name: below, paths: ["/files/*"], service: echo, rewrite: {{ prefix: /static }} }}
  - {{ name: joined, paths: ["/joi*"], service: echo, rewrite: {{ prefix: '/s\1/' }} }}
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
        ("shop.test", "/text?q=1", "/newt?q=1"),
        ("shop.test", "/tex/x", "/new/x"),
        ("shop.test", "/old", "/"),
        ("shop.test", "/old/x", "/x"),
        ("shop.test", "/oldest?q=1", "/est?q=1"),
        ("shop.test", "/files/x?q=1", "/static/x?q=1"),
        ("shop.test", "/files/", "/static/"),
        ("shop.test", "/joi", r"/s\1/"),
        ("shop.test", "/joi/x", r"/s\1/x"),
        ("shop.test", "/joined?q=1", r"/s\1/ned?q=1"),
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

#[tokio::test(flavor = "multi_thread")]
async fn each_target_gets_its_own_name_with_its_port() {
    let primary = TestServer::echo("A", StatusCode::SERVICE_UNAVAILABLE).await;
    let standby = TestServer::echo("FAILOVER", StatusCode::OK).await;
    let (first, second) = (primary.address.port(), standby.address.port());
    let edge = edge(&format!(
        r#"
upstreams:
  - name: echo
    outlier_detection: off
    targets: [{{ target: "127.0.0.1:{first}" }}, {{ target: "localhost:{second}", failover: true }}]
services:
  - {{ name: target, upstream: echo, host_header: target_port }}
  - {{ name: once, upstream: echo, host_header: target_port, retries: off }}
  - {{ name: keep, upstream: echo }}
routes:
  - {{ name: target, service: target }}
  - {{ name: once, paths: [/once], service: once }}
  - {{ name: keep, paths: [/keep], service: keep }}
"#
    ))
    .await;
    serves(&edge, "/").await;
    for (path, by, host) in [
        ("/", "FAILOVER", format!("localhost:{second}")),
        ("/once", "A", format!("127.0.0.1:{first}")),
        ("/keep", "FAILOVER", "shop.test".to_owned()),
    ] {
        let (seen, _) = seen(edge.request(Method::GET, "shop.test", path)).await;
        assert_eq!((seen.by.as_str(), seen.headers["host"].as_str()), (by, host.as_str()), "{path}");
    }
}

/// Answers a byte at a time, with pauses that are shorter than the longest silence allowed, for longer than that.
async fn trickle(mut connection: TcpStream) {
    while head(&mut connection).await.is_ok() {
        let begins = "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n";
        for part in [begins, "t", "r", "i", "c", "k", "l", "e", "s"] {
            let _ = connection.write_all(part.as_bytes()).await;
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    }
}

/// Tests the longest silence: a target that accepts and says nothing loses the request to another one, or is given up
/// where nothing is tried again; an answer that goes on passes, however long it takes.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_target_is_given_up_and_a_slow_answer_goes_on() {
    let silent = TestServer::of(|listener| async move {
        let mut connections = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            connections.push(connection);
        }
    })
    .await;
    let slow = TestServer::of(|listener| async move {
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(trickle(connection));
        }
    })
    .await;
    let edge = edge(&format!(
        r#"
upstreams:
  - name: shop
    outlier_detection: off
    targets: [{{ target: "{}" }}, {{ target: "{}", failover: true }}]
services:
  - {{ name: shop, upstream: shop, timeout: 0s, try_idle_timeout: 600ms }}
  - {{ name: once, upstream: shop, timeout: 0s, try_idle_timeout: 600ms, retries: off }}
routes:
  - {{ name: shop, service: shop }}
  - {{ name: once, paths: [/once], service: once }}
"#,
        silent.address, slow.address
    ))
    .await;
    serves(&edge, "/").await;
    for (method, path, expected) in [
        (Method::GET, "/", (StatusCode::OK, Some("trickles"))),
        (Method::POST, "/", (StatusCode::GATEWAY_TIMEOUT, None)),
        (Method::GET, "/once", (StatusCode::GATEWAY_TIMEOUT, None)),
    ] {
        let answer = edge.request(method.clone(), "shop.test", path).send().await.expect("it is answered");
        let (status, body) = (answer.status(), answer.text().await.expect("a text"));
        assert_eq!((status, expected.1.map(|_| body.as_str())), expected, "{method} {path}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_without_targets_answers_503_until_the_first_comes_over_rest() {
    let echo = TestServer::echo("A", StatusCode::OK).await;
    let edge = edge(
        r#"
upstreams: [{ name: shop, targets: [] }]
services: [{ name: shop, upstream: shop }]
routes: [{ name: shop, service: shop }]
"#,
    )
    .await;
    eventually(PATIENCE, "the route is there", async || {
        match edge.request(Method::GET, "shop.test", "/").send().await {
            Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    create(&edge.understudy, "/upstreams/shop/targets", json!({ "target": echo.address.to_string() })).await;
    serves(&edge, "/").await;
}

/// Tests that a listener on all IPv6 addresses takes IPv4 too, unless another one has the port there.
#[tokio::test(flavor = "multi_thread")]
async fn all_ipv6_addresses_take_ipv4_unless_another_listener_has_it() {
    let (both, shared) = (free_port(), free_port());
    let edge = edge(&format!(
        r#"
  - {{ name: both, address: "[::]:{both}" }}
  - {{ name: six, address: "[::]:{shared}" }}
  - {{ name: four, address: "127.0.0.1:{shared}" }}
routes:
  - {{ name: both, listeners: [web, both], respond: {{ body: both }} }}
  - {{ name: six, listeners: [six], respond: {{ body: six }} }}
  - {{ name: four, listeners: [four], respond: {{ body: four }} }}
"#
    ))
    .await;
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("it is plain HTTP");
    assert_eq!(
        edge.request(Method::GET, "shop.test", "/").send().await.expect("it is answered").status(),
        200
    );
    for (address, expected) in [
        (format!("127.0.0.1:{both}"), "both"),
        (format!("[::1]:{both}"), "both"),
        (format!("[::1]:{shared}"), "six"),
        (format!("127.0.0.1:{shared}"), "four"),
    ] {
        eventually(PATIENCE, &format!("{address} serves"), async || {
            let answer =
                client.get(format!("http://{address}/")).send().await.map_err(|it| it.to_string())?;
            let body = answer.text().await.map_err(|error| error.to_string())?;
            if body == expected { Ok(()) } else { Err(body) }
        })
        .await;
    }
}
