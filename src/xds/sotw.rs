//! State of one state-of-the-world (SotW) stream.
//!
//! No socket, no clock, no `async`: events go in, the responses to send come out, in order. It is
//! level-triggered: only the newest snapshot is kept, and a response is always the difference between it and
//! what the client was sent last, so that nothing queues up behind a slow client.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
use envoy_types::pb::google::rpc::Status;

use crate::build::snapshot::{Resource, ResourceSet, Snapshot, Variant, Version};
use crate::envoy::ResourceType;
use crate::nodes::status::{AckState, TypeStatus};
use crate::xds::frame::Response;
use crate::xds::order::{self, GATED, Standing, Standings};
use crate::xds::quarantine::Quarantine;
use crate::xds::subscription::Subscription;
use crate::xds::wire::{Names, Request};
use crate::xds::{Common, Protocol, ProtocolError, Refusal, Types, is_sent_whole, requested_type, shorten};

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

/// State of one type.
#[derive(Debug, Default)]
struct Told {
    /// Subscription; none until the client asks for the type.
    subscription: Option<Subscription>,
    /// Set that the client was sent last, as if it had accepted all of it. For types that are sent by name,
    /// only subscribed names count.
    set: Arc<ResourceSet>,
    /// Set that the client accepted last, for types that are sent whole; none while it holds something that
    /// is not known here.
    held: Option<Arc<ResourceSet>>,
    /// True if the last response was refused and it is unknown what the client holds: nothing is removed and
    /// aggregate clusters are not replaced.
    keeps_all: bool,
    /// True if the client may have accepted a part of a refused response, so that the whole set is sent even
    /// if it equals `set`.
    doubtful: bool,
    /// Names to send although `set` has them, as soon as they exist.
    owed: BTreeSet<Arc<str>>,
    /// True if the owed names cannot wait until the last response is answered.
    urgent: bool,
    /// Last response; none before the first.
    sent: Option<Sent>,
    /// Version of the last acknowledged response.
    acked: Option<Version>,
    /// Error text of the last NACK.
    error: Option<String>,
    quarantine: Quarantine,
}

/// State of a type that the client did not ask for.
static BLANK: LazyLock<Told> = LazyLock::new(Told::default);

#[derive(Debug)]
struct Sent {
    /// Nonce; zero if nothing was sent because the client proved that it holds the version.
    nonce: u64,
    version: Version,
    state: AckState,
    /// Names in the response; none for all of the set.
    names: Option<Box<[Arc<str>]>>,
}

impl Told {
    fn is_pending(&self) -> bool {
        self.sent.as_ref().is_some_and(|sent| sent.state == AckState::Pending)
    }

    fn wants(&self, name: &str) -> bool {
        self.subscription.as_ref().is_some_and(|subscription| subscription.wants(name))
    }

    fn is_wildcard(&self) -> bool {
        self.subscription.as_ref().is_some_and(Subscription::is_wildcard)
    }

    /// True if the client holds nothing and wants all of `set`, as most do when they connect.
    fn lacks_all_of(&self, set: &ResourceSet) -> bool {
        let covers = |subscription: &Subscription| subscription.covers(set);
        let has_nothing = self.set.is_empty() && self.owed.is_empty() && self.quarantine.is_empty();
        has_nothing && !set.is_empty() && self.subscription.as_ref().is_some_and(covers)
    }

    /// Returns the resources of `target` that the client asked for; for a wildcard the set itself.
    fn wanted(&self, target: &Arc<ResourceSet>) -> Arc<ResourceSet> {
        match &self.subscription {
            Some(subscription) if subscription.is_wildcard() => target.clone(),
            _ => Arc::new(ResourceSet::new(target.iter().filter(|it| self.wants(&it.name)).cloned())),
        }
    }

    /// Returns the status of this type: NACK while a resource is held back.
    fn state(&self) -> Option<AckState> {
        let sent = self.sent.as_ref()?;
        Some(match sent.state {
            _ if !self.quarantine.is_empty() => AckState::Nacked,
            AckState::Nacked if !self.keeps_all => AckState::Acked,
            state => state,
        })
    }

