//! Held standby: it keeps the traffic after its primaries recovered, until the failback policy returns the
//! traffic.
//!
//! Envoys return to primaries by themselves as soon as they find them healthy. A hold therefore puts the tier
//! of the standby first; the primaries become its standby, and serve if it fails.
//!
//! Envoys that run health checks know when primaries without traffic recovered, and the time of a hold counts
//! from there. Without such checks it counts from the failover. Either way the release is a try: the declared
//! order is restored, and if the primaries do not serve soon after, they have not recovered, and the standby
//! is held again.
//!
//! Steps need no try: the primaries get the share of the first step beside the standby, which Envoys use once
//! they are healthy. The next step follows when the primaries have served for the time of the step.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::failover::orders::time::{Timed, later};
use crate::model::failback::{Failback, Release};
use crate::model::overrides::First;

/// Time within which the primaries must serve after a release; otherwise they have not recovered.
pub const TRIAL: Duration = Duration::from_secs(4);

/// Hold of a standby.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Tier of the standby.
    pub tier: u32,
    /// Time at which the hold began, or at which an operator released it into steps.
    pub since: Timestamp,
    /// Phase of the hold.
    pub phase: HoldPhase,
    /// True if failbacks came too often, so that only an operator releases it.
    pub is_flapping: bool,
}

/// Phase of a hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldPhase {
    /// The standby serves alone.
    Held {
        /// Time of the next try to fail back; none while the hold waits for an operator or for the primaries
        /// to recover.
        until: Option<Timestamp>,
    },
    /// The declared order is restored for a try.
    Trying {
        /// Time by which the primaries must serve.
        until: Timestamp,
    },
    /// The primaries have a share of the traffic.
    Step {
        /// Index of the step, from 0.
        index: usize,
        /// Share of the primaries, in percent.
        percent: u32,
        /// Time since which the primaries serve in this step; none before they do.
        serving_since: Option<Timestamp>,
    },
}

/// Outcome of a decision about a hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HoldOutcome {
    /// The hold goes on, possibly in another phase.
    Hold(Hold),
    /// The hold is over; the primaries have their traffic back.
    Over,
}

/// Observed state of the primaries of a held standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrimariesStatus {
    /// True if the primaries serve; none without requests to judge by.
    pub serves: Option<bool>,
    /// True if a primary is healthy; none if unknown.
    pub is_healthy: Option<bool>,
}

impl Hold {
    /// Returns a hold of this tier in its first phase.
    pub fn new(tier: u32, now: Timestamp, failback: &Failback, is_flapping: bool) -> Self {
        Self { tier, since: now, phase: first_phase(now, failback, is_flapping), is_flapping }
    }

    /// Returns the tier that the hold puts first; none in the declared order.
    pub fn first(&self) -> Option<First> {
        match self.phase {
            HoldPhase::Held { .. } => Some(First { tier: self.tier, home: 0 }),
            HoldPhase::Trying { .. } => None,
            HoldPhase::Step { percent, .. } => Some(First { tier: self.tier, home: percent }),
        }
    }

    /// Returns the latest time of the past that is known of the hold.
    pub fn last_change(&self) -> Timestamp {
        match self.phase {
            HoldPhase::Step { serving_since: Some(since), .. } => since.max(self.since),
            _ => self.since,
        }
    }

    /// Returns the time at which the phase ends by itself; none if it waits for an event.
    pub fn due(&self, failback: &Failback) -> Option<Timestamp> {
        match (&self.phase, &failback.release) {
            (HoldPhase::Held { until }, _) => *until,
            (HoldPhase::Trying { until }, _) => Some(*until),
            (HoldPhase::Step { serving_since, .. }, Release::Steps { every, .. }) => {
                serving_since.map(|since| later(since, *every))
            }
            (HoldPhase::Step { .. }, _) => None,
        }
    }

    /// Returns the time for which primaries must be healthy before a try, if the hold waits for them to
    /// recover.
    pub fn waits_for_primaries(&self, failback: &Failback) -> Option<Duration> {
        match failback.release {
            Release::After(after) if !self.is_flapping && self.phase == (HoldPhase::Held { until: None }) => {
                Some(after)
            }
            _ => None,
        }
    }

