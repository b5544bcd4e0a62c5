//! The schema against the program: what `schema` calls the default of a field is what runs when the field is absent,
//! a field without a default has none, and `show` agrees.
//!
//! The fields are taken from the schema, so a new one is tested, or fails for want of a description, a default or a
//! place in `stages.yaml`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Value, json};
use understudy::build::snapshot::Snapshot;
use understudy::build::{self, Build, Inputs};
use understudy::config::document::Document;
use understudy::config::document::listener::ListenerProtocol;
use understudy::config::document::outlier::OutlierDetection;
use understudy::config::document::resolver::Resolver;
use understudy::config::document::upstream::Upstream;
use understudy::config::{Violation, schema};
use understudy::inspect::settings;
use understudy::inspect::settings::setting::{EffectiveSetting, SettingOrigin};
use understudy::model::Model;
use understudy::model::listener::{Listener, ProtocolSettings};
use understudy::model::name::Name;
use understudy::source::material;

use crate::{addresses, root};

/// Fields whose default follows from something else, and from what.
const DERIVED: [(&str, &str); 24] = [
    ("Cookie.ttl", "a session in `sticky`; in `hash_by` Envoy sets no cookie"),
    ("GrpcCheck.authority", "the target's name, or the upstream's"),
    ("HealthCheck.idle_interval", "`interval`"),
    ("HealthCheck.port", "the target's"),
    ("HealthCheck.tcp", "`{}`, unless `http` or `grpc` is given"),
    ("HealthCheck.unhealthy_interval", "`interval`"),
    ("HttpCheck.host", "the target's name, or the upstream's"),
    ("OutlierDetection.max_ejection_time", "not shorter than `base_ejection_time`"),
    ("Redirect.host", "the request's"),
    ("Redirect.path", "the request's"),
    ("Redirect.scheme", "the request's"),
    ("Resolver.max_ttl", "not shorter than `min_ttl`"),
    ("Retries.attempts", "the number of targets"),
    ("Retries.tries_per_tier", "the number of targets of the tiers"),
    ("Route.retries", "the service's"),
    ("Route.timeout", "the service's"),
    ("Route.try_timeout", "the service's"),
    ("Service.try_timeout", "`timeout` and the number of tiers"),
    ("Target.health_check", "the upstream's"),
    ("Target.tls", "the upstream's"),
    ("TargetHealthCheck.host", "the upstream's check"),
    ("TargetHealthCheck.port", "the upstream's check"),
    ("Tls.sni", "the target's host name"),
    ("Upstream.connect_timeout", "not longer than the shortest `try_timeout`"),
];

/// Fields whose absence means that there is none of what they name.
const NOTHING: [&str; 35] = [
    "FailbackSettings.after",
    "FailbackSettings.max_failbacks",
    "FailbackSettings.steps",
    "Failover.objective",
    "HealthCheck.grpc",
    "HealthCheck.http",
    "HttpCheck.body",
    "Limits.retry_budget",
    "Listener.client_ca",
    "Listener.service",
    "Notify.secret",
    "Redirect.prefix",
    "Redirect.regex",
    "Redirect.to",
    "Rewrite.path",
    "Rewrite.prefix",
    "Rewrite.regex",
    "Rewrite.to",
    "Route.redirect",
    "Route.respond",
    "Route.rewrite",
    "Route.service",
    "Select.cluster",
    "Select.id",
    "Select.region",
    "Select.zone",
    "Service.upstream",
    "Target.region",
    "Target.sub_zone",
    "Target.zone",
    "TcpCheck.receive",
    "TcpCheck.send",
    "Tls.client_certificate",
    "Upstream.drill",
    "Upstream.sticky",
];

/// A field that exists to be refused.
const REFUSED: &str = "TargetHealthCheck.path";

/// A type of the schema, or a field, in a config. See `stages.yaml`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stage {
    config: Option<Value>,
    at: Option<String>,
    apart: Option<Value>,
    other: Option<Value>,
}

