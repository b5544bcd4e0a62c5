//! A pool of targets and its policy.
//!
//! The defaults are measured: together with the retries of a service they lose no idempotent request when a
//! target dies, freezes, refuses or answers 503, and they need to know nothing about the service.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::document::{self, FailoverMode, LoadBalancer, UpstreamProtocol, WhenAllDown};
use crate::config::values::Switch;
use crate::model::name::Name;
use crate::model::place::{Faults, Place, code};
use crate::model::target::Target;

/// A pool of targets and its policy; one Envoy cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    /// Unique among upstreams; also the name of its Envoy cluster.
    pub name: Name,
    /// What is spoken to the targets.
    pub protocol: UpstreamProtocol,
    /// How long a connection may take to come up. While it does, no try timeout runs; hence never longer
    /// than the shortest one, unless the operator says so.
    pub connect_timeout: Duration,
    /// How long an unused connection is kept; zero for ever.
    pub idle_timeout: Duration,
    /// Who is next within a tier.
    pub load_balancer: LoadBalancer,
    /// Over how long a returning target gets its full share; zero for at once.
    pub slow_start: Duration,
    /// What one Envoy may have under way.
    pub limits: Limits,
    /// Active detection, if it is on.
    pub health_check: Option<HealthCheck>,
    /// Passive detection, if it is on.
    pub outlier_detection: Option<OutlierDetection>,
    /// When the next tier serves.
    pub failover: Failover,
    /// Those that get traffic, by tier, then as declared.
    pub targets: Vec<Target>,
}

impl Upstream {
    /// How many targets each tier has, from the first.
    pub fn tiers(&self) -> Vec<usize> {
        let count = self.targets.iter().map(|target| target.tier as usize + 1).max().unwrap_or(0);
        let mut tiers = vec![0; count];
        for target in &self.targets {
            tiers[target.tier as usize] += 1;
        }
        tiers
    }
}

/// What one Envoy may have under way to an upstream, all targets together.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct Limits {
    pub connections: u32,
    pub pending_requests: u32,
    pub requests: u32,
    pub retries: u32,
    /// Zero for any number.
    pub requests_per_connection: u32,
    /// In place of `retries`.
    pub retry_budget: Option<RetryBudget>,
}

/// Retries as a share of the requests under way.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryBudget {
    /// From 0 to 100.
    pub percent: f64,
    /// So many are always allowed.
    pub at_least: u32,
}

/// Active detection.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct HealthCheck {
    pub probe: Probe,
    /// Of the probe; none for the target's own.
    pub port: Option<u16>,
    pub interval: Duration,
    pub timeout: Duration,
    pub unhealthy_threshold: u32,
    pub healthy_threshold: u32,
    pub unhealthy_interval: Duration,
    pub idle_interval: Duration,
    /// Percent of the interval.
    pub jitter: u32,
}

/// What is asked of a target, and what is a good answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Probe {
    /// A connection comes up, and where bytes are given the right ones come back.
    Tcp {
        /// Sent after connecting.
        send: Option<String>,
        /// Must occur in the answer.
        receive: Option<String>,
    },
    /// A request is answered with an expected status.
    Http {
        /// Begins with `/`.
        path: String,
        /// In capitals.
        method: String,
        /// None for the target's host.
        host: Option<String>,
        /// Added to the request.
        headers: BTreeMap<String, String>,
        /// Inclusive ranges, at least one.
        expected: Vec<(u16, u16)>,
    },
    /// `grpc.health.v1.Health/Check` answers `SERVING`.
    Grpc {
        /// Empty for the server as a whole.
        service: String,
        /// None for the target's host.
        authority: Option<String>,
    },
}

/// Passive detection; the words are Envoy's.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct OutlierDetection {
    pub consecutive_5xx: u32,
    pub consecutive_gateway_failure: u32,
    pub split_external_local_origin_errors: bool,
    pub consecutive_local_origin_failure: u32,
    pub interval: Duration,
    pub base_ejection_time: Duration,
    pub max_ejection_time: Duration,
    pub max_ejection_percent: u32,
    pub health_check_returns_ejected: bool,
}

/// When the next tier serves.
#[derive(Debug, Clone, PartialEq)]
pub struct Failover {
    /// Standby or spill.
    pub mode: FailoverMode,
    /// Of spill, in percent: 100 or more.
    pub factor: u32,
    /// When no target is usable.
    pub when_all_down: WhenAllDown,
}

