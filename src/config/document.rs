//! The content of one file, or of one entity that was written over REST, decoded and not yet understood.
//!
//! Every field of an entity is optional here and every reference a string: `model::validate`, which sees all
//! documents, reports what is missing, dangling or contradictory. Each kind of entity has a file of its own. A field's
//! doc comment is its description in the JSON Schema and in the manual, its attribute holds what else the schema says
//! of it, and a constant beside the struct is the one place of its default, for the schema and for the model.

pub mod certificate;
pub mod cookie;
pub mod drill;
pub mod failback;
pub mod file;
pub mod fleet;
pub mod health;
pub mod lint;
pub mod listener;
pub mod notify;
pub mod outlier;
pub mod raw;
pub mod resolver;
pub mod rollout;
pub mod route;
pub mod service;
pub mod target;
pub mod tls;
pub mod upstream;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use crate::config::dialect::foreign::Places;
use crate::config::document::certificate::Certificate;
use crate::config::document::fleet::Fleet;
use crate::config::document::lint::LintSetting;
use crate::config::document::listener::Listener;
use crate::config::document::notify::Notify;
use crate::config::document::resolver::Resolver;
use crate::config::document::rollout::Rollout;
use crate::config::document::route::Route;
use crate::config::document::service::Service;
use crate::config::document::target::Target;
use crate::config::document::tls::Tls;
use crate::config::document::upstream::Upstream;
use crate::config::material::{Ca, NamedBy, NamedFile, path_of};
use crate::config::raw::{Patch, Resource};
use crate::config::tree::{Node, Value};
use crate::config::values::Switch;
use crate::config::{Fault, Level, Path, Related, Step, Violation, near};

/// Kind of entity: a list in a file and a collection in the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Groups of Envoys.
    Fleet,
    /// Addresses on which Envoys accept connections.
    Listener,
    /// Certificates that Envoys present.
    Certificate,
    /// Requests, and the service that gets them.
    Route,
    /// Treatment of requests.
    Service,
    /// Pools of targets and their policy.
    Upstream,
    /// Targets of an upstream. A kind in the API only; in files targets stand in their upstream.
    Target,
    /// Resources in Envoy's own words. The name has the type in front, such as `clusters/checkout`.
    Raw,
}

impl Kind {
    /// Kinds that are lists at the top of a file.
    pub const TOP: [Self; 6] =
        [Self::Fleet, Self::Listener, Self::Certificate, Self::Route, Self::Service, Self::Upstream];

    /// Key in a file and collection in the API.
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

    /// Words for one entity of the kind.
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

    /// Words for one entity of the kind, with their article.
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

    /// Returns the kind whose collection has this name.
    pub fn from_plural(word: &str) -> Option<Self> {
        Self::TOP.into_iter().chain([Self::Target, Self::Raw]).find(|kind| kind.plural() == word)
    }
}

/// Origin of a document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// A file, by the name that the operator gave.
    File(Arc<str>),
    /// An entity that was written over REST. The name of a target is `upstream/host:port`, of a raw resource
    /// `type/name`.
    Stored {
        /// Kind of the entity.
        kind: Kind,
        /// Name, unique within the kind.
        name: Arc<str>,
    },
}

/// An entity and its place in the document.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared<T> {
    /// Place, such as `upstreams[2]`; empty for a stored entity, which is its whole document.
    pub path: Path,
    /// Decoded fields; faulty ones are as if absent.
    pub entity: T,
}

