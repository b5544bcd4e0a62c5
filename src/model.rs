//! What the documents mean together.
//!
//! [`validate::validate`] alone makes a [`Model`]: every reference in it is resolved, every value is in its
//! range and every default is filled in, so that the stages after it need no error path.
//!
//! A *route* says which requests go to a *service* (or how they are answered without one), a service says how
//! they are served by *upstreams*, and an upstream is a pool of *targets* with its policy. One upstream is one
//! Envoy cluster (or one for each of its tiers) whatever the number of services and routes that use it: health
//! and ejection state must not split.

pub mod cookie;
pub mod fleet;
pub mod header;
pub mod health;
pub mod listener;
pub mod matching;
pub mod name;
pub mod place;
mod raw;
pub mod route;
pub mod service;
pub mod target;
pub mod upstream;
pub mod validate;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::config::raw::Resource;
use crate::model::fleet::Fleet;
use crate::model::listener::Listener;
use crate::model::name::Name;
use crate::model::route::Route;
use crate::model::route::action::Forward;
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
    pub services: BTreeMap<Name, Arc<Service>>,
    /// By name.
    pub upstreams: BTreeMap<Name, Arc<Upstream>>,
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

    /// The routes that a fleet serves on one of its listeners.
    pub fn routes_of<'a>(
        &'a self,
        fleet: &'a Name,
        listener: &'a Name,
    ) -> impl Iterator<Item = &'a Arc<Route>> {
        self.routes
            .iter()
            .filter(move |route| route.fleets.includes(fleet) && route.listeners.includes(listener))
    }

    /// Whether a fleet has the aggregates of a service: those of services that its routes reach.
    pub fn services_of<'a>(&'a self, fleet: &Name) -> impl Fn(&Name) -> bool + use<'a> {
        let here = self.routes.iter().filter(|route| route.fleets.includes(fleet));
        let reached: HashSet<&Name> = here.filter_map(|route| Some(&route.forward()?.service.name)).collect();
        move |service| reached.contains(service)
    }

    /// Whether a fleet has an upstream: those that its routes reach, and those that no route of any fleet
    /// reaches. These are compiled everywhere, so that they are warm when the first route comes.
    pub fn upstreams_of<'a>(&'a self, fleet: &Name) -> impl Fn(&Name) -> bool + use<'a> {
        let names = |forward: &'a Forward| forward.service.upstreams().map(|upstream| &upstream.name);
        let reached = |route: &'a Arc<Route>| route.forward().into_iter().flat_map(names);
        let (here, elsewhere): (Vec<_>, Vec<_>) =
            self.routes.iter().partition(|route| route.fleets.includes(fleet));
        let mut only_elsewhere: HashSet<&Name> = elsewhere.into_iter().flat_map(reached).collect();
        if !only_elsewhere.is_empty() {
            for upstream in here.into_iter().flat_map(reached) {
                only_elsewhere.remove(upstream);
            }
        }
        move |upstream| !only_elsewhere.contains(upstream)
    }
}
