//! `resolver`: the resolution of host names by the control plane.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::values::Duration;

/// The resolution of host names by the control plane.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Resolver {
    /// Addresses of DNS servers, asked in this order, port 53 unless another is given; empty: the system's.
    #[schemars(extend("examples" = [["127.0.0.1:53"]]))]
    pub servers: Vec<String>,
    /// Shortest time that an answer is used, whatever its TTL.
    #[schemars(extend("default" = Resolver::MIN_TTL))]
    pub min_ttl: Option<Duration>,
    /// Longest time that an answer is used, whatever its TTL. Absent: 1m, or `min_ttl` where that is longer.
    #[schemars(extend("examples" = ["5m"]))]
    pub max_ttl: Option<Duration>,
    /// Time after which a look-up that failed is repeated. The last good answer stays in use.
    #[schemars(extend("default" = Resolver::RETRY))]
    pub retry: Option<Duration>,
}

impl Resolver {
    /// Default of `min_ttl`.
    pub const MIN_TTL: Duration = Duration::from_secs(1);
    /// Shortest default of `max_ttl`.
    pub const MAX_TTL: Duration = Duration::from_secs(60);
    /// Default of `retry`.
    pub const RETRY: Duration = Duration::from_secs(1);
}
