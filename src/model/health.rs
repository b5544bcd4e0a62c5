//! Detection of failed targets: active health checks, and outlier detection on the responses to clients.

use std::collections::BTreeMap;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue};

use crate::config::code;
use crate::config::document;
use crate::config::document::outlier::OutlierDetection as DeclaredDetection;
use crate::config::document::upstream::UpstreamProtocol;
use crate::config::values::{self, Switch};
use crate::model::place::{FaultCollector, FaultPlace};

/// Active health check of the targets of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct HealthCheck {
    pub probe: Probe,
    /// Port that is checked; `None` for the target's own.
    pub port: Option<u16>,
    pub interval: Duration,
    pub timeout: Duration,
    pub unhealthy_threshold: u32,
    pub healthy_threshold: u32,
    pub unhealthy_interval: Duration,
    pub idle_interval: Duration,
    /// Jitter in percent of the interval.
    pub jitter: u32,
}

/// Request of a health check, and the response that it expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// Passes if a connection opens and, if `receive` is set, the expected bytes come back.
    Tcp {
        /// Bytes sent after connecting.
        send: Option<String>,
        /// Text that must occur in the response.
        receive: Option<String>,
    },
    /// Passes if an HTTP request is answered with an expected status.
    Http {
        /// Path of the request; begins with `/`.
        path: String,
        /// Method in capitals.
        method: String,
        /// Host header; `None` for the target's host.
        host: Option<String>,
        /// Headers added to the request.
        headers: BTreeMap<String, String>,
        /// Expected statuses as inclusive ranges; at least one.
        expected: Vec<(u16, u16)>,
        /// Text that must occur in the response body. A response without it makes the target unhealthy at
        /// once, whatever its status: Envoy checks the body first, and its thresholds apply only to statuses
        /// and to missing responses.
        body: Option<String>,
    },
    /// Passes if `grpc.health.v1.Health/Check` answers `SERVING`. Any other answer makes the target unhealthy
    /// at once.
    Grpc {
        /// Name of the gRPC service; empty for the server as a whole.
        service: String,
        /// Authority of the request; `None` for the target's host.
        authority: Option<String>,
    },
}

impl Probe {
    /// True if the probe sends a host name and none is configured, so that the target's own is sent.
    pub fn names_the_target(&self) -> bool {
        match self {
            Self::Tcp { .. } => false,
            Self::Http { host, .. } => host.is_none(),
            Self::Grpc { authority, .. } => authority.is_none(),
        }
    }
}

/// Health check of one target, as far as it differs from that of its upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetCheck {
    /// No checks: the target counts as healthy until traffic says otherwise.
    Off,
    /// Checks as declared by the upstream, with these differences.
    On {
        /// Port that is checked; `None` for the upstream's.
        port: Option<u16>,
        /// Host that is sent; `None` for the upstream's.
        host: Option<String>,
    },
}

/// Passive health check; the field names are Envoy's.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct OutlierDetection {
    pub consecutive_5xx: u32,
    pub consecutive_gateway_failure: u32,
    pub split_external_local_origin_errors: bool,
    pub consecutive_local_origin_failure: u32,
    pub success_rate: Option<SuccessRate>,
    pub failure_percentage: Option<FailurePercentage>,
    pub interval: Duration,
    pub base_ejection_time: Duration,
    pub max_ejection_time: Duration,
    pub max_ejection_percent: u32,
    pub health_check_returns_ejected: bool,
}

/// Ejection of a target whose success rate in an interval is far below that of its peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuccessRate {
    /// Minimum number of targets with the request volume; with fewer, no target is judged.
    pub minimum_hosts: u32,
    /// Requests per interval below which a target is not judged.
    pub request_volume: u32,
    /// Allowed distance below the mean, in thousandths of a standard deviation.
    pub stdev_factor: u32,
}

/// Ejection of a target whose share of failures in an interval reaches the threshold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailurePercentage {
    /// Share of failures, in percent.
    pub threshold: u32,
    /// Minimum number of targets with the request volume; with fewer, no target is judged.
    pub minimum_hosts: u32,
    /// Requests per interval below which a target is not judged.
    pub request_volume: u32,
}

