//! State of one state-of-the-world (SotW) stream.
//!
//! No socket, no clock, no `async`: events go in, the responses to send come out, in order. It is
//! level-triggered: only the newest snapshot is kept, and a response is always the difference between it and
//! what the client was sent last, so that nothing queues up behind a slow client.

mod type_state;

use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
use envoy_types::pb::google::rpc::Status;

use crate::build::snapshot::Snapshot;
use crate::build::snapshot::past::SentSets;
use crate::build::snapshot::resource::{Resource, Variant};
use crate::build::snapshot::set::ResourceSet;
use crate::build::snapshot::stated::StatedVersion;
use crate::cache::standing::Standing;
use crate::envoy::ResourceType;
use crate::nodes::nack::{ResponseNack, shorten_error};
use crate::nodes::status::{AckState, Provenance, TypeStatus};
use crate::xds::stream::held::{AskedResources, HeldClusters};
use crate::xds::stream::order::{self, StreamProgress, TypeProgress};
use crate::xds::stream::protocol::{DiscoveryStream, ProtocolError, StreamContext};
use crate::xds::stream::sotw::type_state::{BLANK, Proof, SentResponse, SotwTypeState};
use crate::xds::stream::subscription::TypeSubscription;
use crate::xds::stream::type_table::{TypeTable, is_sent_whole, requested_type};
use crate::xds::stream::withhold::Withholding;
use crate::xds::wire::frame::Response;
use crate::xds::wire::request::{LazyRequest, NameList};

/// Everything that one client was sent and answered.
#[derive(Debug)]
pub struct SotwStream {
    target: Arc<Snapshot>,
    types: TypeTable<SotwTypeState>,
    context: StreamContext,
    last_nonce: u64,
    timed_out: bool,
    /// True if the client came with clusters of an earlier stream. Its listeners and routes may refer to
    /// them, so nothing is removed until the client has asked for those types too, or the wait is over.
    reconnecting: bool,
    withholding: Withholding<Proof>,
    nacks: Vec<ResponseNack>,
}

impl DiscoveryStream for SotwStream {
    const VARIANT: Variant = Variant::StateOfTheWorld;
    type Head = DiscoveryRequest;

    fn new(target: Arc<Snapshot>, context: &StreamContext) -> Self {
        Self {
            target,
            types: TypeTable::default(),
            context: context.clone(),
            last_nonce: 0,
            timed_out: false,
            reconnecting: false,
            withholding: Withholding::default(),
            nacks: Vec::new(),
        }
    }

    fn set_standing(&mut self, standing: &Standing) {
        self.withholding.set_standing(standing);
    }

    fn provenance(&self) -> Provenance {
        self.withholding.provenance()
    }

    fn on_request(&mut self, request: LazyRequest<DiscoveryRequest>) -> Result<Vec<Response>, ProtocolError> {
        let LazyRequest { head: request, names, .. } = request;
        let Some(resource_type) = requested_type(&request.type_url)? else { return Ok(Vec::new()) };
        match &self.type_state(resource_type).sent {
            // Stale: the request answers a response that a newer one has overtaken. Its names come again with
            // the answer to the newer one (xDS protocol, "Resource updates").
            Some(sent) if sent.nonce > 0 && request.response_nonce.parse() != Ok(sent.nonce) => {
                return Ok(Vec::new());
            }
            // Further requests with the same nonce only change the names.
            Some(sent) if sent.state == AckState::Pending => {
                self.record_answer(resource_type, request.error_detail)
            }
            _ => {}
        }
        self.subscribe(resource_type, &names, &request.version_info);
        Ok(self.advance())
    }

    fn on_snapshot(&mut self, target: Arc<Snapshot>) -> Vec<Response> {
        self.target = target;
        let (target, past) = (&self.target, &self.context.past);
        let released = self.withholding.review(|withholding, resource_type, proof| {
            judge(withholding, (target.set(resource_type), past), *proof);
        });
        for (resource_type, proof) in released {
            let state = self.types.get_mut(resource_type);
            let resumes = state.resume(resource_type, (target.set(resource_type), past), proof);
            self.reconnecting |= resumes && resource_type == ResourceType::Cluster;
        }
        self.advance()
    }

    fn is_waiting(&self) -> bool {
        let clusters = &self.type_state(ResourceType::Cluster).set;
        let target = self.target.set(ResourceType::Cluster);
        let is_gone = |name: &Arc<str>| target.get(name).is_none();
        let withholds = self.reconnecting && target.changed_since(clusters).iter().any(is_gone);
        !self.withholding.is_active() && !self.timed_out && (withholds || self.progress().is_waiting())
    }

