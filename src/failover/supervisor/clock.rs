//! Clock of a run: it goes on evenly, also when the wall clock is set.

use std::sync::{PoisonError, RwLock};

use jiff::Timestamp;
use tokio::time::Instant;

use crate::failover::orders::time::{Timed, WallClock, later};

/// Clock of a run.
#[derive(Debug)]
pub(super) struct RunClock {
    started: Timestamp,
    since: Instant,
    wall: RwLock<WallClock>,
}

impl RunClock {
    /// Starts the clock at the present wall time.
    pub(super) fn start() -> Self {
        let started = Timestamp::now();
        Self { started, since: Instant::now(), wall: RwLock::new(WallClock::started_at(started)) }
    }

    /// Returns the run time.
    pub(super) fn now(&self) -> Timestamp {
        later(self.started, self.since.elapsed())
    }

    /// Returns the wall clock as it was last set.
    pub(super) fn wall_clock(&self) -> WallClock {
        *self.wall.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes by this wall clock from now on.
    pub(super) fn set(&self, wall: WallClock) {
        *self.wall.write().unwrap_or_else(PoisonError::into_inner) = wall;
    }

    /// Returns the value with wall times instead of run times.
    pub(super) fn at_wall<T: Timed>(&self, value: T) -> T {
        self.wall_clock().at_wall(value)
    }
}
