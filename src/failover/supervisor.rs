//! Supervisor of orders: owns the orders in force and the history of failovers, and acts as time passes and
//! Envoys report.
//!
//! Decisions are made by pure functions of [`crate::failover::orders`] and [`crate::failover::history`]. This module makes their
//! results durable and publishes them: to Envoys through the [`Control`], to clients as events. Orders are
//! durable before they are published.

mod watch;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc};
use tracing::{error, info, warn};

use self::watch::hold_if_asked;
use crate::build::Build;
use crate::cache::Cache;
use crate::control::Control;
use crate::failover::history::{Cause, Change, Failover, History};
use crate::failover::ledger::{self, Ledger};
use crate::failover::orders::decide::{Refusal, Scene};
use crate::failover::orders::{Note, Orders};
use crate::failover::traffic::{Live, Picture, Shift, Totals};
use crate::model::name::Name;
use crate::model::selector::Part;
use crate::model::target::Target;
use crate::model::upstream::Upstream;
use crate::nodes::NodeReport;
use crate::store::{self, Record, Store};
use crate::telemetry::events::{Event, Events};

/// Interval of supervision.
const TICK: Duration = Duration::from_millis(200);

/// Interval at which old observations and failovers are dropped.
const SWEEP: SignedDuration = SignedDuration::from_mins(1);

/// Interval at which the counters of open failovers are stored.
const NOTE: SignedDuration = SignedDuration::from_secs(5);

/// Time for the traffic to return after the end of an order that moved it. If it does not return, the
/// primaries failed meanwhile.
const RETURN: SignedDuration = SignedDuration::from_secs(5);

/// Reason why an order is not in force.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The order was refused.
    #[error("{0}")]
    Refused(Refusal),
    /// The order could not be made durable.
    #[error("the order could not be stored")]
    Store(#[source] store::Error),
    /// The control plane is shutting down.
    #[error("understudy is shutting down")]
    ShuttingDown,
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Supervisor of orders. Cheap to clone: clones share their state.
#[derive(Debug, Clone)]
pub struct Supervisor {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    control: Control,
    cache: Arc<Cache>,
    live: Arc<Live>,
    store: Arc<dyn Store>,
    /// Locked while orders change.
    supervision: Mutex<Supervision>,
    /// Copy of the ledger as of the last change, so that readers need not wait for the lock.
    shown: RwLock<Arc<Ledger>>,
    events: Events,
}

/// State that one task at a time may change.
#[derive(Debug)]
struct Supervision {
    ledger: Ledger,
    /// Counters of the upstream at the beginning of each drill, by number of the drill.
    drills: BTreeMap<u64, Totals>,
    /// Next start of each scheduled drill, by upstream, with the schedule it was derived from.
    due: BTreeMap<Name, (String, Option<Timestamp>)>,
    /// Time since which a standby serves although no order explains it any more, by upstream.
    unexplained: BTreeMap<Name, Timestamp>,
    /// Time at which orders last left the tier of a held standby without targets, by upstream.
    out_by_order: BTreeMap<Name, Timestamp>,
    /// Requests of open failovers as last stored, by number, and the time of that.
    noted: BTreeMap<u64, u64>,
    noted_at: Timestamp,
    swept: Timestamp,
}

/// Author, reason and duration of an order that a client asks for.
#[derive(Debug, Clone)]
pub struct Asking {
    /// Name of the client.
    pub author: String,
    /// Reason, if one was given.
    pub reason: Option<String>,
    /// Duration of the order; none if it does not expire.
    pub expires_in: Option<Duration>,
    /// True to skip the checks that protect traffic.
    pub force: bool,
}

impl Asking {
    fn note(&self, now: Timestamp) -> Note {
        let expires_at = self.expires_in.map(|length| later(now, length));
        Note { author: self.author.clone(), reason: self.reason.clone(), since: now, expires_at }
    }
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| time.checked_add(by).ok()).unwrap_or(Timestamp::MAX)
}

