//! Methods of the discovery services.

use crate::build::snapshot::Variant;
use crate::envoy::ResourceType;

/// Methods that are served: the path, the variant, and the type if the service has just one.
pub(super) const METHODS: [(&str, Variant, Option<ResourceType>); 19] = {
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
