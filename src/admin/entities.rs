//! Collections: list, create, read, replace, merge-patch, delete; and the targets of an upstream.
//!
//! Every write is decided by the newest config, inside the one door through which it changes, so that two
//! writers cannot undo each other between a check and its change.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, Query, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_128;

use crate::admin::Admin;
use crate::admin::problem::Problem;
use crate::admin::view::{self, DeclaredBy};
use crate::config::document::Kind;
use crate::config::{Level, Violation, tree};
use crate::pipeline::{Build, Inputs};
use crate::store::Change;

/// What to change and what to answer, or why not.
pub(super) type Decided<T> = Result<(Vec<Change>, T), Problem>;

/// How many items a page has unless told otherwise, and at most.
const PAGE: (usize, usize) = (100, 1000);

/// `?size=`, `?after=` and `?tag=` of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Page {
    size: Option<usize>,
    after: Option<String>,
    tag: Option<String>,
}

/// `GET /{kind}`
pub(crate) async fn list(
    State(admin): State<Admin>,
    Path(kind): Path<String>,
    page: Result<Query<Page>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let kind = collection(&kind)?;
    let Query(page) = page.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let items = view::entities(&admin.cache.build(), kind);
    let items = items.into_iter().map(|(name, entity)| (name, entity.body)).collect();
    Ok(Json(page.cut(items, &format!("/{}", kind.plural()))))
}

/// `GET /upstreams/{upstream}/targets`
pub(crate) async fn list_targets(
    State(admin): State<Admin>,
    Path(upstream): Path<String>,
    page: Result<Query<Page>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(page) = page.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let build = admin.cache.build();
    known_upstream(&build, &upstream)?;
    let mut items: Vec<(String, Value)> = view::targets(&build, &upstream)
        .into_iter()
        .map(|target| (view::canonical(view::text(&target.body)), target.body))
        .collect();
    items.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(Json(page.cut(items, &format!("/upstreams/{upstream}/targets"))))
}

impl Page {
    fn cut(&self, mut items: Vec<(String, Value)>, path: &str) -> Value {
        if let Some(tag) = &self.tag {
            let tagged = |body: &Value| {
                body["tags"].as_array().is_some_and(|tags| tags.iter().any(|own| own.as_str() == Some(tag)))
            };
            items.retain(|(_, body)| tagged(body));
        }
        if let Some(after) = &self.after {
            items.retain(|(name, _)| name > after);
        }
        let size = self.size.unwrap_or(PAGE.0).clamp(1, PAGE.1);
        let more = items.len() > size;
        items.truncate(size);
        let tag = self.tag.as_ref().map(|tag| format!("&tag={}", encoded(tag))).unwrap_or_default();
        let next = items.last().filter(|_| more);
        let next = next.map(|(last, _)| format!("{path}?after={}&size={size}{tag}", encoded(last)));
        json!({ "items": items.into_iter().map(|(_, body)| body).collect::<Vec<_>>(), "next": next })
    }
}

/// `text` as it may stand in a query or a path.
pub(super) fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':');
    let escape = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(escape).collect()
}