/// The entities of one YAML document or of one write, with the tree that knows their places.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Origin: a file or a stored entity.
    pub origin: Origin,
    /// True if the text could be read to its end, so that no name that it declares is missing here.
    pub whole: bool,
    /// Paths of the faults that decoding found: the fields read as absent, and must not be reported twice.
    pub faulty: BTreeSet<Path>,
    /// Entities in the order of the text.
    pub fleets: Vec<Declared<Fleet>>,
    /// Entities in the order of the text.
    pub listeners: Vec<Declared<Listener>>,
    /// Entities in the order of the text.
    pub certificates: Vec<Declared<Certificate>>,
    /// Entities in the order of the text.
    pub routes: Vec<Declared<Route>>,
    /// Entities in the order of the text.
    pub services: Vec<Declared<Service>>,
    /// Entities in the order of the text.
    pub upstreams: Vec<Declared<Upstream>>,
    /// Resolution of host names.
    pub resolver: Option<Declared<Resolver>>,
    /// Order in which Envoys get a change.
    pub rollout: Option<Declared<Rollout>>,
    /// Target that was added over REST, and the name of its upstream.
    pub target: Option<(Arc<str>, Declared<Target>)>,
    /// Resources in Envoy's own words, in the order of the text.
    pub raw: Vec<Declared<Arc<Resource>>>,
    /// Patches to compiled resources, in the order of the text.
    pub patches: Vec<Declared<Patch>>,
    /// Levels of rules, by code.
    pub lint: Vec<Declared<BTreeMap<String, LintSetting>>>,
    /// Receivers of events, in the order of the text.
    pub notify: Vec<Declared<Notify>>,
    pub(super) root: Node,
    /// Origins of the nodes, if the document was translated from another dialect.
    pub(super) foreign: Option<Box<ForeignOrigins>>,
}

/// Origins of the nodes of a translated document.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ForeignOrigins {
    pub(super) places: Places,
    /// Values that no message may show, each with what stands for it in the file.
    pub(super) masks: Arc<[(String, String)]>,
}

/// Entities of a kind: the name, if there is one, and the place of each.
type Entities<'d> = Box<dyn Iterator<Item = (Option<&'d str>, &'d Path)> + 'd>;

impl Document {
    pub(super) fn empty(origin: Origin) -> Self {
        Self {
            origin,
            whole: true,
            faulty: BTreeSet::new(),
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
            foreign: None,
        }
    }

    /// Builds a violation at `path` of this document.
    pub fn violation(&self, code: &'static str, level: Level, path: &Path, message: String) -> Violation {
        let span = self.root.span_of(path);
        self.place(Fault { code, path: path.clone(), span, message, help: None, related: Vec::new() }, level)
    }

    /// Builds a reference to `path` of this document, which explains a violation elsewhere.
    pub fn related(&self, path: &Path, message: &str) -> Related {
        let start = self.root.span_of(path).map(|span| span.start);
        Related {
            message: message.to_owned(),
            file: self.file_of(path).map(str::to_owned),
            line: start.map(|start| start.line),
            column: start.map(|start| start.column),
        }
    }

    /// Returns the file by the name that the operator gave.
    pub fn file(&self) -> Option<&str> {
        match &self.origin {
            Origin::File(file) => Some(file),
            Origin::Stored { .. } => None,
        }
    }

    /// Returns the file from which the node at a path comes.
    pub fn file_of(&self, path: &Path) -> Option<&str> {
        let object = self.foreign.as_ref().and_then(|foreign| foreign.places.object(path));
        object.map(|object| &*object.file).or_else(|| self.file())
    }

    /// Returns a path as the file has it: in the words of its own dialect.
    pub fn written_path(&self, path: &Path) -> Path {
        match self.foreign.as_ref().and_then(|foreign| foreign.places.object(path)) {
            Some(object) => object.path_of(self.root.span_of(path)),
            None => path.clone(),
        }
    }

    /// True if the document was translated from another dialect.
    pub fn is_translated(&self) -> bool {
        self.foreign.is_some()
    }

    fn masked(&self, mut text: String) -> String {
        for (value, template) in self.foreign.iter().flat_map(|foreign| foreign.masks.iter()) {
            if text.contains(value) {
                text = text.replace(value, template);
            }
        }
        text
    }

    /// Returns the name of an entity that was written over REST.
    pub fn stored_name(&self) -> Option<&str> {
        match &self.origin {
            Origin::File(_) => None,
            Origin::Stored { name, .. } => Some(name),
        }
    }

    /// Returns the entities of a kind that have a name, and their places.
    pub fn named(&self, kind: Kind) -> Vec<(&str, &Path)> {
        self.entities(kind).filter_map(|(name, path)| Some((name?, path))).collect()
    }

    /// Returns the names of all entities of a kind.
    pub fn names(&self, kind: Kind) -> Vec<Option<&str>> {
        self.entities(kind).map(|(name, _)| name).collect()
    }

