//! The gRPC services: sockets and time around [`sotw::Stream`] and [`delta::Stream`].
//!
//! Written by hand as a tower service, because a generated one would encode every response for every client.
//! No task is spawned for a stream: its body is polled by the connection, and waits for a request, for a new
//! snapshot or for a deadline, whichever comes first. It is polled only while the client takes the data that
//! was produced, so that a client that does not read costs no more than the last response.
//!
//! The effect that a client can have on others is bounded here: the number of streams that begin at once
//! ([`admission`]), the bytes held for incomplete requests ([`Meter`]), the number of names that are asked
//! for ([`NameTable`](crate::xds::subscription::NameTable)), the time until the first request, and the sizes
//! of requests, headers and nodes.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::pin::pin;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::service::status::v3::client_status_discovery_service_server::ClientStatusDiscoveryServiceServer;
use futures_util::{Stream as FutureStream, StreamExt as _};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::ServiceExt as _;
use tracing::{info, warn};

use crate::access::identity::IdentityRule;
use crate::access::incoming::Incoming;
use crate::build::snapshot::Variant;
use crate::cache::{Cache, SnapshotSubscription};
use crate::envoy::node::Node;
use crate::envoy::{ResourceType, descriptors};
use crate::nodes::{Connection, Nodes};
use crate::telemetry::events::Event;
use crate::telemetry::metrics::Metrics;
use crate::xds::admission::{self, Admission, Rate};
use crate::xds::client_status::ClientStatuses;
use crate::xds::health_discovery::HealthDiscovery;
use crate::xds::incoming::{self, Peer};
use crate::xds::load_report::LoadReports;
use crate::xds::meter::Meter;
use crate::xds::request::Requests;
use crate::xds::wire::{self, Head as _};
use crate::xds::{Common, Protocol, ProtocolError, Refusal, delta, frame, order, sotw};

/// Methods that are served: the path, the variant, and the type if the service has just one.
const METHODS: [(&str, Variant, Option<ResourceType>); 19] = {
    use ResourceType::{
        Cluster, Endpoints, ExtensionConfig, Listener, Route, Runtime, ScopedRoute, Secret, VirtualHost,
    };
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
        (
            "/envoy.service.route.v3.ScopedRoutesDiscoveryService/StreamScopedRoutes",
            StateOfTheWorld,
            Some(ScopedRoute),
        ),
        ("/envoy.service.route.v3.ScopedRoutesDiscoveryService/DeltaScopedRoutes", Delta, Some(ScopedRoute)),
        // Virtual hosts are served in delta only (VirtualHostDiscoveryService has no other method).
        ("/envoy.service.route.v3.VirtualHostDiscoveryService/DeltaVirtualHosts", Delta, Some(VirtualHost)),
        (
            "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/StreamExtensionConfigs",
            StateOfTheWorld,
            Some(ExtensionConfig),
        ),
        (
            "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/DeltaExtensionConfigs",
            Delta,
            Some(ExtensionConfig),
        ),
        ("/envoy.service.runtime.v3.RuntimeDiscoveryService/StreamRuntime", StateOfTheWorld, Some(Runtime)),
        ("/envoy.service.runtime.v3.RuntimeDiscoveryService/DeltaRuntime", Delta, Some(Runtime)),
    ]
};

/// Size in bytes from which handling a request takes noticeable time.
const LARGE: usize = 256 << 10;

/// Limit on the headers of a request, in bytes. Those of Envoy have some hundred bytes.
const MAX_HEADERS: u32 = 16 << 10;

/// Limit on the streams of one connection. Envoy opens a few, and one for each secret if it fetches them over
/// non-aggregated SDS.
const MAX_STREAMS: u32 = 1_000;

/// Limit on the text that is kept of a node, in bytes.
const MAX_NODE: usize = 64 << 10;

/// Limit on the names that clients ask for, over all streams. Streams that ask for the same set of names
/// share it.
const MAX_NAMES: usize = 5_000_000;

