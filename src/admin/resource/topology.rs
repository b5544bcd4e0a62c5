//! Topology: routes, services and upstreams, with the tiers that serve.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Json;
use schemars::JsonSchema;
use serde::Serialize;

use crate::access::tokens::Role;
use crate::admin::resource::health::{hold, not_reporting, state};
use crate::admin::route::{ApiRoute, Content};
use crate::admin::state::Admin;
use crate::admin::view::health::HealthWord;
use crate::admin::view::order::{HoldView, StateWord};
use crate::build::Build;
use crate::failover::ledger::Ledger;
use crate::failover::round::rounded;
use crate::failover::traffic::summary::{NodeSummary, Summary, TargetSummary};
use crate::model::name::Name;
use crate::model::target::Target;
use crate::model::upstream::Upstream;

/// Returns the routes.
pub(crate) fn routes() -> Vec<ApiRoute> {
    let summary = "Read all routes, services and upstreams, with the tiers that serve";
    vec![ApiRoute::get("/topology", Role::Read, summary, read, Content::json::<TopologyView>())]
}

/// Routes, services and upstreams, with the tiers that serve.
#[derive(Debug, Serialize, JsonSchema)]
struct TopologyView {
    /// Names of the fleets.
    fleets: Vec<String>,
    routes: Vec<TopologyRouteView>,
    services: Vec<TopologyServiceView>,
    upstreams: Vec<TopologyUpstreamView>,
    /// Connected Envoys that do not report their load.
    not_reporting: Vec<String>,
}

/// Route of the topology.
#[derive(Debug, Serialize, JsonSchema)]
struct TopologyRouteView {
    /// Name of the route.
    name: String,
    /// Service that it leads to; null if it leads to none.
    service: Option<String>,
}

/// Service of the topology.
#[derive(Debug, Serialize, JsonSchema)]
struct TopologyServiceView {
    /// Name of the service.
    name: String,
    /// Upstreams that it uses.
    upstreams: Vec<String>,
}

/// Upstream of the topology.
#[derive(Debug, Serialize, JsonSchema)]
struct TopologyUpstreamView {
    /// Name of the upstream.
    name: String,
    /// Services that use it.
    services: Vec<String>,
    /// Tier that serves at most Envoys; null if no Envoy ever reported one.
    serving_priority: Option<u32>,
    /// Time since which that tier serves.
    since: Option<String>,
    /// True if no Envoy sent requests recently.
    stale: bool,
    /// Requests to all targets, retries included.
    requests_per_second: f64,
    /// Hold of a standby in force.
    hold: Option<HoldView>,
    /// Pinned tier.
    pin: Option<u32>,
    tiers: Vec<TopologyTierView>,
}

/// Tier of an upstream of the topology.
#[derive(Debug, Serialize, JsonSchema)]
struct TopologyTierView {
    /// Number of the tier.
    priority: u32,
    /// True if it serves at most Envoys.
    serving: bool,
    /// Percentage of the requests.
    share: f64,
    /// Envoys at which it serves.
    nodes: Vec<String>,
    targets: Vec<TopologyTargetView>,
}

/// Target of a tier of the topology.
#[derive(Debug, Serialize, JsonSchema)]
struct TopologyTargetView {
    /// Address of the target.
    target: String,
    /// Health; null if neither traffic nor checks ever showed it.
    health: Option<HealthWord>,
    /// True if the health was seen too long ago to count.
    stale: bool,
    /// Envoys that see another health.
    disagree: Vec<String>,
    /// State in force; a drill counts as `down`.
    state: StateWord,
    /// Percentage of the requests.
    share: f64,
    region: String,
    zone: String,
}

