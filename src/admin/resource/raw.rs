//! Envoy's own resources: one by one, or the exact set of some types at once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};

use crate::access::tokens::Role;
use crate::admin::declared::{self, DeclaredBy, Desired};
use crate::admin::http::conditions::{Conditions, etag};
use crate::admin::http::problem::Problem;
use crate::admin::http::request::{Write, in_body};
use crate::admin::resource::entities;
use crate::admin::route::{ApiRoute, Content};
use crate::admin::schema;
use crate::admin::state::Admin;
use crate::admin::view::secret::SecretMask;
use crate::admin::write::operation::refuse_hashes;
use crate::admin::write::place::{self, BodyPlace};
use crate::admin::write::reply::Reply;
use crate::admin::write::run::shown;
use crate::admin::write::slot::{Slot, resource_type};
use crate::build::Build;
use crate::config::Violation;
use crate::config::document::Kind;
use crate::config::edit::EntityChange;
use crate::config::raw::{self, Resource};
use crate::config::tree::Node;
use crate::control::operation::{Decision, DesiredConfig, Operation, WriteError};
use crate::envoy::ResourceType;

/// Returns the routes.
pub(crate) fn routes() -> Vec<ApiRoute> {
    let lists = || schema::lists(schema::envoy_resource());
    let what = "a resource of Envoy's own; with the type `patches`, and a type in front of the name, a patch";
    let one = "/raw/{type}/{*name}";
    let resource = Content::json_of(schema::entity(Kind::Raw));
    let mut routes = vec![
        ApiRoute::get(
            "/raw",
            Role::Read,
            "List the resources of Envoy's own, by type",
            all,
            Content::json_of(lists()),
        ),
        ApiRoute::put(
            "/raw",
            Role::Write,
            "Make the resources of some types exactly these",
            replace_all,
            &[200],
            Content::json_of(lists()),
        )
        .change(lists()),
        ApiRoute::get(
            "/raw/{type}",
            Role::Read,
            "List the resources of one type",
            list,
            Content::json_of(lists()),
        ),
        ApiRoute::get(one, Role::Read, format!("Read {what}"), read, resource),
    ];
    routes.extend(entities::write_routes(one, what, Kind::Raw));
    routes
}

/// `GET /raw`
pub(crate) async fn all(State(admin): State<Admin>) -> Response {
    let body = view(Desired::of(&admin.cache.build(), admin.mask), |_| true);
    let tag = etag(&body);
    shown(body, &tag)
}

/// `GET /raw/{type}`, and `GET /raw/patches`
pub(crate) async fn list(State(admin): State<Admin>, Path(word): Path<String>) -> Result<Response, Problem> {
    if word == raw::PATCHES {
        let body = json!({ (raw::PATCHES): patches(&admin.cache.build(), admin.mask) });
        let tag = etag(&body);
        return Ok(shown(body, &tag));
    }
    let wanted = resource_type(&word)?;
    let body = view(Desired::of(&admin.cache.build(), admin.mask), |resource_type| resource_type == wanted);
    let tag = etag(&body);
    Ok(shown(body, &tag))
}

/// The patches to compiled resources: those of the files, then those that were written over REST.
pub(crate) fn patches(build: &Build, mask: SecretMask) -> Vec<Value> {
    let of_files = build
        .file_documents()
        .flat_map(|document| document.patches.iter().map(|patch| mask.masked(document.json(&patch.path))));
    let stored = Desired::of(build, mask).entities(Kind::Raw).into_iter();
    let stored = stored.filter(|(key, _)| raw::patched(key).is_some()).map(|(_, entity)| entity.body);
    of_files.chain(stored).collect()
}

