//! `services`: the treatment of requests: their upstreams, their timeouts and their retries.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::document::cookie::Cookie;
use crate::config::document::lint::LintSetting;
use crate::config::document::target::Target;
use crate::config::values::{Duration, Size, Switch};

/// A service: the upstreams that serve requests, with timeouts and retries.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend(
    "required" = ["name"],
    "oneOf" = [
        { "required": ["upstream"], "properties": { "upstream": { "type": "string" } } },
        { "required": ["upstreams"], "properties": { "upstreams": { "type": "array", "minItems": 1 } } },
    ],
))]
pub struct Service {
    /// Name, unique among services over all files and REST.
    #[schemars(extend(
        "examples" = ["checkout"], "minLength" = 1, "pattern" = "^[A-Za-z0-9_][A-Za-z0-9_.-]*$"
    ))]
    pub name: Option<String>,
    /// Name of the one upstream that serves.
    #[schemars(extend("examples" = ["checkout"]))]
    pub upstream: Option<String>,
    /// Several upstreams, in place of `upstream`: they share the requests by weight, or stand in for each other.
    #[schemars(extend("default" = [], "examples" = [[
        { "name": "blue", "weight": 90 }, { "name": "green", "weight": 10 }, { "name": "dr", "failover": true }
    ]]))]
    pub upstreams: Vec<Member>,
    /// Time for the whole request, all tries; `0s`: no limit.
    #[schemars(extend("default" = Service::TIMEOUT))]
    pub timeout: Option<Duration>,
    /// Time for one try of an idempotent request; `0s`: no limit. Absent: `timeout` divided by the number of tries
    /// that it takes to reach the last tier, at least 2.
    #[schemars(extend("examples" = ["250ms"]))]
    pub try_timeout: Option<Duration>,
    /// Longest silence in one try, of any method: time without a byte from the target or to it. Then the try ends, and is
    /// repeated or answered with 504. `0s`: no limit. An answer that goes on for longer than it passes, and a WebSocket
    /// that is silent for longer ends.
    #[schemars(extend("default" = Service::TRY_IDLE_TIMEOUT, "examples" = ["10s"]))]
    pub try_idle_timeout: Option<Duration>,
    /// Retries, or `off`.
    #[schemars(extend("default" = {}, "examples" = ["off", { "attempts": 3 }]))]
    pub retries: Option<Switch<Retries>>,
    /// Host header that targets see: `keep` for the client's, `target` for the target's name, `target_port` for its name
    /// and port (the port is left out if it is 80 or 443), or a value.
    #[schemars(extend("default" = Service::HOST_HEADER, "examples" = ["target", "target_port"]))]
    pub host_header: Option<String>,
    /// Properties that are equal for requests which should go to the same target, with a load balancer that hashes;
    /// the first that a request has counts.
    #[schemars(extend("default" = [], "examples" = [[{ "header": "x-user" }, "path"]]))]
    pub hash_by: Vec<HashBy>,
    /// Permission to upgrade connections to WebSocket.
    #[schemars(extend("default" = Service::WEBSOCKET))]
    pub websocket: Option<bool>,
    /// Levels of rules for this service, by code, each with a reason.
    #[schemars(extend(
        "default" = {}, "examples" = [{ "US012": { "level": "off", "reason": "it is a cache" } }]
    ))]
    pub lint: Option<BTreeMap<String, LintSetting>>,
    /// Words to find the service by.
    #[schemars(extend("examples" = [["shop"]]))]
    pub tags: Vec<String>,
}

impl Service {
    /// Default of `timeout`.
    pub const TIMEOUT: Duration = Duration::from_secs(15);
    /// Default of `try_idle_timeout`: no limit.
    pub const TRY_IDLE_TIMEOUT: Duration = Duration::ZERO;
    /// Default of `host_header`: the client's.
    pub const HOST_HEADER: &str = "keep";
    /// Default of `websocket`.
    pub const WEBSOCKET: bool = true;
}

/// An upstream of a service that has several. A dead member's share goes to the others in proportion.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend(
    "required" = ["name"],
    "not" = {
        "required": ["priority", "failover"],
        "properties": { "priority": { "type": "integer" }, "failover": { "const": true } },
    },
))]
pub struct Member {
    /// Name of the upstream.
    #[schemars(extend("examples" = ["blue"]))]
    pub name: Option<String>,
    /// Share of the requests among the members of its tier; 0: none.
    #[schemars(extend("default" = Target::WEIGHT, "examples" = [90], "minimum" = 0, "maximum" = 65535))]
    pub weight: Option<u32>,
    /// Tier: a member serves when no upstream of the tiers before it can.
    #[schemars(extend("default" = Target::PRIORITY, "examples" = [1], "minimum" = 0, "maximum" = 127))]
    pub priority: Option<u32>,
    /// Short for `priority: 1`.
    #[schemars(extend("default" = Target::FAILOVER))]
    pub failover: Option<bool>,
}

/// Property of a request that is hashed.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HashBy {
    /// Value of a header, by its name.
    Header(String),
    /// Value of a cookie.
    Cookie(Cookie),
    /// Value of a query parameter, by its name.
    Query(String),
    /// Path without its query.
    Path,
    /// Address of the client's connection.
    SourceIp,
}

/// Retries of requests that failed.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retries {
    /// Number of tries after the first. Absent: enough to reach every target, 3 to 10; for connections of a `tcp`
    /// listener 10.
    #[schemars(extend("examples" = [3]))]
    pub attempts: Option<u32>,
    /// Conditions on which an idempotent request is tried again, in Envoy's words.
    #[schemars(extend("default" = Retries::RETRY_ON, "examples" = [["connect_failure"]]))]
    pub retry_on: Option<Vec<String>>,
    /// Further statuses on which an idempotent request is tried again.
    #[schemars(extend(
        "default" = Retries::STATUSES, "examples" = [[409]],
        "items" = { "type": "integer", "minimum": 100, "maximum": 599 }
    ))]
    pub statuses: Option<Vec<u32>>,
    /// Retries of the other methods, whose requests may have had an effect.
    #[schemars(extend("default" = MethodsOnce::default()))]
    pub methods_once: Option<MethodsOnce>,
    /// Wait before a retry.
    #[schemars(extend("default" = {}, "examples" = [{ "base": "10ms", "max": "1s" }]))]
    pub back_off: Option<BackOff>,
    /// Largest request body that is kept for a retry.
    #[schemars(extend("default" = Retries::BODY))]
    pub body: Option<Size>,
}

impl Retries {
    /// Default of `retry_on`.
    pub const RETRY_ON: [&str; 4] = ["5xx", "reset", "connect_failure", "refused_stream"];
    /// Default of `statuses`.
    pub const STATUSES: [u32; 0] = [];
    /// Default of `body`.
    pub const BODY: Size = Size(8 << 20);
}

/// Retries of requests whose method is not idempotent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MethodsOnce {
    /// Only where the request surely reached no server.
    #[default]
    Safe,
    /// Never.
    Never,
    /// On the conditions for idempotent ones.
    Always,
}

/// Wait before a retry: a random time below a bound that doubles with each retry.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BackOff {
    /// Bound before the first retry.
    #[schemars(extend("default" = BackOff::BASE))]
    pub base: Option<Duration>,
    /// Largest bound.
    #[schemars(extend("default" = BackOff::MAX))]
    pub max: Option<Duration>,
}

impl BackOff {
    /// Default of `base`.
    pub const BASE: Duration = Duration::from_millis(5);
    /// Default of `max`.
    pub const MAX: Duration = Duration::from_millis(100);
}