const CONNECT_TIMEOUT: Duration = Duration::from_millis(250);
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// Understands an upstream whose name and targets are already known. `shortest_try` is the shortest try
/// timeout of the services and routes that use it.
pub(crate) fn resolve(
    name: Name,
    targets: Vec<Target>,
    shortest_try: Option<Duration>,
    place: &Place<'_>,
    upstream: &document::Upstream,
    faults: &mut Faults,
) -> Upstream {
    let connect_timeout = match upstream.connect_timeout {
        Some(timeout) => positive(timeout.0, &place.key("connect_timeout"), faults),
        None => shortest_try.map_or(CONNECT_TIMEOUT, |shortest| shortest.min(CONNECT_TIMEOUT)),
    };
    Upstream {
        name,
        protocol: upstream.protocol.unwrap_or_default(),
        connect_timeout,
        idle_timeout: upstream.idle_timeout.map_or(IDLE_TIMEOUT, |timeout| timeout.0),
        load_balancer: upstream.load_balancer.unwrap_or_default(),
        slow_start: slow_start(place, upstream, faults),
        limits: limits(&place.key("limits"), upstream.limits.clone().unwrap_or_default(), faults),
        health_check: health_check(&place.key("health_check"), upstream.health_check.as_ref(), faults),
        outlier_detection: outlier_detection(
            &place.key("outlier_detection"),
            upstream.outlier_detection.as_ref(),
            faults,
        ),
        failover: failover(&place.key("failover"), upstream.failover.clone().unwrap_or_default(), faults),
        targets,
    }
}

fn positive(value: Duration, place: &Place<'_>, faults: &mut Faults) -> Duration {
    if value < Duration::from_millis(1) {
        faults.wrong(place, "this time is too short".to_owned(), "1ms or more".to_owned());
    }
    value
}

fn at_least_one(value: u32, place: &Place<'_>, faults: &mut Faults) -> u32 {
    if value == 0 {
        faults.wrong(place, "0 is too small".to_owned(), "1 or more".to_owned());
    }
    value
}

fn percent(value: u32, place: &Place<'_>, faults: &mut Faults) -> u32 {
    if value > 100 {
        faults.wrong(place, format!("{value} is no percentage"), "0 to 100".to_owned());
    }
    value
}

fn slow_start(place: &Place<'_>, upstream: &document::Upstream, faults: &mut Faults) -> Duration {
    let Some(slow_start) = upstream.slow_start.filter(|window| !window.0.is_zero()) else {
        return Duration::ZERO;
    };
    if upstream.load_balancer == Some(LoadBalancer::Random) {
        let help = "Envoy has it for `round_robin` and `least_request`".to_owned();
        let message = "the load balancer `random` has no slow start".to_owned();
        faults.error(&place.key("slow_start"), code::CONFLICT, message, help);
    }
    slow_start.0
}

fn limits(place: &Place<'_>, limits: document::Limits, faults: &mut Faults) -> Limits {
    let retry_budget = limits.retry_budget.map(|budget| {
        let percent = budget.percent.unwrap_or(20.0);
        if !(0.0..=100.0).contains(&percent) {
            let place = place.key("retry_budget").key("percent");
            faults.wrong(&place, format!("{percent} is no percentage"), "0 to 100".to_owned());
        }
        RetryBudget { percent, at_least: budget.at_least.unwrap_or(3) }
    });
    let many = |limit: Option<u32>| limit.unwrap_or(100_000);
    Limits {
        connections: many(limits.connections),
        pending_requests: many(limits.pending_requests),
        requests: many(limits.requests),
        retries: many(limits.retries),
        requests_per_connection: limits.requests_per_connection.unwrap_or(0),
        retry_budget,
    }
}

fn health_check(
    place: &Place<'_>,
    declared: Option<&Switch<document::HealthCheck>>,
    faults: &mut Faults,
) -> Option<HealthCheck> {
    let check = match declared {
        Some(Switch::Off) => return None,
        Some(Switch::On(check)) => check.clone(),
        None => document::HealthCheck::default(),
    };
    let time =
        |value: Option<crate::config::values::Duration>, default, key: &str, faults: &mut Faults| match value
        {
            Some(value) => positive(value.0, &place.key(key), faults),
            None => default,
        };
    let interval = time(check.interval, Duration::from_secs(1), "interval", faults);
    if check.port == Some(0) {
        faults.wrong(
            &place.key("port"),
            "0 is no port".to_owned(),
            "name the port, from 1 to 65535".to_owned(),
        );
    }
    Some(HealthCheck {
        probe: probe(place, &check, faults),
        port: check.port,
        interval,
        timeout: time(check.timeout, Duration::from_millis(500), "timeout", faults),
        unhealthy_threshold: at_least_one(
            check.unhealthy_threshold.unwrap_or(2),
            &place.key("unhealthy_threshold"),
            faults,
        ),
        healthy_threshold: at_least_one(
            check.healthy_threshold.unwrap_or(3),
            &place.key("healthy_threshold"),
            faults,
        ),
        unhealthy_interval: time(check.unhealthy_interval, interval, "unhealthy_interval", faults),
        idle_interval: time(check.idle_interval, interval, "idle_interval", faults),
        jitter: percent(check.jitter.unwrap_or(10), &place.key("jitter"), faults),
    })
}

