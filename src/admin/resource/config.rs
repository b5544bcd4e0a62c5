//! The config as a whole: read, changed in several places at once, made equal to a declaration.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::access::tokens::Role;
use crate::admin::declared::{self, DeclaredBy, Desired};
use crate::admin::http::conditions::Conditions;
use crate::admin::http::problem::Problem;
use crate::admin::http::request::{Object, Parameters, Write, decoded};
use crate::admin::resource::raw::patches;
use crate::admin::route::{ApiRoute, Content, QueryParameter};
use crate::admin::schema;
use crate::admin::state::Admin;
use crate::admin::view::secret::SecretMask;
use crate::admin::view::write::{ChangedView, DryRunView, SynchronizedView};
use crate::admin::write::operation::{EntityOperation, Verb};
use crate::admin::write::place::{self, BodyPlace};
use crate::admin::write::reply::Reply;
use crate::admin::write::run::shown;
use crate::admin::write::slot::{Slot, without_added};
use crate::build::Build;
use crate::config::document::Kind;
use crate::config::edit::{EntityChange, Files};
use crate::config::raw;
use crate::config::{Path, Violation};
use crate::control::operation::{Decision, DesiredConfig, Operation, WriteError};

const TAG: QueryParameter = QueryParameter::text("tag", "Only entities with this tag");

/// Returns the routes.
pub(crate) fn routes() -> Vec<ApiRoute> {
    let path = "/config";
    let file = || Content::json_of(schema::config_file());
    let (changed, synchronized) = (Content::json::<ChangedView>(), Content::json::<SynchronizedView>());
    vec![
        ApiRoute::get(path, Role::Read, "Read the config, as a file could have it", read, file())
            .query(&[TAG]),
        ApiRoute::patch(path, Role::Write, "Make several changes, all or nothing", patch, &[200], changed)
            .change(schema::of::<PatchBody>()),
        ApiRoute::put(
            path,
            Role::Write,
            "Make the entities with a tag equal to these",
            replace,
            &[200],
            synchronized,
        )
        .query(&[TAG])
        .change(schema::config_file()),
        ApiRoute::post(
            "/plan",
            Role::Read,
            "Plan what files would change, and what that means",
            plan,
            &[200],
            Content::json::<DryRunView>(),
        )
        .body(schema::of::<PlanBody>()),
    ]
}

/// `GET /config?tag=`: everything in the native config's shape, such that a file could say it.
pub(crate) async fn read(State(admin): State<Admin>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    let mut query = Parameters::parse(query.as_deref());
    let tag = query.take("tag")?;
    query.end()?;
    // Read first: a build that is newer than the tag only makes a later `If-Match` fail.
    let revision = admin.store.revision();
    let build = admin.cache.build();
    Ok(shown(whole(&build, admin.mask, tag.as_deref()), &etag(revision)))
}

/// Returns the tag of the whole config.
fn etag(revision: u64) -> String {
    format!("\"{revision}\"")
}

fn whole(build: &Build, mask: SecretMask, tag: Option<&str>) -> Value {
    let desired = Desired::of(build, mask);
    let mut config = Map::new();
    for kind in Kind::TOP {
        let bodies = desired.entities(kind).into_iter().map(|(_, entity)| entity.body);
        let wanted = bodies.filter(|body| tag.is_none_or(|tag| has_tag(body, tag)));
        config.insert(kind.plural().to_owned(), wanted.collect());
    }
    if tag.is_none() {
        let resource = |(key, entity): (String, declared::Entity)| {
            let (resource_type, _) = raw::split(&key)?;
            let mut body = entity.body;
            if body.get(raw::TYPE).is_none() {
                body[raw::TYPE] = resource_type.type_url().into();
            }
            Some(body)
        };
        let resources: Vec<Value> = desired.entities(Kind::Raw).into_iter().filter_map(resource).collect();
        let patches = patches(build, mask);
        if !resources.is_empty() || !patches.is_empty() {
            config.insert("raw".to_owned(), json!({ "resources": resources, "patches": patches }));
        }
    }
    Value::Object(config)
}

fn has_tag(body: &Value, tag: &str) -> bool {
    body["tags"].as_array().is_some_and(|tags| tags.iter().any(|own| own == tag))
}