impl Supervisor {
    /// Returns a supervisor that continues from this ledger. The control already publishes its overrides.
    pub fn new(
        control: Control,
        store: Arc<dyn Store>,
        cache: Arc<Cache>,
        live: Arc<Live>,
        events: Events,
        ledger: Ledger,
    ) -> Self {
        let shown = RwLock::new(Arc::new(ledger.clone()));
        // Nodes that were on a standby may never return: they count as gone unless they report in time.
        ledger.history.all_away().for_each(|node| live.left(node, Timestamp::now()));
        let supervision = Supervision {
            ledger,
            drills: BTreeMap::new(),
            due: BTreeMap::new(),
            unexplained: BTreeMap::new(),
            out_by_order: BTreeMap::new(),
            noted: BTreeMap::new(),
            noted_at: Timestamp::UNIX_EPOCH,
            swept: Timestamp::UNIX_EPOCH,
        };
        Self {
            inner: Arc::new(Inner {
                control,
                cache,
                live,
                store,
                supervision: Mutex::new(supervision),
                shown,
                events,
            }),
        }
    }

    /// Returns the orders in force and the history, as of the last change.
    pub fn ledger(&self) -> Arc<Ledger> {
        self.inner.shown.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the summary of what Envoys observe of an upstream.
    pub fn picture(&self, build: &Build, upstream: &Upstream) -> Picture {
        self.inner.live.picture(upstream, build, Timestamp::now())
    }

    /// Returns the summary without node names, which takes a fraction of the time.
    pub fn outline(&self, build: &Build, upstream: &Upstream) -> Picture {
        self.inner.live.outline(upstream, build, Timestamp::now())
    }

    /// Supervises orders until the future is dropped.
    pub async fn run(&self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let mut supervision = self.inner.supervision.lock().await;
            if let Err(error) = self.tick(&mut supervision, Timestamp::now()).await {
                error!(error = &error as &dyn std::error::Error, "orders could not be looked after");
            }
        }
    }

    /// Folds the reports of Envoys until the channel is closed.
    pub async fn listen(&self, mut heard: mpsc::Receiver<NodeReport>) {
        while let Some(heard) = heard.recv().await {
            let (now, live) = (Timestamp::now(), &self.inner.live);
            let shifts = match heard {
                NodeReport::Load { node, report } => {
                    live.fold(&node, now, &report, &self.inner.cache.build())
                }
                NodeReport::Checked { node, interval, findings } => {
                    live.check(&node, now, interval, findings, &self.inner.cache.build());
                    continue;
                }
                NodeReport::Here { node, place } => {
                    live.here(&node, place);
                    continue;
                }
                NodeReport::Left { node } => {
                    live.left(&node, now);
                    continue;
                }
            };
            self.shifted(shifts, now).await;
        }
    }

