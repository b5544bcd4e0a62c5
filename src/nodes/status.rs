//! Status of a node and of the types on its streams.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;

use crate::build::snapshot::resource::Version;
use crate::build::snapshot::store_id::StoreId;
use crate::envoy::ResourceType;
use crate::envoy::node::Node;

/// Outcome of the last response of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckState {
    /// No answer yet; Envoy does not answer while a cluster is warming.
    Pending,
    /// Acknowledged.
    Acked,
    /// Refused; the client keeps its earlier config.
    Nacked,
}

/// Status of one type on a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypeStatus<'a> {
    /// Outcome of the last response.
    pub state: AckState,
    /// Version of the last acknowledged response; none before the first ACK.
    pub version: Option<Version>,
    /// True if the client was sent everything that it asked for from the newest snapshot.
    pub current: bool,
    /// Error text of the client, while it refuses.
    pub error: Option<&'a str>,
}

/// Status of one type on a stream, with times, as it was recorded.
#[derive(Debug, Clone)]
pub struct RecordedStatus {
    /// Outcome of the last response.
    pub state: AckState,
    /// Time since which the type has this outcome.
    pub since: Timestamp,
    /// Version of the last acknowledged response; none before the first ACK.
    pub version: Option<Version>,
    /// True if the client was sent everything that it asked for from the newest snapshot.
    pub current: bool,
    /// Error text of the client, while it refuses.
    pub error: Option<String>,
    /// Last refusal, kept after the client has recovered.
    pub last_nack: Option<Arc<Nack>>,
}

/// Refusal of a response by an Envoy (NACK): the node, and what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nack {
    /// Node id.
    pub node: String,
    /// Generation that the refused response belongs to.
    pub generation: u64,
    /// Error text of the client.
    pub error: String,
    /// Time at which the refusal began.
    pub at: Timestamp,
}

/// Origin of the config with which a client came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Provenance {
    /// Store of that config, if it is another than the own one.
    pub foreign_store: Option<StoreId>,
    /// True if that store is answered from now on, since the own config is meant for all.
    pub is_adopted: bool,
    /// Reason for which the client is not answered; none if it is.
    pub withheld: Option<WithholdReason>,
}

/// Reason for which a client is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WithholdReason {
    /// The client runs a config that is not known here, and nothing was accepted yet that gives it a route.
    NothingAccepted,
    /// The client runs a config of another store that is not known here.
    ForeignStore,
}

/// A stream of an Envoy, or the last status of an Envoy that disconnected.
#[derive(Debug, Clone)]
pub struct Presence {
    /// Identity of the Envoy.
    pub node: Node,
    /// Remote address of the connection, if known.
    pub address: Option<SocketAddr>,
    /// Time at which the stream began.
    pub connected_at: Timestamp,
    /// Time at which its last stream ended; none while it is connected.
    pub disconnected_at: Option<Timestamp>,
    /// Time of its last load report; none before the first.
    pub last_load_report: Option<Timestamp>,
    /// Newest generation that its types were compared with.
    pub generation: u64,
    /// Origin of the config that it came with.
    pub provenance: Provenance,
    /// Status of the types that it asked for.
    pub types: BTreeMap<ResourceType, RecordedStatus>,
}

impl Presence {
    /// True if the client asked for listeners.
    pub fn has_listeners(&self) -> bool {
        self.types.contains_key(&ResourceType::Listener)
    }
}