/// A field of a type of the schema.
struct Field {
    of: String,
    name: String,
    schema: Value,
    is_required: bool,
}

impl Field {
    fn path(&self) -> String {
        format!("{}.{}", self.of, self.name)
    }

    fn default(&self) -> Option<&Value> {
        self.schema.get("default")
    }
}

/// Types of the schema by name, `File` for the root.
fn types() -> BTreeMap<String, Value> {
    let schema = schema::schema();
    let definitions = schema["$defs"].as_object().unwrap().clone();
    definitions.into_iter().chain([("File".to_owned(), schema)]).collect()
}

fn fields() -> Vec<Field> {
    let mut fields = Vec::new();
    for (of, schema) in types() {
        let required: Vec<&Value> = schema["required"].as_array().into_iter().flatten().collect();
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let is_required = required.contains(&&json!(name));
            fields.push(Field { of: of.clone(), name: name.clone(), schema: property.clone(), is_required });
        }
    }
    assert!(fields.len() > 150, "the fields were not found");
    fields
}

fn stages() -> BTreeMap<String, Stage> {
    let text = std::fs::read_to_string(root().join("tests/golden/stages.yaml")).unwrap();
    serde_yaml::from_str(&text).unwrap()
}

/// Everything that a config can change.
#[derive(Debug, PartialEq)]
struct Outcome {
    model: Model,
    snapshots: BTreeMap<Name, Snapshot>,
    violations: Vec<(&'static str, String, String)>,
}

fn build(config: &Value) -> Result<Build, Vec<Violation>> {
    // Beside the certificates, which a config names by relative paths.
    let file = root().join("tests/fixtures/stage.yaml").display().to_string();
    let files = imbl::OrdMap::unit(file, config.to_string().into());
    let mut inputs = Inputs { files, addresses: addresses(), ..Inputs::default() };
    build::build_reading(&mut inputs, None, |names| material::read_named(names, None))
}

fn outcome(config: &Value) -> Result<Outcome, Vec<Violation>> {
    let build = build(config)?;
    let violations = build.violations().into_iter().map(|it| (it.code, it.path, it.message)).collect();
    let snapshots = build.snapshots.into_iter().map(|(fleet, it)| (fleet, (*it).clone())).collect();
    Ok(Outcome { model: build.model, snapshots, violations })
}

/// The tags of all entities, which are kept to be found by and change nothing else.
fn tags(config: &Value) -> Vec<Vec<String>> {
    let build = build(config).unwrap();
    let tags = |document: &Document| {
        let upstreams = document.upstreams.iter().map(|it| &it.entity);
        let targets = upstreams.clone().flat_map(|it| it.targets.iter().flatten()).map(|it| it.tags.clone());
        let upstreams = upstreams.map(|it| it.tags.clone());
        let fleets = document.fleets.iter().map(|it| it.entity.tags.clone());
        let listeners = document.listeners.iter().map(|it| it.entity.tags.clone());
        let certificates = document.certificates.iter().map(|it| it.entity.tags.clone());
        let routes = document.routes.iter().map(|it| it.entity.tags.clone());
        let services = document.services.iter().map(|it| it.entity.tags.clone());
        let rest = fleets.chain(listeners).chain(certificates).chain(routes).chain(services);
        targets.chain(upstreams).chain(rest).collect::<Vec<_>>()
    };
    build.file_documents().flat_map(|document| tags(document)).collect()
}

/// True if two configs come to the same, as far as `field` can tell.
fn are_alike(field: &Field, one: &Value, other: &Value) -> bool {
    match field.name.as_str() {
        "tags" => tags(one) == tags(other),
        _ => outcome(one) == outcome(other),
    }
}

fn with(config: &Value, at: &str, field: &str, value: &Value) -> Value {
    let mut config = config.clone();
    config.pointer_mut(at).unwrap()[field] = value.clone();
    config
}

/// A valid value other than the default: the example, or one near to the default.
fn other_than_default(field: &Field) -> Option<Value> {
    let default = field.default();
    let examples = field.schema["examples"].as_array().into_iter().flatten().cloned();
    examples.chain(default.and_then(neighbour)).chain(words(&field.schema)).find(|it| Some(it) != default)
}

fn neighbour(value: &Value) -> Option<Value> {
    match value {
        Value::Bool(on) => Some(json!(!on)),
        Value::Number(number) => Some(match number.as_u64() {
            Some(whole) => json!(whole + 1),
            None => json!(number.as_f64()? + 0.5),
        }),
        Value::String(text) if text.ends_with('s') && text.as_bytes()[0].is_ascii_digit() => {
            Some(json!("2s"))
        }
        Value::String(text) if text.ends_with(['m', 'h']) => Some(json!("2m")),
        Value::String(text) if text.ends_with("iB") => Some(json!("64KiB")),
        _ => None,
    }
}

/// The words that an enum has, however deep.
fn words(schema: &Value) -> Vec<Value> {
    let types = types();
    let own = schema["enum"].as_array().into_iter().flatten().cloned().chain(schema.get("const").cloned());
    let referred = schema["$ref"].as_str().and_then(|it| types.get(it.trim_start_matches("#/$defs/")));
    let below = ["anyOf", "oneOf"].into_iter().flat_map(|key| schema[key].as_array().into_iter().flatten());
    own.chain(below.chain(referred).flat_map(words)).collect()
}

#[test]
fn every_field_and_type_says_what_it_means() {
    let silent = |schema: &Value| schema["description"].as_str().is_none_or(|it| it.trim().is_empty());
    let types = types();
    let of_types = types.iter().filter(|(_, schema)| silent(schema)).map(|(name, _)| name.clone());
    let of_fields = fields().into_iter().filter(|field| silent(&field.schema)).map(|field| field.path());
    let mut found: Vec<String> = of_types.chain(of_fields).collect();
    // Beside properties, `oneOf` says which of them go together.
    for (name, schema) in types.iter().filter(|(_, schema)| schema.get("properties").is_none()) {
        let variants = schema["oneOf"].as_array().into_iter().flatten();
        found.extend(variants.filter(|it| silent(it)).map(|it| format!("{name}: {it}")));
    }
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn every_field_has_a_default_or_a_reason_for_none() {
    let fields = fields();
    let without = fields.iter().filter(|field| field.default().is_none() && !field.is_required);
    let without: BTreeSet<String> = without.map(Field::path).collect();
    let reasons = DERIVED.iter().map(|(field, _)| *field).chain(NOTHING).chain([REFUSED]);
    assert_eq!(without, reasons.map(str::to_owned).collect());
    for field in fields.iter().filter(|field| field.is_required) {
        assert_eq!(field.default(), None, "{} is required", field.path());
    }
}

/// Returns the fault of a field's default within `config`, if there is one.
fn fault_of_default(field: &Field, config: &Value, at: &str) -> Option<String> {
    let default = field.default()?;
    let explicit = with(config, at, &field.name, default);
    match build(&explicit) {
        Err(faults) => Some(format!("{}: {default} is refused: {}", field.path(), faults[0].message)),
        Ok(_) if are_alike(field, config, &explicit) => None,
        Ok(_) => Some(format!("{}: it is not {default} that runs", field.path())),
    }
}

/// Returns the fault of a value that is not the default: a field that nothing reads would pass with any default.
fn fault_of_other(field: &Field, config: &Value, at: &str, other: &Value) -> Option<String> {
    let changed = with(config, at, &field.name, other);
    match build(&changed) {
        Err(faults) => Some(format!("{}: {other} is refused: {}", field.path(), faults[0].message)),
        Ok(_) if are_alike(field, config, &changed) => {
            Some(format!("{}: {other} changes nothing", field.path()))
        }
        Ok(_) => None,
    }
}

#[test]
fn a_field_that_says_its_default_changes_nothing_and_another_value_does() {
    let stages = stages();
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for field in fields().iter().filter(|field| !field.is_required && field.path() != REFUSED) {
        let whole = stages.get(&field.of).unwrap_or_else(|| panic!("stages.yaml has no {}", field.of));
        let own = stages.get(&field.path()).cloned().unwrap_or_default();
        used.extend([field.of.clone(), field.path()]);
        let at = whole.at.as_ref().unwrap();
        let config = own.config.as_ref().or(whole.config.as_ref()).unwrap();
        let other = own.other.or_else(|| other_than_default(field));
        let other = other.unwrap_or_else(|| panic!("{} has no other value", field.path()));
        wrong.extend(fault_of_default(field, config, at));
        wrong.extend(fault_of_other(field, own.apart.as_ref().unwrap_or(config), at, &other));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let left: Vec<&String> = stages.keys().filter(|stage| !used.contains(*stage)).collect();
    assert!(left.is_empty(), "stages.yaml has what the schema has not: {left:?}");
}

/// Descriptions that name a default which depends on something else name the right one.
#[test]
fn derived_defaults_are_described_by_their_values() {
    let types = types();
    let check = |of: &str, field: &str, value: String| {
        let description = types[of]["properties"][field]["description"].as_str().unwrap();
        assert!(description.contains(&value), "{of}.{field} does not mention {value}: {description}");
    };
    check("Upstream", "connect_timeout", Upstream::CONNECT_TIMEOUT.to_string());
    check("OutlierDetection", "max_ejection_time", OutlierDetection::MAX_EJECTION_TIME.to_string());
    check("Resolver", "max_ttl", Resolver::MAX_TTL.to_string());
    let listener = Listener::default_listener();
    check("File", "listeners", listener.address.to_string());
    assert_eq!(listener.protocol, ProtocolSettings::Http);
    check("File", "listeners", json!(ListenerProtocol::Http).as_str().unwrap().to_owned());
    check("File", "listeners", format!("`{}`", listener.name));
}

/// Configs in which everything that `show` can print is absent, each with an upstream `shop`.
const SHOWN: [&str; 4] = [
    "{ name: shop, targets: [{ target: '10.0.0.1:80' }] }",
    "{ name: shop, health_check: { http: {} }, outlier_detection: { success_rate: {}, failure_percentage: {} },
       whole_response: {}, tls: {}, sticky: { cookie: { name: sid } }, drill: { schedule: '0 3 * * 1' },
       failback: { steps: [10, 100] }, targets: [{ target: 'primary-1:80' }] }",
    "{ name: shop, protocol: http2, health_check: { grpc: {} }, limits: { retry_budget: {} }, failover: {},
       targets: [{ target: '10.0.0.1:80', tls: {} }] }",
    "{ name: shop, health_check: off, outlier_detection: off, targets: [{ target: '10.0.0.1:80' }] }",
];

/// The field at a path that `show` prints, below `schema`; none for what is no field.
fn field_at<'s>(
    types: &'s BTreeMap<String, Value>,
    schema: &'s Value,
    path: &[&str],
) -> Option<(String, &'s Value)> {
    fn within<'s>(
        types: &'s BTreeMap<String, Value>,
        (of, schema): (String, &'s Value),
        path: &[&str],
    ) -> Option<(String, &'s Value)> {
        let [first, rest @ ..] = path else { return Some((of, schema)) };
        if let Some(property) = schema["properties"].get(*first) {
            let name = of.rsplit('.').next().unwrap_or_default();
            return within(types, (format!("{name}.{first}"), property), rest);
        }
        let below =
            ["anyOf", "oneOf"].into_iter().flat_map(|key| schema[key].as_array().into_iter().flatten());
        let referred = schema["$ref"].as_str().map(|it| it.trim_start_matches("#/$defs/"));
        let referred = referred.and_then(|name| within(types, (name.to_owned(), &types[name]), path));
        referred.or_else(|| below.into_iter().find_map(|it| within(types, (of.clone(), it), path)))
    }
    within(types, (String::new(), schema), path)
}

