//! State of one delta (incremental) stream.
//!
//! No socket, no clock, no `async`: events go in, the responses to send come out, in order. It is
//! level-triggered, as [`SotwStream`](crate::xds::stream::sotw::SotwStream) is. The resources that a client
//! holds are kept as a set that all streams share, plus the few names for which this client differs from the
//! set.

mod payload;
mod type_state;

use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;

use crate::build::snapshot::Snapshot;
use crate::build::snapshot::past::SentSets;
use crate::build::snapshot::resource::{Resource, Variant};
use crate::build::snapshot::set::ResourceSet;
use crate::build::snapshot::stated::StatedVersion;
use crate::cache::standing::Standing;
use crate::envoy::ResourceType;
use crate::nodes::nack::{ResponseNack, shorten_error};
use crate::nodes::status::{AckState, Provenance, TypeStatus};
use crate::xds::stream::delta::payload::{InFlight, Payload, ResourceDelta, payloads, pieces};
use crate::xds::stream::delta::type_state::{BLANK, DeltaTypeState, Held};
use crate::xds::stream::held::{AskedResources, HeldClusters};
use crate::xds::stream::order::{StreamProgress, TypeProgress};
use crate::xds::stream::protocol::{DiscoveryStream, ProtocolError, StreamContext};
use crate::xds::stream::subscription::TypeSubscription;
use crate::xds::stream::type_table::{TypeTable, has_legacy_wildcard, requested_type};
use crate::xds::stream::withhold::Withholding;
use crate::xds::wire::frame::Response;
use crate::xds::wire::request::{LazyRequest, VersionList};

/// Everything that one client was sent and answered.
#[derive(Debug)]
pub struct DeltaStream {
    target: Arc<Snapshot>,
    types: TypeTable<DeltaTypeState>,
    context: StreamContext,
    last_nonce: u64,
    timed_out: bool,
    /// True if the client came with clusters of an earlier stream. Its listeners and routes may refer to
    /// them, so nothing is removed until the client has asked for those types too, or the wait is over.
    reconnecting: bool,
    withholding: Withholding<Arc<VersionList>>,
    nacks: Vec<ResponseNack>,
}

impl DiscoveryStream for DeltaStream {
    const VARIANT: Variant = Variant::Delta;
    type Head = DeltaDiscoveryRequest;

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

    fn on_request(
        &mut self,
        mut request: LazyRequest<DeltaDiscoveryRequest>,
    ) -> Result<Vec<Response>, ProtocolError> {
        let head = &mut request.head;
        let Some(resource_type) = requested_type(&head.type_url)? else { return Ok(Vec::new()) };
        let error = head.error_detail.take().map(|error| shorten_error(error.message));
        self.record_answer(resource_type, &head.response_nonce, error.as_deref());
        // Subscriptions count regardless of the nonce (xDS protocol, "Incremental xDS").
        self.subscribe(resource_type, &request);
        Ok(self.advance())
    }

    fn on_snapshot(&mut self, target: Arc<Snapshot>) -> Vec<Response> {
        self.target = target;
        let (target, past) = (&self.target, &self.context.past);
        let released = self.withholding.review(|withholding, resource_type, versions| {
            judge(withholding, (target.set(resource_type), past), versions);
        });
        for (resource_type, versions) in released {
            self.resume(resource_type, &versions, false);
        }
        self.advance()
    }

    fn is_waiting(&self) -> bool {
        let clusters = self.type_state(ResourceType::Cluster);
        let target = self.target.set(ResourceType::Cluster);
        let withholds =
            self.reconnecting && clusters.exceptions.keys().any(|name| target.get(name).is_none());
        !self.withholding.is_active() && !self.timed_out && (withholds || self.progress().is_waiting())
    }

    fn on_timeout(&mut self) -> Vec<Response> {
        self.timed_out = true;
        self.reconnecting = false;
        self.advance()
    }

