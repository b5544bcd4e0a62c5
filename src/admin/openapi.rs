//! Description of the API as OpenAPI 3.1, generated from its routes.
//!
//! A test compares it with the running program, and another (`.ci/openapi.sh`) lets a fuzzer search for responses that
//! it does not describe.

use axum::http::Method;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::admin::http::problem::Problem;
use crate::admin::route::{ApiRoute, Content, Effect, ParameterValues, QueryParameter};
use crate::admin::schema::{self, COMPONENTS};
use crate::admin::view::write::{DryRunView, PendingView};
use crate::config::Violation;

/// Statuses of failure of every request, with 503 while the program starts.
const ALWAYS: &[u16] = &[400, 401, 403, 421, 429, 503];
/// Statuses of failure of a request that names something in its path.
const NAMED: &[u16] = &[404];
/// Statuses of failure of a request with a body.
const SENT: &[u16] = &[408, 413, 415, 422];
/// Statuses of a change of the config beside those of success.
const CHANGED: &[u16] = &[202, 409, 412, 422, 428, 507];
/// Statuses of failure of an order.
const ORDERED: &[u16] = &[409, 422, 507];

const DRY_RUN: QueryParameter =
    QueryParameter::flag("dry_run", "Answer what would change, and change nothing");
const FORCE: QueryParameter =
    QueryParameter::flag("force", "Give the order although it would leave no target or a failing one");
const WAIT: QueryParameter = QueryParameter::words(
    "wait",
    "Answer when every connected Envoy that it affects has acknowledged it",
    &["acked"],
);
const TIMEOUT: QueryParameter =
    QueryParameter::text("timeout", "Maximum time to wait: 5s by default, 60s at most");

/// Generators of schemas: a field with a default may be absent from a request, but never from a response.
struct Generators {
    requests: SchemaGenerator,
    responses: SchemaGenerator,
}

impl Generators {
    fn new() -> Self {
        let settings = || {
            SchemaSettings::draft2020_12().with(|settings| {
                settings.definitions_path = COMPONENTS.into();
                settings.meta_schema = None;
            })
        };
        Self {
            requests: settings().for_deserialize().into_generator(),
            responses: settings().for_serialize().into_generator(),
        }
    }

    /// Returns all components that were referred to, with those of the config.
    fn components(mut self) -> Map<String, Value> {
        self.responses.subschema_for::<Violation>();
        let mut all = schema::config_components();
        all.extend(self.requests.take_definitions(true));
        all.extend(self.responses.take_definitions(true));
        all
    }
}

/// Returns the description of these routes.
pub(crate) fn document(routes: &[ApiRoute]) -> Value {
    let mut generators = Generators::new();
    let mut paths: Map<String, Value> = Map::new();
    for route in routes {
        let item = paths.entry(shown_path(route)).or_insert_with(|| json!({}));
        item[route.method.as_str().to_lowercase()] = operation(route, &mut generators);
    }
    let problem = generators.responses.subschema_for::<Problem>();
    let problem = json!({
        "description": "Reason of the failure, and what would be right (RFC 9457)",
        "content": { "application/problem+json": { "schema": problem } },
    });
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "understudy",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The failover control plane for Envoy: its admin API.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": generators.components(),
            "responses": { "Problem": problem },
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "description": "Made by `understudy token create`" },
            },
        },
    })
}

/// Returns the path as OpenAPI writes it.
fn shown_path(route: &ApiRoute) -> String {
    route.path.replace("{*", "{")
}

fn operation(route: &ApiRoute, generators: &mut Generators) -> Value {
    let path = shown_path(route);
    let mut operation = json!({
        "summary": route.summary,
        "operationId": operation_id(&route.method, &path),
        "parameters": parameters(route, &path),
        "responses": responses(route, &path, generators),
    });
    if let Some(role) = route.role {
        operation["description"] =
            format!("Needs the role `{}`, where a token is needed.", role.word()).into();
        operation["security"] = json!([{}, { "token": [] }]);
    }
    if let Some(body) = &route.body {
        let schema = json!({ "schema": body(&mut generators.requests) });
        let mut content = json!({ "application/json": schema });
        if route.method == Method::PATCH {
            content["application/merge-patch+json"] = schema;
        }
        operation["requestBody"] = json!({ "required": route.is_body_required, "content": content });
    }
    operation
}

fn operation_id(method: &Method, path: &str) -> String {
    let words = path.split(['/', '.']).filter(|word| !word.is_empty());
    let words = words.map(|word| word.trim_start_matches('{').trim_end_matches('}'));
    let method = method.as_str().to_lowercase();
    std::iter::once(method.as_str()).chain(words).collect::<Vec<_>>().join("_")
}

