//! Envoy's types: which of them are served, their JSON form, and one encoding for one value.

pub mod canonical;
pub mod descriptors;
pub mod json;

use std::fmt;

/// The resource types of xDS that are served, in the order in which a change is pushed so that nothing is
/// referred to before it is there (xDS protocol, "Eventual consistency considerations").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// `envoy.config.cluster.v3.Cluster`, CDS.
    Cluster,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`, EDS.
    Endpoints,
    /// `envoy.config.listener.v3.Listener`, LDS.
    Listener,
    /// `envoy.config.route.v3.RouteConfiguration`, RDS.
    Route,
    /// `envoy.extensions.transport_sockets.tls.v3.Secret`, SDS.
    Secret,
}

impl ResourceType {
    /// All of them, in push order.
    pub const ALL: [Self; 5] = [Self::Cluster, Self::Endpoints, Self::Listener, Self::Route, Self::Secret];

    /// The full name of the message.
    pub fn message(self) -> &'static str {
        self.type_url().trim_start_matches("type.googleapis.com/")
    }

    /// As it stands in `DiscoveryRequest.type_url` and in `Any`.
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        }
    }

    /// The type that `type_url` names, if it is served.
    pub fn from_type_url(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|resource_type| resource_type.type_url() == type_url)
    }

    /// The word for many of them in the API, the CLI and the fleet's view.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Cluster => "clusters",
            Self::Endpoints => "endpoints",
            Self::Listener => "listeners",
            Self::Route => "routes",
            Self::Secret => "secrets",
        }
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.plural())
    }
}
