//! Gives orders and sees what comes of them: the one who holds what is in force, and what happened.
//!
//! Every decision is made by pure functions of [`crate::orders`] and [`crate::history`]; here they are made durable,
//! told to Envoys by way of the [`Control`], and to people as events. A change is durable before it is told.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc};
use tracing::{error, info, warn};

use crate::cache::Cache;
use crate::control::Control;
use crate::events::{Event, Events};
use crate::fleet::Heard;
use crate::history::{Cause, Change, Failover, History, Tallies};
use crate::live::{Live, Picture, Shift, TargetPicture, Totals};
use crate::model::failback::Failback;
use crate::model::name::Name;
use crate::model::part::Part;
use crate::model::target::{Address, Target};
use crate::model::upstream::Upstream;
use crate::orders::decide::{Refusal, Scene};
use crate::orders::drill::{Drill, Seen};
use crate::orders::hold::{Hold, Home, Next, Phase};
use crate::orders::{Note, Orders};
use crate::pipeline::Build;
use crate::store::{self, Jotting, Store};

/// How often it is looked whose time is over.
const TICK: Duration = Duration::from_millis(200);

/// How often what is too old is forgotten.
const SWEEP: SignedDuration = SignedDuration::from_mins(1);

/// How often what is counted of failovers that last is stored.
const NOTE: SignedDuration = SignedDuration::from_secs(5);

/// How long the traffic may take to return when an order ends that moved it. If it does not, the primaries failed
/// meanwhile.
const RETURN: SignedDuration = SignedDuration::from_secs(5);

/// The kinds of records in the store.
const KINDS: [&str; 6] = ["state", "pin", "hold", "drill", "failover", "forgotten"];

