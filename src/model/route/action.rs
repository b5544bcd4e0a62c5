//! Action of a route: forwards a request to a service, or answers it without one.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::code;
use crate::config::document;
use crate::config::document::route::Scheme;
use crate::model::header::{self, HeaderChanges};
use crate::model::host_match::is_authority;
use crate::model::path_match::{PATH_RULE, PathMatch, is_path};
use crate::model::place::{FaultCollector, FaultPlace};
use crate::model::route::rewrite::Rewrite;
use crate::model::service::{self, RequestPolicy, Service};

/// Action on a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteAction {
    /// Forwards the request to a service.
    Forward(Box<Forward>),
    /// Redirects the client.
    Redirect(Redirect),
    /// Answers with a fixed response.
    Respond(Respond),
}

/// Service that gets a request, and the settings of the forwarding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Service that serves the request.
    pub service: Arc<Service>,
    /// Policy of the service, with the overrides of the route applied.
    pub policy: RequestPolicy,
    /// Rewrite of the path that targets see; `None` keeps the client's path.
    pub rewrite: Option<Rewrite>,
    /// Changes to the request headers before the request is sent.
    pub request_headers: HeaderChanges,
}

/// Redirect; at least one of scheme, host and path differs from the request's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// Scheme; `None` for the request's.
    pub scheme: Option<Scheme>,
    /// Host, with a port if one is to be given; `None` for the request's host and port.
    pub host: Option<String>,
    /// Path; `None` for the request's. The request's query is kept, unless this path has one.
    pub path: Option<String>,
    /// Status: 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// Fixed response, without a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Respond {
    /// Status, from 200 to 599.
    pub status: u16,
    /// Body; may be empty.
    pub body: String,
    /// Headers by name in lower case. Without a `content-type` the body is sent as plain text.
    pub headers: BTreeMap<String, String>,
}

const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];

/// Resolves the action that a route declares. `service` is the resolved one; without it a route to a service
/// has no action, but its other faults are reported.
pub(crate) fn resolve(
    place: &FaultPlace<'_>,
    route: &document::route::Route,
    service: Option<Arc<Service>>,
    paths: &[PathMatch],
    faults: &mut FaultCollector,
) -> Option<RouteAction> {
    exactly_one(place, route, faults);
    let redirect = route.redirect.as_ref().map(|it| redirect(&place.key("redirect"), it, faults));
    let respond = route.respond.as_ref().map(|it| respond(&place.key("respond"), it, faults));
    let answer = redirect.map(RouteAction::Redirect).or(respond.map(RouteAction::Respond));
    if route.service.is_none() && answer.is_some() {
        only_with_a_service(place, route, faults);
        return answer;
    }
    forward(place, route, service, paths, faults).map(Box::new).map(RouteAction::Forward)
}

const ACTIONS: [&str; 3] = ["service", "redirect", "respond"];

fn exactly_one(place: &FaultPlace<'_>, route: &document::route::Route, faults: &mut FaultCollector) {
    let declared = [route.service.is_some(), route.redirect.is_some(), route.respond.is_some()];
    let mut declared = ACTIONS.iter().zip(declared).filter(|(_, declared)| *declared).map(|(key, _)| *key);
    let Some(first) = declared.next() else {
        // Reported at the first key, unless decoding has already reported a fault at one of them.
        if !ACTIONS.into_iter().any(|key| is_reported(&place.key(key))) {
            let help = "name the service that serves, or what is answered in place of one";
            faults.missing(&place.key("service"), "`service`, `redirect` or `respond`", help);
        }
        return;
    };
    for more in declared {
        let message = format!("a route with a `{first}` has no `{more}`");
        let help = "leave one of `service`, `redirect` and `respond`".to_owned();
        let related = vec![place.key(first).related("the other one")];
        faults.error_with(&place.key(more), code::ONE_ACTION, message, help, related);
    }
}

