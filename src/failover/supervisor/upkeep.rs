//! Upkeep of the history: counters of open failovers are stored, and old entries are dropped.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::failover::history::History;
use crate::failover::ledger;
use crate::failover::orders::time::WallClock;
use crate::store::Record;

/// Interval at which the counters of open failovers are stored.
const COUNTER_INTERVAL: SignedDuration = SignedDuration::from_secs(5);

/// Interval at which old observations and failovers are dropped.
const EXPIRY_INTERVAL: SignedDuration = SignedDuration::from_mins(1);

/// Times of the last upkeep, and the counters as last stored.
#[derive(Debug)]
pub(super) struct Upkeep {
    /// Requests of open failovers as last stored, by number.
    stored_requests: BTreeMap<u64, u64>,
    stored_at: Timestamp,
    expired_at: Timestamp,
}

impl Default for Upkeep {
    fn default() -> Self {
        Self {
            stored_requests: BTreeMap::new(),
            stored_at: Timestamp::UNIX_EPOCH,
            expired_at: Timestamp::UNIX_EPOCH,
        }
    }
}

impl Upkeep {
    /// Returns the records of open failovers whose counters changed, if it is time to store them.
    pub(super) fn counter_records(
        &mut self,
        history: &History,
        now: Timestamp,
        wall: WallClock,
    ) -> Vec<Record> {
        if now.duration_since(self.stored_at) <= COUNTER_INTERVAL {
            return Vec::new();
        }
        self.stored_at = now;
        let changed = history
            .all_open()
            .filter(|(id, failover)| self.stored_requests.get(id) != Some(&failover.requests));
        let records = changed.map(|(id, failover)| ledger::failover_record(id, failover, wall)).collect();
        self.stored_requests = history.all_open().map(|(id, failover)| (id, failover.requests)).collect();
        records
    }

    /// True if it is time to drop old entries.
    pub(super) fn take_expiry(&mut self, now: Timestamp) -> bool {
        let is_due = now.duration_since(self.expired_at) > EXPIRY_INTERVAL;
        if is_due {
            self.expired_at = now;
        }
        is_due
    }
}

/// Drops old failovers. Returns the records that this changes.
pub(super) fn drop_expired(history: &mut History, now: Timestamp, wall: WallClock) -> Vec<Record> {
    let before = history.clone();
    history.drop_expired(now);
    ledger::history_records(&before, history, wall)
}
