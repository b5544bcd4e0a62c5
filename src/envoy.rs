//! Envoy's types: served resource types, their JSON form, and one encoding for equal values.

pub mod canonical;
pub mod checks;
pub mod descriptors;
pub mod fields;
pub mod json;
pub mod load_totals;
pub mod loads;
pub mod merge;
pub mod node;
pub mod shapes;

use std::fmt;

use envoy_types::pb::envoy::config::cluster::v3::{Cluster, cluster};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use prost::Message as _;

/// Resource types of xDS that are served, in the order in which a change is pushed so that no resource is
/// referred to before it exists (xDS protocol, "Eventual consistency considerations").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// CDS: `envoy.config.cluster.v3.Cluster`.
    Cluster,
    /// EDS: `envoy.config.endpoint.v3.ClusterLoadAssignment`.
    Endpoints,
    /// LDS: `envoy.config.listener.v3.Listener`.
    Listener,
    /// RDS: `envoy.config.route.v3.RouteConfiguration`.
    Route,
    /// SDS: `envoy.extensions.transport_sockets.tls.v3.Secret`.
    Secret,
    /// SRDS: `envoy.config.route.v3.ScopedRouteConfiguration`.
    ScopedRoute,
    /// VHDS: `envoy.config.route.v3.VirtualHost`.
    VirtualHost,
    /// ECDS: `envoy.config.core.v3.TypedExtensionConfig`.
    ExtensionConfig,
    /// RTDS: `envoy.service.runtime.v3.Runtime`.
    Runtime,
}

impl ResourceType {
    /// All types, in push order; [`Self::FURTHER`] are the last.
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

    /// Types that no entity is compiled to: only raw resources have them.
    pub const FURTHER: [Self; 4] =
        [Self::ScopedRoute, Self::VirtualHost, Self::ExtensionConfig, Self::Runtime];

    /// Returns the full name of the message.
    pub fn message(self) -> &'static str {
        self.type_url().trim_start_matches("type.googleapis.com/")
    }

    /// Returns the type URL, as in `DiscoveryRequest.type_url` and in `Any`.
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

    /// Returns the type that `type_url` names, if it is served.
    pub fn from_type_url(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|resource_type| resource_type.type_url() == type_url)
    }

    /// Returns the plural word in the API, the CLI and the fleet view.
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

    /// Returns the singular word; that of endpoints is their plural.
    pub fn singular(self) -> &'static str {
        match self {
            Self::Endpoints => self.plural(),
            _ => &self.plural()[..self.plural().len() - 1],
        }
    }

    /// Returns the type of a singular or plural word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.plural() == word || it.singular() == word)
    }

    /// Returns the field of the message that holds the resource name.
    pub fn name_field(self) -> &'static str {
        match self {
            Self::Endpoints => "cluster_name",
            _ => "name",
        }
    }
}

/// Returns the name of the EDS resource that an encoded cluster waits for before it serves; `None` if it does
/// not use EDS.
pub fn awaited_endpoints(cluster: &[u8]) -> Option<String> {
    let cluster = Cluster::decode(cluster).ok()?;
    let eds = cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Eds.into());
    if cluster.cluster_discovery_type != Some(eds) {
        return None;
    }
    let named = cluster.eds_cluster_config.map(|eds| eds.service_name).filter(|name| !name.is_empty());
    Some(named.unwrap_or(cluster.name))
}

/// True if an encoded `Secret` holds what only its owner should have: anything but certificate authorities.
pub fn is_private(secret: &[u8]) -> bool {
    let decoded = tls::Secret::decode(secret);
    !decoded.is_ok_and(|secret| matches!(secret.r#type, Some(tls::secret::Type::ValidationContext(_))))
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.plural())
    }
}
