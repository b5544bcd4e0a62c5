//! Session of one client: sockets and time around a [`DiscoveryStream`].
//!
//! No task is spawned for a stream: its body is polled by the connection, and waits for a request, for a new
//! snapshot or for a deadline, whichever comes first. It is polled only while the client takes the data that
//! was produced, so that a client that does not read costs no more than the last response.
//!
//! The guard of the port bounds the streams that begin and the bytes of their requests; a [`NameShare`] bounds the
//! names that are asked for.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use http_body::Frame;
use tokio::time::Instant;
use tonic::Status;
use tracing::{info, warn};

use crate::cache::SnapshotSubscription;
use crate::envoy::ResourceType;
use crate::envoy::node::Node;
use crate::nodes::StreamGuard;
use crate::nodes::nack::ResponseNack;
use crate::nodes::status::{Provenance, WithholdReason};
use crate::xds::port::connection::{ClientPeer, ConnectionEnd};
use crate::xds::port::guard::{checked_node, end_of_life};
use crate::xds::port::names::NameShare;
use crate::xds::port::reader::RequestReader;
use crate::xds::service::discovery::context::DiscoveryContext;
use crate::xds::service::discovery::generations::SentGenerations;
use crate::xds::service::grpc::{BodyFrame, trailers};
use crate::xds::service::holdings::HoldingsGuard;
use crate::xds::stream::order::CLUSTER_TIMEOUT;
use crate::xds::stream::protocol::{DiscoveryStream, ProtocolError};
use crate::xds::wire::frame;
use crate::xds::wire::request::{LazyRequest, RequestHead as _};

/// Size in bytes from which handling a request takes noticeable time.
const LARGE: usize = 256 << 10;

/// Origin of a stream: the client's address, and the type of the service if it has just one.
#[derive(Clone)]
pub(super) struct StreamOrigin {
    pub(super) peer: Option<ClientPeer>,
    pub(super) resource_type: Option<ResourceType>,
}

/// Yields the body of the response: data frames until the stream ends, then its status.
pub(super) fn stream<P: DiscoveryStream>(
    context: Arc<DiscoveryContext>,
    mut requests: RequestReader,
    origin: StreamOrigin,
) -> impl Stream<Item = BodyFrame> {
    async_stream::stream! {
        // Boxed, since the future of the stream would otherwise reserve space for this step for its whole
        // life.
        let status = match Box::pin(Session::<P>::begin(&context, &mut requests, origin)).await {
            Ok(None) => Status::ok(""),
            Err(status) => status,
            Ok(Some((mut session, responses))) => {
                for chunk in session.encode(responses) {
                    yield Ok(Frame::data(chunk));
                }
                loop {
                    match session.next(&mut requests).await {
                        Ok(Some(responses)) => {
                            for chunk in session.encode(responses) {
                                yield Ok(Frame::data(chunk));
                            }
                        }
                        Ok(None) => break Status::ok(""),
                        Err(status) => break status,
                    }
                }
            }
        };
        yield Ok(trailers(&status));
    }
}

/// One client: its protocol state, its connection in the nodes, and its subscription to snapshots.
struct Session<P> {
    stream: P,
    node: String,
    connection: StreamGuard,
    holdings: HoldingsGuard,
    names: NameShare,
    snapshots: SnapshotSubscription,
    generations: SentGenerations,
    resource_type: Option<ResourceType>,
    context: Arc<DiscoveryContext>,
    /// Deadline of the wait for clusters; none while nothing waits.
    cluster_deadline: Option<Instant>,
    /// Origin of the client's config, as it was recorded last.
    provenance: Provenance,
    /// Time at which the stream should end, or later, as soon as it is idle.
    ends_at: Instant,
}