    fn acknowledge(&mut self) {
        let Some(sent) = &mut self.sent else { return };
        sent.state = AckState::Acked;
        sent.names = None;
        self.acked = Some(sent.version);
        self.held = Some(self.set.clone());
    }

    /// Records a NACK of the last response and returns the names that are held back from now on.
    fn refuse(&mut self, resource_type: ResourceType, error: &str) -> Vec<String> {
        let Some(sent) = &mut self.sent else { return Vec::new() };
        sent.state = AckState::Nacked;
        self.error = Some(error.to_owned());
        let names = sent.names.take();
        if !is_sent_whole(resource_type) {
            let sent = match names {
                Some(names) => self.versions(&names),
                None => self.versions(&self.set.iter().map(|own| own.name.clone()).collect::<Vec<_>>()),
            };
            return self.quarantine.take(&sent, error);
        }
        // A SotW response deletes the resources that it leaves out, so a single resource can be held back
        // only if it is known what the client holds.
        let held = self.held.clone();
        let changed = held.as_ref().map(|held| self.set.changed_since(held)).unwrap_or_default();
        let news = self.versions(&changed);
        self.keeps_all = news.is_empty();
        let Some(held) = held.filter(|_| !self.keeps_all) else { return Vec::new() };
        self.doubtful = changed.len() > 1;
        self.set = held;
        self.quarantine.take(&news, error)
    }

    /// Returns the names that are in `set` and subscribed to, with their versions.
    fn versions(&self, names: &[Arc<str>]) -> Vec<(Arc<str>, Option<Version>)> {
        let told = names.iter().filter_map(|name| self.set.get(name)).filter(|own| self.wants(&own.name));
        told.map(|own| (own.name.clone(), Some(own.version))).collect()
    }
}

impl Protocol for Stream {
    const VARIANT: Variant = Variant::StateOfTheWorld;
    type Head = DiscoveryRequest;

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

    fn on_request(&mut self, request: Request<DiscoveryRequest>) -> Result<Vec<Response>, ProtocolError> {
        let Request { head: request, names, .. } = request;
        let Some(resource_type) = requested_type(&request.type_url)? else { return Ok(Vec::new()) };
        match &self.told(resource_type).sent {
            // Stale: the request answers a response that a newer one has overtaken. Its names come again with
            // the answer to the newer one (xDS protocol, "Resource updates").
            Some(sent) if sent.nonce > 0 && request.response_nonce.parse() != Ok(sent.nonce) => {
                return Ok(Vec::new());
            }
            // Further requests with the same nonce only change the names.
            Some(sent) if sent.state == AckState::Pending => {
                self.take_answer(resource_type, request.error_detail)
            }
            _ => {}
        }
        self.subscribe(resource_type, &names, &request.version_info);
        Ok(self.advance())
    }

    fn on_snapshot(&mut self, target: Arc<Snapshot>) -> Vec<Response> {
        self.target = target;
        self.advance()
    }

    fn is_waiting(&self) -> bool {
        let clusters = &self.told(ResourceType::Cluster).set;
        let target = self.target.set(ResourceType::Cluster);
        let is_gone = |name: &Arc<str>| target.get(name).is_none();
        let withholds = self.reconnecting && target.changed_since(clusters).iter().any(is_gone);
        !self.impatient && (withholds || self.standings().is_waiting())
    }

    fn on_impatience(&mut self) -> Vec<Response> {
        self.impatient = true;
        self.reconnecting = false;
        self.advance()
    }

    fn is_idle(&self) -> bool {
        !self.types.iter().any(|told| told.is_pending() || told.quarantine.is_searching())
    }

    fn take_refusals(&mut self) -> Vec<Refusal> {
        std::mem::take(&mut self.refusals)
    }

    fn statuses(&self) -> impl Iterator<Item = (ResourceType, TypeStatus<'_>)> {
        ResourceType::ALL.into_iter().filter_map(|resource_type| {
            let told = self.told(resource_type);
            told.subscription.as_ref()?;
            let state = told.state().unwrap_or(AckState::Pending);
            let error = told.error.as_deref().filter(|_| state == AckState::Nacked);
            let current = self.is_current(resource_type);
            Some((resource_type, TypeStatus { state, version: told.acked, current, error }))
        })
    }
}

