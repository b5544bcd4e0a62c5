//! Compiler from the model to snapshots: the Envoy resources of each fleet.
//!
//! Compilation is total: nothing in this module can fail. Faulty configs are refused by validation, or
//! impossible by type.
//!
//! Each resource is a function of one value, its input, which holds everything that the resource depends on.
//! It is compiled again if and only if something in that value changed ([`crate::memo`]).

mod access_log;
pub mod cluster;
mod connection;
pub mod endpoint;
pub mod health;
pub mod listener;
pub mod route;
pub mod secret;
pub mod service;
mod target_cluster;
mod tls;
mod whole_response;

use std::collections::BTreeSet;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::google::protobuf as wrappers;
use imbl::OrdMap;
use prost::Message;

use crate::build::index::UpstreamIndex;
use crate::build::reach::Reach;
use crate::build::snapshot::Snapshot;
use crate::build::snapshot::resource::Resource;
use crate::build::snapshot::store_id::StoreId;
use crate::config::raw;
use crate::envoy::ResourceType;
use crate::envoy::node::Locality;
use crate::memo::{ArcEq, Memo, MemoOutput, changes, follow};
use crate::model::Model;
use crate::model::addresses::Addresses;
use crate::model::listener::Listener;
use crate::model::name::Name;
use crate::model::overrides::OverridesByUpstream;
use crate::model::service::Service;

/// Name of the HTTP filter for stickiness: a client returns to the target that served it before.
const STATEFUL_SESSION: &str = "envoy.filters.http.stateful_session";

/// Config to be compiled, as resolved by the earlier stages of a build.
#[derive(Debug, Clone, Copy)]
pub struct CompileInput<'a> {
    /// Validated entities.
    pub model: &'a Model,
    /// Upstreams of the model by rare trait, so that a search does not scan all of them.
    pub subsets: &'a UpstreamIndex,
    /// Resolved addresses of host names.
    pub addresses: &'a Addresses,
    /// Overrides by operators, drills and failback, by upstream.
    pub overrides: &'a OverridesByUpstream,
    /// Store that the versions of the resources name; none outside of a control plane.
    pub store: Option<StoreId>,
}

/// Input of a resource, with the store that its version names.
#[derive(Debug, Clone, PartialEq)]
struct Stamped<I> {
    input: I,
    store: Option<StoreId>,
}

impl<I> Stamped<I> {
    fn one(&self, compile: fn(&I) -> Resource) -> Arc<Resource> {
        Arc::new(compile(&self.input).stamped(self.store))
    }

    fn several(&self, compile: fn(&I) -> Vec<Resource>) -> Vec<Arc<Resource>> {
        let compiled = compile(&self.input).into_iter();
        compiled.map(|resource| Arc::new(resource.stamped(self.store))).collect()
    }
}

/// Resources that a model is compiled to, by the entity that they are compiled from, each with the input that
/// it depends on.
#[derive(Debug, Clone, Default)]
pub struct Compiled {
    reach: Arc<Reach>,
    /// Clusters that hold targets and aggregates over their tiers, by upstream.
    clusters: Memo<Name, Stamped<cluster::ClusterInput>, Vec<Arc<Resource>>>,
    /// Aggregate clusters over several upstreams, by service.
    aggregates: Memo<Name, Stamped<service::AggregateInput>, Vec<Arc<Resource>>>,
    /// Load assignments, by upstream.
    endpoints: Memo<Name, Stamped<endpoint::EndpointInput>, Vec<Arc<Resource>>>,
    /// Listeners, by fleet and listener.
    listeners: Memo<(Name, Name), Stamped<listener::ListenerInput>, Arc<Resource>>,
    /// Contributions to route configurations, by route.
    fragments: OrdMap<Name, Arc<route::RouteFragment>>,
    /// Route configurations, by fleet and listener.
    routes: Memo<(Name, Name), Stamped<route::RouteConfigInput>, Arc<Resource>>,
    /// Secrets, by fleet and secret.
    secrets: Memo<(Name, Arc<str>), Stamped<secret::SecretInput>, Arc<Resource>>,
    raw: Memo<(ResourceType, Arc<str>), RawInput, Arc<Resource>>,
}

type RawInput = Stamped<ArcEq<raw::Resource>>;