/// A setting that `show` prints, and the field of the schema that it is a value of.
struct Shown {
    setting: EffectiveSetting,
    field: String,
    default: Option<Value>,
    is_of_target: bool,
}

/// Settings that `show` prints of the upstream `shop` and of its service.
fn shown(types: &BTreeMap<String, Value>, upstream: &str) -> Vec<Shown> {
    let text = format!("{{ upstreams: [{upstream}], services: [{{ name: shop, upstream: shop }}] }}");
    let build = build(&serde_yaml::from_str(&text).unwrap()).unwrap();
    let settings = settings::of(&build, &Name::parse("shop").unwrap()).unwrap();
    let settings = settings.into_iter().filter(|it| !it.path.split(['.', ']']).any(|key| key == "envoy"));
    let shown = settings.map(|setting| {
        let (of, path) = match setting.path.split_once("].") {
            Some((list, path)) if list.starts_with("targets[") => ("Target", path),
            Some((_, path)) => ("Service", path),
            None => ("Upstream", setting.path.as_str()),
        };
        let root = json!({ "$ref": format!("#/$defs/{of}") });
        let (field, schema) = field_at(types, &root, &path.split('.').collect::<Vec<_>>()).unwrap();
        let default = schema.get("default").cloned();
        Shown { field, default, is_of_target: of == "Target", setting }
    });
    shown.collect()
}

