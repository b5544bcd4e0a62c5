//! One state-of-the-world stream.
//!
//! No socket, no clock, no `async`: what happened goes in, what to send comes out, in order. It is level-triggered: only
//! the newest snapshot is kept, and what to send is always the difference between that and what the client was
//! told last, so that nothing queues up behind a slow client.

use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;

use crate::envoy::ResourceType;
use crate::fleet::{State, TypeStatus};
use crate::snapshot::{Resource, ResourceSet, Snapshot, Variant, Version};
use crate::xds::frame::Response;
use crate::xds::order::{self, GATED, Standing, Standings};
use crate::xds::subscription::{NameTable, Subscription};
use crate::xds::wire::{Names, Request};
use crate::xds::{Protocol, ProtocolError, Refusal, is_sent_whole, requested_type, shorten};

/// What one client was told and answered.
#[derive(Debug)]
pub struct Stream {
    target: Arc<Snapshot>,
    types: [Told; ResourceType::ALL.len()],
    names: NameTable,
    last_nonce: u64,
    impatient: bool,
    refusals: Vec<Refusal>,
}

/// How the client stands with one type.
#[derive(Debug, Default)]
struct Told {
    /// None until the client asks.
    subscription: Option<Subscription>,
    /// What it was last told, as if it had taken it. Of types that are sent by name only the names that are
    /// subscribed to count.
    set: Arc<ResourceSet>,
    /// Names to send though `set` has them, once they exist.
    owed: BTreeSet<Arc<str>>,
    /// These cannot wait for the answer to the response before.
    urgent: bool,
    /// The last response.
    sent: Option<Sent>,
    /// The version that was acknowledged last.
    acked: Option<Version>,
    /// What the client last refused, in its words.
    error: Option<String>,
}

#[derive(Debug)]
struct Sent {
    /// Zero when the client proved that it holds the version, and nothing was sent.
    nonce: u64,
    version: Version,
    state: State,
}

impl Told {
    fn is_pending(&self) -> bool {
        self.sent.as_ref().is_some_and(|sent| sent.state == State::Pending)
    }

    fn wants(&self, name: &str) -> bool {
        self.subscription.as_ref().is_some_and(|subscription| subscription.wants(name))
    }

    fn covers(&self, set: &ResourceSet) -> bool {
        self.subscription.as_ref().is_some_and(|subscription| subscription.covers(set))
    }

    /// What of `target` the client asked for; for a wildcard the set itself.
    fn wanted(&self, target: &Arc<ResourceSet>) -> Arc<ResourceSet> {
        match &self.subscription {
            Some(subscription) if subscription.is_wildcard() => target.clone(),
            _ => {
                Arc::new(ResourceSet::new(target.iter().filter(|it| self.wants(&it.name)).cloned().collect()))
            }
        }
    }
}

impl Protocol for Stream {
    const VARIANT: Variant = Variant::StateOfTheWorld;
    type Head = DiscoveryRequest;

    fn new(target: Arc<Snapshot>, names: &NameTable) -> Self {
        Self {
            target,
            types: Default::default(),
            names: names.clone(),
            last_nonce: 0,
            impatient: false,
            refusals: Vec::new(),
        }
    }

    fn on_request(&mut self, request: Request<DiscoveryRequest>) -> Result<Vec<Response>, ProtocolError> {
        let Request { head: request, names, .. } = request;
        let Some(resource_type) = requested_type(&request.type_url)? else { return Ok(Vec::new()) };
        let told = &mut self.types[resource_type as usize];
        match &mut told.sent {
            Some(sent) if sent.nonce > 0 && sent.nonce.to_string() != request.response_nonce => {
                // Stale: it answers a response that a newer one has overtaken. Its names come again with the
                // answer to that one (xDS protocol, "Resource updates").
                return Ok(Vec::new());
            }
            Some(sent) => match request.error_detail {
                Some(error) => {
                    sent.state = State::Nacked;
                    let error = shorten(error.message);
                    told.error = Some(error.clone());
                    let version = sent.version.to_string();
                    self.refusals.push(Refusal { resource_type, version, error, names: Vec::new() });
                }
                None => {
                    sent.state = State::Acked;
                    told.acked = Some(sent.version);
                }
            },
            None => {}
        }
        self.subscribe(resource_type, &names, &request.version_info);
        Ok(self.advance())
    }