fn parameters(route: &ApiRoute, path: &str) -> Value {
    let names = path.split('/').filter_map(|word| word.strip_prefix('{')?.strip_suffix('}'));
    let in_path = names.map(|name| {
        json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } })
    });
    let by_effect: &[QueryParameter] = match route.effect {
        Effect::None => &[],
        Effect::Change => &[DRY_RUN, WAIT, TIMEOUT],
        Effect::Order => &[DRY_RUN],
    };
    let is_forced = route.effect == Effect::Order && route.body.is_some() && route.is_body_required;
    let force = is_forced.then_some(&FORCE);
    let in_query = route.parameters.iter().chain(by_effect).chain(force).map(query_parameter);
    in_path.chain(in_query).chain(headers(route, path)).collect()
}

fn query_parameter(parameter: &QueryParameter) -> Value {
    let schema = match parameter.values {
        ParameterValues::Text => json!({ "type": "string" }),
        ParameterValues::Flag => json!({ "type": "boolean" }),
        ParameterValues::Size => json!({ "type": "integer", "minimum": 1, "maximum": 1000 }),
        ParameterValues::Words(words) => json!({ "type": "string", "enum": words }),
    };
    let QueryParameter { name, description, .. } = parameter;
    json!({ "name": name, "in": "query", "description": description, "schema": schema })
}

fn headers(route: &ApiRoute, path: &str) -> Vec<Value> {
    let mut headers = Vec::new();
    if route.effect != Effect::None {
        headers.push(("X-Reason", "Reason, for those who read the revisions or orders"));
    }
    if route.effect == Effect::Change {
        headers.push(("If-Match", "`ETag` of what is to be changed"));
        if route.method == Method::POST {
            let description =
                "Key of the request: repeated within a day, it is done once and answered the same";
            headers.push(("Idempotency-Key", description));
        }
    }
    if path == "/events" {
        headers.push(("Last-Event-ID", "Continue after this event"));
    }
    let header = |(name, description)| {
        let schema = json!({ "type": "string", "maxLength": 1024 });
        json!({ "name": name, "in": "header", "description": description, "schema": schema })
    };
    headers.into_iter().map(header).collect()
}

/// Returns the responses of a route by status.
fn responses(route: &ApiRoute, path: &str, generators: &mut Generators) -> Value {
    let mut all: Map<String, Value> = Map::new();
    let is_change = route.effect == Effect::Change;
    for status in route.statuses {
        let content = content(&route.content, is_change && *status == 200, generators);
        let response = match status {
            204 => json!({ "description": "Done" }),
            400.. => problem(),
            _ if route.content.0.is_empty() => json!({ "description": "Done" }),
            _ => json!({ "description": "Done", "content": content }),
        };
        all.insert(status.to_string(), response);
    }
    if is_change {
        // A dry run answers 200 whatever status the change would have.
        let dry_run = json!({ "schema": generators.responses.subschema_for::<DryRunView>() });
        all.entry("200").or_insert_with(
            || json!({ "description": "Plan of a dry run", "content": { "application/json": dry_run } }),
        );
        let pending = json!({ "schema": generators.responses.subschema_for::<PendingView>() });
        all.insert(
            "202".to_owned(),
            json!({ "description": "Done, and not yet acknowledged by all", "content": { "application/json": pending } }),
        );
    }
    if route.method == Method::GET && route.role.is_some() {
        all.insert("304".to_owned(), json!({ "description": "Not changed since `If-None-Match`" }));
    }
    for status in failures(route, path) {
        all.entry(status.to_string()).or_insert_with(problem);
    }
    all.into()
}

fn content(content: &Content, is_planned: bool, generators: &mut Generators) -> Value {
    let by_type = content.0.iter().map(|(media_type, schema)| {
        let described = match schema {
            None => json!({}),
            Some(schema) if is_planned => {
                let schema = schema::either(schema.clone(), schema::of::<DryRunView>());
                json!({ "schema": schema(&mut generators.responses) })
            }
            Some(schema) => json!({ "schema": schema(&mut generators.responses) }),
        };
        ((*media_type).to_owned(), described)
    });
    Value::Object(by_type.collect())
}

/// Returns the statuses of failure of a route.
fn failures(route: &ApiRoute, path: &str) -> Vec<u16> {
    let mut all = route.failures.to_vec();
    // Probes need no token.
    if route.role.is_none() {
        return all;
    }
    all.extend(ALWAYS);
    // A PUT of an entity creates it; several changes at once may name what does not exist.
    let creates = route.method == Method::PUT && path.ends_with("/{name}") && !path.starts_with("/raw");
    if path.contains('{') && !creates || (route.method == Method::PATCH && path == "/config") {
        all.extend(NAMED);
    }
    if route.body.is_some() {
        all.extend(SENT);
    }
    match route.effect {
        Effect::None => {}
        Effect::Change => all.extend(CHANGED),
        Effect::Order => all.extend(ORDERED),
    }
    all
}

fn problem() -> Value {
    json!({ "$ref": "#/components/responses/Problem" })
}