impl Stream {
    /// Records an ACK or a NACK of the last response.
    fn take_answer(&mut self, resource_type: ResourceType, error: Option<Status>) {
        let told = self.types.get_mut(resource_type);
        let Some(error) = error else { return told.acknowledge() };
        let error = shorten(error.message);
        let version = told.sent.as_ref().map(|sent| sent.version.to_string()).unwrap_or_default();
        let names = told.refuse(resource_type, &error);
        if told.is_wildcard() {
            told.held.iter().for_each(|held| self.common.past.doubt(held.version()));
        }
        self.refusals.push(Refusal { resource_type, version, error, names });
    }

    /// Updates the names that the client wants. New ones become owed, also names that were dropped and
    /// return.
    fn subscribe(&mut self, resource_type: ResourceType, names: &Names, version_info: &str) {
        let told = self.types.get_mut(resource_type);
        let first = told.subscription.is_none();
        let subscription = told.subscription.get_or_insert_with(|| Subscription::new(&self.common.names));
        let added = subscription.replace(names, is_sent_whole(resource_type));
        if !is_sent_whole(resource_type) {
            // Everything counts as new while `set` is empty. Later, added names are owed.
            if !told.set.is_empty() {
                told.owed.extend(added);
            }
        } else if first {
            self.resume(resource_type, version_info);
        }
    }

    /// Resumes from the version of the client: if the set of that version is known, only the changes since
    /// are sent.
    fn resume(&mut self, resource_type: ResourceType, version_info: &str) {
        let told = self.types.get_mut(resource_type);
        if version_info.is_empty() {
            told.held = Some(Arc::default());
            return;
        }
        let Some(version) = version_info.parse().ok().filter(|_| told.is_wildcard()) else { return };
        let target = self.target.set(resource_type);
        let current = || (target.version() == version).then(|| (target.clone(), false));
        let Some((set, doubtful)) = self.common.past.recall(version).or_else(current) else { return };
        self.reconnecting |= resource_type == ResourceType::Cluster;
        (told.set, told.held, told.doubtful) = (set.clone(), Some(set), doubtful);
        told.acked = Some(version);
        told.sent = Some(Sent { nonce: 0, version, state: AckState::Acked, names: None });
    }

    /// Returns everything that can be sent now, in the order in which the client can take it.
    fn advance(&mut self) -> Vec<Response> {
        for (resource_type, told) in self.types.iter_mut() {
            told.quarantine.forget_changed(self.target.set(resource_type));
        }
        let mut responses = Vec::new();
        responses.extend(self.offer_whole(ResourceType::Cluster));
        responses.extend(self.offer_by_name(ResourceType::Endpoints));
        responses.extend(self.offer_by_name(ResourceType::Secret));
        if self.standings().may_add(ResourceType::Listener, self.impatient) {
            responses.extend(self.offer_whole(ResourceType::Listener));
        }
        if self.standings().may_add(ResourceType::Route, self.impatient) {
            responses.extend(self.offer_by_name(ResourceType::Route));
        }
        for further in ResourceType::FURTHER {
            responses.extend(match is_sent_whole(further) {
                true => self.offer_whole(further),
                false => self.offer_by_name(further),
            });
        }
        responses
    }

    fn told(&self, resource_type: ResourceType) -> &Told {
        self.types.get(resource_type).unwrap_or(&BLANK)
    }

    fn standings(&self) -> Standings {
        let [listeners, routes] = GATED;
        let to_come = self.reconnecting.then_some(Standing { last: None, current: false });
        Standings {
            clusters: self.standing(ResourceType::Cluster),
            listeners: self.standing(listeners).or(to_come),
            routes: self.standing(routes).or(to_come),
        }
    }

