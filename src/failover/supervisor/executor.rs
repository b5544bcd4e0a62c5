//! Executor of orders: makes them durable, then publishes them to Envoys, readers and clients.

use std::sync::{Arc, PoisonError, RwLock};

use super::announce::{announce_failover, announce_orders};
use super::clock::RunClock;
use super::error::Error;
use crate::control::Control;
use crate::failover::history::{FailoverChange, History};
use crate::failover::ledger::{self, Ledger, LedgerStore};
use crate::failover::orders::Orders;
use crate::failover::orders::time::WallClock;
use crate::store::{Record, Store};
use crate::telemetry::events::Events;

/// Executor of orders.
#[derive(Debug)]
pub(super) struct Executor {
    control: Control,
    store: LedgerStore,
    pub(super) events: Events,
    pub(super) clock: RunClock,
    /// Copy of the ledger as of the last change, in wall time, so that readers need not wait for a lock.
    published: RwLock<Arc<Ledger>>,
}

impl Executor {
    /// Returns an executor for the orders of this ledger.
    pub(super) fn new(
        control: Control,
        store: Arc<dyn Store>,
        events: Events,
        clock: RunClock,
        ledger: &Ledger,
    ) -> Self {
        let (store, published) = (LedgerStore::new(store), RwLock::new(Arc::new(ledger.clone())));
        Self { control, store, events, clock, published }
    }

    /// Returns the ledger as of the last change, in wall time.
    pub(super) fn ledger(&self) -> Arc<Ledger> {
        self.published.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Publishes the ledger to readers.
    pub(super) fn publish_ledger(&self, ledger: &Ledger) {
        let published = Arc::new(self.clock.at_wall(ledger.clone()));
        *self.published.write().unwrap_or_else(PoisonError::into_inner) = published;
    }

    /// Restates all times after the wall clock was set: in the store first, then to readers.
    pub(super) async fn set_wall_clock(&self, ledger: &Ledger, wall: WallClock) -> Result<(), Error> {
        self.put_records(ledger::moved_records(ledger, self.clock.wall_clock(), wall)).await?;
        self.clock.set(wall);
        self.publish_ledger(ledger);
        Ok(())
    }

    /// Makes orders durable, then publishes their overrides to Envoys. Returns the orders before them; none
    /// if nothing changed.
    pub(super) async fn put_in_force(
        &self,
        ledger: &mut Ledger,
        orders: Orders,
    ) -> Result<Option<Orders>, Error> {
        let changes = ledger::order_records(&ledger.orders, &orders, self.clock.wall_clock());
        if changes.is_empty() {
            return Ok(None);
        }
        self.put_records(changes).await?;
        let before = std::mem::replace(&mut ledger.orders, orders);
        let overrides = ledger.orders.overrides();
        if overrides != before.overrides() && !self.control.set_overrides(overrides).await {
            return Err(Error::ShuttingDown);
        }
        Ok(Some(before))
    }

    /// Publishes changed orders as events, and the ledger to readers.
    pub(super) fn announce(&self, before: Orders, ledger: &Ledger) {
        self.publish_ledger(ledger);
        announce_orders(&self.events, &self.clock.at_wall(before), &self.ledger().orders);
    }

    /// Publishes the beginning and end of failovers as events, and makes the failovers durable.
    pub(super) async fn record_failovers(
        &self,
        history: &History,
        changes: &[FailoverChange],
    ) -> Result<(), Error> {
        let mut records = Vec::new();
        for change in changes {
            let Some(failover) = history.failovers.get(&change.id()) else { continue };
            announce_failover(&self.events, *change, &self.clock.at_wall(failover.clone()));
            records.push(ledger::failover_record(change.id(), failover, self.clock.wall_clock()));
        }
        self.put_records(records).await
    }

    /// Makes records durable.
    pub(super) async fn put_records(&self, records: Vec<Record>) -> Result<(), Error> {
        self.store.put(records).await.ok_or(Error::ShuttingDown)?.map_err(Error::Store)
    }
}
