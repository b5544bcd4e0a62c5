//! Who asks, and whether they may: before anything else is done with a request.
//!
//! On loopback nobody needs a token unless that was asked for, so what a browser could be made to do on behalf of
//! a page from elsewhere is refused here: requests that came by another name (DNS rebinding), and requests that a
//! page of another origin sent.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{MatchedPath, Path, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Json, Response};
use axum::serve::IncomingStream;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::{Instrument as _, info, info_span, warn};

use crate::access::tls::Incoming;
use crate::access::tokens::{self, Role, Secret, Token};
use crate::admin::Admin;
use crate::admin::problem::Problem;
use crate::admin::request::{Object, decoded};
use crate::admin::revisions::reading;
use crate::store::{self, Store};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Who is not known by a token.
const ANONYMOUS: &str = "anonymous";

/// How a port is open.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// It is on loopback: only this machine reaches it.
    pub loopback: bool,
    /// It speaks TLS.
    pub tls: bool,
    /// Tokens are demanded whatever the port.
    pub require_token: bool,
    /// How many requests a second each token may make; as many at once.
    pub requests_per_second: u32,
}

/// Who may do what.
#[derive(Debug)]
pub struct Access {
    policy: Policy,
    store: Arc<Store>,
    tokens: Mutex<Arc<[Token]>>,
    buckets: Mutex<HashMap<String, Bucket>>,
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer(SocketAddr);

impl Connected<IncomingStream<'_, Incoming>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Incoming>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// Who asks, once that is known.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) name: String,
    role: Role,
}

impl Identity {
    fn anonymous() -> Self {
        Self { name: ANONYMOUS.to_owned(), role: Role::Write }
    }
}

/// Why somebody is refused.
struct Refusal {
    /// For the log and the metrics.
    reason: &'static str,
    status: StatusCode,
    detail: String,
    /// What they should send (`WWW-Authenticate`).
    challenge: Option<&'static str>,
    /// In how many seconds they may try again.
    retry_after: Option<u64>,
}

impl Refusal {
    fn new(reason: &'static str, status: StatusCode, detail: impl Into<String>) -> Self {
        Self { reason, status, detail: detail.into(), challenge: None, retry_after: None }
    }

    fn unauthorized(reason: &'static str, challenge: &'static str, detail: &str) -> Self {
        Self { challenge: Some(challenge), ..Self::new(reason, StatusCode::UNAUTHORIZED, detail) }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = Problem::new(self.status, self.detail).into_response();
        let headers = response.headers_mut();
        if let Some(challenge) = self.challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

impl Access {
    /// With the tokens that the store has.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn new(policy: Policy, store: Arc<Store>) -> Result<Self, store::Error> {
        let tokens = Mutex::new(store.tokens()?.into());
        let access = Self { policy, store, tokens, buckets: Mutex::default() };
        if access.is_required() && access.tokens().is_empty() {
            warn!(
                "there is no token yet, so nobody can use the admin API; make one with `understudy token create`"
            );
        }
        if !policy.loopback && !access.is_required() {
            warn!("anyone who reaches the admin API may read all and change all; make a token to end that");
        }
        Ok(access)
    }

    fn tokens(&self) -> Arc<[Token]> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// True when nobody gets in without a token.
    fn is_required(&self) -> bool {
        let Policy { loopback, tls, require_token, .. } = self.policy;
        require_token || (!loopback && (tls || !self.tokens().is_empty()))
    }

    fn read_again(&self) -> Result<(), store::Error> {
        let tokens = self.store.tokens()?;
        *self.tokens.lock().unwrap_or_else(PoisonError::into_inner) = tokens.into();
        Ok(())
    }

    /// Who asks, if they may.
    fn admit(&self, request: &Request, route: &str) -> Result<Identity, Refusal> {
        if self.policy.loopback && !is_local(request) {
            let detail =
                "this address answers to localhost and 127.0.0.1 alone: the request came by another name";
            return Err(Refusal::new("host", StatusCode::MISDIRECTED_REQUEST, detail));
        }
        if !is_same_origin(request) {
            let detail = "pages of another origin may not use this API";
            return Err(Refusal::new("origin", StatusCode::FORBIDDEN, detail));
        }
        let Some(needed) = tokens::needed(request.method().as_str(), route) else {
            return Ok(Identity::anonymous());
        };
        let identity = self.identify(request.headers()).inspect_err(|_| drop(self.spend("")))?;
        self.spend(&identity.name)?;
        if identity.role < needed {
            let (own, needed) = (identity.role.word(), needed.word());
            let detail =
                format!("the token `{}` has the role `{own}`, and this needs `{needed}`", identity.name);
            return Err(Refusal::new("role", StatusCode::FORBIDDEN, detail));
        }
        Ok(identity)
    }

    fn identify(&self, headers: &HeaderMap) -> Result<Identity, Refusal> {
        let Some(sent) = headers.get(header::AUTHORIZATION) else {
            if !self.is_required() {
                return Ok(Identity::anonymous());
            }
            let detail = "this needs a token: send `Authorization: Bearer …`";
            return Err(Refusal::unauthorized("no_token", "Bearer realm=\"understudy\"", detail));
        };
        let sent = sent.to_str().unwrap_or_default().split_once(' ');
        let secret = sent.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let secret = Secret::from_text(secret.map(|(_, text)| text).unwrap_or_default());
        match tokens::find(&self.tokens(), &secret) {
            Some(token) => Ok(Identity { name: token.name.clone(), role: token.role }),
            None => {
                let challenge = "Bearer realm=\"understudy\", error=\"invalid_token\"";
                Err(Refusal::unauthorized("wrong_token", challenge, "this is no token, or it was revoked"))
            }
        }
    }

    /// Takes one request from what a token may make.
    fn spend(&self, name: &str) -> Result<(), Refusal> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let (rate, now) = (self.policy.requests_per_second, Instant::now());
        let bucket = buckets.entry(name.to_owned()).or_insert_with(|| Bucket::full(rate, now));
        bucket.take(rate, now).map_err(|wait| {
            let seconds = wait.as_secs() + 1;
            let detail = format!("more than {rate} requests a second; try again in {seconds} s");
            let refusal = Refusal::new("rate", StatusCode::TOO_MANY_REQUESTS, detail);
            Refusal { retry_after: Some(seconds), ..refusal }
        })
    }
}

