//! Arithmetic on times that cannot overflow.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Returns the time after this duration, or the end of the calendar.
pub fn later(time: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| time.checked_add(by).ok()).unwrap_or(Timestamp::MAX)
}
