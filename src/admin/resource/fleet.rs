//! Who is connected or was within the last hour, and what each Envoy took or refused.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use serde_json::{Value, json};

use crate::admin::Admin;
use crate::admin::problem::Problem;
use crate::build::Build;
use crate::failover::ledger::Ledger;
use crate::model::name::Name;
use crate::nodes::{Noted, Presence};

#[derive(Serialize)]
pub(crate) struct NodeView {
    id: String,
    cluster: String,
    fleet: String,
    address: Option<String>,
    state: &'static str,
    connected_at: String,
    disconnected_at: Option<String>,
    last_load_report: Option<String>,
    envoy_version: String,
    /// The upstreams that a standby serves there; null when it does not report its load.
    on_standby: Option<Vec<Name>>,
    types: BTreeMap<&'static str, TypeView>,
}

#[derive(Serialize)]
struct TypeView {
    state: &'static str,
    version: Option<String>,
    error: Option<String>,
    since: String,
    last_error: Option<String>,
    last_error_at: Option<String>,
}

impl TypeView {
    fn of(noted: &Noted) -> Self {
        use crate::nodes::State;
        let (last_error, last_error_at) = noted.last_error.clone().unzip();
        Self {
            state: match noted.state {
                State::Pending => "pending",
                State::Acked => "acked",
                State::Nacked => "nacked",
            },
            version: noted.version.map(|version| version.to_string()),
            error: noted.error.clone(),
            since: noted.since.to_string(),
            last_error,
            last_error_at: last_error_at.map(|at| at.to_string()),
        }
    }
}

impl NodeView {
    fn of(presence: &Presence, build: &Build, ledger: &Ledger) -> Self {
        let types = presence.types.iter().map(|(kind, noted)| (kind.plural(), TypeView::of(noted)));
        Self {
            id: presence.node.id.clone(),
            cluster: presence.node.cluster.clone(),
            fleet: build.fleet_of(&presence.node).to_string(),
            address: presence.address.map(|address| address.to_string()),
            state: if presence.disconnected_at.is_some() { "disconnected" } else { "connected" },
            connected_at: presence.connected_at.to_string(),
            disconnected_at: presence.disconnected_at.map(|at| at.to_string()),
            last_load_report: presence.last_load_report.map(|at| at.to_string()),
            envoy_version: presence.node.version.clone(),
            on_standby: presence
                .last_load_report
                .map(|_| ledger.history.away(&presence.node.id).into_iter().cloned().collect()),
            types: types.collect(),
        }
    }
}

/// `GET /fleet`
pub(crate) async fn nodes(State(admin): State<Admin>) -> Json<Value> {
    let (build, ledger) = (admin.cache.live(), admin.supervisor.ledger());
    let nodes = admin.nodes.nodes();
    let nodes: Vec<NodeView> = nodes.iter().map(|presence| NodeView::of(presence, &build, &ledger)).collect();
    Json(json!({ "nodes": nodes }))
}

/// `GET /fleet/{node}`: the newest stream of that node, or what is remembered of it.
pub(crate) async fn node(
    State(admin): State<Admin>,
    Path(id): Path<String>,
) -> Result<Json<NodeView>, Problem> {
    match admin.nodes.node(&id) {
        Some(presence) => Ok(Json(NodeView::of(&presence, &admin.cache.live(), &admin.supervisor.ledger()))),
        None => Err(Problem::not_found(&format!("no node `{id}` is connected or was within the last hour"))),
    }
}
