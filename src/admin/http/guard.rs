//! Guard of the admin API: admits or refuses a request before anything else is done with it.
//!
//! On loopback no token is needed unless `--require-token` says so. So requests that a browser sends on behalf of a
//! foreign page are refused here: those that came by another host name (DNS rebinding), and those that a page of
//! another origin sent.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::connect_info::ConnectInfo;
use axum::extract::{MatchedPath, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::{Instrument as _, info_span, warn};

use crate::access::policy::{Denial, Principal};
use crate::access::random;
use crate::access::tokens::{Role, TokenSecret};
use crate::admin::http::problem::Problem;
use crate::admin::http::refusals::RefusalLog;
use crate::admin::state::Admin;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Template that stands for a path without a route, in roles, logs and metrics.
pub(crate) const NO_ROUTE: &str = "other";

/// Remote address of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct PeerAddress(pub(super) SocketAddr);

/// Roles that requests need, by the template of their path and by method. A route without a role needs no token.
#[derive(Debug, Default)]
pub(crate) struct RoleTable(HashMap<String, Vec<(Method, Option<Role>)>>);

impl RoleTable {
    /// Adds a route.
    pub(crate) fn insert(&mut self, method: Method, path: &str, role: Option<Role>) {
        self.0.entry(path.to_owned()).or_default().push((method, role));
    }

    /// Returns the role that a request needs; none if it needs no token. A path without a route needs a role too,
    /// so that a client without a token cannot find out which paths exist.
    fn needed(&self, method: &Method, template: &str) -> Option<Role> {
        let is_read = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        let Some(routes) = self.0.get(template) else {
            return Some(if is_read { Role::Read } else { Role::Write });
        };
        let role_of = |method: &Method| routes.iter().find(|(own, _)| own == method).map(|(_, role)| *role);
        if let Some(role) = role_of(method) {
            return role;
        }
        let get = role_of(&Method::GET);
        if is_read {
            return get.unwrap_or(Some(Role::Read));
        }
        // A method without a route is refused with 405, to those who may make a change of the path.
        let changes = routes.iter().filter(|(own, _)| *own != Method::GET).map(|(_, role)| *role);
        changes.max().unwrap_or(get.flatten().and(Some(Role::Write)))
    }
}

/// State of the guard.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    pub(crate) admin: Admin,
    pub(crate) roles: Arc<RoleTable>,
    pub(crate) refusals: RefusalLog,
}

