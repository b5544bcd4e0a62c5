//! Supervisor of orders: owns the orders in force and the history of failovers, and acts as time passes and
//! Envoys report.
//!
//! Decisions are made by pure functions of [`orders`](crate::failover::orders) and
//! [`history`](crate::failover::history). This module makes their results durable and publishes them: to
//! Envoys through the [`Control`], to clients as events. Orders are durable before they are published.
//!
//! One task owns the ledger at a time: it holds the lock of `Supervision` while it derives the next orders
//! and puts them in force. Readers get a copy of the ledger as of the last change.

mod announce;
mod clock;
mod drills;
pub mod error;
mod executor;
mod failovers;
mod holds;
mod schedule;
mod upkeep;
mod view;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Mutex, mpsc};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, warn};

use self::announce::announce_refused_drill;
use self::clock::RunClock;
use self::drills::{DrillBaselines, record_baselines};
use self::error::Error;
use self::executor::Executor;
use self::failovers::{OutlastingFailovers, apply_shifts, shifts_of_departed};
use self::holds::HoldSupervision;
use self::schedule::DrillSchedule;
use self::upkeep::{Upkeep, drop_expired};
use self::view::TrafficView;
use crate::build::Build;
use crate::cache::Cache;
use crate::control::Control;
use crate::failover::ledger::Ledger;
use crate::failover::orders::Orders;
use crate::failover::orders::decide::{OrderRefusal, Situation};
use crate::failover::orders::time::Timed;
use crate::failover::traffic::Traffic;
use crate::failover::traffic::shift::TierShift;
use crate::failover::traffic::summary::Summary;
use crate::model::name::Name;
use crate::model::target::Target;
use crate::model::upstream::Upstream;
use crate::nodes::report::NodeReport;
use crate::store::Store;
use crate::telemetry::events::Events;

/// Interval of supervision.
const TICK_INTERVAL: Duration = Duration::from_millis(200);

/// Supervisor of orders. Cheap to clone: clones share their state.
#[derive(Debug, Clone)]
pub struct Supervisor {
    inner: Arc<SupervisorState>,
}

#[derive(Debug)]
struct SupervisorState {
    cache: Arc<Cache>,
    traffic: Arc<Traffic>,
    executor: Executor,
    /// Locked while orders change.
    supervision: Mutex<Supervision>,
}

/// State that one task at a time may change.
#[derive(Debug)]
struct Supervision {
    ledger: Ledger,
    drills: DrillBaselines,
    schedule: DrillSchedule,
    holds: HoldSupervision,
    outlasting: OutlastingFailovers,
    upkeep: Upkeep,
}

impl Supervisor {
    /// Returns a supervisor that continues from this ledger. The control already publishes its overrides.
    pub fn new(
        control: Control,
        store: Arc<dyn Store>,
        cache: Arc<Cache>,
        traffic: Arc<Traffic>,
        events: Events,
        ledger: Ledger,
    ) -> Self {
        let clock = RunClock::start();
        // Nodes that were on a standby may never return: they count as gone unless they report in time.
        ledger.history.nodes_on_standby().for_each(|node| traffic.leave(node, clock.now()));
        let executor = Executor::new(control, store, events, clock, &ledger);
        let supervision = Supervision {
            ledger,
            drills: DrillBaselines::default(),
            schedule: DrillSchedule::default(),
            holds: HoldSupervision::default(),
            outlasting: OutlastingFailovers::default(),
            upkeep: Upkeep::default(),
        };
        let supervision = Mutex::new(supervision);
        Self { inner: Arc::new(SupervisorState { cache, traffic, executor, supervision }) }
    }

    /// Returns the orders in force and the history, as of the last change, in wall time.
    pub fn ledger(&self) -> Arc<Ledger> {
        self.inner.executor.ledger()
    }

    /// Returns the summary of what Envoys observe of an upstream.
    pub fn summary(&self, build: &Build, upstream: &Upstream) -> Summary {
        self.inner.executor.clock.at_wall(self.view(build).summary(upstream))
    }

    /// Returns the summary without node names, which takes a fraction of the time.
    pub fn summary_without_nodes(&self, build: &Build, upstream: &Upstream) -> Summary {
        self.inner.executor.clock.at_wall(self.view(build).summary_without_nodes(upstream))
    }

