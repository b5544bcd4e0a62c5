//! Interface of a stream, the same for both variants of the protocol.

use std::sync::Arc;

use crate::build::snapshot::Snapshot;
use crate::build::snapshot::past::SentSets;
use crate::build::snapshot::resource::Variant;
use crate::build::snapshot::store_id::StoreId;
use crate::cache::standing::Standing;
use crate::envoy::ResourceType;
use crate::nodes::nack::ResponseNack;
use crate::nodes::status::{Provenance, TypeStatus};
use crate::xds::stream::held::AskedResources;
use crate::xds::stream::names::NameTable;
use crate::xds::stream::proofs::ProofTable;
use crate::xds::wire::frame::Response;
use crate::xds::wire::request::{LazyRequest, RequestHead};

/// State that all streams share. Cheap to clone: clones share.
#[derive(Debug, Clone, Default)]
pub struct StreamContext {
    /// Resource names that clients subscribe to.
    pub names: NameTable,
    /// Sets of resources that clients were sent earlier, by version.
    pub past: SentSets,
    /// Store that versions name; none outside of a control plane.
    pub store: Option<StoreId>,
    /// Versions that clients stated and are not answered to.
    pub proofs: ProofTable,
}

/// A stream of one variant of the protocol: events go in, the responses to send come out, in order.
///
/// Requests and snapshots come in any order. [`Self::on_timeout`] is due when [`Self::is_waiting`] has
/// lasted [`CLUSTER_TIMEOUT`](crate::xds::stream::order::CLUSTER_TIMEOUT). The other methods do not send
/// anything.
pub trait DiscoveryStream: Sized + Send + Sync + 'static {
    /// Variant by which responses are framed.
    const VARIANT: Variant;
    /// Message that clients send.
    type Head: RequestHead;

    /// Creates a stream whose client should come to run `target`.
    fn new(target: Arc<Snapshot>, context: &StreamContext) -> Self;

    /// Sets the standing towards the client, which is [`Standing::default`] before the first call. It counts
    /// from the next request or snapshot on.
    fn set_standing(&mut self, standing: &Standing);

    /// Returns the origin of the config with which the client came, and if it is answered.
    fn provenance(&self) -> Provenance;

    /// Handles a request and returns the responses to send now.
    ///
    /// # Errors
    ///
    /// Fails if the request breaks the protocol; the stream should end then.
    fn on_request(&mut self, request: LazyRequest<Self::Head>) -> Result<Vec<Response>, ProtocolError>;

    /// Handles a new snapshot and returns the responses to send now.
    fn on_snapshot(&mut self, target: Arc<Snapshot>) -> Vec<Response>;

    /// Stops waiting for the clusters and returns the responses to send now.
    fn on_timeout(&mut self) -> Vec<Response>;

    /// True while listeners or routes wait until the client acknowledges its clusters.
    fn is_waiting(&self) -> bool;

    /// True when every response is acknowledged or refused and no search for a bad resource is under way: a
    /// good moment to end the stream.
    fn is_idle(&self) -> bool;

    /// Removes and returns the NACKs since the last call.
    fn take_nacks(&mut self) -> Vec<ResponseNack>;

    /// Names that the client asks for, and clusters that it holds.
    fn asked(&self) -> AskedResources;

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
