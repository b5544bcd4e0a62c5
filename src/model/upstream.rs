//! Upstreams: groups of targets with a policy.
//!
//! The defaults are measured: together with the retries of a service, no idempotent request is lost when a
//! target dies, freezes, refuses connections or answers 503. They need no knowledge of the service.

use std::sync::Arc;
use std::time::Duration;

use crate::config::code;
use crate::config::document;
use crate::config::document::upstream::{
    Chunked, FailoverMode, LoadBalancer, Resolve, UpstreamProtocol, WhenAllDown,
};
use crate::config::values::Toggle;
use crate::model::cookie::Cookie;
use crate::model::drill::{self, ScheduledDrill};
use crate::model::failback::{self, Failback};
use crate::model::header;
use crate::model::health::{self, HealthCheck, OutlierDetection};
use crate::model::name::Name;
use crate::model::place::{FaultCollector, FaultPlace};
use crate::model::target::Target;
use crate::model::tls::{TargetTls, UpstreamTls};

/// Pool of targets and its policy; one Envoy cluster, or an aggregate of one cluster per tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Unique among upstreams; also the name of its Envoy cluster.
    pub name: Name,
    /// Protocol of the connections to targets.
    pub protocol: UpstreamProtocol,
    /// TLS to targets; `None` for plain text. A target may have its own settings.
    pub tls: Option<Arc<UpstreamTls>>,
    /// Time limit for opening a connection. The try timeout does not run meanwhile; hence the default never
    /// exceeds the shortest try timeout.
    pub connect_timeout: Duration,
    /// Time after which an unused connection is closed; zero for never.
    pub idle_timeout: Duration,
    /// Choice of a target within a tier.
    pub load_balancer: LoadBalancer,
    /// Stickiness of clients to the target that served them before.
    pub sticky: Option<Sticky>,
    /// Time over which a returning target ramps up to its full share; zero for none.
    pub slow_start: Duration,
    /// Limits on the load of one Envoy.
    pub limits: Limits,
    /// Active health check, if it is on.
    pub health_check: Option<HealthCheck>,
    /// Passive health check, if it is on.
    pub outlier_detection: Option<OutlierDetection>,
    /// Conditions under which the next tier serves.
    pub failover: Failover,
    /// Conditions under which the primaries get their traffic back.
    pub failback: Failback,
    /// Scheduled drill of a failover.
    pub drill: Option<ScheduledDrill>,
    /// Resolver of host names: the control plane or Envoy.
    pub resolve: Resolve,
    /// Buffering of responses until they are complete, if it is on.
    pub whole_response: Option<WholeResponse>,
    /// True if a service sends each target its own name as the host. A target without a name then needs its
    /// address as the host.
    pub by_name: bool,
    /// True if a service sends each target its own name with its port as the host.
    pub by_name_and_port: bool,
    /// Targets that get traffic, by tier, then in declaration order.
    pub targets: Vec<Target>,
    /// Number of declared tiers, including those whose targets get no traffic.
    pub tier_count: u32,
}

impl Upstream {
    /// True if each tier is an Envoy cluster of its own, under an aggregate cluster that has the upstream's
    /// name.
    ///
    /// This depends on the settings and never on the targets, so that the first standby, or a host name, can
    /// be added without a change to the cluster that serves.
    pub fn has_cluster_for_each_tier(&self) -> bool {
        // Within one cluster, hash balancers do not let a retry move on to the next tier.
        self.load_balancer.is_by_hash() || self.resolve == Resolve::Envoy
    }

    /// True if any target is reached over TLS.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some() || self.targets.iter().any(|target| matches!(target.tls, TargetTls::Own(_)))
    }

    /// True if no target, nor one added without settings of its own, is reached in plain text.
    pub fn is_tls_throughout(&self) -> bool {
        self.tls.is_some() && self.targets.iter().all(|target| target.tls != TargetTls::Plain)
    }
}

/// Stickiness of a client to the target that served it before, as long as that one is usable. Otherwise
/// another target serves, and the client sticks to that one, even to a standby: it stays there when a primary
/// returns. (A hash balancer has no memory, and returns at once.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sticky {
    /// Cookie that Envoy sets.
    Cookie(Cookie),
    /// Response header that the client sends back, by its name in lower case.
    Header(String),
}

/// Limits on the load of one Envoy on an upstream, over all targets.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the config's reference")]
pub struct Limits {
    pub connections: u32,
    pub pending_requests: u32,
    pub requests: u32,
    pub retries: u32,
    /// Maximum number of requests per connection; zero for no limit.
    pub requests_per_connection: u32,
    /// Retry budget, which replaces `retries`.
    pub retry_budget: Option<RetryBudget>,
}

/// Retries as a share of the active requests.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryBudget {
    /// Share in percent, from 0 to 100.
    pub percent: f64,
    /// Number of concurrent retries that is always allowed.
    pub at_least: u32,
}

// `percent` is never NaN: a value that is not a number is refused when it is read.
impl Eq for RetryBudget {}

/// Conditions under which the next tier serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failover {
    /// Mode: standby or spill.
    pub mode: FailoverMode,
    /// Overprovisioning factor of spill, in percent: 100 or more.
    pub factor: u32,
    /// Percentage of the targets of the only tier that must be usable, else requests are refused; 0 for none.
    pub minimum_healthy: u32,
    /// Behaviour if no target is usable.
    pub when_all_down: WhenAllDown,
    /// True if the targets nearest to the Envoy come first within a declared tier.
    pub locality: bool,
    /// Time within which traffic should have left a failed target; used by lint rules only.
    pub objective: Option<Duration>,
}