    fn on_timeout(&mut self) -> Vec<Response> {
        self.timed_out = true;
        self.reconnecting = false;
        self.advance()
    }

    fn is_idle(&self) -> bool {
        !self.types.iter().any(|state| state.is_pending() || state.quarantine.is_searching())
    }

    fn take_nacks(&mut self) -> Vec<ResponseNack> {
        std::mem::take(&mut self.nacks)
    }

    fn asked(&self) -> AskedResources {
        let subscriptions = self.types.iter().filter_map(|state| state.subscription.as_ref());
        let names = subscriptions.map(TypeSubscription::names).filter(|names| !names.is_empty()).cloned();
        let clusters = self.type_state(ResourceType::Cluster);
        let state = match &clusters.subscription {
            Some(_) => clusters,
            None => self.type_state(ResourceType::Endpoints),
        };
        let held = state.subscription.as_ref().zip(state.acknowledged_set());
        AskedResources {
            names: names.collect(),
            clusters: held.map(|(subscription, set)| HeldClusters::new(set, subscription)),
        }
    }

    fn statuses(&self) -> impl Iterator<Item = (ResourceType, TypeStatus<'_>)> {
        ResourceType::ALL.into_iter().filter_map(|resource_type| {
            let state = self.type_state(resource_type);
            state.subscription.as_ref()?;
            let current = self.is_current(resource_type);
            let outcome = match state.ack_state() {
                Some(outcome) => outcome,
                // Nothing that the client asked for exists, so there is no response to acknowledge.
                None if current && !is_sent_whole(resource_type) => AckState::Acked,
                None => AckState::Pending,
            };
            let error = state.error.as_deref().filter(|_| outcome == AckState::Nacked);
            Some((resource_type, TypeStatus { state: outcome, version: state.acked, current, error }))
        })
    }
}

impl SotwStream {
    /// Records an ACK or a NACK of the last response.
    fn record_answer(&mut self, resource_type: ResourceType, error: Option<Status>) {
        let state = self.types.get_mut(resource_type);
        let Some(error) = error else { return state.record_ack() };
        let error = shorten_error(error.message);
        let (nonce, version) =
            state.sent.as_ref().map(|sent| (sent.nonce, sent.version.to_string())).unwrap_or_default();
        let names = state.record_nack(resource_type, &error);
        if state.is_wildcard() {
            state.held.iter().for_each(|held| self.context.past.doubt(held.version()));
        }
        self.nacks.push(ResponseNack { resource_type, nonce, version, error, names });
    }

    /// Updates the names that the client wants. New ones become owed, also names that were dropped and
    /// return.
    fn subscribe(&mut self, resource_type: ResourceType, names: &NameList, version_info: &str) {
        let state = self.types.get_mut(resource_type);
        let first = state.subscription.is_none();
        let subscription =
            state.subscription.get_or_insert_with(|| TypeSubscription::new(&self.context.names));
        let added = subscription.replace(names, is_sent_whole(resource_type));
        // Everything counts as new while `set` is empty. Later, added names are owed.
        if !is_sent_whole(resource_type) && !state.set.is_empty() {
            state.owed.extend(added);
        }
        if first {
            let proof = Proof::read(version_info);
            let (target, past) = (self.target.set(resource_type), &self.context.past);
            judge(&mut self.withholding, (target, past), proof);
            if self.withholding.is_active() {
                self.withholding.keep(resource_type, proof);
            } else {
                let resumes = state.resume(resource_type, (target, past), proof);
                self.reconnecting |= resumes && resource_type == ResourceType::Cluster;
            }
        }
    }

    /// Returns everything that can be sent now, in the order in which the client can take it.
    fn advance(&mut self) -> Vec<Response> {
        if self.withholding.is_active() {
            return Vec::new();
        }
        for (resource_type, state) in self.types.iter_mut() {
            state.quarantine.forget_changed(self.target.set(resource_type));
        }
        let mut responses = Vec::new();
        responses.extend(self.offer_whole(ResourceType::Cluster));
        responses.extend(self.offer_by_name(ResourceType::Endpoints));
        responses.extend(self.offer_by_name(ResourceType::Secret));
        if self.progress().may_add(ResourceType::Listener, self.timed_out) {
            responses.extend(self.offer_whole(ResourceType::Listener));
        }
        if self.progress().may_add(ResourceType::Route, self.timed_out) {
            responses.extend(self.offer_by_name(ResourceType::Route));
        }
        for further in ResourceType::FURTHER {
            responses.extend(if is_sent_whole(further) {
                self.offer_whole(further)
            } else {
                self.offer_by_name(further)
            });
        }
        responses
    }