impl<P: DiscoveryStream> Session<P> {
    /// Waits for the first request, the only one that must identify the client, and for admission.
    async fn begin(
        context: &Arc<DiscoveryContext>,
        requests: &mut RequestReader,
        origin: StreamOrigin,
    ) -> Result<Option<(Box<Self>, Vec<frame::Response>)>, Status> {
        let guard = &context.guard;
        let Some(mut first) = guard.first_request(requests.next::<P::Head>()).await? else { return Ok(None) };
        // Only this is kept of the node while the stream waits for admission.
        let node = checked_node(Node::from(first.head.node().unwrap_or_default()))?;
        guard.identify(origin.peer.as_ref(), &node)?;
        if let Some(delay) = guard.admit()? {
            // Thousands of streams may wait, and each began with a node of 60 KB.
            first.pack();
            tokio::time::sleep(delay).await;
        }
        let mut snapshots = context.cache.subscribe(node.clone());
        let snapshot = guard.permitted(&node.id, snapshots.snapshot())?;
        let end = origin.peer.as_ref().map_or_else(ConnectionEnd::unknown, |peer| peer.end.clone());
        // Boxed, since the future of the stream would otherwise reserve space for it several times over.
        let mut stream = P::new(snapshot, &context.streams);
        stream.set_standing(snapshots.standing());
        let mut session = Box::new(Self {
            stream,
            node: node.id.clone(),
            holdings: context.holdings.begin(&node.id, origin.peer.as_ref()),
            names: context.names.share(&node.id, end),
            connection: context.nodes.connect(node, origin.peer.map(|peer| peer.address)),
            snapshots,
            generations: SentGenerations::default(),
            resource_type: origin.resource_type,
            context: context.clone(),
            cluster_deadline: None,
            provenance: Provenance::default(),
            ends_at: guard.limits().end(),
        });
        info!(node = session.node, "connected");
        session.on_request(first).map(|responses| Some((session, responses)))
    }

    /// Waits for the next event and returns the responses to send; none when the client disconnects or the
    /// server shuts down.
    async fn next(&mut self, requests: &mut RequestReader) -> Result<Option<Vec<frame::Response>>, Status> {
        // A client that sends without a pause yields to others now and then, and after a large request at
        // once.
        match requests.last_length() {
            LARGE.. => tokio::task::yield_now().await,
            _ => tokio::task::consume_budget().await,
        }
        let cluster_deadline = sleep_until(self.cluster_deadline);
        let end = sleep_until(self.stream.is_idle().then_some(self.ends_at));
        let responses = tokio::select! {
            request = requests.next::<P::Head>() => match request {
                Ok(Some(request)) => return self.on_request(request).map(Some),
                Ok(None) => return Ok(None),
                Err(status) => return Err(status),
            },
            is_open = self.snapshots.changed() => {
                if !is_open {
                    return Ok(None);
                }
                let snapshot = self.context.guard.permitted(&self.node, self.snapshots.snapshot())?;
                self.stream.set_standing(self.snapshots.standing());
                self.stream.on_snapshot(snapshot)
            }
            () = end => return Err(end_of_life()),
            () = cluster_deadline => {
                warn!(node = self.node, "clusters are still not acknowledged; listeners and routes go out all the same");
                self.stream.on_timeout()
            }
        };
        self.record(&responses);
        Ok(Some(responses))
    }

    /// Handles a request and returns the responses to send.
    fn on_request(&mut self, mut request: LazyRequest<P::Head>) -> Result<Vec<frame::Response>, Status> {
        let invalid = |error: ProtocolError| Status::invalid_argument(error.to_string());
        if let Some(resource_type) = self.resource_type {
            // A request to a single-type service may omit its type.
            let (type_url, expected) = (request.head.type_url(), resource_type.type_url());
            if type_url.is_empty() {
                expected.clone_into(type_url);
            } else if type_url != expected {
                return Err(invalid(ProtocolError::OtherType { expected, found: type_url.clone() }));
            }
        }
        let responses = self.stream.on_request(request).map_err(invalid)?;
        let (all, limits) = (self.context.streams.names.len(), &self.context.guard.limits().names);
        self.names.record(self.stream.asked().names, all, limits).map_err(|error| {
            warn!(node = self.node, %error, "refused a stream that asks for too many names");
            self.context.guard.metrics().refused("names");
            Status::resource_exhausted(error.to_string())
        })?;
        self.record(&responses);
        Ok(responses)
    }

