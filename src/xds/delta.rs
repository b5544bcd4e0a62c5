//! State of one delta (incremental) stream.
//!
//! Same interface as [`crate::xds::sotw::Stream`]: events in, responses out, level-triggered. The resources
//! that a client holds are kept as a set that all streams share, plus the few names for which this client
//! differs from the set.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;

use crate::build::snapshot::{MAX_PIECE, Resource, ResourceSet, Snapshot, Variant, Version};
use crate::envoy::ResourceType;
use crate::nodes::status::{AckState, TypeStatus};
use crate::xds::frame::Response;
use crate::xds::order::{self, Standing, Standings};
use crate::xds::quarantine::Quarantine;
use crate::xds::subscription::Subscription;
use crate::xds::wire::{Request, Versions};
use crate::xds::{
    Common, Protocol, ProtocolError, Refusal, Types, has_legacy_wildcard, requested_type, shorten,
};

/// Everything that one client was sent and answered.
#[derive(Debug)]
pub struct Stream {
    target: Arc<Snapshot>,
    types: Types<Told>,
    common: Common,
    last_nonce: u64,
    impatient: bool,
    /// True if the client came with clusters of an earlier stream. Its listeners and routes may refer to
    /// them, so nothing is removed until the client has asked for those types too, or the wait is over.
    reconnecting: bool,
    refusals: Vec<Refusal>,
}

/// State of a name for which the client differs from the set that it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    Nothing,
    /// Content that is not known here: from another control plane, or after a refused response.
    Unknown,
    Version(Version),
}

/// State of one type.
#[derive(Debug, Default)]
struct Told {
    /// Subscription; none until the client asks for the type.
    subscription: Option<Subscription>,
    /// Set that the client was sent last, as if it had accepted all of it. Only subscribed names count.
    set: Arc<ResourceSet>,
    /// Names for which the client holds something else than `set` has.
    exceptions: BTreeMap<Arc<str>, Held>,
    /// Names that must be sent although they did not change.
    owed: BTreeSet<Arc<str>>,
    /// True if the owed names cannot wait until the earlier responses are answered.
    urgent: bool,
    /// Responses that are not acknowledged or refused yet.
    in_flight: Vec<InFlight>,
    quarantine: Quarantine,
    /// True after the first response, even an empty one, or if the client resumed with versions of its own.
    answered: bool,
    /// Version of the last acknowledged response.
    acked: Option<Version>,
    /// Error text of the last NACK.
    error: Option<String>,
}

/// State of a type that the client did not ask for.
static BLANK: LazyLock<Told> = LazyLock::new(Told::default);

#[derive(Debug)]
struct InFlight {
    nonce: u64,
    version: Version,
    carried: Carried,
}

/// Content of a response.
#[derive(Debug)]
enum Carried {
    /// One of the pieces of a set, which streams share.
    Piece(Arc<ResourceSet>, Range<usize>),
    /// A selection of resources, and the names of removed ones.
    Part { resources: Vec<Arc<Resource>>, removed: Vec<Arc<str>> },
}

impl Carried {
    /// Returns each name with the version that was sent; none for a removed resource.
    fn names(&self) -> Vec<(Arc<str>, Option<Version>)> {
        let sent = |resource: &Arc<Resource>| (resource.name.clone(), Some(resource.version));
        match self {
            Self::Piece(set, range) => set.range(range.clone()).iter().map(sent).collect(),
            Self::Part { resources, removed } => {
                resources.iter().map(sent).chain(removed.iter().map(|name| (name.clone(), None))).collect()
            }
        }
    }
}

impl Told {
    fn wants(&self, name: &str) -> bool {
        self.subscription.as_ref().is_some_and(|subscription| subscription.wants(name))
    }

    fn covers(&self, set: &ResourceSet) -> bool {
        self.subscription.as_ref().is_some_and(|subscription| subscription.covers(set))
    }

    /// True when the client holds nothing and no name has a special state.
    fn is_blank(&self) -> bool {
        let Self { set, exceptions, owed, quarantine, .. } = self;
        set.is_empty() && exceptions.is_empty() && owed.is_empty() && quarantine.is_empty()
    }

    fn held(&self, name: &str) -> Held {
        match self.exceptions.get(name) {
            Some(held) => *held,
            None => self.set.get(name).map_or(Held::Nothing, |resource| Held::Version(resource.version)),
        }
    }

    /// Status of this type: NACK while a resource is held back, pending while a response is unanswered.
    fn state(&self) -> AckState {
        if !self.quarantine.is_empty() {
            AckState::Nacked
        } else if !self.in_flight.is_empty() || !self.answered {
            AckState::Pending
        } else {
            AckState::Acked
        }
    }
}

