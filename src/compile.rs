//! A model to snapshots: what each fleet's Envoys should run.
//!
//! Total: nothing under here can fail. What could was refused by validation and is impossible by type.
//!
//! Each resource is a function of one value, its input, which holds all that the resource depends on: so it is
//! compiled again when something in that value changed, and only then ([`crate::memo`]).

mod access_log;
pub mod cluster;
mod connection;
pub mod endpoint;
pub mod health;
pub mod listener;
pub mod pool;
pub mod route;
pub mod secret;
pub mod service;
mod tls;
mod whole_response;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::google::protobuf as wrappers;
use prost::Message;

use crate::config::raw;
use crate::envoy::ResourceType;
use crate::memo::{Memo, Output, Shared};
use crate::model::Model;
use crate::model::addresses::Addresses;
use crate::model::listener::Listener;
use crate::model::name::Name;
use crate::model::route::Route;
use crate::model::service::Service;
use crate::model::steering::Steerings;
use crate::model::upstream::Upstream;
use crate::node::Locality;
use crate::snapshot::{Resource, Snapshot};

/// The filter by which clients return to the target that served them before.
const STATEFUL_SESSION: &str = "envoy.filters.http.stateful_session";

/// Everything that a model is compiled to, by the entity that it is compiled from, with all that it depends on.
#[derive(Debug, Default)]
pub struct Compiled {
    /// By upstream.
    clusters: Memo<Name, Shared<Upstream>, Vec<Arc<Resource>>>,
    /// By service.
    aggregates: Memo<Name, Shared<Service>, Vec<Arc<Resource>>>,
    /// By upstream.
    endpoints: Memo<Name, endpoint::Input, Vec<Arc<Resource>>>,
    /// By fleet and listener.
    listeners: Memo<(Name, Name), listener::Input, Arc<Resource>>,
    /// By route.
    parts: Memo<Name, Shared<Route>, Arc<route::Part>>,
    /// By fleet and listener.
    routes: Memo<(Name, Name), route::Input, Arc<Resource>>,
    /// By fleet and secret.
    secrets: Memo<(Name, Arc<str>), secret::Input, Arc<Resource>>,
    raw: Memo<(ResourceType, Arc<str>), Shared<raw::Resource>, Arc<Resource>>,
}

impl Compiled {
    /// Compiles a model. What depends on nothing that changed is taken from `last`.
    pub fn new(model: &Model, addresses: &Addresses, steerings: &Steerings, last: &Self) -> Self {
        let upstreams =
            || model.upstreams.iter().map(|(name, upstream)| (name.clone(), Shared(upstream.clone())));
        let services = model.services.iter().map(|(name, service)| (name.clone(), Shared(service.clone())));
        let endpoints = upstreams().map(|(name, upstream)| {
            let steering = steerings.get(&name).cloned().map(Shared);
            (name, endpoint::Input::new(upstream, addresses, steering))
        });
        let raw = model.raw.iter().map(|raw| ((raw.resource_type, raw.key.clone()), Shared(raw.clone())));
        let fleets: BTreeSet<Name> = model.fleet_names().into_iter().collect();
        let listeners = fleets.iter().flat_map(|fleet| {
            let input = |listener: &Listener| listener::Input::new(model, fleet, listener);
            model.listeners_of(fleet).map(move |it| ((fleet.clone(), it.name.clone()), input(it)))
        });
        let secrets = fleets.iter().flat_map(|fleet| {
            secret::needed(model, fleet).into_iter().map(|(name, input)| ((fleet.clone(), name), input))
        });
        let parts = model.routes.iter().map(|route| (route.name.clone(), Shared(route.clone())));
        let parts = Memo::map(&last.parts, parts, |route| Arc::new(route::Part::new(&route.0)));
        let routes = fleets.iter().flat_map(|fleet| {
            let listeners = model.listeners_of(fleet).filter(|listener| listener.is_http());
            listeners.map(|Listener { name: listener, .. }| {
                let served = parts.iter().zip(&model.routes);
                let served = served.filter(|(_, route)| route.is_served(fleet, listener));
                let parts = served.map(|((_, part), _)| Shared(part.clone())).collect();
                ((fleet.clone(), listener.clone()), route::Input { listener: listener.clone(), parts })
            })
        });
        Self {
            clusters: Memo::map(&last.clusters, upstreams(), |upstream| {
                shared(cluster::compile(&upstream.0))
            }),
            aggregates: Memo::map(&last.aggregates, services, |service| shared(service::compile(&service.0))),
            endpoints: Memo::map(&last.endpoints, endpoints, |input| shared(endpoint::compile(input))),
            listeners: Memo::map(&last.listeners, listeners, |input| Arc::new(listener::compile(input))),
            secrets: Memo::map(&last.secrets, secrets, |input| Arc::new(secret::compile(input))),
            routes: Memo::map(&last.routes, routes, |input| Arc::new(route::compile(input))),
            parts,
            raw: Memo::map(&last.raw, raw, |Shared(raw)| {
                Arc::new(Resource::encoded(raw.resource_type, raw.name(), &raw.message))
            }),
        }
    }