impl Compiled {
    /// Compiles `now`. Resources that depend on nothing that differs from `last`, the config that `self` was
    /// compiled from, are taken over from `self`.
    #[must_use]
    pub fn updated(&self, last: CompileInput<'_>, now: CompileInput<'_>) -> Self {
        let (before, model) = (last.model, now.model);
        let reach = self.reach.updated(before, model);
        let fragments = follow(&self.fragments, (&before.routes, &model.routes), |route| {
            Arc::new(route::RouteFragment::new(route))
        });
        let fleets = model.fleet_names();
        let listeners = fleets.iter().flat_map(|fleet| {
            let input = |listener: &Listener| listener::ListenerInput::new(model, fleet, listener);
            model.listeners_of(fleet).map(move |it| ((fleet.clone(), it.name.clone()), input(it)))
        });
        let secrets = fleets.iter().flat_map(|fleet| {
            let upstreams = now.subsets.in_tls.values().filter(|it| reach.has_upstream(fleet, &it.name));
            secret::needed(model, fleet, upstreams).into_iter().map(|(name, it)| ((fleet.clone(), name), it))
        });
        let raw = model.raw.iter().map(|raw| ((raw.resource_type, raw.key.clone()), ArcEq(raw.clone())));
        let store = now.store;
        let clusters = some_stamped(cluster_inputs(last, now), store);
        let aggregates = some_stamped(aggregate_inputs(last, now), store);
        let endpoints = some_stamped(endpoint_inputs(last, now), store);
        Self {
            clusters: self.clusters.with(clusters, |it| it.several(cluster::compile)),
            aggregates: self.aggregates.with(aggregates, |it| it.several(service::compile)),
            endpoints: self.endpoints.with(endpoints, |it| it.several(endpoint::compile)),
            listeners: self.listeners.only(stamped(listeners, store), |it| it.one(listener::compile)),
            secrets: self.secrets.only(stamped(secrets, store), |it| it.one(secret::compile)),
            routes: self.routes(now, &fragments),
            raw: self.raw.only(stamped(raw, store), |it| {
                it.one(|ArcEq(raw)| Resource::encoded(raw.resource_type, raw.name(), &raw.message))
            }),
            fragments,
            reach,
        }
    }

    /// Returns the route configurations made of `fragments`; those of `self` if neither fragments nor listeners
    /// changed.
    fn routes(
        &self,
        now: CompileInput<'_>,
        fragments: &OrdMap<Name, Arc<route::RouteFragment>>,
    ) -> Memo<(Name, Name), Stamped<route::RouteConfigInput>, Arc<Resource>> {
        let fleets = now.model.fleet_names();
        let serving = fleets.iter().flat_map(|fleet| {
            let listeners = now.model.listeners_of(fleet).filter(|listener| listener.is_http());
            listeners.map(|listener| (fleet.clone(), listener.name.clone()))
        });
        let serving: BTreeSet<(Name, Name)> = serving.collect();
        if fragments.ptr_eq(&self.fragments) && serving.iter().eq(self.routes.outputs().keys()) {
            return self.routes.clone();
        }
        let by_scope = route::FragmentsByScope::new(fragments.values());
        let input = |(fleet, listener): (Name, Name)| {
            let fragments = by_scope.served(&fleet, &listener).cloned().map(ArcEq).collect();
            let input = route::RouteConfigInput { listener: listener.clone(), fragments };
            ((fleet, listener), input)
        };
        let inputs = stamped(serving.into_iter().map(input), now.store);
        self.routes.only(inputs, |it| it.one(route::compile))
    }

    /// Returns true if `fleet` has the clusters of `upstream`.
    pub fn has(&self, fleet: &Name, upstream: &Name) -> bool {
        self.reach.has_upstream(fleet, upstream)
    }

    /// Returns every compiled resource of a type. Raw resources are not compiled and not included.
    pub fn resources(&self, resource_type: ResourceType) -> Vec<&Arc<Resource>> {
        match resource_type {
            ResourceType::Cluster => {
                self.clusters.outputs().values().chain(self.aggregates.outputs().values()).flatten().collect()
            }
            ResourceType::Endpoints => self.endpoints.outputs().values().flatten().collect(),
            ResourceType::Listener => self.listeners.outputs().values().collect(),
            ResourceType::Route => self.routes.outputs().values().collect(),
            ResourceType::Secret => self.secrets.outputs().values().collect(),
            // The model has no entity that compiles to any other type.
            _ => Vec::new(),
        }
    }

