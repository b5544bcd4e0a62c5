//! Metrics, in the format of Prometheus.
//!
//! Names and labels are a contract. The number of series is bounded by the declared fleets and upstreams, and by fixed
//! words (types, templates of paths, statuses).

use std::collections::HashMap;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::access::tokens::Role;
use crate::admin::http::guard;
use crate::admin::route::{ApiRoute, Content};
use crate::admin::state::Admin;
use crate::build::Build;
use crate::failover::history::History;
use crate::nodes::Nodes;
use crate::nodes::status::AckState;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Returns the routes.
pub(crate) fn routes() -> Vec<ApiRoute> {
    vec![ApiRoute::get(
        "/metrics",
        Role::Read,
        "Read the metrics, for Prometheus",
        scrape,
        Content::other("text/plain"),
    )]
}

/// Handles `GET /metrics`.
async fn scrape(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    let mut text = String::new();
    text::encode(&mut text, &registry(&admin)).expect("a string takes what it is given");
    let accepted = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accepted.contains("application/openmetrics-text") {
        ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response()
    } else {
        ([(header::CONTENT_TYPE, PLAIN)], plain(&text)).into_response()
    }
}

/// Converts to the older format: counters are described by the name of their samples, and there are no units.
fn plain(open: &str) -> String {
    let counters: Vec<&str> =
        open.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut plain = String::with_capacity(open.len());
    for line in open.lines().filter(|line| !line.starts_with("# UNIT ") && *line != "# EOF") {
        let described = line.strip_prefix("# ").and_then(|rest| rest.split(' ').nth(1));
        match described.filter(|name| counters.contains(name)) {
            Some(name) => plain += &line.replacen(name, &format!("{name}_total"), 1),
            None => plain += line,
        }
        plain.push('\n');
    }
    plain
}

fn registry(admin: &Admin) -> Registry {
    let mut registry = Registry::with_prefix("understudy");
    let build = admin.cache.build();
    of_program(admin, &mut registry);
    of_config(admin, &build, &mut registry);
    of_fleet(&admin.nodes, &build, &mut registry);
    of_names(admin, &build, &mut registry);
    of_upstreams(admin, &build, &mut registry);
    admin.metrics.register(&mut registry);
    registry
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: f64) {
    let gauge = Gauge::<f64, std::sync::atomic::AtomicU64>::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}

/// Registers a gauge for each of these labels.
fn gauges<L>(registry: &mut Registry, name: &str, help: &str, values: impl IntoIterator<Item = (L, i64)>)
where
    L: Clone + std::fmt::Debug + std::hash::Hash + Eq + EncodeLabelSet + Send + Sync + 'static,
{
    let family = Family::<L, Gauge>::default();
    for (labels, value) in values {
        family.get_or_create(&labels).set(value);
    }
    registry.register(name, help, family);
}

fn of_program(admin: &Admin, registry: &mut Registry) {
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    gauges(registry, "build_info", "1, with the version of this program", [(version, 1)]);
    let started = admin.started.as_millisecond() as f64 / 1e3;
    gauge(registry, "start_time_seconds", "When this program started, in seconds since 1970", started);
    let followers = admin.events.followers() as f64;
    gauge(registry, "event_followers", "Who follows the stream of events", followers);
}

fn of_config(admin: &Admin, build: &Build, registry: &mut Registry) {
    let revision = admin.store.revision() as f64;
    gauge(registry, "revision", "The number of the newest revision", revision);
    let waiting = admin.control.progress().rolling_out.len() as f64;
    gauge(registry, "revisions_rolling_out", "Changes that not all Envoys have yet", waiting);
    let violations = admin.control.violations().len() as f64;
    gauge(registry, "files_violations", "Faults of the files, while the last good config serves", violations);
    let stale = admin.control.stale_since().map_or(0.0, |since| since.as_millisecond() as f64 / 1e3);
    let help = "Since when the files are not what is served, in seconds since 1970; 0 when they are";
    gauge(registry, "files_stale_since_seconds", help, stale);
    let model = &build.model;
    let targets: usize = model.upstreams.values().map(|upstream| upstream.targets.len()).sum();
    let entities = [
        ("listeners", model.listeners.len()),
        ("routes", model.routes.len()),
        ("services", model.services.len()),
        ("upstreams", model.upstreams.len()),
        ("targets", targets),
    ];
    let entities = entities.map(|(kind, count)| ([("kind", kind)], count as i64));
    gauges(registry, "entities", "What is served, by kind", entities);
    let warnings = build.warnings.len() as f64;
    gauge(registry, "lint_violations", "What the rules tell of the config that is served", warnings);
}

