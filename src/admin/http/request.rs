//! Request that changes something, as HTTP expresses it: body, preconditions and options.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, Method, StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::Value;
use xxhash_rust::xxh3::Xxh3;

use crate::access::policy::Principal;
use crate::admin::http::conditions::Conditions;
use crate::admin::http::problem::Problem;
use crate::admin::state::Admin;
use crate::config::{Fault, Level, Path, Violation, tree, values};
use crate::control::operation::WriteRequest;
use crate::store::RevisionSource;

/// Maximum size of a request body, in bytes.
pub(crate) const MAX_BODY: usize = 16 << 20;

/// Time for which `?wait=acked` waits by default, and at most.
const PATIENCE: Duration = Duration::from_secs(5);
const MAX_PATIENCE: Duration = Duration::from_secs(60);

/// The longest `Idempotency-Key` and `X-Reason`.
const MAX_HEADER: usize = 1024;

/// Request that changes something.
pub(crate) struct Write {
    pub(crate) method: Method,
    /// Path as it was sent, without the query.
    pub(crate) path: String,
    /// JSON body; null for none.
    pub(crate) body: Value,
    pub(crate) conditions: Conditions,
    /// Author and circumstances.
    pub(crate) request: WriteRequest,
    /// True if only the plan is wanted.
    pub(crate) dry_run: bool,
    /// Time to wait for the acknowledgement of Envoys; none to return at once.
    pub(crate) wait: Option<Duration>,
    /// True if a deletion also deletes the entities that refer to the deleted one.
    pub(crate) cascade: bool,
    /// Other parameters, which only some requests know.
    pub(crate) query: Parameters,
}

/// Parameters of a query. One that no handler takes is refused: it could mean that nothing is to be changed.
#[derive(Debug, Default)]
pub(crate) struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub(crate) fn parse(query: Option<&str>) -> Self {
        let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        Self(pairs.into_owned().collect())
    }

    /// Takes all values of a parameter.
    pub(crate) fn take_all(&mut self, name: &str) -> Vec<String> {
        self.0.extract_if(.., |(own, _)| own == name).map(|(_, value)| value).collect()
    }

    /// Takes the value of a parameter that may occur once.
    pub(crate) fn take(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let mut values = self.take_all(name);
        match values.len() {
            0 | 1 => Ok(values.pop()),
            _ => Err(bad(format!("`{name}` is given more than once"))),
        }
    }

    /// Takes a flag: true for `?name` and `?name=true`.
    pub(crate) fn take_flag(&mut self, name: &str) -> Result<bool, Problem> {
        match self.take(name)?.as_deref() {
            None | Some("false") => Ok(false),
            Some("" | "true") => Ok(true),
            Some(other) => Err(bad(format!("`{name}` is `true` or `false`, not `{other}`"))),
        }
    }

    /// Refuses the parameters that are left.
    pub(crate) fn end(self) -> Result<(), Problem> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(bad(format!("this request does not know the parameter `{name}`"))),
        }
    }
}

fn bad(detail: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

impl FromRequest<Admin> for Write {
    type Rejection = Problem;

    async fn from_request(request: Request, admin: &Admin) -> Result<Self, Problem> {
        let (method, uri, headers) =
            (request.method().clone(), request.uri().clone(), request.headers().clone());
        let author = request.extensions().get::<Principal>().map(|principal| principal.name.clone());
        let bytes = bytes(request, admin).await?;
        let body = match method {
            Method::DELETE => Value::Null,
            // These need none.
            Method::POST if bytes.is_empty() && needs_no_body(uri.path()) => Value::Null,
            _ => object(&method, &headers, &bytes)?,
        };
        let mut query = Parameters::parse(uri.query());
        let is_delete = method == Method::DELETE;
        Ok(Self {
            dry_run: query.take_flag("dry_run")?,
            wait: wait(&mut query)?,
            cascade: is_delete && query.take_flag("cascade")?,
            conditions: Conditions {
                if_match: text(&headers, header::IF_MATCH.as_str())?,
                only_new: text(&headers, header::IF_NONE_MATCH.as_str())?.is_some_and(|it| it.trim() == "*"),
                required: admin.require_if_match,
            },
            request: WriteRequest {
                source: RevisionSource::Api,
                author: author.unwrap_or_default(),
                reason: text(&headers, "x-reason")?,
                idempotency: idempotency(&method, &uri, &headers, &bytes)?,
                alone: false,
            },
            path: uri.path().to_owned(),
            method,
            body,
            query,
        })
    }
}

async fn bytes(request: Request, admin: &Admin) -> Result<Bytes, Problem> {
    Bytes::from_request(request, admin).await.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let detail = format!("the body is larger than {} MiB", MAX_BODY >> 20);
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
        }
        status => Problem::new(status, error.body_text()),
    })
}

