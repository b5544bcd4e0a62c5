//! What this API knows, told to programs: OpenAPI 3.1 at `GET /openapi.json`.
//!
//! One table has every operation; a test compares it with the routes, and another (`.ci/openapi.sh`) lets a fuzzer
//! look for answers that it does not have. A route that is added needs a line in [`operations`].

use std::sync::LazyLock;

use axum::response::Json;
use serde_json::{Map, Value, json};

use crate::access::tokens;
use crate::config::document::Kind;

/// One method of one path.
struct Operation {
    method: &'static str,
    path: String,
    summary: String,
    body: Body,
    answer: Answer,
    /// Beside those that the kinds of body and answer bring along.
    parameters: &'static [Parameter],
    /// The statuses of success, and those that only this operation has.
    statuses: &'static [u16],
}

/// What is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Body {
    None,
    /// The schema of this name. It changes nothing.
    Question(&'static str),
    /// The schema of this name; it changes the config.
    Change(&'static str),
    /// The same without a body.
    Removal,
}

/// What comes back on success.
#[derive(Clone, Copy)]
enum Answer {
    /// The schema of this name, in JSON.
    Json(&'static str),
    /// Of another media type.
    Other(&'static str),
    /// Nothing.
    Empty,
}

/// A parameter of the query.
type Parameter = (&'static str, &'static str);

const PAGE: &[Parameter] = &[
    ("size", "How many items the page has at most: 1 to 1000, 100 unless told otherwise"),
    ("after", "Only what comes after this one"),
    ("tag", "Only what has one of these tags, separated by commas; given twice, both must be met"),
];
const REVISION_PAGE: &[Parameter] =
    &[("size", "How many items the page has at most"), ("after", "Only what is older than this revision")];
const CASCADE: &[Parameter] = &[("cascade", "What refers to it goes too")];
const TAG: &[Parameter] = &[("tag", "Only what has this tag")];
const LOCALITY: &[Parameter] = &[("node_locality", "Where the Envoy is that asks: region/zone/sub_zone")];
const KEEP: &[Parameter] = &[("keep", "`files`: what files changed since may stay as it is")];

/// What may go wrong with any request.
const ALWAYS: &[u16] = &[400, 401, 403, 421, 429];
/// With one that names something.
const NAMED: &[u16] = &[404];
/// With one that has a body.
const SENT: &[u16] = &[413, 415, 422];
/// With one that changes something.
const CHANGED: &[u16] = &[202, 409, 412, 422, 428, 503, 507];

fn operation(
    method: &'static str,
    path: &str,
    summary: &str,
    body: Body,
    answer: Answer,
    statuses: &'static [u16],
) -> Operation {
    Operation {
        method,
        path: path.to_owned(),
        summary: summary.to_owned(),
        body,
        answer,
        parameters: &[],
        statuses,
    }
}

fn get(path: &str, summary: &str, answer: Answer) -> Operation {
    operation("get", path, summary, Body::None, answer, &[200])
}

impl Operation {
    fn with(self, parameters: &'static [Parameter]) -> Self {
        Self { parameters, ..self }
    }
}

/// Create, read, replace, merge and delete of one kind of entity.
fn of_kind(kind: Kind) -> Vec<Operation> {
    let (word, plural) = (kind.singular(), kind.plural());
    let (all, one) = (format!("/{plural}"), format!("/{plural}/{{name}}"));
    let mut operations = vec![
        get(&all, &format!("List {plural}"), Answer::Json("List")).with(PAGE),
        operation(
            "post",
            &all,
            &format!("Create a {word}"),
            Body::Change("Entity"),
            Answer::Json("Stored"),
            &[201],
        ),
    ];
    operations.extend(of_entity(&one, &format!("a {word}")));
    operations
}

/// Read, replace, merge and delete of what has a path of its own.
fn of_entity(path: &str, what: &str) -> [Operation; 4] {
    let (put, patch) = (Body::Change("Entity"), Body::Change("Patch"));
    [
        get(path, &format!("Read {what}"), Answer::Json("Stored")),
        operation(
            "put",
            path,
            &format!("Create or replace {what}"),
            put,
            Answer::Json("Stored"),
            &[200, 201],
        ),
        operation(
            "patch",
            path,
            &format!("Change {what} by a merge patch"),
            patch,
            Answer::Json("Stored"),
            &[200],
        ),
        operation(
            "delete",
            path,
            &format!("Delete {what}"),
            Body::Removal,
            Answer::Json("Object"),
            &[200, 204],
        )
        .with(CASCADE),
    ]
}

fn operations() -> Vec<Operation> {
    use Answer::{Empty, Json, Other};
    use Body::{Change, Question};
    let mut all: Vec<Operation> = Kind::TOP.into_iter().flat_map(of_kind).collect();
    let targets = "/upstreams/{name}/targets";
    let target = (Change("Target"), Json("Stored"));
    all.extend([
        get(targets, "List the targets of an upstream", Json("List")).with(PAGE),
        operation("post", targets, "Add a target to an upstream", target.0, target.1, &[201]),
    ]);
    all.extend(of_entity("/upstreams/{name}/targets/{target}", "a target"));
    for (path, what) in [
        ("/upstreams/{name}/targets/{target}/state", "a target"),
        ("/upstreams/{name}/tiers/{priority}/state", "a tier"),
        ("/upstreams/{name}/zones/{zone}/state", "a zone"),
    ] {
        let put = format!("Drain {what}, hold it down, or leave it alone");
        all.extend([
            get(path, &format!("What was ordered of {what}"), Json("Object")),
            operation("put", path, &put, Change("Object"), Json("Object"), &[200]),
            operation("delete", path, &format!("Leave {what} alone"), Body::Removal, Empty, &[204]),
        ]);
    }
    all.extend(of_entity(
        "/raw/{type}/{name}",
        "a resource of Envoy's own; with the type `patches`, and a type in front of the name, a patch",
    ));
    all.extend([
        get("/upstreams/{name}/health", "How the targets of an upstream fare", Json("Object")),
        get("/raw", "All resources of Envoy's own, by type", Json("Object")),
        operation(
            "put",
            "/raw",
            "Make the resources of some types exactly these",
            Change("Object"),
            Json("Stored"),
            &[200],
        ),
        get("/raw/{type}", "The resources of one type", Json("Object")),
        operation(
            "post",
            "/simulate",
            "Where requests go when some targets are down",
            Question("Object"),
            Json("Object"),
            &[200],
        ),
        get("/config", "Everything, as a file could say it", Json("Object")).with(TAG),
        operation(
            "patch",
            "/config",
            "Several changes, all or nothing",
            Change("Steps"),
            Json("Stored"),
            &[200],
        ),
        operation(
            "put",
            "/config",
            "Make the part with a tag equal to this",
            Change("Object"),
            Json("Stored"),
            &[200],
        )
        .with(TAG),
        operation(
            "post",
            "/plan",
            "What files would change, and what that means",
            Question("Object"),
            Json("Object"),
            &[200],
        ),
        get("/revisions", "Every accepted change, the newest first", Json("List")).with(REVISION_PAGE),
        get("/revisions/{number}", "One change, with what it changed", Json("Object")),
        get(
            "/revisions/{number}/diff",
            "What changed between two revisions: /revisions/41..43/diff",
            Json("Object"),
        ),
        operation(
            "post",
            "/revisions/{number}/rollback",
            "Make what REST declared what it was then",
            Change("Object"),
            Json("Object"),
            &[200, 201],
        )
        .with(KEEP),
        get("/backup", "A copy of all that is durable", Other("application/octet-stream")),
        get("/tokens", "Who may use this API", Json("List")),
        operation(
            "post",
            "/tokens",
            "Make a token; this answer alone has its text",
            Question("NewToken"),
            Json("Object"),
            &[201, 409, 507],
        ),
        get("/tokens/{name}", "One token, without its text", Json("Object")),
        operation("delete", "/tokens/{name}", "Make a token worthless", Body::None, Empty, &[204, 409, 507]),
        get("/events", "What happens, as server-sent events", Other("text/event-stream")),
        get("/metrics", "What can be measured, for Prometheus", Other("text/plain")),
        get("/fleet", "Who is connected, and what each took or refused", Json("Object")),
        get("/fleet/{node}", "One Envoy", Json("Object")),
        get("/violations", "What is wrong with the files, while the last good config serves", Json("Array")),
        operation(
            "post",
            "/reload",
            "Read the files again",
            Body::None,
            Json("Object"),
            &[200, 422, 500, 503],
        ),
        get("/topology", "What reaches what", Json("Object")),
        operation(
            "put",
            "/upstreams/{name}/pin",
            "Pin traffic to a tier",
            Change("Object"),
            Json("Object"),
            &[200],
        ),
        operation(
            "delete",
            "/upstreams/{name}/pin",
            "Let traffic go where it would",
            Body::Removal,
            Empty,
            &[204],
        ),
        operation(
            "post",
            "/upstreams/{name}/failback",
            "Release primaries that are held",
            Change("Object"),
            Json("Object"),
            &[200],
        ),
        operation(
            "post",
            "/upstreams/{name}/drill",
            "Rehearse a failover",
            Change("Object"),
            Json("Object"),
            &[201],
        ),
        get("/orders", "What operators ordered and is in force", Json("Object")),
        get("/drills", "Failovers that were rehearsed", Json("Object")),
        get("/drills/{id}", "One of them", Json("Object")),
        operation("delete", "/drills/{id}", "Abort one that is under way", Body::Removal, Empty, &[204]),
        get("/failovers", "Failovers that happened", Json("Object")).with(REVISION_PAGE),
        operation(
            "post",
            "/notify/test",
            "Send a test to all who are told",
            Change("Object"),
            Json("Object"),
            &[200],
        ),
        get("/lint", "What is valid and will hurt all the same", Json("Array")),
        get("/snapshots/{fleet}", "What a fleet is told, in Envoy's JSON", Json("Object")).with(LOCALITY),
        get("/status", "What is served, in numbers", Json("Object")),
        get("/livez", "200 while the program lives", Other("text/plain")),
        operation(
            "get",
            "/readyz",
            "200 from the first build that is served until it shuts down, also while files are broken",
            Body::None,
            Other("text/plain"),
            &[200, 503],
        ),
        get("/openapi.json", "This", Json("Object")),
    ]);
    all
}

/// `GET /openapi.json`
pub(crate) async fn document() -> Json<&'static Value> {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
        let mut paths: Map<String, Value> = Map::new();
        for operation in operations() {
            let item = paths.entry(operation.path.clone()).or_insert_with(|| json!({}));
            item[operation.method] = described(&operation);
        }
        json!({
            "openapi": "3.1.0",
            "info": {
                "title": "understudy",
                "version": env!("CARGO_PKG_VERSION"),
                "description": "The failover control plane for Envoy: its admin API.",
                "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            },
            "paths": paths,
            "components": { "schemas": schemas(), "responses": problems(), "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "description": "Made by `understudy token create`" },
            } },
        })
    });
    Json(&DOCUMENT)
}

