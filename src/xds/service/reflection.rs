//! gRPC server reflection.

use std::sync::LazyLock;

use tonic::service::Routes;
use tower::ServiceExt as _;

use crate::envoy::descriptors;

/// Services that reflection and the health service list.
pub(super) const SERVICES: [&str; 10] = [
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

/// Serves reflection. Its state is built on the first call: it takes some MB, and is rarely used.
pub(super) async fn serve(request: axum::extract::Request) -> axum::response::Response {
    static ROUTER: LazyLock<axum::Router> = LazyLock::new(|| {
        let whole = "the descriptor sets that the types were generated from are whole";
        let current = builder().build_v1().expect(whole);
        let old = builder().build_v1alpha().expect(whole);
        Routes::new(current).add_service(old).into_axum_router()
    });
    let Ok(response) = ROUTER.clone().oneshot(request).await;
    response
}

fn builder() -> tonic_reflection::server::Builder<'static> {
    let builder = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(descriptors::ENCODED)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    SERVICES.into_iter().fold(builder, tonic_reflection::server::Builder::with_service_name)
}
