//! Who is connected, and what each Envoy took or refused.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use serde_json::{Value, json};

use crate::admin::Admin;
use crate::admin::problem::Problem;
use crate::fleet::{Connected, Noted};
use crate::pipeline::Build;

#[derive(Serialize)]
pub(crate) struct NodeView {
    id: String,
    cluster: String,
    fleet: String,
    address: Option<String>,
    connected_at: String,
    envoy_version: String,
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
        use crate::fleet::State;
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
    fn of(connected: &Connected, build: &Build) -> Self {
        let types = connected.types.iter().map(|(kind, noted)| (kind.plural(), TypeView::of(noted)));
        Self {
            id: connected.node.id.clone(),
            cluster: connected.node.cluster.clone(),
            fleet: build.fleet_of(&connected.node).to_string(),
            address: connected.address.map(|address| address.to_string()),
            connected_at: connected.connected_at.to_string(),
            envoy_version: connected.node.version.clone(),
            types: types.collect(),
        }
    }
}

/// `GET /fleet`
pub(crate) async fn nodes(State(admin): State<Admin>) -> Json<Value> {
    let build = admin.cache.build();
    let nodes: Vec<NodeView> =
        admin.fleet.connected().iter().map(|connected| NodeView::of(connected, &build)).collect();
    Json(json!({ "nodes": nodes }))
}

/// `GET /fleet/{node}`: the newest stream of that node.
pub(crate) async fn node(
    State(admin): State<Admin>,
    Path(id): Path<String>,
) -> Result<Json<NodeView>, Problem> {
    let connected = admin.fleet.connected();
    let newest = connected.iter().rfind(|connected| connected.node.id == id);
    match newest {
        Some(connected) => Ok(Json(NodeView::of(connected, &admin.cache.build()))),
        None => Err(Problem::not_found(&format!("no node `{id}` is connected"))),
    }
}
