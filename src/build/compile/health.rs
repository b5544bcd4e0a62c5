//! Active health checks and outlier detection.
//!
//! Thresholds apply as declared. Envoy by itself marks a target unhealthy at the first unexpected status,
//! without regard to the threshold.

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as envoy;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::core::v3::health_check as check;
use envoy_types::pb::envoy::config::endpoint::v3::endpoint::HealthCheckConfig;
use envoy_types::pb::envoy::r#type::v3::{CodecClientType, Int64Range};
use envoy_types::pb::google::protobuf::{BoolValue, UInt64Value};

use crate::build::compile::{duration, uint32};
use crate::config::document::upstream::UpstreamProtocol;
use crate::model::health::{HealthCheck, OutlierDetection, Probe, TargetCheck};
use crate::model::upstream::Upstream;

/// Number of bytes of a health check response that are searched for the expected body; Envoy's default is 1
/// KiB.
const ANSWER: u64 = 64 << 10;

/// Interval between a failed check and the next one while the threshold is not reached yet. It applies to TCP
/// upstreams, where only checks detect a frozen target: the kernel still accepts connections, and there is no
/// request whose missing response would count.
const SECOND_LOOK: Duration = Duration::from_millis(10);

/// Compiles the health check of a cluster.
///
/// The port is set on each endpoint instead: Envoy does not implement the corresponding field of a cluster's
/// health check.
pub(crate) fn health_check(check: &HealthCheck, upstream: &Upstream) -> core::HealthCheck {
    core::HealthCheck {
        timeout: Some(duration(check.timeout)),
        interval: Some(duration(check.interval)),
        interval_jitter_percent: check.jitter,
        unhealthy_threshold: Some(uint32(check.unhealthy_threshold)),
        healthy_threshold: Some(uint32(check.healthy_threshold)),
        unhealthy_interval: Some(duration(check.unhealthy_interval)),
        unhealthy_edge_interval: (upstream.protocol == UpstreamProtocol::Tcp).then(|| duration(SECOND_LOOK)),
        // Envoy's default of 60 s leaves the standby of an idle service unchecked.
        no_traffic_interval: Some(duration(check.idle_interval)),
        no_traffic_healthy_interval: Some(duration(check.idle_interval)),
        health_checker: Some(health_checker(&check.probe, upstream.protocol)),
        tls_options: (upstream.is_tls() && speaks_http2(&check.probe, upstream.protocol))
            .then(|| check::TlsOptions { alpn_protocols: vec!["h2".to_owned()] }),
        ..Default::default()
    }
}

fn health_checker(probe: &Probe, protocol: UpstreamProtocol) -> check::HealthChecker {
    match probe {
        Probe::Tcp { send, receive } => check::HealthChecker::TcpHealthCheck(check::TcpHealthCheck {
            send: send.as_deref().map(payload),
            receive: receive.as_deref().map(payload).into_iter().collect(),
            ..Default::default()
        }),
        Probe::Http { path, method, host, headers, expected, body } => {
            check::HealthChecker::HttpHealthCheck(check::HttpHealthCheck {
                host: host.clone().unwrap_or_default(),
                path: path.clone(),
                method: core::RequestMethod::from_str_name(method).unwrap_or_default().into(),
                request_headers_to_add: headers.iter().map(|(key, value)| header(key, value)).collect(),
                expected_statuses: expected.iter().map(|(first, last)| statuses(*first, *last)).collect(),
                // An unexpected status counts towards the threshold instead of marking the target unhealthy
                // at once.
                retriable_statuses: vec![statuses(100, 599)],
                receive: body.as_deref().map(payload).into_iter().collect(),
                response_buffer_size: body.is_some().then_some(UInt64Value { value: ANSWER }),
                codec_client_type: codec(protocol).into(),
                ..Default::default()
            })
        }
        Probe::Grpc { service, authority } => check::HealthChecker::GrpcHealthCheck(check::GrpcHealthCheck {
            service_name: service.clone(),
            authority: authority.clone().unwrap_or_default(),
            ..Default::default()
        }),
    }
}

fn codec(protocol: UpstreamProtocol) -> CodecClientType {
    match protocol {
        UpstreamProtocol::Http2 => CodecClientType::Http2,
        UpstreamProtocol::Http1 | UpstreamProtocol::Auto | UpstreamProtocol::Tcp => CodecClientType::Http1,
    }
}