    fn is_idle(&self) -> bool {
        self.types.iter().all(|state| state.in_flight.is_empty() && !state.quarantine.is_searching())
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
            let outcome = state.ack_state();
            let error = state.error.as_deref().filter(|_| outcome == AckState::Nacked);
            let current =
                self.type_progress(resource_type).is_some_and(|type_progress| type_progress.current);
            Some((resource_type, TypeStatus { state: outcome, version: state.acked, current, error }))
        })
    }
}

impl DeltaStream {
    /// Records an ACK or a NACK. A request with an unknown nonce answers no response of this stream.
    fn record_answer(&mut self, resource_type: ResourceType, nonce: &str, error: Option<&str>) {
        let state = self.types.get_mut(resource_type);
        let is_answered = |nonce: u64| state.in_flight.iter().position(|sent| sent.nonce == nonce);
        let Some(index) = nonce.parse().ok().and_then(is_answered) else { return };
        let answered = state.in_flight.remove(index);
        let Some(error) = error else {
            state.acked = Some(answered.version);
            return;
        };
        // After a NACK it is unknown which version the client holds of any of these.
        let names = answered.payload.names();
        for (name, _) in &names {
            state.exceptions.insert(name.clone(), Held::Unknown);
        }
        state.error = Some(error.to_owned());
        let held_back = state.quarantine.record(&names, error);
        let (nonce, version) = (answered.nonce, answered.version.to_string());
        let error = error.to_owned();
        self.nacks.push(ResponseNack { resource_type, nonce, version, error, names: held_back });
    }

    fn subscribe(&mut self, resource_type: ResourceType, request: &LazyRequest<DeltaDiscoveryRequest>) {
        let state = self.types.get_mut(resource_type);
        let LazyRequest { names, unsubscribed, versions, .. } = request;
        let Some(subscription) = &mut state.subscription else {
            let mut subscription = TypeSubscription::new(&self.context.names);
            subscription.begin(names, unsubscribed, has_legacy_wildcard(resource_type));
            state.subscription = Some(subscription);
            let target = self.target.set(resource_type);
            // Nearly all clients hold exactly the target, with versions of this store.
            let is_target = versions.is_empty() || versions.inventory() == target.inventory();
            if !is_target {
                judge(&mut self.withholding, (target, &self.context.past), versions);
            }
            if self.withholding.is_active() {
                return self.withholding.keep(resource_type, self.context.proofs.share(versions));
            }
            return self.resume(resource_type, versions, is_target);
        };
        state.owed.extend(subscription.update(names, unsubscribed));
        for name in unsubscribed.iter().filter(|name| !subscription.wants(name)) {
            state.exceptions.remove(name);
            state.owed.remove(name);
            state.quarantine.forget(name);
        }
    }

    /// Resumes a type with the versions that the client stated in its first request. `is_target` is true if
    /// they are those of the target; without it they are compared one by one.
    fn resume(&mut self, resource_type: ResourceType, versions: &VersionList, is_target: bool) {
        let (state, target) = (self.types.get_mut(resource_type), self.target.set(resource_type));
        if !versions.is_empty() {
            state.resume(target, versions, is_target);
            self.reconnecting |= resource_type == ResourceType::Cluster;
        }
        state.owe_missing(target);
    }