    /// Supervises orders until the future is dropped.
    pub async fn run(&self) {
        let mut ticks = interval(TICK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let mut supervision = self.inner.supervision.lock().await;
            if let Err(error) = self.tick(&mut supervision).await {
                error!(error = &error as &dyn std::error::Error, "orders could not be looked after");
            }
        }
    }

    /// Ingests the reports of Envoys until the channel is closed.
    pub async fn ingest_reports(&self, mut reports: mpsc::Receiver<NodeReport>) {
        while let Some(report) = reports.recv().await {
            let (traffic, build) = (&self.inner.traffic, self.inner.cache.build());
            let now = self.inner.executor.clock.now();
            match report {
                NodeReport::Load { node, report } => {
                    let shifts = traffic.ingest(&node, now, &report, &build);
                    if !shifts.is_empty() {
                        let mut supervision = self.inner.supervision.lock().await;
                        self.apply(&mut supervision, &shifts, now).await;
                    }
                }
                NodeReport::HealthChecks { node, interval, findings } => {
                    traffic.ingest_checks(&node, now, interval, findings, &build);
                }
                NodeReport::Joined { node, locality } => traffic.join(&node, locality),
                NodeReport::Left { node } => traffic.leave(&node, now),
            }
        }
    }

    /// Puts the orders that `decide` returns into force, and returns its second value, in wall time.
    ///
    /// # Errors
    ///
    /// Fails if the orders are refused or cannot be stored, or if the control plane is shutting down.
    pub async fn execute<T: Timed>(
        &self,
        force: bool,
        decide: impl FnOnce(&Situation<'_>) -> Result<(Orders, T), OrderRefusal> + Send,
    ) -> Result<T, Error> {
        let mut supervision = self.inner.supervision.lock().await;
        let build = self.inner.cache.build();
        let view = self.view(&build);
        let (orders, value) = decide_in(&supervision.ledger, view, force, decide)?;
        self.put_in_force(&mut supervision, orders, view).await?;
        Ok(self.inner.executor.clock.at_wall(value))
    }

    /// Evaluates `decide` and returns its second value, in wall time, without changing anything.
    ///
    /// # Errors
    ///
    /// Fails if the orders would be refused.
    pub async fn preview<T: Timed>(
        &self,
        force: bool,
        decide: impl FnOnce(&Situation<'_>) -> Result<(Orders, T), OrderRefusal> + Send,
    ) -> Result<T, Error> {
        let supervision = self.inner.supervision.lock().await;
        let build = self.inner.cache.build();
        let view = self.view(&build);
        let (_, value) = decide_in(&supervision.ledger, view, force, decide)?;
        Ok(self.inner.executor.clock.at_wall(value))
    }

    /// Returns the view of the traffic at present.
    fn view<'a>(&'a self, build: &'a Build) -> TrafficView<'a> {
        self.view_at(build, self.inner.executor.clock.now())
    }

    fn view_at<'a>(&'a self, build: &'a Build, now: Timestamp) -> TrafficView<'a> {
        TrafficView { build, traffic: &self.inner.traffic, now }
    }

    /// Makes orders durable, then publishes them to Envoys and as events.
    async fn put_in_force(
        &self,
        supervision: &mut Supervision,
        mut orders: Orders,
        view: TrafficView<'_>,
    ) -> Result<(), Error> {
        let Supervision { ledger, drills, .. } = supervision;
        let begun = record_baselines(&mut orders, &ledger.orders, view);
        if let Some(before) = self.inner.executor.put_in_force(ledger, orders).await? {
            drills.keep(begun);
            self.inner.executor.announce(before, ledger);
        }
        Ok(())
    }

    /// Applies shifts of the serving tier, and stores and publishes what follows from them. Faults are
    /// logged: the traffic has moved whether or not it could be stored.
    async fn apply(&self, supervision: &mut Supervision, shifts: &[TierShift], now: Timestamp) {
        let (build, executor) = (self.inner.cache.build(), &self.inner.executor);
        let view = self.view_at(&build, now);
        let ledger = &mut supervision.ledger;
        let mut orders = ledger.orders.clone();
        let changes = apply_shifts(ledger, &mut orders, shifts, view);
        if let Err(error) = executor.record_failovers(&ledger.history, &changes).await {
            error!(error = &error as &dyn std::error::Error, "a failover was not stored");
        }
        if let Err(error) = self.put_in_force(supervision, orders, view).await {
            error!(error = &error as &dyn std::error::Error, "a standby is not held");
        }
        executor.publish_ledger(&supervision.ledger);
    }

    async fn tick(&self, supervision: &mut Supervision) -> Result<(), Error> {
        let (executor, wall) = (&self.inner.executor, Timestamp::now());
        let now = executor.clock.now();
        self.follow_wall_clock(supervision, now, wall).await?;
        self.end_departed(supervision, now).await;
        let build = self.inner.cache.build();
        let view = self.view_at(&build, now);
        let Supervision { ledger, drills, schedule, holds, outlasting, .. } = &mut *supervision;
        ledger.history.update_counts(|name| view.traffic.totals(name));
        let removed = ledger.history.end_removed(now, |name| build.model.upstreams.contains_key(name));
        executor.record_failovers(&ledger.history, &removed).await?;
        let mut orders = ledger.orders.without_expired(now);
        drills.update(&mut orders, view);
        let reassigned = outlasting.reassign_causes(ledger, &mut orders, view);
        executor.record_failovers(&ledger.history, &reassigned).await?;
        holds.update(&mut orders, ledger, view);
        for (upstream, refusal) in schedule.begin_due(&mut orders, &ledger.history, view, wall) {
            announce_refused_drill(&executor.events, &upstream, refusal.to_string());
        }
        self.put_in_force(supervision, orders, view).await?;
        let is_expired = self.maintain(supervision, view).await?;
        // The counters of open failovers go on, so readers get a new copy.
        if is_expired || !removed.is_empty() || !supervision.ledger.history.is_quiet() {
            executor.publish_ledger(&supervision.ledger);
        }
        Ok(())
    }

    /// Restates all times if the wall clock was set, and plans scheduled drills anew.
    async fn follow_wall_clock(
        &self,
        supervision: &mut Supervision,
        now: Timestamp,
        wall: Timestamp,
    ) -> Result<(), Error> {
        let executor = &self.inner.executor;
        let Some(set) = executor.clock.wall_clock().set_since(now, wall) else { return Ok(()) };
        warn!(wall = %wall, expected = %executor.clock.at_wall(now), "the wall clock was set: orders end as they would have");
        supervision.schedule = DrillSchedule::default();
        executor.set_wall_clock(&supervision.ledger, set).await
    }

    /// Ends the service of nodes that left and did not return in time.
    async fn end_departed(&self, supervision: &mut Supervision, now: Timestamp) {
        let traffic = &self.inner.traffic;
        let history = &supervision.ledger.history;
        let absent = traffic.take_absent(now);
        let shifts = absent.iter().flat_map(|(node, at)| shifts_of_departed(history, traffic, node, *at));
        let shifts: Vec<TierShift> = shifts.collect();
        if !shifts.is_empty() {
            self.apply(supervision, &shifts, now).await;
        }
    }

    /// Stores the counters of open failovers and drops old entries, each at its interval. Returns true if old
    /// entries were dropped.
    async fn maintain(&self, supervision: &mut Supervision, view: TrafficView<'_>) -> Result<bool, Error> {
        let (executor, Supervision { ledger, upkeep, .. }) = (&self.inner.executor, supervision);
        let wall = executor.clock.wall_clock();
        executor.put_records(upkeep.counter_records(&ledger.history, view.now, wall)).await?;
        let is_due = upkeep.take_expiry(view.now);
        if is_due {
            self.inner.traffic.drop_expired(view.now, &self.inner.cache.build());
            executor.put_records(drop_expired(&mut ledger.history, view.now, wall)).await?;
        }
        Ok(is_due)
    }
}

/// Evaluates `decide` on the orders of a ledger.
fn decide_in<T>(
    ledger: &Ledger,
    view: TrafficView<'_>,
    force: bool,
    decide: impl FnOnce(&Situation<'_>) -> Result<(Orders, T), OrderRefusal>,
) -> Result<(Orders, T), OrderRefusal> {
    decide(&Situation {
        build: view.build,
        orders: &ledger.orders,
        is_healthy: &|upstream: &Upstream, target: &Target| view.is_healthy(upstream, target),
        has_failed: &|name: &Name| ledger.history.has_failed(name),
        now: view.now,
        force,
    })
}
