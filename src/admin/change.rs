//! How every write runs, whatever it changes: planned or done, waited for, answered.

use std::time::{Duration, Instant};

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use serde_json::{Value, json};

use crate::admin::Admin;
use crate::admin::http::blocking;
use crate::admin::http::problem::Problem;
use crate::admin::http::request::Write;
use crate::build::Build;
use crate::config::render;
use crate::control::rollout::CanaryProgress;
use crate::control::{Decision, Now, Proposal, Written};
use crate::nodes::{Presence, State};
use crate::store::records::Answer;

/// How often it is looked who has acknowledged.
const GLANCE: Duration = Duration::from_millis(10);

const REVISION: HeaderName = HeaderName::from_static("x-revision");
const REPEATED: HeaderName = HeaderName::from_static("idempotency-replayed");
const WARNING: HeaderName = HeaderName::from_static("x-warning");

impl Admin {
    /// Does what `decide` decides on, or tells what it would do.
    pub(crate) async fn change(
        &self,
        write: Write,
        decide: impl Fn(Now<'_>) -> Result<Decision, Problem> + Send + 'static,
    ) -> Result<Response, Problem> {
        write.query.end()?;
        if write.dry_run {
            let propose = move |now: Now<'_>| {
                decide(now).map(|decision| Proposal { files: None, changes: decision.changes })
            };
            return self.planned(propose).await;
        }
        let written = self.control.write(write.terms, decide).await?;
        let missing = match write.wait {
            Some(patience) if !written.is_repeated => self.missing(&written, patience).await?,
            _ => Vec::new(),
        };
        Ok(respond(&written, &missing))
    }

    /// What would change, and nothing does.
    pub(crate) async fn planned(
        &self,
        propose: impl FnOnce(Now<'_>) -> Result<Proposal, Problem> + Send + 'static,
    ) -> Result<Response, Problem> {
        let (plan, build) = self.control.plan(propose).await?;
        let mut body = json!({ "changes": plan.changes, "envoy": plan.envoy });
        let warnings = build.warnings_since(&self.cache.build());
        if !warnings.is_empty() {
            body["warnings"] = json!(warnings);
        }
        Ok(Json(body).into_response())
    }

    /// The connected Envoys of the fleets that it affects which have not acknowledged a write in time; while its
    /// canaries have not, these. A write that they refused is a problem: it is not in effect.
    async fn missing(&self, written: &Written, patience: Duration) -> Result<Vec<Value>, Problem> {
        let Written { before, build, answer, .. } = written;
        let deadline = Instant::now() + patience;
        if let Some(revision) = answer.revision {
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
                return Ok(missing.iter().map(|presence| told(presence, build)).collect());
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// The canaries that are being asked, as those who are waited for.
    fn canaries(&self) -> Vec<Value> {
        let canaries = self.control.progress().canaries;
        let told = |it: &CanaryProgress| json!({ "node": it.node, "fleet": it.fleet, "canary": it.phase, "types": [] });
        canaries.iter().map(told).collect()
    }

    /// 409 for a revision that its canary refused.
    async fn refuse_rejected(&self, revision: u64) -> Result<(), Problem> {
        let store = self.control.store().clone();
        let found = blocking::run(move || Ok(store.revisions(revision..=revision)?.pop())).await?;
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

/// True when an Envoy has acknowledged all that it asked for of this generation or a later one.
fn has_all(presence: &Presence, generation: u64) -> bool {
    let is_acked = |noted: &crate::nodes::Noted| noted.current && noted.state == State::Acked;
    presence.seen >= generation && presence.types.values().all(is_acked)
}

fn told(presence: &Presence, build: &Build) -> Value {
    let waiting = presence.types.iter().filter(|(_, noted)| noted.state != State::Acked || !noted.current);
    let types: Vec<Value> = waiting
        .map(|(resource_type, noted)| match &noted.error {
            Some(error) => json!({ "type": resource_type.plural(), "state": "nacked", "error": error }),
            None => json!({ "type": resource_type.plural(), "state": "pending" }),
        })
        .collect();
    json!({ "node": presence.node.id, "fleet": build.fleet_of(&presence.node).to_string(), "types": types })
}

fn respond(written: &Written, missing: &[Value]) -> Response {
    let Written { answer, is_repeated, before, build, .. } = written;
    let Answer { revision, status, location, etag, body } = answer;
    let warnings = build.warnings_since(before);
    let status = StatusCode::from_u16(*status).expect("it was a status before");
    let mut response = match (missing, body) {
        ([], Value::Null) => status.into_response(),
        ([], body) => {
            let mut body = body.clone();
            if !warnings.is_empty() && body.is_object() {
                body["warnings"] = json!(warnings);
            }
            (status, Json(body)).into_response()
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
    for warning in warnings {
        // Headers are ASCII; the body has it as it is.
        set(WARNING, &render::line(warning).replace(|c: char| !c.is_ascii(), "?"));
    }
    response
}

/// A body with its tag.
pub(crate) fn shown(body: Value, etag: &str) -> Response {
    let etag = HeaderValue::from_str(etag).expect("hex digits in quotes are a header value");
    ([(header::ETAG, etag)], Json(body)).into_response()
}
