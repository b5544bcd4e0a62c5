//! Effective settings of one upstream and of the services that use it, with the origin of each.
//!
//! The fields of the model are destructured by name here, so that a new field cannot be added without being
//! shown.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use crate::build::Build;
use crate::build::compile::endpoint;
use crate::build::compile::route::retry;
use crate::config::Path;
use crate::config::document::{Declared, Document, FailoverMode, Kind, WhenAllDown};
use crate::config::values::{self, Size};
use crate::model::drill::Drill;
use crate::model::failback::{Failback, Release};
use crate::model::health::{
    FailurePercentage, HealthCheck, OutlierDetection, Probe, SuccessRate, TargetCheck,
};
use crate::model::name::Name;
use crate::model::service::Service;
use crate::model::target::{Address, Target};
use crate::model::tls::{OfTarget, Sni, Tls, Trust, Verify};
use crate::model::upstream::{Failover, Limits, Sticky, Upstream, WholeResponse};

/// Effective value of one setting, with its origin.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Setting {
    /// Path within the upstream, such as `health_check.interval`; `targets[10.0.0.1:8080].weight` for a
    /// target, `services[checkout].timeout` for a service, and `envoy.…` for a setting that only Envoy has.
    pub path: String,
    /// Value as the config would write it.
    pub value: Value,
    /// Origin of the value.
    #[serde(flatten)]
    pub origin: Origin,
}

/// Origin of a value.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "origin", rename_all = "snake_case")]
pub enum Origin {
    /// Fixed default; nothing is declared.
    Default,
    /// Declaration in a file.
    File {
        /// Name of the file, as given on the command line.
        file: String,
        /// Line, from 1.
        line: Option<u32>,
        /// Column, from 1.
        column: Option<u32>,
    },
    /// Entity written over REST.
    Stored,
    /// Derivation from other settings; nothing is declared.
    Derived {
        /// Reason, in words.
        because: String,
    },
}

/// Effective settings of one upstream, as the CLI and the API show them.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct UpstreamSettings {
    /// Name of the upstream.
    pub upstream: String,
    /// Settings of the upstream, its targets and its services.
    pub settings: Vec<Setting>,
}

/// Returns the effective settings of an upstream; none if there is no such upstream.
pub fn effective(build: &Build, name: &str) -> Option<UpstreamSettings> {
    let settings = upstream(build, &Name::parse(name)?)?;
    Some(UpstreamSettings { upstream: name.to_owned(), settings })
}

/// Returns the settings of an upstream, its targets and its services; none if there is no such upstream.
pub fn upstream(build: &Build, name: &Name) -> Option<Vec<Setting>> {
    let upstream = build.model.upstreams.get(name)?;
    let mut settings = of_upstream(upstream, build);
    for target in &upstream.targets {
        settings.extend(of_target(target, upstream, build));
    }
    let services = build.model.services.values();
    let uses = services.filter(|service| service.upstreams().any(|used| used.name == *name));
    settings.extend(uses.flat_map(|service| of_service(service, build)));
    settings.extend(of_envoy(upstream));
    Some(settings)
}

/// Declaration of an entity: its document and its path in that.
type Source<'a> = Option<(&'a Document, Path)>;

fn source<'a>(build: &'a Build, kind: Kind, name: &Name) -> Source<'a> {
    let (document, path) = build.documents.find(kind, name.as_str())?;
    Some((document, path.clone()))
}

/// Collector of the settings of one entity.
struct Settings<'a> {
    /// Prefix of all paths.
    prefix: String,
    source: Source<'a>,
    found: Vec<Setting>,
}

impl<'a> Settings<'a> {
    fn new(prefix: impl Into<String>, source: Source<'a>) -> Self {
        Self { prefix: prefix.into(), source, found: Vec::new() }
    }

    /// Adds a setting with a fixed default. `keys` are separated by dots.
    fn add(&mut self, keys: &str, value: impl Into<Value>) {
        self.push(keys, value.into(), Origin::Default);
    }

    /// Adds a setting that is derived from others unless it is declared.
    fn derived(&mut self, keys: &str, value: impl Into<Value>, because: impl Into<String>) {
        self.push(keys, value.into(), Origin::Derived { because: because.into() });
    }

