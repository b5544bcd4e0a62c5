//! Ledger of the orders in force and the history, and its records in the store.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::failover::history::{Failover, History, Tallies};
use crate::failover::orders::Orders;
use crate::model::name::Name;
use crate::model::selector::Part;
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

impl Ledger {
    /// Reads the ledger from the store after a restart. Expired orders are removed and running drills
    /// reverted, also in the store.
    ///
    /// # Errors
    ///
    /// Fails if the store cannot be read or written, or if a record is damaged.
    pub fn open(store: &dyn Store, now: Timestamp) -> Result<Self, store::Error> {
        let mut orders = Orders::default();
        let mut past = Past::default();
        for (kind, key, value) in store.records()? {
            read(&mut orders, &mut past, (&kind, &key), value)
                .ok_or_else(|| store::Error::Damaged { key: format!("{kind}/{key}") })?;
        }
        let restarted = orders.restarted(now);
        store.put_records(&records(&orders, &restarted))?;
        Ok(Self { orders: restarted, history: History::restored(past.failovers, past.forgotten) })
    }
}

/// Failovers in the store, and the totals of those that were dropped.
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
        // Kind of a newer version: skipped.
        _ => {}
    }
    Some(())
}

/// Returns the records of orders that differ.
pub(super) fn records(before: &Orders, after: &Orders) -> Vec<Record> {
    let [state, pin, hold, drill, ..] = KINDS;
    let states = differing(state, &before.states, &after.states, |(name, part)| format!("{name}/{part}"));
    let pins = differing(pin, &before.pins, &after.pins, Name::to_string);
    let holds = differing(hold, &before.holds, &after.holds, Name::to_string);
    let drills = differing(drill, &before.drills, &after.drills, u64::to_string);
    [states, pins, holds, drills].concat()
}

/// Returns the records of the history that differ.
pub(super) fn history_records(before: &History, after: &History) -> Vec<Record> {
    let [.., failover, forgotten] = KINDS;
    let failovers = differing(failover, &before.failovers, &after.failovers, u64::to_string);
    let tallies = differing(forgotten, &before.forgotten, &after.forgotten, Name::to_string);
    [failovers, tallies].concat()
}

fn differing<K: Ord, V: PartialEq + Serialize>(
    kind: &'static str,
    before: &BTreeMap<K, V>,
    after: &BTreeMap<K, V>,
    key: impl Fn(&K) -> String,
) -> Vec<Record> {
    let changed = after.iter().filter(|(name, value)| before.get(name) != Some(*value));
    let put = |(name, value): (&K, &V)| Record {
        kind,
        key: key(name),
        value: Some(serde_json::to_value(value).expect("records have nothing that JSON lacks")),
    };
    let gone = before.keys().filter(|name| !after.contains_key(name));
    let remove = |name: &K| Record { kind, key: key(name), value: None };
    changed.map(put).chain(gone.map(remove)).collect()
}

/// Returns the record of a failover.
pub(super) fn failover_record(id: u64, failover: &Failover) -> Record {
    let value = serde_json::to_value(failover).expect("records have nothing that JSON lacks");
    Record { kind: KINDS[4], key: id.to_string(), value: Some(value) }
}