fn described(operation: &Operation) -> Value {
    let Operation { method, path, summary, body, answer, statuses, .. } = operation;
    let route = path.replace("{type}/{name}", "{type}/{*name}");
    let role = tokens::needed(&method.to_uppercase(), &route);
    let mut described = json!({
        "summary": summary,
        "operationId": operation_id(method, path),
        "parameters": parameters(operation),
        "responses": responses(operation, *answer, statuses),
    });
    if let Some(role) = role {
        described["description"] =
            format!("Needs the role `{}`, where a token is needed.", role.word()).into();
        described["security"] = json!([{}, { "token": [] }]);
    }
    if let Body::Question(schema) | Body::Change(schema) = body {
        let schema = json!({ "schema": reference(schema) });
        let mut content = json!({ "application/json": schema });
        if *method == "patch" {
            content["application/merge-patch+json"] = schema;
        }
        described["requestBody"] = json!({ "required": !path.ends_with("/rollback"), "content": content });
    }
    described
}

fn operation_id(method: &str, path: &str) -> String {
    let words = path.split(['/', '.']).filter(|word| !word.is_empty());
    let words = words.map(|word| word.trim_start_matches('{').trim_end_matches('}'));
    std::iter::once(method).chain(words).collect::<Vec<_>>().join("_")
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn parameters(operation: &Operation) -> Value {
    let names = operation.path.split('/').filter_map(|word| word.strip_prefix('{')?.strip_suffix('}'));
    let mut all: Vec<Value> = names
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } }))
        .collect();
    let query = |name: &str, description: &str, schema: Value| json!({ "name": name, "in": "query", "description": description, "schema": schema });
    let header = |name: &str, description: &str| json!({ "name": name, "in": "header", "description": description, "schema": { "type": "string", "maxLength": 1024 } });
    for (name, description) in operation.parameters {
        let schema = match *name {
            "size" => json!({ "type": "integer", "minimum": 1, "maximum": 1000 }),
            "cascade" => json!({ "type": "boolean" }),
            "keep" => json!({ "type": "string", "enum": ["files"] }),
            _ => json!({ "type": "string" }),
        };
        all.push(query(name, description, schema));
    }
    if matches!(operation.body, Body::Change(_) | Body::Removal) {
        all.push(query("dry_run", "Answer what would change; change nothing", json!({ "type": "boolean" })));
        let acked = json!({ "type": "string", "enum": ["acked"] });
        all.push(query(
            "wait",
            "Answer when every connected Envoy that it affects has acknowledged it",
            acked,
        ));
        all.push(query(
            "timeout",
            "For how long to wait: 5s unless told otherwise, 60s at most",
            json!({ "type": "string" }),
        ));
        all.push(header("X-Reason", "Why, for those who read the revisions"));
        all.push(header("If-Match", "The `ETag` of what is to be changed"));
    }
    if operation.method == "post" && matches!(operation.body, Body::Change(_)) {
        all.push(header(
            "Idempotency-Key",
            "Repeated within a day, the request is answered the same and done once",
        ));
    }
    if operation.path == "/events" {
        all.push(header("Last-Event-ID", "Go on after this event"));
    }
    all.into()
}

