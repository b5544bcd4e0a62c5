//! When a stream may begin: after a restart the whole fleet comes at once, and each stream costs its first answer.
//!
//! A token bucket without tokens: what is kept is the moment at which the next stream may begin. A stream that
//! has to wait is told for how long and has its place then, so that there is no queue and those who came first
//! are first. The place of one that hung up meanwhile stays empty.

use std::time::{Duration, Instant};

/// How many streams may begin.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// In a second.
    pub per_second: u32,
    /// At once, after a pause.
    pub burst: u32,
    /// More than these do not wait: they are refused.
    pub waiting: u32,
}

/// What became of a stream that asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It may begin after that time, which may be none.
    After(Duration),
    /// Too many wait.
    Refused,
}

/// The places of streams in time.
#[derive(Debug)]
pub struct Admission {
    rate: Rate,
    /// When the bucket would be full again.
    full_at: Option<Instant>,
}

impl Admission {
    /// A full bucket.
    pub fn new(rate: Rate) -> Self {
        Self { rate, full_at: None }
    }

    /// Gives a stream its place, if there is one.
    pub fn ask(&mut self, now: Instant) -> Answer {
        let Rate { per_second, burst, waiting } = self.rate;
        let share = Duration::from_secs(1) / per_second.max(1);
        let full_at = self.full_at.map_or(now, |full_at| full_at.max(now)) + share;
        let wait = full_at.duration_since(now).saturating_sub(share * burst.max(1));
        if wait > share * waiting {
            return Answer::Refused;
        }
        self.full_at = Some(full_at);
        Answer::After(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 10, burst: 2, waiting: 3 };

    /// Lets streams ask at these milliseconds, and compares after how many each may begin; `no` if refused.
    fn check(asked: &[u64], expected: &str) {
        let start = Instant::now();
        let mut admission = Admission::new(RATE);
        let answers = asked.iter().map(|at| match admission.ask(start + Duration::from_millis(*at)) {
            Answer::After(wait) => wait.as_millis().to_string(),
            Answer::Refused => "no".to_owned(),
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
        let answers: Vec<Answer> = (0..25_000).map(|_| admission.ask(now)).collect();
        let refused = answers.iter().filter(|answer| **answer == Answer::Refused).count();
        assert_eq!(refused, 3_000, "2,000 begin, 20,000 wait");
        assert_eq!(answers[9_999], Answer::After(Duration::from_secs(4)));
    }
}