    /// Records the client's answers, the responses that it gets next, and the deadline if something waits for
    /// clusters.
    fn record(&mut self, responses: &[frame::Response]) {
        let generation = self.snapshots.seen();
        let mut refused = Vec::new();
        for nack in self.stream.take_nacks() {
            let sent = self.generations.find(nack.nonce).unwrap_or(generation);
            refused.push((nack.resource_type, sent));
            self.record_nack(nack);
        }
        self.holdings.record(self.stream.asked().clusters);
        self.record_provenance();
        if self.stream.is_idle() {
            self.generations.clear();
        }
        self.generations.record(generation, responses);
        self.connection.record(generation, &refused, self.stream.statuses());
        self.cluster_deadline = if self.stream.is_waiting() {
            self.cluster_deadline.or_else(|| Some(Instant::now() + CLUSTER_TIMEOUT))
        } else {
            None
        };
    }

    /// Records the origin of the client's config, and logs it once if the client is not answered because of it.
    fn record_provenance(&mut self) {
        let provenance = self.stream.provenance();
        if std::mem::replace(&mut self.provenance, provenance) == provenance {
            return;
        }
        let is_new = self.connection.record_provenance(provenance);
        let Some(reason) = provenance.withheld.filter(|_| is_new) else { return };
        let store = provenance.foreign_store.map(|store| store.to_string());
        match reason {
            WithholdReason::NothingAccepted => warn!(
                node = self.node,
                store,
                "not answered, so that it keeps what it has: it runs a config that is not known here, and nothing was accepted yet that gives it a route; was the data directory lost? restore a backup or write the config again"
            ),
            WithholdReason::ForeignStore => warn!(
                node = self.node,
                store,
                "not answered, so that it keeps what it has: it runs the config of another data directory; if it is meant to get this one, say `POST /reload?allow=foreign` or start with --allow-foreign"
            ),
        }
    }

    /// Logs and counts a NACK, and publishes it as an event.
    fn record_nack(&self, nack: ResponseNack) {
        let ResponseNack { resource_type, version, error, names, .. } = &nack;
        let held_back = names.join(", ");
        warn!(node = self.node, r#type = %resource_type, version, held_back, error, "refused; its last good config stays");
        self.context.guard.metrics().nacked(resource_type.plural());
        self.connection.publish_nack(nack);
    }

    /// Encodes responses into the chunks of their gRPC messages.
    fn encode(&self, responses: Vec<frame::Response>) -> impl Iterator<Item = Bytes> + use<P> {
        let identifier = self.context.identifier.clone();
        responses.into_iter().flat_map(move |response| frame::chunks(response, P::VARIANT, &identifier))
    }
}

/// Resolves at that time; never if there is none.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl<P> Drop for Session<P> {
    fn drop(&mut self) {
        info!(node = self.node, "disconnected");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::stream::delta::DeltaStream;
    use crate::xds::stream::sotw::SotwStream;

    /// Returns the size of the value that a function returns.
    fn size<A, B, C, R>(_: impl Fn(A, B, C) -> R) -> usize {
        size_of::<R>()
    }

    #[test]
    fn a_stream_that_waits_takes_little() {
        // There are thousands of streams, and each future is as large as its largest state.
        let futures = [size(stream::<SotwStream>), size(stream::<DeltaStream>)];
        assert!(futures.iter().all(|size| *size < 3 << 10), "{futures:?}");
        let sessions = [size_of::<Session<SotwStream>>(), size_of::<Session<DeltaStream>>()];
        assert!(sessions.iter().all(|size| *size < 4 << 10), "{sessions:?}");
    }
}