impl Protocol for Stream {
    const VARIANT: Variant = Variant::Delta;
    type Head = DeltaDiscoveryRequest;

    fn new(target: Arc<Snapshot>, common: &Common) -> Self {
        Self {
            target,
            types: Types::default(),
            common: common.clone(),
            last_nonce: 0,
            impatient: false,
            reconnecting: false,
            refusals: Vec::new(),
        }
    }

    fn on_request(
        &mut self,
        mut request: Request<DeltaDiscoveryRequest>,
    ) -> Result<Vec<Response>, ProtocolError> {
        let head = &mut request.head;
        let Some(resource_type) = requested_type(&head.type_url)? else { return Ok(Vec::new()) };
        let error = head.error_detail.take().map(|error| shorten(error.message));
        self.take_answer(resource_type, &head.response_nonce, error.as_deref());
        // Subscriptions count regardless of the nonce (xDS protocol, "Incremental xDS").
        self.subscribe(resource_type, &request);
        Ok(self.advance())
    }

    fn on_snapshot(&mut self, target: Arc<Snapshot>) -> Vec<Response> {
        self.target = target;
        self.advance()
    }

    fn is_waiting(&self) -> bool {
        let clusters = self.told(ResourceType::Cluster);
        let target = self.target.set(ResourceType::Cluster);
        let withholds =
            self.reconnecting && clusters.exceptions.keys().any(|name| target.get(name).is_none());
        !self.impatient && (withholds || self.standings().is_waiting())
    }

    fn on_impatience(&mut self) -> Vec<Response> {
        self.impatient = true;
        self.reconnecting = false;
        self.advance()
    }

    fn is_idle(&self) -> bool {
        self.types.iter().all(|told| told.in_flight.is_empty() && !told.quarantine.is_searching())
    }

    fn take_refusals(&mut self) -> Vec<Refusal> {
        std::mem::take(&mut self.refusals)
    }

    fn statuses(&self) -> impl Iterator<Item = (ResourceType, TypeStatus<'_>)> {
        ResourceType::ALL.into_iter().filter_map(|resource_type| {
            let told = self.told(resource_type);
            told.subscription.as_ref()?;
            let state = told.state();
            let error = told.error.as_deref().filter(|_| state == AckState::Nacked);
            let current = self.standing(resource_type).is_some_and(|standing| standing.current);
            Some((resource_type, TypeStatus { state, version: told.acked, current, error }))
        })
    }
}

impl Stream {
    /// Records an ACK or a NACK. A request with an unknown nonce answers no response of this stream.
    fn take_answer(&mut self, resource_type: ResourceType, nonce: &str, error: Option<&str>) {
        let told = self.types.get_mut(resource_type);
        let is_answered = |nonce: u64| told.in_flight.iter().position(|sent| sent.nonce == nonce);
        let Some(index) = nonce.parse().ok().and_then(is_answered) else { return };
        let answered = told.in_flight.remove(index);
        let Some(error) = error else {
            told.acked = Some(answered.version);
            return;
        };
        // After a NACK it is unknown which version the client holds of any of these.
        let names = answered.carried.names();
        for (name, _) in &names {
            told.exceptions.insert(name.clone(), Held::Unknown);
        }
        told.error = Some(error.to_owned());
        let held_back = told.quarantine.take(&names, error);
        let version = answered.version.to_string();
        self.refusals.push(Refusal { resource_type, version, error: error.to_owned(), names: held_back });
    }

    fn subscribe(&mut self, resource_type: ResourceType, request: &Request<DeltaDiscoveryRequest>) {
        let told = self.types.get_mut(resource_type);
        let Request { names, unsubscribed, versions, .. } = request;
        let Some(subscription) = &mut told.subscription else {
            let mut subscription = Subscription::new(&self.common.names);
            subscription.begin(names, unsubscribed, has_legacy_wildcard(resource_type));
            told.subscription = Some(subscription);
            let target = self.target.set(resource_type);
            if !versions.is_empty() {
                told.resume(target, versions);
                self.reconnecting |= resource_type == ResourceType::Cluster;
            }
            return told.owe_unmet(target);
        };
        told.owed.extend(subscription.update(names, unsubscribed));
        for name in unsubscribed.iter().filter(|name| !subscription.wants(name)) {
            told.exceptions.remove(name);
            told.owed.remove(name);
            told.quarantine.forget(name);
        }
    }