fn responses(operation: &Operation, answer: Answer, statuses: &[u16]) -> Value {
    let mut all = Map::new();
    let mut add = |statuses: &[u16]| {
        for status in statuses {
            let response = match (status, answer) {
                (304 | 204, _) | (200..300, Answer::Empty) => json!({ "description": "Nothing to tell" }),
                (200..300, Answer::Other(kind)) => json!({ "description": "Done", "content": { kind: {} } }),
                (202, _) => json!({ "description": "Done, and not yet acknowledged by all", "content": {
                    "application/json": { "schema": reference("Object") } } }),
                (200..300, Answer::Json(schema)) => {
                    let dry = matches!(operation.body, Body::Change(_) | Body::Removal) && *status == 200;
                    let schema = if dry { "Object" } else { schema };
                    json!({ "description": "Done", "content": { "application/json": { "schema": reference(schema) } } })
                }
                _ => json!({ "$ref": "#/components/responses/Problem" }),
            };
            all.insert(status.to_string(), response);
        }
    };
    add(statuses);
    let probe = matches!(operation.path.as_str(), "/livez" | "/readyz");
    if probe {
        return all.into();
    }
    add(ALWAYS);
    // While it starts.
    add(&[503]);
    if operation.method == "get" {
        add(&[304]);
    }
    // A PUT of an entity makes it; changes at once may name what is not there.
    let makes = operation.method == "put"
        && operation.path.ends_with("/{name}")
        && !operation.path.starts_with("/raw");
    if (operation.path.contains('{') && !makes)
        || (operation.method, &*operation.path) == ("patch", "/config")
    {
        add(NAMED);
    }
    match operation.body {
        Body::None => {}
        Body::Question(_) => add(SENT),
        Body::Change(_) => {
            // A dry run is answered 200 whatever the change would be.
            add(&[200]);
            add(SENT);
            add(CHANGED);
        }
        Body::Removal => add(CHANGED),
    }
    // What is on disk may not be there to be read.
    if operation.path.starts_with("/revisions") || operation.path == "/backup" {
        add(&[500]);
    }
    all.into()
}