    /// Returns the snapshot of `fleet`: the compiled resources, each as `amend` returns it, and the raw
    /// resources.
    ///
    /// `last` is an earlier compilation with the snapshot made of it. The new snapshot is derived from it at
    /// the cost of what differs, provided that fleets still reach the same upstreams and services; otherwise,
    /// or without `last`, it is made from nothing. `amend` must return the same as it did for `last`.
    pub fn snapshot(
        &self,
        fleet: &Name,
        last: Option<(&Self, &Snapshot)>,
        amend: impl Fn(ResourceType, &Arc<Resource>) -> Arc<Resource>,
    ) -> Snapshot {
        let (nothing, none) = (Self::default(), Snapshot::default());
        let has_same_reach = |(last, _): &(&Self, _)| Arc::ptr_eq(&last.reach, &self.reach);
        let (last, snapshot) = last.filter(has_same_reach).unwrap_or((&nothing, &none));
        let has = |upstream: &Name| self.reach.has_upstream(fleet, upstream);
        let serves = |service: &Name| self.reach.has_service(fleet, service);
        let is_here = |(of, _): &(Name, Name)| of == fleet;
        let mut differences: [Difference; ResourceType::ALL.len()] = Default::default();
        let of = &mut differences;
        of[ResourceType::Cluster as usize].add_changes(last.clusters.outputs(), self.clusters.outputs(), has);
        of[ResourceType::Cluster as usize].add_changes(
            last.aggregates.outputs(),
            self.aggregates.outputs(),
            serves,
        );
        of[ResourceType::Endpoints as usize].add_changes(
            last.endpoints.outputs(),
            self.endpoints.outputs(),
            has,
        );
        of[ResourceType::Listener as usize].add_changes(
            last.listeners.outputs(),
            self.listeners.outputs(),
            is_here,
        );
        of[ResourceType::Route as usize].add_changes(last.routes.outputs(), self.routes.outputs(), is_here);
        of[ResourceType::Secret as usize].add_changes(
            last.secrets.outputs(),
            self.secrets.outputs(),
            |(of, _)| of == fleet,
        );
        for resource_type in ResourceType::ALL {
            let new = &mut differences[resource_type as usize].new;
            new.iter_mut().for_each(|resource| *resource = amend(resource_type, resource));
        }
        for change in changes(last.raw.outputs(), self.raw.outputs()) {
            differences[change.key.0 as usize].add(change.old, change.new);
        }
        let differences = ResourceType::ALL.into_iter().zip(differences).filter(|(_, it)| !it.is_empty());
        differences.fold(snapshot.clone(), |snapshot, (resource_type, Difference { removed, new })| {
            snapshot.with(resource_type, snapshot.set(resource_type).changed(&removed, new))
        })
    }

    /// Returns `base`, the snapshot of `fleet`, adapted to an Envoy at `place`: the endpoints of those
    /// `upstreams` whose tiers depend on distance are compiled for that place. Resources that are equal to
    /// those in `last` keep their allocation.
    pub fn snapshot_at<'u>(
        &self,
        (fleet, place): (&Name, &Locality),
        upstreams: impl Iterator<Item = &'u Name>,
        (base, last): (&Snapshot, Option<&Snapshot>),
        amend: impl Fn(ResourceType, Arc<Resource>) -> Arc<Resource>,
    ) -> Snapshot {
        let here = upstreams.filter(|upstream| self.reach.has_upstream(fleet, upstream));
        let inputs = here.filter_map(|upstream| {
            let Stamped { input, store } = self.endpoints.input(upstream)?;
            Some(Stamped { input: input.from(place)?, store: *store })
        });
        let resources = inputs.flat_map(|input| input.several(endpoint::compile)).map(|resource| {
            let resource = amend(ResourceType::Endpoints, resource);
            let known = last.and_then(|last| last.set(ResourceType::Endpoints).get(&resource.name));
            known.map_or_else(|| resource.clone(), |known| resource.clone().keeping(known))
        });
        let set = base.set(ResourceType::Endpoints).changed(&[], resources);
        let snapshot = base.with(ResourceType::Endpoints, set);
        match last {
            Some(last) => snapshot.keeping(last),
            None => snapshot,
        }
    }
}

/// Returns the upstreams whose clusters may differ, each with the input of its clusters; none for a removed
/// upstream.
fn cluster_inputs<'a>(
    last: CompileInput<'a>,
    now: CompileInput<'a>,
) -> impl Iterator<Item = (Name, Option<cluster::ClusterInput>)> + use<'a> {
    let upstreams = &now.model.upstreams;
    let mut pending: BTreeSet<&Name> =
        changes(&last.model.upstreams, upstreams).map(|change| change.key).collect();
    pending.extend(with_changed_first(last, now));
    pending.into_iter().map(move |name| {
        let upstream = upstreams.get(name).cloned().map(ArcEq);
        (name.clone(), upstream.map(|upstream| cluster::ClusterInput::new(upstream, now.overrides)))
    })
}

/// Returns the services whose aggregates may differ, each with the input of its aggregates; none for a
/// removed service.
fn aggregate_inputs<'a>(
    last: CompileInput<'a>,
    now: CompileInput<'a>,
) -> impl Iterator<Item = (Name, Option<service::AggregateInput>)> + use<'a> {
    let services = &now.model.services;
    let mut pending: BTreeSet<&Name> =
        changes(&last.model.services, services).map(|change| change.key).collect();
    let with_changed_first: BTreeSet<&Name> = with_changed_first(last, now).collect();
    let has_changed_first =
        |service: &Service| service.upstreams().any(|it| with_changed_first.contains(&it.name));
    if !with_changed_first.is_empty() {
        pending.extend(
            services.values().filter(|service| has_changed_first(service)).map(|service| &service.name),
        );
    }
    pending.into_iter().map(move |name| {
        let service = services.get(name).cloned().map(ArcEq);
        (name.clone(), service.map(|service| service::AggregateInput::new(service, now.overrides)))
    })
}

