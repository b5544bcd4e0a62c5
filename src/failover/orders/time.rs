//! Time of a run: arithmetic that cannot overflow, and the relation of run time to the wall clock.
//!
//! Orders, holds, drills and observations go by run time: the wall time at the start of the process plus the
//! time that has passed since. Setting the wall clock neither ends them early nor prolongs them. Times that
//! leave the room, in records, events and views, are [wall times](WallClock::wall).

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Difference up to which the wall clock counts as not set since the last look.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(1);

/// Returns the time after this duration, or the end of the calendar.
pub fn later(time: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by).map_or(Timestamp::MAX, |by| shifted(time, by))
}

/// Returns the time moved by this duration, or the end of the calendar.
fn shifted(time: Timestamp, by: SignedDuration) -> Timestamp {
    let end = if by.is_negative() { Timestamp::MIN } else { Timestamp::MAX };
    time.checked_add(by).unwrap_or(end)
}

/// Wall clock as seen from run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WallClock {
    /// Start of the run, in both.
    started: Timestamp,
    /// Time by which the wall clock is ahead of run time since it was set; negative if it is behind.
    ahead: SignedDuration,
}

impl WallClock {
    /// Returns the clock at the start of a run.
    pub fn started_at(started: Timestamp) -> Self {
        // Some times have no fractions of a second.
        let started = Timestamp::from_second(started.as_second()).unwrap_or(started);
        Self { started, ahead: SignedDuration::ZERO }
    }

    /// Returns the clock after a look at both times, if the wall clock was set since the last look.
    #[must_use]
    pub fn set_since(&self, now: Timestamp, wall: Timestamp) -> Option<Self> {
        let ahead = wall.duration_since(now);
        let by = ahead.checked_sub(self.ahead).unwrap_or(SignedDuration::MAX);
        (by.unsigned_abs() > TOLERANCE.unsigned_abs()).then_some(Self { ahead, ..*self })
    }

    /// Returns the wall time of a run time. Times before the start of the run are wall times already.
    pub fn wall(&self, time: Timestamp) -> Timestamp {
        if time < self.started { time } else { shifted(time, self.ahead) }
    }

    /// Returns the value with wall times instead of run times.
    #[must_use]
    pub fn at_wall<T: Timed>(&self, mut value: T) -> T {
        if self.ahead != SignedDuration::ZERO {
            value.map_times(&|time| self.wall(time));
        }
        value
    }
}

/// Value that contains times.
pub trait Timed {
    /// Replaces each time.
    fn map_times(&mut self, map: &dyn Fn(Timestamp) -> Timestamp);
}

impl Timed for Timestamp {
    fn map_times(&mut self, map: &dyn Fn(Timestamp) -> Timestamp) {
        *self = map(*self);
    }
}

impl Timed for () {
    fn map_times(&mut self, _: &dyn Fn(Timestamp) -> Timestamp) {}
}

impl<T: Timed> Timed for Option<T> {
    fn map_times(&mut self, map: &dyn Fn(Timestamp) -> Timestamp) {
        if let Some(value) = self {
            value.map_times(map);
        }
    }
}

impl<T: Timed> Timed for (u64, T) {
    fn map_times(&mut self, map: &dyn Fn(Timestamp) -> Timestamp) {
        self.1.map_times(map);
    }
}

/// Moves a value that was stored by an earlier run so that `since`, a time of its past, does not lie in the
/// future. It does if the wall clock was set back between the runs; each deadline is then as far away as it
/// was at `since`.
pub fn restore_past(value: &mut impl Timed, since: Timestamp, now: Timestamp) {
    if since > now {
        let by = now.duration_since(since);
        value.map_times(&|time| shifted(time, by));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("within the calendar")
    }

    #[test]
    fn times_after_the_start_follow_the_wall_clock_when_it_is_set() {
        let clock = WallClock::started_at(at(1000));
        assert_eq!(clock.set_since(at(1010), at(1011)), None, "a second is no jump");
        for (wall, expected) in [(4610, 4605), (10, 5), (-253_402_207_000, -253_402_207_005)] {
            let set = clock.set_since(at(1010), at(wall)).expect("it was set");
            assert_eq!(set.wall(at(1005)), at(expected));
            assert_eq!(set.wall(at(999)), at(999), "of an earlier run");
            assert_eq!(set.set_since(at(1020), at(wall + 10)), None, "it goes on from there");
            let back = set.set_since(at(1020), at(1020)).expect("it was set back");
            assert_eq!(back, clock);
        }
    }

    #[test]
    fn times_end_with_the_calendar() {
        assert_eq!(later(Timestamp::MAX, Duration::from_secs(1)), Timestamp::MAX);
        assert_eq!(later(at(0), Duration::MAX), Timestamp::MAX);
        let clock = WallClock::started_at(at(0)).set_since(at(0), Timestamp::MAX).expect("it was set");
        assert_eq!(clock.wall(Timestamp::MAX), Timestamp::MAX);
        let clock = WallClock::started_at(Timestamp::MIN).set_since(at(0), Timestamp::MIN);
        assert_eq!(clock.expect("it was set").wall(Timestamp::MIN), Timestamp::MIN);
    }
}