/// Returns true if the probe speaks HTTP/2. With TLS, its ALPN must be set in the health check: Envoy does
/// not use the ALPN of requests for the connections of health checks.
fn speaks_http2(probe: &Probe, protocol: UpstreamProtocol) -> bool {
    match probe {
        Probe::Grpc { .. } => true,
        Probe::Http { .. } => protocol == UpstreamProtocol::Http2,
        Probe::Tcp { .. } => false,
    }
}

fn payload(text: &str) -> check::Payload {
    let hex = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    check::Payload { payload: Some(check::payload::Payload::Text(hex)) }
}

fn header(key: &str, value: &str) -> core::HeaderValueOption {
    core::HeaderValueOption {
        header: Some(core::HeaderValue {
            key: key.to_owned(),
            value: value.to_owned(),
            ..Default::default()
        }),
        append_action: core::header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..Default::default()
    }
}

/// Converts an inclusive range of statuses; the end of an Envoy range is exclusive.
fn statuses(first: u16, last: u16) -> Int64Range {
    Int64Range { start: first.into(), end: i64::from(last) + 1 }
}

/// Returns the health check settings of one endpoint that differ from those of the cluster; none if nothing
/// does. `host` is the target's own host.
///
/// By default Envoy sends the cluster's name as the host of a check, which no server knows.
pub(crate) fn endpoint_check(
    upstream: &Upstream,
    target: &TargetCheck,
    host: &str,
) -> Option<HealthCheckConfig> {
    let check = upstream.health_check.as_ref()?;
    let config = match target {
        TargetCheck::Off => HealthCheckConfig { disable_active_health_check: true, ..Default::default() },
        TargetCheck::On { port, host: said } => {
            let own = check.probe.names_the_target().then(|| host.to_owned());
            HealthCheckConfig {
                port_value: port.or(check.port).map_or(0, u32::from),
                hostname: said.clone().or(own).unwrap_or_default(),
                ..Default::default()
            }
        }
    };
    (config != HealthCheckConfig::default()).then_some(config)
}

/// Compiles the outlier detection of a cluster.
pub(crate) fn outlier_detection(detection: &OutlierDetection) -> envoy::OutlierDetection {
    let (rate, failures) = (detection.success_rate.as_ref(), detection.failure_percentage.as_ref());
    let split = detection.split_external_local_origin_errors;
    envoy::OutlierDetection {
        consecutive_5xx: Some(uint32(detection.consecutive_5xx)),
        consecutive_gateway_failure: Some(uint32(detection.consecutive_gateway_failure)),
        // Envoy counts gateway failures but by default does not eject because of them.
        enforcing_consecutive_gateway_failure: Some(uint32(100)),
        split_external_local_origin_errors: split,
        consecutive_local_origin_failure: Some(uint32(detection.consecutive_local_origin_failure)),
        // Envoy enables this by default for clusters of five and more hosts; here it is off unless declared.
        enforcing_success_rate: enforced(rate.is_some()),
        enforcing_local_origin_success_rate: enforced(rate.is_some() && split),
        success_rate_minimum_hosts: rate.map(|rate| uint32(rate.minimum_hosts)),
        success_rate_request_volume: rate.map(|rate| uint32(rate.request_volume)),
        success_rate_stdev_factor: rate.map(|rate| uint32(rate.stdev_factor)),
        // Envoy disables this by default, even if a threshold is set.
        enforcing_failure_percentage: failures.and(enforced(true)),
        enforcing_failure_percentage_local_origin: failures.and(enforced(split)),
        failure_percentage_threshold: failures.map(|failures| uint32(failures.threshold)),
        failure_percentage_minimum_hosts: failures.map(|failures| uint32(failures.minimum_hosts)),
        failure_percentage_request_volume: failures.map(|failures| uint32(failures.request_volume)),
        interval: Some(duration(detection.interval)),
        base_ejection_time: Some(duration(detection.base_ejection_time)),
        max_ejection_time: Some(duration(detection.max_ejection_time)),
        max_ejection_percent: Some(uint32(detection.max_ejection_percent)),
        // Envoy's default returns an ejected target at the next passed check, even if it answers requests
        // with 503.
        successful_active_health_check_uneject_host: Some(BoolValue {
            value: detection.health_check_returns_ejected,
        }),
        ..Default::default()
    }
}

/// Returns an enforcement of 100 % or 0 %. Envoy could also eject at random, with a percentage between.
fn enforced(on: bool) -> Option<envoy_types::pb::google::protobuf::UInt32Value> {
    Some(uint32(if on { 100 } else { 0 }))
}
