//! Settings of health checks and outlier detection.

use serde_json::{Value, json};

use crate::config::document;
use crate::inspect::settings::collector::{SettingCollector, time};
use crate::model::health::{FailurePercentage, HealthCheck, OutlierDetection, Probe, SuccessRate};

/// Adds the settings of health checks.
pub(super) fn add_health_check(check: Option<&HealthCheck>, settings: &mut SettingCollector<'_>) {
    let Some(check) = check else { return settings.add("health_check", "off") };
    let HealthCheck {
        probe,
        port,
        interval,
        timeout,
        unhealthy_threshold,
        healthy_threshold,
        unhealthy_interval,
        idle_interval,
        jitter,
    } = check;
    add_probe(probe, settings);
    match port {
        Some(port) => settings.add("health_check.port", *port),
        None => settings.derived("health_check.port", Value::Null, "the target's port"),
    }
    settings.add("health_check.interval", time(*interval));
    settings.add("health_check.timeout", time(*timeout));
    settings.add("health_check.unhealthy_threshold", *unhealthy_threshold);
    settings.add("health_check.healthy_threshold", *healthy_threshold);
    settings.derived("health_check.unhealthy_interval", time(*unhealthy_interval), "as `interval`");
    settings.derived("health_check.idle_interval", time(*idle_interval), "as `interval`");
    settings.add("health_check.jitter", *jitter);
}

fn add_probe(probe: &Probe, settings: &mut SettingCollector<'_>) {
    let mut host = |key: &str, host: &Option<String>| match host {
        Some(host) => settings.add(key, host.as_str()),
        None => settings.derived(key, Value::Null, "the target's host"),
    };
    match probe {
        Probe::Tcp { send, receive } => {
            settings.add("health_check.tcp", json!({ "send": send, "receive": receive }));
        }
        Probe::Http { path, method, host: name, headers, expected, body } => {
            host("health_check.http.host", name);
            settings.add("health_check.http.path", path.as_str());
            settings.add("health_check.http.method", method.as_str());
            settings.add("health_check.http.headers", json!(headers));
            let ranges = expected.iter().map(|(first, last)| {
                if first == last { format!("{first}") } else { format!("{first}-{last}") }
            });
            settings.add("health_check.http.expected", ranges.collect::<Vec<_>>());
            settings.add("health_check.http.body", body.clone());
        }
        Probe::Grpc { service, authority } => {
            host("health_check.grpc.authority", authority);
            settings.add("health_check.grpc.service", service.as_str());
        }
    }
}

/// Adds the settings of outlier detection.
pub(super) fn add_outlier_detection(
    detection: Option<&OutlierDetection>,
    settings: &mut SettingCollector<'_>,
) {
    let Some(detection) = detection else { return settings.add("outlier_detection", "off") };
    let OutlierDetection {
        consecutive_5xx,
        consecutive_gateway_failure,
        split_external_local_origin_errors,
        consecutive_local_origin_failure,
        success_rate,
        failure_percentage,
        interval,
        base_ejection_time,
        max_ejection_time,
        max_ejection_percent,
        health_check_returns_ejected,
    } = detection;
    let mut add = |key: &str, value: Value| settings.add(&format!("outlier_detection.{key}"), value);
    add("consecutive_5xx", json!(consecutive_5xx));
    add("consecutive_gateway_failure", json!(consecutive_gateway_failure));
    add("split_external_local_origin_errors", json!(split_external_local_origin_errors));
    add("consecutive_local_origin_failure", json!(consecutive_local_origin_failure));
    match success_rate {
        None => add("success_rate", json!("off")),
        Some(SuccessRate { minimum_hosts, request_volume, stdev_factor }) => {
            add("success_rate.minimum_hosts", json!(minimum_hosts));
            add("success_rate.request_volume", json!(request_volume));
            add("success_rate.stdev_factor", json!(f64::from(*stdev_factor) / 1000.0));
        }
    }
    match failure_percentage {
        None => add("failure_percentage", json!("off")),
        Some(FailurePercentage { threshold, minimum_hosts, request_volume }) => {
            add("failure_percentage.threshold", json!(threshold));
            add("failure_percentage.minimum_hosts", json!(minimum_hosts));
            add("failure_percentage.request_volume", json!(request_volume));
        }
    }
    add("interval", time(*interval));
    add("base_ejection_time", time(*base_ejection_time));
    add("max_ejection_percent", json!(max_ejection_percent));
    add("health_check_returns_ejected", json!(health_check_returns_ejected));
    let longest = time(*max_ejection_time);
    if *max_ejection_time > document::outlier::OutlierDetection::MAX_EJECTION_TIME.0 {
        settings.derived("outlier_detection.max_ejection_time", longest, "as `base_ejection_time`");
    } else {
        settings.add("outlier_detection.max_ejection_time", longest);
    }
}