    fn on_snapshot(&mut self, target: Arc<Snapshot>) -> Vec<Response> {
        self.target = target;
        self.advance()
    }

    fn is_waiting(&self) -> bool {
        !self.impatient && self.standings().is_waiting()
    }

    fn on_impatience(&mut self) -> Vec<Response> {
        self.impatient = true;
        self.advance()
    }

    fn is_idle(&self) -> bool {
        !self.types.iter().any(Told::is_pending)
    }

    fn take_refusals(&mut self) -> Vec<Refusal> {
        std::mem::take(&mut self.refusals)
    }

    fn statuses(&self) -> impl Iterator<Item = (ResourceType, TypeStatus<'_>)> {
        ResourceType::ALL.into_iter().filter_map(|resource_type| {
            let told = self.told(resource_type);
            told.subscription.as_ref()?;
            let state = told.sent.as_ref().map_or(State::Pending, |sent| sent.state);
            let error = told.error.as_deref().filter(|_| state == State::Nacked);
            let current = self.is_current(resource_type);
            Some((resource_type, TypeStatus { state, version: told.acked, current, error }))
        })
    }
}

impl Stream {
    /// Notes which names the client wants. New ones are owed, also those that left and returned.
    fn subscribe(&mut self, resource_type: ResourceType, names: &Names, version_info: &str) {
        let told = &mut self.types[resource_type as usize];
        let first = told.subscription.is_none();
        let subscription = told.subscription.get_or_insert_with(|| Subscription::new(&self.names));
        let added = subscription.replace(names, is_sent_whole(resource_type));
        let wildcard = subscription.is_wildcard();
        let target = self.target.set(resource_type);
        if !is_sent_whole(resource_type) {
            // What a set that was never told has is sent as what is new; beyond that names are owed.
            if !told.set.is_empty() {
                told.owed.extend(added);
            }
        } else if first && wildcard && version_info.parse() == Ok(target.version()) {
            // It proves by the version that it holds the whole set: it is sent nothing of it.
            told.set = target.clone();
            told.acked = Some(target.version());
            told.sent = Some(Sent { nonce: 0, version: target.version(), state: State::Acked });
        }
    }

    /// Everything that can be sent now, in the order in which the client can take it.
    fn advance(&mut self) -> Vec<Response> {
        let mut responses = Vec::new();
        let may_remove = self.standings().may_remove(ResourceType::Cluster);
        let told = self.told(ResourceType::Cluster);
        let refused = told.sent.as_ref().is_some_and(|sent| sent.state == State::Nacked);
        let target = self.target.set(ResourceType::Cluster);
        let clusters = order::clusters(&told.set, target, may_remove, refused);
        responses.extend(self.offer_whole(ResourceType::Cluster, &clusters));
        responses.extend(self.offer_by_name(ResourceType::Endpoints));
        responses.extend(self.offer_by_name(ResourceType::Secret));
        if self.standings().may_add(ResourceType::Listener, self.impatient) {
            let listeners = self.target.set(ResourceType::Listener).clone();
            responses.extend(self.offer_whole(ResourceType::Listener, &listeners));
        }
        if self.standings().may_add(ResourceType::Route, self.impatient) {
            responses.extend(self.offer_by_name(ResourceType::Route));
        }
        let scoped_routes = self.target.set(ResourceType::ScopedRoute).clone();
        responses.extend(self.offer_whole(ResourceType::ScopedRoute, &scoped_routes));
        for further in ResourceType::FURTHER.into_iter().filter(|further| !is_sent_whole(*further)) {
            responses.extend(self.offer_by_name(further));
        }
        responses
    }

    fn told(&self, resource_type: ResourceType) -> &Told {
        &self.types[resource_type as usize]
    }

    fn standings(&self) -> Standings {
        let [listeners, routes] = GATED;
        Standings {
            clusters: self.standing(ResourceType::Cluster),
            listeners: self.standing(listeners),
            routes: self.standing(routes),
        }
    }