/// Resolves `health_check` of an upstream that speaks `protocol`.
pub(crate) fn check(
    place: &FaultPlace<'_>,
    declared: Option<&Switch<document::health::HealthCheck>>,
    protocol: UpstreamProtocol,
    faults: &mut FaultCollector,
) -> Option<HealthCheck> {
    let check = match declared {
        Some(Switch::Off) => return None,
        Some(Switch::On(check)) => check.clone(),
        None => document::health::HealthCheck::default(),
    };
    let time = |value: Option<values::Duration>, default, key: &str, faults: &mut FaultCollector| match value
    {
        Some(value) => positive(value.0, &place.key(key), faults),
        None => default,
    };
    let count = |value: Option<u32>, default, key: &str, faults: &mut FaultCollector| {
        at_least_one(value.unwrap_or(default), &place.key(key), faults)
    };
    let interval = time(check.interval, document::health::HealthCheck::INTERVAL.0, "interval", faults);
    if check.grpc.is_some() && protocol == UpstreamProtocol::Http1 {
        let message = "gRPC health checks need targets that speak HTTP/2".to_owned();
        let help = "say `protocol: http2` of the upstream, or check by `tcp` or `http`".to_owned();
        faults.error(&place.key("grpc"), code::GRPC_WITHOUT_HTTP2, message, help);
    }
    Some(HealthCheck {
        probe: probe(place, &check, faults),
        port: port(check.port, place, faults),
        interval,
        timeout: time(check.timeout, document::health::HealthCheck::TIMEOUT.0, "timeout", faults),
        unhealthy_threshold: count(
            check.unhealthy_threshold,
            document::health::HealthCheck::UNHEALTHY_THRESHOLD,
            "unhealthy_threshold",
            faults,
        ),
        healthy_threshold: count(
            check.healthy_threshold,
            document::health::HealthCheck::HEALTHY_THRESHOLD,
            "healthy_threshold",
            faults,
        ),
        unhealthy_interval: time(check.unhealthy_interval, interval, "unhealthy_interval", faults),
        idle_interval: time(check.idle_interval, interval, "idle_interval", faults),
        jitter: percent(
            check.jitter.unwrap_or(document::health::HealthCheck::JITTER),
            &place.key("jitter"),
            faults,
        ),
    })
}

/// Resolves `health_check` of a target; `upstream` is the declaration of its upstream.
pub(crate) fn target_check(
    place: &FaultPlace<'_>,
    declared: Option<&Switch<document::health::TargetHealthCheck>>,
    upstream: Option<&Switch<document::health::HealthCheck>>,
    faults: &mut FaultCollector,
) -> TargetCheck {
    let check = match declared {
        Some(Switch::Off) => return TargetCheck::Off,
        Some(Switch::On(check)) => check.clone(),
        None => document::health::TargetHealthCheck::default(),
    };
    if declared.is_some() && upstream == Some(&Switch::Off) {
        let message = "the upstream of this target has its health checks off".to_owned();
        let help = "remove this one, or give the upstream a health check".to_owned();
        faults.error(place, code::CONFLICT, message, help);
    }
    if check.path.is_some() {
        let message = "a target cannot be checked at a path of its own".to_owned();
        let help = "Envoy asks all targets of an upstream for one path; \
                    tell them apart by `port` or `host`, or put this target into another upstream";
        faults.error(&place.key("path"), code::TARGET_CHECK_PATH, message, help.to_owned());
    }
    let declares_host =
        matches!(upstream, Some(Switch::On(check)) if check.http.is_some() || check.grpc.is_some());
    if let Some(host) = &check.host {
        let place = place.key("host");
        if !declares_host && upstream != Some(&Switch::Off) {
            let message = "a TCP health check says no host name".to_owned();
            let help = "remove `host`, or let the upstream check by `http` or `grpc`".to_owned();
            faults.error(&place, code::CONFLICT, message, help);
        }
        host_name(host, &place, faults);
    }
    TargetCheck::On { port: port(check.port, place, faults), host: check.host }
}

fn port(port: Option<u16>, place: &FaultPlace<'_>, faults: &mut FaultCollector) -> Option<u16> {
    if port == Some(0) {
        let help = "name the port, from 1 to 65535".to_owned();
        faults.wrong(&place.key("port"), "0 is no port".to_owned(), help);
    }
    port
}

fn probe(
    place: &FaultPlace<'_>,
    check: &document::health::HealthCheck,
    faults: &mut FaultCollector,
) -> Probe {
    match (&check.tcp, &check.http, &check.grpc) {
        (tcp, None, None) => tcp_probe(&place.key("tcp"), tcp.clone().unwrap_or_default(), faults),
        (None, Some(http), None) => http_probe(&place.key("http"), http.clone(), faults),
        (None, None, Some(grpc)) => {
            if let Some(authority) = &grpc.authority {
                host_name(authority, &place.key("grpc").key("authority"), faults);
            }
            let service = grpc.service.clone().unwrap_or_default();
            Probe::Grpc { service, authority: grpc.authority.clone() }
        }
        _ => {
            let message = "a health check is one of `tcp`, `http` and `grpc`".to_owned();
            let first = if check.tcp.is_some() { "tcp" } else { "http" };
            let help = "leave one of them".to_owned();
            faults.error(&place.key(first), code::CONFLICT, message, help);
            Probe::Tcp { send: None, receive: None }
        }
    }
}