    fn push(&mut self, keys: &str, value: Value, otherwise: Origin) {
        let origin = self.said(keys).unwrap_or(otherwise);
        self.found.push(Setting { path: format!("{}{keys}", self.prefix), value, origin });
    }

    /// Returns the place of the declaration; none if nothing is declared.
    fn said(&self, keys: &str) -> Option<Origin> {
        let (document, entity) = self.source.as_ref()?;
        let path = keys.split('.').fold(entity.clone(), |path, key| path.key(key));
        document.says(&path).then(|| match document.file() {
            None => Origin::Stored,
            Some(file) => {
                let place = document.related(&path, "");
                Origin::File { file: file.to_owned(), line: place.line, column: place.column }
            }
        })
    }
}

fn time(duration: Duration) -> Value {
    values::Duration(duration).to_string().into()
}

fn size(bytes: impl Into<u64>) -> Value {
    Size(bytes.into()).to_string().into()
}

/// Serializes a value to the keyword that the config has for it.
fn word(value: impl Serialize) -> Value {
    serde_json::to_value(value).expect("it is a word")
}

fn of_upstream(upstream: &Upstream, build: &Build) -> Vec<Setting> {
    let Upstream {
        name,
        protocol,
        tls,
        connect_timeout,
        idle_timeout,
        load_balancer,
        sticky,
        slow_start,
        limits,
        health_check,
        outlier_detection,
        failover,
        failback,
        drill,
        resolve,
        whole_response,
        targets: _,
        tier_count: _,
        by_name: _,
    } = upstream;
    let mut settings = Settings::new("", source(build, Kind::Upstream, name));
    settings.add("name", name.as_str());
    settings.add("protocol", word(protocol));
    match tls {
        None => settings.add("tls", Value::Null),
        Some(tls) => of_tls(tls, None, &mut settings),
    }
    match *connect_timeout < Duration::from_millis(250) {
        true => settings.derived(
            "connect_timeout",
            time(*connect_timeout),
            "no longer than the shortest try_timeout that uses the upstream",
        ),
        false => settings.add("connect_timeout", time(*connect_timeout)),
    }
    settings.add("idle_timeout", time(*idle_timeout));
    settings.add("load_balancer", word(load_balancer));
    of_sticky(sticky.as_ref(), &mut settings);
    settings.add("slow_start", time(*slow_start));
    of_limits(limits, &mut settings);
    of_health_check(health_check.as_ref(), &mut settings);
    of_outlier_detection(outlier_detection.as_ref(), &mut settings);
    let Failover { mode, factor, when_all_down, locality, objective } = failover;
    settings.add("failover.mode", word(mode));
    settings.add("failover.factor", *factor);
    settings.add("failover.when_all_down", word(when_all_down));
    settings.add("failover.locality", *locality);
    settings.add("failover.objective", objective.map_or(Value::Null, time));
    of_failback(failback, &mut settings);
    of_drill(drill.as_ref(), &mut settings);
    settings.add("resolve", word(resolve));
    match whole_response {
        None => settings.add("whole_response", "off"),
        Some(WholeResponse { max, chunked }) => {
            settings.add("whole_response.max", size(*max));
            settings.add("whole_response.chunked", word(chunked));
        }
    }
    settings.found
}

fn of_failback(failback: &Failback, settings: &mut Settings<'_>) {
    let Failback { release, at_most } = failback;
    match release {
        Release::Auto => settings.add("failback", "auto"),
        Release::Manual => settings.add("failback", "manual"),
        Release::After(after) => settings.add("failback.after", time(*after)),
        Release::Steps { percents, every } => {
            settings.add("failback.steps", percents.clone());
            settings.add("failback.every", time(*every));
        }
    }
    if let Some(at_most) = at_most {
        settings.add("failback.max_failbacks", at_most.to_string());
    }
}

fn of_drill(drill: Option<&Drill>, settings: &mut Settings<'_>) {
    let Some(Drill { schedule, down, length, error_rate }) = drill else {
        settings.add("drill", Value::Null);
        return;
    };
    settings.add("drill.schedule", schedule.as_str());
    settings.add("drill.down", down.clone());
    settings.add("drill.for", time(*length));
    settings.add("drill.abort_if.error_rate", *error_rate);
}

