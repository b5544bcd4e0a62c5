//! Counters of one upstream, in total and of the last minute or two.

use jiff::Timestamp;

use crate::envoy::load_totals::LoadTotals;

/// Counters of an upstream, with their values one or two minutes ago.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct UpstreamCounters {
    /// Sums since the start of the process.
    pub(super) totals: LoadTotals,
    /// Minute of the newest report, since the epoch.
    minute: i64,
    /// Counters at the beginning of that minute, and of the minute before it.
    marks: [LoadTotals; 2],
}

impl UpstreamCounters {
    /// Adds the loads of a report that arrived at this time.
    pub(super) fn add(&mut self, at: Timestamp, loads: LoadTotals) {
        let minute = at.as_second() / 60;
        if minute != self.minute {
            let before = if minute == self.minute + 1 { self.marks[0] } else { self.totals };
            (self.minute, self.marks) = (minute, [self.totals, before]);
        }
        self.totals = self.totals.plus(loads);
    }

    /// Returns the counters of the last minute or two.
    pub(super) fn recent(&self, now: Timestamp) -> LoadTotals {
        match now.as_second() / 60 - self.minute {
            0 => self.totals.since(self.marks[1]),
            1 => self.totals.since(self.marks[0]),
            _ => LoadTotals::default(),
        }
    }
}
