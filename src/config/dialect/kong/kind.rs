//! Kinds of entities.

/// Lists of entities of which nothing is read: they act through plugins, or belong to Kong's own machinery.
pub const UNREAD: &[&str] = &[
    "consumers",
    "consumer_groups",
    "keys",
    "key_sets",
    "licenses",
    "rbac_roles",
    "rbac_endpoint_permissions",
    "partials",
    "filter_chains",
    "cloned_plugins",
    "custom_plugins",
    "custom_entities",
    "keyauth_credentials",
    "basicauth_credentials",
    "hmacauth_credentials",
    "jwt_secrets",
    "oauth2_credentials",
    "mtls_auth_credentials",
    "acls",
    "degraphql_routes",
    "graphql_ratelimiting_cost_decorations",
];

/// Kind of entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntityKind {
    /// Where requests go, and how.
    Service,
    /// Requests by their properties.
    Route,
    /// Pool of targets.
    Upstream,
    /// Address of an upstream.
    Target,
    /// Certificate that is presented.
    Certificate,
    /// Server name of a certificate.
    Sni,
    /// Authority that verifies.
    CaCertificate,
    /// Code that runs on requests.
    Plugin,
    /// Source of secrets.
    Vault,
    /// Anything else, by the name of its list.
    Unread(&'static str),
}

impl EntityKind {
    /// Kinds that are read, in the order in which they are.
    pub const READ: [Self; 9] = [
        Self::Service,
        Self::Route,
        Self::Upstream,
        Self::Target,
        Self::Certificate,
        Self::Sni,
        Self::CaCertificate,
        Self::Plugin,
        Self::Vault,
    ];

    /// Returns the name of the list.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Service => "services",
            Self::Route => "routes",
            Self::Upstream => "upstreams",
            Self::Target => "targets",
            Self::Certificate => "certificates",
            Self::Sni => "snis",
            Self::CaCertificate => "ca_certificates",
            Self::Plugin => "plugins",
            Self::Vault => "vaults",
            Self::Unread(list) => list,
        }
    }

    /// Returns the word for one entity.
    pub fn singular(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Route => "route",
            Self::Upstream => "upstream",
            Self::Target => "target",
            Self::Certificate => "certificate",
            Self::Sni => "sni",
            Self::CaCertificate => "ca_certificate",
            Self::Plugin => "plugin",
            Self::Vault => "vault",
            Self::Unread(list) => list.strip_suffix('s').unwrap_or(list),
        }
    }

    /// Returns the kind of a list.
    pub fn from_plural(list: &str) -> Option<Self> {
        let unread = || UNREAD.iter().find(|unread| **unread == list).map(|list| Self::Unread(list));
        Self::READ.into_iter().find(|kind| kind.plural() == list).or_else(unread)
    }
}
