//! One file's or one stored entity's content, decoded and not yet understood.
//!
//! Every field is optional here and every reference a string: what is missing, dangling or contradictory is
//! told by `model::validate`, which sees all documents. Names and defaults are those of the native config's
//! reference.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, DeserializeOwned, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::config::material::{Ca, Material, path_of};
use crate::config::operation::{Drill, Failback, Notify};
use crate::config::raw;
use crate::config::tree::{self, Fault, Node, Value};
use crate::config::values::{Duration, OnOff, Size, Statuses, Switch, Toggle};
use crate::config::{Level, Path, Related, Step, Violation, near};
use crate::envoy::ResourceType;

/// The key of the resolver, of which there is one.
const RESOLVER: &str = "resolver";

/// The key of the rollout, of which there is one.
const ROLLOUT: &str = "rollout";

/// The key of the levels of rules at the top of a file.
const LINT: &str = "lint";

/// The key of those who are told of events.
const NOTIFY: &str = "notify";

/// The kinds of entities, each a list in a file and a collection in the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Groups of Envoys.
    Fleet,
    /// Where Envoys listen.
    Listener,
    /// What Envoys prove themselves with.
    Certificate,
    /// Which requests go where.
    Route,
    /// How requests are served.
    Service,
    /// Pools of targets and their policy.
    Upstream,
    /// One target of an upstream. In the API only; in files targets stand in their upstream.
    Target,
    /// An Envoy resource in Envoy's own words. Its name has its type in front, such as `clusters/checkout`.
    Raw,
}

impl Kind {
    /// The kinds that are lists at the top of a file.
    pub const TOP: [Self; 6] =
        [Self::Fleet, Self::Listener, Self::Certificate, Self::Route, Self::Service, Self::Upstream];

    /// The key in a file and the collection in the API.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Fleet => "fleets",
            Self::Listener => "listeners",
            Self::Certificate => "certificates",
            Self::Route => "routes",
            Self::Service => "services",
            Self::Upstream => "upstreams",
            Self::Target => "targets",
            Self::Raw => "raw",
        }
    }

    /// One of them, in words.
    pub fn singular(self) -> &'static str {
        match self {
            Self::Fleet => "fleet",
            Self::Listener => "listener",
            Self::Certificate => "certificate",
            Self::Route => "route",
            Self::Service => "service",
            Self::Upstream => "upstream",
            Self::Target => "target",
            Self::Raw => "raw resource",
        }
    }

    /// The same with its article.
    pub fn one(self) -> &'static str {
        match self {
            Self::Fleet => "a fleet",
            Self::Listener => "a listener",
            Self::Certificate => "a certificate",
            Self::Route => "a route",
            Self::Service => "a service",
            Self::Upstream => "an upstream",
            Self::Target => "a target",
            Self::Raw => "a raw resource",
        }
    }

    /// The kind whose collection has this name.
    pub fn from_plural(word: &str) -> Option<Self> {
        Self::TOP.into_iter().chain([Self::Target, Self::Raw]).find(|kind| kind.plural() == word)
    }
}

/// Where a document came from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// A file, as the operator named it.
    File(Arc<str>),
    /// An entity that was written over REST. Of a target the name is `upstream/host:port`, of a raw resource
    /// `type/name`.
    Stored {
        /// What it is.
        kind: Kind,
        /// Unique within the kind.
        name: Arc<str>,
    },
}

/// An entity and its place in the document.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared<T> {
    /// Such as `upstreams[2]`; empty for a stored entity, which is its whole document.
    pub path: Path,
    /// What could be decoded; faulty fields are as if absent.
    pub entity: T,
}

/// The entities of one YAML document or of one write, with the tree that knows their places.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Where it came from.
    pub origin: Origin,
    /// The text could be read to its end, so no name that it declares is missing here.
    pub whole: bool,
    /// Paths at which decoding found a fault: what was there reads as absent, and must not be told twice.
    pub faulty: Vec<Path>,
    /// In the order of the text.
    pub fleets: Vec<Declared<Fleet>>,
    /// In the order of the text.
    pub listeners: Vec<Declared<Listener>>,
    /// In the order of the text.
    pub certificates: Vec<Declared<Certificate>>,
    /// In the order of the text.
    pub routes: Vec<Declared<Route>>,
    /// In the order of the text.
    pub services: Vec<Declared<Service>>,
    /// In the order of the text.
    pub upstreams: Vec<Declared<Upstream>>,
    /// How host names are resolved.
    pub resolver: Option<Declared<Resolver>>,
    /// Which Envoys get a change first.
    pub rollout: Option<Declared<Rollout>>,
    /// A target that was added over REST, and the name of its upstream.
    pub target: Option<(Arc<str>, Declared<Target>)>,
    /// Envoy's own resources, in the order of the text.
    pub raw: Vec<Declared<Arc<raw::Resource>>>,
    /// Patches to compiled resources, in the order of the text.
    pub patches: Vec<Declared<raw::Patch>>,
    /// How loud rules are, by code.
    pub lint: Vec<Declared<BTreeMap<String, LintSetting>>>,
    /// Who is told of events, in the order of the text.
    pub notify: Vec<Declared<Notify>>,
    root: Node,
}