fn problems() -> Value {
    let content = json!({ "application/problem+json": { "schema": reference("Problem") } });
    json!({ "Problem": { "description": "What is wrong, and what would be right (RFC 9457)", "content": content } })
}

fn schemas() -> Value {
    let any = json!({ "type": "object" });
    let tags = json!({ "type": "array", "items": { "type": "string" } });
    json!({
        "Object": any,
        "Array": { "type": "array", "items": any },
        "List": {
            "type": "object",
            "required": ["items", "next"],
            "properties": {
                "items": { "type": "array", "items": any },
                "next": { "type": ["string", "null"], "description": "The path of the next page; null on the last" },
            },
        },
        "Entity": {
            "type": "object",
            "description": "In the native config's shape; the name may be left out where the path has it",
            "properties": { "name": { "type": "string" }, "tags": tags },
        },
        "Stored": {
            "type": "object",
            "description": "As it is stored, or what a dry run would change; `warnings` has what lint found new",
            "properties": { "warnings": { "type": "array", "items": reference("Violation") } },
        },
        "Patch": { "type": "object", "description": "A merge patch (RFC 7396): null removes a field" },
        "Target": {
            "type": "object",
            "required": ["target"],
            "properties": {
                "target": { "type": "string", "description": "host:port", "examples": ["10.0.0.3:8080"] },
                "weight": { "type": "integer", "minimum": 0, "description": "100 unless told otherwise" },
                "failover": { "type": "boolean", "description": "Short for priority 1" },
                "priority": { "type": "integer", "minimum": 0 },
                "enabled": { "type": "boolean" },
                "tags": tags,
            },
        },
        "Steps": {
            "type": "object",
            "required": ["changes"],
            "properties": {
                "reason": { "type": "string" },
                "changes": { "type": "array", "items": {
                    "type": "object",
                    "required": ["method", "path"],
                    "properties": {
                        "method": { "type": "string", "enum": ["POST", "PUT", "PATCH", "DELETE"] },
                        "path": { "type": "string", "examples": ["/upstreams/checkout"] },
                        "body": any,
                        "if_match": { "type": "string" },
                    },
                } },
            },
        },
        "NewToken": {
            "type": "object",
            "required": ["name", "role"],
            "properties": {
                "name": { "type": "string", "pattern": "^[A-Za-z0-9._@:-]{1,63}$" },
                "role": { "type": "string", "enum": ["read", "operate", "write"] },
            },
        },
        "Violation": {
            "type": "object",
            "required": ["code", "level", "message"],
            "properties": {
                "code": { "type": "string", "examples": ["US012"] },
                "level": { "type": "string", "enum": ["error", "warning", "info"] },
                "message": { "type": "string" },
                "help": { "type": ["string", "null"] },
                "pointer": { "type": ["string", "null"], "description": "Into the body of the request (RFC 6901)" },
            },
        },
        "Problem": {
            "type": "object",
            "required": ["type", "title", "status", "detail", "violations"],
            "properties": {
                "type": { "type": "string" },
                "title": { "type": "string" },
                "status": { "type": "integer" },
                "detail": { "type": "string" },
                "violations": { "type": "array", "items": reference("Violation") },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_route_is_described_and_nothing_else() {
        let described: BTreeSet<String> = operations().into_iter().map(|operation| operation.path).collect();
        let source = include_str!("../admin.rs");
        let literal = |rest: &str| rest.trim_start().strip_prefix('"')?.split('"').next().map(str::to_owned);
        let routed = source.split(".route(").skip(1).filter_map(literal).map(|path| path.replace("{*", "{"));
        let collections = Kind::TOP.into_iter().flat_map(|kind| {
            let plural = kind.plural();
            [format!("/{plural}"), format!("/{plural}/{{name}}")]
        });
        let routed: BTreeSet<String> = routed.chain(collections).filter(|path| path != "/").collect();
        assert_eq!(described, routed, "left: `operations` above; right: the routes of src/admin.rs");
    }

    #[test]
    fn operations_have_names_of_their_own() {
        let all = operations();
        let ids: BTreeSet<String> = all.iter().map(|it| operation_id(it.method, &it.path)).collect();
        assert_eq!(ids.len(), all.len());
    }
}
