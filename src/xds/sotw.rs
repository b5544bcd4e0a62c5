//! One state-of-the-world stream.
//!
//! No socket, no clock, no `async`: [`Stream::on_request`], [`Stream::on_snapshot`] and
//! [`Stream::on_impatience`] take what happened and return what to send, in order. It is level-triggered: only
//! the newest snapshot is kept, and what to send is always the difference between that and what the client was
//! told last, so that nothing queues up behind a slow client.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;

use crate::envoy::ResourceType;
use crate::fleet::{State, TypeStatus};
use crate::snapshot::{Resource, ResourceSet, Snapshot};
use crate::xds::order;
use crate::xds::subscription::Subscription;

/// The types that wait for the clusters that they may name.
const GATED: [ResourceType; 2] = [ResourceType::Listener, ResourceType::Route];

/// A response, to be framed by [`crate::xds::frame`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// What it is about.
    pub resource_type: ResourceType,
    /// Of the set that it is taken from.
    pub version: String,
    /// Unique on the stream.
    pub nonce: String,
    /// The fields `resources`, encoded; shared by all streams.
    pub resources: Vec<Bytes>,
}

/// A request that breaks the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// On the aggregated stream every request names its type.
    #[error("a request on an aggregated stream must have a type_url")]
    NoType,
}

/// A refusal, to be logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What was refused.
    pub resource_type: ResourceType,
    /// The version that was sent.
    pub version: String,
    /// The client's words.
    pub error: String,
}

/// What one client was told and answered.
#[derive(Debug)]
pub struct Stream {
    target: Arc<Snapshot>,
    types: [Told; ResourceType::ALL.len()],
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
    owed: BTreeSet<String>,
    /// These cannot wait for the answer to the response before.
    urgent: bool,
    /// The last response.
    sent: Option<Sent>,
    /// The version that was acknowledged last.
    acked: Option<String>,
}

#[derive(Debug)]
struct Sent {
    nonce: String,
    version: String,
    outcome: Outcome,
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Pending,
    Acked,
    Nacked(String),
}

impl Told {
    fn is(&self, outcome: &Outcome) -> bool {
        self.sent.as_ref().is_some_and(|sent| sent.outcome == *outcome)
    }