/// Names, where there are any, and where the entities stand.
type Entities<'d> = Box<dyn Iterator<Item = (Option<&'d str>, &'d Path)> + 'd>;

impl Document {
    fn empty(origin: Origin) -> Self {
        Self {
            origin,
            whole: true,
            faulty: Vec::new(),
            fleets: Vec::new(),
            listeners: Vec::new(),
            certificates: Vec::new(),
            routes: Vec::new(),
            services: Vec::new(),
            upstreams: Vec::new(),
            resolver: None,
            rollout: None,
            target: None,
            raw: Vec::new(),
            patches: Vec::new(),
            lint: Vec::new(),
            notify: Vec::new(),
            root: Node { span: None, value: Value::Null },
        }
    }

    /// The violation at `path` of this document.
    pub fn violation(&self, code: &'static str, level: Level, path: &Path, message: String) -> Violation {
        let span = self.root.span_of(path);
        self.place(Fault { code, path: path.clone(), span, message, help: None, related: Vec::new() }, level)
    }

    /// This document's `path` as a place that explains a violation elsewhere.
    pub fn related(&self, path: &Path, message: &str) -> Related {
        let start = self.root.span_of(path).map(|span| span.start);
        Related {
            message: message.to_owned(),
            file: self.file().map(str::to_owned),
            line: start.map(|start| start.line),
            column: start.map(|start| start.column),
        }
    }

    /// The file, as the operator named it.
    pub fn file(&self) -> Option<&str> {
        match &self.origin {
            Origin::File(file) => Some(file),
            Origin::Stored { .. } => None,
        }
    }

    /// Of an entity that was written over REST, its name there.
    pub fn stored_name(&self) -> Option<&str> {
        match &self.origin {
            Origin::File(_) => None,
            Origin::Stored { name, .. } => Some(name),
        }
    }

    /// The entities of a kind that have a name, and where they stand.
    pub fn named(&self, kind: Kind) -> Vec<(&str, &Path)> {
        self.entities(kind).filter_map(|(name, path)| Some((name?, path))).collect()
    }

    /// The names of all entities of a kind.
    pub fn names(&self, kind: Kind) -> Vec<Option<&str>> {
        self.entities(kind).map(|(name, _)| name).collect()
    }

    /// Where the entity of a kind stands that is in this place of its list.
    pub fn path_of(&self, kind: Kind, index: usize) -> Option<&Path> {
        self.entities(kind).nth(index).map(|(_, path)| path)
    }

