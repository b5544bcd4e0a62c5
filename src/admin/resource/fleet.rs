//! Connected Envoys, and those that left within the last hour, with what each acknowledged or refused.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use axum::response::Json;
use schemars::JsonSchema;
use serde::Serialize;

use crate::access::tokens::Role;
use crate::admin::http::problem::Problem;
use crate::admin::route::{ApiRoute, Content};
use crate::admin::state::Admin;
use crate::build::Build;
use crate::build::secrecy::SecretAccess;
use crate::envoy::node::VouchedFields;
use crate::failover::ledger::Ledger;
use crate::nodes::status::{self, Presence, RecordedStatus};

/// Returns the routes.
pub(crate) fn routes() -> Vec<ApiRoute> {
    let list_summary = "List the connected Envoys, and what each acknowledged or refused";
    vec![
        ApiRoute::get("/fleet", Role::Read, list_summary, list, Content::json::<FleetView>()),
        ApiRoute::get("/fleet/{node}", Role::Read, "Read one Envoy", read, Content::json::<FleetNodeView>()),
    ]
}

/// Connected Envoys, and those that left within the last hour.
#[derive(Debug, Serialize, JsonSchema)]
struct FleetView {
    nodes: Vec<FleetNodeView>,
    /// Clients that report load in the name of nodes without a discovery stream that holds clusters. Their reports
    /// do not count.
    unknown_reporters: Vec<UnknownReporterView>,
}

/// Client that reports load in the name of a node without a discovery stream that holds clusters.
#[derive(Debug, Serialize, JsonSchema)]
struct UnknownReporterView {
    /// Node id that it states.
    id: String,
    /// Remote address of the connection, if known.
    address: Option<String>,
    /// Time since which it is listed.
    since: String,
    /// Number of reports that did not count.
    reports: u64,
}

/// Envoy: its newest stream, or its last status.
#[derive(Debug, Serialize, JsonSchema)]
struct FleetNodeView {
    /// Node id.
    id: String,
    /// Cluster that the node names for itself.
    cluster: String,
    /// Fleet that it belongs to.
    fleet: String,
    /// Remote address of the connection, if known.
    address: Option<String>,
    state: ConnectionState,
    /// Time at which the stream began.
    connected_at: String,
    /// Time at which its last stream ended; null while it is connected.
    disconnected_at: Option<String>,
    /// Time of its last load report; null before the first.
    last_load_report: Option<String>,
    /// Version of Envoy.
    envoy_version: String,
    /// True if it gets no keys of its fleet (or nothing at all, if resources have some within): its certificate does
    /// not vouch for what selects the fleet.
    secrets_withheld: bool,
    /// Upstreams that a standby serves there; null if it does not report its load.
    on_standby: Option<Vec<String>>,
    /// Reason for which it is not answered, so that it keeps what it has; null if it is answered.
    withheld: Option<WithheldView>,
    /// Id of the data directory whose config it came with, if it is another than that of this control plane.
    foreign_store: Option<String>,
    /// Status by the plural of the type.
    types: BTreeMap<&'static str, TypeView>,
}

/// Reason for which an Envoy is not answered.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum WithheldView {
    /// It runs a config that is not known here, and nothing was accepted yet that gives it a route.
    NothingAccepted,
    /// It runs a config of another data directory that is not known here.
    ForeignStore,
}

impl From<status::WithholdReason> for WithheldView {
    fn from(reason: status::WithholdReason) -> Self {
        match reason {
            status::WithholdReason::NothingAccepted => Self::NothingAccepted,
            status::WithholdReason::ForeignStore => Self::ForeignStore,
        }
    }
}

/// State of a connection.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ConnectionState {
    /// It has a stream.
    Connected,
    /// Its last stream ended.
    Disconnected,
}

/// Status of the resources of one type.
#[derive(Debug, Serialize, JsonSchema)]
struct TypeView {
    state: AckStateView,
    /// Version of the last acknowledged response; null before the first.
    version: Option<String>,
    /// Error message, while it refuses the last response.
    error: Option<String>,
    /// Time since which the type has this state.
    since: String,
    /// Error message of the last refusal.
    last_error: Option<String>,
    /// Time of the last refusal.
    last_error_at: Option<String>,
}

/// Outcome of the last response.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum AckStateView {
    /// No answer yet.
    Pending,
    /// Acknowledged.
    Acked,
    /// Refused.
    Nacked,
}

impl From<&RecordedStatus> for TypeView {
    fn from(status: &RecordedStatus) -> Self {
        let (last_error, last_error_at) =
            status.last_nack.as_ref().map(|nack| (nack.error.clone(), nack.at)).unzip();
        Self {
            state: match status.state {
                status::AckState::Pending => AckStateView::Pending,
                status::AckState::Acked => AckStateView::Acked,
                status::AckState::Nacked => AckStateView::Nacked,
            },
            version: status.version.map(|version| version.to_string()),
            error: status.error.clone(),
            since: status.since.to_string(),
            last_error,
            last_error_at: last_error_at.map(|at| at.to_string()),
        }
    }
}

impl FleetNodeView {
    fn new(presence: &Presence, build: &Build, vouched: &VouchedFields, ledger: &Ledger) -> Self {
        let Presence { node, .. } = presence;
        let is_connected = presence.disconnected_at.is_none();
        let on_standby = presence.last_load_report.map(|_| ledger.history.on_standby(&node.id).into_iter());
        Self {
            id: node.id.clone(),
            cluster: node.cluster.clone(),
            fleet: build.fleet_of(node).to_string(),
            address: presence.address.map(|address| address.to_string()),
            state: if is_connected { ConnectionState::Connected } else { ConnectionState::Disconnected },
            connected_at: presence.connected_at.to_string(),
            disconnected_at: presence.disconnected_at.map(|at| at.to_string()),
            last_load_report: presence.last_load_report.map(|at| at.to_string()),
            envoy_version: node.version.clone(),
            secrets_withheld: build.secret_access(node, vouched) != SecretAccess::Full,
            on_standby: on_standby.map(|upstreams| upstreams.map(ToString::to_string).collect()),
            withheld: presence.provenance.withheld.map(WithheldView::from),
            foreign_store: presence.provenance.foreign_store.map(|store| store.to_string()),
            types: presence.types.iter().map(|(kind, status)| (kind.plural(), status.into())).collect(),
        }
    }
}

/// Handles `GET /fleet`.
async fn list(State(admin): State<Admin>) -> Json<FleetView> {
    let (build, vouched, ledger) = (admin.cache.live(), admin.cache.vouched(), admin.supervisor.ledger());
    let nodes = admin.nodes.nodes();
    let view = |presence: &Presence| FleetNodeView::new(presence, &build, &vouched, &ledger);
    let unknown = admin.nodes.unknown_reporters().list().into_iter().map(|reporter| UnknownReporterView {
        id: reporter.node,
        address: reporter.address.map(|address| address.to_string()),
        since: reporter.since.to_string(),
        reports: reporter.reports,
    });
    Json(FleetView { nodes: nodes.iter().map(view).collect(), unknown_reporters: unknown.collect() })
}

/// Handles `GET /fleet/{node}`.
async fn read(State(admin): State<Admin>, Path(id): Path<String>) -> Result<Json<FleetNodeView>, Problem> {
    let presence = admin.nodes.node(&id).ok_or_else(|| {
        Problem::not_found(&format!("no node `{id}` is connected or was within the last hour"))
    })?;
    let (build, vouched) = (admin.cache.live(), admin.cache.vouched());
    Ok(Json(FleetNodeView::new(&presence, &build, &vouched, &admin.supervisor.ledger())))
}
