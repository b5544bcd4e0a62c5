//! Failback: the return of traffic to recovered primaries.

use std::time::Duration;

use crate::config::code;
use crate::config::document;
use crate::config::document::failback::{FailbackMode, FailbackSettings};
use crate::config::document::upstream::{LoadBalancer, Resolve};
use crate::config::values;
use crate::model::place::{FaultCollector, FaultPlace};

/// Conditions and rate limit of failbacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failback {
    /// Condition for a failback.
    pub release: Release,
    /// Maximum rate of failbacks. A higher rate is flapping: the standby is then held until an operator
    /// releases it.
    pub at_most: Option<Damping>,
}

/// Condition under which recovered primaries get traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Release {
    /// Health of the primaries, as found by Envoys.
    Auto,
    /// Release by an operator.
    Manual,
    /// Uninterrupted health for this long.
    After(Duration),
    /// No condition; but the traffic returns in steps.
    Steps {
        /// Share of the primaries in each step, in percent: ascending, the last is 100.
        percents: Vec<u32>,
        /// Duration of each step.
        every: Duration,
    },
}

/// Maximum number of failbacks in a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damping {
    /// Number of failbacks, at least one.
    pub count: u32,
    /// Length of the period before now.
    pub per: Duration,
}

impl Damping {
    fn parse(text: &str) -> Option<Self> {
        let (count, per) = text.split_once(" per ")?;
        let count = count.trim().parse().ok().filter(|count| *count > 0)?;
        let per = values::Duration::parse(per.trim()).filter(|per| !per.0.is_zero())?.0;
        Some(Self { count, per })
    }
}

impl std::fmt::Display for Damping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} per {}", self.count, values::Duration(self.per))
    }
}

impl Default for Failback {
    fn default() -> Self {
        Self { release: Release::Auto, at_most: None }
    }
}

impl Failback {
    /// True if the control plane takes action on failback. Without it, Envoys return at once.
    pub fn holds(&self) -> bool {
        self.release != Release::Auto || self.at_most.is_some()
    }
}

/// Resolves the failback of an upstream.
pub(crate) fn resolve(
    place: &FaultPlace<'_>,
    upstream: &document::upstream::Upstream,
    faults: &mut FaultCollector,
) -> Failback {
    let failback = match upstream.failback.as_ref() {
        None | Some(document::failback::Failback::Word(FailbackMode::Auto)) => Failback::default(),
        Some(document::failback::Failback::Word(FailbackMode::Manual)) => {
            Failback { release: Release::Manual, at_most: None }
        }
        Some(document::failback::Failback::Settings(settings)) => understand(place, settings, faults),
    };
    if failback.holds() && upstream.resolve == Some(Resolve::Envoy) {
        let message = "a standby cannot be held where Envoy looks the names up".to_owned();
        let help = "remove `resolve: envoy`, or let `failback` be `auto`".to_owned();
        faults.error(place, code::CONFLICT, message, help);
    }
    let balancer = upstream.load_balancer.unwrap_or_default();
    let by_weight = matches!(balancer, LoadBalancer::RoundRobin | LoadBalancer::LeastRequest);
    if matches!(failback.release, Release::Steps { .. }) && !by_weight {
        let message = "this load balancer cannot share traffic between tiers by weight".to_owned();
        let help = "steps need `round_robin` or `least_request`; or say `{ after: 5m }`".to_owned();
        faults.error(&place.key("steps"), code::CONFLICT, message, help);
    }
    failback
}

fn understand(place: &FaultPlace<'_>, settings: &FailbackSettings, faults: &mut FaultCollector) -> Failback {
    let FailbackSettings { after, steps, every, max_failbacks } = settings;
    let time = |key: &str, value: &values::Duration, faults: &mut FaultCollector| {
        if value.0 < Duration::from_secs(1) {
            faults.wrong(&place.key(key), "this time is too short".to_owned(), "1s or more".to_owned());
        }
        value.0
    };
    let release = match (after, steps) {
        (Some(_), Some(_)) => {
            let message = "`after` and `steps` are two ways to return".to_owned();
            faults.error(&place.key("steps"), code::CONFLICT, message, "leave one of them out".to_owned());
            Release::Manual
        }
        (Some(after), None) => Release::After(time("after", after, faults)),
        (None, Some(steps)) => {
            let percents = percents(&place.key("steps"), steps, faults);
            let every =
                every.as_ref().map_or(FailbackSettings::EVERY.0, |every| time("every", every, faults));
            Release::Steps { percents, every }
        }
        (None, None) => Release::Auto,
    };
    if every.is_some() && steps.is_none() {
        let message = "`every` is how long one of the `steps` lasts".to_owned();
        let help = "add `steps: [10, 50, 100]`, or say `after`".to_owned();
        faults.error(&place.key("every"), code::CONFLICT, message, help);
    }
    let at_most = max_failbacks.as_ref().and_then(|text| {
        Damping::parse(text).or_else(|| {
            let message = format!("`{text}` is no number of failbacks in a time");
            faults.wrong(&place.key("max_failbacks"), message, "write it as `3 per 1h`".to_owned());
            None
        })
    });
    Failback { release, at_most }
}

fn percents(place: &FaultPlace<'_>, steps: &[u32], faults: &mut FaultCollector) -> Vec<u32> {
    let ascend = steps.windows(2).all(|pair| pair[0] < pair[1]);
    if !ascend || steps.first().is_none_or(|first| *first == 0) || steps.last() != Some(&100) {
        let help = "begin above 0, ascend, and end with 100, such as [10, 50, 100]".to_owned();
        faults.wrong(place, "these are no steps to a full share".to_owned(), help);
    }
    steps.to_vec()
}