    fn entities(&self, kind: Kind) -> Entities<'_> {
        fn all<'d, T>(list: &'d [Declared<T>], name: fn(&'d T) -> Option<&'d str>) -> Entities<'d> {
            Box::new(list.iter().map(move |declared| (name(&declared.entity), &declared.path)))
        }
        match kind {
            Kind::Fleet => all(&self.fleets, |fleet| fleet.name.as_deref()),
            Kind::Listener => all(&self.listeners, |listener| listener.name.as_deref()),
            Kind::Certificate => all(&self.certificates, |certificate| certificate.name.as_deref()),
            Kind::Route => all(&self.routes, |route| route.name.as_deref()),
            Kind::Service => all(&self.services, |service| service.name.as_deref()),
            Kind::Upstream => all(&self.upstreams, |upstream| upstream.name.as_deref()),
            Kind::Target => Box::new(std::iter::empty()),
            Kind::Raw => all(&self.raw, |resource| Some(&*resource.key)),
        }
    }

    /// The files that this document names, with keys and certificates in them.
    pub fn named_files(&self) -> impl Iterator<Item = String> {
        let certificates = self.certificates.iter().map(|it| &it.entity);
        let certificates = certificates.flat_map(|it| it.certificate.iter().chain(&it.key));
        let listeners = self.listeners.iter().filter_map(|it| it.entity.client_ca.as_ref());
        let upstreams = self.upstreams.iter().map(|it| &it.entity);
        let targets = upstreams.clone().flat_map(|it| it.targets.iter().flatten());
        let targets = targets.chain(self.target.iter().map(|(_, it)| &it.entity)).map(|it| it.tls.as_deref());
        let upstreams = upstreams.map(|it| it.tls.as_ref()).chain(targets);
        let authorities = upstreams.filter_map(|tls| match tls {
            Some(Switch::On(Tls { ca: Some(Ca::Pem(material)), .. })) => Some(material),
            _ => None,
        });
        let materials = certificates.chain(listeners).chain(authorities);
        materials.filter_map(|it| path_of(it.file.as_deref()?, self.file()))
    }

    /// What stands at `path`, as JSON.
    pub fn json(&self, path: &Path) -> serde_json::Value {
        self.root.get(path).map(Node::to_json).unwrap_or_default()
    }

    /// True when something other than null stands at `path`.
    pub fn says(&self, path: &Path) -> bool {
        self.root.get(path).is_some_and(|node| node.value != Value::Null)
    }

    /// True when a fault at `path`, above it or below it was told while decoding.
    pub fn is_faulty(&self, path: &Path) -> bool {
        self.faulty.iter().any(|faulty| faulty.contains(path) || path.contains(faulty))
    }

    /// True when what is missing at `path` was told as an unknown field with a word near to it.
    pub fn is_misspelt(&self, path: &Path) -> bool {
        let Some((Step::Key(missing), parent)) = path.0.split_last() else { return false };
        self.faulty.iter().any(|faulty| match faulty.0.split_last() {
            Some((Step::Key(found), beside)) => {
                beside == parent && !near(found, [missing.as_str()]).is_empty()
            }
            _ => false,
        })
    }

    fn place(&self, fault: Fault, level: Level) -> Violation {
        let start = fault.span.map(|span| span.start);
        let (path, pointer) = match &self.origin {
            Origin::File(_) => (fault.path.to_string(), None),
            Origin::Stored { kind, name } => {
                (stored_path(*kind, name, &fault.path), Some(fault.path.pointer()))
            }
        };
        let related = fault.related.into_iter().map(|(message, span)| Related {
            message,
            file: self.file().map(str::to_owned),
            line: span.map(|span| span.start.line),
            column: span.map(|span| span.start.column),
        });
        Violation {
            code: fault.code,
            level,
            message: fault.message,
            help: fault.help,
            file: self.file().map(str::to_owned),
            line: start.map(|start| start.line),
            column: start.map(|start| start.column),
            path,
            pointer,
            related: related.collect(),
        }
    }
}

fn stored_path(kind: Kind, name: &str, path: &Path) -> String {
    let entity = if name.is_empty() { kind.plural().to_owned() } else { format!("{}.{name}", kind.plural()) };
    match path.to_string() {
        inner if inner.is_empty() => entity,
        inner => format!("{entity}.{inner}"),
    }
}

/// The documents of a file, and every fault in them.
pub fn parse_file(file: &str, text: &str) -> (Vec<Document>, Vec<Violation>) {
    let origin = Origin::File(file.into());
    let (roots, faults) = tree::yaml(text);
    let mut documents: Vec<Document> = Vec::new();
    let mut violations = Vec::new();
    for root in roots {
        let (document, found) = decode_root(origin.clone(), root);
        violations.extend(found);
        documents.push(document);
    }
    // What is told of the text as a whole has a place of its own, whichever document it stands in.
    let mut rest = Document::empty(origin);
    rest.whole = !faults.iter().any(|fault| matches!(fault.code, tree::SYNTAX | tree::LIMIT));
    violations.extend(faults.into_iter().map(|fault| rest.place(fault, Level::Error)));
    if !rest.whole {
        documents.push(rest);
    }
    (documents, violations)
}

/// The document of one entity that was written over REST.
pub fn parse_stored(kind: Kind, name: &str, root: Node) -> (Document, Vec<Violation>) {
    let origin = Origin::Stored { kind, name: name.into() };
    let mut document = Document::empty(origin);
    let path = Path::default();
    let faults = match kind {
        Kind::Fleet => decode_into(&root, path, &mut document.fleets),
        Kind::Listener => decode_into(&root, path, &mut document.listeners),
        Kind::Certificate => decode_into(&root, path, &mut document.certificates),
        Kind::Route => decode_into(&root, path, &mut document.routes),
        Kind::Service => decode_into(&root, path, &mut document.services),
        Kind::Upstream => decode_into(&root, path, &mut document.upstreams),
        Kind::Target => {
            let mut targets = Vec::new();
            let faults = decode_into(&root, path, &mut targets);
            let upstream = name.split('/').next().unwrap_or_default();
            document.target = targets.pop().map(|target| (upstream.into(), target));
            faults
        }
        Kind::Raw if raw::patched(name).is_some() => decode_patch(&root, path, &mut document),
        Kind::Raw => {
            let resource_type = raw::split(name).map(|(resource_type, _)| resource_type);
            decode_raw(&root, path, resource_type, &mut document)
        }
    };
    document.root = root;
    let violations = document.note(faults);
    (document, violations)
}

