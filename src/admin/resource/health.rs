//! How the targets of an upstream fare: where they stand, what operators ordered, what the traffic of all Envoys and
//! their checks show, and what their names resolve to. What was seen too long ago is said to be stale.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};

use crate::admin::Admin;
use crate::admin::problem::Problem;
use crate::admin::resource::orders::{drill_view, failover_view, state_view};
use crate::failover::ledger::Ledger;
use crate::failover::orders::drill;
use crate::failover::traffic::{NodePicture, NodeTarget, Picture, TargetPicture};
use crate::model::name::Name;
use crate::model::target::{Address, Target};
use crate::model::upstream::Upstream;

#[derive(Serialize)]
pub(crate) struct HealthView {
    /// The tier that serves at most Envoys; null when none ever said.
    serving_priority: Option<u32>,
    since: Option<String>,
    /// No Envoy sent requests of late: what is shown is what was seen last.
    stale: bool,
    requests_per_second: f64,
    targets: Vec<TargetView>,
    /// By Envoy.
    nodes: Vec<NodeView>,
    /// Connected Envoys that do not report their load.
    not_reporting: Vec<String>,
    /// Those that check its targets on our behalf, so that the health of one without traffic is known.
    checked_by: Vec<String>,
    /// What is in force.
    pin: Option<Value>,
    hold: Option<Value>,
    drill: Option<Value>,
    /// The one that lasts, else the last one.
    failover: Option<Value>,
}

#[derive(Serialize)]
struct NodeView {
    id: String,
    serving_priority: Option<u32>,
    since: String,
    last_seen: String,
    stale: bool,
    requests_per_second: f64,
    targets: Vec<Value>,
}

#[derive(Serialize)]
struct TargetView {
    target: String,
    priority: u32,
    /// `healthy` or `unhealthy`; null when neither traffic nor checks ever showed it.
    health: Option<&'static str>,
    /// Since when.
    since: Option<String>,
    /// Nobody knows of late.
    stale: bool,
    state: &'static str,
    /// Who ordered the state, and why.
    order: Option<Value>,
    share: Option<f64>,
    requests_per_second: Option<f64>,
    reported_by: Vec<String>,
    /// The Envoys that say otherwise.
    disagree: Vec<String>,
    /// Of a name that is looked up here.
    #[serde(skip_serializing_if = "Option::is_none")]
    resolved: Option<ResolvedView>,
}

#[derive(Serialize)]
struct ResolvedView {
    /// How old the answer in use is, in seconds; null when there never was one.
    age: Option<f64>,
    /// Why the newest look-up failed; null when it did not.
    error: Option<String>,
}

/// To one digit.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

impl TargetView {
    fn of(admin: &Admin, upstream: &Upstream, target: &Target, seen: &Picture, ledger: &Ledger) -> Self {
        let order = ledger.orders.state_of(upstream, target);
        let is_known = !seen.nodes.is_empty();
        let TargetPicture { is_healthy, since, is_stale, share, requests_per_second, reported_by, disagree } =
            seen.targets.get(&target.address).cloned().unwrap_or_default();
        Self {
            target: target.address.to_string(),
            priority: target.tier,
            health: is_healthy.map(word),
            since: since.map(|at| at.to_string()),
            stale: is_stale && is_healthy.is_some(),
            state: state_of(ledger, upstream, target),
            order: order.map(|(part, order)| state_view(part, Some(order))),
            share: is_known.then_some(rounded(share)),
            requests_per_second: is_known.then_some(rounded(requests_per_second)),
            reported_by: reported_by.iter().map(ToString::to_string).collect(),
            disagree: disagree.iter().map(ToString::to_string).collect(),
            resolved: admin.control.names().resolved(&target.address.host).map(|resolved| ResolvedView {
                age: resolved.age.map(|age| rounded(age.as_secs_f64())),
                error: resolved.error,
            }),
        }
    }
}

/// The word for the health of a target.
pub(crate) fn word(is_healthy: bool) -> &'static str {
    if is_healthy { "healthy" } else { "unhealthy" }
}

