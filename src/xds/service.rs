//! Services of the xDS port, and the server that routes calls to them.

pub mod client_status;
pub mod discovery;
pub mod grpc;
pub mod health_discovery;
pub mod holdings;
pub mod load_report;
mod reflection;

use std::time::Duration;

use envoy_types::pb::envoy::service::status::v3::client_status_discovery_service_server::ClientStatusDiscoveryServiceServer;
use tonic::service::Routes;

use crate::access::incoming::Incoming;
use crate::xds::port::connection;
use crate::xds::service::client_status::ClientStatuses;
use crate::xds::service::discovery::DiscoveryService;
use crate::xds::service::grpc::GrpcService;
use crate::xds::service::health_discovery::HealthDiscovery;
use crate::xds::service::load_report::LoadReports;

/// Limit on the headers of a request, in bytes. Those of Envoy have some hundred bytes.
const MAX_HEADERS: u32 = 16 << 10;

/// Limit on the streams of one connection. Envoy opens a few, and one for each secret if it fetches them over
/// non-aggregated SDS.
const MAX_STREAMS: u32 = 1_000;

/// Serves xDS to the connections in `incoming` until `shutdown` resolves.
///
/// # Errors
///
/// Fails if the socket fails.
pub async fn serve(
    incoming: impl Into<Incoming>,
    discovery: DiscoveryService,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let limits = discovery.guard().limits();
    let mut server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .http2_max_header_list_size(MAX_HEADERS)
        .max_concurrent_streams(MAX_STREAMS)
        .max_connection_age(limits.age.start);
    let connections = connection::connections(incoming.into(), limits.first_request);
    let routes = routes(discovery).await;
    server.add_routes(routes).serve_with_incoming_shutdown(connections, shutdown).await
}

/// Builds the routes of discovery and of the services beside it.
async fn routes(discovery: DiscoveryService) -> Routes {
    let (cache, nodes, guard) = (discovery.cache(), discovery.nodes(), discovery.guard());
    let holdings = discovery.holdings();
    let load_reports = LoadReports::new(nodes.clone(), guard.clone(), holdings.clone());
    let health_discovery =
        HealthDiscovery::new(cache.clone(), nodes.clone(), guard.clone(), holdings.clone());
    let statuses = ClientStatuses { cache: cache.clone(), nodes: nodes.clone(), guard: guard.clone() };
    let (reporter, health) = tonic_health::server::health_reporter();
    for service in reflection::SERVICES {
        reporter.set_service_status(service, tonic_health::ServingStatus::Serving).await;
    }
    let router = axum::Router::new()
        .route("/grpc.reflection.v1.ServerReflection/{*rest}", axum::routing::any(reflection::serve))
        .route("/grpc.reflection.v1alpha.ServerReflection/{*rest}", axum::routing::any(reflection::serve))
        .fallback_service(discovery);
    Routes::from(router)
        .add_service(GrpcService(load_reports))
        .add_service(GrpcService(health_discovery))
        .add_service(ClientStatusDiscoveryServiceServer::new(statuses))
        .add_service(health)
}