/// `GET /{kind}/{name}`
pub(crate) async fn read(
    State(admin): State<Admin>,
    Path((kind, name)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let kind = collection(&kind)?;
    let entity = view::entity(&admin.cache.build(), kind, &name).ok_or_else(|| absent(kind, &name))?;
    Ok(shown(StatusCode::OK, entity.body))
}

/// `POST /{kind}`
pub(crate) async fn create(
    State(admin): State<Admin>,
    Path(kind): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let kind = collection(&kind)?;
    let body = object(query.as_deref(), &headers, body)?;
    let name = body["name"].as_str().unwrap_or_default().to_owned();
    let created = name.clone();
    let decide = move |_: &Inputs, build: &Build| -> Decided<()> {
        match view::entity(build, kind, &name) {
            Some(entity) => Err(taken(kind, &name, &entity.by)),
            None => Ok((vec![Change::Put { kind, name, body: Arc::new(body) }], ())),
        }
    };
    let (build, ()) = admin.control.write(decide).await?;
    let entity = view::entity(&build, kind, &created).ok_or_else(|| absent(kind, &created))?;
    Ok(located(shown(StatusCode::CREATED, entity.body), &format!("/{}/{created}", kind.plural())))
}

/// `PUT /{kind}/{name}`: 201 when it created, 200 when it replaced. An upstream's targets stay as they are
/// unless the body has `targets`.
pub(crate) async fn replace(
    State(admin): State<Admin>,
    Path((kind, name)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let kind = collection(&kind)?;
    let body = with_name(object(query.as_deref(), &headers, body)?, "name", &name)?;
    let expected = if_match(&headers);
    let replaced = name.clone();
    let decide = move |inputs: &Inputs, build: &Build| -> Decided<bool> {
        let existing = view::entity(build, kind, &name);
        writable(
            kind,
            &name,
            existing.as_ref().map(|entity| (&entity.by, &entity.body)),
            expected.as_deref(),
        )?;
        let mut body = body;
        let exact = body.get("targets").is_some();
        let stored = inputs.stored.get(&(kind, name.clone()));
        if let (Kind::Certificate, Some(stored)) = (kind, stored) {
            view::unmask(&mut body, stored);
        }
        let stored = stored.and_then(|stored| stored.get("targets"));
        if let (Kind::Upstream, false, Some(targets)) = (kind, exact, stored) {
            body["targets"] = targets.clone();
        }
        Ok((put(inputs, kind, name, body, exact), existing.is_some()))
    };
    let (build, existed) = admin.control.write(decide).await?;
    let entity = view::entity(&build, kind, &replaced).ok_or_else(|| absent(kind, &replaced))?;
    match existed {
        true => Ok(shown(StatusCode::OK, entity.body)),
        false => {
            Ok(located(shown(StatusCode::CREATED, entity.body), &format!("/{}/{replaced}", kind.plural())))
        }
    }
}

/// `PATCH /{kind}/{name}`, a merge patch (RFC 7396).
pub(crate) async fn patch(
    State(admin): State<Admin>,
    Path((kind, name)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let kind = collection(&kind)?;
    let changes = object(query.as_deref(), &headers, body)?;
    let expected = if_match(&headers);
    let patched = name.clone();
    let decide = move |inputs: &Inputs, build: &Build| -> Decided<()> {
        let existing = view::entity(build, kind, &name).ok_or_else(|| absent(kind, &name))?;
        writable(kind, &name, Some((&existing.by, &existing.body)), expected.as_deref())?;
        let stored = inputs.stored.get(&(kind, name.clone())).ok_or_else(|| absent(kind, &name))?;
        let exact = changes.get("targets").is_some();
        let mut body = Value::clone(stored);
        merge(&mut body, changes);
        if kind == Kind::Certificate {
            view::unmask(&mut body, stored);
        }
        let body = with_name(body, "name", &name)?;
        Ok((put(inputs, kind, name, body, exact), ()))
    };
    let (build, ()) = admin.control.write(decide).await?;
    let entity = view::entity(&build, kind, &patched).ok_or_else(|| absent(kind, &patched))?;
    Ok(shown(StatusCode::OK, entity.body))
}

/// `DELETE /{kind}/{name}`: what others refer to stays, and they are named.
pub(crate) async fn delete(
    State(admin): State<Admin>,
    Path((kind, name)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let kind = collection(&kind)?;
    no_query(query.as_deref())?;
    let expected = if_match(&headers);
    let deleted = name.clone();
    let decide = move |inputs: &Inputs, build: &Build| -> Decided<()> {
        let existing = view::entity(build, kind, &name).ok_or_else(|| absent(kind, &name))?;
        writable(kind, &name, Some((&existing.by, &existing.body)), expected.as_deref())?;
        let mut changes = if kind == Kind::Upstream { without_targets(inputs, &name) } else { Vec::new() };
        changes.push(Change::Delete { kind, name });
        Ok((changes, ()))
    };
    match admin.control.write(decide).await {
        Ok(_) => Ok(StatusCode::NO_CONTENT),
        Err(problem @ Problem { .. }) if problem.is_refusal() => {
            let detail =
                format!("the {} `{deleted}` is in use; the violations name by what", kind.singular());
            Err(problem.as_status(StatusCode::CONFLICT, &detail))
        }
        Err(problem) => Err(problem),
    }
}

/// `GET /upstreams/{upstream}/targets/{target}`
pub(crate) async fn read_target(
    State(admin): State<Admin>,
    Path((upstream, address)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let build = admin.cache.build();
    known_upstream(&build, &upstream)?;
    let target = view::target(&build, &upstream, &address).ok_or_else(|| absent(Kind::Target, &address))?;
    Ok(shown(StatusCode::OK, target.body))
}

/// `POST /upstreams/{upstream}/targets`, also for an upstream that a file declares.
pub(crate) async fn create_target(
    State(admin): State<Admin>,
    Path(upstream): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let body = object(query.as_deref(), &headers, body)?;
    let address = view::canonical(view::text(&body));
    let (within, created) = (upstream.clone(), address.clone());
    let decide = move |_: &Inputs, build: &Build| -> Decided<()> {
        known_upstream(build, &upstream)?;
        match view::target(build, &upstream, &address) {
            Some(target) => Err(taken(Kind::Target, &address, &target.by)),
            None => Ok((vec![put_target(&upstream, &address, body)], ())),
        }
    };
    let (build, ()) = admin.control.write(decide).await?;
    let target = view::target(&build, &within, &created).ok_or_else(|| absent(Kind::Target, &created))?;
    let location = format!("/upstreams/{within}/targets/{}", encoded(&created));
    Ok(located(shown(StatusCode::CREATED, target.body), &location))
}

/// `PUT /upstreams/{upstream}/targets/{target}`: 201 when it created, 200 when it replaced.
pub(crate) async fn replace_target(
    State(admin): State<Admin>,
    Path((upstream, address)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let address = view::canonical(&address);
    let mut body = object(query.as_deref(), &headers, body)?;
    if view::canonical(view::text(&body)) == address {
        body["target"] = address.clone().into();
    }
    let body = with_name(body, "target", &address)?;
    let expected = if_match(&headers);
    let (within, replaced) = (upstream.clone(), address.clone());
    let decide = move |inputs: &Inputs, build: &Build| -> Decided<bool> {
        known_upstream(build, &upstream)?;
        let existing = view::target(build, &upstream, &address);
        let seen = existing.as_ref().map(|target| (&target.by, &target.body));
        writable(Kind::Target, &address, seen, expected.as_deref())?;
        let index = existing.as_ref().and_then(|target| target.index);
        Ok((set_target(inputs, &upstream, &address, index, Some(body)), existing.is_some()))
    };
    let (build, existed) = admin.control.write(decide).await?;
    let target = view::target(&build, &within, &replaced).ok_or_else(|| absent(Kind::Target, &replaced))?;
    let location = format!("/upstreams/{within}/targets/{}", encoded(&replaced));
    match existed {
        true => Ok(shown(StatusCode::OK, target.body)),
        false => Ok(located(shown(StatusCode::CREATED, target.body), &location)),
    }
}

/// `PATCH /upstreams/{upstream}/targets/{target}`, a merge patch (RFC 7396).
pub(crate) async fn patch_target(
    State(admin): State<Admin>,
    Path((upstream, address)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let changes = object(query.as_deref(), &headers, body)?;
    let address = view::canonical(&address);
    let expected = if_match(&headers);
    let (within, patched) = (upstream.clone(), address.clone());
    let decide = move |inputs: &Inputs, build: &Build| -> Decided<()> {
        known_upstream(build, &upstream)?;
        let existing =
            view::target(build, &upstream, &address).ok_or_else(|| absent(Kind::Target, &address))?;
        writable(Kind::Target, &address, Some((&existing.by, &existing.body)), expected.as_deref())?;
        let mut body = existing.body;
        // The shown default of one must not contradict the other, now given.
        if changes.get("priority").is_some_and(|priority| !priority.is_null())
            && let Value::Object(fields) = &mut body
        {
            fields.remove("failover");
        }
        if changes.get("failover").is_some()
            && let Value::Object(fields) = &mut body
        {
            fields.remove("priority");
        }
        merge(&mut body, changes);
        let body = with_name(body, "target", &address)?;
        Ok((set_target(inputs, &upstream, &address, existing.index, Some(body)), ()))
    };
    let (build, ()) = admin.control.write(decide).await?;
    let target = view::target(&build, &within, &patched).ok_or_else(|| absent(Kind::Target, &patched))?;
    Ok(shown(StatusCode::OK, target.body))
}

/// `DELETE /upstreams/{upstream}/targets/{target}`
pub(crate) async fn delete_target(
    State(admin): State<Admin>,
    Path((upstream, address)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    no_query(query.as_deref())?;
    let address = view::canonical(&address);
    let expected = if_match(&headers);
    let decide = move |inputs: &Inputs, build: &Build| -> Decided<()> {
        known_upstream(build, &upstream)?;
        let existing =
            view::target(build, &upstream, &address).ok_or_else(|| absent(Kind::Target, &address))?;
        writable(Kind::Target, &address, Some((&existing.by, &existing.body)), expected.as_deref())?;
        Ok((set_target(inputs, &upstream, &address, existing.index, None), ()))
    };
    admin.control.write(decide).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The kind that a path names.
fn collection(word: &str) -> Result<Kind, Problem> {
    let kind = Kind::TOP.into_iter().find(|kind| kind.plural() == word);
    kind.ok_or_else(|| Problem::not_found(&format!("there is no `/{word}`")))
}

fn known_upstream(build: &Build, name: &str) -> Result<(), Problem> {
    match build.model.upstreams.keys().any(|own| own.as_str() == name) {
        true => Ok(()),
        false => Err(absent(Kind::Upstream, name)),
    }
}

/// The body of a write: a JSON object without faults of its own.
pub(super) fn object(
    query: Option<&str>,
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Value, Problem> {
    no_query(query)?;
    let body = body.map_err(|error| Problem::new(error.status(), error.body_text()))?;
    if let Some(content_type) = headers.get(header::CONTENT_TYPE) {
        let essence = content_type.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if !matches!(essence, "application/json" | "application/merge-patch+json") {
            let detail = "send application/json, or application/merge-patch+json to PATCH";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
    }
    let (node, faults) = tree::json(&body).map_err(|fault| not_json(&fault))?;
    if !faults.is_empty() {
        let violations = faults.iter().map(in_body).collect();
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "the body has faults").with(violations));
    }
    match node.to_json() {
        body @ Value::Object(_) => Ok(body),
        _ => Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "the body is not a JSON object")),
    }
}

/// Parameters that are not known could mean that nothing is to be changed, so they are refused.
pub(super) fn no_query(query: Option<&str>) -> Result<(), Problem> {
    match query.filter(|query| !query.is_empty()) {
        None => Ok(()),
        Some(query) => {
            let detail = format!("this request knows no parameters, and `{query}` was given");
            Err(Problem::new(StatusCode::BAD_REQUEST, detail))
        }
    }
}

fn not_json(fault: &tree::Fault) -> Problem {
    let violation = Violation {
        line: fault.span.map(|span| span.start.line),
        column: fault.span.map(|span| span.start.column),
        ..in_body(fault)
    };
    Problem::new(StatusCode::BAD_REQUEST, "the body is not JSON").with(vec![violation])
}

pub(super) fn in_body(fault: &tree::Fault) -> Violation {
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

/// The body with the name that the path gives; one that names another is refused.
pub(super) fn with_name(mut body: Value, key: &str, name: &str) -> Result<Value, Problem> {
    match body.get(key) {
        None | Some(Value::Null) => body[key] = name.into(),
        Some(own) if own == name => {}
        Some(own) => {
            let detail = format!("the path names `{name}` and the body {own}");
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
        }
    }
    Ok(body)
}

/// RFC 7396.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Value::Object(fields) = target else { return };
    for (key, value) in patch {
        match value {
            Value::Null => drop(fields.remove(&key)),
            value => merge(fields.entry(key).or_insert(Value::Null), value),
        }
    }
}

/// Writes an entity. With `exact` targets those that were added on their own go.
fn put(inputs: &Inputs, kind: Kind, name: String, body: Value, exact: bool) -> Vec<Change> {
    let mut changes = match (kind, exact) {
        (Kind::Upstream, true) => without_targets(inputs, &name),
        _ => Vec::new(),
    };
    changes.push(Change::Put { kind, name, body: Arc::new(body) });
    changes
}

/// Removes the targets that were added to an upstream on their own.
fn without_targets(inputs: &Inputs, upstream: &str) -> Vec<Change> {
    let prefix = format!("{upstream}/");
    let added =
        inputs.stored.keys().filter(|(kind, name)| *kind == Kind::Target && name.starts_with(&prefix));
    added.map(|(kind, name)| Change::Delete { kind: *kind, name: name.clone() }).collect()
}

fn put_target(upstream: &str, address: &str, body: Value) -> Change {
    Change::Put { kind: Kind::Target, name: format!("{upstream}/{address}"), body: Arc::new(body) }
}

/// Writes or, without a body, removes a target: in its upstream's own list if it stands there, else on its own.
fn set_target(
    inputs: &Inputs,
    upstream: &str,
    address: &str,
    index: Option<usize>,
    body: Option<Value>,
) -> Vec<Change> {
    let (kind, name) = (Kind::Upstream, upstream.to_owned());
    match (index, inputs.stored.get(&(kind, name.clone())), body) {
        (Some(index), Some(stored), body) => {
            let mut changed = Value::clone(stored);
            if let Some(targets) = changed["targets"].as_array_mut() {
                targets.splice(index..=index, body);
            }
            vec![Change::Put { kind, name, body: Arc::new(changed) }]
        }
        (_, _, Some(body)) => vec![put_target(upstream, address, body)],
        (_, _, None) => vec![Change::Delete { kind: Kind::Target, name: format!("{upstream}/{address}") }],
    }
}

/// Refuses to change what a file declares, or what is not as the caller last saw it.
pub(super) fn writable(
    kind: Kind,
    name: &str,
    existing: Option<(&DeclaredBy, &Value)>,
    expected: Option<&str>,
) -> Result<(), Problem> {
    if let Some((DeclaredBy::File(place), _)) = existing {
        let detail = format!("the {} `{name}` is declared in {place}; change the file", kind.singular());
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    match (expected, existing) {
        (None, _) => Ok(()),
        (Some(expected), Some((_, body))) if matches(expected, body) => Ok(()),
        _ => {
            let detail = format!("the {} `{name}` is no longer what `If-Match` says", kind.singular());
            Err(Problem::new(StatusCode::PRECONDITION_FAILED, detail))
        }
    }
}

/// True when an `If-Match` header allows to change `current`.
pub(super) fn matches(expected: &str, current: &Value) -> bool {
    expected == "*" || expected.split(',').any(|one| one.trim() == etag(current))
}

pub(super) fn if_match(headers: &HeaderMap) -> Option<String> {
    headers.get(header::IF_MATCH).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn etag(body: &Value) -> String {
    format!("\"{:032x}\"", xxh3_128(body.to_string().as_bytes()))
}

pub(super) fn absent(kind: Kind, name: &str) -> Problem {
    Problem::not_found(&format!("no {} is named `{name}`", kind.singular()))
}

fn taken(kind: Kind, name: &str, by: &DeclaredBy) -> Problem {
    let place = match by {
        DeclaredBy::File(place) => format!(", declared in {place}"),
        DeclaredBy::Rest => String::new(),
    };
    Problem::new(StatusCode::CONFLICT, format!("there is a {} `{name}` already{place}", kind.singular()))
}

pub(super) fn shown(status: StatusCode, body: Value) -> Response {
    let tag = HeaderValue::from_str(&etag(&body)).expect("hex digits in quotes are a header value");
    (status, [(header::ETAG, tag)], Json(body)).into_response()
}

pub(super) fn located(mut response: Response, path: &str) -> Response {
    if let Ok(path) = HeaderValue::from_str(path) {
        response.headers_mut().insert(header::LOCATION, path);
    }
    response
}
