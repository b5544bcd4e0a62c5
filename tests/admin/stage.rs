//! Helpers of this binary's tests: requests with headers, and responses with theirs.

use http::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use crate::harness::Understudy;

/// Response.
#[derive(Debug)]
pub(crate) struct ApiResponse {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// Body; null for none.
    pub(crate) body: Value,
}

impl ApiResponse {
    /// Returns a header as text; empty if it is absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }
}

/// Sends a request with these headers; a null body is none.
pub(crate) async fn send(
    understudy: &Understudy,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Value,
) -> ApiResponse {
    let mut request = understudy.request(method, path);
    if !body.is_null() {
        request = request.json(&body);
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    receive(request).await
}

pub(crate) async fn receive(request: reqwest::RequestBuilder) -> ApiResponse {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.unwrap();
    let body = serde_json::from_str(&text).unwrap_or(if text.is_empty() { Value::Null } else { json!(text) });
    ApiResponse { status, headers, body }
}

/// Starts a control plane without files, with an upstream, a service and a route named `shop`.
pub(crate) async fn shop(arguments: &[&str]) -> Understudy {
    let understudy = Understudy::serve(arguments).await;
    let targets = json!([{"target": "10.0.0.1:80"}, {"target": "10.0.0.2:80", "failover": true}]);
    let changes = json!({"changes": [
        {"method": "POST", "path": "/upstreams", "body": {"name": "shop", "targets": targets, "tags": ["a", "b"]}},
        {"method": "POST", "path": "/services", "body": {"name": "shop", "upstream": "shop"}},
        {"method": "POST", "path": "/routes", "body": {"name": "shop", "service": "shop"}},
    ], "reason": "the stage"});
    let (status, answer) = understudy.patch("/config", changes).await;
    assert_eq!(status, 200, "{answer}");
    understudy
}
