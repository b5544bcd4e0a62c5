//! Supervision over time: as time passes and Envoys report, drills begin and end, and standbys are held and
//! released.

use jiff::Timestamp;
use serde_json::json;
use tracing::warn;

use super::{RETURN_TIMEOUT, Supervision, Supervisor, drill_event, later, rounded, shares};
use crate::build::Build;
use crate::failover::history::{Cause, FailoverChange, History};
use crate::failover::orders::Orders;
use crate::failover::orders::decide::{OrderRefusal, Situation};
use crate::failover::orders::drill::{DrillObservations, DrillRun};
use crate::failover::orders::hold::{Hold, HoldOutcome, HoldPhase, PrimariesStatus};
use crate::failover::traffic::summary::{Summary, TargetSummary};
use crate::model::failback::Failback;
use crate::model::name::Name;
use crate::model::selector::TargetSelector;
use crate::model::target::{Address, Target};
use crate::model::upstream::Upstream;

impl Supervisor {
    pub(super) fn watch_drills(
        &self,
        supervision: &Supervision,
        orders: &mut Orders,
        build: &Build,
        now: Timestamp,
    ) {
        for (id, drill) in orders.drills.iter_mut().filter(|(_, drill)| drill.is_running()) {
            let Some(upstream) = build.model.upstreams.get(&drill.upstream) else {
                drill.abort(now, "the upstream is gone".to_owned());
                continue;
            };
            for node in self.without_drilled(build, upstream, drill) {
                drill.shifted(&node, now);
            }
            let before = supervision.drills.get(id).copied().unwrap_or_default();
            let totals = self.inner.live.totals(&drill.upstream);
            let totals = totals.since(before);
            let seen = DrillObservations {
                requests: totals.requests,
                errors: totals.errors,
                share: shares(&self.summary_without_nodes(build, upstream)),
                latency: totals.latency().map(rounded),
            };
            drill.watch(now, seen);
        }
    }

