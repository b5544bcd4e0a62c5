//! The admin API: routes over what others hold.
//!
//! Core types never leave through it: every answer is a view of its own. A write becomes stored entities and
//! goes through the same build as a saved file.

mod change;
mod config;
mod entities;
pub mod http;
mod openapi;
mod operation;
pub mod problem;
mod raw;
mod request;
mod resource;
mod revisions;
pub(crate) mod view;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{any, get, post, put};
use jiff::Timestamp;
use serde_json::{Value, json};
use tower_http::normalize_path::NormalizePath;

use crate::admin::http::guard as access;
use crate::admin::http::guard::Access;
use crate::admin::problem::Problem;
use crate::admin::resource::events;
use crate::admin::resource::fleet;
use crate::admin::resource::health;
use crate::admin::resource::metrics;
use crate::admin::resource::orders;
use crate::admin::resource::simulate;
use crate::admin::resource::topology;
use crate::build::Build;
use crate::cache::Cache;
use crate::config::Violation;
use crate::config::document::Kind;
use crate::control::Control;
use crate::envoy::node::Locality;
use crate::failover::supervisor::Supervisor;
use crate::model::name::Name;
use crate::nodes::Nodes;
use crate::source::files;
use crate::telemetry::events::Events;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::webhooks::Notifier;

/// The largest body that is read.
const MAX_BODY: usize = 16 << 20;

/// What the handlers stand on.
#[derive(Debug, Clone)]
pub struct Admin {
    /// For writes.
    pub control: Control,
    /// For reads.
    pub cache: Arc<Cache>,
    /// For orders, and for what came of them.
    pub supervisor: Supervisor,
    /// Tells receivers of events.
    pub notifier: Notifier,
    /// Who is connected.
    pub nodes: Nodes,
    /// What happens, for those who follow.
    pub events: Events,
    /// What is counted.
    pub metrics: Metrics,
    /// When this program started.
    pub started: Timestamp,
    /// The config paths.
    pub paths: Arc<[PathBuf]>,
    /// The addresses that were bound.
    pub addresses: Addresses,
    /// Who may do what.
    pub access: Arc<Access>,
    /// What is there changes only with `If-Match`.
    pub require_if_match: bool,
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
    let mut router = Router::new();
    for kind in Kind::TOP {
        let (collection, entity) = (format!("/{}", kind.plural()), format!("/{}/{{name}}", kind.plural()));
        let list = move |State(admin), query| entities::list(kind, admin, query);
        let read = move |State(admin), Path(name)| entities::read(kind, admin, name);
        let write = put(entities::write).patch(entities::write).delete(entities::write);
        router = router.route(&collection, get(list).post(entities::write)).route(&entity, write.get(read));
    }
    let target = get(entities::read_target).put(entities::write);
    let resource = get(raw::read).put(entities::write);
    let router = router
        .route("/upstreams/{name}/health", get(health::upstream))
        .route("/upstreams/{name}/targets", get(entities::list_targets).post(entities::write))
        .route("/upstreams/{name}/targets/{target}", target.patch(entities::write).delete(entities::write))
        .merge(orders_routes())
        .route("/topology", get(topology::show))
        .route("/raw", get(raw::all).put(raw::replace_all))
        .route("/raw/{type}", get(raw::list))
        .route("/raw/{type}/{*name}", resource.patch(entities::write).delete(entities::write))
        .route("/simulate", post(simulate::simulate))
        .route("/config", get(config::read).patch(config::patch).put(config::replace))
        .route("/plan", post(config::plan))
        .route("/revisions", get(revisions::list))
        .route("/revisions/{number}", get(revisions::read))
        .route("/revisions/{number}/diff", get(revisions::diff))
        .route("/revisions/{number}/rollback", post(revisions::rollback))
        .route("/backup", get(backup))
        .route("/tokens", get(access::list).post(access::create))
        .route("/tokens/{name}", get(access::read).delete(access::revoke))
        .route("/events", get(events::follow))
        .route("/metrics", get(metrics::scrape))
        .route("/fleet", get(fleet::nodes))
        .route("/fleet/{node}", get(fleet::node))
        .route("/violations", get(violations))
        .route("/reload", post(reload))
        .route("/lint", get(lint))
        .route("/snapshots/{fleet}", get(snapshot))
        .route("/status", get(status))
        .route("/openapi.json", get(openapi::document))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(|| async { "ok\n" }))
        .route("/", any(|| async { Problem::not_found("there is nothing here; try /status") }))
        .fallback(|| async { Problem::not_found("there is nothing at this path") })
        .method_not_allowed_fallback(other_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn(unmodified))
        .layer(middleware::from_fn_with_state(admin.clone(), access::guarded))
        .layer(middleware::from_fn_with_state(admin.clone(), metrics::measured))
        .with_state(admin);
    NormalizePath::trim_trailing_slash(router)
}