    /// Every compiled resource of a type: raw ones are none.
    pub fn resources(&self, resource_type: ResourceType) -> Vec<&Arc<Resource>> {
        match resource_type {
            ResourceType::Cluster => {
                let clusters = self.clusters.iter().chain(self.aggregates.iter());
                clusters.flat_map(|(_, resources)| resources).collect()
            }
            ResourceType::Endpoints => self.endpoints.iter().flat_map(|(_, resources)| resources).collect(),
            ResourceType::Listener => self.listeners.iter().map(|(_, resource)| resource).collect(),
            ResourceType::Route => self.routes.iter().map(|(_, resource)| resource).collect(),
            ResourceType::Secret => self.secrets.iter().map(|(_, resource)| resource).collect(),
            // Nothing in the model has one.
            _ => Vec::new(),
        }
    }

    /// What the nodes of `fleet` should run: what is compiled, each as `amend` returns it, and the raw resources.
    pub fn snapshot(
        &self,
        model: &Model,
        fleet: &Name,
        last: Option<&Snapshot>,
        amend: impl Fn(ResourceType, &Arc<Resource>) -> Arc<Resource>,
    ) -> Snapshot {
        let (has, serves) = (model.upstreams_of(fleet), model.services_of(fleet));
        let resources = |resource_type| {
            let amend = |resource: &Arc<Resource>| amend(resource_type, resource);
            let mut resources: Vec<Arc<Resource>> = match resource_type {
                ResourceType::Cluster => {
                    let clusters = self.clusters.select(&has).chain(self.aggregates.select(&serves));
                    clusters.flatten().map(amend).collect()
                }
                ResourceType::Endpoints => self.endpoints.select(&has).flatten().map(amend).collect(),
                ResourceType::Listener => self.listeners.select(|(of, _)| of == fleet).map(amend).collect(),
                ResourceType::Route => self.routes.select(|(of, _)| of == fleet).map(amend).collect(),
                ResourceType::Secret => self.secrets.select(|(of, _)| of == fleet).map(amend).collect(),
                // Nothing in the model has one.
                _ => Vec::new(),
            };
            resources.extend(self.raw.select(|(of, _)| *of == resource_type).cloned());
            resources
        };
        Snapshot::new(resources, last)
    }

    /// `base`, which is the snapshot of `fleet`, for an Envoy at `place`: endpoints whose tiers depend on that are
    /// compiled for it, and what is as in `last` is taken from there.
    pub fn snapshot_at(
        &self,
        model: &Model,
        (fleet, place): (&Name, &Locality),
        base: &Snapshot,
        last: Option<&Snapshot>,
        amend: impl Fn(ResourceType, Arc<Resource>) -> Arc<Resource>,
    ) -> Snapshot {
        let has = model.upstreams_of(fleet);
        let inputs = self.endpoints.inputs().filter(|(upstream, _)| has(upstream));
        let here: BTreeMap<Arc<str>, Arc<Resource>> = inputs
            .filter_map(|(_, input)| input.from(place))
            .flat_map(|input| shared(endpoint::compile(&input)))
            .map(|resource| {
                let resource = amend(ResourceType::Endpoints, resource);
                let known = last.and_then(|last| last.set(ResourceType::Endpoints).get(&resource.name));
                let resource =
                    known.map_or_else(|| resource.clone(), |known| resource.clone().keeping(known));
                (resource.name.clone(), resource)
            })
            .collect();
        let everywhere = base.set(ResourceType::Endpoints).iter();
        let resources = everywhere.map(|resource| here.get(&resource.name).unwrap_or(resource).clone());
        base.with(ResourceType::Endpoints, resources.collect(), last)
    }
}

fn shared(resources: Vec<Resource>) -> Vec<Arc<Resource>> {
    resources.into_iter().map(Arc::new).collect()
}

/// Where Envoy gets a resource that this one names: from the stream on which it got this one.
///
/// An answer is waited for at most 2 s (Envoy's default is 15): by then Envoy goes on with what it has.
fn ads() -> core::ConfigSource {
    core::ConfigSource {
        resource_api_version: core::ApiVersion::V3.into(),
        initial_fetch_timeout: Some(duration(Duration::from_secs(2))),
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource {},
        )),
        ..Default::default()
    }
}

fn duration(value: Duration) -> wrappers::Duration {
    wrappers::Duration {
        seconds: i64::try_from(value.as_secs()).expect("durations are bounded where they are read"),
        nanos: i32::try_from(value.subsec_nanos())
            .expect("below a second there are fewer than 2^31 nanoseconds"),
    }
}

fn uint32(value: u32) -> wrappers::UInt32Value {
    wrappers::UInt32Value { value }
}

fn any<M: Message + prost::Name>(message: &M) -> wrappers::Any {
    wrappers::Any { type_url: M::type_url(), value: message.encode_to_vec() }
}
