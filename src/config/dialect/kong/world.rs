//! Entities of all documents together: by name, by owner, with the defaults around them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::config::dialect::foreign::ForeignObject;
use crate::config::dialect::kong::build;
use crate::config::dialect::kong::entity::{Entity, EntityView, text};
use crate::config::dialect::kong::kind::EntityKind;
use crate::config::dialect::kong::read::KongDocument;
use crate::config::dialect::kong::vault::Vaults;
use crate::config::dialect::listeners::NativeListeners;
use crate::config::tree::Node;

/// Entities of all documents.
#[derive(Debug)]
pub struct World<'w> {
    /// Documents.
    pub documents: &'w [Arc<KongDocument>],
    /// Entities by kind, in the order of files.
    entities: HashMap<EntityKind, Vec<&'w Arc<Entity>>>,
    /// First entity of each name and of each id.
    known: HashMap<(EntityKind, &'w str), &'w Arc<Entity>>,
    /// Entities that belong to another, by its address.
    owned: HashMap<(EntityKind, *const Entity), Vec<&'w Arc<Entity>>>,
    /// Services by the upstream that their host names.
    callers: HashMap<*const Entity, Vec<&'w Arc<Entity>>>,
    /// Services by the address that they send to, where that is no upstream.
    by_address: BTreeMap<(String, u16), Vec<&'w Arc<Entity>>>,
    defaults: HashMap<EntityKind, Vec<Arc<ForeignObject>>>,
    /// Tags that every entity has.
    pub select_tags: Vec<Node>,
    /// Sources of secrets.
    pub vaults: Vaults<'w>,
    /// Listeners.
    pub listeners: NativeListeners,
}

impl<'w> World<'w> {
    /// Sorts the entities of documents.
    pub fn new(
        documents: &'w [Arc<KongDocument>],
        listeners: &NativeListeners,
        variables: &'w BTreeMap<String, String>,
    ) -> Self {
        let mut world = Self {
            documents,
            entities: HashMap::new(),
            known: HashMap::new(),
            owned: HashMap::new(),
            callers: HashMap::new(),
            by_address: BTreeMap::new(),
            defaults: HashMap::new(),
            select_tags: Vec::new(),
            vaults: Vaults::new(documents, variables),
            listeners: listeners.clone(),
        };
        for document in documents {
            world.select_tags.extend(document.select_tags.iter().cloned());
            for (kind, object) in &document.defaults {
                world.defaults.entry(*kind).or_default().push(object.clone());
            }
            for entity in &document.entities {
                world.entities.entry(entity.kind).or_default().push(entity);
                for key in ["name", "id"].into_iter().filter_map(|key| entity.text(key)) {
                    world.known.entry((entity.kind, key)).or_insert(entity);
                }
            }
        }
        for (kind, field, owner) in [
            (EntityKind::Target, "upstream", EntityKind::Upstream),
            (EntityKind::Route, "service", EntityKind::Service),
            (EntityKind::Sni, "certificate", EntityKind::Certificate),
        ] {
            for entity in world.all(kind).to_vec() {
                if let Some(owner) = world.owner(entity, field, owner) {
                    world.owned.entry((kind, Arc::as_ptr(owner))).or_default().push(entity);
                }
            }
        }
        for service in world.all(EntityKind::Service).to_vec() {
            if let Some(upstream) = world.upstream_of(service) {
                world.callers.entry(Arc::as_ptr(upstream)).or_default().push(service);
            } else if let Some(address) = world.address_of(service) {
                world.by_address.entry(address).or_default().push(service);
            }
        }
        world
    }

    /// Returns the entities of a kind, in the order of files.
    pub fn all(&self, kind: EntityKind) -> &[&'w Arc<Entity>] {
        self.entities.get(&kind).map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns the first entity with this name or id.
    pub fn find(&self, kind: EntityKind, name: &str) -> Option<&'w Arc<Entity>> {
        self.known.get(&(kind, name)).copied()
    }