    /// Returns everything that can be sent now, in the order in which the client can take it.
    fn advance(&mut self) -> Vec<Response> {
        let may_remove = |stream: &Self| stream.standings().may_remove(ResourceType::Cluster);
        let could_remove = may_remove(self);
        let mut responses = self.offer_all();
        // The routes may have settled without a response, if nothing of them was left to send.
        if !could_remove && may_remove(self) {
            responses.extend(self.offer_all());
        }
        responses
    }

    fn offer_all(&mut self) -> Vec<Response> {
        let mut responses = Vec::new();
        let ordered = [
            ResourceType::Cluster,
            ResourceType::Endpoints,
            ResourceType::Secret,
            ResourceType::Listener,
            ResourceType::Route,
        ];
        for resource_type in ordered.into_iter().chain(ResourceType::FURTHER) {
            if self.told(resource_type).subscription.is_none() {
                continue;
            }
            let standings = self.standings();
            if standings.may_add(resource_type, self.impatient) {
                let may_remove = standings.may_remove(resource_type);
                responses.extend(self.offer(resource_type, may_remove));
            }
        }
        responses
    }

    fn told(&self, resource_type: ResourceType) -> &Told {
        self.types.get(resource_type).unwrap_or(&BLANK)
    }

    fn standings(&self) -> Standings {
        let to_come = self.reconnecting.then_some(Standing { last: None, current: false });
        Standings {
            clusters: self.standing(ResourceType::Cluster),
            listeners: self.standing(ResourceType::Listener).or(to_come),
            routes: self.standing(ResourceType::Route).or(to_come),
        }
    }

    fn standing(&self, resource_type: ResourceType) -> Option<Standing> {
        let told = self.told(resource_type);
        told.subscription.as_ref()?;
        let target = self.target.set(resource_type);
        // Removed resources that the client still holds are among the exceptions and do not count here.
        // Neither do refused resources, nor an aggregate cluster that is held back because the client refused
        // one of its members.
        let Told { quarantine, .. } = told;
        let is_held_back = |own: &Resource| quarantine.holds(own) || quarantine.holds_what_is_led_to(own);
        let owes = |name: &Arc<str>| target.get(name).is_some_and(|own| !is_held_back(own));
        let behind = target.changed_since(&told.set).iter().any(|name| told.wants(name));
        let current = !behind && !told.exceptions.keys().any(owes) && !quarantine.is_searching();
        let last = match resource_type {
            // Refused clusters are known by name: only resources that refer to them wait, the others go on.
            ResourceType::Cluster if told.in_flight.is_empty() && !quarantine.is_searching() => {
                AckState::Acked
            }
            ResourceType::Cluster => AckState::Pending,
            _ => told.state(),
        };
        Some(Standing { last: told.answered.then_some(last), current })
    }

    fn offer(&mut self, resource_type: ResourceType, may_remove: bool) -> Vec<Response> {
        let target = self.target.set(resource_type).clone();
        let told = self.told(resource_type);
        let unchanged = Arc::ptr_eq(&told.set, &target) && told.owed.is_empty() && told.exceptions.is_empty();
        let waits = !told.in_flight.is_empty() && !told.urgent;
        let retries = told.quarantine.is_searching();
        if told.subscription.is_none() || waits || (unchanged && told.answered && !retries) {
            return Vec::new();
        }
        let clusters = self.told(ResourceType::Cluster);
        let told = self.told(resource_type);
        if told.is_blank() && clusters.quarantine.is_empty() && !target.is_empty() && told.covers(&target) {
            return self.offer_pieces(resource_type, &target);
        }
        let mut news = self.news(resource_type, may_remove);
        if resource_type == ResourceType::Cluster {
            self.told(resource_type).wait_for_members(&target, &mut news);
        }
        let told = self.types.get_mut(resource_type);
        let News { resources, removed } = news;
        told.rebase(&target, &resources, &removed);
        told.urgent = false;
        let first = !std::mem::replace(&mut told.answered, true);
        // A wildcard is answered even if there is nothing to send (Envoy waits for it at startup).
        let greets = first && told.subscription.as_ref().is_some_and(Subscription::is_wildcard);
        if resources.is_empty() && removed.is_empty() && !greets {
            // This part of the refused resources may be gone since; then the next part is due.
            return if retries { self.offer(resource_type, may_remove) } else { Vec::new() };
        }
        if resource_type == ResourceType::Cluster {
            self.follow(&resources);
        }
        let is_all = resources.len() == target.len() && removed.is_empty();
        let parts = match is_all && resources.iter().all(|own| target.get(&own.name).is_some()) {
            true => pieces(&target),
            false => cut(resources, removed),
        };
        parts.into_iter().map(|part| self.respond(resource_type, &target, part)).collect()
    }