    fn standing(&self, resource_type: ResourceType) -> Option<Standing> {
        let told = self.told(resource_type);
        told.subscription.as_ref()?;
        let current = self.is_current(resource_type);
        let last = match (resource_type, told.state()) {
            // A type that is sent by name may have nothing to send, and then there is no response to
            // acknowledge.
            (ResourceType::Route, None) if current => Some(AckState::Acked),
            (ResourceType::Cluster, Some(_)) if told.is_pending() || told.quarantine.is_searching() => {
                Some(AckState::Pending)
            }
            // Refused clusters are known by name: only resources that refer to them wait, the others go on.
            (ResourceType::Cluster, Some(_)) if !told.quarantine.is_empty() => Some(AckState::Acked),
            (_, state) => state,
        };
        Some(Standing { last, current })
    }

    /// True if the client was sent everything that the target has of this type; further resources that it
    /// holds do not count.
    fn is_current(&self, resource_type: ResourceType) -> bool {
        let told = self.told(resource_type);
        let target = self.target.set(resource_type);
        let clusters = &self.told(ResourceType::Cluster).quarantine;
        let is_news = |name: &Arc<str>| match target.get(name) {
            // The resources that a removed listener leads to are still in use.
            None => resource_type == ResourceType::Listener,
            Some(own) if resource_type == ResourceType::Cluster => {
                !clusters.holds(own) && !clusters.holds_what_is_led_to(own)
            }
            Some(own) => !told.quarantine.holds(own),
        };
        let owes = told.owed.iter().any(|name| target.get(name).is_some());
        let changed = target.changed_since(&told.set);
        !owes
            && !told.quarantine.is_searching()
            && !changed.iter().any(|name| told.wants(name) && is_news(name))
    }

    /// Returns the full set of a type that is sent whole, in the form in which the client may have it now.
    fn whole(&self, resource_type: ResourceType) -> Arc<ResourceSet> {
        let told = self.told(resource_type);
        let target = self.without_refused(told, told.wanted(self.target.set(resource_type)));
        if resource_type != ResourceType::Cluster {
            return target;
        }
        let may_remove = self.standings().may_remove(ResourceType::Cluster);
        order::clusters(&told.set, &target, may_remove, told.keeps_all)
    }

    /// Replaces refused resources, and resources that lead to refused clusters, by the versions that the
    /// client holds.
    fn without_refused(&self, told: &Told, target: Arc<ResourceSet>) -> Arc<ResourceSet> {
        let clusters = &self.told(ResourceType::Cluster).quarantine;
        let Some(held) = &told.held else { return target };
        if told.quarantine.is_empty() && clusters.is_empty() {
            return target;
        }
        let suspects = told.quarantine.suspects();
        let is_held_back = |own: &&Arc<Resource>| {
            suspects.contains(&*own.name) || told.quarantine.holds(own) || clusters.holds_what_is_led_to(own)
        };
        let (mut kept, mut left_out) = (Vec::new(), BTreeSet::new());
        for own in target.iter().filter(is_held_back) {
            match held.get(&own.name) {
                Some(known) => kept.push(known.clone()),
                None => _ = left_out.insert(own.name.clone()),
            }
        }
        target.with(kept, &left_out)
    }

    /// Sends listeners, clusters or scoped routes: the full set each time, whatever changed in it.
    fn offer_whole(&mut self, resource_type: ResourceType) -> Option<Response> {
        let told = self.told(resource_type);
        if told.subscription.is_none() || told.is_pending() {
            return None;
        }
        let set = loop {
            let searches = self.types.get_mut(resource_type).quarantine.next_part().is_some();
            let told = self.told(resource_type);
            let set = self.whole(resource_type);
            if told.sent.is_none() || told.doubtful || told.set.version() != set.version() {
                break set;
            }
            // This part of the refused resources may be gone since; then the next part is due.
            if !searches {
                return None;
            }
        };
        if resource_type == ResourceType::Cluster {
            self.follow(&set);
        }
        let resources = vec![set.whole(Variant::StateOfTheWorld)];
        if self.told(resource_type).is_wildcard() {
            self.common.past.remember(&set);
        }
        Some(self.respond(resource_type, set, resources, None))
    }

