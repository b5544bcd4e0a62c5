//! Validated configuration: the combined meaning of all documents.
//!
//! [`validate::validate`] alone makes a [`Model`]: every reference in it is resolved, every value is in its
//! range and every default is filled in, so that the later stages need no error path.
//!
//! A *route* selects requests and sends them to a *service* (or answers them without one). A service serves
//! requests by *upstreams*, and an upstream is a group of *targets* with its policy. One upstream is one Envoy
//! cluster (or one cluster per tier), however many services and routes use it: its health and ejection state
//! must not be split.

pub mod addresses;
pub mod cause;
pub mod certificate;
pub mod cookie;
pub mod documents;
pub mod drill;
pub mod failback;
pub mod fleet;
pub mod foreign;
pub mod header;
pub mod health;
pub mod host_match;
pub mod listener;
pub mod locality;
pub mod matching;
pub mod name;
pub mod notify;
pub mod overrides;
pub mod passthrough;
pub mod path_match;
pub mod place;
mod raw;
pub mod resolver;
pub mod rollout;
pub mod route;
pub mod selector;
pub mod service;
pub mod target;
pub mod tls;
pub mod upstream;
pub mod validate;

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;

use crate::config::raw::Resource;
use crate::envoy::ResourceType;
use crate::envoy::node::Node;
use crate::model::certificate::Certificate;
use crate::model::fleet::Fleet;
use crate::model::listener::{Listener, ProtocolSettings};
use crate::model::name::Name;
use crate::model::notify::Receiver;
use crate::model::passthrough::Passthrough;
use crate::model::resolver::Resolver;
use crate::model::rollout::Rollout;
use crate::model::route::Route;
use crate::model::service::Service;
use crate::model::upstream::Upstream;

/// Whole desired configuration, with all references resolved.
///
/// Every reference names an existing entity, no two routes match exactly the same requests, and no two
/// listeners of a fleet share an address.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Model {
    /// Declared fleets, in declaration order. A node belongs to the first that selects it, else to the
    /// default fleet.
    pub fleets: Vec<Fleet>,
    /// Listeners, sorted by name. If none is declared, the default listener, unless there are only raw
    /// resources and no routes.
    pub listeners: Vec<Listener>,
    /// Routes for requests, by name.
    pub routes: OrdMap<Name, Arc<Route>>,
    /// Routes for TLS connections, sorted by name.
    pub passthroughs: Vec<Passthrough>,
    /// Certificates, by name.
    pub certificates: BTreeMap<Name, Arc<Certificate>>,
    /// Services, by name.
    pub services: OrdMap<Name, Arc<Service>>,
    /// Upstreams, by name.
    pub upstreams: OrdMap<Name, Arc<Upstream>>,
    /// Settings of the resolution of host names.
    pub resolver: Resolver,
    /// Settings of the rollout of a change: canaries, and the conditions to abort.
    pub rollout: Rollout,
    /// Receivers of event notifications.
    pub notify: Vec<Receiver>,
    /// Raw Envoy resources, passed on unchecked to every fleet. None has the name of a compiled resource.
    pub raw: Vec<Arc<Resource>>,
}

impl Model {
    /// Returns the names of all fleets: the declared ones and the default one, to which unselected nodes
    /// belong.
    pub fn fleet_names(&self) -> Vec<Name> {
        let mut names: Vec<Name> = self.fleets.iter().map(|fleet| fleet.name.clone()).collect();
        if !names.contains(&Name::default_fleet()) {
            names.push(Name::default_fleet());
        }
        names
    }

    /// Returns the name of the fleet that a node belongs to.
    pub fn fleet_of(&self, node: &Node) -> Name {
        let selected = self.fleets.iter().find(|fleet| fleet.selects(node));
        selected.map_or_else(Name::default_fleet, |fleet| fleet.name.clone())
    }

    /// Iterates over the listeners that a fleet opens.
    pub fn listeners_of<'a>(&'a self, fleet: &'a Name) -> impl Iterator<Item = &'a Listener> {
        self.listeners.iter().filter(move |listener| listener.fleets.includes(fleet))
    }

    /// Iterates over the SNI routes that a fleet serves on one of its listeners.
    pub fn passthroughs_of<'a>(
        &'a self,
        fleet: &'a Name,
        listener: &'a Name,
    ) -> impl Iterator<Item = &'a Passthrough> {
        self.passthroughs
            .iter()
            .filter(move |route| route.fleets.includes(fleet) && route.listeners.contains(listener))
    }

    /// True if there are raw resources of this type.
    pub fn has_raw(&self, resource_type: ResourceType) -> bool {
        self.raw.iter().any(|raw| raw.resource_type == resource_type)
    }

    /// True if the nodes of a fleet get a listener that passes requests or connections on. A raw listener may
    /// have its routes within itself.
    pub fn has_routes(&self, fleet: &Name) -> bool {
        let has_raw = self.has_raw(ResourceType::Listener) || self.has_raw(ResourceType::Route);
        has_raw || self.listeners_of(fleet).any(|listener| self.passes_on(fleet, listener))
    }

    fn passes_on(&self, fleet: &Name, listener: &Listener) -> bool {
        match &listener.protocol {
            ProtocolSettings::Http | ProtocolSettings::Https(_) => self
                .routes
                .values()
                .any(|route| route.fleets.includes(fleet) && route.listeners.includes(&listener.name)),
            ProtocolSettings::TlsPassthrough => self.passthroughs_of(fleet, &listener.name).next().is_some(),
            ProtocolSettings::Tcp(_) | ProtocolSettings::FailoverGateway(_) => true,
        }
    }
}