    fn type_state(&self, resource_type: ResourceType) -> &SotwTypeState {
        self.types.get(resource_type).unwrap_or(&BLANK)
    }

    fn progress(&self) -> StreamProgress {
        StreamProgress::new(|resource_type| self.type_progress(resource_type), self.reconnecting)
    }

    fn type_progress(&self, resource_type: ResourceType) -> Option<TypeProgress> {
        let state = self.type_state(resource_type);
        state.subscription.as_ref()?;
        let current = self.is_current(resource_type);
        let last = match (resource_type, state.ack_state()) {
            // A type that is sent by name may have nothing to send, and then there is no response to
            // acknowledge.
            (ResourceType::Route, None) if current => Some(AckState::Acked),
            (ResourceType::Cluster, Some(_)) if state.is_pending() || state.quarantine.is_searching() => {
                Some(AckState::Pending)
            }
            // Refused clusters are known by name: only resources that refer to them wait, the others go on.
            (ResourceType::Cluster, Some(_)) if !state.quarantine.is_empty() => Some(AckState::Acked),
            (_, outcome) => outcome,
        };
        Some(TypeProgress { last, current })
    }

    /// True if the client was sent everything that the target has of this type; further resources that it
    /// holds do not count.
    fn is_current(&self, resource_type: ResourceType) -> bool {
        let state = self.type_state(resource_type);
        let target = self.target.set(resource_type);
        let clusters = &self.type_state(ResourceType::Cluster).quarantine;
        let is_news = |name: &Arc<str>| match target.get(name) {
            // The resources that a removed listener leads to are still in use.
            None => resource_type == ResourceType::Listener,
            Some(own) if resource_type == ResourceType::Cluster => {
                !clusters.holds(own) && !clusters.holds_target_of(own)
            }
            Some(own) => !state.quarantine.holds(own),
        };
        let owes = state.owed.iter().any(|name| target.get(name).is_some());
        let changed = target.changed_since(&state.set);
        !owes
            && !state.quarantine.is_searching()
            && !changed.iter().any(|name| state.wants(name) && is_news(name))
    }

    /// Returns the full set of a type that is sent whole, in the form in which the client may have it now.
    fn whole_set(&self, resource_type: ResourceType) -> Arc<ResourceSet> {
        let state = self.type_state(resource_type);
        let clusters = &self.type_state(ResourceType::Cluster).quarantine;
        let target = state.without_refused(clusters, state.subscribed(self.target.set(resource_type)));
        if resource_type != ResourceType::Cluster {
            return target;
        }
        let may_remove = self.progress().may_remove(ResourceType::Cluster);
        order::clusters(&state.set, &target, may_remove, state.keeps_all)
    }

    /// Sends listeners, clusters or scoped routes: the full set each time, whatever changed in it.
    fn offer_whole(&mut self, resource_type: ResourceType) -> Option<Response> {
        let state = self.type_state(resource_type);
        if state.subscription.is_none() || state.is_pending() {
            return None;
        }
        let set = loop {
            let searches = self.types.get_mut(resource_type).quarantine.next_batch().is_some();
            let state = self.type_state(resource_type);
            let set = self.whole_set(resource_type);
            if state.sent.is_none() || state.uncertain || state.set.version() != set.version() {
                break set;
            }
            // This batch of the refused resources may be gone since; then the next batch is due.
            if !searches {
                return None;
            }
        };
        if resource_type == ResourceType::Cluster {
            self.timed_out = false;
            owe_endpoints(&mut self.types, &set);
        }
        let resources = vec![set.whole(Variant::StateOfTheWorld)];
        if self.type_state(resource_type).is_wildcard() {
            self.context.past.remember(&set);
        }
        Some(self.respond(resource_type, set, resources, None))
    }