/// Services that reflection and the health service list.
const SERVICES: [&str; 10] = [
    "envoy.service.cluster.v3.ClusterDiscoveryService",
    "envoy.service.discovery.v3.AggregatedDiscoveryService",
    "envoy.service.endpoint.v3.EndpointDiscoveryService",
    "envoy.service.health.v3.HealthDiscoveryService",
    "envoy.service.listener.v3.ListenerDiscoveryService",
    "envoy.service.load_stats.v3.LoadReportingService",
    "envoy.service.route.v3.RouteDiscoveryService",
    "envoy.service.secret.v3.SecretDiscoveryService",
    "envoy.service.status.v3.ClientStatusDiscoveryService",
    "grpc.health.v1.Health",
];

/// Limits on the duration and number of streams.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Rate at which streams may begin.
    pub rate: Rate,
    /// Time within which a client must speak HTTP/2, and send the first request of a stream.
    pub first_request: Duration,
    /// Lifetime of streams, limited so that Envoys spread over control planes that were added. Each stream
    /// gets a random one in this range, so that they do not all return at once. A connection takes no new
    /// streams once it has the lowest age.
    pub age: Range<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        Self {
            rate: Rate { per_second: 2_000, burst: 2_000, waiting: 20_000 },
            first_request: Duration::from_secs(30),
            age: minutes(30)..minutes(45),
        }
    }
}

impl Limits {
    /// Returns the time at which a stream that begins now should end.
    pub(crate) fn end(&self) -> Instant {
        // Every `RandomState` has random keys of its own.
        let part = (RandomState::new().hash_one(()) % 1024) as u32;
        Instant::now() + self.age.start + (self.age.end - self.age.start) * part / 1024
    }
}

/// Serves xDS to the connections in `incoming` until `shutdown` resolves.
///
/// # Errors
///
/// Fails if the socket fails.
pub async fn serve(
    incoming: impl Into<Incoming>,
    discovery: Discovery,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let limits = &discovery.shared.limits;
    let mut server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .http2_max_header_list_size(MAX_HEADERS)
        .max_concurrent_streams(MAX_STREAMS)
        .max_connection_age(limits.age.start);
    let connections = incoming::connections(incoming.into(), limits.first_request);
    let routes = routes(discovery).await;
    server.add_routes(routes).serve_with_incoming_shutdown(connections, shutdown).await
}

/// Builds the routes of discovery and of the services beside it.
async fn routes(discovery: Discovery) -> Routes {
    let Shared { cache, nodes, limits, .. } = &*discovery.shared;
    let load_reports = LoadReports::new(nodes.clone(), limits.clone(), discovery.clone());
    let health_discovery =
        HealthDiscovery::new(cache.clone(), nodes.clone(), limits.clone(), discovery.clone());
    let statuses = ClientStatuses { cache: cache.clone(), nodes: nodes.clone() };
    let statuses = ClientStatusDiscoveryServiceServer::new(statuses);
    let (reporter, health) = tonic_health::server::health_reporter();
    for service in SERVICES {
        reporter.set_service_status(service, tonic_health::ServingStatus::Serving).await;
    }
    let router = axum::Router::new()
        .route("/grpc.reflection.v1.ServerReflection/{*rest}", axum::routing::any(reflect))
        .route("/grpc.reflection.v1alpha.ServerReflection/{*rest}", axum::routing::any(reflect))
        .fallback_service(discovery);
    Routes::from(router)
        .add_service(load_reports)
        .add_service(health_discovery)
        .add_service(statuses)
        .add_service(health)
}

/// Serves reflection. Its state is built on the first call: it takes some MB, and is rarely used.
async fn reflect(request: axum::extract::Request) -> axum::response::Response {
    static SERVICES: LazyLock<axum::Router> = LazyLock::new(|| {
        let whole = "the descriptor sets that the types were generated from are whole";
        let current = reflection().build_v1().expect(whole);
        let old = reflection().build_v1alpha().expect(whole);
        Routes::new(current).add_service(old).into_axum_router()
    });
    let Ok(response) = SERVICES.clone().oneshot(request).await;
    response
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    let builder = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(descriptors::ENCODED)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    SERVICES.into_iter().fold(builder, tonic_reflection::server::Builder::with_service_name)
}

/// The discovery services: the aggregated one, and one for each type.
#[derive(Debug, Clone)]
pub struct Discovery {
    shared: Arc<Shared>,
}

