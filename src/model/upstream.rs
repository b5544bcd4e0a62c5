//! A pool of targets and its policy.
//!
//! The defaults are measured: together with the retries of a service they lose no idempotent request when a
//! target dies, freezes, refuses or answers 503, and they need to know nothing about the service.

use std::sync::Arc;
use std::time::Duration;

use crate::config::document;
use crate::config::document::upstream::{
    Chunked, FailoverMode, LoadBalancer, Resolve, UpstreamProtocol, WhenAllDown,
};
use crate::config::values::Toggle;
use crate::model::cookie::Cookie;
use crate::model::drill::{self, Drill};
use crate::model::failback::{self, Failback};
use crate::model::header;
use crate::model::health::{self, HealthCheck, OutlierDetection};
use crate::model::name::Name;
use crate::model::place::{Faults, Place, code};
use crate::model::target::Target;
use crate::model::tls::{OfTarget, Tls};

/// A pool of targets and its policy; one Envoy cluster, or an aggregate of one for each tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Unique among upstreams; also the name of its Envoy cluster.
    pub name: Name,
    /// What is spoken to the targets.
    pub protocol: UpstreamProtocol,
    /// None for plain text. A target may differ.
    pub tls: Option<Arc<Tls>>,
    /// How long a connection may take to come up. While it does, no try timeout runs; hence never longer
    /// than the shortest one, unless the operator says so.
    pub connect_timeout: Duration,
    /// How long an unused connection is kept; zero for ever.
    pub idle_timeout: Duration,
    /// Who is next within a tier.
    pub load_balancer: LoadBalancer,
    /// How a client is led to the target that served it before.
    pub sticky: Option<Sticky>,
    /// Over how long a returning target gets its full share; zero for at once.
    pub slow_start: Duration,
    /// What one Envoy may have under way.
    pub limits: Limits,
    /// Active detection, if it is on.
    pub health_check: Option<HealthCheck>,
    /// Passive detection, if it is on.
    pub outlier_detection: Option<OutlierDetection>,
    /// When the next tier serves.
    pub failover: Failover,
    /// When the primaries get their traffic back.
    pub failback: Failback,
    /// A failover that is rehearsed on a schedule.
    pub drill: Option<Drill>,
    /// Who looks host names up.
    pub resolve: Resolve,
    /// Answers are held until they are whole, if that is on.
    pub whole_response: Option<WholeResponse>,
    /// Requests tell each target its own name as the host: one without a name needs its address for that.
    pub by_name: bool,
    /// Those that get traffic, by tier, then as declared.
    pub targets: Vec<Target>,
    /// How many tiers are declared, with those whose targets get no traffic.
    pub tier_count: u32,
}

impl Upstream {
    /// True when each tier is an Envoy cluster of its own, under an aggregate that has the upstream's name.
    ///
    /// That follows from the settings and never from the targets, so that the first standby can be added, or a
    /// host name, without changing the cluster that serves.
    pub fn has_cluster_for_each_tier(&self) -> bool {
        // Within one cluster the hash balancers do not let a retry move on to the next tier.
        self.load_balancer.is_by_hash() || self.resolve == Resolve::Envoy
    }

    /// True when a target is spoken to in TLS.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some() || self.targets.iter().any(|target| matches!(target.tls, OfTarget::Own(_)))
    }

    /// True when no target, and none that is added without saying more, is spoken to in plain text.
    pub fn is_tls_throughout(&self) -> bool {
        self.tls.is_some() && self.targets.iter().all(|target| target.tls != OfTarget::Plain)
    }
}

/// How a client is led to the target that served it before, for as long as that is usable. Then another serves,
/// and the client is led to that one: also to a standby, which it does not leave when a primary returns. (A hash
/// balancer has no memory, and returns at once.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sticky {
    /// A cookie that Envoy sets.
    Cookie(Cookie),
    /// A header of answers that the client sends back, by its name in lower case.
    Header(String),
}

/// What one Envoy may have under way to an upstream, all targets together.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct Limits {
    pub connections: u32,
    pub pending_requests: u32,
    pub requests: u32,
    pub retries: u32,
    /// Zero for any number.
    pub requests_per_connection: u32,
    /// In place of `retries`.
    pub retry_budget: Option<RetryBudget>,
}

/// Retries as a share of the requests under way.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryBudget {
    /// From 0 to 100.
    pub percent: f64,
    /// So many are always allowed.
    pub at_least: u32,
}

