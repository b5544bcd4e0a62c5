//! `listeners`: the addresses on which Envoys accept connections.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::material::Material;
use crate::config::values::{Duration, Switch};

/// A listener: an address on which Envoys accept connections.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["name", "address"]))]
pub struct Listener {
    /// Name, unique among listeners over all files and REST.
    #[schemars(extend(
        "examples" = ["web"], "minLength" = 1, "pattern" = "^[A-Za-z0-9_][A-Za-z0-9_.-]*$"
    ))]
    pub name: Option<String>,
    /// IP address and port to listen on; `0.0.0.0` and `[::]` are every address of the machine.
    #[schemars(extend(
        "examples" = ["[::]:8443"], "pattern" = "^(\\[[0-9A-Fa-f:.]+\\]|[0-9.]+):[0-9]{1,5}$"
    ))]
    pub address: Option<String>,
    /// Protocol that clients speak.
    #[schemars(extend("default" = ListenerProtocol::default()))]
    pub protocol: Option<ListenerProtocol>,
    /// Names of the certificates to show, with `https` and `failover_gateway` only. The client's SNI chooses; the
    /// first is the fallback.
    #[schemars(extend("examples" = [["shop"]]))]
    pub certificates: Vec<String>,
    /// CA that must have signed the certificate which each client then has to present. Absent: clients present none.
    pub client_ca: Option<Material>,
    /// Name of the service to which connections go, with `tcp` only.
    #[schemars(extend("examples" = ["database"]))]
    pub service: Option<String>,
    /// Names of the fleets that open the listener; empty: all.
    #[schemars(extend("examples" = [["edge"]]))]
    pub fleets: Vec<String>,
    /// Longest silence on a connection before it is closed; `0s`: no limit.
    #[schemars(extend("default" = Listener::IDLE_TIMEOUT))]
    pub idle_timeout: Option<Duration>,
    /// Log with a line for each request, or for each connection with `tcp`.
    #[schemars(extend("default" = "off", "examples" = [{ "path": "/dev/stdout", "format": "json" }]))]
    pub access_log: Option<Switch<AccessLog>>,
    /// Words to find the listener by.
    #[schemars(extend("examples" = [["shop"]]))]
    pub tags: Vec<String>,
}

impl Listener {
    /// Default of `idle_timeout`.
    pub const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
}

/// Protocol of the clients of a listener.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ListenerProtocol {
    /// Plain HTTP/1 and HTTP/2, told apart by the first bytes of the client.
    #[default]
    Http,
    /// HTTP/1 and HTTP/2 inside TLS, chosen by ALPN.
    Https,
    /// Connections with any content.
    Tcp,
    /// TLS that ends at the target: connections go where their SNI says.
    TlsPassthrough,
    /// Connections from other sites, for the upstream whose name is their SNI.
    FailoverGateway,
}

/// The access log of a listener.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["path"]))]
pub struct AccessLog {
    /// File on the machine of the Envoy.
    #[schemars(extend("examples" = ["/dev/stdout"]))]
    pub path: Option<String>,
    /// Format of a line.
    #[schemars(extend("default" = LogFormat::default()))]
    pub format: Option<LogFormat>,
}

/// Format of a line of an access log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// Envoy's own text format.
    Text,
}