fn tcp_probe(place: &FaultPlace<'_>, tcp: document::health::TcpCheck, faults: &mut FaultCollector) -> Probe {
    for (key, text) in [("send", &tcp.send), ("receive", &tcp.receive)] {
        not_empty(text.as_deref(), &place.key(key), faults);
    }
    Probe::Tcp { send: tcp.send, receive: tcp.receive }
}

fn http_probe(
    place: &FaultPlace<'_>,
    http: document::health::HttpCheck,
    faults: &mut FaultCollector,
) -> Probe {
    const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];
    let path = http.path.unwrap_or_else(|| document::health::HttpCheck::PATH.to_owned());
    if !path.starts_with('/') {
        let message = format!("the path `{path}` does not begin with /");
        faults.wrong(&place.key("path"), message, format!("/{path}"));
    } else if path.parse::<PathAndQuery>().is_err() {
        let help = "percent-encode what is not allowed in a path".to_owned();
        faults.wrong(&place.key("path"), format!("`{path}` is no path of a request"), help);
    }
    let method = http.method.unwrap_or_else(|| document::health::HttpCheck::METHOD.to_owned());
    if !METHODS.contains(&method.as_str()) {
        let help = format!("one of {}", METHODS.join(", "));
        faults.wrong(&place.key("method"), format!("`{method}` is no method for a health check"), help);
    }
    if let Some(host) = &http.host {
        host_name(host, &place.key("host"), faults);
    }
    headers(&place.key("headers"), &http.headers, faults);
    not_empty(http.body.as_deref(), &place.key("body"), faults);
    if http.body.is_some() && method == "HEAD" {
        let message = "an answer to HEAD has no body".to_owned();
        faults.error(&place.key("body"), code::CONFLICT, message, "check by GET".to_owned());
    }
    let expected = match http.expected.as_slice() {
        [] => document::health::HttpCheck::EXPECTED.as_slice(),
        said => said,
    };
    let expected = expected.iter().map(|range| (range.0, range.1)).collect();
    Probe::Http { path, method, host: http.host, headers: http.headers, expected, body: http.body }
}

fn headers(place: &FaultPlace<'_>, headers: &BTreeMap<String, String>, faults: &mut FaultCollector) {
    for (name, value) in headers {
        let place = place.key(name);
        match HeaderName::try_from(name.as_str()) {
            Ok(name) if name == http::header::HOST => {
                let help = "say it as `host`, beside `headers`".to_owned();
                faults.wrong(&place, "the host is not set among the headers".to_owned(), help);
            }
            Ok(_) => {}
            Err(_) => {
                let help = "letters, digits and -".to_owned();
                faults.wrong(&place, format!("`{name}` is no name of a header"), help);
            }
        }
        if HeaderValue::try_from(value.as_str()).is_err() {
            let help = "leave out control characters".to_owned();
            faults.wrong(&place, format!("`{}` cannot stand in a header", value.escape_debug()), help);
        }
    }
}

/// Reports a host that is no valid authority. `*` is refused too: it would be sent literally, and no server
/// knows such a host.
fn host_name(host: &str, place: &FaultPlace<'_>, faults: &mut FaultCollector) {
    if host.contains('*') || host.parse::<http::uri::Authority>().is_err() {
        let help = "a name such as app.example.com; without it, the target's own is said".to_owned();
        faults.wrong(place, format!("`{host}` is no host name"), help);
    }
}

fn not_empty(text: Option<&str>, place: &FaultPlace<'_>, faults: &mut FaultCollector) {
    if text == Some("") {
        let help = "leave the field out if nothing is meant".to_owned();
        faults.wrong(place, "the text is empty".to_owned(), help);
    }
}

