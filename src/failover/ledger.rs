//! Ledger of the orders in force and the history, and its records in the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::failover::history::{FailoverRecord, History, Tallies};
use crate::failover::orders::Orders;
use crate::failover::orders::time::{Timed, WallClock};
use crate::model::name::Name;
use crate::model::selector::TargetSelector;
use crate::store::{self, Record, Store};

/// Kinds of records in the store.
const KINDS: [&str; 6] = ["state", "pin", "hold", "drill", "failover", "forgotten"];

/// Orders in force, and the history of failovers.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// Orders in force.
    pub orders: Orders,
    /// History of failovers.
    pub history: History,
}

impl Timed for Ledger {
    fn map_times(&mut self, map: &dyn Fn(Timestamp) -> Timestamp) {
        self.orders.map_times(map);
        self.history.map_times(map);
    }
}

impl Ledger {
    /// Reads the ledger from the store after a restart. Expired orders are removed and running drills
    /// reverted, also in the store.
    ///
    /// # Errors
    ///
    /// Fails if the store cannot be read or written, or if a record is damaged.
    pub fn open(store: &dyn Store, now: Timestamp) -> Result<Self, store::Error> {
        let mut orders = Orders::default();
        let mut stored = StoredHistory::default();
        for (kind, key, value) in store.records()? {
            read(&mut orders, &mut stored, (&kind, &key), value)
                .ok_or_else(|| store::Error::Damaged { key: format!("{kind}/{key}") })?;
        }
        let restarted = orders.restarted(now);
        store.put_records(&order_records(&orders, &restarted, WallClock::started_at(now)))?;
        Ok(Self { orders: restarted, history: History::restored(stored.failovers, stored.forgotten) })
    }
}

/// Records of the ledger in the store. Cheap to clone: clones share the store.
#[derive(Debug, Clone)]
pub(super) struct LedgerStore {
    store: Arc<dyn Store>,
}

impl LedgerStore {
    /// Returns the records in this store.
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// Makes records durable, on a thread that may block. Returns none if the runtime shuts down.
    pub(super) async fn put(&self, records: Vec<Record>) -> Option<Result<(), store::Error>> {
        if records.is_empty() {
            return Some(Ok(()));
        }
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || store.put_records(&records)).await.ok()
    }
}

/// Failovers in the store, and the totals of those that were dropped.
#[derive(Default)]
struct StoredHistory {
    failovers: BTreeMap<u64, FailoverRecord>,
    forgotten: BTreeMap<Name, Tallies>,
}

fn read(
    orders: &mut Orders,
    stored: &mut StoredHistory,
    (kind, key): (&str, &str),
    value: Value,
) -> Option<()> {
    fn record<T: DeserializeOwned>(value: Value) -> Option<T> {
        serde_json::from_value(value).ok()
    }
    match kind {
        "state" => {
            let (upstream, selector) = key.split_once('/')?;
            let key = (Name::parse(upstream)?, TargetSelector::read(selector).ok()?);
            orders.states.insert(key, record(value)?);
        }
        "pin" => drop(orders.pins.insert(Name::parse(key)?, record(value)?)),
        "hold" => drop(orders.holds.insert(Name::parse(key)?, record(value)?)),
        "drill" => drop(orders.drills.insert(key.parse().ok()?, record(value)?)),
        "failover" => drop(stored.failovers.insert(key.parse().ok()?, record(value)?)),
        "forgotten" => drop(stored.forgotten.insert(Name::parse(key)?, record(value)?)),
        // Kind of a newer version: skipped.
        _ => {}
    }
    Some(())
}

/// Returns the records of orders that differ.
pub(super) fn order_records(before: &Orders, after: &Orders, wall: WallClock) -> Vec<Record> {
    let [state, pin, hold, drill, ..] = KINDS;
    let state_key = |(name, selector): &_| format!("{name}/{selector}");
    let states = differing(state, &before.states, &after.states, state_key, |it| at_wall(it, wall));
    let pins = differing(pin, &before.pins, &after.pins, Name::to_string, |it| at_wall(it, wall));
    let holds = differing(hold, &before.holds, &after.holds, Name::to_string, |it| at_wall(it, wall));
    let drills = differing(drill, &before.drills, &after.drills, u64::to_string, |it| at_wall(it, wall));
    [states, pins, holds, drills].concat()
}

/// Returns the records of all that changes its times because the wall clock was set.
pub(super) fn moved_records(ledger: &Ledger, before: WallClock, after: WallClock) -> Vec<Record> {
    let (before, after) = (before.at_wall(ledger.clone()), after.at_wall(ledger.clone()));
    let stored = WallClock::started_at(Timestamp::MIN);
    let orders = order_records(&before.orders, &after.orders, stored);
    [orders, history_records(&before.history, &after.history, stored)].concat()
}

/// Returns the records of the history that differ.
pub(super) fn history_records(before: &History, after: &History, wall: WallClock) -> Vec<Record> {
    let [.., failover, forgotten] = KINDS;
    let failovers =
        differing(failover, &before.failovers, &after.failovers, u64::to_string, |it| at_wall(it, wall));
    let tallies = differing(forgotten, &before.forgotten, &after.forgotten, Name::to_string, json);
    [failovers, tallies].concat()
}

fn differing<K: Ord, V: PartialEq>(
    kind: &'static str,
    before: &BTreeMap<K, V>,
    after: &BTreeMap<K, V>,
    key: impl Fn(&K) -> String,
    json: impl Fn(&V) -> Value,
) -> Vec<Record> {
    let changed = after.iter().filter(|(name, value)| before.get(name) != Some(*value));
    let put = |(name, value): (&K, &V)| Record { kind, key: key(name), value: Some(json(value)) };
    let gone = before.keys().filter(|name| !after.contains_key(name));
    let remove = |name: &K| Record { kind, key: key(name), value: None };
    changed.map(put).chain(gone.map(remove)).collect()
}

/// Returns the record of a failover.
pub(super) fn failover_record(id: u64, failover: &FailoverRecord, wall: WallClock) -> Record {
    Record { kind: KINDS[4], key: id.to_string(), value: Some(at_wall(failover, wall)) }
}

/// Returns the JSON of a value with wall times.
fn at_wall<T: Timed + Clone + Serialize>(value: &T, wall: WallClock) -> Value {
    json(&wall.at_wall(value.clone()))
}

fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).expect("records have nothing that JSON lacks")
}