/// Returns the upstreams whose overrides differ between the two configs.
fn with_changed_overrides<'a>(
    last: CompileInput<'a>,
    now: CompileInput<'a>,
) -> impl Iterator<Item = &'a Name> {
    let with_changed_overrides = last.overrides.keys().chain(now.overrides.keys());
    with_changed_overrides.filter(move |name| last.overrides.get(*name) != now.overrides.get(*name))
}

/// Returns the upstreams whose overrides put another tier first than before.
fn with_changed_first<'a>(last: CompileInput<'a>, now: CompileInput<'a>) -> impl Iterator<Item = &'a Name> {
    let first = |of: &OverridesByUpstream, name: &Name| {
        of.get(name).and_then(|endpoint_overrides| endpoint_overrides.first)
    };
    with_changed_overrides(last, now)
        .filter(move |name| first(last.overrides, name) != first(now.overrides, name))
}

/// Returns the upstreams whose endpoints may differ, each with the input of its endpoints; none for a removed
/// upstream.
fn endpoint_inputs<'a>(
    last: CompileInput<'a>,
    now: CompileInput<'a>,
) -> impl Iterator<Item = (Name, Option<endpoint::EndpointInput>)> + use<'a> {
    let upstreams = &now.model.upstreams;
    let mut pending: BTreeSet<&Name> =
        changes(&last.model.upstreams, upstreams).map(|change| change.key).collect();
    if last.addresses != now.addresses {
        pending.extend(now.subsets.with_names.keys());
    }
    pending.extend(with_changed_overrides(last, now));
    pending.into_iter().map(move |name| {
        let endpoint_overrides = now.overrides.get(name).cloned().map(ArcEq);
        let upstream = upstreams.get(name).cloned().map(ArcEq);
        (
            name.clone(),
            upstream
                .map(|upstream| endpoint::EndpointInput::new(upstream, now.addresses, endpoint_overrides)),
        )
    })
}

/// Difference between two states of the resources of one type.
#[derive(Debug, Default)]
struct Difference {
    /// Names of the old resources, including those that `new` replaces.
    removed: Vec<Arc<str>>,
    new: Vec<Arc<Resource>>,
}

impl Difference {
    /// Adds what differs between two outputs, for the keys that satisfy `is_in`.
    fn add_changes<K: Ord, O: AsResources + PartialEq>(
        &mut self,
        last: &OrdMap<K, O>,
        now: &OrdMap<K, O>,
        is_in: impl Fn(&K) -> bool,
    ) {
        for change in changes(last, now).filter(|change| is_in(change.key)) {
            self.add(change.old, change.new);
        }
    }

    fn add<O: AsResources>(&mut self, old: Option<&O>, new: Option<&O>) {
        let old = old.into_iter().flat_map(AsResources::resources);
        self.removed.extend(old.map(|resource| resource.name.clone()));
        self.new.extend(new.into_iter().flat_map(AsResources::resources).cloned());
    }

    fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.new.is_empty()
    }
}

/// Output of a memoized function that is one resource or several.
trait AsResources {
    fn resources(&self) -> &[Arc<Resource>];
}

impl AsResources for Arc<Resource> {
    fn resources(&self) -> &[Arc<Resource>] {
        slice::from_ref(self)
    }
}

impl AsResources for Vec<Arc<Resource>> {
    fn resources(&self) -> &[Arc<Resource>] {
        self
    }
}

/// Adds the store to inputs.
fn stamped<K, I>(
    inputs: impl IntoIterator<Item = (K, I)>,
    store: Option<StoreId>,
) -> impl Iterator<Item = (K, Stamped<I>)> {
    inputs.into_iter().map(move |(key, input)| (key, Stamped { input, store }))
}

/// Adds the store to inputs that changed, of which some are gone.
fn some_stamped<K, I>(
    inputs: impl IntoIterator<Item = (K, Option<I>)>,
    store: Option<StoreId>,
) -> impl Iterator<Item = (K, Option<Stamped<I>>)> {
    inputs.into_iter().map(move |(key, input)| (key, input.map(|input| Stamped { input, store })))
}

/// Returns the config source for a resource that another resource names: the ADS stream on which that other
/// resource came.
///
/// Envoy waits at most 2 s for the response (its default is 15 s); after that it goes on without it.
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