fn decode_root(origin: Origin, root: Node) -> (Document, Vec<Violation>) {
    let mut document = Document::empty(origin);
    let faults = match &root.value {
        Value::Mapping(entries) => entries
            .iter()
            .flat_map(|entry| {
                let path = Path::default().key(&entry.key);
                match Kind::TOP.into_iter().find(|kind| kind.plural() == entry.key) {
                    Some(kind) => decode_list(kind, &entry.value, &path, &mut document),
                    None if entry.key == RESOLVER => {
                        decode_single(&entry.value, path, &mut document.resolver)
                    }
                    None if entry.key == ROLLOUT => decode_single(&entry.value, path, &mut document.rollout),
                    None if entry.key == Kind::Raw.plural() => raws(&entry.value, &path, &mut document),
                    None if entry.key == NOTIFY => decode_notify(&entry.value, &path, &mut document),
                    None if entry.key == LINT => decode_into(&entry.value, path, &mut document.lint),
                    None => vec![unknown_list(entry, path)],
                }
            })
            .collect(),
        _ => vec![Fault {
            code: tree::WRONG_TYPE,
            path: Path::default(),
            span: root.span,
            message: "a config is a mapping of lists".to_owned(),
            help: Some(format!("begin with one of: {}", list_names())),
            related: Vec::new(),
        }],
    };
    document.root = root;
    let violations = document.note(faults);
    (document, violations)
}

/// The keys at the top of a file.
pub(super) fn words() -> impl Iterator<Item = &'static str> {
    Kind::TOP.into_iter().chain([Kind::Raw]).map(Kind::plural).chain([RESOLVER, ROLLOUT, LINT, NOTIFY])
}

fn list_names() -> String {
    words().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

fn unknown_list(entry: &tree::Entry, path: Path) -> Fault {
    let help = match near(&entry.key, words()).first() {
        Some(word) => format!("did you mean `{word}`?"),
        None => format!("expected one of: {}", list_names()),
    };
    Fault {
        code: tree::UNKNOWN_FIELD,
        path,
        span: entry.key_span,
        message: format!("unknown field `{}`", entry.key),
        help: Some(help),
        related: Vec::new(),
    }
}

fn decode_list(kind: Kind, node: &Node, path: &Path, document: &mut Document) -> Vec<Fault> {
    let help = || format!("begin each {} with `- name: …`", kind.singular());
    let items = match items_of(node, path, kind.plural(), help) {
        Ok(items) => items,
        Err(faults) => return faults,
    };
    let mut faults = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let path = path.index(index);
        faults.extend(match kind {
            Kind::Fleet => decode_into(item, path, &mut document.fleets),
            Kind::Listener => decode_into(item, path, &mut document.listeners),
            Kind::Certificate => decode_into(item, path, &mut document.certificates),
            Kind::Route => decode_into(item, path, &mut document.routes),
            Kind::Service => decode_into(item, path, &mut document.services),
            Kind::Upstream => decode_into(item, path, &mut document.upstreams),
            Kind::Target | Kind::Raw => Vec::new(),
        });
    }
    faults
}

/// The elements of what should be a list; null is an empty one.
fn items_of<'n>(
    node: &'n Node,
    path: &Path,
    word: &str,
    help: impl FnOnce() -> String,
) -> Result<&'n [Node], Vec<Fault>> {
    match &node.value {
        Value::Sequence(items) => Ok(items),
        Value::Null => Ok(&[]),
        _ => Err(vec![Fault {
            code: tree::WRONG_TYPE,
            path: path.clone(),
            span: node.span,
            message: format!("`{word}` is a list"),
            help: Some(help()),
            related: Vec::new(),
        }]),
    }
}

fn decode_notify(node: &Node, path: &Path, document: &mut Document) -> Vec<Fault> {
    match items_of(node, path, NOTIFY, || "begin each receiver with `- url: …`".to_owned()) {
        Ok(items) => {
            let decode = |(index, item)| decode_into(item, path.index(index), &mut document.notify);
            items.iter().enumerate().flat_map(decode).collect()
        }
        Err(faults) => faults,
    }
}