fn of_fleet(nodes: &Nodes, build: &Build, registry: &mut Registry) {
    let mut connected: HashMap<[(&str, String); 1], i64> =
        build.snapshots.keys().map(|fleet| ([("fleet", fleet.to_string())], 0)).collect();
    let mut types: HashMap<[(&str, String); 3], i64> = HashMap::new();
    let presences = nodes.select(|_| true);
    for id in
        presences.iter().map(|presence| (&presence.node.id, presence)).collect::<HashMap<_, _>>().values()
    {
        *connected.entry([("fleet", build.fleet_of(&id.node).to_string())]).or_default() += 1;
    }
    for presence in &presences {
        let fleet = build.fleet_of(&presence.node).to_string();
        for (resource_type, noted) in &presence.types {
            let state = match noted.state {
                AckState::Pending => "pending",
                AckState::Acked => "acked",
                AckState::Nacked => "nacked",
            };
            let of_type = ("type", resource_type.plural().to_owned());
            *types.entry([("fleet", fleet.clone()), of_type, ("state", state.to_owned())]).or_default() += 1;
        }
    }
    gauges(registry, "connected_nodes", "Envoys that are connected, by fleet", connected);
    gauge(registry, "xds_streams", "Streams of Envoys that are open", presences.len() as f64);
    let help = "Envoys that are not answered, since they run a config that is not known here";
    gauge(registry, "withheld_nodes", help, nodes.withheld() as f64);
    let help = "Streams of Envoys, by fleet, type of resource, and what became of the last response";
    gauges(registry, "node_types", help, types);
}

fn of_names(admin: &Admin, build: &Build, registry: &mut Registry) {
    let names = build.host_names();
    let resolved: Vec<_> = names.iter().filter_map(|name| admin.names.resolved(name)).collect();
    let oldest = resolved.iter().filter_map(|resolved| resolved.age).max().unwrap_or_default();
    let failing = resolved.iter().filter(|resolved| resolved.error.is_some()).count();
    gauge(registry, "dns_names", "Host names that are looked up here", names.len() as f64);
    gauge(registry, "dns_names_failing", "Those whose last look-up failed", failing as f64);
    let help = "How old the oldest answer in use is";
    gauge(registry, "dns_oldest_answer_age_seconds", help, oldest.as_secs_f64());
}

/// Maximum number of targets that have a series each.
const NAMED_TARGETS: usize = 10_000;