/// Handles `GET /topology`.
async fn read(State(admin): State<Admin>) -> Json<TopologyView> {
    let (build, ledger) = (admin.cache.build(), admin.supervisor.ledger());
    let mut users: BTreeMap<&Name, Vec<String>> = BTreeMap::new();
    for service in build.model.services.values() {
        for upstream in service.upstreams() {
            users.entry(&upstream.name).or_default().push(service.name.to_string());
        }
    }
    let upstreams = build.model.upstreams.values().map(|upstream| {
        let services = users.remove(&upstream.name).unwrap_or_default();
        of_upstream(&admin, &build, &ledger, upstream, services)
    });
    let upstreams = upstreams.collect();
    let routes = build.model.routes.values().map(|route| TopologyRouteView {
        name: route.name.to_string(),
        service: route.forward().map(|forward| forward.service.name.to_string()),
    });
    let services = build.model.services.values().map(|service| TopologyServiceView {
        name: service.name.to_string(),
        upstreams: service.upstreams().map(|upstream| upstream.name.to_string()).collect(),
    });
    Json(TopologyView {
        fleets: build.model.fleet_names().into_iter().map(|name| name.to_string()).collect(),
        routes: routes.collect(),
        services: services.collect(),
        upstreams,
        not_reporting: not_reporting(&admin),
    })
}

fn of_upstream(
    admin: &Admin,
    build: &Build,
    ledger: &Ledger,
    upstream: &Upstream,
    services: Vec<String>,
) -> TopologyUpstreamView {
    let seen = admin.supervisor.summary(build, upstream);
    let mut tiers: BTreeMap<u32, TopologyTierView> = BTreeMap::new();
    let mut shares: BTreeMap<u32, f64> = BTreeMap::new();
    for target in &upstream.targets {
        let own = seen.targets.get(&target.address);
        *shares.entry(target.tier).or_default() += own.map_or(0.0, |own| own.share);
        let tier = tiers.entry(target.tier).or_insert_with(|| of_tier(target.tier, upstream, &seen));
        tier.targets.push(of_target(target, own, state(ledger, upstream, target)));
    }
    for (priority, tier) in &mut tiers {
        tier.share = rounded(shares[priority]);
    }
    TopologyUpstreamView {
        name: upstream.name.to_string(),
        services,
        serving_priority: seen.serving,
        since: seen.since.map(|at| at.to_string()),
        stale: seen.is_stale,
        requests_per_second: rounded(seen.requests_per_second),
        hold: hold(ledger, upstream),
        pin: ledger.orders.pins.get(&upstream.name).map(|pin| pin.priority),
        tiers: tiers.into_values().collect(),
    }
}

/// Returns a tier without its targets. Where distance counts, an Envoy has other tiers than were declared.
fn of_tier(priority: u32, upstream: &Upstream, seen: &Summary) -> TopologyTierView {
    let by_distance = upstream.failover.locality;
    let serving = if by_distance { seen.busiest_tier(upstream) } else { seen.serving };
    let serves_at = |node: &NodeSummary| {
        let serving = if by_distance { node.busiest_tier(upstream) } else { node.serving };
        serving == Some(priority) && (!node.is_stale || seen.is_stale)
    };
    TopologyTierView {
        priority,
        serving: serving == Some(priority),
        share: 0.0,
        nodes: seen.nodes.iter().filter(|(_, node)| serves_at(node)).map(|(id, _)| id.to_string()).collect(),
        targets: Vec::new(),
    }
}

fn of_target(target: &Target, seen: Option<&TargetSummary>, state: StateWord) -> TopologyTargetView {
    let disagree = seen.map(|seen| seen.disagree.iter().map(ToString::to_string).collect());
    TopologyTargetView {
        target: target.address.to_string(),
        health: seen.and_then(|seen| seen.is_healthy).map(HealthWord::new),
        stale: seen.is_some_and(|seen| seen.is_stale && seen.is_healthy.is_some()),
        disagree: disagree.unwrap_or_default(),
        state,
        share: rounded(seen.map_or(0.0, |seen| seen.share)),
        region: target.locality.region.clone(),
        zone: target.locality.zone.clone(),
    }
}