/// Reports fields that configure the use of a service, in a route that answers without one.
fn only_with_a_service(place: &FaultPlace<'_>, route: &document::route::Route, faults: &mut FaultCollector) {
    let declared = [
        ("rewrite", route.rewrite.is_some()),
        ("request_headers", route.request_headers != document::route::HeaderChanges::default()),
        ("timeout", route.timeout.is_some()),
        ("try_timeout", route.try_timeout.is_some()),
        ("retries", route.retries.is_some()),
    ];
    for (key, _) in declared.into_iter().filter(|(_, declared)| *declared) {
        let message = format!("`{key}` needs a `service`");
        let help = "remove it: this route answers without a target".to_owned();
        faults.error(&place.key(key), code::NEEDS_SERVICE, message, help);
    }
}

fn forward(
    place: &FaultPlace<'_>,
    route: &document::route::Route,
    service: Option<Arc<Service>>,
    paths: &[PathMatch],
    faults: &mut FaultCollector,
) -> Option<Forward> {
    let declared = service::DeclaredPolicy {
        timeout: route.timeout,
        try_timeout: route.try_timeout,
        try_idle_timeout: None,
        retries: route.retries.as_ref(),
    };
    let policy = service::resolve(place, declared, service.as_ref().map(|service| &service.policy), faults);
    let rewrite = route.rewrite.as_ref();
    let rewrite = rewrite.and_then(|rewrite| Rewrite::resolve(&place.key("rewrite"), rewrite, paths, faults));
    let request_headers =
        HeaderChanges::resolve(&place.key("request_headers"), &route.request_headers, faults);
    Some(Forward { service: service?, policy, rewrite, request_headers })
}

/// True if decoding has already reported a fault at `place`, or a misspelling of its key.
fn is_reported(place: &FaultPlace<'_>) -> bool {
    place.document.is_faulty(&place.path) || place.document.is_misspelt(&place.path)
}

fn redirect(
    place: &FaultPlace<'_>,
    declared: &document::route::Redirect,
    faults: &mut FaultCollector,
) -> Redirect {
    let document::route::Redirect { scheme, host, path, status } = declared;
    let goes_nowhere = scheme.is_none() && host.is_none() && path.is_none();
    if goes_nowhere && !["scheme", "host", "path"].iter().any(|key| is_reported(&place.key(key))) {
        let help = "give one of `scheme`, `host` and `path`";
        faults.missing(place, "what to redirect to", help);
    }
    if let Some(text) = host.as_ref().filter(|host| !is_authority(host)) {
        let help = "write a name such as shop.example.com, with a port if need be".to_owned();
        faults.wrong(&place.key("host"), format!("`{text}` is not a host"), help);
    }
    if let Some(text) = path.as_ref().filter(|path| !is_path(path, &['#'])) {
        faults.wrong(&place.key("path"), format!("`{text}` is not a path"), PATH_RULE.to_owned());
    }
    let status = status.unwrap_or(document::route::Redirect::STATUS.into());
    let known = REDIRECTS.into_iter().find(|known| u32::from(*known) == status);
    if known.is_none() {
        let help = "one of 301, 302, 303, 307 and 308".to_owned();
        faults.wrong(&place.key("status"), format!("{status} is no status of a redirect"), help);
    }
    Redirect {
        scheme: *scheme,
        host: host.clone(),
        path: path.clone(),
        status: known.unwrap_or(document::route::Redirect::STATUS),
    }
}

fn respond(
    place: &FaultPlace<'_>,
    declared: &document::route::Respond,
    faults: &mut FaultCollector,
) -> Respond {
    let declared_status = declared.status.unwrap_or(document::route::Respond::STATUS.into());
    let status = u16::try_from(declared_status).ok().filter(|status| (200..600).contains(status));
    if status.is_none() {
        let message = format!("{declared_status} is no status to answer with");
        faults.wrong(&place.key("status"), message, "200 to 599".to_owned());
    }
    let body = declared.body.clone().unwrap_or_default();
    if !body.is_empty() && matches!(status, Some(204 | 205 | 304)) {
        let message = format!("an answer with the status {declared_status} has no body");
        faults.error(&place.key("body"), code::CONFLICT, message, None);
    }
    Respond {
        status: status.unwrap_or(document::route::Respond::STATUS),
        body,
        headers: header::values(&place.key("headers"), &declared.headers, faults),
    }
}