    /// Puts the orders that `decide` returns into force, and returns its second value.
    ///
    /// # Errors
    ///
    /// Fails if the orders are refused or cannot be stored, or if the control plane is shutting down.
    pub async fn order<T>(
        &self,
        force: bool,
        decide: impl FnOnce(&Scene<'_>) -> Result<(Orders, T), Refusal> + Send,
    ) -> Result<T, Error> {
        let mut supervision = self.inner.supervision.lock().await;
        let build = self.inner.cache.build();
        let now = Timestamp::now();
        let (orders, told) = {
            let is_healthy = |upstream: &Upstream, target: &Target| self.is_healthy(&build, upstream, target);
            let Ledger { orders, history } = &supervision.ledger;
            let has_failed = |name: &Name| history.has_failed(name);
            decide(&Scene {
                build: &build,
                orders,
                is_healthy: &is_healthy,
                has_failed: &has_failed,
                now,
                force,
            })?
        };
        self.give(&mut supervision, orders, &build).await?;
        Ok(told)
    }

    /// Evaluates `decide` and returns its second value, without changing anything.
    ///
    /// # Errors
    ///
    /// Fails if the orders would be refused.
    pub async fn propose<T>(
        &self,
        force: bool,
        decide: impl FnOnce(&Scene<'_>) -> Result<(Orders, T), Refusal> + Send,
    ) -> Result<T, Error> {
        let supervision = self.inner.supervision.lock().await;
        let build = self.inner.cache.build();
        let is_healthy = |upstream: &Upstream, target: &Target| self.is_healthy(&build, upstream, target);
        let (Ledger { orders, history }, now) = (&supervision.ledger, Timestamp::now());
        let has_failed = |name: &Name| history.has_failed(name);
        let scene =
            Scene { build: &build, orders, is_healthy: &is_healthy, has_failed: &has_failed, now, force };
        decide(&scene).map(|(_, told)| told).map_err(Error::Refused)
    }

    fn is_healthy(&self, build: &Build, upstream: &Upstream, target: &Target) -> Option<bool> {
        let picture = self.outline(build, upstream);
        let target = picture.targets.get(&target.address)?;
        target.is_healthy.filter(|_| !target.is_stale)
    }

    /// Makes orders durable, then publishes them to Envoys and as events.
    async fn give(&self, supervision: &mut Supervision, orders: Orders, build: &Build) -> Result<(), Error> {
        let changes = ledger::records(&supervision.ledger.orders, &orders);
        if changes.is_empty() {
            return Ok(());
        }
        self.put_records(changes).await?;
        let before = std::mem::replace(&mut supervision.ledger.orders, orders);
        let overrides = supervision.ledger.orders.overrides();
        if overrides != before.overrides() && !self.inner.control.set_overrides(overrides).await {
            return Err(Error::ShuttingDown);
        }
        for (id, drill) in supervision.ledger.orders.drills.range(before.drills.len() as u64..) {
            if !before.drills.contains_key(id) {
                supervision.drills.insert(*id, self.inner.live.totals(&drill.upstream));
            }
        }
        self.tell_drills(supervision, &before, build);
        self.tell_orders(&before, &supervision.ledger.orders);
        self.show(supervision);
        Ok(())
    }

    async fn put_records(&self, changes: Vec<Record>) -> Result<(), Error> {
        let store = self.inner.store.clone();
        let written = tokio::task::spawn_blocking(move || store.put_records(&changes)).await;
        written.map_err(|_| Error::ShuttingDown)?.map_err(Error::Store)
    }

    fn show(&self, supervision: &Supervision) {
        let ledger = Arc::new(supervision.ledger.clone());
        *self.inner.shown.write().unwrap_or_else(PoisonError::into_inner) = ledger;
    }

    fn tell(&self, event: fn(String, Value) -> Event, upstream: &Name, what: Value) {
        self.inner.events.publish(&event(upstream.to_string(), what));
    }

    /// Records in each new drill the Envoys that send traffic, the shares and the latency.
    fn tell_drills(&self, supervision: &mut Supervision, before: &Orders, build: &Build) {
        for (id, drill) in &mut supervision.ledger.orders.drills {
            let Some(upstream) = build.model.upstreams.get(&drill.upstream) else { continue };
            if before.drills.contains_key(id) {
                continue;
            }
            let picture = self.picture(build, upstream);
            let fresh = picture.nodes.iter().filter(|(_, node)| !node.is_stale);
            drill.nodes = fresh.map(|(node, _)| node.to_string()).collect();
            drill.share_before = shares(&picture);
            drill.latency_before =
                self.inner.live.recent(&drill.upstream, drill.started).latency().map(rounded);
        }
    }

    fn tell_orders(&self, before: &Orders, after: &Orders) {
        for ((upstream, part), order) in &after.states {
            if before.states.get(&(upstream.clone(), part.clone())) != Some(order) {
                let Note { author, reason, expires_at, .. } = &order.note;
                let state = order.state.word();
                info!(%upstream, %part, state, author, reason, "state set");
                let what = json!({ "part": part, "state": state, "author": author, "reason": reason,
                    "expires_at": expires_at });
                self.tell(state_event, upstream, what);
            }
        }
        for (upstream, part) in before.states.keys().filter(|key| !after.states.contains_key(key)) {
            info!(%upstream, %part, state = "auto", "state set");
            self.tell(state_event, upstream, json!({ "part": part, "state": "auto" }));
        }
        for (upstream, pin) in after.pins.iter().filter(|(name, pin)| before.pins.get(*name) != Some(pin)) {
            info!(%upstream, priority = pin.priority, "pinned");
            let what = json!({ "priority": pin.priority, "author": pin.note.author, "reason": pin.note.reason,
                "expires_at": pin.note.expires_at });
            self.tell(pin_event, upstream, what);
        }
        for upstream in before.pins.keys().filter(|name| !after.pins.contains_key(*name)) {
            info!(%upstream, "pin removed");
            self.tell(pin_event, upstream, json!({ "priority": null }));
        }
        for (upstream, hold) in
            after.holds.iter().filter(|(name, hold)| before.holds.get(*name) != Some(hold))
        {
            info!(%upstream, priority = hold.tier, phase = ?hold.phase, flapping = hold.is_flapping, "standby held");
            let what = json!({ "priority": hold.tier, "phase": hold.phase, "flapping": hold.is_flapping });
            self.tell(hold_event, upstream, what);
        }
        for upstream in before.holds.keys().filter(|name| !after.holds.contains_key(*name)) {
            info!(%upstream, "hold released");
            self.tell(hold_event, upstream, json!({ "phase": "released" }));
        }
        for (id, drill) in &after.drills {
            if before.drills.get(id).map(|drill| drill.state) != Some(drill.state) {
                let state = drill.state.word();
                info!(id, upstream = %drill.upstream, state, reason = drill.reason, "drill");
                let what = json!({ "id": id.to_string(), "state": state, "reason": drill.reason });
                self.tell(drill_event, &drill.upstream, what);
            }
        }
    }

    /// Returns the shifts of a node that is gone: no tier serves it any more, also for upstreams that it last
    /// reported before a restart.
    fn gone(&self, history: &History, node: &str, at: Timestamp) -> Vec<Shift> {
        let mut shifts = self.inner.live.gone(node, at);
        for upstream in history.away(node) {
            if shifts.iter().all(|shift| shift.upstream != *upstream) {
                let (node, upstream) = (node.to_owned(), upstream.clone());
                shifts.push(Shift { node, upstream, from: None, to: None, at, errors: 0 });
            }
        }
        shifts
    }

    /// Takes in shifts of the serving tier.
    async fn shifted(&self, shifts: Vec<Shift>, now: Timestamp) {
        if shifts.is_empty() {
            return;
        }
        let mut supervision = self.inner.supervision.lock().await;
        self.shift(&mut supervision, shifts, now).await;
    }

    async fn shift(&self, supervision: &mut Supervision, shifts: Vec<Shift>, now: Timestamp) {
        let build = self.inner.cache.build();
        let mut orders = supervision.ledger.orders.clone();
        let mut changes = Vec::new();
        for shift in &shifts {
            let Some(upstream) = build.model.upstreams.get(&shift.upstream) else { continue };
            let totals = self.inner.live.totals(&shift.upstream);
            let cause = || Cause::of(upstream, &orders, shift.errors);
            let change = supervision.ledger.history.shift(shift, cause, totals);
            if let (Some(id), Some(_)) = (orders.drill_of(&upstream.name).map(|(id, _)| id), shift.from)
                && let Some(drill) = orders.drills.get_mut(&id)
            {
                match shift.to {
                    // Until its traffic had moved, the Envoy was still served by the targets that the drill
                    // takes down.
                    Some(tier) if drill.moved(&shift.node) && drill.takes_down(upstream, tier) => {
                        let reason = "what stood in for it failed: requests go to what is down";
                        drill.abort(now, reason.to_owned());
                    }
                    _ => drill.shifted(&shift.node, shift.at),
                }
            }
            if let Some(change) = change {
                let serving = self.serving(&supervision.ledger.history, &build, upstream);
                hold_if_asked(&mut orders, &mut supervision.ledger.history, (upstream, serving), change, now);
                changes.push(change);
            }
        }
        if let Err(error) = self.remember(supervision, &changes).await {
            error!(error = &error as &dyn std::error::Error, "a failover was not stored");
        }
        if let Err(error) = self.give(supervision, orders, &build).await {
            error!(error = &error as &dyn std::error::Error, "a standby is not held");
        }
        self.show(supervision);
    }

    /// Publishes the beginning and end of failovers as events, and makes the failovers durable.
    async fn remember(&self, supervision: &mut Supervision, changes: &[Change]) -> Result<(), Error> {
        let mut records = Vec::new();
        for change in changes {
            let (Change::Began(id) | Change::Spread(id) | Change::Ended(id)) = *change;
            let Some(failover) = supervision.ledger.history.failovers.get(&id) else { continue };
            let record = ledger::failover_record(id, failover);
            let Failover { upstream, cause, from, to, nodes, .. } = failover;
            match change {
                Change::Began(_) => {
                    warn!(%upstream, from, to, cause = cause.word(), ?nodes, "failover");
                    self.tell(failover_event, upstream, told(id, failover));
                }
                Change::Spread(_) => {}
                Change::Ended(_) => {
                    info!(%upstream, from = to, to = from, "failback");
                    self.tell(failback_event, upstream, told(id, failover));
                }
            }
            records.push(record);
        }
        self.put_records(records).await
    }

    async fn tick(&self, supervision: &mut Supervision, now: Timestamp) -> Result<(), Error> {
        let live = &self.inner.live;
        let absent = live.absent(now);
        let gone = absent.iter().flat_map(|(node, at)| self.gone(&supervision.ledger.history, node, *at));
        let gone: Vec<Shift> = gone.collect();
        if !gone.is_empty() {
            self.shift(supervision, gone, now).await;
        }
        let build = self.inner.cache.build();
        supervision.ledger.history.count(|name| live.totals(name));
        let gone = supervision.ledger.history.without(now, |name| build.model.upstreams.contains_key(name));
        self.remember(supervision, &gone).await?;
        let mut orders = supervision.ledger.orders.at(now);
        self.watch_drills(supervision, &mut orders, &build, now);
        let blamed = self.blame(supervision, &mut orders, &build, now);
        self.remember(supervision, &blamed).await?;
        self.watch_holds(supervision, &mut orders, &build, now);
        self.begin_drills(supervision, &mut orders, &build, now);
        self.give(supervision, orders, &build).await?;
        if now.duration_since(supervision.noted_at) > NOTE {
            supervision.noted_at = now;
            self.note_open(supervision).await?;
        }
        if now.duration_since(supervision.swept) > SWEEP {
            supervision.swept = now;
            self.sweep(supervision, now).await?;
            self.show(supervision);
        }
        // The counters of open failovers go on, so readers get a new copy.
        if !gone.is_empty() || !supervision.ledger.history.is_quiet() {
            self.show(supervision);
        }
        Ok(())
    }

    /// Stores the counters of open failovers that changed.
    async fn note_open(&self, supervision: &mut Supervision) -> Result<(), Error> {
        let open = || supervision.ledger.history.all_open();
        let changed = open().filter(|(id, failover)| supervision.noted.get(id) != Some(&failover.requests));
        let records: Vec<Record> =
            changed.map(|(id, failover)| ledger::failover_record(id, failover)).collect();
        supervision.noted = open().map(|(id, failover)| (id, failover.requests)).collect();
        if records.is_empty() {
            return Ok(());
        }
        self.put_records(records).await
    }

    async fn sweep(&self, supervision: &mut Supervision, now: Timestamp) -> Result<(), Error> {
        self.inner.live.forget(now, &self.inner.cache.build());
        let before = supervision.ledger.history.clone();
        supervision.ledger.history.forget(now);
        let changes = ledger::history_records(&before, &supervision.ledger.history);
        if changes.is_empty() {
            return Ok(());
        }
        self.put_records(changes).await
    }

    /// Begins a drill. `length` is its duration; `down` names targets, tiers, zones or regions.
    ///
    /// # Errors
    ///
    /// Fails as [`Scene::drill`] does, or if an entry of `down` matches no target.
    pub fn begin(
        scene: &Scene<'_>,
        upstream: &Upstream,
        down: &[String],
        length: Duration,
        error_rate: Option<f64>,
        asking: &Asking,
    ) -> Result<Orders, Refusal> {
        let parts: Result<Vec<Part>, _> = down.iter().map(|text| Part::parse(text, upstream)).collect();
        let parts = parts.map_err(|(message, help)| Refusal::Invalid(format!("{message}; {help}")))?;
        let until = later(scene.now, length);
        let mut orders = scene.drill(upstream, parts, until, error_rate, asking.author.clone())?;
        if let Some(mut begun) = orders.drills.last_entry() {
            begun.get_mut().purpose.clone_from(&asking.reason);
        }
        Ok(orders)
    }

    /// Returns the author, reason and lifetime of an order given now.
    pub fn note(scene: &Scene<'_>, asking: &Asking) -> Note {
        asking.note(scene.now)
    }
}

/// Returns the fields of an event about a failover, except its upstream.
fn told(id: u64, failover: &Failover) -> Value {
    json!({
        "id": id.to_string(),
        "start": failover.start,
        "end": failover.end,
        "cause": failover.cause,
        "from": failover.from,
        "to": failover.to,
        "nodes": failover.nodes,
        "requests": failover.requests,
        "errors": failover.errors,
    })
}

fn failover_event(upstream: String, what: Value) -> Event {
    Event::Failover { upstream, what }
}

fn failback_event(upstream: String, what: Value) -> Event {
    Event::Failback { upstream, what }
}

fn state_event(upstream: String, what: Value) -> Event {
    Event::TargetState { upstream, what }
}

fn pin_event(upstream: String, what: Value) -> Event {
    Event::Pin { upstream, what }
}

fn hold_event(upstream: String, what: Value) -> Event {
    Event::Hold { upstream, what }
}

fn drill_event(upstream: String, what: Value) -> Event {
    Event::Drill { upstream, what }
}

fn shares(picture: &Picture) -> BTreeMap<String, f64> {
    if picture.is_stale {
        return BTreeMap::new();
    }
    picture.targets.iter().map(|(address, target)| (address.to_string(), rounded(target.share))).collect()
}

/// Rounds to one decimal place.
fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