    /// Releases the hold for an operator, regardless of health. If the policy returns traffic in steps, the
    /// first step begins; in all other cases, and if steps are under way, the hold is over.
    pub fn released(&self, now: Timestamp, failback: &Failback) -> HoldOutcome {
        match &failback.release {
            Release::Steps { percents, .. } if !matches!(self.phase, HoldPhase::Step { .. }) => {
                let percent = percents.first().copied().unwrap_or(100);
                let phase = HoldPhase::Step { index: 0, percent, serving_since: None };
                HoldOutcome::Hold(Self { phase, is_flapping: false, since: now, ..self.clone() })
            }
            _ => HoldOutcome::Over,
        }
    }

    /// Returns the outcome for the failback policy and the observed state of the primaries.
    pub fn next(&self, now: Timestamp, failback: &Failback, primaries: PrimariesStatus) -> HoldOutcome {
        if !failback.holds() {
            return HoldOutcome::Over;
        }
        let primaries_serve = primaries.serves == Some(true);
        let phase = match (&self.phase, &failback.release) {
            // The standby failed, and Envoys fell back to the primaries.
            (HoldPhase::Held { .. }, _) if primaries_serve => return HoldOutcome::Over,
            (HoldPhase::Held { .. }, Release::After(_))
                if !self.is_flapping && primaries.is_healthy == Some(false) =>
            {
                HoldPhase::Held { until: None }
            }
            (HoldPhase::Held { until: None }, Release::After(_)) => {
                first_phase(now, failback, self.is_flapping)
            }
            (HoldPhase::Held { until: Some(until) }, _) if *until <= now => {
                HoldPhase::Trying { until: later(now, TRIAL) }
            }
            (HoldPhase::Held { .. }, _) => return HoldOutcome::Hold(self.clone()),
            (HoldPhase::Trying { .. }, _) if primaries_serve => return HoldOutcome::Over,
            (HoldPhase::Trying { until }, _) if *until <= now => {
                match (primaries.serves, primaries.is_healthy) {
                    // No requests arrived, and the primaries are healthy.
                    (None, Some(true)) => return HoldOutcome::Over,
                    (None, None) => return HoldOutcome::Hold(self.clone()),
                    _ => first_phase(now, failback, self.is_flapping),
                }
            }
            (HoldPhase::Trying { .. }, _) => return HoldOutcome::Hold(self.clone()),
            (HoldPhase::Step { index, .. }, Release::Steps { percents, every }) => {
                match self.stepped(now, *index, percents, *every, primaries.serves) {
                    Some(phase) => phase,
                    None => return HoldOutcome::Over,
                }
            }
            // The policy has changed and has no steps any more.
            (HoldPhase::Step { .. }, _) => first_phase(now, failback, self.is_flapping),
        };
        HoldOutcome::Hold(Self { phase, ..self.clone() })
    }

    /// Returns the next phase of a return in steps; none when it is complete.
    fn stepped(
        &self,
        now: Timestamp,
        index: usize,
        percents: &[u32],
        every: Duration,
        primaries_serve: Option<bool>,
    ) -> Option<HoldPhase> {
        let HoldPhase::Step { percent, serving_since, .. } = self.phase else { return None };
        let at = |index: usize, serving_since| {
            let percent = percents.get(index).copied().unwrap_or(100);
            HoldPhase::Step { index, percent, serving_since }
        };
        match (serving_since, primaries_serve) {
            // The primaries stopped serving: start again with the first step.
            (_, Some(false)) => Some(at(0, None)),
            // A small share of little traffic can be no requests at all.
            (_, None) => Some(self.phase.clone()),
            (None, Some(true)) => Some(HoldPhase::Step { index, percent, serving_since: Some(now) }),
            (Some(since), Some(true)) if later(since, every) > now => Some(self.phase.clone()),
            (Some(_), Some(true)) => match percents.get(index.saturating_add(1)) {
                // A step of 100 % equals the declared order, so it ends the hold.
                Some(next) if *next < 100 => Some(at(index.saturating_add(1), Some(now))),
                _ => None,
            },
        }
    }
}

