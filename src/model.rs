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
pub mod listener;
pub mod locality;
pub mod matching;
pub mod name;
pub mod notify;
pub mod part;
pub mod passthrough;
pub mod place;
mod raw;
pub mod resolver;
pub mod rollout;
pub mod route;
pub mod service;
pub mod steering;
pub mod target;
pub mod tls;
pub mod upstream;
pub mod validate;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::config::raw::Resource;
use crate::model::certificate::Certificate;
use crate::model::fleet::Fleet;
use crate::model::listener::{Listener, Protocol};
use crate::model::name::{Name, Scope};
use crate::model::notify::Receiver;
use crate::model::passthrough::Passthrough;
use crate::model::resolver::Resolver;
use crate::model::rollout::Rollout;
use crate::model::route::Route;
use crate::model::service::Service;
use crate::model::upstream::Upstream;
use crate::node::Node;

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
    pub routes: Vec<Arc<Route>>,
    /// By name.
    pub passthroughs: Vec<Passthrough>,
    /// By name.
    pub certificates: BTreeMap<Name, Arc<Certificate>>,
    /// By name.
    pub services: BTreeMap<Name, Arc<Service>>,
    /// By name.
    pub upstreams: BTreeMap<Name, Arc<Upstream>>,
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

    /// Whether a fleet has the aggregates of a service: those of services that its routes and listeners reach.
    pub fn services_of<'a>(&'a self, fleet: &Name) -> impl Fn(&Name) -> bool + use<'a> {
        let here = self.uses().filter(|(fleets, _)| fleets.includes(fleet));
        let reached: HashSet<&Name> = here.map(|(_, service)| &service.name).collect();
        move |service| reached.contains(service)
    }

    /// Whether a fleet has an upstream: those that its routes and listeners reach, and those that nothing of any
    /// fleet reaches. These are compiled everywhere, so that they are warm when the first route comes. A failover
    /// gateway reaches all.
    pub fn upstreams_of<'a>(&'a self, fleet: &Name) -> impl Fn(&Name) -> bool + use<'a> {
        let names = |(_, service): (_, &'a Arc<Service>)| service.upstreams().map(|upstream| &upstream.name);
        let (here, elsewhere): (Vec<_>, Vec<_>) = self.uses().partition(|(fleets, _)| fleets.includes(fleet));
        let mut only_elsewhere: HashSet<&Name> = elsewhere.into_iter().flat_map(names).collect();
        if self.listeners_of(fleet).any(|listener| matches!(listener.protocol, Protocol::FailoverGateway(_)))
        {
            only_elsewhere.clear();
        }
        if !only_elsewhere.is_empty() {
            for upstream in here.into_iter().flat_map(names) {
                only_elsewhere.remove(upstream);
            }
        }
        move |upstream| !only_elsewhere.contains(upstream)
    }

    /// What leads to a service: in which fleets, and to which.
    fn uses(&self) -> impl Iterator<Item = (&Scope, &Arc<Service>)> {
        let routes = self.routes.iter().filter_map(|it| Some((&it.fleets, &it.forward()?.service)));
        let passthroughs = self.passthroughs.iter().map(|it| (&it.fleets, &it.service));
        let listeners = self.listeners.iter().filter_map(|it| Some((&it.fleets, it.service()?)));
        routes.chain(passthroughs).chain(listeners)
    }
}