    /// Returns the difference between the target and the state of the client. While a bad resource is
    /// searched for, only the next part of the search. A resource that sends requests to a refused cluster is
    /// left as the client has it.
    fn news(&mut self, resource_type: ResourceType, may_remove: bool) -> News {
        let target = self.target.set(resource_type);
        let told = self.types.get_mut(resource_type);
        told.quarantine.forget_changed(target);
        let part = told.quarantine.next_part();
        let told = self.told(resource_type);
        let mut names: BTreeSet<&Arc<str>> = BTreeSet::new();
        let changed = target.changed_since(&told.set);
        match &part {
            Some(part) => names.extend(part),
            None => names.extend(changed.iter().chain(told.exceptions.keys()).chain(&told.owed)),
        }
        let clusters = self.told(ResourceType::Cluster);
        // Endpoints stay for as long as their cluster stays.
        let stays = |name: &str| {
            let held = clusters.exceptions.get(name);
            resource_type == ResourceType::Endpoints && held.is_some_and(|held| *held != Held::Nothing)
        };
        // Envoy holds back a request for a subscribed host until it learns that the host does not exist.
        let is_host = resource_type == ResourceType::VirtualHost;
        let mut news = News { resources: Vec::new(), removed: Vec::new() };
        for name in names.into_iter().filter(|name| told.wants(name)) {
            let (held, owed) = (told.held(name), told.owed.contains(name));
            match target.get(name) {
                Some(own) if told.quarantine.holds(own) && !owed => {}
                Some(own) if clusters.quarantine.holds_what_is_led_to(own) => {}
                Some(own) if owed || held != Held::Version(own.version) => news.resources.push(own.clone()),
                None if owed && is_host => news.resources.push(Arc::new(Resource::absent(name))),
                None if owed || (may_remove && held != Held::Nothing && !stays(name)) => {
                    news.removed.push(name.clone());
                }
                Some(_) | None => {}
            }
        }
        news
    }

    /// Sends the whole set to a client that wants all of it and holds nothing, as most do when they connect.
    fn offer_pieces(&mut self, resource_type: ResourceType, target: &Arc<ResourceSet>) -> Vec<Response> {
        let told = self.types.get_mut(resource_type);
        told.set = target.clone();
        (told.urgent, told.answered) = (false, true);
        if resource_type == ResourceType::Cluster {
            self.follow(target.range(0..target.len()));
        }
        pieces(target).into_iter().map(|piece| self.respond(resource_type, target, piece)).collect()
    }

    /// Marks the endpoints of changed clusters as owed, whether they changed or not.
    fn follow(&mut self, clusters: &[Arc<Resource>]) {
        self.impatient = false;
        // Most clients have not asked for endpoints yet when they get their first clusters.
        if self.types.get(ResourceType::Endpoints).is_none() {
            return;
        }
        let endpoints = self.types.get_mut(ResourceType::Endpoints);
        for name in clusters.iter().filter_map(|cluster| cluster.endpoints.as_deref()) {
            if endpoints.wants(name) {
                endpoints.urgent = true;
                endpoints.owed.insert(name.into());
            }
        }
    }

    fn respond(&mut self, resource_type: ResourceType, set: &Arc<ResourceSet>, carried: Carried) -> Response {
        self.last_nonce += 1;
        let (nonce, version) = (self.last_nonce, set.version());
        let (resources, removed) = match &carried {
            Carried::Piece(set, range) => {
                let piece = set.pieces().iter().find(|piece| piece.range == *range);
                (piece.into_iter().map(|piece| piece.fields.clone()).collect(), Vec::new())
            }
            Carried::Part { resources, removed } => (
                resources.iter().map(|resource| resource.field(Variant::Delta)).collect(),
                removed.iter().map(|name| name.to_string()).collect(),
            ),
        };
        self.types.get_mut(resource_type).in_flight.push(InFlight { nonce, version, carried });
        Response { resource_type, version: version.to_string(), nonce: nonce.to_string(), resources, removed }
    }
}

impl Told {
    /// Resumes after a reconnection: resources that the client proves to hold are not sent again.
    fn resume(&mut self, target: &Arc<ResourceSet>, versions: &Versions) {
        self.set = target.clone();
        self.answered = true;
        let Some(subscription) = &self.subscription else { return };
        if subscription.covers(target) && versions.inventory() == target.inventory() {
            return; // Nearly all clients hold exactly the target.
        }
        let mut is_held = vec![false; target.len()];
        for (name, version) in versions.iter() {
            let own = target.find(name);
            if let Some((at, _)) = own {
                is_held[at] = true;
            }
            if own.is_some_and(|(_, own)| own.version_text() == version.as_bytes()) {
                self.exceptions.remove(name);
            } else if subscription.wants(name) {
                let held = version.parse().map_or(Held::Unknown, Held::Version);
                self.exceptions.insert(name.into(), held);
            }
        }
        let missing =
            target.iter().zip(is_held).filter(|(own, is_held)| !is_held && subscription.wants(&own.name));
        self.exceptions.extend(missing.map(|(own, _)| (own.name.clone(), Held::Nothing)));
    }

