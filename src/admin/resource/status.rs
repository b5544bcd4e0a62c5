//! Status of the control plane, and its probes.

use axum::extract::State;
use axum::response::Json;
use schemars::JsonSchema;
use serde::Serialize;

use crate::access::tokens::Role;
use crate::admin::route::{ApiRoute, Content};
use crate::admin::state::Admin;
use crate::build::Build;
use crate::build::snapshot::store_id::StoreId;
use crate::config::document::Kind;
use crate::control::progress::Progress;
use crate::model::name::Name;
use crate::store::LostCommits;

/// Returns the routes.
pub(crate) fn routes() -> Vec<ApiRoute> {
    let ready_summary =
        "200 while a build is served and the data directory is in place, also while files are broken";
    let probe = || Content::other("text/plain");
    vec![
        ApiRoute::get(
            "/status",
            Role::Read,
            "Read what is served, in numbers",
            read,
            Content::json::<StatusView>(),
        ),
        ApiRoute::get("/livez", None, "200 while the program lives", ok, probe()),
        ApiRoute::get("/readyz", None, ready_summary, ok, probe()).fails(&[503]),
    ]
}

/// Status of the control plane.
#[derive(Debug, Serialize, JsonSchema)]
struct StatusView {
    /// Version of the program.
    version: &'static str,
    /// Address of the xDS port.
    xds: String,
    /// Address of this API.
    admin: String,
    /// Number of connected Envoys.
    nodes: usize,
    /// Number of routes.
    routes: usize,
    /// Number of services.
    services: usize,
    /// Number of upstreams.
    upstreams: usize,
    /// Number of faults of the files.
    violations: usize,
    /// Time since which the files are not what is served; null if they are.
    files_stale_since: Option<String>,
    /// Time at which the program started.
    started: String,
    /// Newest revision.
    revision: u64,
    rollout: RolloutView,
    /// Targets that were added to upstreams which do not exist now; they return with them.
    orphaned_targets: Vec<String>,
    /// Number of connected Envoys that are not answered; `/fleet` has the reasons.
    withheld: usize,
    /// Id of the data directory.
    store: String,
    /// Changes that were acknowledged before the start and were not in the data directory then; null if none are
    /// known to be lost.
    lost_changes: Option<LostChangesView>,
}

/// Changes that were acknowledged and are lost.
#[derive(Debug, Serialize, JsonSchema)]
struct LostChangesView {
    /// Number of lost commits, at least. A commit may hold several revisions, or none.
    commits: u64,
    /// Newest revision that was acknowledged.
    acknowledged: u64,
    /// Newest revision that was found.
    found: u64,
}

/// Rollout of accepted changes.
#[derive(Debug, Serialize, JsonSchema)]
struct RolloutView {
    /// Newest revision that is in effect.
    live: u64,
    /// Revisions that were accepted and are not in effect yet.
    rolling_out: Vec<u64>,
    /// Canaries of the first of these.
    canaries: Vec<FleetCanaryView>,
    /// Time at which these canaries began.
    since: Option<String>,
    /// Change that was rolled back last, until a newer one is in effect.
    rejected: Option<RejectedView>,
}

/// Canary of a fleet.
#[derive(Debug, Serialize, JsonSchema)]
struct FleetCanaryView {
    /// Name of the fleet.
    fleet: String,
    /// Node id; null while a canary is being chosen.
    node: Option<String>,
    /// `choosing`, `asked`, `baking` or `passed`.
    phase: &'static str,
}

/// Change that was rolled back.
#[derive(Debug, Serialize, JsonSchema)]
struct RejectedView {
    /// Revisions of the change.
    revisions: Vec<u64>,
    /// Envoys that refused it.
    refused_by: Vec<String>,
    /// Error message of the Envoys.
    error: String,
}

impl From<Progress> for RolloutView {
    fn from(progress: Progress) -> Self {
        let canaries = progress.canaries.into_iter();
        Self {
            live: progress.live,
            rolling_out: progress.rolling_out.into_iter().collect(),
            canaries: canaries
                .map(|canary| FleetCanaryView { fleet: canary.fleet, node: canary.node, phase: canary.phase })
                .collect(),
            since: progress.since.map(|since| since.to_string()),
            rejected: progress.rejected.map(|rejected| RejectedView {
                revisions: rejected.revisions,
                refused_by: rejected.refused_by,
                error: rejected.error,
            }),
        }
    }
}

impl From<LostCommits> for LostChangesView {
    fn from(LostCommits { commits, acknowledged, found }: LostCommits) -> Self {
        Self { commits, acknowledged, found }
    }
}

/// Handles the probes.
async fn ok() -> &'static str {
    "ok\n"
}

/// Handles `GET /status`.
async fn read(State(admin): State<Admin>) -> Json<StatusView> {
    let build = admin.cache.build();
    Json(StatusView {
        version: env!("CARGO_PKG_VERSION"),
        xds: admin.addresses.xds.to_string(),
        admin: admin.addresses.admin.to_string(),
        nodes: admin.nodes.connected(),
        routes: build.model.routes.len(),
        services: build.model.services.len(),
        upstreams: build.model.upstreams.len(),
        violations: admin.control.violations().len(),
        files_stale_since: admin.control.stale_since().map(|since| since.to_string()),
        started: admin.started.to_string(),
        revision: admin.store.revision(),
        rollout: admin.control.progress().into(),
        orphaned_targets: orphaned(&build),
        withheld: admin.nodes.withheld(),
        store: StoreId::new(admin.store.id()).to_string(),
        lost_changes: admin.store.lost().map(LostChangesView::from),
    })
}

/// Returns the targets that were added to upstreams which do not exist now.
fn orphaned(build: &Build) -> Vec<String> {
    let targets = build.stored.range((Kind::Target, String::new())..);
    let targets =
        targets.take_while(|((kind, _), _)| *kind == Kind::Target).map(|((_, name), _)| name.as_str());
    let is_orphaned = |name: &&str| {
        let upstream = name.split('/').next().and_then(Name::parse);
        upstream.is_none_or(|upstream| !build.model.upstreams.contains_key(&upstream))
    };
    targets.filter(is_orphaned).map(ToOwned::to_owned).collect()
}