/// Resolves `outlier_detection` of an upstream.
pub(crate) fn outlier_detection(
    place: &FaultPlace<'_>,
    declared: Option<&Switch<DeclaredDetection>>,
    faults: &mut FaultCollector,
) -> Option<OutlierDetection> {
    let detection = match declared {
        Some(Switch::Off) => return None,
        Some(Switch::On(detection)) => detection.clone(),
        None => DeclaredDetection::default(),
    };
    let time = |value: Option<values::Duration>, default, key: &str, faults: &mut FaultCollector| match value
    {
        Some(value) => positive(value.0, &place.key(key), faults),
        None => default,
    };
    let default = DeclaredDetection::BASE_EJECTION_TIME.0;
    let base_ejection_time = time(detection.base_ejection_time, default, "base_ejection_time", faults);
    let max_ejection_time = match detection.max_ejection_time {
        Some(longest) if longest.0 < base_ejection_time => {
            let message = "`max_ejection_time` is shorter than `base_ejection_time`".to_owned();
            faults.error(&place.key("max_ejection_time"), code::CONFLICT, message, None);
            longest.0
        }
        Some(longest) => longest.0,
        None => DeclaredDetection::MAX_EJECTION_TIME.0.max(base_ejection_time),
    };
    Some(OutlierDetection {
        consecutive_5xx: detection.consecutive_5xx.unwrap_or(DeclaredDetection::CONSECUTIVE_5XX),
        consecutive_gateway_failure: detection
            .consecutive_gateway_failure
            .unwrap_or(DeclaredDetection::CONSECUTIVE_GATEWAY_FAILURE),
        split_external_local_origin_errors: detection
            .split_external_local_origin_errors
            .unwrap_or(DeclaredDetection::SPLIT_EXTERNAL_LOCAL_ORIGIN_ERRORS),
        consecutive_local_origin_failure: detection
            .consecutive_local_origin_failure
            .unwrap_or(DeclaredDetection::CONSECUTIVE_LOCAL_ORIGIN_FAILURE),
        success_rate: success_rate(&place.key("success_rate"), detection.success_rate, faults),
        failure_percentage: failure_percentage(
            &place.key("failure_percentage"),
            detection.failure_percentage,
            faults,
        ),
        interval: time(detection.interval, DeclaredDetection::INTERVAL.0, "interval", faults),
        base_ejection_time,
        max_ejection_time,
        max_ejection_percent: percent(
            detection.max_ejection_percent.unwrap_or(DeclaredDetection::MAX_EJECTION_PERCENT),
            &place.key("max_ejection_percent"),
            faults,
        ),
        health_check_returns_ejected: detection
            .health_check_returns_ejected
            .unwrap_or(DeclaredDetection::HEALTH_CHECK_RETURNS_EJECTED),
    })
}

fn success_rate(
    place: &FaultPlace<'_>,
    declared: Option<Switch<document::outlier::SuccessRate>>,
    faults: &mut FaultCollector,
) -> Option<SuccessRate> {
    let Some(Switch::On(rate)) = declared else { return None };
    let factor = rate.stdev_factor.unwrap_or(document::outlier::SuccessRate::STDEV_FACTOR);
    if !(0.001..=1_000.0).contains(&factor) {
        let help = "a number above 0; the smaller, the sooner a target is ejected".to_owned();
        faults.wrong(&place.key("stdev_factor"), format!("the factor {factor} is out of range"), help);
    }
    Some(SuccessRate {
        minimum_hosts: rate.minimum_hosts.unwrap_or(document::outlier::SuccessRate::MINIMUM_HOSTS),
        request_volume: rate.request_volume.unwrap_or(document::outlier::SuccessRate::REQUEST_VOLUME),
        stdev_factor: thousandths(factor),
    })
}

/// Converts to thousandths. A factor out of range has been reported already; clamping only prevents an
/// overflow.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is clamped")]
fn thousandths(factor: f64) -> u32 {
    (factor * 1_000.0).round().clamp(1.0, 1_000_000.0) as u32
}

fn failure_percentage(
    place: &FaultPlace<'_>,
    declared: Option<Switch<document::outlier::FailurePercentage>>,
    faults: &mut FaultCollector,
) -> Option<FailurePercentage> {
    let Some(Switch::On(failures)) = declared else { return None };
    Some(FailurePercentage {
        threshold: percent(
            failures.threshold.unwrap_or(document::outlier::FailurePercentage::THRESHOLD),
            &place.key("threshold"),
            faults,
        ),
        minimum_hosts: failures.minimum_hosts.unwrap_or(document::outlier::FailurePercentage::MINIMUM_HOSTS),
        request_volume: failures
            .request_volume
            .unwrap_or(document::outlier::FailurePercentage::REQUEST_VOLUME),
    })
}

fn positive(value: Duration, place: &FaultPlace<'_>, faults: &mut FaultCollector) -> Duration {
    if value < Duration::from_millis(1) {
        faults.wrong(place, "this time is too short".to_owned(), "1ms or more".to_owned());
    }
    value
}

fn at_least_one(value: u32, place: &FaultPlace<'_>, faults: &mut FaultCollector) -> u32 {
    if value == 0 {
        faults.wrong(place, "0 is too small".to_owned(), "1 or more".to_owned());
    }
    value
}

/// Returns a whole percentage. Reports one above 100.
pub(crate) fn percent(value: u32, place: &FaultPlace<'_>, faults: &mut FaultCollector) -> u32 {
    if value > 100 {
        faults.wrong(place, format!("{value} is no percentage"), "0 to 100".to_owned());
    }
    value
}