/// What there is one of in a document.
fn decode_single<T: DeserializeOwned>(
    node: &Node,
    path: Path,
    single: &mut Option<Declared<T>>,
) -> Vec<Fault> {
    if node.value == Value::Null {
        return Vec::new();
    }
    let (entity, faults) = tree::decode(node, &path);
    *single = entity.map(|entity| Declared { path, entity });
    faults
}

/// `raw`: a mapping of two lists, whose elements are Envoy's to judge.
fn raws(node: &Node, path: &Path, document: &mut Document) -> Vec<Fault> {
    #[derive(Default, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Raw {
        resources: Vec<IgnoredAny>,
        patches: Vec<IgnoredAny>,
    }
    if node.value == Value::Null {
        return Vec::new();
    }
    let (_, mut faults) = tree::decode::<Raw>(node, path);
    for (key, is_patch) in [("resources", false), ("patches", true)] {
        let list = node.get(&Path::default().key(key)).map(|list| &list.value);
        let Some(Value::Sequence(items)) = list else { continue };
        for (index, item) in items.iter().enumerate() {
            let path = path.key(key).index(index);
            faults.extend(match is_patch {
                true => decode_patch(item, path, document),
                false => decode_raw(item, path, None, document),
            });
        }
    }
    faults
}

fn decode_patch(node: &Node, path: Path, document: &mut Document) -> Vec<Fault> {
    let (entity, faults) = raw::patch(node, &path);
    document.patches.extend(entity.map(|entity| Declared { path, entity }));
    faults
}

fn decode_raw(
    node: &Node,
    path: Path,
    resource_type: Option<ResourceType>,
    document: &mut Document,
) -> Vec<Fault> {
    match raw::resource(node, &path, resource_type) {
        Ok(entity) => {
            document.raw.push(Declared { path, entity: Arc::new(entity) });
            Vec::new()
        }
        Err(faults) => faults,
    }
}

fn decode_into<T: serde::de::DeserializeOwned>(
    node: &Node,
    path: Path,
    list: &mut Vec<Declared<T>>,
) -> Vec<Fault> {
    // An entity of which nothing can be read has no name: that it is dangling elsewhere is told once more.
    let (entity, faults) = tree::decode(node, &path);
    list.extend(entity.map(|entity| Declared { path, entity }));
    faults
}

impl Document {
    fn note(&mut self, faults: Vec<Fault>) -> Vec<Violation> {
        self.faulty = faults.iter().map(|fault| fault.path.clone()).collect();
        faults.into_iter().map(|fault| self.place(fault, Level::Error)).collect()
    }
}

/// `resolver`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct Resolver {
    pub servers: Vec<String>,
    pub min_ttl: Option<Duration>,
    pub max_ttl: Option<Duration>,
    pub retry: Option<Duration>,
}

/// `rollout`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct Rollout {
    pub canary: Option<OnOff>,
    pub bake: Option<Duration>,
    pub abort_if: Option<Switch<AbortIf>>,
}

/// `rollout.abort_if`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct AbortIf {
    pub error_rate: Option<f64>,
}

/// `fleets[]`: which Envoys share a configuration.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct Fleet {
    pub name: Option<String>,
    pub select: Option<Select>,
    pub tags: Vec<String>,
}

/// `fleets[].select`: all that are given must match.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct Select {
    pub cluster: Option<String>,
    pub id: Option<String>,
    pub region: Option<String>,
    pub zone: Option<String>,
    pub metadata: BTreeMap<String, String>,
}

/// `listeners[]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct Listener {
    pub name: Option<String>,
    pub address: Option<String>,
    pub protocol: Option<ListenerProtocol>,
    pub certificates: Vec<String>,
    pub client_ca: Option<Material>,
    pub service: Option<String>,
    pub fleets: Vec<String>,
    pub idle_timeout: Option<Duration>,
    pub access_log: Option<Switch<AccessLog>>,
    pub tags: Vec<String>,
}

/// `listeners[].protocol`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ListenerProtocol {
    /// Plain HTTP/1 and HTTP/2, told apart by what the client sends.
    #[default]
    Http,
    /// The same inside TLS, chosen by ALPN.
    Https,
    /// Connections, whatever is in them.
    Tcp,
    /// TLS that is not ended here: connections go where their SNI says.
    TlsPassthrough,
    /// Connections from other sites, for the upstream whose name is their SNI.
    FailoverGateway,
}

/// `listeners[].access_log`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct AccessLog {
    pub path: Option<String>,
    pub format: Option<LogFormat>,
}

