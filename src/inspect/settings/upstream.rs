//! Settings of an upstream.

use serde_json::Value;

use crate::build::Build;
use crate::config::document;
use crate::config::document::Kind;
use crate::inspect::settings::collector::{SettingCollector, declaration, size, time, word};
use crate::inspect::settings::setting::EffectiveSetting;
use crate::inspect::settings::{health, tls};
use crate::model::drill::ScheduledDrill;
use crate::model::failback::{Failback, Release};
use crate::model::upstream::{Failover, Limits, Sticky, Upstream, WholeResponse};

/// Returns the settings of an upstream, without those of its targets.
pub(super) fn of_upstream(upstream: &Upstream, build: &Build) -> Vec<EffectiveSetting> {
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
        by_name_and_port: _,
    } = upstream;
    let mut settings = SettingCollector::new("", declaration(build, Kind::Upstream, name));
    settings.add("name", name.as_str());
    settings.add("protocol", word(protocol));
    match tls {
        None => settings.add("tls", Value::Null),
        Some(tls) => tls::add_tls(tls, None, &mut settings),
    }
    if *connect_timeout < document::upstream::Upstream::CONNECT_TIMEOUT.0 {
        let because = "no longer than the shortest try_timeout that uses the upstream";
        settings.derived("connect_timeout", time(*connect_timeout), because);
    } else {
        settings.add("connect_timeout", time(*connect_timeout));
    }
    settings.add("idle_timeout", time(*idle_timeout));
    settings.add("load_balancer", word(load_balancer));
    add_sticky(sticky.as_ref(), &mut settings);
    settings.add("slow_start", time(*slow_start));
    add_limits(limits, &mut settings);
    health::add_health_check(health_check.as_ref(), &mut settings);
    health::add_outlier_detection(outlier_detection.as_ref(), &mut settings);
    add_failover(failover, &mut settings);
    add_failback(failback, &mut settings);
    add_drill(drill.as_ref(), &mut settings);
    settings.add("resolve", word(resolve));
    add_whole_response(whole_response.as_ref(), &mut settings);
    settings.found
}

fn add_failover(failover: &Failover, settings: &mut SettingCollector<'_>) {
    let Failover { mode, factor, minimum_healthy, when_all_down, locality, objective } = failover;
    settings.add("failover.mode", word(mode));
    settings.add("failover.factor", *factor);
    settings.add("failover.minimum_healthy", *minimum_healthy);
    settings.add("failover.when_all_down", word(when_all_down));
    settings.add("failover.locality", *locality);
    settings.add("failover.objective", objective.map_or(Value::Null, time));
}

fn add_whole_response(whole_response: Option<&WholeResponse>, settings: &mut SettingCollector<'_>) {
    match whole_response {
        None => settings.add("whole_response", "off"),
        Some(WholeResponse { max, chunked }) => {
            settings.add("whole_response.max", size(*max));
            settings.add("whole_response.chunked", word(chunked));
        }
    }
}

fn add_failback(failback: &Failback, settings: &mut SettingCollector<'_>) {
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

fn add_drill(drill: Option<&ScheduledDrill>, settings: &mut SettingCollector<'_>) {
    let Some(ScheduledDrill { schedule, down, length, error_rate }) = drill else {
        settings.add("drill", Value::Null);
        return;
    };
    settings.add("drill.schedule", schedule.as_str());
    settings.add("drill.down", down.clone());
    settings.add("drill.for", time(*length));
    settings.add("drill.abort_if.error_rate", *error_rate);
}

fn add_sticky(sticky: Option<&Sticky>, settings: &mut SettingCollector<'_>) {
    match sticky {
        None => settings.add("sticky", Value::Null),
        Some(Sticky::Header(name)) => settings.add("sticky.header", name.as_str()),
        Some(Sticky::Cookie(cookie)) => {
            settings.add("sticky.cookie.name", cookie.name.as_str());
            let ttl = time(cookie.ttl.unwrap_or_default());
            settings.derived("sticky.cookie.ttl", ttl, "for the session of the client");
            settings.add("sticky.cookie.path", cookie.path.as_str());
        }
    }
}

fn add_limits(limits: &Limits, settings: &mut SettingCollector<'_>) {
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
