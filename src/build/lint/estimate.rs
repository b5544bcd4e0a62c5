//! How long until a failed target is noticed, and how long a request may have to wait for that.
//!
//! Worst cases by the settings alone, as they were measured: a check finds what happened just after the one before, and
//! an idempotent request to a target that does not answer is over when its try is.

use std::time::Duration;

use crate::build::lint::subject::{UpstreamSubject, Way};
use crate::model::health::{HealthCheck, Probe};

/// How soon traffic leaves a target that failed; none for never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// Its process ended: connections are refused.
    pub stopped: Option<Duration>,
    /// It is cut off: nothing comes back.
    pub unreachable: Option<Duration>,
    /// Its process hangs: connections come up, and no answer does.
    pub frozen: Option<Duration>,
}

impl Estimate {
    /// The longest of them; none if one is never.
    pub fn worst(self) -> Option<Duration> {
        Some(self.stopped?.max(self.unreachable?).max(self.frozen?))
    }
}

/// What is estimated for an upstream and all ways to it.
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
        // A refused connection fails at once, and five of them are soon together.
        stopped: sooner(refused, by_traffic.map(|_| Duration::ZERO)),
        unreachable: sooner(mute, by_traffic),
        frozen: sooner(mute.filter(|_| check.is_some_and(sees_a_freeze)), by_traffic),
    }
}

/// With the jitter that Envoy adds.
fn probe_interval(check: &HealthCheck) -> Duration {
    check.interval + check.interval * check.jitter / 100
}

/// The kernel accepts connections for a frozen process, so only an answer shows that it lives.
pub(super) fn sees_a_freeze(check: &HealthCheck) -> bool {
    !matches!(check.probe, Probe::Tcp { receive: None, .. })
}

/// When outlier detection sees that tries are not answered: by the slowest of the ways, since it may be the only one that
/// is used.
fn by_traffic(subject: &UpstreamSubject) -> Option<Duration> {
    subject.upstream().outlier_detection.as_ref()?;
    let longest = |way: &Way| way.tries().try_timeout;
    let ways = subject.ways().iter().map(longest).collect::<Option<Vec<_>>>()?;
    ways.into_iter().max()
}