    /// Returns the place of the entity with this index among those of its kind.
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

    /// Returns the files with keys and certificates that this document names.
    pub fn named_files(&self) -> impl Iterator<Item = NamedFile> {
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
        materials.filter_map(|it| self.named_file(it.file.as_deref()?))
    }

    /// Returns the file that this document names. `None` for a relative path in a document without a file.
    pub fn named_file(&self, named: &str) -> Option<NamedFile> {
        let by = match &self.origin {
            Origin::File(_) => NamedBy::Config,
            Origin::Stored { .. } => NamedBy::Request,
        };
        Some(NamedFile { path: path_of(named, self.file())?, by })
    }

    /// Returns the value at `path` as JSON; null if there is none.
    pub fn json(&self, path: &Path) -> serde_json::Value {
        self.root.get(path).map(Node::to_json).unwrap_or_default()
    }

    /// Returns true if a value other than null stands at `path`.
    pub fn says(&self, path: &Path) -> bool {
        self.root.get(path).is_some_and(|node| node.value != Value::Null)
    }

    /// Returns true if decoding reported a fault at `path`, above it or below it.
    pub fn is_faulty(&self, path: &Path) -> bool {
        let is_below = |faulty: &Path| path.contains(faulty);
        let has_above = (0..path.0.len()).any(|length| self.faulty.contains(&path.0[..length]));
        has_above || self.faulty.range::<Path, _>(path..).next().is_some_and(is_below)
    }

    /// Returns true if the field that is missing at `path` was reported as an unknown field with a similar name.
    pub fn is_misspelt(&self, path: &Path) -> bool {
        let Some((Step::Key(missing), parent)) = path.0.split_last() else { return false };
        let from: (Bound<&[Step]>, Bound<&[Step]>) = (Bound::Included(parent), Bound::Unbounded);
        let mut below =
            self.faulty.range::<[Step], _>(from).take_while(|faulty| faulty.0.starts_with(parent));
        below.any(|faulty| match &faulty.0[parent.len()..] {
            [Step::Key(found)] => !near(found, [missing.as_str()]).is_empty(),
            _ => false,
        })
    }

    /// Records the places of `faults`, and returns them as violations.
    pub(super) fn note(&mut self, faults: Vec<Fault>) -> Vec<Violation> {
        self.faulty = faults.iter().map(|fault| fault.path.clone()).collect();
        faults.into_iter().map(|fault| self.place(fault, Level::Error)).collect()
    }

    pub(super) fn place(&self, fault: Fault, level: Level) -> Violation {
        let start = fault.span.map(|span| span.start);
        let file = self.file_of(&fault.path).map(str::to_owned);
        let (path, pointer) = match &self.origin {
            Origin::File(_) => (self.written_path(&fault.path).to_string(), None),
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
            message: self.masked(fault.message),
            help: fault.help.map(|help| self.masked(help)),
            file,
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path() -> impl Strategy<Value = Path> {
        let step = prop_oneof![
            prop::sample::select(vec!["name", "nmae", "a"]).prop_map(|key| Step::Key(key.to_owned())),
            (0..2_usize).prop_map(Step::Index),
        ];
        prop::collection::vec(step, 0..4).prop_map(Path)
    }

    proptest! {
        #[test]
        fn faulty_places_are_those_of_a_comparison_with_all(faulty in prop::collection::vec(path(), 0..8), at in path()) {
            let mut document = Document::empty(Origin::File("a.yaml".into()));
            document.faulty = faulty.iter().cloned().collect();
            let is_faulty = faulty.iter().any(|faulty| faulty.contains(&at) || at.contains(faulty));
            prop_assert_eq!(document.is_faulty(&at), is_faulty);
            let Some((Step::Key(missing), parent)) = at.0.split_last() else { return Ok(()) };
            let is_misspelt = faulty.iter().any(|faulty| match faulty.0.split_last() {
                Some((Step::Key(found), beside)) => {
                    beside == parent && !near(found, [missing.as_str()]).is_empty()
                }
                _ => false,
            });
            prop_assert_eq!(document.is_misspelt(&at), is_misspelt);
        }
    }
}
