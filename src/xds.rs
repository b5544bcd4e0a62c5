//! The xDS protocol: the responses that a client is sent, and their order.
//!
//! A stream is a struct without a socket or a clock: requests and snapshots go in, responses come out. There
//! are two, [`sotw`] and [`delta`], with the same interface ([`Protocol`]). The ordering rules that keep a
//! change from failing a request are in [`order`]; sockets are only in [`server`] and [`incoming`]. Besides
//! discovery, the port serves load reports ([`load_report`]), health checks by Envoys ([`health_discovery`]),
//! the status of clients ([`client_status`]), gRPC health and reflection.
//!
//! The name of a test carries the number of the rule of the protocol checklist that it shows (`rule_19_…`):
//! on the streams in this module, over sockets in `tests/xds.rs`, with a real Envoy in `tests/envoy/`. Rules
//! without a test of their own:
//!
//! - 12 is covered by 11: the error text of a NACK is a hint only, and the bad resource is found without it.
//! - 26 holds by construction: a [`cache`](crate::cache) cannot be made without a build.
//! - 37, 39 and 41 are about Envoy: its behaviour while it waits and when it is overloaded.
//!   [`model::validate`](crate::model::validate) ensures that no route names a missing cluster.
//! - 47: no resource has a TTL; Envoy 1.40 does not announce support for it.

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
use crate::nodes::status::TypeStatus;
use crate::xds::frame::Response;
use crate::xds::subscription::NameTable;
use crate::xds::wire::{Head, Request};

/// State that all streams share. Cheap to clone: clones share.
#[derive(Debug, Clone, Default)]
pub struct Common {
    /// Resource names that clients subscribe to.
    pub names: NameTable,
    /// Sets of resources that clients were sent earlier, by version.
    pub past: Past,
}

/// A stream of one variant of the protocol: events go in, the responses to send come out, in order.
///
/// Requests and snapshots come in any order. [`Self::on_impatience`] is due when [`Self::is_waiting`] has
/// lasted [`order::PATIENCE`]. The other methods do not send anything.
pub trait Protocol: Sized + Send + Sync + 'static {
    /// Variant by which responses are framed.
    const VARIANT: Variant;
    /// Message that clients send.
    type Head: Head;

    /// Creates a stream whose client should come to run `target`.
    fn new(target: Arc<Snapshot>, common: &Common) -> Self;

    /// Takes a request and returns the responses to send now.
    ///
    /// # Errors
    ///
    /// Fails if the request breaks the protocol; the stream should end then.
    fn on_request(&mut self, request: Request<Self::Head>) -> Result<Vec<Response>, ProtocolError>;

    /// Takes a new snapshot and returns the responses to send now.
    fn on_snapshot(&mut self, target: Arc<Snapshot>) -> Vec<Response>;

    /// Stops waiting for the clusters and returns the responses to send now.
    fn on_impatience(&mut self) -> Vec<Response>;

    /// True while listeners or routes wait until the client acknowledges its clusters.
    fn is_waiting(&self) -> bool;

    /// True when every response is acknowledged or refused and no search for a bad resource is under way: a
    /// good moment to end the stream.
    fn is_idle(&self) -> bool;

    /// Takes the refusals since the last call.
    fn take_refusals(&mut self) -> Vec<Refusal>;

    /// Status of each type that the client has asked for.
    fn statuses(&self) -> impl Iterator<Item = (ResourceType, TypeStatus<'_>)>;
}

/// A request that breaks the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// Request on the aggregated stream without a type.
    #[error("a request on an aggregated stream must have a type_url")]
    NoType,
    /// Request for another type than that of a single-type service.
    #[error("this service has {expected}, and the request asks for {found}")]
    OtherType {
        /// Type URL of the service.
        expected: &'static str,
        /// Type URL of the request.
        found: String,
    },
}

/// A NACK, to be logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Type of the refused resources.
    pub resource_type: ResourceType,
    /// Version of the refused response.
    pub version: String,
    /// Error text of the client.
    pub error: String,
    /// Names of the resources that are held back from now on; empty while the bad ones are not known yet.
    pub names: Vec<String>,
}

/// State for each type that a client has asked for. Boxed and created on demand: most clients ask for a few
/// types, and there are thousands of clients.
#[derive(Debug, Default)]
struct Types<T>([Option<Box<T>>; ResourceType::ALL.len()]);

impl<T: Default> Types<T> {
    /// Returns the state of a type; none if the client has not asked for it.
    fn get(&self, resource_type: ResourceType) -> Option<&T> {
        self.0[resource_type as usize].as_deref()
    }

    /// Returns the state of a type for modification; creates it if it is missing.
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

/// Returns the type that a request is about; none if the type is not served here: the client may be newer
/// than this server, and the stream goes on.
fn requested_type(type_url: &str) -> Result<Option<ResourceType>, ProtocolError> {
    if type_url.is_empty() {
        return Err(ProtocolError::NoType);
    }
    Ok(ResourceType::from_type_url(type_url))
}

/// True for clusters and listeners: a SotW response carries all of them, and Envoy deletes the ones that it
/// leaves out (xDS protocol, "Grouping Resources into Responses"). In SotW only these types have the legacy
/// wildcard. True for scoped routes too: that text does not mention them, but Envoy asks for all of them
/// without a name and drops the ones that a response leaves out.
fn is_sent_whole(resource_type: ResourceType) -> bool {
    matches!(resource_type, ResourceType::Cluster | ResourceType::Listener | ResourceType::ScopedRoute)
}

/// True for the types whose legacy wildcard is an empty first request: the types that are sent whole, and
/// virtual hosts, which Envoy asks for by name only when a request needs one that it does not have (VHDS,
/// "Subscribing to Resources").
fn has_legacy_wildcard(resource_type: ResourceType) -> bool {
    is_sent_whole(resource_type) || resource_type == ResourceType::VirtualHost
}

/// Longest error text that is kept, in bytes. Envoy cuts its own at some KB.
const MAX_ERROR: usize = 8 << 10;

/// Cuts a client's error text to at most [`MAX_ERROR`] bytes, at a character boundary.
fn shorten(mut error: String) -> String {
    if error.len() > MAX_ERROR {
        error.truncate(error.floor_char_boundary(MAX_ERROR));
        error.shrink_to_fit();
    }
    error
}
