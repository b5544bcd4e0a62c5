//! Snapshots of fleets, in Envoy's JSON.

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Json;
use serde::Deserialize;
use serde_json::Value;

use crate::access::tokens::Role;
use crate::admin::http::problem::Problem;
use crate::admin::route::{ApiRoute, Content, QueryParameter};
use crate::admin::schema;
use crate::admin::state::Admin;
use crate::envoy::node::Locality;
use crate::model::name::Name;

const LOCALITY: QueryParameter =
    QueryParameter::text("node_locality", "Locality of the Envoy: region/zone/sub_zone");

/// Returns the routes.
pub(crate) fn routes() -> Vec<ApiRoute> {
    let path = "/snapshots/{fleet}";
    let shape = "Resources of the fleet by type, each in Envoy's own JSON";
    let content = Content::json_of(schema::free_form(shape));
    vec![
        ApiRoute::get(path, Role::Read, "Read the resources of a fleet, in Envoy's JSON", read, content)
            .query(&[LOCALITY]),
    ]
}

/// Parameters of the query.
#[derive(Deserialize)]
struct SnapshotQuery {
    /// `region/zone/sub_zone`; empty for an Envoy without a locality.
    #[serde(default)]
    node_locality: String,
}

/// Handles `GET /snapshots/{fleet}`.
async fn read(
    State(admin): State<Admin>,
    Path(fleet): Path<String>,
    Query(query): Query<SnapshotQuery>,
) -> Result<Json<Value>, Problem> {
    let build = admin.cache.live();
    let locality: Locality =
        query.node_locality.parse().map_err(|error: String| Problem::new(StatusCode::BAD_REQUEST, error))?;
    match Name::parse(&fleet).filter(|fleet| build.snapshots.contains_key(fleet)) {
        Some(fleet) => Ok(Json(admin.mask.masked(build.snapshot_at(&fleet, &locality).to_json()))),
        None => Err(Problem::not_found(&format!("no fleet is named `{fleet}`"))),
    }
}