// A percentage is a number: what is none is refused where it is read.
impl Eq for RetryBudget {}

/// When the next tier serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failover {
    /// Standby or spill.
    pub mode: FailoverMode,
    /// Of spill, in percent: 100 or more.
    pub factor: u32,
    /// When no target is usable.
    pub when_all_down: WhenAllDown,
    /// Within a declared tier, the nearest to the Envoy that asks come first.
    pub locality: bool,
    /// How soon traffic should have left a failed target; only the rules care.
    pub objective: Option<Duration>,
}

/// Answers that are held until they are whole, so that one that is cut can be tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WholeResponse {
    /// Longer ones are passed on as they come, in bytes.
    pub max: u32,
    /// What becomes of those that do not say their length.
    pub chunked: Chunked,
}

impl WholeResponse {
    /// What an Envoy can hold: the default of a listener's `per_connection_buffer_limit_bytes`.
    pub const LARGEST: u32 = 1 << 20;
}

impl LoadBalancer {
    /// True of those that choose by a hash, be it of the request or of a random number.
    pub fn is_by_hash(self) -> bool {
        self.is_by_request() || self == Self::WeightedRandom
    }

    /// True of those that send equal requests to the same target.
    pub fn is_by_request(self) -> bool {
        matches!(self, Self::RingHash | Self::Maglev)
    }
}

/// What the services and routes that use an upstream ask of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Uses {
    /// The shortest try timeout.
    pub(crate) shortest_try: Option<Duration>,
    /// See [`Upstream::by_name`].
    pub(crate) by_name: bool,
}

/// Understands an upstream whose name and targets are already known.
pub(crate) fn resolve(
    name: Name,
    (targets, tier_count): (Vec<Target>, u32),
    uses: Uses,
    place: &Place<'_>,
    upstream: &document::upstream::Upstream,
    faults: &mut Faults,
) -> Upstream {
    let by_distance = upstream.failover.as_ref().is_some_and(|failover| failover.locality == Some(true));
    if by_distance && upstream.resolve == Some(Resolve::Envoy) {
        let message = "tiers by distance need addresses that the control plane looks up".to_owned();
        let help = "remove `resolve: envoy`, or declare the tiers by `priority`".to_owned();
        faults.error(&place.key("failover").key("locality"), code::CONFLICT, message, help);
    }
    let connect_timeout = match upstream.connect_timeout {
        Some(timeout) => positive(timeout.0, &place.key("connect_timeout"), faults),
        None => {
            let longest = document::upstream::Upstream::CONNECT_TIMEOUT.0;
            uses.shortest_try.map_or(longest, |shortest| shortest.min(longest))
        }
    };
    Upstream {
        name,
        protocol: upstream.protocol.unwrap_or_default(),
        tls: None,
        connect_timeout,
        idle_timeout: upstream.idle_timeout.unwrap_or(document::upstream::Upstream::IDLE_TIMEOUT).0,
        load_balancer: upstream.load_balancer.unwrap_or_default(),
        sticky: upstream.sticky.as_ref().map(|it| sticky(&place.key("sticky"), it, upstream, faults)),
        slow_start: slow_start(place, upstream, faults),
        limits: limits(&place.key("limits"), upstream.limits.clone().unwrap_or_default(), faults),
        health_check: health::check(
            &place.key("health_check"),
            upstream.health_check.as_ref(),
            upstream.protocol.unwrap_or_default(),
            faults,
        ),
        outlier_detection: health::outlier_detection(
            &place.key("outlier_detection"),
            upstream.outlier_detection.as_ref(),
            faults,
        ),
        failover: failover(&place.key("failover"), upstream.failover.clone().unwrap_or_default(), faults),
        failback: failback::resolve(&place.key("failback"), upstream, faults),
        drill: drill::resolve(&place.key("drill"), upstream, faults),
        resolve: upstream.resolve.unwrap_or_default(),
        whole_response: whole_response(place, upstream.whole_response.as_ref(), faults),
        by_name: uses.by_name,
        targets,
        tier_count,
    }
}

fn positive(value: Duration, place: &Place<'_>, faults: &mut Faults) -> Duration {
    if value < Duration::from_millis(1) {
        faults.wrong(place, "this time is too short".to_owned(), "1ms or more".to_owned());
    }
    value
}

