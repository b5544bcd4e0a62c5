//! Tests of clients that stay at the target that served them before.

use std::collections::BTreeSet;

use http::Method;
use serde_json::{Value, json};

use crate::harness::PATIENCE;
use crate::harness::eventually;
use crate::stage::{Backends, Edge, create};

async fn edge(backends: &Backends, sticky: Value) -> Edge {
    let edge = Edge::by_rest(async |understudy| {
        let Backends { a, b, failover } = backends;
        let targets = json!([
            {"target": a.address().to_string()},
            {"target": b.address().to_string()},
            {"target": failover.address().to_string(), "failover": true},
        ]);
        create(understudy, "/upstreams", json!({"name": "shop", "sticky": sticky, "targets": targets})).await;
        create(understudy, "/services", json!({"name": "shop", "upstream": "shop"})).await;
        create(understudy, "/routes", json!({"name": "shop", "service": "shop"})).await;
    })
    .await;
    edge.serves("A", PATIENCE).await;
    edge.serves("B", PATIENCE).await;
    edge
}

/// Form in which a client sends back its target.
#[derive(Clone, Copy)]
enum TargetToken {
    Cookie,
    Header,
}

/// Client that remembers its target.
struct StickyClient<'a> {
    edge: &'a Edge,
    form: TargetToken,
    token: Option<String>,
}

impl StickyClient<'_> {
    /// Returns the backend that served a request. Every request must be answered well.
    async fn serving_backend(&mut self) -> String {
        let (sent, set) = match self.form {
            TargetToken::Cookie => ("cookie", "set-cookie"),
            TargetToken::Header => ("x-route", "x-route"),
        };
        let mut request = self.edge.request(Method::GET, "shop.test", "/");
        if let Some(token) = &self.token {
            request = request.header(sent, token);
        }
        let answer = request.send().await.expect("it is answered");
        assert_eq!(answer.status(), 200);
        let text = |name| answer.headers().get(name).map(|value| value.to_str().expect("ASCII").to_owned());
        if let Some(set) = text(set) {
            self.token = set.split(';').next().map(str::to_owned);
        }
        text("x-backend").expect("a backend answered")
    }

    /// Returns the backends that served 100 requests.
    async fn served_by(&mut self) -> Vec<String> {
        let mut by = BTreeSet::new();
        for _ in 0..100 {
            by.insert(self.serving_backend().await);
        }
        by.into_iter().collect()
    }
}

async fn clients_stay_and_fail_over(sticky: Value, form: TargetToken) {
    let mut backends = Backends::start().await;
    let edge = edge(&backends, sticky).await;
    let new = || StickyClient { edge: &edge, form, token: None };
    let mut mine = new();
    let first = mine.serving_backend().await;
    assert_eq!(mine.served_by().await, [first.as_str()], "a client keeps its target");
    let mut other = new();
    assert_eq!(new().served_by().await.len(), 1, "so does another");
    while other.serving_backend().await == first {
        other.token = None;
    }

    let [a, b] = backends.primaries();
    let (pinned, peer) = if first == "A" { (a, b) } else { (b, a) };
    pinned.kill();
    let second = mine.serving_backend().await;
    assert_ne!(second, first);
    assert_eq!(mine.served_by().await, [second.as_str()], "it is led to the target that took over");
    assert_eq!(other.served_by().await.len(), 1, "and those of other targets do not notice");

    peer.kill();
    assert_eq!(mine.serving_backend().await, "FAILOVER");
    assert_eq!(mine.served_by().await, ["FAILOVER"]);
    pinned.restart().await;
    eventually(PATIENCE, "new clients are served by the primary that returned", async || {
        match new().serving_backend().await {
            served_by if served_by == first => Ok(()),
            served_by => Err(served_by),
        }
    })
    .await;
    assert_eq!(mine.served_by().await, ["FAILOVER"], "its session is there, and so it stays");
    assert_eq!(new().served_by().await, [first.as_str()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn by_a_cookie_a_client_keeps_its_target_and_follows_a_failover() {
    let sticky = json!({"cookie": {"name": "shop-route", "ttl": "1h"}});
    clients_stay_and_fail_over(sticky, TargetToken::Cookie).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_a_header_a_client_keeps_its_target_and_follows_a_failover() {
    clients_stay_and_fail_over(json!({"header": "X-Route"}), TargetToken::Header).await;
}
