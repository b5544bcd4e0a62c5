//! The protocol: what a client is told, and when.
//!
//! A stream is a struct without a socket or a clock: requests and snapshots go in, responses come out. There
//! are two, [`sotw`] and [`delta`], of one shape. The rules of order that keep a change from failing a request
//! stand in [`order`]; sockets only in [`server`] and [`incoming`]. Beside discovery the port has load reports
//! ([`load_report`]), health checks on our behalf ([`health_discovery`]), the status of clients ([`client_status`]),
//! health and reflection.
//!
//! Tests bear the number of the point of the protocol checklist that they show (`rule_19_…`): here on the streams,
//! over sockets in `tests/xds.rs`, with a real Envoy in `tests/envoy/`. Points without one:
//!
//! - 12 is within 11: the words of a refusal are a hint, and the culprit is found without them.
//! - 26 holds by construction: a [`cache`](crate::cache) cannot be made without a build.
//! - 37, 39 and 41 are about Envoy: what it does while it waits, and when there is too much. That no route names what is
//!   missing is for [`model::validate`](crate::model::validate).
//! - 47: nothing here has a time to live; Envoy 1.40 does not say that it could use one.

pub mod admission;
pub mod client_status;
pub mod delta;
pub mod frame;
pub mod health_discovery;
pub mod incoming;
pub mod load_report;
pub mod meter;
pub mod order;
pub mod pace;
#[cfg(test)]
mod properties;
pub mod quarantine;
pub mod request;
pub mod server;
pub mod sotw;
pub mod specifier;
pub mod subscription;
pub mod wire;
#[cfg(test)]
mod words;

use std::sync::Arc;

use crate::build::snapshot::past::Past;
use crate::build::snapshot::{Snapshot, Variant};
use crate::envoy::ResourceType;
use crate::nodes::TypeStatus;
use crate::xds::frame::Response;
use crate::xds::subscription::NameTable;
use crate::xds::wire::{Head, Request};

/// What all streams share. Cheap to clone: clones share.
#[derive(Debug, Clone, Default)]
pub struct Common {
    /// The names that they ask for.
    pub names: NameTable,
    /// What they were told before.
    pub past: Past,
}

/// A stream of one variant: what happened goes in, what to send comes out, in order.
///
/// Requests and snapshots come in any order. [`Self::on_impatience`] is due when [`Self::is_waiting`] has lasted
/// [`order::PATIENCE`]. The rest reads and changes nothing.
pub trait Protocol: Sized + Send + Sync + 'static {
    /// How responses are framed.
    const VARIANT: Variant;
    /// What clients send.
    type Head: Head;

    /// A stream whose client should come to run `target`.
    fn new(target: Arc<Snapshot>, common: &Common) -> Self;

    /// Takes a request and returns what to send now.
    ///
    /// # Errors
    ///
    /// When the request breaks the protocol; the stream should end.
    fn on_request(&mut self, request: Request<Self::Head>) -> Result<Vec<Response>, ProtocolError>;

    /// Takes a new snapshot and returns what to send now.
    fn on_snapshot(&mut self, target: Arc<Snapshot>) -> Vec<Response>;

    /// Stops waiting for the clusters and returns what to send now.
    fn on_impatience(&mut self) -> Vec<Response>;

    /// True while listeners or routes wait for the answer to clusters.
    fn is_waiting(&self) -> bool;

    /// True when everything that was sent is answered: a good moment for the stream to end.
    fn is_idle(&self) -> bool;

    /// What was refused since this was asked last.
    fn take_refusals(&mut self) -> Vec<Refusal>;

    /// How the stream stands with each type that the client asked for.
    fn statuses(&self) -> impl Iterator<Item = (ResourceType, TypeStatus<'_>)>;
}

/// A request that breaks the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// On the aggregated stream every request names its type.
    #[error("a request on an aggregated stream must have a type_url")]
    NoType,
    /// A service of one type serves that type alone.
    #[error("this service has {expected}, and the request asks for {found}")]
    OtherType {
        /// The type URL of the service.
        expected: &'static str,
        /// The type URL of the request.
        found: String,
    },
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
    /// The resources that are now held back; none while it is not known which they are.
    pub names: Vec<String>,
}

/// What there is to say of each type that a client asked for. Most ask for a few of them, and there are thousands of
/// clients.
#[derive(Debug, Default)]
struct Types<T>([Option<Box<T>>; ResourceType::ALL.len()]);

impl<T: Default> Types<T> {
    /// None when the client asked for nothing of this type.
    fn get(&self, resource_type: ResourceType) -> Option<&T> {
        self.0[resource_type as usize].as_deref()
    }

    /// The same to be changed: from now on there is something.
    fn get_mut(&mut self, resource_type: ResourceType) -> &mut T {
        self.0[resource_type as usize].get_or_insert_default()
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().filter_map(Option::as_deref)
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = (ResourceType, &mut T)> {
        let types = ResourceType::ALL.into_iter().zip(&mut self.0);
        types.filter_map(|(resource_type, it)| Some((resource_type, it.as_deref_mut()?)))
    }
}

/// The type that a request is about. None where it is not served here: the client may be newer than we are, and
/// the stream goes on.
fn requested_type(type_url: &str) -> Result<Option<ResourceType>, ProtocolError> {
    if type_url.is_empty() {
        return Err(ProtocolError::NoType);
    }
    Ok(ResourceType::from_type_url(type_url))
}

/// Clusters and listeners: a SotW response carries all of them, and what it leaves out is deleted (xDS
/// protocol, "Grouping Resources into Responses"). They alone know the legacy wildcard. Scoped routes are not
/// in that text, and Envoy treats them so: it asks for all by no name and drops what an answer leaves out.
fn is_sent_whole(resource_type: ResourceType) -> bool {
    matches!(resource_type, ResourceType::Cluster | ResourceType::Listener | ResourceType::ScopedRoute)
}

/// These a client asks for by an empty first request and means all: those that are sent whole, and virtual hosts, which
/// Envoy asks for by name only when a request needs one that it does not know (VHDS, "Subscribing to Resources").
fn has_legacy_wildcard(resource_type: ResourceType) -> bool {
    is_sent_whole(resource_type) || resource_type == ResourceType::VirtualHost
}

/// The longest error that is kept. Envoy's own are cut at some KB.
const MAX_ERROR: usize = 8 << 10;

/// A client's words, but no more of them than can be kept.
fn shorten(mut error: String) -> String {
    if error.len() > MAX_ERROR {
        error.truncate(error.floor_char_boundary(MAX_ERROR));
        error.shrink_to_fit();
    }
    error
}