/// Registers the serving tier of each upstream, as its Envoys report it, and its failovers.
fn of_upstreams(admin: &Admin, build: &Build, registry: &mut Registry) {
    let ledger = admin.supervisor.ledger();
    let mut serving: Vec<([(&str, String); 1], i64)> = Vec::new();
    let mut rates = Vec::new();
    let mut targets: HashMap<[(&str, String); 2], i64> = HashMap::new();
    let mut healths = Vec::new();
    let all = build.model.upstreams.values().map(|upstream| upstream.targets.len()).sum::<usize>();
    for upstream in build.model.upstreams.values() {
        let of = ("upstream", upstream.name.to_string());
        let seen = admin.supervisor.summary_without_nodes(build, upstream);
        serving.extend(seen.serving.map(|tier| ([of.clone()], i64::from(tier))));
        rates.push(([of.clone()], seen.requests_per_second));
        // An absent series is not a series of 0.
        for health in ["healthy", "unhealthy", "unknown"] {
            targets.insert([of.clone(), ("health", health.to_owned())], 0);
        }
        for target in &upstream.targets {
            let seen = seen.targets.get(&target.address).filter(|seen| !seen.is_stale);
            let health = match seen.and_then(|seen| seen.is_healthy) {
                Some(true) => "healthy",
                Some(false) => "unhealthy",
                None => "unknown",
            };
            *targets.entry([of.clone(), ("health", health.to_owned())]).or_default() += 1;
            if all <= NAMED_TARGETS && health != "unknown" {
                let labels = [of.clone(), ("target", target.address.to_string())];
                healths.push((labels, i64::from(health == "healthy")));
            }
        }
    }
    let help = "The tier that serves an upstream at most Envoys; 0 is that of the primaries";
    gauges(registry, "upstream_serving_priority", help, serving);
    gauges(registry, "upstream_targets", "Targets, by what traffic and checks show of their health", targets);
    let help = "1 for a healthy target, 0 for an unhealthy one; of unknown ones, and of more than 10000, there is none";
    gauges(registry, "target_healthy", help, healths);
    let family = Family::<[(&str, String); 1], Gauge<f64, std::sync::atomic::AtomicU64>>::default();
    for (labels, rate) in rates {
        family.get_or_create(&labels).set(rate);
    }
    let help = "Requests to the targets of an upstream, retries too, as Envoys report them";
    registry.register("upstream_requests_per_second", help, family);
    of_failovers(&ledger.history, registry);
}

/// Registers the failovers, including those that are not kept any more: counters do not fall.
fn of_failovers(history: &History, registry: &mut Registry) {
    let now = jiff::Timestamp::now();
    let failovers = Family::<[(&str, String); 2], Counter>::default();
    let standby = Family::<[(&str, String); 1], Counter<f64, std::sync::atomic::AtomicU64>>::default();
    for (upstream, tallies) in history.tallies(now) {
        let of = ("upstream", upstream.to_string());
        let seconds = tallies.values().map(|tally| tally.seconds).sum();
        for (cause, tally) in tallies {
            let reason = ("reason", cause.word().to_owned());
            failovers.get_or_create(&[of.clone(), reason]).inc_by(tally.count);
        }
        standby.get_or_create(&[of]).inc_by(seconds);
    }
    registry.register("failovers", "Failovers, by reason", failovers);
    let help = "For how long standbys served";
    registry.register_with_unit("upstream_standby", help, Unit::Seconds, standby);
}

/// Counts every request, and measures its duration.
pub(crate) async fn measured(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let since = Instant::now();
    let method = match request.method().as_str() {
        known @ ("GET" | "HEAD" | "OPTIONS" | "POST" | "PUT" | "PATCH" | "DELETE") => known.to_owned(),
        _ => "other".to_owned(),
    };
    let route = guard::template(&request);
    let response = next.run(request).await;
    admin.metrics.answered(&method, &route, response.status().as_u16(), since.elapsed());
    response
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn counters_have_one_name_in_the_older_format() {
        let (metrics, mut registry) = (Metrics::default(), Registry::with_prefix("understudy"));
        metrics.nacked("clusters");
        metrics.committed(Duration::from_millis(3));
        metrics.register(&mut registry);
        let mut open = String::new();
        text::encode(&mut open, &registry).expect("a string takes what it is given");
        let plain = plain(&open);
        for line in [
            "# TYPE understudy_nacks_total counter",
            "# HELP understudy_nacks_total Refusals of Envoys, by type of resource.",
            "understudy_nacks_total{type=\"clusters\"} 1",
            "# TYPE understudy_store_commit_duration_seconds histogram",
            "understudy_store_commit_duration_seconds_bucket{le=\"0.004\"} 1",
        ] {
            assert!(plain.lines().any(|own| own == line), "{line}\n{plain}");
        }
        assert!(!plain.contains("EOF") && !plain.contains("UNIT"), "{plain}");
    }
}