/// Operation in the body of `PATCH /config`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PatchStep {
    method: String,
    path: String,
    #[serde(default)]
    body: Value,
    #[serde(default)]
    if_match: Option<String>,
}

/// The body of `PATCH /config`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PatchBody {
    changes: Vec<PatchStep>,
    #[serde(default)]
    reason: Option<String>,
}

/// `PATCH /config`: several changes, each on what the one before it made; all or nothing, and one revision.
pub(crate) async fn patch(State(admin): State<Admin>, mut write: Write) -> Result<Response, Problem> {
    let body = std::mem::take(&mut write.body);
    let steps: PatchBody = decoded(&body)?;
    write.request.reason = write.request.reason.or(steps.reason);
    let operations = operations(steps.changes)?;
    let (conditions, mask) = (write.conditions.clone(), admin.mask);
    admin.write(write, ConfigPatch { operations, conditions, mask }).await
}

/// Several operations, each on the result of the one before it.
struct ConfigPatch {
    /// Operations, each with its name in problems.
    operations: Vec<(String, EntityOperation)>,
    conditions: Conditions,
    mask: SecretMask,
}

/// Facts of a decision on several entities.
struct ConfigDetails {
    /// Body of the reply, without the revision.
    body: Value,
    places: Vec<BodyPlace>,
}

impl Operation for ConfigPatch {
    type Details = ConfigDetails;
    type Reply = Reply;
    type Refusal = Problem;

    fn decide(&self, desired: DesiredConfig<'_>) -> Result<Decision<ConfigDetails>, Problem> {
        self.conditions.check("the config is", &etag(desired.revision))?;
        decide_all(self.operations.clone(), desired, self.mask)
    }

    fn reply(&self, details: &ConfigDetails, desired: DesiredConfig<'_>) -> Reply {
        details.reply(desired.revision)
    }

    fn refuse(&self, details: &ConfigDetails, violations: Vec<Violation>) -> Problem {
        details.refuse(violations)
    }
}

impl ConfigDetails {
    fn reply(&self, revision: u64) -> Reply {
        let mut body = self.body.clone();
        body["revision"] = revision.into();
        Reply { etag: Some(etag(revision)), ..Reply::new(StatusCode::OK, body) }
    }

    fn refuse(&self, violations: Vec<Violation>) -> Problem {
        let problem = Problem::from(WriteError::Refused(violations));
        problem.relocated(|violation| place::in_body(violation, &self.places))
    }
}

fn operations(steps: Vec<PatchStep>) -> Result<Vec<(String, EntityOperation)>, Problem> {
    let operation = |(index, step): (usize, PatchStep)| {
        let which = format!("change {} ({} {})", index + 1, step.method, step.path);
        let place = Path::default().key("changes").index(index);
        let (method_place, body_place) = (place.key("method"), place.key("body"));
        let method = Method::from_bytes(step.method.to_ascii_uppercase().as_bytes())
            .map_err(|_| Problem::unprocessable(&method_place, "there is no such method").of(&which))?;
        if !step.body.is_object() && method != Method::DELETE {
            return Err(Problem::unprocessable(&body_place, "the body is not a JSON object").of(&which));
        }
        let conditions = Conditions { if_match: step.if_match, ..Conditions::default() };
        let operation = EntityOperation::parse(&method, &step.path, step.body, conditions);
        // The body names the method here, so a wrong one is a fault of the body.
        let in_body = |problem: Problem| {
            if problem.is_of(StatusCode::METHOD_NOT_ALLOWED) {
                Problem::unprocessable(&method_place, "this path knows other methods")
            } else {
                problem.below(&body_place.pointer())
            }
        };
        let operation = operation.map_err(|problem| in_body(problem).of(&which))?;
        Ok((which, operation))
    };
    steps.into_iter().enumerate().map(operation).collect()
}