/// Why an order was not given.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It would be wrong.
    #[error("{0}")]
    Refused(Refusal),
    /// It could not be made durable.
    #[error("the order could not be stored")]
    Store(#[source] store::Error),
    /// We are shutting down.
    #[error("understudy is shutting down")]
    ShuttingDown,
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What is in force, and what happened.
#[derive(Debug, Clone, Default)]
pub struct Book {
    /// What is in force.
    pub orders: Orders,
    /// What happened.
    pub history: History,
}

impl Book {
    /// What the store remembers, and what of it is in force when a control plane starts.
    ///
    /// # Errors
    ///
    /// When the store cannot be read.
    pub fn open(store: &Store, now: Timestamp) -> Result<Self, store::Error> {
        let mut orders = Orders::default();
        let mut past = Past::default();
        for (kind, key, value) in store.jottings()? {
            read(&mut orders, &mut past, (&kind, &key), value)
                .ok_or_else(|| store::Error::Damaged { key: format!("{kind}/{key}") })?;
        }
        let restarted = orders.restarted(now);
        store.jot(&jottings(&orders, &restarted))?;
        Ok(Self { orders: restarted, history: History::restored(past.failovers, past.forgotten) })
    }
}

/// What the store remembers of what happened.
#[derive(Default)]
struct Past {
    failovers: BTreeMap<u64, Failover>,
    forgotten: BTreeMap<Name, Tallies>,
}

fn read(orders: &mut Orders, past: &mut Past, (kind, key): (&str, &str), value: Value) -> Option<()> {
    fn record<T: DeserializeOwned>(value: Value) -> Option<T> {
        serde_json::from_value(value).ok()
    }
    match kind {
        "state" => {
            let (upstream, part) = key.split_once('/')?;
            let key = (Name::parse(upstream)?, Part::read(part).ok()?);
            orders.states.insert(key, record(value)?);
        }
        "pin" => drop(orders.pins.insert(Name::parse(key)?, record(value)?)),
        "hold" => drop(orders.holds.insert(Name::parse(key)?, record(value)?)),
        "drill" => drop(orders.drills.insert(key.parse().ok()?, record(value)?)),
        "failover" => drop(past.failovers.insert(key.parse().ok()?, record(value)?)),
        "forgotten" => drop(past.forgotten.insert(Name::parse(key)?, record(value)?)),
        // Of a newer version: none of ours.
        _ => {}
    }
    Some(())
}

/// The records that differ.
fn jottings(before: &Orders, after: &Orders) -> Vec<Jotting> {
    let [state, pin, hold, drill, ..] = KINDS;
    let states = differing(state, &before.states, &after.states, |(name, part)| format!("{name}/{part}"));
    let pins = differing(pin, &before.pins, &after.pins, Name::to_string);
    let holds = differing(hold, &before.holds, &after.holds, Name::to_string);
    let drills = differing(drill, &before.drills, &after.drills, u64::to_string);
    [states, pins, holds, drills].concat()
}

fn differing<K: Ord, V: PartialEq + Serialize>(
    kind: &'static str,
    before: &BTreeMap<K, V>,
    after: &BTreeMap<K, V>,
    key: impl Fn(&K) -> String,
) -> Vec<Jotting> {
    let changed = after.iter().filter(|(name, value)| before.get(name) != Some(*value));
    let put = |(name, value): (&K, &V)| Jotting {
        kind,
        key: key(name),
        value: Some(serde_json::to_value(value).expect("records have nothing that JSON lacks")),
    };
    let gone = before.keys().filter(|name| !after.contains_key(name));
    let remove = |name: &K| Jotting { kind, key: key(name), value: None };
    changed.map(put).chain(gone.map(remove)).collect()
}

/// Gives orders. Cheap to clone: clones share.
#[derive(Debug, Clone)]
pub struct Conductor {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    control: Control,
    cache: Arc<Cache>,
    live: Arc<Live>,
    store: Arc<Store>,
    /// Held while orders change.
    desk: Mutex<Desk>,
    /// What the desk held last, for those who read.
    shown: RwLock<Arc<Book>>,
    events: Events,
}

/// What one at a time may change.
#[derive(Debug)]
struct Desk {
    book: Book,
    /// What had been counted when a drill began, by its number.
    drills: BTreeMap<u64, Totals>,
    /// When scheduled drills are due, with the schedule.
    due: BTreeMap<Name, (String, Option<Timestamp>)>,
    /// Since when a standby serves that no order explains any more.
    unexplained: BTreeMap<Name, Timestamp>,
    /// When orders last left a held standby no target.
    out_by_order: BTreeMap<Name, Timestamp>,
    /// The requests of failovers that last, as they were stored, and when.
    noted: BTreeMap<u64, u64>,
    noted_at: Timestamp,
    swept: Timestamp,
}

/// Who asks for something, why, and for how long.
#[derive(Debug, Clone)]
pub struct Asking {
    /// Who.
    pub author: String,
    /// Why.
    pub reason: Option<String>,
    /// For how long; none for good.
    pub expires_in: Option<Duration>,
    /// Whatever harm it does.
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

impl Conductor {
    /// Goes on from this book, which the control was started with.
    pub fn new(control: Control, cache: Arc<Cache>, live: Arc<Live>, events: Events, book: Book) -> Self {
        let store = control.store().clone();
        let shown = RwLock::new(Arc::new(book.clone()));
        // Those who were on a standby may be gone for good.
        book.history.all_away().for_each(|node| live.left(node, Timestamp::now()));
        let desk = Desk {
            book,
            drills: BTreeMap::new(),
            due: BTreeMap::new(),
            unexplained: BTreeMap::new(),
            out_by_order: BTreeMap::new(),
            noted: BTreeMap::new(),
            noted_at: Timestamp::UNIX_EPOCH,
            swept: Timestamp::UNIX_EPOCH,
        };
        Self { inner: Arc::new(Inner { control, cache, live, store, desk: Mutex::new(desk), shown, events }) }
    }

    /// What is in force and what happened, as of the last change.
    pub fn book(&self) -> Arc<Book> {
        self.inner.shown.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What Envoys said of an upstream.
    pub fn picture(&self, build: &Build, upstream: &Upstream) -> Picture {
        self.inner.live.picture(upstream, build, Timestamp::now())
    }

    /// The same without who said so: it takes a fraction of the time.
    pub fn outline(&self, build: &Build, upstream: &Upstream) -> Picture {
        self.inner.live.outline(upstream, build, Timestamp::now())
    }

    /// Looks after orders until it is dropped.
    pub async fn run(&self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let mut desk = self.inner.desk.lock().await;
            if let Err(error) = self.tick(&mut desk, Timestamp::now()).await {
                error!(error = &error as &dyn std::error::Error, "orders could not be looked after");
            }
        }
    }

    /// Takes in what Envoys say of their load, until nobody says anything more.
    pub async fn listen(&self, mut heard: mpsc::Receiver<Heard>) {
        while let Some(heard) = heard.recv().await {
            let (now, live) = (Timestamp::now(), &self.inner.live);
            let shifts = match heard {
                Heard::Load { node, report } => live.fold(&node, now, &report, &self.inner.cache.build()),
                Heard::Checked { node, interval, findings } => {
                    live.check(&node, now, interval, findings, &self.inner.cache.build());
                    continue;
                }
                Heard::Here { node, place } => {
                    live.here(&node, place);
                    continue;
                }
                Heard::Left { node } => {
                    live.left(&node, now);
                    continue;
                }
            };
            self.shifted(shifts, now).await;
        }
    }

    /// Decides on orders by `decide` and gives them. What it returns beside them is returned.
    ///
    /// # Errors
    ///
    /// Why they were refused, or could not be stored.
    pub async fn order<T>(
        &self,
        force: bool,
        decide: impl FnOnce(&Scene<'_>) -> Result<(Orders, T), Refusal> + Send,
    ) -> Result<T, Error> {
        let mut desk = self.inner.desk.lock().await;
        let build = self.inner.cache.build();
        let now = Timestamp::now();
        let (orders, told) = {
            let is_healthy = |upstream: &Upstream, target: &Target| self.is_healthy(&build, upstream, target);
            let Book { orders, history } = &desk.book;
            let is_away = |name: &Name| history.open(name).is_some();
            decide(&Scene { build: &build, orders, is_healthy: &is_healthy, is_away: &is_away, now, force })?
        };
        self.give(&mut desk, orders, &build).await?;
        Ok(told)
    }

    /// What would be ordered; nothing changes.
    ///
    /// # Errors
    ///
    /// Why it would be refused.
    pub async fn propose<T>(
        &self,
        force: bool,
        decide: impl FnOnce(&Scene<'_>) -> Result<(Orders, T), Refusal> + Send,
    ) -> Result<T, Error> {
        let desk = self.inner.desk.lock().await;
        let build = self.inner.cache.build();
        let is_healthy = |upstream: &Upstream, target: &Target| self.is_healthy(&build, upstream, target);
        let (Book { orders, history }, now) = (&desk.book, Timestamp::now());
        let is_away = |name: &Name| history.open(name).is_some();
        let scene = Scene { build: &build, orders, is_healthy: &is_healthy, is_away: &is_away, now, force };
        decide(&scene).map(|(_, told)| told).map_err(Error::Refused)
    }

    fn is_healthy(&self, build: &Build, upstream: &Upstream, target: &Target) -> Option<bool> {
        let picture = self.outline(build, upstream);
        let target = picture.targets.get(&target.address)?;
        target.is_healthy.filter(|_| !target.is_stale)
    }

    /// Makes orders durable, and tells Envoys and people.
    async fn give(&self, desk: &mut Desk, orders: Orders, build: &Build) -> Result<(), Error> {
        let changes = jottings(&desk.book.orders, &orders);
        if changes.is_empty() {
            return Ok(());
        }
        self.jot(changes).await?;
        let before = std::mem::replace(&mut desk.book.orders, orders);
        let steerings = desk.book.orders.steerings();
        if steerings != before.steerings() && !self.inner.control.steer(steerings).await {
            return Err(Error::ShuttingDown);
        }
        for (id, drill) in desk.book.orders.drills.range(before.drills.len() as u64..) {
            if !before.drills.contains_key(id) {
                desk.drills.insert(*id, self.inner.live.totals(&drill.upstream));
            }
        }
        self.tell_drills(desk, &before, build);
        self.tell_orders(&before, &desk.book.orders);
        self.show(desk);
        Ok(())
    }

    async fn jot(&self, changes: Vec<Jotting>) -> Result<(), Error> {
        let store = self.inner.store.clone();
        let written = tokio::task::spawn_blocking(move || store.jot(&changes)).await;
        written.map_err(|_| Error::ShuttingDown)?.map_err(Error::Store)
    }

    fn show(&self, desk: &Desk) {
        let book = Arc::new(desk.book.clone());
        *self.inner.shown.write().unwrap_or_else(PoisonError::into_inner) = book;
    }

    fn tell(&self, event: fn(String, Value) -> Event, upstream: &Name, what: Value) {
        self.inner.events.publish(&event(upstream.to_string(), what));
    }

    /// Notes who sends traffic when a drill begins.
    fn tell_drills(&self, desk: &mut Desk, before: &Orders, build: &Build) {
        for (id, drill) in &mut desk.book.orders.drills {
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

    /// What it means that a node went: nothing serves there, not even what it said before a restart.
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

    /// Takes in that other tiers serve.
    async fn shifted(&self, shifts: Vec<Shift>, now: Timestamp) {
        if shifts.is_empty() {
            return;
        }
        let mut desk = self.inner.desk.lock().await;
        self.shift(&mut desk, shifts, now).await;
    }

    async fn shift(&self, desk: &mut Desk, shifts: Vec<Shift>, now: Timestamp) {
        let build = self.inner.cache.build();
        let mut orders = desk.book.orders.clone();
        let mut changes = Vec::new();
        for shift in &shifts {
            let Some(upstream) = build.model.upstreams.get(&shift.upstream) else { continue };
            let totals = self.inner.live.totals(&shift.upstream);
            let cause = || Cause::of(upstream, &orders, shift.errors);
            let change = desk.book.history.shift(shift, cause, totals);
            if let (Some(id), Some(_)) = (orders.drill_of(&upstream.name).map(|(id, _)| id), shift.from)
                && let Some(drill) = orders.drills.get_mut(&id)
            {
                drill.shifted(&shift.node, shift.at);
            }
            if let Some(change) = change {
                let serving = self.serving(&desk.book.history, &build, upstream);
                hold_if_asked(&mut orders, &mut desk.book.history, (upstream, serving), change, now);
                changes.push(change);
            }
        }
        if let Err(error) = self.remember(desk, &changes).await {
            error!(error = &error as &dyn std::error::Error, "a failover was not stored");
        }
        if let Err(error) = self.give(desk, orders, &build).await {
            error!(error = &error as &dyn std::error::Error, "a standby is not held");
        }
        self.show(desk);
    }

    /// Makes failovers durable and tells of them.
    async fn remember(&self, desk: &mut Desk, changes: &[Change]) -> Result<(), Error> {
        let mut jottings = Vec::new();
        for change in changes {
            let (Change::Began(id) | Change::Spread(id) | Change::Ended(id)) = *change;
            let Some(failover) = desk.book.history.failovers.get(&id) else { continue };
            let jotting = jotting(id, failover);
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
            jottings.push(jotting);
        }
        self.jot(jottings).await
    }

    async fn tick(&self, desk: &mut Desk, now: Timestamp) -> Result<(), Error> {
        let live = &self.inner.live;
        let absent = live.absent(now);
        let gone = absent.iter().flat_map(|(node, at)| self.gone(&desk.book.history, node, *at));
        let gone: Vec<Shift> = gone.collect();
        if !gone.is_empty() {
            self.shift(desk, gone, now).await;
        }
        let build = self.inner.cache.build();
        desk.book.history.count(|name| live.totals(name));
        let gone = desk.book.history.without(now, |name| build.model.upstreams.contains_key(name));
        self.remember(desk, &gone).await?;
        let mut orders = desk.book.orders.at(now);
        self.watch_drills(desk, &mut orders, &build, now);
        let blamed = self.blame(desk, &mut orders, &build, now);
        self.remember(desk, &blamed).await?;
        self.watch_holds(desk, &mut orders, &build, now);
        self.begin_drills(desk, &mut orders, &build, now);
        self.give(desk, orders, &build).await?;
        if now.duration_since(desk.noted_at) > NOTE {
            desk.noted_at = now;
            self.note_open(desk).await?;
        }
        if now.duration_since(desk.swept) > SWEEP {
            desk.swept = now;
            self.sweep(desk, now).await?;
            self.show(desk);
        }
        // What is being counted goes on while a failover lasts.
        if !gone.is_empty() || !desk.book.history.is_quiet() {
            self.show(desk);
        }
        Ok(())
    }

    /// Makes what was counted of failovers that last durable.
    async fn note_open(&self, desk: &mut Desk) -> Result<(), Error> {
        let open = || desk.book.history.all_open();
        let changed = open().filter(|(id, failover)| desk.noted.get(id) != Some(&failover.requests));
        let jottings: Vec<Jotting> = changed.map(|(id, failover)| jotting(id, failover)).collect();
        desk.noted = open().map(|(id, failover)| (id, failover.requests)).collect();
        if jottings.is_empty() {
            return Ok(());
        }
        self.jot(jottings).await
    }

    async fn sweep(&self, desk: &mut Desk, now: Timestamp) -> Result<(), Error> {
        self.inner.live.forget(now, &self.inner.cache.build());
        let before = desk.book.history.clone();
        desk.book.history.forget(now);
        let after = &desk.book.history;
        let failovers = differing(KINDS[4], &before.failovers, &after.failovers, u64::to_string);
        let tallies = differing(KINDS[5], &before.forgotten, &after.forgotten, Name::to_string);
        let changes = [failovers, tallies].concat();
        if changes.is_empty() {
            return Ok(());
        }
        self.jot(changes).await
    }

    fn watch_drills(&self, desk: &Desk, orders: &mut Orders, build: &Build, now: Timestamp) {
        for (id, drill) in orders.drills.iter_mut().filter(|(_, drill)| drill.is_running()) {
            let Some(upstream) = build.model.upstreams.get(&drill.upstream) else {
                drill.abort(now, "the upstream is gone".to_owned());
                continue;
            };
            for node in self.without_drilled(build, upstream, drill) {
                drill.shifted(&node, now);
            }
            let before = desk.drills.get(id).copied().unwrap_or_default();
            let totals = self.inner.live.totals(&drill.upstream);
            let totals = totals.since(before);
            let seen = Seen {
                requests: totals.requests,
                errors: totals.errors,
                share: shares(&self.outline(build, upstream)),
                latency: totals.latency().map(rounded),
            };
            drill.watch(now, seen);
        }
    }

    /// The Envoys that sent requests since a drill began, and none to what it takes down.
    fn without_drilled(&self, build: &Build, upstream: &Upstream, drill: &Drill) -> Vec<String> {
        if drill.nodes.iter().all(|node| drill.shift_seconds.contains_key(node)) {
            return Vec::new();
        }
        let picture = self.picture(build, upstream);
        let is_drilled = |address: &Address| {
            let mut targets = upstream.targets.iter().filter(|target| target.address == *address);
            targets.any(|target| drill.down.iter().any(|part| part.includes(target)))
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

    fn watch_holds(&self, desk: &mut Desk, orders: &mut Orders, build: &Build, now: Timestamp) {
        let Desk { book, out_by_order, .. } = desk;
        let next = |(name, hold): (Name, Hold)| {
            let upstream = build.model.upstreams.get(&name)?;
            if is_out_by_order(&book.orders, upstream, hold.tier) {
                out_by_order.insert(name.clone(), now);
            }
            // That primaries serve says nothing, until the standby had time to take over again.
            let is_out = out_by_order.get(&name).is_some_and(|out| now.duration_since(*out) < RETURN);
            if is_out && upstream.failback.holds() {
                return Some((name, hold));
            }
            out_by_order.remove(&name);
            let picture = self.outline(build, upstream);
            let serves = match hold.phase {
                Phase::Step { .. } => home_answers(upstream, &picture),
                _ if self.serving(&book.history, build, upstream) == Some(0) => Some(true),
                _ => (picture.requests_per_second > 0.0).then_some(false),
            };
            let home = Home { serves, is_healthy: home_is_healthy(upstream, &picture) };
            match hold.next(now, &upstream.failback, home) {
                Next::Hold(hold) => Some((name, hold)),
                Next::Over => None,
            }
        };
        orders.holds = std::mem::take(&mut orders.holds).into_iter().filter_map(next).collect();
    }

    /// An order moved the traffic and is over, but the traffic does not return: the primaries failed meanwhile. From now
    /// on that is the cause, and the standby is held as for any other failure. Returns the failovers of which that is so.
    fn blame(&self, desk: &mut Desk, orders: &mut Orders, build: &Build, now: Timestamp) -> Vec<Change> {
        let ordered = desk.book.history.all_open().filter(|(_, failover)| !failover.cause.is_failure());
        let causes = ordered.filter_map(|(id, failover)| {
            let upstream = build.model.upstreams.get(&failover.upstream)?;
            let cause = Cause::of(upstream, orders, 0);
            cause.is_failure().then_some((id, upstream, cause))
        });
        let causes: Vec<_> = causes.collect();
        desk.unexplained.retain(|name, _| causes.iter().any(|(_, upstream, _)| upstream.name == *name));
        let mut blamed = Vec::new();
        for (id, upstream, cause) in causes {
            let since = *desk.unexplained.entry(upstream.name.clone()).or_insert(now);
            if now.duration_since(since) < RETURN || !self.stays_away(build, upstream, since + RETURN / 2) {
                continue;
            }
            desk.book.history.blame(id, cause);
            blamed.push(Change::Spread(id));
            let serving = self.serving(&desk.book.history, build, upstream);
            hold_if_asked(orders, &mut desk.book.history, (upstream, serving), Change::Spread(id), now);
        }
        blamed
    }

    /// True when those Envoys that sent requests after that time are served by a standby, or most of them.
    fn stays_away(&self, build: &Build, upstream: &Upstream, after: Timestamp) -> bool {
        let picture = self.picture(build, upstream);
        let told = picture.nodes.values().filter(|node| node.last > after);
        let (away, home): (Vec<_>, Vec<_>) = told.partition(|node| node.serving.is_some_and(|tier| tier > 0));
        away.len() > home.len()
    }

    /// The declared tier that serves: at most Envoys or, where it is another one for each of them, most requests.
    fn serving(&self, history: &History, build: &Build, upstream: &Upstream) -> Option<u32> {
        match upstream.failover.locality {
            true => self.outline(build, upstream).busiest_tier(upstream),
            false => history.serving(&upstream.name),
        }
    }

    /// Begins the scheduled drills that are due.
    fn begin_drills(&self, desk: &mut Desk, orders: &mut Orders, build: &Build, now: Timestamp) {
        for (upstream, drill) in build.drilled() {
            let entry = desk.due.get(&upstream.name).filter(|(schedule, _)| *schedule == drill.schedule);
            let due = match entry {
                Some((_, due)) => *due,
                None => {
                    let next = (drill.schedule.clone(), drill.next(now));
                    desk.due.insert(upstream.name.clone(), next);
                    continue;
                }
            };
            if due.is_none_or(|due| due > now) {
                continue;
            }
            desk.due.insert(upstream.name.clone(), (drill.schedule.clone(), drill.next(now)));
            let is_healthy = |upstream: &Upstream, target: &Target| self.is_healthy(build, upstream, target);
            let is_away = |name: &Name| desk.book.history.open(name).is_some();
            let is_healthy = &is_healthy;
            let scene = Scene { build, orders, is_healthy, is_away: &is_away, now, force: false };
            let parts: Result<Vec<Part>, _> = drill.down.iter().map(|it| Part::parse(it, upstream)).collect();
            let begun = parts.map_err(|(message, _)| Refusal::Invalid(message)).and_then(|parts| {
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

    /// Begins a drill.
    ///
    /// # Errors
    ///
    /// As [`Scene::drill`], or when a part is not there.
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

    /// The note of what is asked for now.
    pub fn note(scene: &Scene<'_>, asking: &Asking) -> Note {
        asking.note(scene.now)
    }
}

/// True when orders leave a tier no target: it is not that it died.
fn is_out_by_order(orders: &Orders, upstream: &Upstream, tier: u32) -> bool {
    let drill = orders.drill_of(&upstream.name).map(|(_, drill)| drill);
    let is_out = |target: &Target| {
        let is_drilled = drill.is_some_and(|drill| drill.down.iter().any(|part| part.includes(target)));
        is_drilled || orders.state_of(upstream, target).is_some()
    };
    upstream.targets.iter().filter(|target| target.tier == tier).all(is_out)
}

/// What was seen of the primaries of an upstream.
fn primaries<'p>(upstream: &'p Upstream, picture: &'p Picture) -> impl Iterator<Item = &'p TargetPicture> {
    let primaries = upstream.targets.iter().filter(|target| target.tier == 0);
    primaries.filter_map(|target| picture.targets.get(&target.address))
}

/// Whether primaries answer requests; none when there are none to tell by.
fn home_answers(upstream: &Upstream, picture: &Picture) -> Option<bool> {
    let answers = |seen: &TargetPicture| seen.requests_per_second > 0.0 && seen.is_healthy == Some(true);
    if primaries(upstream, picture).any(answers) {
        return Some(true);
    }
    let known = primaries(upstream, picture).filter(|seen| !seen.is_stale && seen.is_healthy.is_some());
    known.map(|seen| seen.is_healthy == Some(true)).reduce(|one, another| one || another).filter(|any| !any)
}

/// Whether a primary could serve; none when nobody checks them.
fn home_is_healthy(upstream: &Upstream, picture: &Picture) -> Option<bool> {
    if picture.checked_by.is_empty() {
        return None;
    }
    let known = primaries(upstream, picture).filter(|target| !target.is_stale);
    known.filter_map(|target| target.is_healthy).reduce(|one, another| one || another)
}

/// The record of a failover.
fn jotting(id: u64, failover: &Failover) -> Jotting {
    let value = serde_json::to_value(failover).expect("records have nothing that JSON lacks");
    Jotting { kind: KINDS[4], key: id.to_string(), value: Some(value) }
}

/// What an event says of a failover, beside its upstream.
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

/// Holds the standby of an upstream that asks for it, once it serves most Envoys because the primaries failed.
fn hold_if_asked(
    orders: &mut Orders,
    history: &mut History,
    (upstream, serving): (&Upstream, Option<u32>),
    change: Change,
    now: Timestamp,
) {
    let (Change::Began(id) | Change::Spread(id)) = change else { return };
    let Failback { at_most, .. } = &upstream.failback;
    let serving = serving.filter(|tier| *tier != 0);
    let Some(failover) = history.failovers.get_mut(&id) else { return };
    let Some(tier) = serving.filter(|_| failover.cause.is_failure()) else { return };
    if !upstream.failback.holds() {
        return;
    }
    // The standby that is held died, and another one serves.
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

/// To one digit.
fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