fn probe(place: &Place<'_>, check: &document::HealthCheck, faults: &mut Faults) -> Probe {
    match (&check.tcp, &check.http, &check.grpc) {
        (tcp, None, None) => {
            let tcp = tcp.clone().unwrap_or_default();
            Probe::Tcp { send: tcp.send, receive: tcp.receive }
        }
        (None, Some(http), None) => http_probe(&place.key("http"), http.clone(), faults),
        (None, None, Some(grpc)) => Probe::Grpc {
            service: grpc.service.clone().unwrap_or_default(),
            authority: grpc.authority.clone(),
        },
        _ => {
            let message = "a health check is one of `tcp`, `http` and `grpc`".to_owned();
            faults.error(place, code::CONFLICT, message, "leave one of them".to_owned());
            Probe::Tcp { send: None, receive: None }
        }
    }
}

fn http_probe(place: &Place<'_>, http: document::HttpCheck, faults: &mut Faults) -> Probe {
    const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];
    let path = http.path.unwrap_or_else(|| "/healthz".to_owned());
    if !path.starts_with('/') {
        faults.wrong(
            &place.key("path"),
            format!("the path `{path}` does not begin with /"),
            format!("/{path}"),
        );
    }
    let method = http.method.unwrap_or_else(|| "GET".to_owned());
    if !METHODS.contains(&method.as_str()) {
        let help = format!("one of {}", METHODS.join(", "));
        faults.wrong(&place.key("method"), format!("`{method}` is no method for a health check"), help);
    }
    let mut expected: Vec<(u16, u16)> = Vec::new();
    for (index, text) in http.expected.iter().enumerate() {
        match statuses(text) {
            Some(range) => expected.push(range),
            None => {
                let help = "write a status or a range, such as \"200\" or \"200-299\"".to_owned();
                let place = place.key("expected").index(index);
                faults.wrong(&place, format!("`{text}` is no range of statuses"), help);
            }
        }
    }
    if expected.is_empty() {
        expected.push((200, 299));
    }
    Probe::Http { path, method, host: http.host, headers: http.headers, expected }
}

fn statuses(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (100 <= range.0 && range.0 <= range.1 && range.1 < 600).then_some(range)
}

fn outlier_detection(
    place: &Place<'_>,
    declared: Option<&Switch<document::OutlierDetection>>,
    faults: &mut Faults,
) -> Option<OutlierDetection> {
    let detection = match declared {
        Some(Switch::Off) => return None,
        Some(Switch::On(detection)) => detection.clone(),
        None => document::OutlierDetection::default(),
    };
    let time =
        |value: Option<crate::config::values::Duration>, default, key: &str, faults: &mut Faults| match value
        {
            Some(value) => positive(value.0, &place.key(key), faults),
            None => Duration::from_secs(default),
        };
    let base_ejection_time = time(detection.base_ejection_time, 10, "base_ejection_time", faults);
    let max_ejection_time = match detection.max_ejection_time {
        Some(longest) if longest.0 < base_ejection_time => {
            let message = "`max_ejection_time` is shorter than `base_ejection_time`".to_owned();
            faults.error(&place.key("max_ejection_time"), code::CONFLICT, message, None);
            longest.0
        }
        Some(longest) => longest.0,
        None => Duration::from_secs(30).max(base_ejection_time),
    };
    Some(OutlierDetection {
        consecutive_5xx: detection.consecutive_5xx.unwrap_or(5),
        consecutive_gateway_failure: detection.consecutive_gateway_failure.unwrap_or(5),
        split_external_local_origin_errors: detection.split_external_local_origin_errors.unwrap_or(false),
        consecutive_local_origin_failure: detection.consecutive_local_origin_failure.unwrap_or(5),
        interval: time(detection.interval, 1, "interval", faults),
        base_ejection_time,
        max_ejection_time,
        max_ejection_percent: percent(
            detection.max_ejection_percent.unwrap_or(100),
            &place.key("max_ejection_percent"),
            faults,
        ),
        health_check_returns_ejected: detection.health_check_returns_ejected.unwrap_or(false),
    })
}

fn failover(place: &Place<'_>, failover: document::Failover, faults: &mut Faults) -> Failover {
    let factor = failover.factor.unwrap_or(140);
    if factor < 100 {
        faults.wrong(
            &place.key("factor"),
            format!("the factor {factor} is too small"),
            "100 or more".to_owned(),
        );
    }
    Failover {
        mode: failover.mode.unwrap_or_default(),
        factor,
        when_all_down: failover.when_all_down.unwrap_or_default(),
    }
}