/// Reason for which a request is refused before its handler runs.
#[derive(Debug, thiserror::Error)]
enum GuardError {
    #[error("this address answers to localhost and 127.0.0.1 alone: the request came by another name")]
    Host,
    #[error("pages of another origin may not use this API")]
    Origin,
    #[error(transparent)]
    Denied(#[from] Denial),
}

impl GuardError {
    /// Returns the reason in the log and the metrics.
    fn reason(&self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Origin => "origin",
            Self::Denied(Denial::NoToken) => "no_token",
            Self::Denied(Denial::WrongToken | Denial::Guesses { .. }) => "wrong_token",
            Self::Denied(Denial::Role { .. }) => "role",
            Self::Denied(Denial::Rate { .. }) => "rate",
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::Origin | Self::Denied(Denial::Role { .. }) => StatusCode::FORBIDDEN,
            Self::Denied(Denial::NoToken | Denial::WrongToken) => StatusCode::UNAUTHORIZED,
            Self::Denied(Denial::Rate { .. } | Denial::Guesses { .. }) => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    /// Returns the header that says how the request can be admitted.
    fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        let challenge = |text| (header::WWW_AUTHENTICATE, HeaderValue::from_static(text));
        match self {
            Self::Denied(Denial::NoToken) => Some(challenge("Bearer realm=\"understudy\"")),
            Self::Denied(Denial::WrongToken) => {
                Some(challenge("Bearer realm=\"understudy\", error=\"invalid_token\""))
            }
            Self::Denied(Denial::Rate { retry_after, .. } | Denial::Guesses { retry_after }) => {
                Some((header::RETRY_AFTER, HeaderValue::from(*retry_after)))
            }
            _ => None,
        }
    }
}

impl IntoResponse for GuardError {
    fn into_response(self) -> Response {
        let mut response = Problem::new(self.status(), self.to_string()).into_response();
        response.headers_mut().extend(self.header());
        response
    }
}

impl Guard {
    fn admit(&self, request: &Request, template: &str) -> Result<Principal, GuardError> {
        let access = &self.admin.access;
        if access.is_loopback() && !is_local(request) {
            return Err(GuardError::Host);
        }
        if !is_same_origin(request) {
            return Err(GuardError::Origin);
        }
        match self.roles.needed(request.method(), template) {
            None => Ok(Principal::anonymous()),
            Some(needed) => {
                let address = peer(request).map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
                Ok(access.admit(secret(request.headers()).as_ref(), address, needed)?)
            }
        }
    }
}

/// Returns the remote address of a request.
fn peer(request: &Request) -> Option<SocketAddr> {
    request.extensions().get::<ConnectInfo<PeerAddress>>().map(|peer| peer.0.0)
}

/// Returns the token that a request sent; none without an `Authorization` header. A header of another scheme gives
/// an empty token, which is wrong.
fn secret(headers: &HeaderMap) -> Option<TokenSecret> {
    let sent = headers.get(header::AUTHORIZATION)?.to_str().unwrap_or_default().split_once(' ');
    let bearer = sent.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    Some(TokenSecret::from_text(bearer.map(|(_, text)| text).unwrap_or_default()))
}

/// True if the client addresses this machine by a name of loopback. A name that an attacker owns may resolve to
/// loopback as well, and a browser would then take the API for the attacker's own site.
fn is_local(request: &Request) -> bool {
    let authority = request.uri().authority().cloned().or_else(|| host(request.headers()));
    authority.is_some_and(|authority| {
        let name = authority.host().trim_start_matches('[').trim_end_matches(']');
        name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}

/// True if no page of another origin sent the request: browsers send `Origin` with every request that may change
/// something.
fn is_same_origin(request: &Request) -> bool {
    let Some(origin) = request.headers().get(header::ORIGIN) else { return true };
    let origin =
        origin.to_str().ok().and_then(|origin| origin.split_once("://")?.1.parse::<Authority>().ok());
    let own = request.uri().authority().cloned().or_else(|| host(request.headers()));
    origin.is_some() && origin == own
}

fn host(headers: &HeaderMap) -> Option<Authority> {
    headers.get(header::HOST)?.to_str().ok()?.parse().ok()
}

/// Returns the client's id of the request if it can be logged (1 to 128 graphic ASCII characters), else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_fine = |id: &&HeaderValue| {
        (1..=128).contains(&id.len()) && id.as_bytes().iter().all(|byte| byte.is_ascii_graphic())
    };
    headers.get(REQUEST_ID).filter(is_fine).cloned().unwrap_or_else(|| {
        let id = random::hex(&random::bytes::<8>());
        HeaderValue::from_str(&id).expect("hex digits are a header value")
    })
}

/// Returns the template of the route that a request has.
pub(crate) fn template(request: &Request) -> String {
    request.extensions().get::<MatchedPath>().map_or(NO_ROUTE, MatchedPath::as_str).to_owned()
}

/// Admits a request or refuses it, under an id that both the client and the log get.
pub(crate) async fn guarded(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let template = template(&request);
    let shown_id = id.to_str().unwrap_or_default().to_owned();
    let span = info_span!("request", id = shown_id, method = %request.method(), route = template);
    let mut response = match guard.admit(&request, &template) {
        Ok(principal) => {
            request.extensions_mut().insert(principal);
            Problem::of_any(next.run(request).instrument(span).await).await
        }
        Err(error) => {
            let (method, path, reason) = (request.method().as_str(), request.uri().path(), error.reason());
            guard.refusals.add(reason, || {
                let peer = peer(&request).map(|peer| peer.to_string());
                warn!(id = shown_id, peer, method, path, reason, "refused a request to the admin API");
            });
            guard.admin.metrics.refused(reason);
            error.into_response()
        }
    };
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_method_of_a_path_needs_no_less_than_those_that_it_has() {
        let mut table = RoleTable::default();
        for (method, path, role) in [
            (Method::GET, "/upstreams", Some(Role::Read)),
            (Method::POST, "/upstreams", Some(Role::Write)),
            (Method::POST, "/simulate", Some(Role::Read)),
            (Method::POST, "/reload", Some(Role::Operate)),
            (Method::GET, "/backup", Some(Role::Write)),
            (Method::GET, "/events", Some(Role::Read)),
            (Method::GET, "/livez", None),
        ] {
            table.insert(method, path, role);
        }
        for (method, path, role) in [
            ("GET", "/upstreams", Some(Role::Read)),
            ("HEAD", "/upstreams", Some(Role::Read)),
            ("OPTIONS", "/upstreams", Some(Role::Read)),
            ("POST", "/upstreams", Some(Role::Write)),
            ("BREW", "/upstreams", Some(Role::Write)),
            ("PUT", "/simulate", Some(Role::Read)),
            ("GET", "/reload", Some(Role::Read)),
            ("PUT", "/reload", Some(Role::Operate)),
            ("HEAD", "/backup", Some(Role::Write)),
            ("OPTIONS", "/backup", Some(Role::Write)),
            ("POST", "/events", Some(Role::Write)),
            ("GET", "/livez", None),
            ("POST", "/livez", None),
            ("GET", NO_ROUTE, Some(Role::Read)),
            ("BREW", NO_ROUTE, Some(Role::Write)),
        ] {
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            assert_eq!(table.needed(&method, path), role, "{method} {path}");
        }
    }

    #[test]
    fn only_names_of_loopback_are_local_and_only_the_own_origin_is_the_same() {
        let request = |uri: &str, headers: &[(&str, &str)]| {
            let request = headers
                .iter()
                .fold(Request::builder().uri(uri), |request, (name, value)| request.header(*name, *value));
            request.body(axum::body::Body::empty()).expect("a request")
        };
        for (host, local) in [
            ("localhost", true),
            ("LocalHost:8001", true),
            ("127.0.0.1:8001", true),
            ("127.8.0.1", true),
            ("[::1]:8001", true),
            ("evil.example.com:8001", false),
            ("localhost.example.com", false),
            ("127.0.0.1.example.com", false),
            ("10.0.0.1", false),
            ("", false),
        ] {
            assert_eq!(is_local(&request("/", &[("host", host)])), local, "{host}");
        }
        assert!(!is_local(&request("/", &[])));
        assert!(!is_local(&request("http://evil.example.com/", &[("host", "localhost")])));
        for (origin, same) in [
            ("http://127.0.0.1:8001", true),
            ("http://127.0.0.1:8002", false),
            ("https://evil.example.com", false),
            ("null", false),
        ] {
            let request = request("/", &[("host", "127.0.0.1:8001"), ("origin", origin)]);
            assert_eq!(is_same_origin(&request), same, "{origin}");
        }
    }
}
