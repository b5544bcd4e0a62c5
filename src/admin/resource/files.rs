//! Config files: their faults, their findings, and the command to read them again.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Json;
use schemars::JsonSchema;
use serde::Serialize;

use crate::access::policy::Principal;
use crate::access::tokens::Role;
use crate::admin::http::blocking;
use crate::admin::http::problem::Problem;
use crate::admin::http::request::Parameters;
use crate::admin::route::{ApiRoute, Content, QueryParameter};
use crate::admin::state::Admin;
use crate::config::Violation;
use crate::config::edit::Files;
use crate::inspect::removal::AllowedLosses;
use crate::source::files;

/// Time after which a reload gives up on the file system.
const READ_PATIENCE: Duration = Duration::from_secs(10);

const ALLOW: QueryParameter = QueryParameter::text(
    "allow",
    "What this reload may do, with commas between the words; needs the role `write`. Losses that it may cause: `empty`, `mass_removal`. `foreign`: answer the Envoys that are not answered, since they run a config of another data directory, or one that is not known here",
);

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
        .query(&[ALLOW])
        .fails(&[422, 500, 503]),
    ]
}

/// Response to a reload.
#[derive(Debug, Serialize, JsonSchema)]
struct ReloadView {
    /// Newest revision.
    revision: u64,
    /// Ids of the data directories whose Envoys are answered from now on.
    adopted_stores: Vec<String>,
}

/// Handles `GET /violations`.
async fn violations(State(admin): State<Admin>) -> Json<Vec<Violation>> {
    Json(admin.control.violations())
}

/// Handles `GET /lint`.
async fn lint(State(admin): State<Admin>) -> Json<Vec<Violation>> {
    Json(admin.cache.build().violations())
}

/// Handles `POST /reload?allow=`: responds when the files are taken over or refused.
async fn reload(
    State(admin): State<Admin>,
    Extension(principal): Extension<Principal>,
    RawQuery(query): RawQuery,
) -> Result<Json<ReloadView>, Problem> {
    let allowed = Allowed::parse(query.as_deref())?;
    // A decision on what is to be served, unlike a mere reload.
    if allowed != Allowed::default()
        && let Err(denial) = principal.require(Role::Write)
    {
        admin.metrics.refused("role");
        return Err(Problem::new(StatusCode::FORBIDDEN, denial.to_string()));
    }
    let read = read_files(&admin).await?;
    admin.control.reload(read, allowed.losses).await?;
    let revision = admin.store.revision();
    let violations = admin.control.violations();
    if !violations.is_empty() {
        let detail = "the files were refused; the last good config keeps serving";
        return Err(Problem::refused(detail, violations));
    }
    let adopted = if allowed.foreign { admin.control.allow_foreign().await? } else { BTreeSet::new() };
    let adopted_stores = adopted.iter().map(ToString::to_string).collect();
    Ok(Json(ReloadView { revision, adopted_stores }))
}

/// Reads the config files. Few requests do so at once, and none waits for a file system that does not answer.
async fn read_files(admin: &Admin) -> Result<Result<Files, Vec<Violation>>, Problem> {
    let (paths, reads) = (admin.paths.clone(), admin.reads.clone());
    let read = async {
        let place = reads.acquire_owned().await;
        // The place is taken until the read has ended, whether or not somebody waits for that.
        blocking::run(move || {
            let _place = place;
            Ok(files::read(&paths))
        })
        .await
    };
    let late =
        |_| Problem::unavailable("the config files were not read within 10 s: is their file system there?");
    tokio::time::timeout(READ_PATIENCE, read).await.map_err(late)?
}

/// Decisions that a reload carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Allowed {
    losses: AllowedLosses,
    foreign: bool,
}

impl Allowed {
    /// Reads what `allow` names.
    fn parse(query: Option<&str>) -> Result<Self, Problem> {
        let mut query = Parameters::parse(query);
        let words = query.take_all("allow");
        query.end()?;
        let mut allowed = Self::default();
        for word in words.iter().flat_map(|words| words.split(',')) {
            match word {
                "empty" => allowed.losses.empty = true,
                "mass_removal" => allowed.losses.mass_removal = true,
                "foreign" => allowed.foreign = true,
                _ => {
                    let detail = format!("`allow` takes `empty`, `mass_removal` and `foreign`, not `{word}`");
                    return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
                }
            }
        }
        Ok(allowed)
    }
}
