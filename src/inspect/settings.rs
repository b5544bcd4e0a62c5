//! Effective settings of one upstream and of the services that use it, with the origin of each.
//!
//! The fields of the model are destructured by name here, so that a new field cannot be added without being
//! shown.

mod collector;
mod health;
mod service;
pub mod setting;
mod target;
mod tls;
mod upstream;

use schemars::JsonSchema;
use serde::Serialize;

use crate::build::Build;
use crate::build::compile::{cluster, endpoint};
use crate::config::document::upstream::{FailoverMode, WhenAllDown};
use crate::inspect::settings::collector::SettingCollector;
use crate::inspect::settings::setting::EffectiveSetting;
use crate::model::name::Name;
use crate::model::upstream::Upstream;

/// Effective settings of one upstream, as the CLI and the API show them.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct UpstreamSettings {
    /// Name of the upstream.
    pub upstream: String,
    /// Settings of the upstream, its targets and its services.
    pub settings: Vec<EffectiveSetting>,
}

/// Returns the effective settings of an upstream; none if there is no such upstream.
pub fn effective(build: &Build, name: &str) -> Option<UpstreamSettings> {
    let settings = of(build, &Name::parse(name)?)?;
    Some(UpstreamSettings { upstream: name.to_owned(), settings })
}

/// Returns the settings of an upstream, its targets and its services; none if there is no such upstream.
pub fn of(build: &Build, name: &Name) -> Option<Vec<EffectiveSetting>> {
    let upstream = build.model.upstreams.get(name)?;
    let mut settings = upstream::of_upstream(upstream, build);
    for target in &upstream.targets {
        settings.extend(target::of_target(target, upstream, build));
    }
    let services = build.model.services.values();
    let uses = services.filter(|service| service.upstreams().any(|used| used.name == *name));
    settings.extend(uses.flat_map(|service| service::of_service(service, build)));
    settings.extend(of_envoy(upstream));
    Some(settings)
}

