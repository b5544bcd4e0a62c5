//! Estimates of the time until a failed target is detected, and of the time that a request may wait for that.
//!
//! Estimates are worst cases by the settings alone, in agreement with measurements: a failure occurs just
//! after a passed check, and an idempotent request to a target that does not respond ends with its try
//! timeout.

use std::time::Duration;

use crate::build::lint::subject::{Caller, UpstreamSubject};
use crate::model::health::{HealthCheck, Probe};

/// Time until traffic leaves a failed target, by kind of failure; none for never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// Time after its process has ended, so that connections are refused.
    pub stopped: Option<Duration>,
    /// Time after it was cut off, so that nothing comes back.
    pub unreachable: Option<Duration>,
    /// Time after its process has frozen: connections are accepted, but no response comes.
    pub frozen: Option<Duration>,
}

impl Estimate {
    /// Returns the longest of the three; none if one is never.
    pub fn worst(self) -> Option<Duration> {
        Some(self.stopped?.max(self.unreachable?).max(self.frozen?))
    }
}

/// Estimates detection for an upstream with all its callers.
pub(super) fn of(subject: &UpstreamSubject) -> Estimate {
    let check = subject.upstream().health_check.as_ref();
    let refused = check.map(|check| check.unhealthy_threshold * probe_interval(check));
    let mute = check.map(|check| check.unhealthy_threshold * (probe_interval(check) + check.timeout));
    let by_traffic = by_traffic(subject);
    let sooner = |by_check: Option<Duration>, by_traffic: Option<Duration>| match (by_check, by_traffic) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    Estimate {
        // A refused connection fails at once, so the five that eject a target follow within moments.
        stopped: sooner(refused, by_traffic.map(|_| Duration::ZERO)),
        unreachable: sooner(mute, by_traffic),
        frozen: sooner(mute.filter(|_| check.is_some_and(sees_a_freeze)), by_traffic),
    }
}

/// Returns the longest interval between two checks, with the jitter that Envoy adds.
fn probe_interval(check: &HealthCheck) -> Duration {
    check.interval + check.interval * check.jitter / 100
}

/// Returns true if the check detects a frozen process. The kernel accepts connections for it, so a check must
/// expect a response.
pub(super) fn sees_a_freeze(check: &HealthCheck) -> bool {
    !matches!(check.probe, Probe::Tcp { receive: None, .. })
}

/// Returns the time until outlier detection notices that tries get no response: the longest try timeout of
/// all callers, since that caller may be the only one in use. None without outlier detection, without a
/// caller, or if a caller has no try timeout.
fn by_traffic(subject: &UpstreamSubject) -> Option<Duration> {
    subject.upstream().outlier_detection.as_ref()?;
    let longest = |caller: &Caller| caller.tries().try_timeout;
    let callers = subject.callers().iter().map(longest).collect::<Option<Vec<_>>>()?;
    callers.into_iter().max()
}
