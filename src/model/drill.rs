//! Scheduled drills: rehearsals of a failover.

use std::str::FromStr as _;
use std::time::Duration;

use croner::Cron;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::config::document;
use crate::config::document::drill::DrillAbort;
use crate::model::place::{FaultCollector, FaultPlace};

/// Default duration of a drill.
pub const LENGTH: Duration = document::drill::Drill::LENGTH.0;
/// Maximum duration of a drill.
pub const MAX_LENGTH: Duration = Duration::from_secs(24 * 3600);
/// Default share of errors, in percent, that aborts a drill.
pub const ERROR_RATE: f64 = DrillAbort::ERROR_RATE;

/// Drill and its schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduledDrill {
    /// Cron expression, in UTC.
    pub schedule: String,
    /// Targets that are taken down, in the syntax of `simulate`: targets, `priority=0`, `zone=a`.
    pub down: Vec<String>,
    /// Duration of the drill.
    pub length: Duration,
    /// Share of failed requests, in percent, above which the drill is aborted.
    pub error_rate: f64,
}

// `error_rate` is never NaN: a value that is not a number is refused when it is read.
impl Eq for ScheduledDrill {}

impl ScheduledDrill {
    /// Returns the next time of the drill after this one; `None` if the schedule matches no day in the
    /// future.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let cron = Cron::from_str(&self.schedule).ok()?;
        let after = after.to_zoned(TimeZone::UTC);
        cron.find_next_occurrence(&after, false).ok().map(|next| next.timestamp())
    }
}

/// Resolves the scheduled drill of an upstream.
pub(crate) fn resolve(
    place: &FaultPlace<'_>,
    upstream: &document::upstream::Upstream,
    faults: &mut FaultCollector,
) -> Option<ScheduledDrill> {
    let declared = upstream.drill.as_ref()?;
    let Some(schedule) = &declared.schedule else {
        faults.missing(&place.key("schedule"), "`schedule`", "say when, as cron does: \"0 3 * * 1\"");
        return None;
    };
    if let Err(error) = Cron::from_str(schedule) {
        let message = format!("`{schedule}` is no schedule: {error}");
        let help = "minute, hour, day, month and day of the week, such as \"0 3 * * 1\"".to_owned();
        faults.wrong(&place.key("schedule"), message, help);
    }
    let length = declared.length.map_or(LENGTH, |length| length.0);
    if !(Duration::from_secs(1)..=MAX_LENGTH).contains(&length) {
        faults.wrong(&place.key("for"), "no drill lasts that long".to_owned(), "1s to 24h".to_owned());
    }
    let error_rate = declared.abort_if.as_ref().and_then(|DrillAbort { error_rate }| *error_rate);
    let error_rate = error_rate.unwrap_or(ERROR_RATE);
    if !(0.0..=100.0).contains(&error_rate) {
        let place = place.key("abort_if").key("error_rate");
        faults.wrong(&place, format!("{error_rate} is no percentage"), "0 to 100".to_owned());
    }
    let down =
        declared.down.clone().unwrap_or_else(|| document::drill::Drill::DOWN.map(str::to_owned).to_vec());
    if down.is_empty() {
        let help = "name targets, zones or tiers, such as priority=0".to_owned();
        faults.wrong(&place.key("down"), "a drill takes something out".to_owned(), help);
    }
    Some(ScheduledDrill { schedule: schedule.clone(), down, length, error_rate })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, after: Timestamp) -> Option<String> {
        let (down, error_rate) = (Vec::new(), ERROR_RATE);
        let drill = ScheduledDrill { schedule: schedule.to_owned(), down, length: LENGTH, error_rate };
        drill.next(after).map(|next| next.to_string())
    }

    #[test]
    fn schedules_end_with_the_calendar() {
        let schedules = [
            "* * * * *",
            "0 3 29 2 *",
            "0 3 31 2 *",
            "0 0 1 1 *",
            "0 0 0 1 1 * 5000",
            "0 0 0 1 1 * 1970",
            "no",
        ];
        for after in [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX] {
            for schedule in schedules {
                let _ = next(schedule, after);
            }
        }
        let after = |text: &str| text.parse::<Timestamp>().expect("a time");
        assert_eq!(
            next("0 3 29 2 *", after("2026-11-29T21:00:00Z")).as_deref(),
            Some("2028-02-29T03:00:00Z")
        );
        assert_eq!(next("0 3 31 2 *", after("2026-11-29T21:00:00Z")), None);
        assert_eq!(next("* * * * *", Timestamp::MAX), None);
        assert_eq!(next("* * * * *", after("9998-12-31T23:59:59Z")), None, "beyond what croner takes");
    }
}