    /// Marks the endpoints of changed clusters as owed, whether they changed or not.
    fn follow(&mut self, offered: &ResourceSet) {
        self.impatient = false;
        let clusters = self.told(ResourceType::Cluster);
        let endpoints = self.told(ResourceType::Endpoints);
        // Most clients have not asked for endpoints yet when they get their first clusters.
        if endpoints.subscription.is_none() {
            return;
        }
        let mut follow = order::endpoints_to_follow(&clusters.set, offered);
        follow.retain(|name| endpoints.wants(name));
        let endpoints = self.types.get_mut(ResourceType::Endpoints);
        endpoints.urgent |= !follow.is_empty();
        endpoints.owed.extend(follow);
    }

    /// Sends a type that is not sent whole: the changes of the subscribed names.
    fn offer_by_name(&mut self, resource_type: ResourceType) -> Option<Response> {
        let target = self.target.set(resource_type).clone();
        let told = self.told(resource_type);
        let searches = told.quarantine.is_searching();
        let nothing_new = Arc::ptr_eq(&told.set, &target) && told.owed.is_empty() && !searches;
        if nothing_new || told.subscription.is_none() || (told.is_pending() && !told.urgent) {
            return None;
        }
        let refused_clusters = !self.told(ResourceType::Cluster).quarantine.is_empty();
        if told.lacks_all_of(&target) && !refused_clusters {
            let resources = vec![target.whole(Variant::StateOfTheWorld)];
            return Some(self.respond(resource_type, target, resources, None));
        }
        let news = self.news(resource_type);
        let told = self.types.get_mut(resource_type);
        told.urgent = false;
        if news.is_empty() {
            return None;
        }
        let names = news.iter().map(|own| own.name.clone()).collect();
        let resources = match news.len() {
            all if all == target.len() => vec![target.whole(Variant::StateOfTheWorld)],
            _ => news.iter().map(|resource| resource.field(Variant::StateOfTheWorld)).collect(),
        };
        Some(self.respond(resource_type, target, resources, Some(names)))
    }

    /// Returns the resources of a type that is sent by name that are due. While a bad resource is searched
    /// for, only the next part of the search. A resource that sends requests to a refused cluster stays owed.
    fn news(&mut self, resource_type: ResourceType) -> Vec<Arc<Resource>> {
        let target = self.target.set(resource_type).clone();
        let told = self.types.get_mut(resource_type);
        let changed = target.changed_since(&told.set);
        let is_refused = |name: &Arc<str>| target.get(name).is_some_and(|own| told.quarantine.holds(own));
        let changed = changed.iter().filter(|name| !is_refused(name)).cloned();
        told.owed.extend(changed);
        let subscription = told.subscription.as_ref();
        told.owed.retain(|name| subscription.is_some_and(|it| it.wants(name)));
        told.set = target.clone();
        loop {
            let part = self.types.get_mut(resource_type).quarantine.next_part();
            let told = self.told(resource_type);
            let names: Vec<&Arc<str>> = match &part {
                Some(part) => part.iter().filter(|name| told.wants(name)).collect(),
                None => told.owed.iter().collect(),
            };
            let clusters = &self.told(ResourceType::Cluster).quarantine;
            let there = names.into_iter().filter_map(|name| target.get(name));
            let (later, now): (Vec<_>, Vec<_>) =
                there.cloned().partition(|own| clusters.holds_what_is_led_to(own));
            let told = self.types.get_mut(resource_type);
            told.owed.extend(later.iter().map(|own| own.name.clone()));
            now.iter().for_each(|own| _ = told.owed.remove(&own.name));
            // This part of the refused resources may be gone since; then the next part is due.
            if part.is_none() || !now.is_empty() {
                return now;
            }
        }
    }

    fn respond(
        &mut self,
        resource_type: ResourceType,
        set: Arc<ResourceSet>,
        resources: Vec<bytes::Bytes>,
        names: Option<Box<[Arc<str>]>>,
    ) -> Response {
        self.last_nonce += 1;
        let (nonce, version) = (self.last_nonce, set.version());
        let told = self.types.get_mut(resource_type);
        told.set = set;
        (told.doubtful, told.keeps_all) = (false, false);
        told.urgent = false;
        told.sent = Some(Sent { nonce, version, state: AckState::Pending, names });
        Response {
            resource_type,
            version: version.to_string(),
            nonce: nonce.to_string(),
            resources,
            removed: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
