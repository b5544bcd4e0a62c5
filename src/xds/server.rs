//! The gRPC services: sockets and time around [`sotw::Stream`] and [`delta::Stream`].
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
use futures_util::Stream as FutureStream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::codec::{BufferSettings, Streaming};
use tonic::service::Routes;
use tonic::transport::server::TcpConnectInfo;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;
use tracing::{info, warn};

use crate::cache::{Cache, Subscription};
use crate::envoy::ResourceType;
use crate::fleet::{Connection, Fleet};
use crate::node::Node;
use crate::snapshot::Variant;
use crate::xds::subscription::NameTable;
use crate::xds::{Protocol, ProtocolError, Refusal, delta, frame, order, sotw};

/// The methods that are served: the path, the variant, and the type of a service that has just one.
const METHODS: [(&str, Variant, Option<ResourceType>); 12] = {
    use ResourceType::{Cluster, Endpoints, Listener, Route, Secret};
    use Variant::{Delta, StateOfTheWorld};
    [
        (
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
            StateOfTheWorld,
            None,
        ),
        ("/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources", Delta, None),
        ("/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters", StateOfTheWorld, Some(Cluster)),
        ("/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters", Delta, Some(Cluster)),
        (
            "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints",
            StateOfTheWorld,
            Some(Endpoints),
        ),
        ("/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints", Delta, Some(Endpoints)),
        (
            "/envoy.service.listener.v3.ListenerDiscoveryService/StreamListeners",
            StateOfTheWorld,
            Some(Listener),
        ),
        ("/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners", Delta, Some(Listener)),
        ("/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes", StateOfTheWorld, Some(Route)),
        ("/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes", Delta, Some(Route)),
        ("/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets", StateOfTheWorld, Some(Secret)),
        ("/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets", Delta, Some(Secret)),
    ]
};

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
        .add_routes(Routes::from(axum::Router::new().fallback_service(discovery)))
        .serve_with_incoming_shutdown(connections, shutdown)
        .await
}

/// The discovery services: the aggregated one, and one for each type.
#[derive(Debug, Clone)]
pub struct Discovery {
    cache: Arc<Cache>,
    fleet: Fleet,
    names: NameTable,
    identifier: Arc<str>,
}

impl Discovery {
    /// A service that tells clients what `cache` holds and notes in `fleet` what they answer. `identifier`
    /// names this control plane to them.
    pub fn new(cache: Arc<Cache>, fleet: Fleet, identifier: &str) -> Self {
        Self { cache, fleet, names: NameTable::default(), identifier: identifier.into() }
    }
}

impl<B> tower::Service<Request<B>> for Discovery
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let method = METHODS.iter().find(|(path, ..)| *path == request.uri().path());
        let Some((_, variant, resource_type)) = method else {
            return ready(Ok(Status::unimplemented("there is no such method").into_http()));
        };
        let body = match variant {
            Variant::StateOfTheWorld => self.open::<sotw::Stream, B>(request, *resource_type),
            Variant::Delta => self.open::<delta::Stream, B>(request, *resource_type),
        };
        let mut response = Response::new(body);
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        ready(Ok(response))
    }
}

impl Discovery {
    fn open<P, B>(&self, request: Request<B>, resource_type: Option<ResourceType>) -> Body
    where
        P: Protocol,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let peer = request.extensions().get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
        let decoder = ProstCodec::<(), P::Request>::raw_decoder(BufferSettings::new(REQUEST_BUFFER, 0));
        let requests = Streaming::new_request(decoder, request.into_body(), None, Some(MAX_REQUEST));
        Body::new(StreamBody::new(stream::<P>(self.clone(), requests, Origin { peer, resource_type })))
    }
}

/// Where a stream comes from: the client's address, and the type of the service if it has just one.
#[derive(Clone, Copy)]
struct Origin {
    peer: Option<SocketAddr>,
    resource_type: Option<ResourceType>,
}