    /// Returns the entity to which another one belongs: the one around it, or the one that a field names.
    pub fn owner(&self, entity: &'w Arc<Entity>, field: &str, kind: EntityKind) -> Option<&'w Arc<Entity>> {
        if let Some(parent) = &entity.parent {
            return Some(parent);
        }
        self.find(kind, entity.reference(field)?.0)
    }

    /// Returns the entities of a kind that belong to another.
    pub fn owned(&self, kind: EntityKind, owner: &Arc<Entity>) -> &[&'w Arc<Entity>] {
        self.owned.get(&(kind, Arc::as_ptr(owner))).map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns the services that send to an upstream.
    pub fn callers(&self, upstream: &Arc<Entity>) -> &[&'w Arc<Entity>] {
        self.callers.get(&Arc::as_ptr(upstream)).map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns the upstream whose name is the host of a service.
    pub fn upstream_of(&self, service: &Arc<Entity>) -> Option<&'w Arc<Entity>> {
        let host = self.host_of(service)?;
        self.find(EntityKind::Upstream, &host).filter(|upstream| upstream.text("name") == Some(&host))
    }

    /// Returns the services that send to the same address.
    pub fn callers_of_address(&self, address: &(String, u16)) -> &[&'w Arc<Entity>] {
        self.by_address.get(address).map(Vec::as_slice).unwrap_or_default()
    }

    /// Iterates over the addresses that services send to.
    pub fn addresses(&self) -> impl Iterator<Item = &(String, u16)> {
        self.by_address.keys()
    }

    /// Returns the host and the port of a service.
    pub fn address_of(&self, service: &Arc<Entity>) -> Option<(String, u16)> {
        let view = self.view(service);
        let port = match (view.get(&["port"]), view.text(&["url"]).and_then(Url::parse)) {
            (None, Some(url)) => url.port,
            _ => view.number(&["port"]) as u16,
        };
        Some((self.host_of(service)?, port))
    }

    /// Returns the host of a service, also that of its `url`.
    pub fn host_of(&self, service: &Arc<Entity>) -> Option<String> {
        let view = self.view(service);
        match view.text(&["host"]) {
            Some(host) => Some(host.to_owned()),
            None => Some(Url::parse(view.text(&["url"])?)?.host),
        }
    }

    /// Returns an entity with the defaults of its kind.
    pub fn view<'e>(&'e self, entity: &'e Arc<Entity>) -> EntityView<'e> {
        let defaults = self.defaults.get(&entity.kind).map(Vec::as_slice).unwrap_or_default();
        EntityView { entity, defaults }
    }

    /// Returns the native name of an entity.
    pub fn name(&self, entity: &Entity) -> String {
        build::name(entity.name().unwrap_or_default())
    }

    /// Returns the native name of a certificate, which often has no name of its own.
    pub fn certificate_name(&self, certificate: &Entity) -> String {
        match certificate.name() {
            Some(name) => build::name(name),
            None => format!("certificate.{}", build::hash(certificate.text("cert").unwrap_or_default())),
        }
    }

    /// Returns the tags of an entity as a native list; none if there are none.
    pub fn tags_of(&self, entity: &Arc<Entity>) -> Option<Node> {
        let own = self.view(entity).get(&["tags"]);
        let own_tags = own.and_then(|own| match &own.node.value {
            crate::config::tree::Value::Sequence(tags) => Some(tags.clone()),
            _ => None,
        });
        let mut tags = own_tags.unwrap_or_default();
        for tag in &self.select_tags {
            if !tags.iter().any(|known| text(known) == text(tag)) {
                tags.push(tag.clone());
            }
        }
        (!tags.is_empty()).then(|| build::list(tags, own.and_then(|own| own.node.span)))
    }

    /// Returns everything around the entities that may change what they become.
    pub fn surroundings(&self) -> Surroundings {
        let mut defaults: Vec<_> = self.defaults.iter().map(|(kind, all)| (*kind, all.clone())).collect();
        defaults.sort_by_key(|(kind, _)| *kind);
        Surroundings {
            defaults,
            select_tags: self.select_tags.clone(),
            listeners: self.listeners.clone(),
            vaults: self.all(EntityKind::Vault).iter().map(|vault| Arc::clone(vault)).collect(),
        }
    }
}

/// Everything around the entities that may change what they become.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Surroundings {
    defaults: Vec<(EntityKind, Vec<Arc<ForeignObject>>)>,
    select_tags: Vec<Node>,
    listeners: NativeListeners,
    vaults: Vec<Arc<Entity>>,
}

/// Parts of the `url` of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Protocol.
    pub protocol: String,
    /// Host.
    pub host: String,
    /// Port; absent: that of the protocol.
    pub port: u16,
    /// Path; none if it is absent.
    pub path: Option<String>,
}

impl Url {
    /// Parses `protocol://host[:port][/path]`.
    pub fn parse(url: &str) -> Option<Self> {
        let (protocol, rest) = url.split_once("://")?;
        let (authority, path) = match rest.find('/') {
            Some(at) => (&rest[..at], Some(rest[at..].to_owned())),
            None => (rest, None),
        };
        let authority = authority.rsplit('@').next().unwrap_or(authority);
        let default = if matches!(protocol, "https" | "grpcs" | "wss") { 443 } else { 80 };
        let (host, port) = match authority.rsplit_once(':').filter(|(host, _)| !host.ends_with(':')) {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
            _ => (authority, default),
        };
        let url = Self { protocol: protocol.to_ascii_lowercase(), host: host.to_owned(), port, path };
        (!url.host.is_empty()).then_some(url)
    }
}
