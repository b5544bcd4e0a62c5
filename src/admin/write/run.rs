//! Course of every write: planned or performed, waited for, replied to.

use std::time::{Duration, Instant};

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use serde_json::{Value, json};

use crate::admin::http::blocking;
use crate::admin::http::problem::Problem;
use crate::admin::http::request::Write;
use crate::admin::state::Admin;
use crate::admin::write::reply::Reply;
use crate::build::Build;
use crate::config::edit::Files;
use crate::config::render;
use crate::control::operation::{AcceptedWrite, Operation};
use crate::control::progress::CanaryProgress;
use crate::nodes::status::{AckState, Presence, RecordedStatus};

/// Interval at which acknowledgements are checked.
const CHECK: Duration = Duration::from_millis(10);

const REVISION: HeaderName = HeaderName::from_static("x-revision");
const REPEATED: HeaderName = HeaderName::from_static("idempotency-replayed");
const WARNING: HeaderName = HeaderName::from_static("x-warning");

/// Maximum number of headers with a warning. Clients and proxies refuse a response with too many.
const MAX_WARNING_HEADERS: usize = 20;

impl Admin {
    /// Performs a write, or plans it with `?dry_run=true`.
    pub(crate) async fn write<O>(&self, write: Write, operation: O) -> Result<Response, Problem>
    where
        O: Operation<Reply = Reply, Refusal = Problem>,
    {
        self.write_completed(write, operation, std::future::ready).await
    }

    /// Performs a write like [`Self::write`]. `complete` adds to the reply what is known only after the change.
    pub(crate) async fn write_completed<O, F>(
        &self,
        write: Write,
        operation: O,
        complete: impl FnOnce(Reply) -> F,
    ) -> Result<Response, Problem>
    where
        O: Operation<Reply = Reply, Refusal = Problem>,
        F: Future<Output = Reply>,
    {
        write.query.end()?;
        if write.dry_run {
            return self.plan(operation, None).await;
        }
        let mut written = self.control.write(write.request, operation).await?;
        let missing = match write.wait {
            Some(patience) if !written.is_repeated => self.missing(&written, patience).await?,
            _ => Vec::new(),
        };
        written.reply = complete(written.reply).await;
        Ok(respond(&written, &missing))
    }

    /// Plans a write, with these files in place of the served ones if there are any.
    pub(crate) async fn plan<O>(&self, operation: O, files: Option<Files>) -> Result<Response, Problem>
    where
        O: Operation<Refusal = Problem>,
    {
        let (plan, build) = self.control.plan(operation, files).await?;
        let mut body = json!({ "changes": plan.changes, "envoy": plan.envoy });
        let warnings = build.warnings_since(&self.cache.build());
        if !warnings.is_empty() {
            body["warnings"] = json!(warnings);
        }
        Ok(Json(body).into_response())
    }

    /// Returns the connected Envoys that the write affects and that did not acknowledge it in time; during
    /// its rollout, the canaries.
    ///
    /// # Errors
    ///
    /// Fails if canaries refused the write: it is not in effect.
    async fn missing(
        &self,
        written: &AcceptedWrite<Reply>,
        patience: Duration,
    ) -> Result<Vec<Value>, Problem> {
        let AcceptedWrite { before, build, revision, .. } = written;
        let deadline = Instant::now() + patience;
        if let Some(revision) = *revision {
            if !self.control.decided(revision, patience).await {
                return Ok(self.canaries());
            }
            self.refuse_rejected(revision).await?;
        }
        let generation = self.cache.generation();
        let is_affected =
            |presence: &Presence| before.snapshot_for(&presence.node) != build.snapshot_for(&presence.node);
        let waits = |presence: &Presence| !has_all(presence, generation) && is_affected(presence);
        loop {
            let missing = self.nodes.select(waits);
            if missing.is_empty() || Instant::now() >= deadline {
                return Ok(missing.iter().map(|presence| waiting(presence, build)).collect());
            }
            tokio::time::sleep(CHECK).await;
        }
    }

    /// Returns the canaries of the rollout under way, as Envoys that are waited for.
    fn canaries(&self) -> Vec<Value> {
        let canaries = self.control.progress().canaries;
        let view = |it: &CanaryProgress| json!({ "node": it.node, "fleet": it.fleet, "canary": it.phase, "types": [] });
        canaries.iter().map(view).collect()
    }

    /// Fails with 409 if the revision was taken back.
    async fn refuse_rejected(&self, revision: u64) -> Result<(), Problem> {
        let store = self.store.clone();
        let newest = blocking::run(move || Ok(store.revision_heads(revision + 1, 1)?.pop())).await?;
        let found = newest.filter(|newest| newest.number == revision);
        match found.and_then(|revision| Some((revision.error?, revision.refused_by))) {
            Some((error, by)) => {
                let detail =
                    format!("revision {revision} was taken back: {} refused it: {error}", by.join(", "));
                Err(Problem::new(StatusCode::CONFLICT, detail))
            }
            None => Ok(()),
        }
    }
}

/// True if an Envoy acknowledged everything it asked for, of this generation or a later one.
fn has_all(presence: &Presence, generation: u64) -> bool {
    let is_acked = |status: &RecordedStatus| status.current && status.state == AckState::Acked;
    presence.generation >= generation && presence.types.values().all(is_acked)
}

/// Returns an Envoy with the types that it has not acknowledged.
fn waiting(presence: &Presence, build: &Build) -> Value {
    let open = presence.types.iter().filter(|(_, status)| status.state != AckState::Acked || !status.current);
    let types: Vec<Value> = open
        .map(|(resource_type, status)| match &status.error {
            Some(error) => json!({ "type": resource_type.plural(), "state": "nacked", "error": error }),
            None => json!({ "type": resource_type.plural(), "state": "pending" }),
        })
        .collect();
    json!({ "node": presence.node.id, "fleet": build.fleet_of(&presence.node).to_string(), "types": types })
}

fn respond(written: &AcceptedWrite<Reply>, missing: &[Value]) -> Response {
    let AcceptedWrite { reply, revision, is_repeated, before, build, .. } = written;
    let Reply { status, location, etag, body } = reply;
    let warnings = build.warnings_since(before);
    let mut response = match (missing, body) {
        ([], Value::Null) => (*status).into_response(),
        ([], body) => {
            let mut body = body.clone();
            if !warnings.is_empty() && body.is_object() {
                body["warnings"] = json!(warnings);
            }
            (*status, Json(body)).into_response()
        }
        (missing, _) => {
            let body = json!({ "revision": revision, "waiting_for": missing });
            (StatusCode::ACCEPTED, Json(body)).into_response()
        }
    };
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.append(name, value);
        }
    };
    if let Some(location) = location {
        set(header::LOCATION, location);
    }
    if let Some(etag) = etag.as_ref().filter(|_| missing.is_empty()) {
        set(header::ETAG, etag);
    }
    if let Some(revision) = revision {
        set(REVISION, &revision.to_string());
    }
    if *is_repeated {
        set(REPEATED, "true");
    }
    for warning in warnings.into_iter().take(MAX_WARNING_HEADERS) {
        // Headers are ASCII; the body has the full text.
        set(WARNING, &render::line(&warning).replace(|c: char| !c.is_ascii(), "?"));
    }
    response
}

/// Returns a response that shows a body with its tag.
pub(crate) fn shown(body: Value, etag: &str) -> Response {
    let etag = HeaderValue::from_str(etag).expect("hex digits in quotes are a header value");
    ([(header::ETAG, etag)], Json(body)).into_response()
}
