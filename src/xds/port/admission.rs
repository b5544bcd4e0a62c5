//! Admission of streams: after a restart the whole fleet connects at once, and each stream costs a first
//! response.
//!
//! A token bucket that stores a time instead of tokens: the time at which the bucket would be full again. A
//! stream that has to wait gets its delay at once, and with it its position, so that no queue is needed and
//! streams begin in the order in which they asked. The position of a stream that disconnects meanwhile stays
//! unused.

use std::time::{Duration, Instant};

/// Limits on the number of streams that begin.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Streams per second.
    pub per_second: u32,
    /// Streams at once, after a pause.
    pub burst: u32,
    /// Streams that may wait; further ones are refused.
    pub waiting: u32,
}

/// Decision about a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdmissionDecision {
    /// Begin after this delay, which may be zero.
    BeginAfter(Duration),
    /// Refused, because too many streams wait.
    Refused,
}

/// Schedule of the streams that are admitted.
#[derive(Debug)]
pub struct Admission {
    rate: Rate,
    /// Time at which the bucket would be full again; none before the first stream.
    full_at: Option<Instant>,
}

impl Admission {
    /// Creates a full bucket.
    pub fn new(rate: Rate) -> Self {
        Self { rate, full_at: None }
    }

    /// Assigns a stream its start time, or refuses it.
    pub fn admit(&mut self, now: Instant) -> AdmissionDecision {
        let Rate { per_second, burst, waiting } = self.rate;
        let share = Duration::from_secs(1) / per_second.max(1);
        let full_at = self.full_at.map_or(now, |full_at| full_at.max(now)) + share;
        let wait = full_at.duration_since(now).saturating_sub(share * burst.max(1));
        if wait > share * waiting {
            return AdmissionDecision::Refused;
        }
        self.full_at = Some(full_at);
        AdmissionDecision::BeginAfter(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 10, burst: 2, waiting: 3 };

    /// Lets streams ask at these times, in ms, and compares the delay of each, in ms; `no` if refused.
    fn check(asked: &[u64], expected: &str) {
        let start = Instant::now();
        let mut admission = Admission::new(RATE);
        let answers = asked.iter().map(|at| match admission.admit(start + Duration::from_millis(*at)) {
            AdmissionDecision::BeginAfter(wait) => wait.as_millis().to_string(),
            AdmissionDecision::Refused => "no".to_owned(),
        });
        assert_eq!(answers.collect::<Vec<_>>().join(" "), expected, "{asked:?}");
    }

    #[test]
    fn a_burst_begins_at_once_and_the_rest_one_after_the_other() {
        check(&[0, 0, 0, 0], "0 0 100 200");
    }

    #[test]
    fn more_than_may_wait_are_refused() {
        check(&[0, 0, 0, 0, 0, 0, 0], "0 0 100 200 300 no no");
    }

    #[test]
    fn a_place_that_came_free_is_given_again() {
        check(&[0, 0, 0, 0, 0, 0, 100, 100], "0 0 100 200 300 no 300 no");
    }

    #[test]
    fn a_slow_trickle_never_waits() {
        check(&[0, 100, 200, 300, 400, 500], "0 0 0 0 0 0");
    }

    #[test]
    fn a_pause_saves_no_more_than_a_burst() {
        check(&[0, 60_000, 60_000, 60_000], "0 0 0 100");
    }

    #[test]
    fn a_whole_fleet_is_let_in_within_seconds() {
        let now = Instant::now();
        let mut admission = Admission::new(Rate { per_second: 2_000, burst: 2_000, waiting: 20_000 });
        let answers: Vec<AdmissionDecision> = (0..25_000).map(|_| admission.admit(now)).collect();
        let refused = answers.iter().filter(|answer| **answer == AdmissionDecision::Refused).count();
        assert_eq!(refused, 3_000, "2,000 begin, 20,000 wait");
        assert_eq!(answers[9_999], AdmissionDecision::BeginAfter(Duration::from_secs(4)));
    }
}