/// True for null, and for a mapping of nothing else.
fn is_nothing(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(|fields| fields.values().all(Value::is_null))
}

/// Returns true if a value that is shown as the default is that of the schema.
fn is_default(shown: &Shown) -> bool {
    let unless_capped = match shown.field.as_str() {
        "Upstream.connect_timeout" => Some(json!(Upstream::CONNECT_TIMEOUT)),
        "OutlierDetection.max_ejection_time" => Some(json!(OutlierDetection::MAX_EJECTION_TIME)),
        _ => None,
    };
    match shown.default.as_ref().or(unless_capped.as_ref()) {
        Some(default) if default == "off" => is_nothing(&shown.setting.value) || shown.setting.value == "off",
        Some(default) => shown.setting.value == *default,
        None => is_nothing(&shown.setting.value),
    }
}

/// Returns true if a field that is shown as derived has no default of its own, or comes to just that.
fn is_derived(shown: &Shown) -> bool {
    let among = |field: &str| DERIVED.iter().any(|(derived, _)| *derived == field);
    // An absent field in the TLS of a target is the upstream's.
    let is_inherited = shown.is_of_target && among("Target.tls") && shown.field.starts_with("Tls.");
    among(&shown.field) || is_inherited || shown.default.as_ref() == Some(&shown.setting.value)
}

#[test]
fn the_defaults_that_show_prints_are_those_of_the_schema() {
    let types = types();
    let all: Vec<Shown> = SHOWN.iter().flat_map(|upstream| shown(&types, upstream)).collect();
    let wrong = all.iter().filter(|shown| match shown.setting.origin {
        SettingOrigin::Default => !is_default(shown),
        SettingOrigin::Derived { .. } => !is_derived(shown),
        SettingOrigin::File { .. } | SettingOrigin::Stored => false,
    });
    let wrong = wrong.map(|Shown { setting, field, default, .. }| {
        format!("{field}: {} is shown as {:?}, the default is {default:?}", setting.value, setting.origin)
    });
    assert_eq!(wrong.collect::<Vec<_>>(), Vec::<String>::new());
    let fields: BTreeSet<&str> = all.iter().map(|shown| shown.field.as_str()).collect();
    assert!(fields.len() > 60, "{fields:?}");
}