/// Buffering of responses until they are complete, so that a truncated one can be retried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WholeResponse {
    /// Maximum length in bytes; longer responses are streamed.
    pub max: u32,
    /// Handling of responses without a declared length.
    pub chunked: Chunked,
}

impl WholeResponse {
    /// Maximum that an Envoy can hold: the default of a listener's `per_connection_buffer_limit_bytes`.
    pub const LARGEST: u32 = 1 << 20;
}

impl LoadBalancer {
    /// True for balancers that choose by a hash, either of the request or of a random number.
    pub fn is_by_hash(self) -> bool {
        self.is_by_request() || self == Self::WeightedRandom
    }

    /// True for balancers that send equal requests to the same target.
    pub fn is_by_request(self) -> bool {
        matches!(self, Self::RingHash | Self::Maglev)
    }
}

/// Requirements of the services and routes that use an upstream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Uses {
    /// Shortest try timeout.
    pub(crate) shortest_try: Option<Duration>,
    /// See [`Upstream::by_name`].
    pub(crate) by_name: bool,
    /// See [`Upstream::by_name_and_port`].
    pub(crate) by_name_and_port: bool,
}

/// Resolves an upstream whose name and targets are already resolved.
pub(crate) fn resolve(
    name: Name,
    (targets, tier_count): (Vec<Target>, u32),
    uses: Uses,
    place: &FaultPlace<'_>,
    upstream: &document::upstream::Upstream,
    faults: &mut FaultCollector,
) -> Upstream {
    let by_distance = upstream.failover.as_ref().is_some_and(|failover| failover.locality == Some(true));
    if by_distance && upstream.resolve == Some(Resolve::Envoy) {
        let message = "tiers by distance need addresses that the control plane looks up".to_owned();
        let help = "remove `resolve: envoy`, or declare the tiers by `priority`".to_owned();
        faults.error(&place.key("failover").key("locality"), code::CONFLICT, message, help);
    }
    minimum_healthy(&place.key("failover"), upstream, tier_count, faults);
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
        by_name_and_port: uses.by_name_and_port,
        targets,
        tier_count,
    }
}

fn positive(value: Duration, place: &FaultPlace<'_>, faults: &mut FaultCollector) -> Duration {
    if value < Duration::from_millis(1) {
        faults.wrong(place, "this time is too short".to_owned(), "1ms or more".to_owned());
    }
    value
}

fn sticky(
    place: &FaultPlace<'_>,
    declared: &document::upstream::Sticky,
    upstream: &document::upstream::Upstream,
    faults: &mut FaultCollector,
) -> Sticky {
    let by_hash = upstream.load_balancer.is_some_and(LoadBalancer::is_by_hash);
    if by_hash || upstream.resolve == Some(Resolve::Envoy) {
        // The tiers are clusters of their own in these cases, and an aggregate of clusters does not know
        // their targets.
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

fn slow_start(
    place: &FaultPlace<'_>,
    upstream: &document::upstream::Upstream,
    faults: &mut FaultCollector,
) -> Duration {
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

fn limits(place: &FaultPlace<'_>, limits: document::upstream::Limits, faults: &mut FaultCollector) -> Limits {
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

/// Reports settings with which Envoy would not refuse requests below a minimum of usable targets.
fn minimum_healthy(
    place: &FaultPlace<'_>,
    upstream: &document::upstream::Upstream,
    tier_count: u32,
    faults: &mut FaultCollector,
) {
    let Some(failover) = upstream.failover.as_ref().filter(|it| it.minimum_healthy.is_some_and(|it| it > 0))
    else {
        return;
    };
    let message = if tier_count > 1 || failover.locality == Some(true) {
        "this is about a single tier, and there are several: the next one serves when targets fail"
    } else if upstream.load_balancer.is_some_and(LoadBalancer::is_by_hash) {
        "a balancer that hashes does not refuse requests by the number of usable targets"
    } else if failover.when_all_down == Some(WhenAllDown::TryAll) {
        "when all targets are down fewer than this are usable, so that none is tried"
    } else {
        return;
    };
    let help = "leave one of them out".to_owned();
    faults.error(&place.key("minimum_healthy"), code::CONFLICT, message.to_owned(), help);
}

fn failover(
    place: &FaultPlace<'_>,
    failover: document::upstream::Failover,
    faults: &mut FaultCollector,
) -> Failover {
    let factor = failover.factor.unwrap_or(document::upstream::Failover::FACTOR);
    if factor < 100 {
        faults.wrong(
            &place.key("factor"),
            format!("the factor {factor} is too small"),
            "100 or more".to_owned(),
        );
    }
    let minimum_healthy = health::percent(
        failover.minimum_healthy.unwrap_or(document::upstream::Failover::MINIMUM_HEALTHY),
        &place.key("minimum_healthy"),
        faults,
    );
    Failover {
        minimum_healthy,
        mode: failover.mode.unwrap_or_default(),
        factor,
        when_all_down: failover.when_all_down.unwrap_or_default(),
        locality: failover.locality.unwrap_or(document::upstream::Failover::LOCALITY),
        objective: failover.objective.map(|objective| objective.0),
    }
}

fn whole_response(
    place: &FaultPlace<'_>,
    declared: Option<&Toggle<document::upstream::WholeResponse>>,
    faults: &mut FaultCollector,
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
