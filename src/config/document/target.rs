//! `upstreams[].targets[]`: the members of an upstream.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::document::health::TargetHealthCheck;
use crate::config::document::tls::Tls;
use crate::config::values::Switch;

/// A target: one address of an upstream.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend(
    "required" = ["target"],
    "not" = {
        "required": ["priority", "failover"],
        "properties": { "priority": { "type": "integer" }, "failover": { "const": true } },
    },
))]
pub struct Target {
    /// Address as `host:port`, where the host is a name, an IPv4 address or an IPv6 address in brackets; or `srv:`
    /// and the name of a DNS service.
    #[schemars(extend(
        "examples" = ["10.0.0.1:8080"],
        "pattern" = "^(srv:[^:/]+|\\[[0-9A-Fa-f:.]+\\]:[0-9]{1,5}|[^:/\\[\\]@ ]+:[0-9]{1,5})$"
    ))]
    pub target: Option<String>,
    /// Share of the requests among the targets of its tier; 0: listed, without traffic.
    #[schemars(extend("default" = Target::WEIGHT, "examples" = [50], "minimum" = 0, "maximum" = 65535))]
    pub weight: Option<u32>,
    /// Tier: a target serves when none of the tiers before it can.
    #[schemars(extend("default" = Target::PRIORITY, "examples" = [1], "minimum" = 0, "maximum" = 127))]
    pub priority: Option<u32>,
    /// Short for `priority: 1`.
    #[schemars(extend("default" = Target::FAILOVER))]
    pub failover: Option<bool>,
    /// Presence in what Envoys get; `false`: the target is kept here only.
    #[schemars(extend("default" = Target::ENABLED))]
    pub enabled: Option<bool>,
    /// Region in which the target runs.
    #[schemars(extend("examples" = ["eu-1"]))]
    pub region: Option<String>,
    /// Zone in which the target runs.
    #[schemars(extend("examples" = ["eu-1a"]))]
    pub zone: Option<String>,
    /// Part of the zone in which the target runs.
    #[schemars(extend("examples" = ["rack-7"]))]
    pub sub_zone: Option<String>,
    // Boxed: targets are many, and few have these.
    /// Difference from the upstream's health check, or `off`. Absent: the upstream's.
    #[schemars(extend("examples" = [{ "port": 9000 }]))]
    pub health_check: Option<Box<Switch<TargetHealthCheck>>>,
    /// Difference from the upstream's TLS, or `off`. Absent: the upstream's; so is each field that is absent in it.
    #[schemars(extend("examples" = [{ "sni": "a.example.com" }]))]
    pub tls: Option<Box<Switch<Tls>>>,
    /// Words to find the target by.
    #[schemars(extend("examples" = [["shop"]]))]
    pub tags: Vec<String>,
}

impl Target {
    /// Default of `weight`, also of a member of a service.
    pub const WEIGHT: u32 = 100;
    /// Default of `priority`, also of a member of a service.
    pub const PRIORITY: u32 = 0;
    /// Default of `failover`, also of a member of a service.
    pub const FAILOVER: bool = false;
    /// Default of `enabled`.
    pub const ENABLED: bool = true;
}
