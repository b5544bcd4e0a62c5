//! Effective settings of an upstream, each with its origin.

use axum::extract::{Path, State};
use axum::response::Json;
use serde_json::Value;

use crate::access::tokens::Role;
use crate::admin::http::problem::Problem;
use crate::admin::order::unknown_upstream;
use crate::admin::route::{ApiRoute, Content};
use crate::admin::state::Admin;
use crate::inspect::settings::{self, UpstreamSettings};

/// Returns the routes.
pub(crate) fn routes() -> Vec<ApiRoute> {
    let summary =
        "Read every effective setting of an upstream, with its origin, as `understudy show` prints them";
    let content = Content::json::<UpstreamSettings>();
    vec![ApiRoute::get("/upstreams/{name}/settings", Role::Read, summary, read, content)]
}

/// Handles `GET /upstreams/{name}/settings`.
async fn read(
    State(admin): State<Admin>,
    Path(name): Path<String>,
) -> Result<Json<UpstreamSettings>, Problem> {
    let settings = settings::effective(&admin.cache.build(), &name);
    let mut settings = settings.ok_or_else(|| unknown_upstream(&name))?;
    for setting in &mut settings.settings {
        // The path names the mapping that the value is.
        if setting.path.ends_with(".headers")
            && let Value::Object(headers) = &mut setting.value
        {
            admin.mask.mask_map(headers);
        }
    }
    Ok(Json(settings))
}