/// `listeners[].access_log.format`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// An object a line.
    #[default]
    Json,
    /// Envoy's own format.
    Text,
}

/// `certificates[]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct Certificate {
    pub name: Option<String>,
    pub certificate: Option<Material>,
    pub key: Option<Material>,
    pub tags: Vec<String>,
}

/// `routes[]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct Route {
    pub name: Option<String>,
    pub listeners: Vec<String>,
    pub fleets: Vec<String>,
    pub hosts: Vec<String>,
    pub paths: Vec<String>,
    pub methods: Vec<String>,
    pub headers: BTreeMap<String, String>,
    pub query: BTreeMap<String, String>,
    pub service: Option<String>,
    pub redirect: Option<Redirect>,
    pub respond: Option<Respond>,
    pub rewrite: Option<Rewrite>,
    pub request_headers: HeaderChanges,
    pub response_headers: HeaderChanges,
    pub timeout: Option<Duration>,
    pub try_timeout: Option<Duration>,
    pub retries: Option<Switch<Retries>>,
    pub lint: Option<BTreeMap<String, LintSetting>>,
    pub tags: Vec<String>,
}

/// `routes[].redirect`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct Redirect {
    pub scheme: Option<Scheme>,
    pub host: Option<String>,
    pub path: Option<String>,
    pub status: Option<u32>,
}

/// `routes[].redirect.scheme`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// In plain text.
    Http,
    /// Over TLS.
    Https,
}

/// `routes[].respond`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct Respond {
    pub status: Option<u32>,
    pub body: Option<String>,
    pub headers: BTreeMap<String, String>,
}

/// `routes[].rewrite`: one of `prefix`, `path`, and `regex` with `to`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct Rewrite {
    pub prefix: Option<String>,
    pub path: Option<String>,
    pub regex: Option<String>,
    pub to: Option<String>,
}

/// `routes[].request_headers` and `routes[].response_headers`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct HeaderChanges {
    pub set: BTreeMap<String, String>,
    pub add: BTreeMap<String, String>,
    pub remove: Vec<String>,
}

/// `services[]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct Service {
    pub name: Option<String>,
    pub upstream: Option<String>,
    pub upstreams: Vec<Member>,
    pub timeout: Option<Duration>,
    pub try_timeout: Option<Duration>,
    pub retries: Option<Switch<Retries>>,
    pub host_header: Option<String>,
    pub hash_by: Vec<HashBy>,
    pub websocket: Option<bool>,
    pub lint: Option<BTreeMap<String, LintSetting>>,
    pub tags: Vec<String>,
}

/// `services[].hash_by[]`: what is equal for requests that should go to the same target.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HashBy {
    /// The value of a header, by its name.
    Header(String),
    /// The value of a cookie.
    Cookie(Cookie),
    /// The value of a query parameter, by its name.
    Query(String),
    /// The path without its query.
    Path,
    /// The address of the client's connection.
    SourceIp,
}

/// A cookie of `services[].hash_by[]` or of `upstreams[].sticky`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct Cookie {
    pub name: Option<String>,
    pub ttl: Option<Duration>,
    pub path: Option<String>,
}

/// `services[].upstreams[]`: a member of a service that has several.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct Member {
    pub name: Option<String>,
    pub weight: Option<u32>,
    pub priority: Option<u32>,
    pub failover: Option<bool>,
}

/// `services[].retries`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct Retries {
    pub attempts: Option<u32>,
    pub retry_on: Option<Vec<String>>,
    pub statuses: Option<Vec<u32>>,
    pub methods_once: Option<MethodsOnce>,
    pub back_off: Option<BackOff>,
    pub body: Option<Size>,
}

/// `services[].retries.methods_once`: when a request that is not idempotent is tried again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MethodsOnce {
    /// Only if it surely reached no server.
    #[default]
    Safe,
    /// Never.
    Never,
    /// As an idempotent one.
    Always,
}

/// `services[].retries.back_off`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct BackOff {
    pub base: Option<Duration>,
    pub max: Option<Duration>,
}

