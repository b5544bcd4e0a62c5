//! `upstreams[].health_check`: the probes that Envoys send to targets.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::values::{Duration, Statuses};

/// A health check: the probe, one of `tcp`, `http` and `grpc`, and its times.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("not" = { "anyOf": [
    { "required": ["tcp", "http"], "properties": { "tcp": { "type": "object" }, "http": { "type": "object" } } },
    { "required": ["tcp", "grpc"], "properties": { "tcp": { "type": "object" }, "grpc": { "type": "object" } } },
    { "required": ["http", "grpc"], "properties": { "http": { "type": "object" }, "grpc": { "type": "object" } } },
] }))]
pub struct HealthCheck {
    /// Probe that opens a connection, with a text to send and one to expect. Absent: `{}`, unless `http` or `grpc` is
    /// given.
    #[schemars(extend("examples" = [{ "send": "PING", "receive": "PONG" }]))]
    pub tcp: Option<TcpCheck>,
    /// Probe that sends an HTTP request.
    #[schemars(extend("examples" = [{ "path": "/healthz" }]))]
    pub http: Option<HttpCheck>,
    /// Probe that calls `grpc.health.v1.Health/Check`; the upstream needs `protocol: http2`.
    #[schemars(extend("examples" = [{ "service": "shop" }]))]
    pub grpc: Option<GrpcCheck>,
    /// Port to probe. Absent: the target's.
    #[schemars(extend("examples" = [9000], "minimum" = 1))]
    pub port: Option<u16>,
    /// Time between two probes of a target.
    #[schemars(extend("default" = HealthCheck::INTERVAL))]
    pub interval: Option<Duration>,
    /// Time after which a probe without an answer has failed.
    #[schemars(extend("default" = HealthCheck::TIMEOUT))]
    pub timeout: Option<Duration>,
    /// Number of failures in a row that make a target unhealthy.
    #[schemars(extend("default" = HealthCheck::UNHEALTHY_THRESHOLD, "examples" = [3], "minimum" = 1))]
    pub unhealthy_threshold: Option<u32>,
    /// Number of successes in a row that make a target healthy.
    #[schemars(extend("default" = HealthCheck::HEALTHY_THRESHOLD, "examples" = [2], "minimum" = 1))]
    pub healthy_threshold: Option<u32>,
    /// Time between two probes of an unhealthy target. Absent: `interval`.
    #[schemars(extend("examples" = ["2s"]))]
    pub unhealthy_interval: Option<Duration>,
    /// Time between two probes while the upstream has had no traffic. Absent: `interval`.
    #[schemars(extend("examples" = ["5s"]))]
    pub idle_interval: Option<Duration>,
    /// Percent of the interval that is added by chance, so that Envoys do not probe all at once.
    #[schemars(extend("default" = HealthCheck::JITTER, "examples" = [20], "maximum" = 100))]
    pub jitter: Option<u32>,
}

impl HealthCheck {
    /// Default of `interval`.
    pub const INTERVAL: Duration = Duration::from_secs(1);
    /// Default of `timeout`.
    pub const TIMEOUT: Duration = Duration::from_millis(500);
    /// Default of `unhealthy_threshold`.
    pub const UNHEALTHY_THRESHOLD: u32 = 2;
    /// Default of `healthy_threshold`.
    pub const HEALTHY_THRESHOLD: u32 = 3;
    /// Default of `jitter`.
    pub const JITTER: u32 = 10;
}

/// A probe that opens a connection.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TcpCheck {
    /// Text to send. Absent: none.
    #[schemars(extend("examples" = ["PING"]))]
    pub send: Option<String>,
    /// Text that the answer must contain. Absent: the connection alone is enough.
    #[schemars(extend("examples" = ["PONG"]))]
    pub receive: Option<String>,
}

/// A probe that sends an HTTP request.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpCheck {
    /// Path of the request.
    #[schemars(extend("default" = HttpCheck::PATH, "examples" = ["/ready"], "pattern" = "^/"))]
    pub path: Option<String>,
    /// Method of the request.
    #[schemars(extend("default" = HttpCheck::METHOD, "examples" = ["HEAD"], "pattern" = "^[A-Za-z-]+$"))]
    pub method: Option<String>,
    /// Host header of the request. Absent: the target's name; the upstream's for an address.
    #[schemars(extend("examples" = ["shop.example.com"]))]
    pub host: Option<String>,
    /// Further headers of the request, by name.
    #[schemars(extend("examples" = [{ "x-check": "1" }]))]
    pub headers: BTreeMap<String, String>,
    /// Statuses of a healthy target, alone or as ranges.
    #[schemars(extend("default" = HttpCheck::EXPECTED, "examples" = [[200, "204-206"]]))]
    pub expected: Vec<Statuses>,
    /// Text that the answer must contain. Absent: none.
    #[schemars(extend("examples" = ["ready"]))]
    pub body: Option<String>,
}

impl HttpCheck {
    /// Default of `path`.
    pub const PATH: &str = "/healthz";
    /// Default of `method`.
    pub const METHOD: &str = "GET";
    /// Default of `expected`.
    pub const EXPECTED: [Statuses; 1] = [Statuses(200, 299)];
}

/// A probe that calls `grpc.health.v1.Health/Check`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GrpcCheck {
    /// Service whose health is asked for; empty: the server's as a whole.
    #[schemars(extend("default" = "", "examples" = ["shop"]))]
    pub service: Option<String>,
    /// Authority of the call. Absent: the target's name; the upstream's for an address.
    #[schemars(extend("examples" = ["shop.example.com"]))]
    pub authority: Option<String>,
}

/// The difference of one target's health check from its upstream's.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TargetHealthCheck {
    /// Port to probe. Absent: the upstream's choice.
    #[schemars(extend("examples" = [9000], "minimum" = 1))]
    pub port: Option<u16>,
    /// Host header, or authority, of the probe. Absent: the upstream's choice.
    #[schemars(extend("examples" = ["a.example.com"]))]
    pub host: Option<String>,
    /// No path: Envoy probes all targets of an upstream on one path. The field exists so that the fault can say so.
    #[schemars(extend("type" = "null"))]
    pub path: Option<String>,
}