    /// Sends a type that is not sent whole: the changes of the subscribed names.
    fn offer_by_name(&mut self, resource_type: ResourceType) -> Option<Response> {
        let target = self.target.set(resource_type).clone();
        let state = self.type_state(resource_type);
        let searches = state.quarantine.is_searching();
        let nothing_new = Arc::ptr_eq(&state.set, &target) && state.owed.is_empty() && !searches;
        if nothing_new || state.subscription.is_none() || (state.is_pending() && !state.urgent) {
            return None;
        }
        let refused_clusters = !self.type_state(ResourceType::Cluster).quarantine.is_empty();
        if state.lacks_all_of(&target) && !refused_clusters {
            let resources = vec![target.whole(Variant::StateOfTheWorld)];
            return Some(self.respond(resource_type, target, resources, None));
        }
        let due = self.due_resources(resource_type);
        let state = self.types.get_mut(resource_type);
        state.urgent = false;
        if due.is_empty() {
            return None;
        }
        let names = due.iter().map(|own| own.name.clone()).collect();
        let resources = match due.len() {
            all if all == target.len() => vec![target.whole(Variant::StateOfTheWorld)],
            _ => due.iter().map(|resource| resource.field(Variant::StateOfTheWorld)).collect(),
        };
        Some(self.respond(resource_type, target, resources, Some(names)))
    }

    /// Returns the resources of a type that is sent by name that are due. While a bad resource is searched
    /// for, only the next batch of the search. A resource that sends requests to a refused cluster stays
    /// owed.
    fn due_resources(&mut self, resource_type: ResourceType) -> Vec<Arc<Resource>> {
        let target = self.target.set(resource_type).clone();
        let state = self.types.get_mut(resource_type);
        let changed = target.changed_since(&state.set);
        let is_refused = |name: &Arc<str>| target.get(name).is_some_and(|own| state.quarantine.holds(own));
        let changed = changed.iter().filter(|name| !is_refused(name)).cloned();
        state.owed.extend(changed);
        let subscription = state.subscription.as_ref();
        state.owed.retain(|name| subscription.is_some_and(|it| it.wants(name)));
        state.set = target.clone();
        loop {
            let batch = self.types.get_mut(resource_type).quarantine.next_batch();
            let state = self.type_state(resource_type);
            let names: Vec<&Arc<str>> = match &batch {
                Some(batch) => batch.iter().filter(|name| state.wants(name)).collect(),
                None => state.owed.iter().collect(),
            };
            let clusters = &self.type_state(ResourceType::Cluster).quarantine;
            let existing = names.into_iter().filter_map(|name| target.get(name));
            let (deferred, ready): (Vec<_>, Vec<_>) =
                existing.cloned().partition(|own| clusters.holds_target_of(own));
            let state = self.types.get_mut(resource_type);
            state.owed.extend(deferred.iter().map(|own| own.name.clone()));
            ready.iter().for_each(|own| _ = state.owed.remove(&own.name));
            // This batch of the refused resources may be gone since; then the next batch is due.
            if batch.is_none() || !ready.is_empty() {
                return ready;
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
        let state = self.types.get_mut(resource_type);
        state.set = set;
        (state.uncertain, state.keeps_all) = (false, false);
        state.urgent = false;
        state.sent = Some(SentResponse { nonce, version, state: AckState::Pending, names });
        Response {
            resource_type,
            version: version.text(self.context.store),
            nonce: nonce.to_string(),
            resources,
            removed: Vec::new(),
        }
    }
}

/// Marks the endpoints of changed clusters as owed, whether they changed or not.
fn owe_endpoints(types: &mut TypeTable<SotwTypeState>, offered: &ResourceSet) {
    let of = |resource_type| types.get(resource_type).unwrap_or(&BLANK);
    let (clusters, endpoints) = (of(ResourceType::Cluster), of(ResourceType::Endpoints));
    // Most clients have not asked for endpoints yet when they get their first clusters.
    if endpoints.subscription.is_none() {
        return;
    }
    let mut follow = order::endpoints_to_follow(&clusters.set, offered);
    follow.retain(|name| endpoints.wants(name));
    let endpoints = types.get_mut(ResourceType::Endpoints);
    endpoints.urgent |= !follow.is_empty();
    endpoints.owed.extend(follow);
}

/// Judges the version that a client states with the first request of a type. It is known if it is that of the
/// target, or was sent earlier.
fn judge(withholding: &mut Withholding<Proof>, (target, past): (&ResourceSet, &SentSets), proof: Proof) {
    let stated = match proof {
        Proof::Nothing => return,
        Proof::Version(stated) => Some(stated),
        Proof::Other => None,
    };
    withholding.judge(stated, |StatedVersion { version, .. }| {
        target.version() == version || past.recall(version).is_some()
    });
}

#[cfg(test)]
mod tests;
