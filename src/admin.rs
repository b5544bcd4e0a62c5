//! The admin API: routes over what others hold.
//!
//! Core types never leave through it: every answer is a view of its own. A write becomes stored entities and
//! goes through the same build as a saved file.

pub mod entities;
pub mod fleet;
pub mod health;
pub mod problem;
pub mod raw;
pub mod simulate;
pub(crate) mod view;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::response::Json;
use axum::routing::{any, get, post};
use http::StatusCode;
use serde_json::{Value, json};
use tower_http::normalize_path::NormalizePath;

use crate::admin::problem::Problem;
use crate::cache::Cache;
use crate::config::Violation;
use crate::control::Control;
use crate::fleet::Fleet;
use crate::model::name::Name;
use crate::node::Locality;

/// The largest body that is read.
const MAX_BODY: usize = 16 << 20;

/// What the handlers stand on.
#[derive(Debug, Clone)]
pub struct Admin {
    /// For writes.
    pub control: Control,
    /// For reads.
    pub cache: Arc<Cache>,
    /// Who is connected.
    pub fleet: Fleet,
    /// The addresses that were bound.
    pub addresses: Addresses,
}

/// The addresses that `serve` bound.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// Of xDS.
    pub xds: std::net::SocketAddr,
    /// Of this API.
    pub admin: std::net::SocketAddr,
}

/// The whole API, with and without slashes at the end of a path.
pub fn service(admin: Admin) -> NormalizePath<Router> {
    let router = Router::new()
        .route("/{kind}", get(entities::list).post(entities::create))
        .route(
            "/{kind}/{name}",
            get(entities::read).put(entities::replace).patch(entities::patch).delete(entities::delete),
        )
        .route("/upstreams/{upstream}/health", get(health::upstream))
        .route("/upstreams/{upstream}/targets", get(entities::list_targets).post(entities::create_target))
        .route(
            "/upstreams/{upstream}/targets/{target}",
            get(entities::read_target)
                .put(entities::replace_target)
                .patch(entities::patch_target)
                .delete(entities::delete_target),
        )
        .route("/raw", get(raw::all).put(raw::replace_all))
        .route("/raw/{type}", get(raw::list))
        .route("/raw/{type}/{*name}", get(raw::read).put(raw::replace).delete(raw::delete))
        .route("/simulate", post(simulate::simulate))
        .route("/fleet", get(fleet::nodes))
        .route("/fleet/{node}", get(fleet::node))
        .route("/violations", get(violations))
        .route("/snapshots/{fleet}", get(snapshot))
        .route("/status", get(status))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(|| async { "ok\n" }))
        .route("/", any(|| async { Problem::not_found("there is nothing here; try /status") }))
        .fallback(|| async { Problem::not_found("there is nothing at this path") })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(admin);
    NormalizePath::trim_trailing_slash(router)
}

async fn violations(State(admin): State<Admin>) -> Json<Vec<Violation>> {
    Json(admin.control.violations())
}

/// To whom a snapshot is shown.
#[derive(serde::Deserialize)]
struct Asking {
    /// `region/zone/sub_zone`; absent for an Envoy that does not say where it is.
    #[serde(default)]
    node_locality: String,
}

async fn snapshot(
    State(admin): State<Admin>,
    Path(fleet): Path<String>,
    Query(asking): Query<Asking>,
) -> Result<Json<Value>, Problem> {
    let build = admin.cache.build();
    let place: Locality =
        asking.node_locality.parse().map_err(|error: String| Problem::new(StatusCode::BAD_REQUEST, error))?;
    match Name::parse(&fleet).filter(|fleet| build.snapshots.contains_key(fleet)) {
        Some(fleet) => Ok(Json(view::masked(build.snapshot_at(&fleet, &place).to_json()))),
        None => Err(Problem::not_found(&format!("no fleet is named `{fleet}`"))),
    }
}

async fn status(State(admin): State<Admin>) -> Json<Value> {
    let build = admin.cache.build();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "xds": admin.addresses.xds,
        "admin": admin.addresses.admin,
        "nodes": admin.fleet.connected(),
        "routes": build.model.routes.len(),
        "services": build.model.services.len(),
        "upstreams": build.model.upstreams.len(),
        "violations": admin.control.violations().len(),
    }))
}
