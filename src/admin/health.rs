//! How the targets of an upstream fare, as far as that is known here: where they stand, and what their names resolve
//! to. What only Envoys know is null.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;

use crate::admin::Admin;
use crate::admin::problem::Problem;
use crate::model::name::Name;
use crate::model::target::Target;

#[derive(Serialize)]
pub(crate) struct HealthView {
    serving_priority: Option<u32>,
    targets: Vec<TargetView>,
}

#[derive(Serialize)]
struct TargetView {
    target: String,
    priority: u32,
    health: Option<&'static str>,
    state: Option<&'static str>,
    share: Option<f64>,
    requests_per_second: Option<f64>,
    reported_by: Option<Vec<String>>,
    /// Of a name that is looked up here.
    #[serde(skip_serializing_if = "Option::is_none")]
    resolved: Option<ResolvedView>,
}

#[derive(Serialize)]
struct ResolvedView {
    /// How old the answer in use is, in seconds; null when there never was one.
    age: Option<f64>,
    /// Why the newest look-up failed; null when it did not.
    error: Option<String>,
}

/// `GET /upstreams/{upstream}/health`
pub(crate) async fn upstream(
    State(admin): State<Admin>,
    Path(upstream): Path<String>,
) -> Result<Json<HealthView>, Problem> {
    let build = admin.cache.build();
    let found = Name::parse(&upstream).and_then(|name| build.model.upstreams.get(&name));
    let Some(found) = found else {
        return Err(Problem::not_found(&format!("no upstream is named `{upstream}`")));
    };
    let view = |target: &Target| TargetView {
        target: target.address.to_string(),
        priority: target.tier,
        health: None,
        state: None,
        share: None,
        requests_per_second: None,
        reported_by: None,
        resolved: admin.control.names().resolved(&target.address.host).map(|resolved| ResolvedView {
            age: resolved.age.map(|age| (age.as_secs_f64() * 10.0).round() / 10.0),
            error: resolved.error,
        }),
    };
    Ok(Json(HealthView { serving_priority: None, targets: found.targets.iter().map(view).collect() }))
}
