//! Property test: an incremental build equals a build from nothing, after any sequence of changes, accepted
//! or refused.

use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Build, Inputs, build};
use crate::config::document::Kind;
use crate::envoy::ResourceType;
use crate::envoy::node::Locality;
use crate::model::addresses::Addresses;

/// Change of the inputs.
#[derive(Debug, Clone)]
enum RandomEdit {
    /// File with these entities, by kind.
    File(usize, Vec<(&'static str, Value)>),
    /// File with a text that may not parse.
    Text(usize, &'static str),
    NoFile(usize),
    Stored(Kind, String, Value),
    NotStored(Kind, String),
    /// Addresses of `one.test` and `two.test`.
    Names(u8, u8),
}

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "c"])
}

fn address() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["10.0.0.1:80", "10.0.0.2:80", "one.test:80", "two.test:80", "10.0.0.300:80"])
}

/// Generates one of the values for a field, or leaves the field out.
fn field(key: &'static str, values: Vec<Value>) -> impl Strategy<Value = Option<(&'static str, Value)>> {
    prop_oneof![2 => Just(None), 1 => prop::sample::select(values).prop_map(move |value| Some((key, value)))]
}

fn with(mut entity: Value, fields: impl IntoIterator<Item = Option<(&'static str, Value)>>) -> Value {
    for (key, value) in fields.into_iter().flatten() {
        entity[key] = value;
    }
    entity
}

fn target() -> impl Strategy<Value = Value> {
    let fields = (
        field("weight", vec![json!(1), json!(0), json!(70_000)]),
        field("priority", vec![json!(1), json!(3)]),
        field("zone", vec![json!("x"), json!("y")]),
        field("tls", vec![json!({ "sni": "x.test" })]),
    );
    (address(), fields).prop_map(|(target, (a, b, c, d))| with(json!({ "target": target }), [a, b, c, d]))
}

fn upstream() -> impl Strategy<Value = Value> {
    let fields = (
        field("connect_timeout", vec![json!("1s"), json!("0s")]),
        field("protocol", vec![json!("http2"), json!("tcp")]),
        field("tls", vec![json!({}), json!({ "client_certificate": "a" })]),
        field("failover", vec![json!({ "mode": "spill" })]),
        field("health_check", vec![json!("off"), json!({ "http": { "path": "/" } })]),
    );
    (name(), prop::collection::vec(target(), 0..4), fields).prop_map(|(name, targets, (a, b, c, d, e))| {
        with(json!({ "name": name, "targets": targets }), [a, b, c, d, e])
    })
}

fn service() -> impl Strategy<Value = Value> {
    let fields = (
        field("upstream", vec![json!("a"), json!("b"), json!("c")]),
        field("upstreams", vec![json!([{ "name": "a" }, { "name": "b", "failover": true }])]),
        field("try_timeout", vec![json!("100ms"), json!("0s")]),
        field("timeout", vec![json!("2s")]),
        field("host_header", vec![json!("target")]),
    );
    (name(), fields).prop_map(|(name, (a, b, c, d, e))| with(json!({ "name": name }), [a, b, c, d, e]))
}

fn route() -> impl Strategy<Value = Value> {
    let fields = (
        field("service", vec![json!("a"), json!("b"), json!("c")]),
        field("paths", vec![json!(["/a"]), json!(["/b"])]),
        field("fleets", vec![json!(["a"]), json!(["default"])]),
        field("listeners", vec![json!(["a"])]),
        field("timeout", vec![json!("1s")]),
        field("try_timeout", vec![json!("50ms")]),
    );
    (name(), fields).prop_map(|(name, (a, b, c, d, e, f))| with(json!({ "name": name }), [a, b, c, d, e, f]))
}

fn fleet() -> impl Strategy<Value = Value> {
    name().prop_map(|name| json!({ "name": name, "select": { "cluster": name } }))
}

fn listener() -> impl Strategy<Value = Value> {
    let fields = (
        field("fleets", vec![json!(["a"]), json!(["b"])]),
        field("protocol", vec![json!("tcp"), json!("failover_gateway")]),
        field("service", vec![json!("a")]),
    );
    (name(), 8000..8002, fields).prop_map(|(name, port, (a, b, c))| {
        with(json!({ "name": name, "address": format!("0.0.0.0:{port}") }), [a, b, c])
    })
}

fn raw() -> impl Strategy<Value = Value> {
    let cluster = |(name, endpoints): (&str, &str)| {
        json!({ "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": format!("raw-{name}"),
            "type": "EDS", "eds_cluster_config": { "service_name": endpoints, "eds_config": { "ads": {} } } })
    };
    let patch = |(name, kind, timeout): (&str, &str, &str)| {
        let field = if kind == "clusters" { "connect_timeout" } else { "named_endpoints" };
        json!({ "kind": kind, "name": name, "merge": { field: timeout } })
    };
    let kind = prop::sample::select(vec!["clusters", "clusters", "endpoints"]);
    let patch = (name(), kind, prop::sample::select(vec!["1s", "2s", "soon"])).prop_map(patch);
    let resources = prop::collection::vec((name(), name()).prop_map(cluster), 0..2);
    (resources, prop::collection::vec(patch, 0..2))
        .prop_map(|(resources, patches)| json!({ "resources": resources, "patches": patches }))
}

fn entity() -> impl Strategy<Value = (&'static str, Value)> {
    prop_oneof![
        4 => upstream().prop_map(|it| ("upstreams", it)),
        4 => service().prop_map(|it| ("services", it)),
        4 => route().prop_map(|it| ("routes", it)),
        1 => fleet().prop_map(|it| ("fleets", it)),
        1 => listener().prop_map(|it| ("listeners", it)),
        2 => raw().prop_map(|it| ("raw", it)),
    ]
}

fn change() -> impl Strategy<Value = RandomEdit> {
    let file = (0..3_usize, prop::collection::vec(entity(), 0..4));
    let text =
        prop::sample::select(vec!["", "upstreams: [", "upstreams: [{ name: a }]\n---\nservices: []\n"]);
    let stored = prop_oneof![
        upstream().prop_map(|it| (Kind::Upstream, it)),
        service().prop_map(|it| (Kind::Service, it)),
        route().prop_map(|it| (Kind::Route, it)),
    ];
    let named = |(kind, body): (Kind, Value)| {
        let name = body["name"].as_str().unwrap_or_default().to_owned();
        RandomEdit::Stored(kind, name, body)
    };
    let added = |(upstream, body): (&str, Value)| {
        let name = format!("{upstream}/{}", body["target"].as_str().unwrap_or_default());
        RandomEdit::Stored(Kind::Target, name, body)
    };
    let kind = prop::sample::select(vec![Kind::Upstream, Kind::Service, Kind::Route]);
    prop_oneof![
        6 => file.prop_map(|(file, entities)| RandomEdit::File(file, entities)),
        1 => (0..3_usize, text).prop_map(|(file, text)| RandomEdit::Text(file, text)),
        1 => (0..3_usize).prop_map(RandomEdit::NoFile),
        4 => stored.prop_map(named),
        4 => (name(), target()).prop_map(added),
        2 => (kind, name()).prop_map(|(kind, name)| RandomEdit::NotStored(kind, name.to_owned())),
        2 => (name(), address()).prop_map(|(upstream, address)| {
            RandomEdit::NotStored(Kind::Target, format!("{upstream}/{address}"))
        }),
        2 => (0..3_u8, 0..3_u8).prop_map(|(one, two)| RandomEdit::Names(one, two)),
    ]
}

impl RandomEdit {
    fn apply(self, inputs: &mut Inputs) {
        let file = |number: usize| format!("{number}.yaml");
        match self {
            Self::File(number, entities) => {
                let mut text = json!({});
                for (kind, entity) in entities {
                    match kind {
                        "raw" => text[kind] = entity,
                        _ if text[kind].is_null() => text[kind] = json!([entity]),
                        _ => text[kind].as_array_mut().expect("a list").push(entity),
                    }
                }
                inputs.files.insert(file(number), text.to_string().into());
            }
            Self::Text(number, text) => drop(inputs.files.insert(file(number), text.into())),
            Self::NoFile(number) => drop(inputs.files.remove(&file(number))),
            Self::Stored(kind, name, body) => drop(inputs.stored.insert((kind, name), Arc::new(body))),
            Self::NotStored(kind, name) => drop(inputs.stored.remove(&(kind, name))),
            Self::Names(one, two) => {
                let ip = |it| IpAddr::from([10, 0, 0, it]);
                let ips = |last: u8| (1..=last).map(ip).collect::<Vec<IpAddr>>();
                let names = [("one.test".to_owned(), ips(one)), ("two.test".to_owned(), ips(two))];
                inputs.addresses = Addresses { names: names.into_iter().collect(), ..Addresses::default() };
            }
        }
    }
}

/// Returns everything that a build results in, in comparable form: its model and warnings, and the bytes of
/// what each fleet is sent.
fn said(build: &Build) -> (impl PartialEq + std::fmt::Debug + use<>, Vec<String>) {
    let told = build.snapshots.iter().flat_map(|(fleet, snapshot)| {
        let place = Locality { zone: "x".to_owned(), ..Locality::default() };
        [snapshot.clone(), build.snapshot_at(fleet, &place)].into_iter().flat_map(move |snapshot| {
            ResourceType::ALL.into_iter().flat_map(move |resource_type| {
                let set = snapshot.set(resource_type).clone();
                let one = |it: &Arc<_>| format!("{fleet} {resource_type} {}", dump(it));
                set.iter().map(one).collect::<Vec<_>>()
            })
        })
    });
    let told = told.collect();
    ((build.model.clone(), build.warnings.clone(), build.host_names(), build.named_files()), told)
}

/// Returns a resource as text, with all fields that xDS streams depend on.
fn dump(resource: &crate::build::snapshot::resource::Resource) -> String {
    let crate::build::snapshot::resource::Resource { name, version, endpoints, clusters, .. } = resource;
    format!("{name} {version} {endpoints:?} {clusters:?} {:?}", resource.message())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_is_built_from_the_last_build_is_what_is_built_from_nothing(
        changes in prop::collection::vec(change(), 1..16)
    ) {
        let mut inputs = Inputs::default();
        let mut last = build(&inputs, None).expect("nothing is fine");
        for change in changes {
            // A refused write over REST is undone, as the API does; a refused file stays, with its faults.
            let before = inputs.clone();
            change.clone().apply(&mut inputs);
            match (build(&inputs, Some(&last)), build(&inputs, None)) {
                (Ok(next), Ok(fresh)) => {
                    prop_assert_eq!(said(&next), said(&fresh));
                    last = next;
                }
                (Err(next), Err(fresh)) => {
                    prop_assert_eq!(next, fresh);
                    if matches!(change, RandomEdit::Stored(..) | RandomEdit::NotStored(..)) {
                        inputs = before;
                    }
                }
                (next, fresh) => prop_assert!(false, "{:?} but {:?}", next.map(|_| ()), fresh.map(|_| ())),
            }
        }
    }
}
