//! Guard of the port: the checks that every stream passes before it is served.
//!
//! It bounds the effect that a client can have on others: the number of streams that begin at once
//! ([`Admission`]), the bytes held for incomplete requests ([`BufferMeter`]), the time until the first
//! request, and the size of nodes.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use tokio::time::Instant;
use tonic::Status;
use tracing::warn;

use crate::access::identity::IdentityRules;
use crate::access::meter::BufferMeter;
use crate::build::secrecy::SecretAccess;
use crate::build::snapshot::Snapshot;
use crate::cache::ServedSnapshot;
use crate::envoy::node::Node;
use crate::telemetry::metrics::Metrics;
use crate::xds::port::admission::{Admission, AdmissionDecision};
use crate::xds::port::connection::ClientPeer;
use crate::xds::port::limits::StreamLimits;
use crate::xds::port::reader::RequestReader;

/// Limit on the text that is kept of a node, in bytes.
const MAX_NODE: usize = 64 << 10;

/// Limit on the nodes of which it is remembered that their secrets were told to be withheld. Beyond it all are told
/// anew.
const MAX_TOLD: usize = 10_000;
/// Bytes that each stream may hold for an incomplete request, regardless of the others: twice the first request of
/// an Envoy.
const FREE_BUFFER: usize = 128 << 10;

/// Bytes that all streams may hold together, beyond which only [`FREE_BUFFER`] is left to each.
const BUFFERS: usize = 256 << 20;

/// Shortest time between two log lines about refused streams: a line for each refusal would add to the
/// overload.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Checks and limits that all streams of the port share.
#[derive(Debug)]
pub struct PortGuard {
    limits: StreamLimits,
    admission: Mutex<AdmissionState>,
    meter: BufferMeter,
    metrics: Metrics,
    /// Rules for the nodes of certificates; none if clients show none.
    identity: Option<IdentityRules>,
    /// Nodes of which the log said that secrets are withheld; with true, that they get nothing.
    told: Mutex<HashSet<(String, bool)>>,
}

/// Admission of streams, and the log of refused ones.
#[derive(Debug)]
struct AdmissionState {
    admission: Admission,
    /// Time of the last log line about refused streams; none before the first.
    logged_at: Option<Instant>,
    /// Streams refused since the last log line.
    refused: u64,
}

impl PortGuard {
    /// Creates a guard that asks for no certificate and counts refusals in metrics of its own.
    pub fn new(limits: StreamLimits) -> Self {
        let admission =
            AdmissionState { admission: Admission::new(limits.rate), logged_at: None, refused: 0 };
        Self {
            limits,
            admission: Mutex::new(admission),
            meter: BufferMeter::new(FREE_BUFFER, BUFFERS),
            metrics: Metrics::default(),
            identity: None,
            told: Mutex::default(),
        }
    }

    /// Sets the rules by which a client's certificate must match its node; none if clients show no certificate.
    pub fn with_identity(self, identity: Option<IdentityRules>) -> Self {
        Self { identity, ..self }
    }

    /// Returns the rules by which a client's certificate must match its node; none if clients show none.
    pub fn identity(&self) -> Option<&IdentityRules> {
        self.identity.as_ref()
    }

    /// Sets the metrics that count refusals.
    pub fn with_metrics(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }

    /// Returns the limits on streams.
    pub fn limits(&self) -> &StreamLimits {
        &self.limits
    }

    /// Returns the metrics that count refusals.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Returns a reader of the requests in `body`; the bytes that it buffers count towards the common limit.
    pub fn reader<B>(&self, body: B) -> RequestReader
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        RequestReader::new(body, self.meter.share())
    }

    /// Waits for the first request of a stream.
    ///
    /// # Errors
    ///
    /// Fails if it does not arrive in time, or as `request` fails.
    pub async fn first_request<T>(
        &self,
        request: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let first = tokio::time::timeout(self.limits.first_request, request).await;
        first.map_err(|_| Status::deadline_exceeded("no first request came"))?
    }

    /// Checks that the certificate of a client is for the node that it claims to be.
    ///
    /// # Errors
    ///
    /// Fails if it is for another node.
    pub fn identify(&self, peer: Option<&ClientPeer>, node: &Node) -> Result<(), Status> {
        let Some(rules) = &self.identity else { return Ok(()) };
        let names = peer.and_then(|peer| peer.names.as_deref());
        rules.check(names, node).map_err(|reason| {
            let address = peer.map(|peer| peer.address.to_string());
            warn!(
                peer = address,
                node = node.id,
                reason,
                "refused a stream whose certificate is for somebody else"
            );
            self.metrics.refused("node_identity");
            Status::permission_denied(reason)
        })
    }

    /// Returns the snapshot that a node may have. The log says once for each node that secrets are withheld.
    ///
    /// # Errors
    ///
    /// Fails if it may have nothing.
    pub fn permitted(&self, node: &str, served: ServedSnapshot) -> Result<Arc<Snapshot>, Status> {
        const REASON: &str = "its certificate does not vouch for what selects its fleet";
        let ServedSnapshot { snapshot, secrets } = served;
        if secrets == SecretAccess::Full {
            return Ok(snapshot);
        }
        let is_first = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.len() >= MAX_TOLD {
                told.clear();
            }
            told.insert((node.to_owned(), secrets == SecretAccess::Refused))
        };
        match secrets {
            SecretAccess::Refused => {
                if is_first {
                    warn!(node, "gets nothing, since resources of its fleet have secrets within: {REASON}");
                }
                self.metrics.refused("node_identity");
                let status = format!("resources of the fleet of `{node}` have secrets within, and {REASON}");
                Err(Status::permission_denied(status))
            }
            _ => {
                if is_first {
                    warn!(node, "gets no keys of its fleet: {REASON}");
                }
                Ok(snapshot)
            }
        }
    }

    /// Returns the delay after which a stream may begin; none if it may begin at once.
    ///
    /// # Errors
    ///
    /// Fails if too many streams wait.
    pub fn admit(&self) -> Result<Option<Duration>, Status> {
        let mut state = self.admission.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match state.admission.admit(now.into_std()) {
            AdmissionDecision::BeginAfter(delay) => return Ok((!delay.is_zero()).then_some(delay)),
            AdmissionDecision::Refused => state.refused += 1,
        }
        if state.logged_at.is_none_or(|at| now.duration_since(at) >= LOG_INTERVAL) {
            let (waiting, refused) = (self.limits.rate.waiting, state.refused);
            warn!(waiting, refused, "too many Envoys connect at once; more are refused until fewer wait");
            (state.logged_at, state.refused) = (Some(now), 0);
        }
        Err(Status::unavailable("too many streams wait to begin; try again later"))
    }
}

/// Returns the node if it has an id and not too much text.
///
/// # Errors
///
/// Fails for any other node.
pub fn checked_node(node: Node) -> Result<Node, Status> {
    if node.id.is_empty() {
        return Err(Status::invalid_argument("the first request of a stream must have a node with an id"));
    }
    if node.weight() > MAX_NODE {
        return Err(Status::invalid_argument(format!("the node has more than {MAX_NODE} bytes of text")));
    }
    Ok(node)
}

/// Returns the status that ends a stream at the end of its lifetime.
pub fn end_of_life() -> Status {
    Status::unavailable("reconnect: the stream has come of age")
}
