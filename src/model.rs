//! What the documents mean together.
//!
//! [`validate::validate`] alone makes a [`Model`]: every reference in it is resolved, every value is in its
//! range and every default is filled in, so that the stages after it need no error path.
//!
//! A *route* says which requests go to a *service* (or how they are answered without one), a service says how
//! they are served by *upstreams*, and an upstream is a pool of *targets* with its policy. One upstream is one
//! Envoy cluster (or one for each of its tiers) whatever the number of services and routes that use it: health
//! and ejection state must not split.

pub mod addresses;
pub mod certificate;
pub mod cookie;
pub mod documents;
pub mod drill;
pub mod failback;
pub mod fleet;
pub mod header;
pub mod health;
pub mod index;
pub mod listener;
pub mod locality;
pub mod matching;
pub mod name;
pub mod notify;
pub mod overrides;
pub mod passthrough;
pub mod place;
mod raw;
pub mod reach;
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
use crate::envoy::node::Node;
use crate::model::certificate::Certificate;
use crate::model::fleet::Fleet;
use crate::model::listener::Listener;
use crate::model::name::Name;
use crate::model::notify::Receiver;
use crate::model::passthrough::Passthrough;
use crate::model::resolver::Resolver;
use crate::model::rollout::Rollout;
use crate::model::route::Route;
use crate::model::service::Service;
use crate::model::upstream::Upstream;

/// The whole desired config, resolved.
///
/// Every reference names something that exists, no two routes ask for exactly the same, and no two listeners
/// of a fleet share an address.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Model {
    /// As declared; a node belongs to the first that selects it, else to the default one.
    pub fleets: Vec<Fleet>,
    /// By name. None is declared: the default one, unless raw resources stand alone.
    pub listeners: Vec<Listener>,
    /// By name.
    pub routes: OrdMap<Name, Arc<Route>>,
    /// By name.
    pub passthroughs: Vec<Passthrough>,
    /// By name.
    pub certificates: BTreeMap<Name, Arc<Certificate>>,
    /// By name.
    pub services: OrdMap<Name, Arc<Service>>,
    /// By name.
    pub upstreams: OrdMap<Name, Arc<Upstream>>,
    /// How host names are resolved.
    pub resolver: Resolver,
    /// Which Envoys get a change first.
    pub rollout: Rollout,
    /// Who is told of events.
    pub notify: Vec<Receiver>,
    /// Envoy's own resources, taken at their word: every fleet gets them. None has the name of a compiled one.
    pub raw: Vec<Arc<Resource>>,
}

impl Model {
    /// The names of all fleets: the declared ones and the default one, to which unselected nodes belong.
    pub fn fleet_names(&self) -> Vec<Name> {
        let mut names: Vec<Name> = self.fleets.iter().map(|fleet| fleet.name.clone()).collect();
        if !names.contains(&Name::default_fleet()) {
            names.push(Name::default_fleet());
        }
        names
    }

    /// The fleet that a node belongs to.
    pub fn fleet_of(&self, node: &Node) -> Name {
        let selected = self.fleets.iter().find(|fleet| fleet.selects(node));
        selected.map_or_else(Name::default_fleet, |fleet| fleet.name.clone())
    }

    /// The listeners that a fleet opens.
    pub fn listeners_of<'a>(&'a self, fleet: &'a Name) -> impl Iterator<Item = &'a Listener> {
        self.listeners.iter().filter(move |listener| listener.fleets.includes(fleet))
    }

    /// The routes by SNI that a fleet serves on one of its listeners.
    pub fn passthroughs_of<'a>(
        &'a self,
        fleet: &'a Name,
        listener: &'a Name,
    ) -> impl Iterator<Item = &'a Passthrough> {
        self.passthroughs
            .iter()
            .filter(move |route| route.fleets.includes(fleet) && route.listeners.contains(listener))
    }
}