fn needs_no_body(path: &str) -> bool {
    ["/rollback", "/failback", "/notify/test"].iter().any(|end| path.trim_end_matches('/').ends_with(end))
}

/// JSON object of a request that changes nothing and has no parameters.
pub(crate) struct Object(pub(crate) Value);

impl FromRequest<Admin> for Object {
    type Rejection = Problem;

    async fn from_request(request: Request, admin: &Admin) -> Result<Self, Problem> {
        Parameters::parse(request.uri().query()).end()?;
        let (method, headers) = (request.method().clone(), request.headers().clone());
        let bytes = bytes(request, admin).await?;
        object(&method, &headers, &bytes).map(Self)
    }
}

/// Decodes a body, with every fault at its place.
pub(crate) fn decoded<T: DeserializeOwned>(body: &Value) -> Result<T, Problem> {
    let (decoded, faults) = tree::decode(&tree::Node::from_json(body), &Path::default());
    match decoded {
        Some(decoded) if faults.is_empty() => Ok(decoded),
        _ => {
            let violations = faults.iter().map(in_body).collect();
            Err(Problem::refused("the body has faults", violations))
        }
    }
}

fn text(headers: &HeaderMap, name: &str) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = String::from_utf8_lossy(value.as_bytes()).trim().to_owned();
    if text.len() > MAX_HEADER {
        return Err(bad(format!("the header `{name}` is longer than {MAX_HEADER} bytes")));
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn wait(query: &mut Parameters) -> Result<Option<Duration>, Problem> {
    let timeout = match query.take("timeout")? {
        None => PATIENCE,
        Some(text) => match values::Duration::parse(&text) {
            Some(timeout) if timeout.0 <= MAX_PATIENCE => timeout.0,
            _ => return Err(bad(format!("`timeout` is a time of at most 60s such as `5s`, not `{text}`"))),
        },
    };
    match query.take("wait")?.as_deref() {
        None => Ok(None),
        Some("acked") => Ok(Some(timeout)),
        Some(other) => Err(bad(format!("`wait` is `acked`, not `{other}`"))),
    }
}

/// Returns the idempotency key of a request and the hash of its content.
fn idempotency(
    method: &Method,
    uri: &axum::http::Uri,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Option<(String, u128)>, Problem> {
    let Some(key) = text(headers, "idempotency-key")?.filter(|_| method == Method::POST) else {
        return Ok(None);
    };
    let mut hash = Xxh3::new();
    for part in [method.as_str().as_bytes(), uri.to_string().as_bytes(), body] {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    Ok(Some((key, hash.digest128())))
}

/// Parses the body of a write: a JSON object without duplicate keys.
fn object(method: &Method, headers: &HeaderMap, body: &[u8]) -> Result<Value, Problem> {
    if let Some(content_type) = headers.get(header::CONTENT_TYPE) {
        let essence = content_type.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        let is_patch =
            method == Method::PATCH && essence.eq_ignore_ascii_case("application/merge-patch+json");
        if !is_patch && !essence.eq_ignore_ascii_case("application/json") {
            let detail = "send application/json, or application/merge-patch+json to PATCH";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
    }
    let (node, faults) = tree::json(body).map_err(|fault| not_json(&fault))?;
    if !faults.is_empty() {
        let violations = faults.iter().map(in_body).collect();
        return Err(Problem::refused("the body has faults", violations));
    }
    match node.to_json() {
        Value::Object(mut fields) => {
            // A response with warnings may be sent back as it is.
            fields.remove("warnings");
            Ok(Value::Object(fields))
        }
        _ => Err(Problem::unprocessable(&Path::default(), "the body is not a JSON object")),
    }
}

fn not_json(fault: &Fault) -> Problem {
    let violation = Violation {
        line: fault.span.map(|span| span.start.line),
        column: fault.span.map(|span| span.start.column),
        ..in_body(fault)
    };
    Problem::new(StatusCode::BAD_REQUEST, "the body is not JSON").with(vec![violation])
}

/// Returns the violation of a fault in the body.
pub(crate) fn in_body(fault: &Fault) -> Violation {
    Violation {
        code: fault.code,
        level: Level::Error,
        message: fault.message.clone(),
        help: fault.help.clone(),
        file: None,
        line: None,
        column: None,
        path: fault.path.to_string(),
        pointer: Some(fault.path.pointer()),
        related: Vec::new(),
    }
}
