//! Failovers, from the shifts of single Envoys and from orders that ended.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::drills;
use super::holds::{RETURN_TIMEOUT, hold_after_failover};
use super::view::TrafficView;
use crate::failover::history::{FailoverChange, History, cause_of};
use crate::failover::ledger::Ledger;
use crate::failover::orders::Orders;
use crate::failover::orders::time::later;
use crate::failover::traffic::Traffic;
use crate::failover::traffic::shift::TierShift;
use crate::model::cause::FailoverCause;
use crate::model::name::Name;
use crate::model::upstream::Upstream;

/// Applies shifts to the history, to running drills and to holds. Returns the changes of failovers.
pub(super) fn apply_shifts(
    ledger: &mut Ledger,
    orders: &mut Orders,
    shifts: &[TierShift],
    view: TrafficView<'_>,
) -> Vec<FailoverChange> {
    let mut changes = Vec::new();
    for shift in shifts {
        let Some(upstream) = view.build.model.upstreams.get(&shift.upstream) else { continue };
        let totals = view.traffic.totals(&shift.upstream);
        let change = ledger.history.apply(shift, || cause_of(upstream, orders, shift.errors), totals);
        drills::record_shift(orders, upstream, shift, view.now);
        if let Some(change) = change {
            hold_after_failover(orders, ledger, upstream, change, view);
            changes.push(change);
        }
    }
    changes
}

/// Returns the shifts of a node that is gone: no tier serves it any more, also for upstreams that it last
/// reported before a restart.
pub(super) fn shifts_of_departed(
    history: &History,
    traffic: &Traffic,
    node: &str,
    at: Timestamp,
) -> Vec<TierShift> {
    let mut shifts = traffic.clear_serving(node, at);
    for upstream in history.on_standby(node) {
        if shifts.iter().all(|shift| shift.upstream != *upstream) {
            let (node, upstream) = (node.to_owned(), upstream.clone());
            shifts.push(TierShift { node, upstream, from: None, to: None, at, errors: 0 });
        }
    }
    shifts
}

/// Failovers that outlast the order that caused them.
#[derive(Debug, Default)]
pub(super) struct OutlastingFailovers {
    /// Time since which a standby serves although no order explains it any more, by upstream.
    since: BTreeMap<Name, Timestamp>,
}

impl OutlastingFailovers {
    /// Finds failovers that outlast the order that caused them: the traffic does not return, so the primaries
    /// failed meanwhile. From now on the failure is the cause, and the standby is held as for any other
    /// failure. Returns a change for each of these failovers.
    pub(super) fn reassign_causes(
        &mut self,
        ledger: &mut Ledger,
        orders: &mut Orders,
        view: TrafficView<'_>,
    ) -> Vec<FailoverChange> {
        let failures = failures_after_orders(&ledger.history, orders, view);
        self.since.retain(|name, _| failures.iter().any(|(_, upstream, _)| upstream.name == *name));
        let mut changes = Vec::new();
        for (id, upstream, cause) in failures {
            let since = *self.since.entry(upstream.name.clone()).or_insert(view.now);
            let is_early = view.now < later(since, RETURN_TIMEOUT);
            if is_early || !is_on_standby(view, upstream, later(since, RETURN_TIMEOUT / 2)) {
                continue;
            }
            ledger.history.set_cause(id, cause);
            changes.push(FailoverChange::Spread(id));
            hold_after_failover(orders, ledger, upstream, FailoverChange::Spread(id), view);
        }
        changes
    }
}

/// Returns the open failovers that an order caused and that only a failure explains by now, with that cause.
fn failures_after_orders<'v>(
    history: &History,
    orders: &Orders,
    view: TrafficView<'v>,
) -> Vec<(u64, &'v Upstream, FailoverCause)> {
    let ordered = history.all_open().filter(|(_, failover)| !failover.cause.is_failure());
    let failures = ordered.filter_map(|(id, failover)| {
        let upstream = view.build.model.upstreams.get(&failover.upstream)?;
        let cause = cause_of(upstream, orders, 0);
        cause.is_failure().then_some((id, &**upstream, cause))
    });
    failures.collect()
}

/// True if a standby serves most of the Envoys that sent requests after this time.
fn is_on_standby(view: TrafficView<'_>, upstream: &Upstream, after: Timestamp) -> bool {
    let summary = view.summary(upstream);
    let reporting = summary.nodes.values().filter(|node| node.last > after);
    let (standby, primaries): (Vec<_>, Vec<_>) =
        reporting.partition(|node| node.serving.is_some_and(|tier| tier > 0));
    standby.len() > primaries.len()
}
