//! `upstreams`: pools of targets and their policy.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::document::cookie::Cookie;
use crate::config::document::drill::Drill;
use crate::config::document::failback::{Failback, FailbackMode};
use crate::config::document::health::HealthCheck;
use crate::config::document::lint::LintSetting;
use crate::config::document::outlier::OutlierDetection;
use crate::config::document::target::Target;
use crate::config::document::tls::Tls;
use crate::config::values::{Duration, Size, Switch, Toggle};

/// An upstream: a pool of targets and its policy. It is one Envoy cluster.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["name", "targets"]))]
pub struct Upstream {
    /// Name, unique among upstreams over all files and REST; also the name of the Envoy cluster.
    #[schemars(extend(
        "examples" = ["checkout"], "minLength" = 1, "pattern" = "^[A-Za-z0-9_][A-Za-z0-9_.-]*$"
    ))]
    pub name: Option<String>,
    /// Protocol that targets speak.
    #[schemars(extend("default" = UpstreamProtocol::default()))]
    pub protocol: Option<UpstreamProtocol>,
    /// TLS to the targets; `{}` is TLS with its defaults, `off` is plain text.
    #[schemars(extend("default" = "off", "examples" = [{ "sni": "shop.example.com" }]))]
    pub tls: Option<Switch<Tls>>,
    /// Time for a connection to come up. Absent: 250ms, or the shortest `try_timeout` among the services and routes
    /// that use the upstream where that is shorter.
    #[schemars(extend("examples" = ["100ms"]))]
    pub connect_timeout: Option<Duration>,
    /// Longest silence on a connection before it is closed; `0s`: no limit.
    #[schemars(extend("default" = Upstream::IDLE_TIMEOUT))]
    pub idle_timeout: Option<Duration>,
    /// Choice of the target, within a tier, that gets a request.
    #[schemars(extend("default" = LoadBalancer::default()))]
    pub load_balancer: Option<LoadBalancer>,
    /// Property that leads a client to the target which served it before. Absent: none.
    #[schemars(extend("examples" = [{ "cookie": { "name": "route", "ttl": "0s", "path": "/" } }]))]
    pub sticky: Option<Sticky>,
    /// Time over which a target that became healthy or was added gets its full share; `0s`: at once.
    #[schemars(extend("default" = Upstream::SLOW_START, "examples" = ["30s"]))]
    pub slow_start: Option<Duration>,
    /// Limits on what may be open or under way at once, for each Envoy.
    #[schemars(extend("default" = {}, "examples" = [{ "connections": 1000 }]))]
    pub limits: Option<Limits>,
    /// Health check of the targets, or `off`; one of `tcp`, `http` and `grpc`.
    #[schemars(extend("default" = {}, "examples" = [{ "http": { "path": "/healthz" } }]))]
    pub health_check: Option<Switch<HealthCheck>>,
    /// Ejection of targets for their answers, by Envoy's names, or `off`.
    #[schemars(extend("default" = {}, "examples" = [{ "consecutive_5xx": 3 }]))]
    pub outlier_detection: Option<Switch<OutlierDetection>>,
    /// Conditions on which another tier serves.
    #[schemars(extend("default" = {}, "examples" = [{ "when_all_down": "fail" }]))]
    pub failover: Option<Failover>,
    /// Return of the traffic to primaries that recovered: `auto`, `manual`, or the rules of the return.
    #[schemars(extend(
        "default" = FailbackMode::default(), "examples" = [{ "steps": [10, 50, 100], "every": "1m" }]
    ))]
    pub failback: Option<Failback>,
    /// Failover that is rehearsed on a schedule. Absent: none.
    #[schemars(extend("examples" = [{ "schedule": "0 3 * * 1", "down": ["priority=0"] }]))]
    pub drill: Option<Drill>,
    /// Resolver of the targets' host names.
    #[schemars(extend("default" = Resolve::default()))]
    pub resolve: Option<Resolve>,
    /// Holding of answers until they are whole, so that one that is cut can be tried again; `true` for its defaults.
    #[schemars(extend("default" = "off", "examples" = [{ "max": "256KiB", "chunked": "pass" }]))]
    pub whole_response: Option<Toggle<WholeResponse>>,
    /// Targets, at least one. Over REST the list may be absent or empty: requests get 503 until the first is added.
    #[schemars(extend(
        "examples" = [[
            { "target": "10.0.0.1:8080" }, { "target": "standby.example.com:8080", "failover": true }
        ]],
        "type" = "array"
    ))]
    pub targets: Option<Vec<Target>>,
    /// Levels of rules for this upstream, by code, each with a reason.
    #[schemars(extend(
        "default" = {}, "examples" = [{ "US012": { "level": "off", "reason": "it is a cache" } }]
    ))]
    pub lint: Option<BTreeMap<String, LintSetting>>,
    /// Words to find the upstream by.
    #[schemars(extend("examples" = [["shop"]]))]
    pub tags: Vec<String>,
}

impl Upstream {
    /// Longest default of `connect_timeout`.
    pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(250);
    /// Default of `idle_timeout`.
    pub const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
    /// Default of `slow_start`: none.
    pub const SLOW_START: Duration = Duration::ZERO;
}

/// Protocol of the targets of an upstream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 with prior knowledge; in TLS agreed on by ALPN.
    Http2,
    /// HTTP/2 where a target agrees to it by ALPN, else HTTP/1.1. Only in TLS.
    Auto,
    /// Connections with any content.
    Tcp,
}