/// The body of the response: frames of data until the stream ends, then its status.
fn stream<P: Protocol>(
    discovery: Discovery,
    mut requests: Streaming<P::Request>,
    origin: Origin,
) -> impl FutureStream<Item = Result<Frame<Bytes>, Infallible>> {
    async_stream::stream! {
        let status = match Session::<P>::begin(&discovery, &mut requests, origin).await {
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
struct Session<P> {
    stream: P,
    node: String,
    connection: Connection,
    snapshots: Subscription,
    resource_type: Option<ResourceType>,
    identifier: Arc<str>,
    /// When the wait for clusters is over.
    impatient_at: Option<Instant>,
}

impl<P: Protocol> Session<P> {
    /// Waits for the first request, which alone must say who the client is.
    async fn begin(
        discovery: &Discovery,
        requests: &mut Streaming<P::Request>,
        origin: Origin,
    ) -> Result<Option<(Self, Vec<frame::Response>)>, Status> {
        let Some(mut first) = requests.message().await? else { return Ok(None) };
        let node = Node::from(P::node(&mut first).unwrap_or_default());
        if node.id.is_empty() {
            return Err(Status::invalid_argument(
                "the first request of a stream must have a node with an id",
            ));
        }
        let mut snapshots = discovery.cache.subscribe(node.clone());
        let mut session = Self {
            stream: P::new(snapshots.snapshot(), &discovery.names),
            node: node.id.clone(),
            connection: discovery.fleet.connect(node, origin.peer),
            snapshots,
            resource_type: origin.resource_type,
            identifier: discovery.identifier.clone(),
            impatient_at: None,
        };
        info!(node = session.node, "connected");
        session.take(first).map(|responses| Some((session, responses)))
    }

    /// Waits for something to happen and returns what to send then; none when the client hung up or we are
    /// shutting down.
    async fn next(
        &mut self,
        requests: &mut Streaming<P::Request>,
    ) -> Result<Option<Vec<frame::Response>>, Status> {
        let impatient_at = self.impatient_at;
        let impatience = async move {
            match impatient_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let responses = tokio::select! {
            request = requests.message() => match request {
                Ok(Some(request)) => return self.take(request).map(Some),
                Ok(None) => return Ok(None),
                // The connection broke: there is nobody to tell.
                Err(status) if matches!(status.code(), Code::Unknown | Code::Cancelled) => return Ok(None),
                Err(status) => return Err(status),
            },
            changed = self.snapshots.changed() => match changed {
                true => self.stream.on_snapshot(self.snapshots.snapshot()),
                false => return Ok(None),
            },
            () = impatience => {
                warn!(node = self.node, "clusters are still not acknowledged; listeners and routes go out all the same");
                self.stream.on_impatience()
            }
        };
        self.settle();
        Ok(Some(responses))
    }

    fn take(&mut self, mut request: P::Request) -> Result<Vec<frame::Response>, Status> {
        let refuse = |error: ProtocolError| Status::invalid_argument(error.to_string());
        if let Some(resource_type) = self.resource_type {
            // On a service of one type it goes without saying.
            let (type_url, expected) = (P::type_url(&mut request), resource_type.type_url());
            if type_url.is_empty() {
                expected.clone_into(type_url);
            } else if type_url != expected {
                return Err(refuse(ProtocolError::OtherType { expected, found: type_url.clone() }));
            }
        }
        let responses = self.stream.on_request(request).map_err(refuse)?;
        self.settle();
        Ok(responses)
    }

    /// Notes what the client answered and whether something waits.
    fn settle(&mut self) {
        for Refusal { resource_type, version, error, names } in self.stream.take_refusals() {
            let held_back = names.join(", ");
            warn!(node = self.node, r#type = %resource_type, version, held_back, error, "refused; its last good config stays");
        }
        self.connection.note(self.stream.statuses());
        self.impatient_at = match (self.stream.is_waiting(), self.impatient_at) {
            (false, _) => None,
            (true, at) => at.or_else(|| Some(Instant::now() + order::PATIENCE)),
        };
    }

    fn frame(&self, responses: Vec<frame::Response>) -> impl Iterator<Item = Bytes> + use<P> {
        let identifier = self.identifier.clone();
        responses.into_iter().flat_map(move |response| frame::parts(response, P::VARIANT, &identifier))
    }
}

impl<P> Drop for Session<P> {
    fn drop(&mut self) {
        info!(node = self.node, "disconnected");
    }
}