    /// Marks the subscribed names that do not exist as owed: a new stream is told at once that they are
    /// absent. Names that the client still holds are removed later, when nothing refers to them.
    fn owe_unmet(&mut self, target: &ResourceSet) {
        let unmet = self.subscription.as_ref().map(|subscription| subscription.unmet(target));
        let unmet = unmet.iter().flat_map(|names| names.iter());
        self.owed.extend(unmet.filter(|name| !self.exceptions.contains_key(*name)).cloned());
    }
}

/// Resources to send and names to remove.
struct News {
    resources: Vec<Arc<Resource>>,
    removed: Vec<Arc<str>>,
}

impl Told {
    /// Takes out of a change of clusters the steps that would leave an aggregate cluster without members: an
    /// aggregate that replaces a cluster waits until the client has all members, and a cluster is removed
    /// only when no aggregate leads to it any more.
    fn wait_for_members(&self, target: &Arc<ResourceSet>, news: &mut News) {
        let has = |name: &str| self.held(name) != Held::Nothing;
        let offered = news.resources.len();
        // A cluster that was refused may or may not be there.
        let has_for_sure = |name: &str| matches!(self.held(name), Held::Version(_));
        news.resources.retain(|own| !has(&own.name) || !order::waits_for_members(own, has_for_sure));
        let changes_aggregates = news.resources.len() < offered
            || news.resources.iter().any(|own| !own.clusters.is_empty())
            || !self.quarantine.is_empty();
        let may_go = |gone: &Arc<str>| {
            self.owed.contains(gone) || !(changes_aggregates || order::is_member(&self.set, target, gone))
        };
        news.removed.retain(may_go);
    }

    /// Records that the client was sent the target, except for the names that were left out: those keep their
    /// earlier state.
    fn rebase(&mut self, target: &Arc<ResourceSet>, sent: &[Arc<Resource>], removed: &[Arc<str>]) {
        let mut exceptions = std::mem::take(&mut self.exceptions);
        for name in target.changed_since(&self.set).iter().filter(|name| self.wants(name)) {
            let held = self.set.get(name).map_or(Held::Nothing, |resource| Held::Version(resource.version));
            exceptions.entry(name.clone()).or_insert(held);
        }
        for name in sent.iter().map(|resource| &resource.name).chain(removed) {
            exceptions.remove(name);
            self.owed.remove(name);
        }
        let subscription = self.subscription.as_ref();
        exceptions.retain(|name, held| {
            let settled = match target.get(name) {
                Some(own) => *held == Held::Version(own.version),
                None => *held == Held::Nothing,
            };
            !settled && subscription.is_some_and(|it| it.wants(name))
        });
        self.exceptions = exceptions;
        self.set = target.clone();
    }
}

/// Splits a whole set into its shared pieces.
fn pieces(set: &Arc<ResourceSet>) -> Vec<Carried> {
    set.pieces().iter().map(|piece| Carried::Piece(set.clone(), piece.range.clone())).collect()
}

/// Splits new and removed resources into parts of at most [`MAX_PIECE`] bytes, but of at least one name each.
/// Returns one part even if there is nothing to send.
fn cut(resources: Vec<Arc<Resource>>, removed: Vec<Arc<str>>) -> Vec<Carried> {
    let mut parts = Vec::new();
    let (mut part, mut size) = ((Vec::new(), Vec::new()), 0);
    let resources =
        resources.into_iter().map(|resource| (resource.field(Variant::Delta).len(), Ok(resource)));
    // The key and the length of a name take at most 6 bytes.
    let removed = removed.into_iter().map(|name| (name.len() + 6, Err(name)));
    for (length, item) in resources.chain(removed) {
        if size + length > MAX_PIECE && size > 0 {
            parts.push(std::mem::take(&mut part));
            size = 0;
        }
        size += length;
        match item {
            Ok(resource) => part.0.push(resource),
            Err(name) => part.1.push(name),
        }
    }
    parts.push(part);
    parts.into_iter().map(|(resources, removed)| Carried::Part { resources, removed }).collect()
}

#[cfg(test)]
mod tests;