/// `upstreams[]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct Upstream {
    pub name: Option<String>,
    pub protocol: Option<UpstreamProtocol>,
    pub tls: Option<Switch<Tls>>,
    pub connect_timeout: Option<Duration>,
    pub idle_timeout: Option<Duration>,
    pub load_balancer: Option<LoadBalancer>,
    pub sticky: Option<Sticky>,
    pub slow_start: Option<Duration>,
    pub limits: Option<Limits>,
    pub health_check: Option<Switch<HealthCheck>>,
    pub outlier_detection: Option<Switch<OutlierDetection>>,
    pub failover: Option<Failover>,
    pub failback: Option<Failback>,
    pub drill: Option<Drill>,
    pub resolve: Option<Resolve>,
    pub whole_response: Option<Toggle<WholeResponse>>,
    pub targets: Option<Vec<Target>>,
    pub lint: Option<BTreeMap<String, LintSetting>>,
    pub tags: Vec<String>,
}

/// `upstreams[].protocol`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 with prior knowledge; in TLS agreed on by ALPN.
    Http2,
    /// HTTP/2 where a target agrees to it by ALPN, else HTTP/1.1. Only in TLS.
    Auto,
    /// Connections, whatever is in them.
    Tcp,
}

/// `upstreams[].tls` and `upstreams[].targets[].tls`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct Tls {
    pub sni: Option<String>,
    pub ca: Option<Ca>,
    pub verify_names: Option<Vec<String>>,
    pub client_certificate: Option<String>,
    pub insecure: Option<bool>,
}

/// `upstreams[].load_balancer`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoadBalancer {
    /// By weight, in turn.
    #[default]
    RoundRobin,
    /// The one of two with fewer requests under way.
    LeastRequest,
    /// Evenly by chance; weights are ignored.
    Random,
    /// By chance and weight.
    WeightedRandom,
    /// By a hash of the request, on a ring of targets.
    RingHash,
    /// By a hash of the request, in a table of targets. It is faster than a ring and moves fewer keys.
    Maglev,
}

/// `upstreams[].resolve`: who looks the host names of targets up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Resolve {
    /// The control plane, which tells Envoys the addresses.
    #[default]
    ControlPlane,
    /// Each Envoy for itself.
    Envoy,
}

/// `upstreams[].whole_response`: an answer is passed on only when it is whole, so that one that is cut can be
/// tried again.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct WholeResponse {
    pub max: Option<Size>,
    pub chunked: Option<Chunked>,
}

/// `upstreams[].whole_response.chunked`: what becomes of an answer that does not say its length.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Chunked {
    /// It is passed on as it comes: it may be a stream.
    #[default]
    Pass,
    /// It is held like the others, whatever its length.
    Hold,
}

/// `upstreams[].sticky`: by what a client is led to the target that served it before.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sticky {
    /// A cookie that Envoy sets.
    Cookie(Cookie),
    /// A header of answers that the client sends back, by its name.
    Header(String),
}

/// `upstreams[].limits`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct Limits {
    pub connections: Option<u32>,
    pub pending_requests: Option<u32>,
    pub requests: Option<u32>,
    pub retries: Option<u32>,
    pub requests_per_connection: Option<u32>,
    pub retry_budget: Option<RetryBudget>,
}

/// `upstreams[].limits.retry_budget`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct RetryBudget {
    pub percent: Option<f64>,
    pub at_least: Option<u32>,
}

/// `upstreams[].health_check`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct HealthCheck {
    pub tcp: Option<TcpCheck>,
    pub http: Option<HttpCheck>,
    pub grpc: Option<GrpcCheck>,
    pub port: Option<u16>,
    pub interval: Option<Duration>,
    pub timeout: Option<Duration>,
    pub unhealthy_threshold: Option<u32>,
    pub healthy_threshold: Option<u32>,
    pub unhealthy_interval: Option<Duration>,
    pub idle_interval: Option<Duration>,
    pub jitter: Option<u32>,
}

/// `upstreams[].health_check.tcp`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct TcpCheck {
    pub send: Option<String>,
    pub receive: Option<String>,
}

/// `upstreams[].health_check.http`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct HttpCheck {
    pub path: Option<String>,
    pub method: Option<String>,
    pub host: Option<String>,
    pub headers: BTreeMap<String, String>,
    pub expected: Vec<Statuses>,
    pub body: Option<String>,
}

/// `upstreams[].health_check.grpc`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct GrpcCheck {
    pub service: Option<String>,
    pub authority: Option<String>,
}

/// `upstreams[].outlier_detection`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct OutlierDetection {
    pub consecutive_5xx: Option<u32>,
    pub consecutive_gateway_failure: Option<u32>,
    pub split_external_local_origin_errors: Option<bool>,
    pub consecutive_local_origin_failure: Option<u32>,
    pub success_rate: Option<Switch<SuccessRate>>,
    pub failure_percentage: Option<Switch<FailurePercentage>>,
    pub interval: Option<Duration>,
    pub base_ejection_time: Option<Duration>,
    pub max_ejection_time: Option<Duration>,
    pub max_ejection_percent: Option<u32>,
    pub health_check_returns_ejected: Option<bool>,
}

