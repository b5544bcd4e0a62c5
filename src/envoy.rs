//! Envoy's types: which of them are served, their JSON form, and one encoding for one value.

pub mod canonical;
pub mod checks;
pub mod descriptors;
pub mod fields;
pub mod json;
pub mod loads;
pub mod merge;
pub mod node;
pub mod shapes;

use std::fmt;

use envoy_types::pb::envoy::config::cluster::v3::{Cluster, cluster};
use prost::Message as _;

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
    /// `envoy.config.route.v3.ScopedRouteConfiguration`, SRDS.
    ScopedRoute,
    /// `envoy.config.route.v3.VirtualHost`, VHDS.
    VirtualHost,
    /// `envoy.config.core.v3.TypedExtensionConfig`, ECDS.
    ExtensionConfig,
    /// `envoy.service.runtime.v3.Runtime`, RTDS.
    Runtime,
}

impl ResourceType {
    /// All of them, in push order; [`Self::FURTHER`] are the last.
    pub const ALL: [Self; 9] = [
        Self::Cluster,
        Self::Endpoints,
        Self::Listener,
        Self::Route,
        Self::Secret,
        Self::ScopedRoute,
        Self::VirtualHost,
        Self::ExtensionConfig,
        Self::Runtime,
    ];

    /// Those that nothing is compiled to: only raw resources are of them.
    pub const FURTHER: [Self; 4] =
        [Self::ScopedRoute, Self::VirtualHost, Self::ExtensionConfig, Self::Runtime];

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
            Self::ScopedRoute => "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration",
            Self::VirtualHost => "type.googleapis.com/envoy.config.route.v3.VirtualHost",
            Self::ExtensionConfig => "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
            Self::Runtime => "type.googleapis.com/envoy.service.runtime.v3.Runtime",
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
            Self::ScopedRoute => "scoped_routes",
            Self::VirtualHost => "virtual_hosts",
            Self::ExtensionConfig => "extension_configs",
            Self::Runtime => "runtimes",
        }
    }

    /// The word for one of them.
    pub fn singular(self) -> &'static str {
        match self {
            Self::Endpoints => self.plural(),
            _ => &self.plural()[..self.plural().len() - 1],
        }
    }

    /// The type that a word stands for, be it for one or for many.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.plural() == word || it.singular() == word)
    }

    /// The field of the message by which clients ask for it.
    pub fn name_field(self) -> &'static str {
        match self {
            Self::Endpoints => "cluster_name",
            _ => "name",
        }
    }
}

/// The endpoints that an encoded cluster waits for before it serves, if it gets them by EDS.
pub fn awaited_endpoints(cluster: &[u8]) -> Option<String> {
    let cluster = Cluster::decode(cluster).ok()?;
    let eds = cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Eds.into());
    if cluster.cluster_discovery_type != Some(eds) {
        return None;
    }
    let named = cluster.eds_cluster_config.map(|eds| eds.service_name).filter(|name| !name.is_empty());
    Some(named.unwrap_or(cluster.name))
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.plural())
    }
}