    /// Returns everything that can be sent now, in the order in which the client can take it.
    fn advance(&mut self) -> Vec<Response> {
        if self.withholding.is_active() {
            return Vec::new();
        }
        let may_remove = |stream: &Self| stream.progress().may_remove(ResourceType::Cluster);
        let could_remove = may_remove(self);
        let mut responses = self.offer_all();
        // The routes may be complete without a response, if nothing of them was left to send.
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
            if self.type_state(resource_type).subscription.is_none() {
                continue;
            }
            let progress = self.progress();
            if progress.may_add(resource_type, self.timed_out) {
                let may_remove = progress.may_remove(resource_type);
                responses.extend(self.offer(resource_type, may_remove));
            }
        }
        responses
    }

    fn type_state(&self, resource_type: ResourceType) -> &DeltaTypeState {
        self.types.get(resource_type).unwrap_or(&BLANK)
    }

    fn progress(&self) -> StreamProgress {
        StreamProgress::new(|resource_type| self.type_progress(resource_type), self.reconnecting)
    }

    fn type_progress(&self, resource_type: ResourceType) -> Option<TypeProgress> {
        let state = self.type_state(resource_type);
        state.subscription.as_ref()?;
        let target = self.target.set(resource_type);
        // Removed resources that the client still holds are among the exceptions and do not count here.
        // Neither do refused resources, nor an aggregate cluster that is held back because the client refused
        // one of its members.
        let DeltaTypeState { quarantine, .. } = state;
        let is_held_back = |own: &Resource| quarantine.holds(own) || quarantine.holds_target_of(own);
        let owes = |name: &Arc<str>| target.get(name).is_some_and(|own| !is_held_back(own));
        let behind = target.changed_since(&state.set).iter().any(|name| state.wants(name));
        let current = !behind && !state.exceptions.keys().any(owes) && !quarantine.is_searching();
        let last = match resource_type {
            // Refused clusters are known by name: only resources that refer to them wait, the others go on.
            ResourceType::Cluster if state.in_flight.is_empty() && !quarantine.is_searching() => {
                AckState::Acked
            }
            ResourceType::Cluster => AckState::Pending,
            _ => state.ack_state(),
        };
        Some(TypeProgress { last: state.responded.then_some(last), current })
    }

    fn offer(&mut self, resource_type: ResourceType, may_remove: bool) -> Vec<Response> {
        let target = self.target.set(resource_type).clone();
        let state = self.type_state(resource_type);
        let unchanged =
            Arc::ptr_eq(&state.set, &target) && state.owed.is_empty() && state.exceptions.is_empty();
        let waits = !state.in_flight.is_empty() && !state.urgent;
        let retries = state.quarantine.is_searching();
        if state.subscription.is_none() || waits || (unchanged && state.responded && !retries) {
            return Vec::new();
        }
        let clusters = self.type_state(ResourceType::Cluster);
        let state = self.type_state(resource_type);
        if state.is_blank() && clusters.quarantine.is_empty() && !target.is_empty() && state.covers(&target) {
            return self.send_whole(resource_type, &target);
        }
        let mut changes = self.due_changes(resource_type, may_remove);
        if resource_type == ResourceType::Cluster {
            self.type_state(resource_type).wait_for_members(&target, &mut changes);
        }
        let state = self.types.get_mut(resource_type);
        let ResourceDelta { resources, removed } = changes;
        state.rebase(&target, &resources, &removed);
        state.urgent = false;
        let first = !std::mem::replace(&mut state.responded, true);
        // A wildcard is answered even if there is nothing to send (Envoy waits for it at startup).
        let answers_wildcard =
            first && state.subscription.as_ref().is_some_and(TypeSubscription::is_wildcard);
        if resources.is_empty() && removed.is_empty() && !answers_wildcard {
            // This batch of the refused resources may be gone since; then the next batch is due.
            return if retries { self.offer(resource_type, may_remove) } else { Vec::new() };
        }
        if resource_type == ResourceType::Cluster {
            self.timed_out = false;
            owe_endpoints(&mut self.types, &resources);
        }
        let payloads = payloads(&target, ResourceDelta { resources, removed });
        payloads.into_iter().map(|payload| self.respond(resource_type, &target, payload)).collect()
    }

    /// Returns the difference between the target and the state of the client. While a bad resource is
    /// searched for, only the next batch of the search. A resource that sends requests to a refused cluster
    /// is left as the client has it.
    fn due_changes(&mut self, resource_type: ResourceType, may_remove: bool) -> ResourceDelta {
        let target = self.target.set(resource_type);
        let state = self.types.get_mut(resource_type);
        state.quarantine.forget_changed(target);
        let batch = state.quarantine.next_batch();
        let state = self.type_state(resource_type);
        let mut names: BTreeSet<&Arc<str>> = BTreeSet::new();
        let changed = target.changed_since(&state.set);
        match &batch {
            Some(batch) => names.extend(batch),
            None => names.extend(changed.iter().chain(state.exceptions.keys()).chain(&state.owed)),
        }
        let clusters = self.type_state(ResourceType::Cluster);
        // Endpoints stay for as long as their cluster stays.
        let stays = |name: &str| {
            let held = clusters.exceptions.get(name);
            resource_type == ResourceType::Endpoints && held.is_some_and(|held| *held != Held::Nothing)
        };
        // Envoy holds back a request for a subscribed host until it learns that the host does not exist.
        let is_host = resource_type == ResourceType::VirtualHost;
        let mut changes = ResourceDelta { resources: Vec::new(), removed: Vec::new() };
        for name in names.into_iter().filter(|name| state.wants(name)) {
            let (held, owed) = (state.held(name), state.owed.contains(name));
            match target.get(name) {
                Some(own) if state.quarantine.holds(own) && !owed => {}
                Some(own) if clusters.quarantine.holds_target_of(own) => {}
                Some(own) if owed || held != Held::Version(own.version) => {
                    changes.resources.push(own.clone())
                }
                None if owed && is_host => changes.resources.push(Arc::new(Resource::absent(name))),
                None if owed || (may_remove && held != Held::Nothing && !stays(name)) => {
                    changes.removed.push(name.clone());
                }
                Some(_) | None => {}
            }
        }
        changes
    }

    /// Sends the whole set to a client that wants all of it and holds nothing, as most do when they connect.
    fn send_whole(&mut self, resource_type: ResourceType, target: &Arc<ResourceSet>) -> Vec<Response> {
        let state = self.types.get_mut(resource_type);
        state.set = target.clone();
        (state.urgent, state.responded) = (false, true);
        if resource_type == ResourceType::Cluster {
            self.timed_out = false;
            owe_endpoints(&mut self.types, target.range(0..target.len()));
        }
        pieces(target).into_iter().map(|piece| self.respond(resource_type, target, piece)).collect()
    }

    fn respond(&mut self, resource_type: ResourceType, set: &Arc<ResourceSet>, payload: Payload) -> Response {
        self.last_nonce += 1;
        let (nonce, version) = (self.last_nonce, set.version());
        let (resources, removed) = payload.encode();
        self.types.get_mut(resource_type).in_flight.push(InFlight { nonce, version, payload });
        let (version, nonce) = (version.text(self.context.store), nonce.to_string());
        Response { resource_type, version, nonce, resources, removed }
    }
}

/// Marks the endpoints of changed clusters as owed, whether they changed or not.
fn owe_endpoints(types: &mut TypeTable<DeltaTypeState>, clusters: &[Arc<Resource>]) {
    // Most clients have not asked for endpoints yet when they get their first clusters.
    if types.get(ResourceType::Endpoints).is_none() {
        return;
    }
    let endpoints = types.get_mut(ResourceType::Endpoints);
    for name in clusters.iter().filter_map(|cluster| cluster.endpoints.as_deref()) {
        if endpoints.wants(name) {
            endpoints.urgent = true;
            endpoints.owed.insert(name.into());
        }
    }
}

/// Judges the versions that a client states with the first request of a type.
fn judge(
    withholding: &mut Withholding<Arc<VersionList>>,
    (target, past): (&ResourceSet, &SentSets),
    versions: &VersionList,
) {
    for (name, version) in versions.iter() {
        let is_known = |StatedVersion { version, .. }| {
            target.get(name).is_some_and(|own| own.version == version) || past.has(name, version)
        };
        withholding.judge(StatedVersion::parse(version), is_known);
        if withholding.is_active() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
