//! The discovery services: the aggregated one, and one for each type.

mod context;
mod generations;
mod methods;
mod session;

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use tonic::body::Body;

use crate::build::snapshot::resource::Variant;
use crate::cache::Cache;
use crate::envoy::ResourceType;
use crate::nodes::Nodes;
use crate::xds::port::connection::ClientPeer;
use crate::xds::port::guard::PortGuard;
use crate::xds::port::names::NameMeter;
use crate::xds::service::discovery::context::DiscoveryContext;
use crate::xds::service::discovery::methods::METHODS;
use crate::xds::service::discovery::session::StreamOrigin;
use crate::xds::service::grpc;
use crate::xds::service::holdings::Holdings;
use crate::xds::stream::delta::DeltaStream;
use crate::xds::stream::protocol::{DiscoveryStream, StreamContext};
use crate::xds::stream::sotw::SotwStream;

/// Tower service of all discovery methods. Cheap to clone: clones share.
#[derive(Debug, Clone)]
pub struct DiscoveryService {
    context: Arc<DiscoveryContext>,
}

impl DiscoveryService {
    /// Creates a service that serves the config in `cache` to the clients that `guard` admits, and records
    /// their answers in `nodes`. `identifier` names this control plane to clients. If the guard asks for
    /// certificates, the cache withholds secrets from fleets that no certificate vouches for.
    pub fn new(cache: Arc<Cache>, nodes: Nodes, identifier: &str, guard: PortGuard) -> Self {
        if let Some(rules) = guard.identity() {
            cache.withhold_secrets(rules.vouched());
        }
        let (past, store) = (cache.past().clone(), cache.standing().store);
        let streams = StreamContext { past, store, ..StreamContext::default() };
        let (identifier, guard) = (identifier.into(), Arc::new(guard));
        let (names, holdings) = (NameMeter::default(), Holdings::default());
        let context = DiscoveryContext { cache, nodes, streams, identifier, guard, names, holdings };
        Self { context: Arc::new(context) }
    }

    pub(super) fn cache(&self) -> &Arc<Cache> {
        &self.context.cache
    }

    pub(super) fn nodes(&self) -> &Nodes {
        &self.context.nodes
    }

    pub(super) fn guard(&self) -> &Arc<PortGuard> {
        &self.context.guard
    }

    pub(super) fn holdings(&self) -> &Holdings {
        &self.context.holdings
    }

    /// Answers a call with a stream of this variant; of one type, or of all if there is none.
    fn open<P, B>(&self, request: Request<B>, resource_type: Option<ResourceType>) -> Response<Body>
    where
        P: DiscoveryStream,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let peer = request.extensions().get::<ClientPeer>().cloned();
        let requests = self.guard().reader(request.into_body());
        let origin = StreamOrigin { peer, resource_type };
        grpc::response(session::stream::<P>(self.context.clone(), requests, origin))
    }
}

impl<B> tower::Service<Request<B>> for DiscoveryService
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
        ready(Ok(match method {
            None => grpc::no_such_method(),
            Some((_, Variant::StateOfTheWorld, resource_type)) => {
                self.open::<SotwStream, B>(request, *resource_type)
            }
            Some((_, Variant::Delta, resource_type)) => self.open::<DeltaStream, B>(request, *resource_type),
        }))
    }
}
