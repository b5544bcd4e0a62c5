//! Admin API: routes over the state of the other rooms.
//!
//! Core types do not leave it: every response is a view of its own. A write becomes stored entities and goes through
//! the same build as a saved file.

mod declared;
pub mod http;
mod openapi;
mod order;
mod resource;
mod route;
mod schema;
pub mod state;
pub mod view;
mod write;

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::any;
use serde_json::Value;
use tower_http::normalize_path::NormalizePath;

use crate::access::tokens::Role;
use crate::admin::http::conditions;
use crate::admin::http::guard::{self, Guard, RoleTable};
use crate::admin::http::problem::Problem;
use crate::admin::http::refusals::RefusalLog;
use crate::admin::http::request;
use crate::admin::resource::metrics;
use crate::admin::route::{ApiRoute, Content};
use crate::admin::state::Admin;

/// Returns the whole API. Slashes at the end of a path are ignored.
pub fn service(admin: Admin) -> NormalizePath<Router> {
    let (mut router, mut roles) = (Router::new(), RoleTable::default());
    for ApiRoute { method, path, role, handler, .. } in routes() {
        roles.insert(method, &path, role);
        router = router.route(&path, handler);
    }
    let refusals = RefusalLog::default();
    let guard = Guard { admin: admin.clone(), roles: Arc::new(roles), refusals };
    let router = router
        .route("/", any(|| async { Problem::not_found("there is nothing here; try /status") }))
        .fallback(|| async { Problem::not_found("there is nothing at this path") })
        .method_not_allowed_fallback(other_method)
        .layer(DefaultBodyLimit::max(request::MAX_BODY))
        .layer(middleware::from_fn(unmodified))
        .layer(middleware::from_fn_with_state(guard, guard::guarded))
        .layer(middleware::from_fn_with_state(admin.clone(), metrics::measured))
        .with_state(admin);
    NormalizePath::trim_trailing_slash(router)
}

/// Returns all routes.
fn routes() -> Vec<ApiRoute> {
    let mut routes = resource::routes();
    let description = Content::json_of(schema::free_form("Description of this API, in OpenAPI 3.1"));
    routes.push(ApiRoute::get(
        "/openapi.json",
        Role::Read,
        "Read this description",
        read_description,
        description,
    ));
    routes
}

/// Handles `GET /openapi.json`.
async fn read_description() -> Json<&'static Value> {
    static DESCRIPTION: LazyLock<Value> = LazyLock::new(|| openapi::document(&routes()));
    Json(&DESCRIPTION)
}

/// Answers 304 to a GET of what the client has already (`If-None-Match`).
async fn unmodified(request: Request, next: Next) -> Response {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let known = request.headers().get(header::IF_NONE_MATCH).cloned().filter(|_| is_read);
    let mut response = next.run(request).await;
    let tag = response.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok());
    let known = known.as_ref().and_then(|known| known.to_str().ok());
    if tag.zip(known).is_some_and(|(tag, known)| conditions::matches(known, tag)) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.body_mut() = Body::empty();
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    response
}

/// Answers OPTIONS, and methods that a path does not know. The router adds `Allow` to either.
async fn other_method(method: Method) -> Response {
    match method {
        Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
        _ => Problem::method_not_allowed().into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn each_request_needs_a_role() {
        let roles: BTreeMap<(String, String), Option<Role>> =
            routes().into_iter().map(|it| ((it.method.to_string(), it.path), it.role)).collect();
        for (method, path, role) in [
            ("GET", "/upstreams", Some(Role::Read)),
            ("POST", "/upstreams", Some(Role::Write)),
            ("PATCH", "/config", Some(Role::Write)),
            ("POST", "/revisions/{number}/rollback", Some(Role::Write)),
            ("POST", "/simulate", Some(Role::Read)),
            ("POST", "/plan", Some(Role::Read)),
            ("PUT", "/upstreams/{name}/targets/{target}/state", Some(Role::Operate)),
            ("PUT", "/upstreams/{name}/targets/{target}", Some(Role::Write)),
            ("POST", "/upstreams/{name}/drill", Some(Role::Operate)),
            ("DELETE", "/drills/{id}", Some(Role::Operate)),
            ("POST", "/upstreams/{name}/failback", Some(Role::Operate)),
            ("DELETE", "/upstreams/{name}/pin", Some(Role::Operate)),
            ("POST", "/reload", Some(Role::Operate)),
            ("POST", "/notify/test", Some(Role::Operate)),
            ("PUT", "/raw/{type}/{*name}", Some(Role::Write)),
            ("GET", "/backup", Some(Role::Write)),
            ("GET", "/tokens", Some(Role::Write)),
            ("GET", "/livez", None),
            ("GET", "/readyz", None),
            ("GET", "/metrics", Some(Role::Read)),
        ] {
            assert_eq!(roles[&(method.to_owned(), path.to_owned())], role, "{method} {path}");
        }
        let open = roles.iter().filter(|(_, role)| role.is_none()).map(|((_, path), _)| path.as_str());
        assert_eq!(open.collect::<Vec<_>>(), ["/livez", "/readyz"], "only probes need no token");
    }

    #[test]
    fn no_two_operations_have_the_same_name() {
        let document = openapi::document(&routes());
        let paths = document["paths"].as_object().into_iter().flatten();
        let operations = paths.flat_map(|(_, item)| item.as_object().into_iter().flatten());
        let names: Vec<&str> =
            operations.filter_map(|(_, operation)| operation["operationId"].as_str()).collect();
        assert_eq!(names.len(), routes().len());
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    }
}