/// State that all streams share.
#[derive(Debug)]
struct Shared {
    cache: Arc<Cache>,
    nodes: Nodes,
    common: Common,
    identifier: Arc<str>,
    limits: Limits,
    admission: Mutex<Gate>,
    meter: Meter,
    metrics: Metrics,
    identity: IdentityRule,
}

/// Admission of streams, and the log of refused ones.
#[derive(Debug)]
struct Gate {
    admission: Admission,
    said_at: Option<Instant>,
    refused: u64,
}

impl Discovery {
    /// Creates a service that serves the config in `cache` and records in `fleet` the answers of clients.
    /// `identifier` names this control plane to clients.
    pub fn new(cache: Arc<Cache>, nodes: Nodes, identifier: &str, limits: Limits) -> Self {
        let gate = Gate { admission: Admission::new(limits.rate), said_at: None, refused: 0 };
        let common = Common { past: cache.past().clone(), ..Common::default() };
        let shared = Shared {
            cache,
            nodes,
            common,
            identifier: identifier.into(),
            limits,
            admission: Mutex::new(gate),
            meter: Meter::default(),
            metrics: Metrics::default(),
            identity: IdentityRule::Any,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Sets the rule by which a client's certificate must match its node; any certificate is accepted
    /// otherwise.
    ///
    /// # Panics
    ///
    /// Panics if it is serving already.
    pub fn with_identity(mut self, identity: IdentityRule) -> Self {
        Arc::get_mut(&mut self.shared).expect("it is not serving yet").identity = identity;
        self
    }

    /// Sets the metrics that count refusals.
    ///
    /// # Panics
    ///
    /// Panics if it is serving already.
    pub fn with_metrics(mut self, metrics: Metrics) -> Self {
        Arc::get_mut(&mut self.shared).expect("it is not serving yet").metrics = metrics;
        self
    }
}

impl Shared {
    /// Refuses a client whose certificate is not for the node that it claims to be.
    fn identify(&self, peer: Option<&Peer>, id: &str, cluster: &str) -> Result<(), Status> {
        let names = peer.and_then(|peer| peer.names.as_deref());
        self.identity.check(names, id, cluster).map_err(|reason| {
            let address = peer.map(|peer| peer.address.to_string());
            warn!(
                peer = address,
                node = id,
                reason,
                "refused a stream whose certificate is for somebody else"
            );
            self.metrics.refused("node_identity");
            Status::permission_denied(reason)
        })
    }

    /// Returns the time for which a stream must wait before it may begin; none if it may begin at once.
    fn place(&self) -> Result<Option<Duration>, Status> {
        let mut gate = self.admission.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let answer = gate.admission.ask(now.into_std());
        match answer {
            admission::Answer::After(wait) => return Ok((!wait.is_zero()).then_some(wait)),
            admission::Answer::Refused => gate.refused += 1,
        }
        // Logged at most once a second: a line for each refusal would add to the overload.
        if gate.said_at.is_none_or(|at| now.duration_since(at) >= Duration::from_secs(1)) {
            let (waiting, refused) = (self.limits.rate.waiting, gate.refused);
            warn!(waiting, refused, "too many Envoys connect at once; more are refused until fewer wait");
            (gate.said_at, gate.refused) = (Some(now), 0);
        }
        Err(Status::unavailable("too many streams wait to begin; try again later"))
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
        ready(Ok(match variant {
            Variant::StateOfTheWorld => self.open::<sotw::Stream, B>(request, *resource_type),
            Variant::Delta => self.open::<delta::Stream, B>(request, *resource_type),
        }))
    }
}

/// Refuses a node without an id, or with too much text.
pub(super) fn node(node: Node) -> Result<Node, Status> {
    if node.id.is_empty() {
        return Err(Status::invalid_argument("the first request of a stream must have a node with an id"));
    }
    if node.weight() > MAX_NODE {
        return Err(Status::invalid_argument(format!("the node has more than {MAX_NODE} bytes of text")));
    }
    Ok(node)
}

/// A frame with messages, or with the status at the end of a stream.
type Frames = Result<Frame<Bytes>, Infallible>;

/// Builds a gRPC response with this body.
fn answer(body: impl FutureStream<Item = Frames> + Send + 'static) -> Response<Body> {
    let mut response = Response::new(Body::new(StreamBody::new(body)));
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
    response
}

impl Discovery {
    /// Refuses a client whose certificate is not for the node that it claims to be.
    pub(crate) fn identify(&self, peer: Option<&Peer>, id: &str, cluster: &str) -> Result<(), Status> {
        self.shared.identify(peer, id, cluster)
    }

    /// Answers a call of the only method of a service. `asks` maps the client's messages to framed messages;
    /// the status follows them.
    pub(super) fn bidirectional<S>(
        &self,
        method: &str,
        request: Request<Body>,
        asks: impl FnOnce(Requests, Option<Peer>) -> S,
    ) -> Response<Body>
    where
        S: FutureStream<Item = Result<Bytes, Status>> + Send + 'static,
    {
        if request.uri().path() != method {
            return Status::unimplemented("there is no such method").into_http();
        }
        let peer = request.extensions().get::<Peer>().cloned();
        let asks = asks(self.requests(request.into_body()), peer);
        answer(async_stream::stream! {
            let mut asks = pin!(asks);
            let status = loop {
                match asks.next().await {
                    Some(Ok(message)) => yield Ok(Frame::data(message)),
                    Some(Err(status)) => break status,
                    None => break Status::ok(""),
                }
            };
            yield Ok(end(&status));
        })
    }

    /// Decodes the body of a call; the bytes that are buffered count towards the common limit.
    fn requests<B>(&self, body: B) -> Requests
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Requests::new(body, self.shared.meter.share())
    }

    fn open<P, B>(&self, request: Request<B>, resource_type: Option<ResourceType>) -> Response<Body>
    where
        P: Protocol,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let peer = request.extensions().get::<Peer>().cloned();
        let requests = self.requests(request.into_body());
        answer(stream::<P>(self.shared.clone(), requests, Origin { peer, resource_type }))
    }
}

