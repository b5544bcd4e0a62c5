//! The gRPC service: sockets and time around [`sotw::Stream`].
//!
//! Written by hand as a tower service, because a generated one would encode every response for every client.
//! No task is spawned for a stream: its body is polled by the connection, and waits for a request, for a new
//! snapshot or for its patience to end, whichever comes first.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use futures_util::Stream as FutureStream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::codec::{BufferSettings, Streaming};
use tonic::server::NamedService;
use tonic::transport::server::TcpConnectInfo;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;
use tracing::{info, warn};

use crate::cache::Cache;
use crate::fleet::{Connection, Fleet};
use crate::node::Node;
use crate::xds::{frame, order, sotw};

const STREAM_AGGREGATED_RESOURCES: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";

/// Envoy's first request is some 60 KB, and a client that names 100,000 resources needs a few MB.
const MAX_REQUEST: usize = 16 << 20;

/// What a request is decoded into at first; it grows with the largest that comes.
const REQUEST_BUFFER: usize = 1 << 10;

/// Serves xDS on `listener` until `shutdown` resolves.
///
/// # Errors
///
/// When the socket fails.
pub async fn serve(
    listener: TcpListener,
    discovery: Discovery,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let connections = TcpListenerStream::new(listener);
    tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .add_service(discovery)
        .serve_with_incoming_shutdown(connections, shutdown)
        .await
}

/// The aggregated discovery service.
#[derive(Debug, Clone)]
pub struct Discovery {
    cache: Arc<Cache>,
    fleet: Fleet,
    identifier: Arc<str>,
}

impl Discovery {
    /// A service that tells clients what `cache` holds and notes in `fleet` what they answer. `identifier`
    /// names this control plane to them.
    pub fn new(cache: Arc<Cache>, fleet: Fleet, identifier: &str) -> Self {
        Self { cache, fleet, identifier: identifier.into() }
    }
}

impl NamedService for Discovery {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

impl tower::Service<Request<Body>> for Discovery {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.uri().path() != STREAM_AGGREGATED_RESOURCES {
            return ready(Ok(Status::unimplemented("no such method").into_http()));
        }
        let peer = request.extensions().get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
        let decoder = ProstCodec::<DiscoveryResponse, DiscoveryRequest>::raw_decoder(BufferSettings::new(
            REQUEST_BUFFER,
            0,
        ));
        let requests = Streaming::new_request(decoder, request.into_body(), None, Some(MAX_REQUEST));
        let body = Body::new(StreamBody::new(stream(self.clone(), requests, peer)));
        let mut response = Response::new(body);
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        ready(Ok(response))
    }
}

/// The body of the response: frames of data until the stream ends, then its status.
fn stream(
    discovery: Discovery,
    mut requests: Streaming<DiscoveryRequest>,
    peer: Option<SocketAddr>,
) -> impl FutureStream<Item = Result<Frame<Bytes>, Infallible>> {
    async_stream::stream! {
        let status = match Session::begin(&discovery, &mut requests, peer).await {
            Ok(None) => Status::ok(""),
            Err(status) => status,
            Ok(Some((mut session, responses))) => {
                for part in session.frame(responses) {
                    yield Ok(Frame::data(part));
                }
                loop {
                    match session.next(&mut requests).await {
                        Ok(Some(responses)) => {
                            for part in session.frame(responses) {
                                yield Ok(Frame::data(part));
                            }
                        }
                        Ok(None) => break Status::ok(""),
                        Err(status) => break status,
                    }
                }
            }
        };
        yield Ok(Frame::trailers(trailers(&status)));
    }
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from(Code::Internal as i32));
    }
    trailers
}

/// One client: its protocol state, its place in the fleet, and the snapshots it follows.
struct Session {
    stream: sotw::Stream,
    node: String,
    connection: Connection,
    snapshots: crate::cache::Subscription,
    identifier: Arc<str>,
    /// When the wait for clusters is over.
    impatient_at: Option<Instant>,
}

impl Session {
    /// Waits for the first request, which alone must say who the client is.
    async fn begin(
        discovery: &Discovery,
        requests: &mut Streaming<DiscoveryRequest>,
        peer: Option<SocketAddr>,
    ) -> Result<Option<(Self, Vec<sotw::Response>)>, Status> {
        let Some(mut first) = requests.message().await? else { return Ok(None) };
        let node = Node::from(first.node.take().unwrap_or_default());
        if node.id.is_empty() {
            return Err(Status::invalid_argument(
                "the first request of a stream must have a node with an id",
            ));
        }
        let mut snapshots = discovery.cache.subscribe(node.clone());
        let mut session = Self {
            stream: sotw::Stream::new(snapshots.snapshot()),
            node: node.id.clone(),
            connection: discovery.fleet.connect(node, peer),
            snapshots,
            identifier: discovery.identifier.clone(),
            impatient_at: None,
        };
        info!(node = session.node, "connected");
        let responses = session.stream.on_request(first);
        session.settle(responses).map(|responses| Some((session, responses)))
    }

    /// Waits for something to happen and returns what to send then; none when the client hung up or we are
    /// shutting down.
    async fn next(
        &mut self,
        requests: &mut Streaming<DiscoveryRequest>,
    ) -> Result<Option<Vec<sotw::Response>>, Status> {
        let impatient_at = self.impatient_at;
        let impatience = async move {
            match impatient_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let responses = tokio::select! {
            request = requests.message() => match request {
                Ok(Some(request)) => self.stream.on_request(request),
                Ok(None) => return Ok(None),
                // The connection broke: there is nobody to tell.
                Err(status) if status.code() == Code::Unknown || status.code() == Code::Cancelled => return Ok(None),
                Err(status) => return Err(status),
            },
            changed = self.snapshots.changed() => match changed {
                true => Ok(self.stream.on_snapshot(self.snapshots.snapshot())),
                false => return Ok(None),
            },
            () = impatience => {
                warn!(node = self.node, "clusters are still not acknowledged; listeners and routes go out all the same");
                Ok(self.stream.on_impatience())
            }
        };
        self.settle(responses).map(Some)
    }

    /// Notes what the client answered and whether something waits.
    fn settle(
        &mut self,
        responses: Result<Vec<sotw::Response>, sotw::ProtocolError>,
    ) -> Result<Vec<sotw::Response>, Status> {
        let responses = responses.map_err(|error| Status::invalid_argument(error.to_string()))?;
        for refusal in self.stream.take_refusals() {
            let sotw::Refusal { resource_type, version, error } = refusal;
            warn!(node = self.node, r#type = %resource_type, version, error, "refused; its last good config stays");
        }
        self.connection.note(self.stream.statuses());
        self.impatient_at = match (self.stream.is_waiting(), self.impatient_at) {
            (false, _) => None,
            (true, at) => at.or_else(|| Some(Instant::now() + order::PATIENCE)),
        };
        Ok(responses)
    }

    fn frame(&self, responses: Vec<sotw::Response>) -> impl Iterator<Item = Bytes> + use<> {
        let identifier = self.identifier.clone();
        responses.into_iter().flat_map(move |response| frame::parts(response, &identifier))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        info!(node = self.node, "disconnected");
    }
}