impl Timed for Hold {
    fn map_times(&mut self, map: &dyn Fn(Timestamp) -> Timestamp) {
        self.since.map_times(map);
        self.phase.map_times(map);
    }
}

impl Timed for HoldPhase {
    fn map_times(&mut self, map: &dyn Fn(Timestamp) -> Timestamp) {
        match self {
            Self::Held { until } => until.map_times(map),
            Self::Trying { until } => until.map_times(map),
            Self::Step { serving_since, .. } => serving_since.map_times(map),
        }
    }
}

fn first_phase(now: Timestamp, failback: &Failback, is_flapping: bool) -> HoldPhase {
    match &failback.release {
        _ if is_flapping => HoldPhase::Held { until: None },
        Release::Auto | Release::Manual => HoldPhase::Held { until: None },
        Release::After(after) => HoldPhase::Held { until: Some(later(now, *after)) },
        Release::Steps { percents, .. } => {
            let percent = percents.first().copied().unwrap_or(100);
            HoldPhase::Step { index: 0, percent, serving_since: None }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("within the calendar")
    }

    /// Primaries that do not serve and whose health is unknown.
    const AWAY: PrimariesStatus = PrimariesStatus { serves: Some(false), is_healthy: None };

    fn words(next: &HoldOutcome) -> String {
        match next {
            HoldOutcome::Over => "over".to_owned(),
            HoldOutcome::Hold(hold) => match &hold.phase {
                HoldPhase::Held { until: None } => "held".to_owned(),
                HoldPhase::Held { until: Some(until) } => format!("held until {}", until.as_second()),
                HoldPhase::Trying { until } => format!("trying until {}", until.as_second()),
                HoldPhase::Step { percent, serving_since: None, .. } => format!("{percent} % offered"),
                HoldPhase::Step { percent, serving_since: Some(since), .. } => {
                    format!("{percent} % since {}", since.as_second())
                }
            },
        }
    }

    /// Begins a hold at second 0 and checks its phase at these seconds, each with the observation of whether
    /// the primaries serve.
    fn check(release: Release, seen: &[(i64, impl Into<Option<bool>> + Copy, &str)]) {
        let failback = Failback { release, at_most: None };
        let mut hold = Hold::new(1, at(0), &failback, false);
        for (second, primaries_serve, expected) in seen {
            let primaries = PrimariesStatus { serves: (*primaries_serve).into(), is_healthy: None };
            let next = hold.next(at(*second), &failback, primaries);
            assert_eq!(words(&next), *expected, "at {second}");
            match next {
                HoldOutcome::Hold(next) => hold = next,
                HoldOutcome::Over => return,
            }
        }
    }

    #[test]
    fn a_manual_failback_waits_for_an_operator_or_for_the_standby_to_die() {
        check(Release::Manual, &[(1, false, "held"), (86_400, false, "held"), (86_401, true, "over")]);
    }

    #[test]
    fn after_its_time_the_primaries_are_tried_and_if_they_do_not_serve_held_again() {
        check(
            Release::After(Duration::from_secs(300)),
            &[
                (299, false, "held until 300"),
                (300, false, "trying until 304"),
                (303, false, "trying until 304"),
                (304, false, "held until 604"),
                (604, false, "trying until 608"),
                (605, true, "over"),
            ],
        );
    }

    #[test]
    fn its_time_begins_when_the_primaries_are_known_to_have_recovered() {
        let failback = Failback { release: Release::After(Duration::from_secs(300)), at_most: None };
        let check = |is_flapping: bool, seen: &[(i64, Option<bool>, &str)]| {
            let mut hold = Hold::new(1, at(0), &failback, is_flapping);
            for (second, is_healthy, expected) in seen {
                let primaries = PrimariesStatus { serves: Some(false), is_healthy: *is_healthy };
                let next = hold.next(at(*second), &failback, primaries);
                assert_eq!(words(&next), *expected, "at {second}");
                let HoldOutcome::Hold(next) = next else { panic!("it is over at {second}") };
                hold = next;
            }
        };
        check(
            false,
            &[
                (1, None, "held until 300"),
                (2, Some(false), "held"),
                (1_000, Some(false), "held"),
                (1_001, Some(true), "held until 1301"),
                (1_002, Some(true), "held until 1301"),
                (1_003, Some(false), "held"),
                (1_004, None, "held until 1304"),
                (1_005, Some(true), "held until 1304"),
                (1_304, Some(true), "trying until 1308"),
                (1_308, Some(false), "held until 1608"),
                (1_309, Some(false), "held"),
            ],
        );
        check(true, &[(1, Some(false), "held"), (2, Some(true), "held"), (3, None, "held")]);
    }

    #[test]
    fn steps_follow_once_the_primaries_served_for_the_time_of_each() {
        check(
            Release::Steps { percents: vec![10, 50, 100], every: Duration::from_secs(60) },
            &[
                (500, false, "10 % offered"),
                (501, true, "10 % since 501"),
                (560, true, "10 % since 501"),
                (561, true, "50 % since 561"),
                (621, true, "over"),
            ],
        );
    }

    #[test]
    fn primaries_that_fail_within_the_steps_begin_anew() {
        check(
            Release::Steps { percents: vec![10, 50, 100], every: Duration::from_secs(60) },
            &[
                (1, true, "10 % since 1"),
                (61, true, "50 % since 61"),
                (70, false, "10 % offered"),
                (90, true, "10 % since 90"),
            ],
        );
    }

    #[test]
    fn steps_wait_for_a_request_to_tell() {
        check(
            Release::Steps { percents: vec![10, 50], every: Duration::from_secs(60) },
            &[
                (1, None, "10 % offered"),
                (2, Some(true), "10 % since 2"),
                (3, None, "10 % since 2"),
                (70, None, "10 % since 2"),
                (71, Some(true), "50 % since 71"),
                (140, None, "50 % since 71"),
                (141, Some(true), "over"),
            ],
        );
    }

    #[test]
    fn a_try_without_requests_ends_by_what_checks_say() {
        let failback = Failback { release: Release::After(Duration::from_secs(9)), at_most: None };
        let hold =
            Hold { phase: HoldPhase::Trying { until: at(4) }, ..Hold::new(1, at(0), &failback, false) };
        let check = |second, is_healthy, expected: &str| {
            let next = hold.next(at(second), &failback, PrimariesStatus { serves: None, is_healthy });
            assert_eq!(words(&next), expected, "{is_healthy:?} at {second}");
        };
        check(3, Some(true), "trying until 4");
        check(4, Some(true), "over");
        check(4, Some(false), "held until 13");
        check(60, None, "trying until 4");
    }

    #[test]
    fn a_policy_that_holds_no_more_releases() {
        let manual = Failback { release: Release::Manual, at_most: None };
        let hold = Hold::new(1, at(0), &manual, false);
        assert_eq!(hold.next(at(1), &Failback::default(), AWAY), HoldOutcome::Over);
    }

    #[test]
    fn flapping_is_held_whatever_the_policy_and_an_operator_releases_it() {
        let failback = Failback { release: Release::After(Duration::from_secs(5)), at_most: None };
        let hold = Hold::new(1, at(0), &failback, true);
        assert_eq!(words(&hold.next(at(100), &failback, AWAY)), "held");
        assert_eq!(hold.released(at(100), &failback), HoldOutcome::Over);
    }

    #[test]
    fn an_operator_who_releases_steps_begins_them() {
        let steps = Release::Steps { percents: vec![10, 100], every: Duration::from_secs(60) };
        let failback = Failback { release: steps, at_most: None };
        let hold = Hold::new(1, at(0), &failback, true);
        assert_eq!(words(&hold.released(at(9), &failback)), "10 % offered");
    }
}