    fn wants(&self, name: &str) -> bool {
        self.subscription.as_ref().is_some_and(|subscription| subscription.wants(name))
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

impl Stream {
    /// A stream whose client should come to run `target`.
    pub fn new(target: Arc<Snapshot>) -> Self {
        Self { target, types: Default::default(), last_nonce: 0, impatient: false, refusals: Vec::new() }
    }

    /// Takes a request and returns what to send now.
    ///
    /// # Errors
    ///
    /// When the request breaks the protocol; the stream should end.
    pub fn on_request(&mut self, request: DiscoveryRequest) -> Result<Vec<Response>, ProtocolError> {
        if request.type_url.is_empty() {
            return Err(ProtocolError::NoType);
        }
        // A type that is not served here: the client may be newer than we are, and the stream goes on.
        let Some(resource_type) = ResourceType::from_type_url(&request.type_url) else {
            return Ok(Vec::new());
        };
        let told = &mut self.types[resource_type as usize];
        match &mut told.sent {
            Some(sent) if sent.nonce != request.response_nonce => {
                // Stale: it answers a response that a newer one has overtaken. Its names come again with the
                // answer to that one (xDS protocol, "Resource updates").
                return Ok(Vec::new());
            }
            Some(sent) => match request.error_detail {
                Some(error) => {
                    sent.outcome = Outcome::Nacked(error.message.clone());
                    let version = sent.version.clone();
                    self.refusals.push(Refusal { resource_type, version, error: error.message });
                }
                None => {
                    sent.outcome = Outcome::Acked;
                    told.acked = Some(sent.version.clone());
                }
            },
            None => {}
        }
        self.subscribe(resource_type, request.resource_names, &request.version_info);
        Ok(self.advance())
    }

    /// Takes a new snapshot and returns what to send now.
    pub fn on_snapshot(&mut self, target: Arc<Snapshot>) -> Vec<Response> {
        self.target = target;
        self.advance()
    }

    /// True while listeners or routes wait for the answer to clusters. Call [`Self::on_impatience`] when it has
    /// lasted [`order::PATIENCE`].
    pub fn is_waiting(&self) -> bool {
        !self.impatient
            && self.told(ResourceType::Cluster).is(&Outcome::Pending)
            && GATED.into_iter().any(|resource_type| !self.is_current(resource_type))
    }

    /// Stops waiting for the clusters and returns what to send now.
    pub fn on_impatience(&mut self) -> Vec<Response> {
        self.impatient = true;
        self.advance()
    }

    /// What was refused since this was asked last.
    pub fn take_refusals(&mut self) -> Vec<Refusal> {
        std::mem::take(&mut self.refusals)
    }

    /// How the stream stands with each type that the client asked for.
    pub fn statuses(&self) -> impl Iterator<Item = (ResourceType, TypeStatus)> + '_ {
        ResourceType::ALL.into_iter().filter_map(|resource_type| {
            let told = self.told(resource_type);
            told.subscription.as_ref()?;
            let (state, error) = match told.sent.as_ref().map(|sent| &sent.outcome) {
                Some(Outcome::Acked) => (State::Acked, None),
                Some(Outcome::Nacked(error)) => (State::Nacked, Some(error.clone())),
                Some(Outcome::Pending) | None => (State::Pending, None),
            };
            Some((resource_type, TypeStatus { state, version: told.acked.clone(), error }))
        })
    }

    /// Notes which names the client wants. New ones are owed, also those that left and returned.
    fn subscribe(&mut self, resource_type: ResourceType, names: Vec<String>, version_info: &str) {
        let told = &mut self.types[resource_type as usize];
        let first = told.subscription.is_none();
        let subscription = told.subscription.get_or_insert_default();
        let added = subscription.replace(names, is_sent_whole(resource_type));
        let wildcard = subscription.is_wildcard();
        if is_sent_whole(resource_type) {
            // A client that reconnects and proves by the version that it holds the whole set is sent nothing.
            let target = self.target.set(resource_type);
            if first && wildcard && version_info == target.version().to_string() {
                told.set = target.clone();
                told.acked = Some(version_info.to_owned());
                told.sent = Some(Sent {
                    nonce: String::new(),
                    version: version_info.to_owned(),
                    outcome: Outcome::Acked,
                });
            }
        } else {
            told.owed.extend(added);
            if wildcard && first {
                told.owed.extend(self.target.set(resource_type).iter().map(|resource| resource.name.clone()));
            }
        }
    }

    /// Everything that can be sent now, in the order in which the client can take it.
    fn advance(&mut self) -> Vec<Response> {
        let mut responses = Vec::new();
        let released = GATED.into_iter().all(|resource_type| self.has_settled(resource_type));
        let told = &self.told(ResourceType::Cluster).set;
        let clusters = order::clusters(told, self.target.set(ResourceType::Cluster), released);
        responses.extend(self.offer_whole(ResourceType::Cluster, &clusters));
        responses.extend(self.offer_by_name(ResourceType::Endpoints));
        responses.extend(self.offer_by_name(ResourceType::Secret));
        if self.is_open(ResourceType::Listener) {
            let listeners = self.target.set(ResourceType::Listener).clone();
            responses.extend(self.offer_whole(ResourceType::Listener, &listeners));
        }
        if self.is_open(ResourceType::Route) {
            responses.extend(self.offer_by_name(ResourceType::Route));
        }
        responses
    }

    fn told(&self, resource_type: ResourceType) -> &Told {
        &self.types[resource_type as usize]
    }

    /// True when nothing of this gated type has to wait for clusters.
    fn is_open(&self, resource_type: ResourceType) -> bool {
        let clusters = self.told(ResourceType::Cluster);
        if clusters.subscription.is_none() || self.impatient {
            return true;
        }
        match clusters.sent.as_ref().map(|sent| &sent.outcome) {
            None | Some(Outcome::Pending) => false,
            Some(Outcome::Acked) => self.runs_all_clusters(),
            // Its last good config stays, unless it has none: then what can be served should be.
            Some(Outcome::Nacked(_)) => self.told(resource_type).sent.is_none(),
        }
    }

    /// True when the client was told of every cluster of the target that it wants, whatever else it has.
    fn runs_all_clusters(&self) -> bool {
        let told = self.told(ResourceType::Cluster);
        let target = self.target.set(ResourceType::Cluster);
        let known = |cluster: &Arc<Resource>| {
            told.set.get(&cluster.name).is_some_and(|known| known.version == cluster.version)
        };
        Arc::ptr_eq(&told.set, target) || target.iter().filter(|cluster| told.wants(&cluster.name)).all(known)
    }

    /// True when the client was told all that the target has of this type, or never asked for any.
    fn is_current(&self, resource_type: ResourceType) -> bool {
        let told = self.told(resource_type);
        let target = self.target.set(resource_type);
        told.subscription.is_none()
            || Arc::ptr_eq(&told.set, target)
            || told.set.version() == told.wanted(target).version()
    }

    /// True when, moreover, the client took it.
    fn has_settled(&self, resource_type: ResourceType) -> bool {
        let told = self.told(resource_type);
        told.subscription.is_none() || (told.is(&Outcome::Acked) && self.is_current(resource_type))
    }

    /// Listeners and clusters: the full set each time, whatever changed in it.
    fn offer_whole(&mut self, resource_type: ResourceType, target: &Arc<ResourceSet>) -> Option<Response> {
        let told = self.told(resource_type);
        told.subscription.as_ref()?;
        let set = told.wanted(target);
        let unchanged = told.sent.is_some() && told.set.version() == set.version();
        if unchanged || told.is(&Outcome::Pending) {
            return None;
        }
        if resource_type == ResourceType::Cluster {
            let follow: Vec<String> = order::endpoints_to_follow(&told.set, &set).cloned().collect();
            let endpoints = &mut self.types[ResourceType::Endpoints as usize];
            let known = follow.into_iter().filter(|name| endpoints.wants(name)).collect::<Vec<_>>();
            endpoints.urgent |= !known.is_empty();
            endpoints.owed.extend(known);
            self.impatient = false;
        }
        Some(self.respond(resource_type, set.clone(), set.iter().cloned().collect()))
    }

    /// Endpoints and routes: what changed of the names that are subscribed to.
    fn offer_by_name(&mut self, resource_type: ResourceType) -> Option<Response> {
        let target = self.target.set(resource_type).clone();
        let told = &mut self.types[resource_type as usize];
        let nothing_new = Arc::ptr_eq(&told.set, &target) && told.owed.is_empty();
        if nothing_new || told.subscription.is_none() || (told.is(&Outcome::Pending) && !told.urgent) {
            return None;
        }
        let news: Vec<Arc<Resource>> = target
            .iter()
            .filter(|resource| told.wants(&resource.name))
            .filter(|resource| {
                told.owed.contains(&resource.name)
                    || told.set.get(&resource.name).is_none_or(|known| known.version != resource.version)
            })
            .cloned()
            .collect();
        told.owed.retain(|name| {
            told.subscription.as_ref().is_some_and(|it| it.wants(name)) && target.get(name).is_none()
        });
        told.urgent = false;
        if news.is_empty() {
            told.set = target;
            return None;
        }
        Some(self.respond(resource_type, target, news))
    }

    fn respond(
        &mut self,
        resource_type: ResourceType,
        set: Arc<ResourceSet>,
        news: Vec<Arc<Resource>>,
    ) -> Response {
        self.last_nonce += 1;
        let nonce = self.last_nonce.to_string();
        let version = set.version().to_string();
        let told = &mut self.types[resource_type as usize];
        told.set = set;
        told.sent = Some(Sent { nonce: nonce.clone(), version: version.clone(), outcome: Outcome::Pending });
        let resources = news.iter().map(|resource| resource.state_of_the_world_field()).collect();
        Response { resource_type, version, nonce, resources }
    }
}

/// Of clusters and listeners every response carries all, and what is left out is deleted (xDS protocol,
/// "Grouping Resources into Responses"); they alone know the legacy wildcard.
fn is_sent_whole(resource_type: ResourceType) -> bool {
    matches!(resource_type, ResourceType::Cluster | ResourceType::Listener)
}

#[cfg(test)]
mod tests;
