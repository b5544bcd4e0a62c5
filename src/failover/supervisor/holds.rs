//! Supervision of held standbys: whether their primaries serve and are healthy, and when a hold begins.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use tracing::warn;

use super::view::TrafficView;
use crate::failover::history::FailoverChange;
use crate::failover::ledger::Ledger;
use crate::failover::orders::Orders;
use crate::failover::orders::hold::{Hold, HoldOutcome, HoldPhase, PrimariesStatus};
use crate::failover::orders::time::later;
use crate::failover::traffic::summary::{Summary, TargetSummary};
use crate::model::failback::{Failback, Release};
use crate::model::name::Name;
use crate::model::target::Target;
use crate::model::upstream::Upstream;

/// Time for the traffic to return after the end of an order that moved it. If it does not return, the
/// primaries failed meanwhile.
pub(super) const RETURN_TIMEOUT: Duration = Duration::from_secs(5);

/// Supervision of held standbys.
#[derive(Debug, Default)]
pub(super) struct HoldSupervision {
    /// Time at which orders last left the tier of a held standby without targets, by upstream.
    out_by_order: BTreeMap<Name, Timestamp>,
}

impl HoldSupervision {
    /// Moves each hold on to its next phase, and drops those that are over.
    pub(super) fn update(&mut self, orders: &mut Orders, ledger: &Ledger, view: TrafficView<'_>) {
        let next = |(name, hold): (Name, Hold)| {
            let upstream = view.build.model.upstreams.get(&name)?;
            let hold = self.next(upstream, hold, ledger, view)?;
            Some((name, hold))
        };
        orders.holds = std::mem::take(&mut orders.holds).into_iter().filter_map(next).collect();
    }

    fn next(
        &mut self,
        upstream: &Upstream,
        hold: Hold,
        ledger: &Ledger,
        view: TrafficView<'_>,
    ) -> Option<Hold> {
        let name = &upstream.name;
        if is_out_by_order(&ledger.orders, upstream, hold.tier) {
            self.out_by_order.insert(name.clone(), view.now);
        }
        // Traffic to primaries is no sign that the standby failed while orders keep it out of rotation, and
        // for a time after.
        let is_out = self.out_by_order.get(name).is_some_and(|out| view.now < later(*out, RETURN_TIMEOUT));
        if is_out && upstream.failback.holds() {
            return Some(hold);
        }
        self.out_by_order.remove(name);
        let summary = view.summary_without_nodes(upstream);
        let serves = match hold.phase {
            HoldPhase::Step { .. } => primaries_answer(upstream, &summary),
            _ if view.serving_tier(&ledger.history, upstream) == Some(0) => Some(true),
            _ => (summary.requests_per_second > 0.0).then_some(false),
        };
        let primaries = PrimariesStatus { serves, is_healthy: primaries_are_healthy(upstream, &summary) };
        match hold.next(view.now, &upstream.failback, primaries) {
            HoldOutcome::Hold(hold) => Some(hold),
            HoldOutcome::Over => None,
        }
    }
}

/// Begins a hold if the failback policy asks for one and a standby serves because the primaries failed. An
/// existing hold is moved to the tier that serves.
pub(super) fn hold_after_failover(
    orders: &mut Orders,
    ledger: &mut Ledger,
    upstream: &Upstream,
    change: FailoverChange,
    view: TrafficView<'_>,
) {
    let (FailoverChange::Began(id) | FailoverChange::Spread(id)) = change else { return };
    let serving = view.serving_tier(&ledger.history, upstream).filter(|tier| *tier != 0);
    let Some(failover) = ledger.history.failovers.get_mut(&id) else { return };
    let Some(tier) = serving.filter(|_| failover.cause.is_failure()) else { return };
    if !upstream.failback.holds() {
        return;
    }
    // The held standby failed, and another tier serves.
    if let Some(hold) = orders.holds.get_mut(&upstream.name) {
        hold.tier = tier;
        return;
    }
    if failover.was_held {
        return;
    }
    failover.was_held = true;
    let Failback { at_most, release } = &upstream.failback;
    let is_flapping =
        at_most.is_some_and(|at_most| ledger.history.is_flapping(&upstream.name, view.now, at_most));
    if is_flapping {
        warn!(upstream = %upstream.name, "failbacks come too often: the standby is held until it is released");
    }
    if is_flapping || *release != Release::Auto {
        let hold = Hold::new(tier, view.now, &upstream.failback, is_flapping);
        orders.holds.insert(upstream.name.clone(), hold);
    }
}

/// True if orders take all targets of a tier out of rotation, so that it did not fail.
fn is_out_by_order(orders: &Orders, upstream: &Upstream, tier: u32) -> bool {
    let is_out =
        |target: &Target| orders.is_drilled(upstream, target) || orders.state_of(upstream, target).is_some();
    upstream.targets.iter().filter(|target| target.tier == tier).all(is_out)
}

/// Returns the summaries of the primaries of an upstream.
fn primaries<'s>(upstream: &'s Upstream, summary: &'s Summary) -> impl Iterator<Item = &'s TargetSummary> {
    let primaries = upstream.targets.iter().filter(|target| target.tier == 0);
    primaries.filter_map(|target| summary.targets.get(&target.address))
}

/// True if a primary answers requests, false if all primaries of known health are unhealthy; none otherwise.
fn primaries_answer(upstream: &Upstream, summary: &Summary) -> Option<bool> {
    let answers =
        |target: &TargetSummary| target.requests_per_second > 0.0 && target.is_healthy == Some(true);
    if primaries(upstream, summary).any(answers) {
        return Some(true);
    }
    let known = primaries(upstream, summary).filter(|target| !target.is_stale && target.is_healthy.is_some());
    let healthy = known.map(|target| target.is_healthy == Some(true));
    healthy.reduce(|one, another| one || another).filter(|any| !any)
}

/// True if a primary is healthy; none without recent health checks or without a recent health.
fn primaries_are_healthy(upstream: &Upstream, summary: &Summary) -> Option<bool> {
    if summary.checked_by.is_empty() {
        return None;
    }
    let known = primaries(upstream, summary).filter(|target| !target.is_stale);
    known.filter_map(|target| target.is_healthy).reduce(|one, another| one || another)
}