impl NodeView {
    fn of((id, seen): (&Arc<str>, &NodePicture)) -> Self {
        let target = |(address, seen): (&Address, &NodeTarget)| {
            json!({
                "target": address.to_string(),
                "health": seen.is_healthy.map(word),
                "share": rounded(seen.share),
                "requests_per_second": rounded(seen.requests_per_second),
            })
        };
        Self {
            id: id.to_string(),
            serving_priority: seen.serving,
            since: seen.since.to_string(),
            last_seen: seen.last.to_string(),
            stale: seen.is_stale,
            requests_per_second: rounded(seen.requests_per_second),
            targets: seen.targets.iter().map(target).collect(),
        }
    }
}

/// `GET /upstreams/{upstream}/health`
pub(crate) async fn upstream(
    State(admin): State<Admin>,
    Path(upstream): Path<String>,
) -> Result<Json<HealthView>, Problem> {
    let build = admin.cache.build();
    let found = Name::parse(&upstream).and_then(|name| build.model.upstreams.get(&name));
    let Some(found) = found else {
        return Err(Problem::not_found(&format!("no upstream is named `{upstream}`")));
    };
    let (ledger, seen) = (admin.supervisor.ledger(), admin.supervisor.picture(&build, found));
    let targets = found.targets.iter();
    Ok(Json(HealthView {
        serving_priority: seen.serving,
        since: seen.since.map(|at| at.to_string()),
        stale: seen.is_stale,
        requests_per_second: rounded(seen.requests_per_second),
        targets: targets.map(|target| TargetView::of(&admin, found, target, &seen, &ledger)).collect(),
        nodes: seen.nodes.iter().map(NodeView::of).collect(),
        not_reporting: not_reporting(&admin),
        checked_by: seen.checked_by.iter().map(ToString::to_string).collect(),
        pin: ledger
            .orders
            .pins
            .get(&found.name)
            .map(|pin| json!({ "priority": pin.priority, "note": pin.note })),
        hold: hold(&ledger, found),
        drill: ledger
            .orders
            .drill_of(&found.name)
            .map(|(id, drill): (u64, &drill::Drill)| drill_view(id, drill)),
        failover: failover(&ledger, &found.name),
    }))
}

/// What is in force for a target: a drill counts as `down`.
pub(crate) fn state_of(ledger: &Ledger, upstream: &Upstream, target: &Target) -> &'static str {
    match ledger.orders.state_of(upstream, target) {
        _ if ledger.orders.is_drilled(upstream, target) => "down",
        Some((_, order)) => order.state.word(),
        None => "auto",
    }
}

/// How long after its connection an Envoy may take to report its load. It tries every 5 s.
const SILENCE: SignedDuration = SignedDuration::from_secs(12);

/// The connected Envoys that never said anything of their load: their bootstrap has no `load_stats_config`.
pub(crate) fn not_reporting(admin: &Admin) -> Vec<String> {
    let (silent, now) = (admin.nodes.nodes().into_iter(), Timestamp::now());
    let silent = silent.filter(|it| it.disconnected_at.is_none() && it.last_load_report.is_none());
    let silent = silent.filter(|it| now.duration_since(it.connected_at) > SILENCE);
    let ids: std::collections::BTreeSet<String> = silent.map(|presence| presence.node.id).collect();
    ids.into_iter().collect()
}

/// The standby that is held, and how long until it is tried to return: if that counts from the recovery of the primaries,
/// and they did not recover yet, as long as it will take from then on.
pub(crate) fn hold(ledger: &Ledger, upstream: &Upstream) -> Option<Value> {
    let (hold, failback) = (ledger.orders.holds.get(&upstream.name)?, &upstream.failback);
    let due = hold.due(failback);
    let waits = hold.waits_for_primaries(failback);
    let left = due.map(|due| due.duration_since(Timestamp::now()).as_secs_f64().max(0.0));
    Some(json!({
        "priority": hold.tier,
        "since": hold.since.to_string(),
        "phase": hold.phase,
        "flapping": hold.is_flapping,
        "waits_for_primaries": waits.is_some(),
        "due": due.map(|due| due.to_string()),
        "seconds_left": left.or(waits.map(|after| after.as_secs_f64())).map(rounded),
    }))
}

fn failover(ledger: &Ledger, upstream: &Name) -> Option<Value> {
    let open = ledger.history.open(upstream);
    let mut all = ledger.history.failovers.iter().rev();
    let last = || all.find(|(_, failover)| failover.upstream == *upstream).map(|(id, it)| (*id, it));
    open.or_else(last).map(|(id, failover)| failover_view(id, failover))
}
