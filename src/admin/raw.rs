//! Envoy's own resources: one by one, or the exact set of some types at once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::{Map, Value};

use crate::admin::Admin;
use crate::admin::entities::{
    Decided, absent, encoded, if_match, in_body, located, matches, no_query, object, shown, with_name,
    writable,
};
use crate::admin::problem::Problem;
use crate::admin::view::{self, DeclaredBy};
use crate::config::Violation;
use crate::config::document::Kind;
use crate::config::raw::{self, Resource};
use crate::config::tree::Node;
use crate::envoy::ResourceType;
use crate::pipeline::{Build, Inputs};
use crate::store::Change;

/// `GET /raw`
pub(crate) async fn all(State(admin): State<Admin>) -> Response {
    shown(StatusCode::OK, view(&admin.cache.build(), |_| true))
}

/// `GET /raw/{type}`
pub(crate) async fn list(State(admin): State<Admin>, Path(word): Path<String>) -> Result<Response, Problem> {
    let wanted = known(&word)?;
    Ok(shown(StatusCode::OK, view(&admin.cache.build(), |resource_type| resource_type == wanted)))
}

/// `GET /raw/{type}/{name}`
pub(crate) async fn read(
    State(admin): State<Admin>,
    Path((word, name)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let key = raw::key(known(&word)?, &name);
    let entity =
        view::entity(&admin.cache.build(), Kind::Raw, &key).ok_or_else(|| absent(Kind::Raw, &key))?;
    Ok(shown(StatusCode::OK, entity.body))
}

/// `PUT /raw/{type}/{name}`: 201 when it created, 200 when it replaced.
pub(crate) async fn replace(
    State(admin): State<Admin>,
    Path((word, name)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let resource_type = known(&word)?;
    let body = object(query.as_deref(), &headers, body)?;
    let field = match resource_type {
        ResourceType::Endpoints if body.get("clusterName").is_some() => "clusterName",
        _ => resource_type.name_field(),
    };
    let mut body = with_name(body, field, &name)?;
    let expected = if_match(&headers);
    let key = raw::key(resource_type, &name);
    let replaced = key.clone();
    let decide = move |inputs: &Inputs, build: &Build| -> Decided<bool> {
        let existing = view::entity(build, Kind::Raw, &key);
        let seen = existing.as_ref().map(|entity| (&entity.by, &entity.body));
        writable(Kind::Raw, &key, seen, expected.as_deref())?;
        if let Some(stored) = inputs.stored.get(&(Kind::Raw, key.clone())) {
            view::unmask(&mut body, stored);
        }
        let change = Change::Put { kind: Kind::Raw, name: key, body: Arc::new(body) };
        Ok((vec![change], existing.is_some()))
    };
    let (build, existed) = admin.control.write(decide).await?;
    let entity = view::entity(&build, Kind::Raw, &replaced).ok_or_else(|| absent(Kind::Raw, &replaced))?;
    match existed {
        true => Ok(shown(StatusCode::OK, entity.body)),
        false => {
            let location = format!("/raw/{resource_type}/{}", encoded(&name));
            Ok(located(shown(StatusCode::CREATED, entity.body), &location))
        }
    }
}

/// `DELETE /raw/{type}/{name}`
pub(crate) async fn delete(
    State(admin): State<Admin>,
    Path((word, name)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let key = raw::key(known(&word)?, &name);
    no_query(query.as_deref())?;
    let expected = if_match(&headers);
    let decide = move |_: &Inputs, build: &Build| -> Decided<()> {
        let existing = view::entity(build, Kind::Raw, &key).ok_or_else(|| absent(Kind::Raw, &key))?;
        writable(Kind::Raw, &key, Some((&existing.by, &existing.body)), expected.as_deref())?;
        Ok((vec![Change::Delete { kind: Kind::Raw, name: key }], ()))
    };
    admin.control.write(decide).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `PUT /raw`: of each type that the body has exactly what it lists; the other types stay as they are.
pub(crate) async fn replace_all(
    State(admin): State<Admin>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let body = object(query.as_deref(), &headers, body)?;
    let lists = raw::set(&Node::from_json(&body)).map_err(|faults| {
        let violations = faults.iter().map(in_body).collect();
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "the body has faults").with(violations)
    })?;
    let places = places(&lists);
    let expected = if_match(&headers);
    let decide = move |inputs: &Inputs, build: &Build| -> Decided<()> {
        if expected.is_some_and(|expected| !matches(&expected, &view(build, |_| true))) {
            let detail = "the raw resources are no longer what `If-Match` says";
            return Err(Problem::new(StatusCode::PRECONDITION_FAILED, detail));
        }
        Ok((exactly(&lists, &body, inputs, build)?, ()))
    };
    match admin.control.write(decide).await {
        Ok((build, ())) => Ok(shown(StatusCode::OK, view(&build, |_| true))),
        Err(problem @ Problem { .. }) => Err(problem.relocated(|violation| in_set(violation, &places))),
    }
}

/// The type that a path names.
fn known(word: &str) -> Result<ResourceType, Problem> {
    let found = ResourceType::ALL.into_iter().find(|it| it.plural() == word);
    found.ok_or_else(|| {
        Problem::not_found(&format!("there is no `/raw/{word}`; the types are {}", raw::type_words()))
    })
}

/// The raw resources of these types as the body of `PUT /raw` would say them.
fn view(build: &Build, is_wanted: impl Fn(ResourceType) -> bool) -> Value {
    let mut lists: BTreeMap<ResourceType, Vec<Value>> = BTreeMap::new();
    for (key, entity) in view::entities(build, Kind::Raw) {
        if let Some((resource_type, _)) = raw::split(&key) {
            lists.entry(resource_type).or_default().push(entity.body);
        }
    }
    let shown = ResourceType::ALL
        .into_iter()
        .filter(|it| is_wanted(*it) && (!ResourceType::FURTHER.contains(it) || lists.contains_key(it)));
    let shown: Vec<ResourceType> = shown.collect();
    let mut list = |it: ResourceType| Value::from(lists.remove(&it).unwrap_or_default());
    shown.into_iter().map(|it| (it.plural().to_owned(), list(it))).collect::<Map<_, _>>().into()
}

/// The changes after which exactly these are there of the types in `lists`, whose JSON is in `body`.
fn exactly(
    lists: &[(ResourceType, Vec<Resource>)],
    body: &Value,
    inputs: &Inputs,
    build: &Build,
) -> Result<Vec<Change>, Problem> {
    let mut changes = Vec::new();
    for (resource_type, resources) in lists {
        let wanted: HashMap<&str, &Resource> = resources.iter().map(|it| (&*it.key, it)).collect();
        let prefix = raw::key(*resource_type, "");
        let from_files = from_files(build, *resource_type);
        for (own, place) in &from_files {
            if wanted.get(&*own.key).is_none_or(|wanted| wanted.message != own.message) {
                let by = DeclaredBy::File(place.clone());
                writable(Kind::Raw, &own.key, Some((&by, &Value::Null)), None)?;
            }
        }
        let filed: HashSet<&Arc<str>> = from_files.iter().map(|(own, _)| &own.key).collect();
        let stored =
            inputs.stored.keys().filter(|(kind, key)| *kind == Kind::Raw && key.starts_with(&prefix));
        let gone = stored.filter(|(_, key)| !wanted.contains_key(key.as_str()));
        changes.extend(gone.map(|(kind, key)| Change::Delete { kind: *kind, name: key.clone() }));
        let bodies = body[resource_type.plural()].as_array().map(Vec::as_slice).unwrap_or_default();
        for (resource, body) in resources.iter().zip(bodies) {
            if filed.contains(&resource.key) {
                continue;
            }
            let name = resource.key.to_string();
            let stored = inputs.stored.get(&(Kind::Raw, name.clone()));
            let mut body = body.clone();
            if let Some(stored) = stored {
                view::unmask(&mut body, stored);
            }
            if stored.is_none_or(|stored| **stored != body) {
                changes.push(Change::Put { kind: Kind::Raw, name, body: Arc::new(body) });
            }
        }
    }
    Ok(changes)
}

/// The resources of a type that files declare, and where.
fn from_files(build: &Build, resource_type: ResourceType) -> Vec<(&Resource, String)> {
    let all = build.documents.iter().flat_map(|document| document.raw.iter().map(move |it| (document, it)));
    all.filter(|(_, declared)| declared.entity.resource_type == resource_type)
        .filter_map(|(document, declared)| match view::declared_by(document, &declared.path) {
            DeclaredBy::File(place) => Some((&*declared.entity, place)),
            DeclaredBy::Rest => None,
        })
        .collect()
}

/// Where in the body of the set each resource stood.
fn places(lists: &[(ResourceType, Vec<Resource>)]) -> HashMap<String, String> {
    let pointer = |(index, resource): (usize, &Resource)| {
        (resource.key.to_string(), format!("/{}/{index}", resource.resource_type))
    };
    lists.iter().flat_map(|(_, resources)| resources.iter().enumerate().map(pointer)).collect()
}

/// A violation of one stored resource as one of the set's body.
fn in_set(violation: Violation, places: &HashMap<String, String>) -> Violation {
    let Some(inner) = &violation.pointer else { return violation };
    let ends = |rest: &str| rest.is_empty() || rest.starts_with(['.', '[']);
    let of = violation.path.strip_prefix("raw.").and_then(|path| {
        let fits = places.iter().filter(|(key, _)| path.strip_prefix(key.as_str()).is_some_and(ends));
        fits.max_by_key(|(key, _)| key.len())
    });
    let pointer = of.map(|(_, place)| format!("{place}{inner}"));
    Violation { pointer: pointer.or_else(|| violation.pointer.clone()), ..violation }
}