/// Adds the TLS settings. `otherwise` is the reason of values that are not declared; none if they are
/// defaults.
fn of_tls(tls: &Tls, otherwise: Option<&str>, settings: &mut Settings<'_>) {
    let Tls { sni, trust, verify, client_certificate } = tls;
    let mut add = |key: &str, value: Value| match otherwise {
        Some(because) => settings.derived(&format!("tls.{key}"), value, because),
        None => settings.add(&format!("tls.{key}"), value),
    };
    add("client_certificate", json!(client_certificate.as_ref().map(|it| it.name.as_str())));
    add("insecure", json!(*trust == Trust::Anything));
    match trust {
        Trust::System => add("ca", json!("system")),
        // Name of the secret that has the certificates of the authority.
        Trust::Authority(authority) => add("ca", json!(&*authority.secret)),
        Trust::Anything => {}
    }
    match sni {
        Sni::Name(name) => add("sni", json!(name)),
        Sni::Host => settings.derived("tls.sni", Value::Null, "the target's host name"),
        Sni::None => settings.derived("tls.sni", Value::Null, "an address is not asked for by name"),
    }
    match verify {
        Verify::Names(names) => {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            settings.derived("tls.verify_names", names, otherwise.unwrap_or("the target's address"));
        }
        Verify::Sni if *trust == Trust::Anything => {}
        Verify::Sni => settings.derived("tls.verify_names", json!([]), "the name that is asked for"),
    }
}

fn of_sticky(sticky: Option<&Sticky>, settings: &mut Settings<'_>) {
    match sticky {
        None => settings.add("sticky", Value::Null),
        Some(Sticky::Header(name)) => settings.add("sticky.header", name.as_str()),
        Some(Sticky::Cookie(cookie)) => {
            settings.add("sticky.cookie.name", cookie.name.as_str());
            settings.add("sticky.cookie.ttl", time(cookie.ttl.unwrap_or_default()));
            settings.add("sticky.cookie.path", cookie.path.as_str());
        }
    }
}

fn of_limits(limits: &Limits, settings: &mut Settings<'_>) {
    let Limits { connections, pending_requests, requests, retries, requests_per_connection, retry_budget } =
        limits;
    settings.add("limits.connections", *connections);
    settings.add("limits.pending_requests", *pending_requests);
    settings.add("limits.requests", *requests);
    match retry_budget {
        None => settings.add("limits.retries", *retries),
        Some(budget) => {
            settings.add("limits.retry_budget.percent", budget.percent);
            settings.add("limits.retry_budget.at_least", budget.at_least);
        }
    }
    settings.add("limits.requests_per_connection", *requests_per_connection);
}

