//! Log of refused requests: a line each for the first ones, then their number once a second, so that who is refused
//! cannot fill the disk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

use crate::access::rate::{Bucket, RateLimit};

/// Lines of each reason.
const LINES: RateLimit = RateLimit { burst: 10, per_second: 1 };

/// Interval at which the number of requests without a line is logged.
const INTERVAL: Duration = Duration::from_secs(1);

/// Refused requests by reason. Clones share their state.
#[derive(Debug, Clone, Default)]
pub(crate) struct RefusalLog(Arc<Mutex<HashMap<&'static str, ReasonLog>>>);

/// Lines of one reason.
#[derive(Debug)]
struct ReasonLog {
    lines: Bucket,
    /// Number of requests that have no line.
    unlogged: u64,
}

/// Trace that a refused request leaves in the log.
#[derive(Debug, PartialEq, Eq)]
enum Trace {
    /// A line of its own.
    Line,
    /// A share in the next number, which is logged after the interval.
    FirstOfNumber,
    /// A share in a number that is to be logged already.
    Number,
}

impl RefusalLog {
    /// Logs a request that was refused for this reason: by `line`, or in a number that follows.
    pub(crate) fn add(&self, reason: &'static str, line: impl FnOnce()) {
        match self.trace(reason, Instant::now()) {
            Trace::Line => line(),
            Trace::FirstOfNumber => drop(tokio::spawn(self.clone().log_number(reason))),
            Trace::Number => {}
        }
    }

    fn trace(&self, reason: &'static str, now: Instant) -> Trace {
        let mut reasons = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || ReasonLog { lines: Bucket::full(LINES, now), unlogged: 0 };
        let log = reasons.entry(reason).or_insert_with(new);
        if log.unlogged == 0 && log.lines.take(LINES, now).is_ok() {
            return Trace::Line;
        }
        log.unlogged += 1;
        if log.unlogged == 1 { Trace::FirstOfNumber } else { Trace::Number }
    }

    async fn log_number(self, reason: &'static str) {
        tokio::time::sleep(INTERVAL).await;
        let requests = self.take_number(reason);
        warn!(reason, requests, "refused more requests to the admin API");
    }

    fn take_number(&self, reason: &'static str) -> u64 {
        let mut reasons = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reasons.get_mut(reason).map(|log| std::mem::take(&mut log.unlogged)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_refusals_are_a_few_lines_and_a_number() {
        let (log, start) = (RefusalLog::default(), Instant::now());
        let traces: Vec<Trace> = (0..600).map(|_| log.trace("wrong_token", start)).collect();
        assert!(traces[..10].iter().all(|trace| *trace == Trace::Line));
        assert_eq!(traces[10], Trace::FirstOfNumber);
        assert!(traces[11..].iter().all(|trace| *trace == Trace::Number));
        assert_eq!(log.trace("role", start), Trace::Line, "each reason has its own lines");
        let later = start + INTERVAL;
        assert_eq!(log.trace("wrong_token", later), Trace::Number, "the number is not logged yet");
        assert_eq!(log.take_number("wrong_token"), 591);
        assert_eq!(log.trace("wrong_token", later), Trace::Line);
        assert_eq!(log.trace("wrong_token", later), Trace::FirstOfNumber);
    }
}