/// `upstreams[].outlier_detection.success_rate`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct SuccessRate {
    pub minimum_hosts: Option<u32>,
    pub request_volume: Option<u32>,
    pub stdev_factor: Option<f64>,
}

/// `upstreams[].outlier_detection.failure_percentage`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct FailurePercentage {
    pub threshold: Option<u32>,
    pub minimum_hosts: Option<u32>,
    pub request_volume: Option<u32>,
}

/// `upstreams[].failover`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct Failover {
    pub mode: Option<FailoverMode>,
    pub factor: Option<u32>,
    pub when_all_down: Option<WhenAllDown>,
    pub locality: Option<bool>,
    pub objective: Option<Duration>,
}

/// How loud a rule is: `off`, `info`, `warning` or `error`, or that as `level` with a `reason`.
#[derive(Debug, Clone, PartialEq)]
pub struct LintSetting {
    level: Option<Level>,
    reason: Option<String>,
}

impl LintSetting {
    /// None for off.
    pub fn level(&self) -> Option<Level> {
        self.level
    }

    /// Why.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}

impl<'de> Deserialize<'de> for LintSetting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Reasoned {
            level: LintLevel,
            #[serde(default)]
            reason: Option<String>,
        }
        struct LevelOrReasoned;
        impl<'de> Visitor<'de> for LevelOrReasoned {
            type Value = LintSetting;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`off`, `info`, `warning`, `error` or a mapping")
            }

            fn visit_bool<E: de::Error>(self, on: bool) -> Result<LintSetting, E> {
                if on {
                    Err(E::invalid_value(de::Unexpected::Bool(true), &self))
                } else {
                    self.visit_str("off")
                }
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<LintSetting, E> {
                let LintLevel(level) = LintLevel::deserialize(de::value::StrDeserializer::new(text))?;
                Ok(LintSetting { level, reason: None })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<LintSetting, A::Error> {
                let Reasoned { level: LintLevel(level), reason } =
                    Reasoned::deserialize(MapAccessDeserializer::new(map))?;
                Ok(LintSetting { level, reason })
            }
        }
        deserializer.deserialize_any(LevelOrReasoned)
    }
}

/// A level of a rule; none for off.
struct LintLevel(Option<Level>);

impl<'de> Deserialize<'de> for LintLevel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const WORDS: [&str; 4] = ["off", "info", "warning", "error"];
        struct Word;
        impl Visitor<'_> for Word {
            type Value = LintLevel;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`off`, `info`, `warning` or `error`")
            }

            fn visit_bool<E: de::Error>(self, on: bool) -> Result<LintLevel, E> {
                if on {
                    Err(E::invalid_value(de::Unexpected::Bool(true), &self))
                } else {
                    Ok(LintLevel(None))
                }
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<LintLevel, E> {
                match text {
                    "off" => Ok(LintLevel(None)),
                    "info" => Ok(LintLevel(Some(Level::Info))),
                    "warning" => Ok(LintLevel(Some(Level::Warning))),
                    "error" => Ok(LintLevel(Some(Level::Error))),
                    _ => Err(E::unknown_variant(text, &WORDS)),
                }
            }
        }
        deserializer.deserialize_any(Word)
    }
}

/// `upstreams[].failover.mode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailoverMode {
    /// A tier serves only when no target of the tiers before it is usable.
    #[default]
    Standby,
    /// The next tier takes over gradually what a weakened one is not trusted with.
    Spill,
}

/// `upstreams[].failover.when_all_down`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenAllDown {
    /// Any target is better than none.
    #[default]
    TryAll,
    /// 503 at once.
    Fail,
}

/// `upstreams[].targets[]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct Target {
    pub target: Option<String>,
    pub weight: Option<u32>,
    pub priority: Option<u32>,
    pub failover: Option<bool>,
    pub enabled: Option<bool>,
    pub region: Option<String>,
    pub zone: Option<String>,
    pub sub_zone: Option<String>,
    // In boxes: targets are many, and few have these.
    pub health_check: Option<Box<Switch<TargetHealthCheck>>>,
    pub tls: Option<Box<Switch<Tls>>>,
    pub tags: Vec<String>,
}

/// `upstreams[].targets[].health_check`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct TargetHealthCheck {
    pub port: Option<u16>,
    pub host: Option<String>,
    /// Known, so that it can be told why it cannot be.
    pub path: Option<String>,
}
