//! Everything in one picture: which routes lead to which upstreams, and which of their tiers serves.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use crate::admin::Admin;
use crate::admin::resource::health::{hold, not_reporting, rounded, state_of, word};
use crate::build::Build;
use crate::failover::ledger::Ledger;
use crate::failover::traffic::NodePicture;
use crate::model::name::Name;
use crate::model::upstream::Upstream;

/// `GET /topology`
pub(crate) async fn show(State(admin): State<Admin>) -> Json<Value> {
    let (build, ledger) = (admin.cache.build(), admin.supervisor.ledger());
    let mut users: BTreeMap<&Name, Vec<&Name>> = BTreeMap::new();
    for service in build.model.services.values() {
        for upstream in service.upstreams() {
            users.entry(&upstream.name).or_default().push(&service.name);
        }
    }
    let upstreams = build.model.upstreams.values().map(|upstream| {
        let services = users.get(&upstream.name).cloned().unwrap_or_default();
        of_upstream(&admin, &build, &ledger, upstream, &services)
    });
    let routes = build.model.routes.values().map(|route| {
        let service = route.forward().map(|forward| forward.service.name.clone());
        json!({ "name": route.name, "service": service })
    });
    let services = build.model.services.values().map(|service| {
        let upstreams: Vec<&Name> = service.upstreams().map(|upstream| &upstream.name).collect();
        json!({ "name": service.name, "upstreams": upstreams })
    });
    Json(json!({
        "fleets": build.model.fleet_names(),
        "routes": routes.collect::<Vec<_>>(),
        "services": services.collect::<Vec<_>>(),
        "upstreams": upstreams.collect::<Vec<_>>(),
        "not_reporting": not_reporting(&admin),
    }))
}

fn of_upstream(
    admin: &Admin,
    build: &Build,
    ledger: &Ledger,
    upstream: &Upstream,
    services: &[&Name],
) -> Value {
    let seen = admin.supervisor.picture(build, upstream);
    let mut tiers: BTreeMap<u32, Vec<Value>> = BTreeMap::new();
    let mut shares: BTreeMap<u32, f64> = BTreeMap::new();
    for target in &upstream.targets {
        let own = seen.targets.get(&target.address);
        let share = own.map_or(0.0, |own| own.share);
        *shares.entry(target.tier).or_default() += share;
        let health = own.and_then(|own| own.is_healthy).map(word);
        let disagree = own.map(|own| own.disagree.iter().map(ToString::to_string).collect::<Vec<_>>());
        tiers.entry(target.tier).or_default().push(json!({
            "target": target.address.to_string(),
            "health": health,
            "stale": own.is_some_and(|own| own.is_stale && own.is_healthy.is_some()),
            "disagree": disagree.unwrap_or_default(),
            "state": state_of(ledger, upstream, target),
            "share": rounded(share),
            "region": target.locality.region,
            "zone": target.locality.zone,
        }));
    }
    // Where distance counts, an Envoy has other tiers than were declared.
    let by_distance = upstream.failover.locality;
    let serving = if by_distance { seen.busiest_tier(upstream) } else { seen.serving };
    let serving_at =
        |node: &NodePicture| if by_distance { node.busiest_tier(upstream) } else { node.serving };
    let tiers = tiers.into_iter().map(|(priority, targets)| {
        let is_told =
            |node: &NodePicture| serving_at(node) == Some(priority) && (!node.is_stale || seen.is_stale);
        let nodes = seen.nodes.iter().filter(|(_, node)| is_told(node));
        json!({
            "priority": priority,
            "serving": serving == Some(priority),
            "share": rounded(shares[&priority]),
            "nodes": nodes.map(|(id, _)| id.to_string()).collect::<Vec<_>>(),
            "targets": targets,
        })
    });
    json!({
        "name": upstream.name,
        "services": services,
        "serving_priority": seen.serving,
        "since": seen.since.map(|at| at.to_string()),
        "stale": seen.is_stale,
        "requests_per_second": rounded(seen.requests_per_second),
        "hold": hold(ledger, upstream),
        "pin": ledger.orders.pins.get(&upstream.name).map(|pin| pin.priority),
        "tiers": tiers.collect::<Vec<_>>(),
    })
}