    fn standing(&self, resource_type: ResourceType) -> Option<Standing> {
        let told = self.told(resource_type);
        told.subscription.as_ref()?;
        let current = self.is_current(resource_type);
        let last = match &told.sent {
            // Of what is sent by name there may be nothing to send, and then nothing is answered.
            None if current && resource_type == ResourceType::Route => Some(State::Acked),
            sent => sent.as_ref().map(|sent| sent.state),
        };
        Some(Standing { last, current })
    }

    /// True when the client was told of all that the target has of this type, whatever else it has.
    fn is_current(&self, resource_type: ResourceType) -> bool {
        let told = self.told(resource_type);
        let target = self.target.set(resource_type);
        let has_news = |name: &Arc<str>| told.wants(name) && target.get(name).is_some();
        match resource_type {
            _ if told.set.version() == target.version() => true,
            ResourceType::Listener => told.set.version() == told.wanted(target).version(),
            _ => !target.changed_since(&told.set).iter().any(has_news),
        }
    }

    /// Listeners, clusters and scoped routes: the full set each time, whatever changed in it.
    fn offer_whole(&mut self, resource_type: ResourceType, target: &Arc<ResourceSet>) -> Option<Response> {
        let told = self.told(resource_type);
        told.subscription.as_ref()?;
        let set = told.wanted(target);
        let unchanged = told.sent.is_some() && told.set.version() == set.version();
        if unchanged || told.is_pending() {
            return None;
        }
        if resource_type == ResourceType::Cluster {
            let endpoints = self.told(ResourceType::Endpoints);
            let mut follow = match endpoints.subscription {
                Some(_) => order::endpoints_to_follow(&told.set, &set),
                // As most when they connect, it has not asked for any yet.
                None => Vec::new(),
            };
            follow.retain(|name| endpoints.wants(name));
            let endpoints = &mut self.types[ResourceType::Endpoints as usize];
            endpoints.urgent |= !follow.is_empty();
            endpoints.owed.extend(follow);
            self.impatient = false;
        }
        let resources = vec![set.whole(Variant::StateOfTheWorld)];
        Some(self.respond(resource_type, set, resources))
    }

    /// All other types: what changed of the names that are subscribed to.
    fn offer_by_name(&mut self, resource_type: ResourceType) -> Option<Response> {
        let target = self.target.set(resource_type).clone();
        let told = &mut self.types[resource_type as usize];
        let nothing_new = Arc::ptr_eq(&told.set, &target) && told.owed.is_empty();
        if nothing_new || told.subscription.is_none() || (told.is_pending() && !told.urgent) {
            return None;
        }
        if told.set.is_empty() && told.owed.is_empty() && !target.is_empty() && told.covers(&target) {
            // As most do when they connect, it wants all and has nothing.
            told.urgent = false;
            let resources = vec![target.whole(Variant::StateOfTheWorld)];
            return Some(self.respond(resource_type, target, resources));
        }
        let changed = target.changed_since(&told.set);
        let owed = told.owed.iter().filter(|name| target.get(name).is_some());
        let names: BTreeSet<&Arc<str>> = changed.iter().filter(|name| told.wants(name)).chain(owed).collect();
        let news: Vec<&Arc<Resource>> = names.into_iter().filter_map(|name| target.get(name)).collect();
        let is_silent = news.is_empty();
        let resources = match news.len() {
            all if all == target.len() => vec![target.whole(Variant::StateOfTheWorld)],
            _ => news.iter().map(|resource| resource.field(Variant::StateOfTheWorld)).collect(),
        };
        let told = &mut self.types[resource_type as usize];
        let subscription = told.subscription.as_ref();
        told.owed.retain(|name| subscription.is_some_and(|it| it.wants(name)) && target.get(name).is_none());
        told.urgent = false;
        if is_silent {
            told.set = target;
            return None;
        }
        Some(self.respond(resource_type, target, resources))
    }

    fn respond(
        &mut self,
        resource_type: ResourceType,
        set: Arc<ResourceSet>,
        resources: Vec<bytes::Bytes>,
    ) -> Response {
        self.last_nonce += 1;
        let told = &mut self.types[resource_type as usize];
        let version = set.version();
        told.set = set;
        told.sent = Some(Sent { nonce: self.last_nonce, version, state: State::Pending });
        Response {
            resource_type,
            version: version.to_string(),
            nonce: self.last_nonce.to_string(),
            resources,
            removed: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