/// Origin of a stream: the client's address, and the type of the service if it has just one.
#[derive(Clone)]
struct Origin {
    peer: Option<Peer>,
    resource_type: Option<ResourceType>,
}

/// Yields the body of the response: data frames until the stream ends, then its status.
fn stream<P: Protocol>(
    shared: Arc<Shared>,
    mut requests: Requests,
    origin: Origin,
) -> impl FutureStream<Item = Frames> {
    async_stream::stream! {
        // Boxed, since the future of the stream would otherwise reserve space for this step for its whole
        // life.
        let status = match Box::pin(Session::<P>::begin(&shared, &mut requests, origin)).await {
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
        yield Ok(end(&status));
    }
}

/// Builds the last frame of a stream, with its status.
fn end(status: &Status) -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from(Code::Internal as i32));
    }
    Frame::trailers(trailers)
}

/// One client: its protocol state, its connection in the nodes, and its subscription to snapshots.
struct Session<P> {
    stream: P,
    node: String,
    connection: Connection,
    snapshots: SnapshotSubscription,
    resource_type: Option<ResourceType>,
    shared: Arc<Shared>,
    /// Deadline of the wait for clusters; none while nothing waits.
    impatient_at: Option<Instant>,
    /// Time at which the stream should end, or later, as soon as it is idle.
    ends_at: Instant,
}