    /// Returns the Envoys that sent requests since a drill began, and recently none to the targets it takes
    /// down.
    fn without_drilled(&self, build: &Build, upstream: &Upstream, drill: &DrillRun) -> Vec<String> {
        if drill.nodes.iter().all(|node| drill.shift_seconds.contains_key(node)) {
            return Vec::new();
        }
        let picture = self.summary(build, upstream);
        let is_drilled = |address: &Address| {
            let mut targets = upstream.targets.iter().filter(|target| target.address == *address);
            targets.any(|target| drill.includes(target))
        };
        let nodes = drill.nodes.iter().filter_map(|name| Some((name, picture.nodes.get(name.as_str())?)));
        let moved = nodes.filter(|(_, node)| {
            let sent = |is_wanted: bool| {
                let targets = node.targets.iter().filter(|(address, _)| is_drilled(address) == is_wanted);
                targets.map(|(_, target)| target.requests_per_second).sum::<f64>()
            };
            node.last > drill.started && sent(true) == 0.0 && sent(false) > 0.0
        });
        moved.map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn watch_holds(
        &self,
        supervision: &mut Supervision,
        orders: &mut Orders,
        build: &Build,
        now: Timestamp,
    ) {
        let Supervision { ledger, out_by_order, .. } = supervision;
        let next = |(name, hold): (Name, Hold)| {
            let upstream = build.model.upstreams.get(&name)?;
            if is_out_by_order(&ledger.orders, upstream, hold.tier) {
                out_by_order.insert(name.clone(), now);
            }
            // Traffic to primaries is no sign that the standby failed while orders keep it out of rotation,
            // and for a time after.
            let is_out = out_by_order.get(&name).is_some_and(|out| now.duration_since(*out) < RETURN_TIMEOUT);
            if is_out && upstream.failback.holds() {
                return Some((name, hold));
            }
            out_by_order.remove(&name);
            let picture = self.summary_without_nodes(build, upstream);
            let serves = match hold.phase {
                HoldPhase::Step { .. } => home_answers(upstream, &picture),
                _ if self.serving(&ledger.history, build, upstream) == Some(0) => Some(true),
                _ => (picture.requests_per_second > 0.0).then_some(false),
            };
            let home = PrimariesStatus { serves, is_healthy: home_is_healthy(upstream, &picture) };
            match hold.next(now, &upstream.failback, home) {
                HoldOutcome::Hold(hold) => Some((name, hold)),
                HoldOutcome::Over => None,
            }
        };
        orders.holds = std::mem::take(&mut orders.holds).into_iter().filter_map(next).collect();
    }

    /// Finds failovers that outlast the order that caused them: the traffic does not return, so the primaries
    /// failed meanwhile. From now on the failure is the cause, and the standby is held as for any other
    /// failure. Returns a change for each of these failovers.
    pub(super) fn blame(
        &self,
        supervision: &mut Supervision,
        orders: &mut Orders,
        build: &Build,
        now: Timestamp,
    ) -> Vec<FailoverChange> {
        let ordered =
            supervision.ledger.history.all_open().filter(|(_, failover)| !failover.cause.is_failure());
        let causes = ordered.filter_map(|(id, failover)| {
            let upstream = build.model.upstreams.get(&failover.upstream)?;
            let cause = Cause::of(upstream, orders, 0);
            cause.is_failure().then_some((id, upstream, cause))
        });
        let causes: Vec<_> = causes.collect();
        supervision
            .unexplained
            .retain(|name, _| causes.iter().any(|(_, upstream, _)| upstream.name == *name));
        let mut blamed = Vec::new();
        for (id, upstream, cause) in causes {
            let since = *supervision.unexplained.entry(upstream.name.clone()).or_insert(now);
            if now.duration_since(since) < RETURN_TIMEOUT
                || !self.stays_away(build, upstream, since + RETURN_TIMEOUT / 2)
            {
                continue;
            }
            supervision.ledger.history.blame(id, cause);
            blamed.push(FailoverChange::Spread(id));
            let serving = self.serving(&supervision.ledger.history, build, upstream);
            hold_if_asked(
                orders,
                &mut supervision.ledger.history,
                (upstream, serving),
                FailoverChange::Spread(id),
                now,
            );
        }
        blamed
    }

    /// True if a standby serves most of the Envoys that sent requests after this time.
    fn stays_away(&self, build: &Build, upstream: &Upstream, after: Timestamp) -> bool {
        let picture = self.summary(build, upstream);
        let told = picture.nodes.values().filter(|node| node.last > after);
        let (away, home): (Vec<_>, Vec<_>) = told.partition(|node| node.serving.is_some_and(|tier| tier > 0));
        away.len() > home.len()
    }

    /// Returns the declared tier that serves at most Envoys. With locality failover, where Envoys count tiers
    /// differently, it is the declared tier with the most requests.
    pub(super) fn serving(&self, history: &History, build: &Build, upstream: &Upstream) -> Option<u32> {
        match upstream.failover.locality {
            true => self.summary_without_nodes(build, upstream).busiest_tier(upstream),
            false => history.serving(&upstream.name),
        }
    }

    /// Begins the scheduled drills that are due.
    pub(super) fn begin_drills(
        &self,
        supervision: &mut Supervision,
        orders: &mut Orders,
        build: &Build,
        now: Timestamp,
    ) {
        for (upstream, drill) in build.drilled() {
            let entry =
                supervision.due.get(&upstream.name).filter(|(schedule, _)| *schedule == drill.schedule);
            let due = match entry {
                Some((_, due)) => *due,
                None => {
                    let next = (drill.schedule.clone(), drill.next(now));
                    supervision.due.insert(upstream.name.clone(), next);
                    continue;
                }
            };
            if due.is_none_or(|due| due > now) {
                continue;
            }
            supervision.due.insert(upstream.name.clone(), (drill.schedule.clone(), drill.next(now)));
            let is_healthy = |upstream: &Upstream, target: &Target| self.is_healthy(build, upstream, target);
            let has_failed = |name: &Name| supervision.ledger.history.has_failed(name);
            let is_healthy = &is_healthy;
            let scene = Situation { build, orders, is_healthy, has_failed: &has_failed, now, force: false };
            let parts: Result<Vec<TargetSelector>, _> =
                drill.down.iter().map(|it| TargetSelector::parse(it, upstream)).collect();
            let begun = parts.map_err(|(message, _)| OrderRefusal::Invalid(message)).and_then(|parts| {
                let until = later(now, drill.length);
                scene.drill(upstream, parts, until, Some(drill.error_rate), "schedule".to_owned())
            });
            match begun {
                Ok(begun) => *orders = begun,
                Err(refusal) => {
                    warn!(upstream = %upstream.name, reason = %refusal, "a scheduled drill was left out");
                    let what = json!({ "state": "refused", "reason": refusal.to_string() });
                    self.tell(drill_event, &upstream.name, what);
                }
            }
        }
    }
}

/// True if orders take all targets of a tier out of rotation, so that it did not fail.
fn is_out_by_order(orders: &Orders, upstream: &Upstream, tier: u32) -> bool {
    let is_out =
        |target: &Target| orders.is_drilled(upstream, target) || orders.state_of(upstream, target).is_some();
    upstream.targets.iter().filter(|target| target.tier == tier).all(is_out)
}

/// Returns the summaries of the primaries of an upstream.
fn primaries<'p>(upstream: &'p Upstream, picture: &'p Summary) -> impl Iterator<Item = &'p TargetSummary> {
    let primaries = upstream.targets.iter().filter(|target| target.tier == 0);
    primaries.filter_map(|target| picture.targets.get(&target.address))
}

/// True if a primary answers requests, false if all primaries of known health are unhealthy; none otherwise.
fn home_answers(upstream: &Upstream, picture: &Summary) -> Option<bool> {
    let answers = |seen: &TargetSummary| seen.requests_per_second > 0.0 && seen.is_healthy == Some(true);
    if primaries(upstream, picture).any(answers) {
        return Some(true);
    }
    let known = primaries(upstream, picture).filter(|seen| !seen.is_stale && seen.is_healthy.is_some());
    known.map(|seen| seen.is_healthy == Some(true)).reduce(|one, another| one || another).filter(|any| !any)
}

/// True if a primary is healthy; none without recent health checks or without a recent health.
fn home_is_healthy(upstream: &Upstream, picture: &Summary) -> Option<bool> {
    if picture.checked_by.is_empty() {
        return None;
    }
    let known = primaries(upstream, picture).filter(|target| !target.is_stale);
    known.filter_map(|target| target.is_healthy).reduce(|one, another| one || another)
}

/// Begins a hold if the failback policy asks for one and a standby serves because the primaries failed. An
/// existing hold is moved to the tier that serves.
pub(super) fn hold_if_asked(
    orders: &mut Orders,
    history: &mut History,
    (upstream, serving): (&Upstream, Option<u32>),
    change: FailoverChange,
    now: Timestamp,
) {
    let (FailoverChange::Began(id) | FailoverChange::Spread(id)) = change else { return };
    let Failback { at_most, .. } = &upstream.failback;
    let serving = serving.filter(|tier| *tier != 0);
    let Some(failover) = history.failovers.get_mut(&id) else { return };
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
    let is_flapping = at_most.is_some_and(|at_most| history.is_flapping(&upstream.name, now, at_most));
    if is_flapping {
        warn!(upstream = %upstream.name, "failbacks come too often: the standby is held until it is released");
    }
    if is_flapping || upstream.failback.release != crate::model::failback::Release::Auto {
        let hold = Hold::new(tier, now, &upstream.failback, is_flapping);
        orders.holds.insert(upstream.name.clone(), hold);
    }
}