/// Choice of a target within a tier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoadBalancer {
    /// Targets in turn, by weight.
    #[default]
    RoundRobin,
    /// The one of two with fewer requests under way.
    LeastRequest,
    /// Any target with equal chance; weights are ignored.
    Random,
    /// Any target with a chance by its weight.
    WeightedRandom,
    /// Hash of the request, on a ring of targets.
    RingHash,
    /// Hash of the request, in a table of targets; faster than a ring, and fewer keys move.
    Maglev,
}

/// Resolver of the host names of targets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Resolve {
    /// The control plane, which sends the addresses to Envoys.
    #[default]
    ControlPlane,
    /// Each Envoy for itself.
    Envoy,
}

/// Holding of answers until they are whole.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WholeResponse {
    /// Largest answer that is held, at most 1MiB; a longer one is passed on as it comes.
    #[schemars(extend("default" = WholeResponse::MAX))]
    pub max: Option<Size>,
    /// Treatment of answers that do not state their length.
    #[schemars(extend("default" = Chunked::default()))]
    pub chunked: Option<Chunked>,
}

impl WholeResponse {
    /// Default of `max`.
    pub const MAX: Size = Size(256 << 10);
}

/// Treatment of answers that do not state their length.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Chunked {
    /// Passed on as they come: each may be a stream.
    #[default]
    Pass,
    /// Held like the others, whatever their length.
    Hold,
}

/// Property that leads a client to the target which served it before.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sticky {
    /// A cookie that Envoy sets.
    Cookie(Cookie),
    /// A header of answers that the client sends back, by its name.
    Header(String),
}

/// Limits of one Envoy towards an upstream, all targets together.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Largest number of connections.
    #[schemars(extend("default" = Limits::MOST))]
    pub connections: Option<u32>,
    /// Largest number of requests that wait for a connection.
    #[schemars(extend("default" = Limits::MOST))]
    pub pending_requests: Option<u32>,
    /// Largest number of requests under way.
    #[schemars(extend("default" = Limits::MOST))]
    pub requests: Option<u32>,
    /// Largest number of retries under way.
    #[schemars(extend("default" = Limits::MOST))]
    pub retries: Option<u32>,
    /// Number of requests after which a connection ends; 0: no limit.
    #[schemars(extend("default" = Limits::REQUESTS_PER_CONNECTION))]
    pub requests_per_connection: Option<u32>,
    /// Share of the requests under way that may be retries, in place of `retries`. Absent: `retries` counts.
    #[schemars(extend("examples" = [{ "percent": 20, "at_least": 3 }]))]
    pub retry_budget: Option<RetryBudget>,
}

impl Limits {
    /// Default of the limits on what is under way: more than an Envoy meets.
    pub const MOST: u32 = 100_000;
    /// Default of `requests_per_connection`: no limit.
    pub const REQUESTS_PER_CONNECTION: u32 = 0;
}

/// Share of the requests under way that may be retries.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryBudget {
    /// Percent of the requests under way.
    #[schemars(extend("default" = RetryBudget::PERCENT, "examples" = [10], "minimum" = 0, "maximum" = 100))]
    pub percent: Option<f64>,
    /// Number of retries that are always allowed.
    #[schemars(extend("default" = RetryBudget::AT_LEAST))]
    pub at_least: Option<u32>,
}

impl RetryBudget {
    /// Default of `percent`.
    pub const PERCENT: f64 = 20.0;
    /// Default of `at_least`.
    pub const AT_LEAST: u32 = 3;
}

/// Conditions on which another tier serves.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Failover {
    /// Moment at which the next tier serves.
    #[schemars(extend("default" = FailoverMode::default()))]
    pub mode: Option<FailoverMode>,
    /// Percent, with `spill` only: the load that the healthy targets of a tier are trusted with, relative to their
    /// own share (Envoy's overprovisioning factor).
    #[schemars(extend("default" = Failover::FACTOR, "examples" = [200], "minimum" = 100))]
    pub factor: Option<u32>,
    /// Percent of the targets that must be usable; with fewer every request is answered with 503 at once, to spare the
    /// rest. 0: none. Targets that are drained or ejected count as unusable. Needs a single tier and a balancer that does
    /// not hash.
    #[schemars(extend("default" = Failover::MINIMUM_HEALTHY, "examples" = [50], "minimum" = 0, "maximum" = 100))]
    pub minimum_healthy: Option<u32>,
    /// Behaviour when no target is usable; with `minimum_healthy` it is 503 in any case.
    #[schemars(extend("default" = WhenAllDown::default()))]
    pub when_all_down: Option<WhenAllDown>,
    /// Tiers by distance to the Envoy that asks, within each declared tier.
    #[schemars(extend("default" = Failover::LOCALITY))]
    pub locality: Option<bool>,
    /// Time after which a standby should serve; it changes nothing but lint. Absent: none.
    #[schemars(extend("examples" = ["2s"]))]
    pub objective: Option<Duration>,
}

impl Failover {
    /// Default of `factor`.
    pub const FACTOR: u32 = 140;
    /// Default of `minimum_healthy`: none.
    pub const MINIMUM_HEALTHY: u32 = 0;
    /// Default of `locality`.
    pub const LOCALITY: bool = false;
}

/// Moment at which the next tier serves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailoverMode {
    /// Only when no target of the tiers before it is usable.
    #[default]
    Standby,
    /// Gradually: it takes what a weakened tier is not trusted with.
    Spill,
}

/// Behaviour when no target is usable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenAllDown {
    /// Any target is better than none.
    #[default]
    TryAll,
    /// 503 at once.
    Fail,
}