fn decide_all(
    operations: Vec<(String, EntityOperation)>,
    config: DesiredConfig<'_>,
    mask: SecretMask,
) -> Result<Decision<ConfigDetails>, Problem> {
    let mut stored = config.inputs.stored.clone();
    let (mut changes, mut done, mut places) = (Vec::new(), Vec::new(), Vec::new());
    for (index, (which, operation)) in operations.into_iter().enumerate() {
        let (verb, path) = (operation.verb, operation.slot.path());
        let desired = Desired { files: config.build, stored: &stored, mask };
        let pointer = format!("/changes/{index}/body");
        let decided = operation.decide(desired).map_err(|problem| problem.below(&pointer).of(&which))?;
        let status = match verb {
            Verb::Delete => StatusCode::NO_CONTENT,
            _ if decided.is_new => StatusCode::CREATED,
            _ => StatusCode::OK,
        };
        places.push(decided.place.at(pointer));
        let differs = |change: &EntityChange| match change {
            EntityChange::Put { kind, name, body } => stored.get(&(*kind, name.clone())) != Some(body),
            EntityChange::Delete { .. } => true,
        };
        let action = match verb {
            Verb::Delete => "deleted",
            _ if decided.is_new => "created",
            _ if decided.changes.iter().any(differs) => "updated",
            _ => "unchanged",
        };
        done.push(json!({ "path": path, "status": status.as_u16(), "action": action }));
        for change in &decided.changes {
            change.clone().apply(&mut stored);
        }
        changes.extend(decided.changes);
    }
    Ok(Decision { changes, details: ConfigDetails { body: json!({ "changes": done }), places } })
}

/// `PUT /config?tag=…`: makes what REST declared with this tag equal to the body. What the body has gets the
/// tag; what has the tag and is not in the body goes.
pub(crate) async fn replace(State(admin): State<Admin>, mut write: Write) -> Result<Response, Problem> {
    let Some(tag) = write.query.take("tag")?.filter(|tag| !tag.is_empty()) else {
        let detail = "say with `?tag=` which part of the config the body is";
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    };
    let body = std::mem::take(&mut write.body);
    let wanted = declared(body, &tag)?;
    let (conditions, mask) = (write.conditions.clone(), admin.mask);
    admin.write(write, ConfigReplace { wanted, tag, conditions, mask }).await
}

/// Replacement of everything that REST declared with a tag.
struct ConfigReplace {
    wanted: Vec<Wanted>,
    tag: String,
    conditions: Conditions,
    mask: SecretMask,
}

impl Operation for ConfigReplace {
    type Details = ConfigDetails;
    type Reply = Reply;
    type Refusal = Problem;

    fn decide(&self, desired: DesiredConfig<'_>) -> Result<Decision<ConfigDetails>, Problem> {
        self.conditions.check("the config is", &etag(desired.revision))?;
        synchronize(self.wanted.clone(), &self.tag, desired, self.mask)
    }

    fn reply(&self, details: &ConfigDetails, desired: DesiredConfig<'_>) -> Reply {
        details.reply(desired.revision)
    }

    fn refuse(&self, details: &ConfigDetails, violations: Vec<Violation>) -> Problem {
        details.refuse(violations)
    }
}

/// Entity of the body, with its pointer.
#[derive(Clone)]
struct Wanted {
    slot: Slot,
    body: Value,
    pointer: String,
}

/// Returns the entities of the body, with the tag added.
fn declared(body: Value, tag: &str) -> Result<Vec<Wanted>, Problem> {
    let mut wanted: Vec<Wanted> = Vec::new();
    for (key, list) in body.as_object().into_iter().flatten() {
        let Some(kind) = Kind::TOP.into_iter().find(|kind| kind.plural() == key) else {
            let lists: Vec<&str> = Kind::TOP.into_iter().map(Kind::plural).collect();
            let lists = lists.join(", ");
            let detail = format!("`{key}` cannot have tags; the lists are {lists}");
            return Err(Problem::unprocessable(&Path::default().key(key), detail));
        };
        let Some(list) = list.as_array() else {
            return Err(Problem::unprocessable(&Path::default().key(key), format!("`{key}` is a list")));
        };
        for (index, body) in list.iter().enumerate() {
            let place = Path::default().key(key).index(index);
            let pointer = place.pointer();
            let Some(name) = body["name"].as_str() else {
                return Err(Problem::unprocessable(&place, format!("{pointer} has no name")));
            };
            let slot = Slot { kind, upstream: None, name: name.to_owned() };
            if wanted.iter().any(|other| other.slot == slot) {
                let detail = format!("another {} of the body is named `{name}`", kind.singular());
                return Err(Problem::unprocessable(&place.key("name"), detail));
            }
            wanted.push(Wanted { slot, body: tagged(body.clone(), tag), pointer });
        }
    }
    Ok(wanted)
}