/// `GET /raw/{type}/{name}`, and `GET /raw/patches/{type}/{name}`
pub(crate) async fn read(
    State(admin): State<Admin>,
    Path((word, name)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let key = match (word.as_str(), name.split_once('/')) {
        (raw::PATCHES, Some((word, name))) => raw::patch_key(resource_type(word)?, name),
        _ => raw::key(resource_type(&word)?, &name),
    };
    entities::read(Kind::Raw, admin, key).await
}

/// `PUT /raw`: of each type that the body has exactly what it lists; the other types stay as they are.
pub(crate) async fn replace_all(State(admin): State<Admin>, mut write: Write) -> Result<Response, Problem> {
    let body = std::mem::take(&mut write.body);
    let lists = raw::set(&Node::from_json(&body)).map_err(|faults| {
        let violations = faults.iter().map(in_body).collect();
        Problem::refused("the body has faults", violations)
    })?;
    let (conditions, mask) = (write.conditions.clone(), admin.mask);
    admin.write(write, RawReplace { lists, body, conditions, mask }).await
}

/// Replacement of all raw resources of some types.
struct RawReplace {
    /// Resources of the body, by type.
    lists: Vec<(ResourceType, Vec<Resource>)>,
    body: Value,
    conditions: Conditions,
    mask: SecretMask,
}

impl Operation for RawReplace {
    type Details = ();
    type Reply = Reply;
    type Refusal = Problem;

    fn decide(&self, desired: DesiredConfig<'_>) -> Result<Decision<()>, Problem> {
        let tag = etag(&view(Desired::now(desired, self.mask), |_| true));
        self.conditions.check("the raw resources are", &tag)?;
        Ok(Decision { changes: exactly(&self.lists, &self.body, desired, self.mask)?, details: () })
    }

    fn reply(&self, (): &(), desired: DesiredConfig<'_>) -> Reply {
        let body = view(Desired::now(desired, self.mask), |_| true);
        Reply { etag: Some(etag(&body)), ..Reply::new(StatusCode::OK, body) }
    }

    fn refuse(&self, (): &(), violations: Vec<Violation>) -> Problem {
        let places = places(&self.lists);
        let problem = Problem::from(WriteError::Refused(violations));
        problem.relocated(|violation| place::in_body(violation, &places))
    }
}

/// The raw resources of these types as the body of `PUT /raw` would say them.
fn view(desired: Desired<'_>, is_wanted: impl Fn(ResourceType) -> bool) -> Value {
    let mut lists: BTreeMap<ResourceType, Vec<Value>> = BTreeMap::new();
    for (key, entity) in desired.entities(Kind::Raw) {
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
    desired: DesiredConfig<'_>,
    mask: SecretMask,
) -> Result<Vec<EntityChange>, Problem> {
    let DesiredConfig { inputs, build, .. } = desired;
    let mut changes = Vec::new();
    for (resource_type, resources) in lists {
        let wanted: HashMap<&str, &Resource> = resources.iter().map(|it| (&*it.key, it)).collect();
        let prefix = raw::key(*resource_type, "");
        let from_files = from_files(build, *resource_type);
        for (own, place) in &from_files {
            if wanted.get(&*own.key).is_none_or(|wanted| wanted.message != own.message) {
                let slot = Slot { kind: Kind::Raw, upstream: None, name: own.key.to_string() };
                slot.writable(&DeclaredBy::File(place.clone()))?;
            }
        }
        let filed: HashSet<&Arc<str>> = from_files.iter().map(|(own, _)| &own.key).collect();
        let stored =
            inputs.stored.keys().filter(|(kind, key)| *kind == Kind::Raw && key.starts_with(&prefix));
        let gone = stored.filter(|(_, key)| !wanted.contains_key(key.as_str()));
        changes.extend(gone.map(|(kind, key)| EntityChange::Delete { kind: *kind, name: key.clone() }));
        let bodies = body[resource_type.plural()].as_array().map(Vec::as_slice).unwrap_or_default();
        for (resource, body) in resources.iter().zip(bodies) {
            if filed.contains(&resource.key) {
                continue;
            }
            let name = resource.key.to_string();
            let stored = inputs.stored.get(&(Kind::Raw, name.clone()));
            let mut body = body.clone();
            if let Some(stored) = stored {
                mask.unmask(&mut body, stored);
            }
            refuse_hashes(&body)?;
            if stored.is_none_or(|stored| **stored != body) {
                changes.push(EntityChange::Put { kind: Kind::Raw, name, body: Arc::new(body) });
            }
        }
    }
    Ok(changes)
}

/// The resources of a type that files declare, and where.
fn from_files(build: &Build, resource_type: ResourceType) -> Vec<(&Resource, String)> {
    let all =
        build.documents.of(Kind::Raw).flat_map(|document| document.raw.iter().map(move |it| (document, it)));
    all.filter(|(_, declared)| declared.entity.resource_type == resource_type)
        .filter_map(|(document, declared)| match declared::declared_by(document, &declared.path) {
            DeclaredBy::File(place) => Some((&*declared.entity, place)),
            DeclaredBy::Rest => None,
        })
        .collect()
}

/// Returns the place of each resource in the body.
fn places(lists: &[(ResourceType, Vec<Resource>)]) -> Vec<BodyPlace> {
    let place = |(index, resource): (usize, &Resource)| {
        let slot = Slot { kind: Kind::Raw, upstream: None, name: resource.key.to_string() };
        slot.place(None).at(format!("/{}/{index}", resource.resource_type))
    };
    lists.iter().flat_map(|(_, resources)| resources.iter().enumerate().map(place)).collect()
}
