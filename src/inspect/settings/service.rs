//! Settings of a service.

use serde_json::json;

use crate::build::Build;
use crate::build::compile::route::retry;
use crate::config::document::Kind;
use crate::inspect::settings::collector::{SettingCollector, declaration, size, time, word};
use crate::inspect::settings::setting::EffectiveSetting;
use crate::model::service::{HostHeader, Service};

/// Returns the settings of a service.
pub(super) fn of_service(service: &Service, build: &Build) -> Vec<EffectiveSetting> {
    let policy = &service.policy;
    let prefix = format!("services[{}].", service.name);
    let mut settings = SettingCollector::new(prefix, declaration(build, Kind::Service, &service.name));
    settings.add("timeout", time(policy.timeout));
    settings.add("try_idle_timeout", time(policy.try_idle_timeout));
    settings.add("host_header", host_header(&service.host_header));
    let (Some(retries), Some(tries)) = (&policy.retries, retry::tries(policy, service)) else {
        settings.add("retries", "off");
        return settings.found;
    };
    settings.derived(
        "try_timeout",
        tries.try_timeout.map_or(json!("0s"), time),
        "`timeout` divided by the tries that it takes to reach the last tier, at least 2",
    );
    settings.derived("retries.attempts", tries.attempts, "enough to reach every target, 3 to 10");
    let words = retries.retry_on.iter().map(|word| word.replace('-', "_"));
    settings.add("retries.retry_on", words.collect::<Vec<_>>());
    settings.add("retries.statuses", json!(retries.statuses));
    settings.add("retries.methods_once", word(retries.methods_once));
    settings.add("retries.back_off.base", time(retries.back_off_base));
    settings.add("retries.back_off.max", time(retries.back_off_max));
    settings.add("retries.body", size(retries.body));
    let because = match tries.update_frequency {
        1 => "a tier before the last has a single target, which a retry must leave at once",
        _ => "a retry tries a peer before it moves on to the next tier",
    };
    settings.derived("envoy.update_frequency", tries.update_frequency, because);
    settings.found
}

fn host_header(host_header: &HostHeader) -> &str {
    match host_header {
        HostHeader::Keep => "keep",
        HostHeader::Target => "target",
        HostHeader::TargetPort => "target_port",
        HostHeader::Value(host) => host,
    }
}