/// What operators order.
fn orders_routes() -> Router<Admin> {
    let target = get(orders::target_state).put(orders::set_target_state).delete(orders::clear_target_state);
    let tier = get(orders::tier_state).put(orders::set_tier_state).delete(orders::clear_tier_state);
    let zone = get(orders::zone_state).put(orders::set_zone_state).delete(orders::clear_zone_state);
    Router::new()
        .route("/upstreams/{name}/targets/{target}/state", target)
        .route("/upstreams/{name}/tiers/{priority}/state", tier)
        .route("/upstreams/{name}/zones/{zone}/state", zone)
        .route("/upstreams/{name}/pin", put(orders::pin).delete(orders::unpin))
        .route("/upstreams/{name}/failback", post(orders::failback))
        .route("/upstreams/{name}/drill", post(orders::drill))
        .route("/orders", get(orders::list))
        .route("/drills", get(orders::drills))
        .route("/drills/{id}", get(orders::one_drill).delete(orders::abort))
        .route("/failovers", get(orders::failovers))
        .route("/notify/test", post(orders::notify))
}

/// A GET of what the caller has already (`If-None-Match`) is answered 304.
async fn unmodified(request: Request, next: Next) -> Response {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let known = request.headers().get(header::IF_NONE_MATCH).cloned().filter(|_| is_read);
    let mut response = next.run(request).await;
    let tag = response.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok());
    let known = known.as_ref().and_then(|known| known.to_str().ok());
    if tag.zip(known).is_some_and(|(tag, known)| operation::matches(known, tag)) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.body_mut() = Body::empty();
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    response
}

/// OPTIONS, and methods that a path does not know; the router adds `Allow` to either.
async fn other_method(method: Method) -> Response {
    match method {
        Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
        _ => Problem::method_not_allowed().into_response(),
    }
}

/// A copy of everything that is durable, as it is at this moment: the file that `understudy restore` takes.
async fn backup(State(admin): State<Admin>) -> Result<Response, Problem> {
    let store = admin.control.store().clone();
    let bytes = revisions::reading(move || {
        let directory = tempfile::tempdir().map_err(|error| failed(&error))?;
        let file = directory.path().join("backup.redb");
        store.backup(&file)?;
        std::fs::read(&file).map_err(|error| failed(&error))
    });
    let name = [(header::CONTENT_DISPOSITION, "attachment; filename=\"understudy-backup.redb\"")];
    Ok((name, bytes.await?).into_response())
}

fn failed(error: &std::io::Error) -> Problem {
    let detail = format!("the backup could not be made: {error}");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
}

/// Reads the config paths now, and answers when what they hold is taken: with the newest revision, or with what is
/// wrong with it.
async fn reload(State(admin): State<Admin>) -> Result<Json<Value>, Problem> {
    let paths = admin.paths.clone();
    let read = revisions::reading(move || Ok(files::read(&paths))).await?;
    admin.control.reload(read).await?;
    let revision = admin.control.store().revision();
    match admin.control.violations() {
        none if none.is_empty() => Ok(Json(json!({ "revision": revision }))),
        violations => {
            let detail = "the files were refused; the last good config keeps serving";
            Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail).with(violations))
        }
    }
}

async fn violations(State(admin): State<Admin>) -> Json<Vec<Violation>> {
    Json(admin.control.violations())
}

/// What the rules tell of the config that is being served.
async fn lint(State(admin): State<Admin>) -> Json<Vec<Violation>> {
    Json(admin.cache.build().violations())
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
    let build = admin.cache.live();
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
        "nodes": admin.nodes.connected(),
        "routes": build.model.routes.len(),
        "services": build.model.services.len(),
        "upstreams": build.model.upstreams.len(),
        "violations": admin.control.violations().len(),
        "files_stale_since": admin.control.stale_since().map(|since| since.to_string()),
        "started": admin.started.to_string(),
        "revision": admin.control.store().revision(),
        "rollout": admin.control.progress(),
        "orphaned_targets": orphaned(&build),
    }))
}

/// The targets that were added to upstreams which are not there now; they return with them.
fn orphaned(build: &Build) -> Vec<&str> {
    let targets = build.stored.range((Kind::Target, String::new())..);
    let targets =
        targets.take_while(|((kind, _), _)| *kind == Kind::Target).map(|((_, name), _)| name.as_str());
    let is_orphaned = |name: &&str| {
        let upstream = name.split('/').next().and_then(Name::parse);
        upstream.is_none_or(|upstream| !build.model.upstreams.contains_key(&upstream))
    };
    targets.filter(is_orphaned).collect()
}
