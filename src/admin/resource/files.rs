//! Config files: their faults, their findings, and the command to read them again.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Json;
use schemars::JsonSchema;
use serde::Serialize;

use crate::access::tokens::Role;
use crate::admin::http::blocking;
use crate::admin::http::problem::Problem;
use crate::admin::route::{ApiRoute, Content};
use crate::admin::state::Admin;
use crate::config::Violation;
use crate::source::files;

/// Returns the routes.
pub(crate) fn routes() -> Vec<ApiRoute> {
    let violations_summary = "List the faults of the files, while the last good config serves";
    let lint_summary = "List what is valid in the config that serves, and likely to cause harm";
    let list = Content::json::<Vec<Violation>>;
    vec![
        ApiRoute::get("/violations", Role::Read, violations_summary, violations, list()),
        ApiRoute::get("/lint", Role::Read, lint_summary, lint, list()),
        ApiRoute::post(
            "/reload",
            Role::Operate,
            "Read the files again",
            reload,
            &[200],
            Content::json::<ReloadView>(),
        )
        .fails(&[422, 500, 503]),
    ]
}

/// Response to a reload.
#[derive(Debug, Serialize, JsonSchema)]
struct ReloadView {
    /// Newest revision.
    revision: u64,
}

/// Handles `GET /violations`.
async fn violations(State(admin): State<Admin>) -> Json<Vec<Violation>> {
    Json(admin.control.violations())
}

/// Handles `GET /lint`.
async fn lint(State(admin): State<Admin>) -> Json<Vec<Violation>> {
    Json(admin.cache.build().violations())
}

/// Handles `POST /reload`: responds when the files are taken over or refused.
async fn reload(State(admin): State<Admin>) -> Result<Json<ReloadView>, Problem> {
    let paths = admin.paths.clone();
    let read = blocking::run(move || Ok(files::read(&paths))).await?;
    admin.control.reload(read).await?;
    let revision = admin.store.revision();
    let violations = admin.control.violations();
    if violations.is_empty() {
        return Ok(Json(ReloadView { revision }));
    }
    let detail = "the files were refused; the last good config keeps serving";
    Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail).with(violations))
}
