//! The door of the admin API: shut until there is an API, and emptied before the end.
//!
//! The port is bound before the first build, which takes its time: names are looked up. Whoever asks meanwhile is told
//! so, and is not kept waiting. At the end `/readyz` says so first, and what is under way is still answered.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::sync::watch;
use tower::ServiceExt as _;
use tower_http::normalize_path::NormalizePath;

use crate::admin::problem::Problem;
use crate::admin::{self, Admin};

/// See the module. Clones share.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    api: OnceLock<NormalizePath<Router>>,
    is_closing: AtomicBool,
    /// How many requests have no answer yet.
    under_way: watch::Sender<usize>,
}

impl Gate {
    /// From now on this API answers: the first build is served.
    pub fn open(&self, admin: Admin) {
        self.0.api.get_or_init(|| admin::service(admin));
    }

    /// From now on `/readyz` says that this is the end. Returns when nothing is under way any more, or after `patience`.
    pub async fn close(&self, patience: Duration) {
        self.0.is_closing.store(true, Ordering::Relaxed);
        let mut under_way = self.0.under_way.subscribe();
        let idle = under_way.wait_for(|requests| *requests == 0);
        // What is not answered by then is cut.
        let _ = tokio::time::timeout(patience, idle).await;
    }

    /// What answers on the port.
    pub fn router(&self) -> Router {
        let gate = self.clone();
        Router::new().fallback(move |request: Request| gate.clone().answer(request))
    }

    async fn answer(self, request: Request) -> Response {
        let path = request.uri().path().trim_end_matches('/');
        let Some(api) = self.0.api.get() else {
            return match path {
                "/livez" => "ok\n".into_response(),
                _ => not_ready("it is starting: the first build is not served yet"),
            };
        };
        if path == "/readyz" && self.0.is_closing.load(Ordering::Relaxed) {
            return not_ready("it is shutting down");
        }
        let _under_way = UnderWay::begin(&self.0);
        let Ok(response) = api.clone().oneshot(request).await;
        response
    }
}

fn not_ready(why: &str) -> Response {
    let mut response = Problem::new(StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// A request without an answer.
struct UnderWay<'a>(&'a Inner);

impl<'a> UnderWay<'a> {
    fn begin(gate: &'a Inner) -> Self {
        gate.under_way.send_modify(|requests| *requests += 1);
        Self(gate)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.send_modify(|requests| *requests -= 1);
    }
}
