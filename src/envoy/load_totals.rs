//! Sums of load reports.

/// Minimum sum of requests in progress for a latency estimate, which is then accurate to about a fifth.
const MIN_IN_PROGRESS: u64 = 20;

/// Sums of the loads in reports: of one report, of one node or of one upstream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadTotals {
    /// Requests that ended, successful or not, including retries.
    pub requests: u64,
    /// Failed requests among them.
    pub errors: u64,
    /// Requests in progress at the end of a report, summed over all reports.
    pub in_progress: u64,
    /// Requests in progress times the interval of the report in milliseconds, summed over all reports.
    pub busy: u64,
}

impl LoadTotals {
    /// Returns the sum of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            errors: self.errors.saturating_add(other.errors),
            in_progress: self.in_progress.saturating_add(other.in_progress),
            busy: self.busy.saturating_add(other.busy),
        }
    }

    /// Returns the difference to the earlier totals `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(before.requests),
            errors: self.errors.saturating_sub(before.errors),
            in_progress: self.in_progress.saturating_sub(before.in_progress),
            busy: self.busy.saturating_sub(before.busy),
        }
    }

    /// Returns the totals of a report with this many requests in progress after an interval of this many
    /// seconds.
    #[must_use]
    pub fn of_report(requests: u64, errors: u64, in_progress: u64, seconds: f32) -> Self {
        let milliseconds = (seconds * 1000.0) as u64;
        Self { requests, errors, in_progress, busy: in_progress.saturating_mul(milliseconds) }
    }

    /// Returns the mean duration of a try in milliseconds, by Little's law: requests in progress are the
    /// arrival rate times the duration. None if too few requests in progress were seen for an estimate.
    pub fn latency(self) -> Option<f64> {
        let is_known = self.in_progress >= MIN_IN_PROGRESS && self.requests > 0;
        is_known.then(|| self.busy as f64 / self.requests as f64)
    }
}