/// Returns the Envoy settings that no config field sets directly.
fn of_envoy(upstream: &Upstream) -> Vec<EffectiveSetting> {
    let mut settings = SettingCollector::new("envoy.", None);
    let is_minimal = upstream.failover.minimum_healthy > 0;
    let because = match upstream.failover.mode {
        _ if is_minimal => "`failover.minimum_healthy`: the share of usable targets counts as it is",
        FailoverMode::Standby => "`failover.mode: standby`: a tier with one usable target is a full one",
        FailoverMode::Spill => "`failover.mode: spill` with its factor",
    };
    settings.derived("overprovisioning_factor", endpoint::overprovisioning_factor(upstream), because);
    let because = match upstream.failover.when_all_down {
        _ if is_minimal => "`failover.minimum_healthy`: fewer usable targets get no requests",
        WhenAllDown::TryAll => "`failover.when_all_down: try_all`: any target is better than none",
        WhenAllDown::Fail => "`failover.when_all_down: fail`: 503 at once",
    };
    settings.derived("healthy_panic_threshold", cluster::panic_threshold(upstream), because);
    if is_minimal {
        let because = "`failover.minimum_healthy`: 503 below it, in place of requests to all targets";
        settings.derived("fail_traffic_on_panic", true, because);
    }
    settings.derived(
        "update_merge_window",
        "0s",
        "Envoy's 1s would hold back news of the last primary's death",
    );
    settings.derived(
        "ignore_health_on_host_removal",
        true,
        "else a removed target serves for as long as its check passes",
    );
    settings.found
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use crate::build::{Inputs, build};

    use super::*;
    use crate::inspect::settings::setting::SettingOrigin;

    /// Asserts the settings of the upstream `shop` whose paths begin with one of `paths`, one per line.
    fn check(text: &str, paths: &[&str], expected: &Expect) {
        let files = imbl::OrdMap::unit("shop.yaml".to_owned(), text.into());
        let build = build(&Inputs { files, ..Inputs::default() }, None).expect("it builds");
        let settings = of(&build, &Name::parse("shop").expect("a name")).expect("there is one");
        let shown = settings.iter().filter(|it| paths.iter().any(|path| it.path.starts_with(path)));
        let lines = shown.map(|EffectiveSetting { path, value, origin }| match origin {
            SettingOrigin::Default => format!("{path}: {value} (default)\n"),
            SettingOrigin::Stored => format!("{path}: {value} (stored)\n"),
            SettingOrigin::Derived { because } => format!("{path}: {value} ({because})\n"),
            SettingOrigin::File { line, column, .. } => {
                format!("{path}: {value} ({}:{})\n", line.unwrap_or(0), column.unwrap_or(0))
            }
        });
        expected.assert_eq(&lines.collect::<String>());
    }

    #[test]
    fn what_was_said_has_its_line_and_the_rest_says_why() {
        let text = "upstreams:
  - name: shop
    health_check: { http: { path: /ready }, interval: 2s }
    failover: { when_all_down: fail }
    targets: [{ target: 10.0.0.1:80, weight: 5 }]
";
        let paths = ["health_check.", "failover", "envoy.h", "targets"];
        check(
            text,
            &paths,
            &expect![[r#"
                health_check.http.host: null (the target's host)
                health_check.http.path: "/ready" (3:35)
                health_check.http.method: "GET" (default)
                health_check.http.headers: {} (default)
                health_check.http.expected: ["200-299"] (default)
                health_check.http.body: null (default)
                health_check.port: null (the target's port)
                health_check.interval: "2s" (3:55)
                health_check.timeout: "500ms" (default)
                health_check.unhealthy_threshold: 2 (default)
                health_check.healthy_threshold: 3 (default)
                health_check.unhealthy_interval: "2s" (as `interval`)
                health_check.idle_interval: "2s" (as `interval`)
                health_check.jitter: 10 (default)
                failover.mode: "standby" (default)
                failover.factor: 140 (default)
                failover.minimum_healthy: 0 (default)
                failover.when_all_down: "fail" (4:32)
                failover.locality: false (default)
                failover.objective: null (default)
                targets[10.0.0.1:80].target: "10.0.0.1:80" (5:25)
                targets[10.0.0.1:80].weight: 5 (5:46)
                targets[10.0.0.1:80].priority: 0 (default)
                envoy.healthy_panic_threshold: 0 (`failover.when_all_down: fail`: 503 at once)
            "#]],
        );
    }

    #[test]
    fn tries_are_derived_from_the_tiers_unless_they_are_said() {
        let text = "upstreams:
  - name: shop
    targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80, priority: 4 }]
services:
  - { name: shop, upstream: shop, try_timeout: 100ms }
  - { name: slow, upstream: shop, retries: { attempts: 1 } }
  - { name: once, upstream: shop, retries: off }
";
        let paths = ["connect_timeout", "services", "targets[10.0.0.2:80]"];
        check(
            text,
            &paths,
            &expect![[r#"
            connect_timeout: "100ms" (no longer than the shortest try_timeout that uses the upstream)
            targets[10.0.0.2:80].target: "10.0.0.2:80" (3:50)
            targets[10.0.0.2:80].weight: 100 (default)
            targets[10.0.0.2:80].priority: 1 (4 was said, and there is no gap between priorities)
            services[once].timeout: "15s" (default)
            services[once].try_idle_timeout: "0s" (default)
            services[once].host_header: "keep" (default)
            services[once].retries: "off" (7:44)
            services[shop].timeout: "15s" (default)
            services[shop].try_idle_timeout: "0s" (default)
            services[shop].host_header: "keep" (default)
            services[shop].try_timeout: "100ms" (5:48)
            services[shop].retries.attempts: 3 (enough to reach every target, 3 to 10)
            services[shop].retries.retry_on: ["5xx","reset","connect_failure","refused_stream"] (default)
            services[shop].retries.statuses: [] (default)
            services[shop].retries.methods_once: "safe" (default)
            services[shop].retries.back_off.base: "5ms" (default)
            services[shop].retries.back_off.max: "100ms" (default)
            services[shop].retries.body: "8MiB" (default)
            services[shop].envoy.update_frequency: 1 (a tier before the last has a single target, which a retry must leave at once)
            services[slow].timeout: "15s" (default)
            services[slow].try_idle_timeout: "0s" (default)
            services[slow].host_header: "keep" (default)
            services[slow].try_timeout: "7500ms" (`timeout` divided by the tries that it takes to reach the last tier, at least 2)
            services[slow].retries.attempts: 1 (6:56)
            services[slow].retries.retry_on: ["5xx","reset","connect_failure","refused_stream"] (default)
            services[slow].retries.statuses: [] (default)
            services[slow].retries.methods_once: "safe" (default)
            services[slow].retries.back_off.base: "5ms" (default)
            services[slow].retries.back_off.max: "100ms" (default)
            services[slow].retries.body: "8MiB" (default)
            services[slow].envoy.update_frequency: 1 (a tier before the last has a single target, which a retry must leave at once)
        "#]],
        );
    }

    #[test]
    fn what_is_off_is_one_line() {
        let text = "upstreams: [{ name: shop, health_check: off, outlier_detection: off, \
                    targets: [{ target: 10.0.0.1:80 }] }]";
        check(
            text,
            &["health_check", "outlier_detection", "sticky"],
            &expect![[r#"
            sticky: null (default)
            health_check: "off" (1:41)
            outlier_detection: "off" (1:65)
        "#]],
        );
    }
}
