//! Health of an upstream: its targets and orders, and what traffic and health checks of all Envoys show.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Json;
use jiff::{SignedDuration, Timestamp};

use crate::access::tokens::Role;
use crate::admin::http::problem::Problem;
use crate::admin::order::unknown_upstream;
use crate::admin::route::{ApiRoute, Content};
use crate::admin::state::Admin;
use crate::admin::view::drill::DrillView;
use crate::admin::view::failover::FailoverView;
use crate::admin::view::health::{
    HealthView, HealthWord, NodeHealthView, NodeTargetView, PinnedView, ResolutionView, TargetHealthView,
};
use crate::admin::view::order::{HoldView, StateView, StateWord};
use crate::failover::ledger::Ledger;
use crate::failover::round::rounded;
use crate::failover::traffic::summary::{NodeSummary, NodeTarget, Summary, TargetSummary};
use crate::model::name::Name;
use crate::model::target::{Address, Target};
use crate::model::upstream::Upstream;

/// Returns the routes.
pub(crate) fn routes() -> Vec<ApiRoute> {
    let summary = "Read the health of an upstream and of its targets";
    let content = Content::json::<HealthView>();
    vec![ApiRoute::get("/upstreams/{name}/health", Role::Read, summary, read, content)]
}

/// Handles `GET /upstreams/{name}/health`.
async fn read(State(admin): State<Admin>, Path(name): Path<String>) -> Result<Json<HealthView>, Problem> {
    let build = admin.cache.build();
    let found = Name::parse(&name).and_then(|name| build.model.upstreams.get(&name));
    let upstream = found.ok_or_else(|| unknown_upstream(&name))?;
    let (ledger, seen) = (admin.supervisor.ledger(), admin.supervisor.summary(&build, upstream));
    let targets = upstream.targets.iter().map(|target| of_target(&admin, upstream, target, &seen, &ledger));
    let orders = &ledger.orders;
    let pin = orders.pins.get(&upstream.name);
    Ok(Json(HealthView {
        serving_priority: seen.serving,
        since: seen.since.map(|at| at.to_string()),
        stale: seen.is_stale,
        requests_per_second: rounded(seen.requests_per_second),
        targets: targets.collect(),
        nodes: seen.nodes.iter().map(of_node).collect(),
        not_reporting: not_reporting(&admin),
        checked_by: seen.checked_by.iter().map(ToString::to_string).collect(),
        pin: pin.map(|pin| PinnedView { priority: pin.priority, note: (&pin.metadata).into() }),
        hold: hold(&ledger, upstream),
        drill: orders.drill_of(&upstream.name).map(|(id, drill)| DrillView::new(id, drill)),
        failover: last_failover(&ledger, &upstream.name),
    }))
}

fn of_target(
    admin: &Admin,
    upstream: &Upstream,
    target: &Target,
    seen: &Summary,
    ledger: &Ledger,
) -> TargetHealthView {
    let order = ledger.orders.state_of(upstream, target);
    let is_known = !seen.nodes.is_empty();
    let TargetSummary { is_healthy, since, is_stale, share, requests_per_second, reported_by, disagree } =
        seen.targets.get(&target.address).cloned().unwrap_or_default();
    let resolved = admin.names.resolved(&target.address.host);
    TargetHealthView {
        target: target.address.to_string(),
        priority: target.tier,
        health: is_healthy.map(HealthWord::new),
        since: since.map(|at| at.to_string()),
        stale: is_stale && is_healthy.is_some(),
        state: state(ledger, upstream, target),
        order: order.map(|(part, order)| StateView::new(part, Some(order))),
        share: is_known.then_some(rounded(share)),
        requests_per_second: is_known.then_some(rounded(requests_per_second)),
        reported_by: reported_by.iter().map(ToString::to_string).collect(),
        disagree: disagree.iter().map(ToString::to_string).collect(),
        resolved: resolved.map(|resolved| ResolutionView {
            age: resolved.age.map(|age| rounded(age.as_secs_f64())),
            error: resolved.error,
        }),
    }
}

fn of_node((id, seen): (&Arc<str>, &NodeSummary)) -> NodeHealthView {
    let target = |(address, seen): (&Address, &NodeTarget)| NodeTargetView {
        target: address.to_string(),
        health: seen.is_healthy.map(HealthWord::new),
        share: rounded(seen.share),
        requests_per_second: rounded(seen.requests_per_second),
    };
    NodeHealthView {
        id: id.to_string(),
        serving_priority: seen.serving,
        since: seen.since.to_string(),
        last_seen: seen.last.to_string(),
        stale: seen.is_stale,
        requests_per_second: rounded(seen.requests_per_second),
        targets: seen.targets.iter().map(target).collect(),
    }
}

/// Returns the state in force of a target; a drill counts as `down`.
pub(crate) fn state(ledger: &Ledger, upstream: &Upstream, target: &Target) -> StateWord {
    match ledger.orders.state_of(upstream, target) {
        _ if ledger.orders.is_drilled(upstream, target) => StateWord::Down,
        Some((_, order)) => order.state.into(),
        None => StateWord::Auto,
    }
}

/// Time after its connection within which an Envoy reports its load: it tries every 5 s.
const SILENCE: SignedDuration = SignedDuration::from_secs(12);

/// Returns the connected Envoys that never reported their load: their bootstrap has no `load_stats_config`.
pub(crate) fn not_reporting(admin: &Admin) -> Vec<String> {
    let (nodes, now) = (admin.nodes.nodes().into_iter(), Timestamp::now());
    let silent = nodes.filter(|node| node.disconnected_at.is_none() && node.last_load_report.is_none());
    let silent = silent.filter(|node| now.duration_since(node.connected_at) > SILENCE);
    let ids: BTreeSet<String> = silent.map(|presence| presence.node.id).collect();
    ids.into_iter().collect()
}

/// Returns the hold of an upstream.
pub(crate) fn hold(ledger: &Ledger, upstream: &Upstream) -> Option<HoldView> {
    let hold = ledger.orders.holds.get(&upstream.name)?;
    Some(HoldView::new(hold, &upstream.failback, Timestamp::now()))
}

/// Returns the failover of an upstream that lasts, else its last one.
fn last_failover(ledger: &Ledger, upstream: &Name) -> Option<FailoverView> {
    let open = ledger.history.open(upstream);
    let mut all = ledger.history.failovers.iter().rev();
    let last = || all.find(|(_, failover)| failover.upstream == *upstream).map(|(id, it)| (*id, it));
    open.or_else(last).map(|(id, failover)| FailoverView::new(id, failover))
}
