//! Gate of the admin port: refuses requests before there is an API, and drains them at shutdown.
//!
//! The port is bound before the first build, which takes time because host names are resolved. Requests in that time
//! are refused with 503 at once. While nothing can be changed, `/readyz` answers 503 and everything else is served. At
//! shutdown `/readyz` answers 503 first, and requests in progress are completed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use tokio::sync::watch;
use tower::ServiceExt as _;
use tower_http::normalize_path::NormalizePath;

use crate::admin::http::problem::Problem;

/// Gate of the admin port. Clones share their state.
#[derive(Debug, Clone, Default)]
pub struct AdminGate(Arc<GateState>);

#[derive(Debug, Default)]
struct GateState {
    api: OnceLock<NormalizePath<Router>>,
    is_closing: AtomicBool,
    /// Reason for which nothing can be changed; none while changes are accepted.
    unready: Mutex<Option<String>>,
    /// Number of requests without a response.
    in_progress: watch::Sender<usize>,
}

impl GateState {
    fn unready(&self) -> Option<String> {
        self.unready.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl AdminGate {
    /// Opens the gate: from now on requests go to this API.
    pub fn open(&self, api: NormalizePath<Router>) {
        self.0.api.get_or_init(|| api);
    }

    /// Makes `/readyz` answer 503 with this reason, or 200 again if there is none.
    pub fn set_unready(&self, reason: Option<String>) {
        *self.0.unready.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// Makes `/readyz` answer 503. Returns when no request is in progress any more, or after `patience`.
    pub async fn close(&self, patience: Duration) {
        self.0.is_closing.store(true, Ordering::Relaxed);
        let mut in_progress = self.0.in_progress.subscribe();
        let idle = in_progress.wait_for(|requests| *requests == 0);
        // Requests that are still in progress then are cut off.
        let _ = tokio::time::timeout(patience, idle).await;
    }

    /// Answers a request.
    pub(super) async fn answer(self, request: Request) -> Response {
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
        if path == "/readyz"
            && let Some(reason) = self.0.unready()
        {
            return not_ready(&reason);
        }
        let _in_progress = RequestInProgress::begin(&self.0);
        let Ok(response) = api.clone().oneshot(request).await;
        response
    }
}

fn not_ready(why: &str) -> Response {
    Problem::unavailable(why).into_response()
}

/// Request without a response, counted while it exists.
struct RequestInProgress<'a>(&'a GateState);

impl<'a> RequestInProgress<'a> {
    fn begin(gate: &'a GateState) -> Self {
        gate.in_progress.send_modify(|requests| *requests += 1);
        Self(gate)
    }
}

impl Drop for RequestInProgress<'_> {
    fn drop(&mut self) {
        self.0.in_progress.send_modify(|requests| *requests -= 1);
    }
}