impl<P: Protocol> Session<P> {
    /// Waits for the first request, the only one that must identify the client, and for admission.
    async fn begin(
        shared: &Arc<Shared>,
        requests: &mut Requests,
        origin: Origin,
    ) -> Result<Option<(Box<Self>, Vec<frame::Response>)>, Status> {
        let first = tokio::time::timeout(shared.limits.first_request, requests.next::<P::Head>()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no first request came"))??;
        let Some(mut first) = first else { return Ok(None) };
        // Only this is kept of the node while the stream waits for admission.
        let node = node(Node::from(first.head.node().unwrap_or_default()))?;
        shared.identify(origin.peer.as_ref(), &node.id, &node.cluster)?;
        if let Some(wait) = shared.place()? {
            // Thousands of streams may wait, and each began with a node of 60 KB.
            first.pack();
            tokio::time::sleep(wait).await;
        }
        let mut snapshots = shared.cache.subscribe(node.clone());
        // Boxed, since the future of the stream would otherwise reserve space for it several times over.
        let mut session = Box::new(Self {
            stream: P::new(snapshots.snapshot(), &shared.common),
            node: node.id.clone(),
            connection: shared.nodes.connect(node, origin.peer.map(|peer| peer.address)),
            snapshots,
            resource_type: origin.resource_type,
            shared: shared.clone(),
            impatient_at: None,
            ends_at: shared.limits.end(),
        });
        info!(node = session.node, "connected");
        session.take(first).map(|responses| Some((session, responses)))
    }

    /// Waits for the next event and returns the responses to send; none when the client disconnects or the
    /// server shuts down.
    async fn next(&mut self, requests: &mut Requests) -> Result<Option<Vec<frame::Response>>, Status> {
        // A client that sends without a pause yields to others now and then, and after a large request at
        // once.
        match requests.last() {
            LARGE.. => tokio::task::yield_now().await,
            _ => tokio::task::consume_budget().await,
        }
        let impatience = due(self.impatient_at);
        let end = due(self.stream.is_idle().then_some(self.ends_at));
        let responses = tokio::select! {
            request = requests.next::<P::Head>() => match request {
                Ok(Some(request)) => return self.take(request).map(Some),
                Ok(None) => return Ok(None),
                Err(status) => return Err(status),
            },
            changed = self.snapshots.changed() => match changed {
                true => self.stream.on_snapshot(self.snapshots.snapshot()),
                false => return Ok(None),
            },
            () = end => return Err(Status::unavailable("reconnect: the stream has come of age")),
            () = impatience => {
                warn!(node = self.node, "clusters are still not acknowledged; listeners and routes go out all the same");
                self.stream.on_impatience()
            }
        };
        self.settle();
        Ok(Some(responses))
    }

    fn take(&mut self, mut request: wire::Request<P::Head>) -> Result<Vec<frame::Response>, Status> {
        let refuse = |error: ProtocolError| Status::invalid_argument(error.to_string());
        if let Some(resource_type) = self.resource_type {
            // A request to a single-type service may omit its type.
            let (type_url, expected) = (request.head.type_url(), resource_type.type_url());
            if type_url.is_empty() {
                expected.clone_into(type_url);
            } else if type_url != expected {
                return Err(refuse(ProtocolError::OtherType { expected, found: type_url.clone() }));
            }
        }
        let names = self.shared.common.names.len();
        let responses = self.stream.on_request(request).map_err(refuse)?;
        if self.shared.common.names.len() > names.max(MAX_NAMES) {
            return Err(Status::resource_exhausted("clients ask for too many names"));
        }
        self.settle();
        Ok(responses)
    }

    /// Records the client's answers and whether something waits.
    fn settle(&mut self) {
        for Refusal { resource_type, version, error, names } in self.stream.take_refusals() {
            let held_back = names.join(", ");
            warn!(node = self.node, r#type = %resource_type, version, held_back, error, "refused; its last good config stays");
            let (node, resource_type) = (self.node.clone(), resource_type.plural());
            self.shared.metrics.nacked(resource_type);
            self.shared.nodes.events().publish(&Event::Nack { node, resource_type, version, names, error });
        }
        self.connection.note(self.snapshots.seen(), self.stream.statuses());
        self.impatient_at = match (self.stream.is_waiting(), self.impatient_at) {
            (false, _) => None,
            (true, at) => at.or_else(|| Some(Instant::now() + order::PATIENCE)),
        };
    }

    fn frame(&self, responses: Vec<frame::Response>) -> impl Iterator<Item = Bytes> + use<P> {
        let identifier = self.shared.identifier.clone();
        responses.into_iter().flat_map(move |response| frame::parts(response, P::VARIANT, &identifier))
    }
}

/// Resolves at that time; never if there is none.
async fn due(at: Option<Instant>) {
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

    /// Returns the size of the value that a function returns.
    fn size<A, B, C, R>(_: impl Fn(A, B, C) -> R) -> usize {
        size_of::<R>()
    }

    #[test]
    fn a_stream_that_waits_takes_little() {
        // There are thousands of streams, and each future is as large as its largest state.
        let futures = [size(stream::<sotw::Stream>), size(stream::<delta::Stream>)];
        assert!(futures.iter().all(|size| *size < 3 << 10), "{futures:?}");
        let sessions = [size_of::<Session<sotw::Stream>>(), size_of::<Session<delta::Stream>>()];
        assert!(sessions.iter().all(|size| *size < 4 << 10), "{sessions:?}");
    }
}