fn of_health_check(check: Option<&HealthCheck>, settings: &mut Settings<'_>) {
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
    of_probe(probe, settings);
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

fn of_probe(probe: &Probe, settings: &mut Settings<'_>) {
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
            let ranges = expected.iter().map(|(first, last)| match first == last {
                true => format!("{first}"),
                false => format!("{first}-{last}"),
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

fn of_outlier_detection(detection: Option<&OutlierDetection>, settings: &mut Settings<'_>) {
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
    match *max_ejection_time > Duration::from_secs(30) {
        true => settings.derived("outlier_detection.max_ejection_time", longest, "as `base_ejection_time`"),
        false => settings.add("outlier_detection.max_ejection_time", longest),
    }
}

fn of_target(target: &Target, upstream: &Upstream, build: &Build) -> Vec<Setting> {
    let Target { address, weight, tier, locality, health_check, tls } = target;
    let source = target_source(address, &upstream.name, build);
    let declared = source.as_ref().map(|(document, path)| document.json(path)).unwrap_or_default();
    let priority = match declared["failover"] == json!(true) {
        true => json!(1),
        false => declared.get("priority").cloned().unwrap_or(json!(0)),
    };
    let mut settings = Settings::new(format!("targets[{address}]."), source);
    settings.add("target", address.to_string());
    settings.add("weight", *weight);
    match tls {
        OfTarget::AsUpstream => {}
        OfTarget::Plain => settings.add("tls", "off"),
        OfTarget::Own(tls) => {
            of_tls(tls, Some("by the upstream, and by the target's address"), &mut settings)
        }
    }
    match priority == json!(tier) {
        true if declared.get("failover").is_some() => settings.add("failover", *tier == 1),
        true => settings.add("priority", *tier),
        false => {
            let because = format!("{priority} was said, and there is no gap between priorities");
            let path = format!("{}priority", settings.prefix);
            settings.found.push(Setting { path, value: json!(tier), origin: Origin::Derived { because } });
        }
    }
    for (key, value) in
        [("region", &locality.region), ("zone", &locality.zone), ("sub_zone", &locality.sub_zone)]
    {
        if !value.is_empty() {
            settings.add(key, value.as_str());
        }
    }
    match health_check {
        TargetCheck::Off => settings.add("health_check", "off"),
        TargetCheck::On { port: None, host: None } => {}
        TargetCheck::On { port, host } => {
            settings.add("health_check", json!({ "port": port, "host": host }));
        }
    }
    settings.found
}

/// Returns the first declaration of a target: in its upstream, or added over REST.
fn target_source<'a>(address: &Address, upstream: &Name, build: &'a Build) -> Source<'a> {
    let is_it = |target: &crate::config::document::Target| {
        target.target.as_deref().and_then(|text| Address::parse(text).ok()).as_ref() == Some(address)
    };
    let (document, path) = source(build, Kind::Upstream, upstream)?;
    let entity = document.upstreams.iter().find(|declared| declared.path == path)?;
    let listed = entity.entity.targets.iter().flatten().position(&is_it);
    if let Some(index) = listed {
        return Some((document, path.key("targets").index(index)));
    }
    build.documents.added(upstream.as_str()).iter().find_map(|document| {
        let (_, Declared { path, entity }) = document.target.as_ref()?;
        is_it(entity).then(|| (&**document, path.clone()))
    })
}

fn of_service(service: &Service, build: &Build) -> Vec<Setting> {
    let policy = &service.policy;
    let prefix = format!("services[{}].", service.name);
    let mut settings = Settings::new(prefix, source(build, Kind::Service, &service.name));
    settings.add("timeout", time(policy.timeout));
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

/// Returns the Envoy settings that no config field sets directly.
fn of_envoy(upstream: &Upstream) -> Vec<Setting> {
    let mut settings = Settings::new("envoy.", None);
    let because = match upstream.failover.mode {
        FailoverMode::Standby => "`failover.mode: standby`: a tier with one usable target is a full one",
        FailoverMode::Spill => "`failover.mode: spill` with its factor",
    };
    settings.derived("overprovisioning_factor", endpoint::overprovisioning_factor(upstream), because);
    let (panic, because) = match upstream.failover.when_all_down {
        WhenAllDown::TryAll => (1, "`failover.when_all_down: try_all`: any target is better than none"),
        WhenAllDown::Fail => (0, "`failover.when_all_down: fail`: 503 at once"),
    };
    settings.derived("healthy_panic_threshold", panic, because);
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

    /// Asserts the settings of the upstream `shop` whose paths begin with one of `paths`, one per line.
    fn check(text: &str, paths: &[&str], expected: &Expect) {
        let files = imbl::OrdMap::unit("shop.yaml".to_owned(), text.into());
        let build = build(&Inputs { files, ..Inputs::default() }, None).expect("it builds");
        let settings = upstream(&build, &Name::parse("shop").expect("a name")).expect("there is one");
        let shown = settings.iter().filter(|it| paths.iter().any(|path| it.path.starts_with(path)));
        let lines = shown.map(|Setting { path, value, origin }| match origin {
            Origin::Default => format!("{path}: {value} (default)\n"),
            Origin::Stored => format!("{path}: {value} (stored)\n"),
            Origin::Derived { because } => format!("{path}: {value} ({because})\n"),
            Origin::File { line, column, .. } => {
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
            services[once].retries: "off" (7:44)
            services[shop].timeout: "15s" (default)
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