fn sticky(
    place: &Place<'_>,
    declared: &document::upstream::Sticky,
    upstream: &document::upstream::Upstream,
    faults: &mut Faults,
) -> Sticky {
    let by_hash = upstream.load_balancer.is_some_and(LoadBalancer::is_by_hash);
    if by_hash || upstream.resolve == Some(Resolve::Envoy) {
        // Its tiers are clusters of their own then, and an aggregate of clusters does not know their targets.
        let message = "Envoy would not lead clients to their target here".to_owned();
        let help =
            "let the load balancer be round_robin, least_request or random, and resolve be control_plane";
        faults.error(place, code::STICKY_AGGREGATE, message, help.to_owned());
    }
    match declared {
        document::upstream::Sticky::Cookie(cookie) => {
            Sticky::Cookie(Cookie::resolve(&place.key("cookie"), cookie, faults))
        }
        document::upstream::Sticky::Header(name) => {
            header::name(&place.key("header"), name, faults);
            Sticky::Header(name.to_ascii_lowercase())
        }
    }
}

fn slow_start(place: &Place<'_>, upstream: &document::upstream::Upstream, faults: &mut Faults) -> Duration {
    let slow_start = upstream.slow_start.unwrap_or(document::upstream::Upstream::SLOW_START).0;
    if slow_start.is_zero() {
        return slow_start;
    }
    let has_slow_start = |balancer| matches!(balancer, LoadBalancer::RoundRobin | LoadBalancer::LeastRequest);
    if !has_slow_start(upstream.load_balancer.unwrap_or_default()) {
        let help = "Envoy has it for `round_robin` and `least_request`".to_owned();
        let message = "this load balancer has no slow start".to_owned();
        faults.error(&place.key("slow_start"), code::CONFLICT, message, help);
    }
    slow_start
}

fn limits(place: &Place<'_>, limits: document::upstream::Limits, faults: &mut Faults) -> Limits {
    let retry_budget = limits.retry_budget.map(|budget| {
        let percent = budget.percent.unwrap_or(document::upstream::RetryBudget::PERCENT);
        if !(0.0..=100.0).contains(&percent) {
            let place = place.key("retry_budget").key("percent");
            faults.wrong(&place, format!("{percent} is no percentage"), "0 to 100".to_owned());
        }
        let at_least = budget.at_least.unwrap_or(document::upstream::RetryBudget::AT_LEAST);
        RetryBudget { percent, at_least }
    });
    let many = |limit: Option<u32>| limit.unwrap_or(document::upstream::Limits::MOST);
    Limits {
        connections: many(limits.connections),
        pending_requests: many(limits.pending_requests),
        requests: many(limits.requests),
        retries: many(limits.retries),
        requests_per_connection: limits
            .requests_per_connection
            .unwrap_or(document::upstream::Limits::REQUESTS_PER_CONNECTION),
        retry_budget,
    }
}

fn failover(place: &Place<'_>, failover: document::upstream::Failover, faults: &mut Faults) -> Failover {
    let factor = failover.factor.unwrap_or(document::upstream::Failover::FACTOR);
    if factor < 100 {
        faults.wrong(
            &place.key("factor"),
            format!("the factor {factor} is too small"),
            "100 or more".to_owned(),
        );
    }
    Failover {
        mode: failover.mode.unwrap_or_default(),
        factor,
        when_all_down: failover.when_all_down.unwrap_or_default(),
        locality: failover.locality.unwrap_or(document::upstream::Failover::LOCALITY),
        objective: failover.objective.map(|objective| objective.0),
    }
}

fn whole_response(
    place: &Place<'_>,
    declared: Option<&Toggle<document::upstream::WholeResponse>>,
    faults: &mut Faults,
) -> Option<WholeResponse> {
    let declared = declared.and_then(Toggle::settings)?;
    let max = declared.max.unwrap_or(document::upstream::WholeResponse::MAX).0;
    let largest = WholeResponse::LARGEST;
    if !(1..=u64::from(largest)).contains(&max) {
        let place = place.key("whole_response").key("max");
        faults.wrong(&place, "an Envoy cannot hold this".to_owned(), "1 byte to 1MiB".to_owned());
    }
    let max = u32::try_from(max).unwrap_or(largest);
    Some(WholeResponse { max, chunked: declared.chunked.unwrap_or_default() })
}