/// What is left of a rate.
#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn full(rate: u32, at: Instant) -> Self {
        Self { left: f64::from(rate), at }
    }

    /// Takes one, or says when there will be one.
    fn take(&mut self, rate: u32, now: Instant) -> Result<(), Duration> {
        let rate = f64::from(rate);
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * rate;
        (self.left, self.at) = ((self.left + gained).min(rate), now);
        if self.left < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - self.left) / rate));
        }
        self.left -= 1.0;
        Ok(())
    }
}

/// True when the caller knows this machine by a name of loopback. A name that an attacker owns may resolve to
/// loopback as well, and a browser would then take what answers there for the attacker's own site.
fn is_local(request: &Request) -> bool {
    let named = request.uri().authority().cloned().or_else(|| host(request.headers()));
    named.is_some_and(|named| {
        let name = named.host().trim_start_matches('[').trim_end_matches(']');
        name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}

/// True when no page of another origin sent it: browsers say from which it comes with all that may change
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

/// The caller's id of the request if it is fit to be logged, else one of ours.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_fine = |id: &&HeaderValue| {
        (1..=128).contains(&id.len()) && id.as_bytes().iter().all(|byte| byte.is_ascii_graphic())
    };
    headers.get(REQUEST_ID).filter(is_fine).cloned().unwrap_or_else(|| {
        let id = random::<8>().iter().fold(String::new(), |id, byte| id + &format!("{byte:02x}"));
        HeaderValue::from_str(&id).expect("hex digits are a header value")
    })
}

/// Bytes that nobody can guess.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let provider = rustls::crypto::ring::default_provider();
    provider.secure_random.fill(&mut bytes).expect("the system has randomness");
    bytes
}

/// A token that nobody had before.
pub fn new_secret() -> Secret {
    Secret::new(random())
}

/// Lets a request in or refuses it, under an id that both the caller and the log have.
pub(crate) async fn guarded(State(admin): State<Admin>, mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let shown_id = id.to_str().unwrap_or_default().to_owned();
    let span = info_span!("request", id = shown_id, method = %request.method(), route);
    let mut response = match admin.access.admit(&request, &route) {
        Ok(identity) => {
            request.extensions_mut().insert(identity);
            Problem::of_any(next.run(request).instrument(span).await).await
        }
        Err(refusal) => {
            let peer = request.extensions().get::<ConnectInfo<Peer>>().map(|peer| peer.0.0.to_string());
            let (method, path, reason) = (request.method().as_str(), request.uri().path(), refusal.reason);
            warn!(id = shown_id, peer, method, path, reason, "refused a request to the admin API");
            admin.metrics.refused(reason);
            refusal.into_response()
        }
    };
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// The body of `POST /tokens`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewToken {
    name: String,
    role: String,
}