fn tagged(mut body: Value, tag: &str) -> Value {
    if !has_tag(&body, tag) {
        match &mut body["tags"] {
            Value::Array(tags) => tags.push(tag.into()),
            none @ Value::Null => *none = json!([tag]),
            // Validation reports its fault.
            _ => {}
        }
    }
    body
}

fn synchronize(
    wanted: Vec<Wanted>,
    tag: &str,
    config: DesiredConfig<'_>,
    mask: SecretMask,
) -> Result<Decision<ConfigDetails>, Problem> {
    let desired = Desired::now(config, mask);
    let (mut created, mut updated, mut unchanged) = (Vec::new(), Vec::new(), 0);
    let (mut changes, mut places) = (Vec::new(), Vec::new());
    let kept: BTreeSet<(Kind, String)> =
        wanted.iter().map(|wanted| (wanted.slot.kind, wanted.slot.name.clone())).collect();
    for Wanted { slot, body, pointer } in wanted {
        let key = (slot.kind, slot.name.clone());
        let stored = config.inputs.stored.get(&key);
        if let Some(existing) = desired.entity(slot.kind, &slot.name)
            && (existing.by != DeclaredBy::Rest || !has_tag(&existing.body, tag))
        {
            slot.writable(&existing.by)?;
            let (kind, name) = (slot.kind.one(), &slot.name);
            let detail = format!("there is {kind} `{name}` already, without the tag `{tag}`");
            return Err(Problem::new(StatusCode::CONFLICT, detail));
        }
        let path = slot.path();
        let operation =
            EntityOperation { verb: Verb::Replace, slot, body, conditions: Conditions::default() };
        let decided = operation.decide(desired).map_err(|problem| problem.below(&pointer))?;
        places.push(decided.place.at(pointer));
        let differs = |change: &EntityChange| match change {
            EntityChange::Put { body, .. } => stored.is_none_or(|stored| stored != body),
            EntityChange::Delete { .. } => true,
        };
        if decided.is_new {
            created.push(path);
        } else if decided.changes.iter().any(differs) {
            updated.push(path);
        } else {
            unchanged += 1;
        }
        changes.extend(decided.changes);
    }
    let gone = config.inputs.stored.iter().filter(|((kind, name), body)| {
        Kind::TOP.contains(kind) && has_tag(body, tag) && !kept.contains(&(*kind, name.clone()))
    });
    let mut deleted = Vec::new();
    for ((kind, name), _) in gone {
        deleted.push(Slot { kind: *kind, upstream: None, name: name.clone() }.path());
        if *kind == Kind::Upstream {
            changes.extend(without_added(desired, name));
        }
        changes.push(EntityChange::Delete { kind: *kind, name: name.clone() });
    }
    let body = json!({ "created": created, "updated": updated, "deleted": deleted, "unchanged": unchanged });
    Ok(Decision { changes, details: ConfigDetails { body, places } })
}

/// The body of `POST /plan`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PlanBody {
    /// Texts by name, in place of all served files.
    #[serde(default)]
    files: Option<std::collections::BTreeMap<String, String>>,
    /// Operations, as in `PATCH /config`.
    #[serde(default)]
    changes: Vec<PatchStep>,
}

/// `POST /plan`: what would change with these files in place of those that are served, and with these
/// changes.
pub(crate) async fn plan(State(admin): State<Admin>, Object(body): Object) -> Result<Response, Problem> {
    let plan: PlanBody = decoded(&body)?;
    let operations = operations(plan.changes)?;
    let files = plan.files.map(|files| files.into_iter().map(|(name, text)| (name, Arc::from(text))));
    let files: Option<Files> = files.map(Iterator::collect);
    let (conditions, mask) = (Conditions::default(), admin.mask);
    admin.plan(ConfigPatch { operations, conditions, mask }, files).await
}