fn shown(token: &Token) -> Value {
    json!({ "name": token.name, "role": token.role.word(), "created": token.created.to_string() })
}

/// `GET /tokens`: never their texts, which are not known here.
pub(crate) async fn list(State(admin): State<Admin>) -> Json<Value> {
    let items: Vec<Value> = admin.access.tokens().iter().map(shown).collect();
    Json(json!({ "items": items, "next": null }))
}

/// `GET /tokens/{name}`
pub(crate) async fn read(
    State(admin): State<Admin>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    let tokens = admin.access.tokens();
    let token = tokens.iter().find(|token| token.name == name).ok_or_else(|| absent(&name))?;
    Ok(Json(shown(token)))
}

/// `POST /tokens`: the one answer that ever has the text of a token.
pub(crate) async fn create(
    State(admin): State<Admin>,
    identity: axum::Extension<Identity>,
    Object(body): Object,
) -> Result<Response, Problem> {
    let unprocessable = |detail: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
    let NewToken { name, role } = decoded(&body)?;
    let role: Role = role.parse().map_err(unprocessable)?;
    let access = admin.access;
    let (token, secret) = reading(move || {
        let made = make(&access.store, &name, role).map_err(|error| match error {
            MakeError::Name => unprocessable(error.to_string()),
            MakeError::Taken(_) => Problem::new(StatusCode::CONFLICT, error.to_string()),
            MakeError::Store(error) => Problem::unstored(&error),
        })?;
        access.read_again()?;
        Ok(made)
    })
    .await?;
    info!(token = token.name, role = role.word(), by = identity.name, "a token was made");
    let mut body = shown(&token);
    body["token"] = secret.reveal().into();
    let headers = [
        (header::LOCATION, format!("/tokens/{}", token.name)),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    Ok((StatusCode::CREATED, headers, Json(body)).into_response())
}

/// `DELETE /tokens/{name}`
pub(crate) async fn revoke(
    State(admin): State<Admin>,
    identity: axum::Extension<Identity>,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    let access = admin.access;
    let (revoked, by) = (name.clone(), identity.name.clone());
    reading(move || {
        let tokens = access.tokens();
        let may_write = |token: &&Token| token.role == Role::Write && token.name != name;
        let is_there = tokens.iter().any(|token| token.name == name);
        // Nobody could make another one, or everybody could do everything.
        if is_there && access.is_required() && !tokens.iter().any(|token| may_write(&token)) {
            let detail = format!("`{name}` is the last token with the role `write`; make another one first");
            return Err(Problem::new(StatusCode::CONFLICT, detail));
        }
        if !access.store.remove_token(&name).map_err(|error| Problem::unstored(&error))? {
            return Err(absent(&name));
        }
        access.read_again()?;
        Ok(())
    })
    .await?;
    info!(token = revoked, by, "a token was revoked");
    Ok(StatusCode::NO_CONTENT)
}

fn absent(name: &str) -> Problem {
    Problem::not_found(&format!("no token is named `{name}`"))
}

/// Why there is no new token.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// It would not be fit to be shown everywhere.
    #[error("the name of a token has 1 to 63 letters, digits, `-`, `_`, `.`, `@` and `:`")]
    Name,
    /// There is one of that name.
    #[error("there is a token `{0}` already; revoke it first")]
    Taken(String),
    /// It could not be stored.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// Makes a token and stores its hash. The text is not to be had again.
///
/// # Errors
///
/// When the name cannot be used or the store fails.
pub fn make(store: &Store, name: &str, role: Role) -> Result<(Token, Secret), MakeError> {
    if !tokens::is_name(name) {
        return Err(MakeError::Name);
    }
    let secret = new_secret();
    let token = Token { name: name.to_owned(), role, created: Timestamp::now(), hash: secret.hash() };
    match store.add_token(&token)? {
        true => Ok((token, secret)),
        false => Err(MakeError::Taken(token.name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_held_on_average_and_over_is_over() {
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let mut bucket = Bucket::full(10, start);
        assert!((0..10).all(|_| bucket.take(10, start).is_ok()));
        assert_eq!(bucket.take(10, start), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(10, after(100)), Ok(()));
        assert!(bucket.take(10, after(150)).is_err());
        // What was not used is not saved for long.
        assert_eq!((0..99).filter(|_| bucket.take(10, after(60_000)).is_ok()).count(), 10);
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
