//! Services: the upstreams that serve requests, time limits and retries.

pub mod hash;

use std::sync::Arc;
use std::time::Duration;

use crate::config::code;
use crate::config::document;
use crate::config::document::service::MethodsOnce;
use crate::config::near;
use crate::config::values::Switch;
use crate::model::host_match::is_authority;
use crate::model::name::Name;
use crate::model::place::{FaultCollector, FaultPlace};
use crate::model::service::hash::HashBy;
use crate::model::target;
use crate::model::upstream::Upstream;

/// Upstreams that serve requests, and the policy of the requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Unique among services.
    pub name: Name,
    /// Upstreams that serve its requests: at least one, by tier, then in declaration order.
    pub members: Vec<Member>,
    /// Timeouts and retries; a route may override them.
    pub policy: RequestPolicy,
    /// Host header that targets get.
    pub host_header: HostHeader,
    /// Hash keys for a hashing balancer, in order of precedence: the first that a request has is used.
    pub hash_by: Vec<HashBy>,
    /// True if connections may be upgraded to WebSocket.
    pub websocket: bool,
}

impl Service {
    /// Returns the upstream whose settings apply where there can be only one.
    pub fn first(&self) -> &Upstream {
        &self.members[0].upstream
    }

    /// Iterates over all upstreams, including those without traffic.
    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.members.iter().map(|member| &member.upstream)
    }
}

/// Upstream of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Upstream, at most once in a service.
    pub upstream: Arc<Upstream>,
    /// Share of the requests of its tier. With 0 it gets none, even if the other members fail.
    pub weight: u32,
    /// Tier, from 0 and without gaps: a member serves if no member of the tiers before it can.
    pub tier: u32,
}

/// Host header that targets get.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum HostHeader {
    /// Host header of the client.
    #[default]
    Keep,
    /// Name of the target, or its IP address if it has no name; without a port.
    Target,
    /// Name of the target, or its IP address if it has no name, with its port unless that is 80 or 443.
    TargetPort,
    /// Fixed host, with a port if there is one.
    Value(String),
}

impl HostHeader {
    pub(crate) fn resolve(
        place: &FaultPlace<'_>,
        declared: Option<&str>,
        faults: &mut FaultCollector,
    ) -> Self {
        match declared.unwrap_or(document::service::Service::HOST_HEADER) {
            "keep" => Self::Keep,
            "target" => Self::Target,
            "target_port" => Self::TargetPort,
            text => {
                if !is_authority(text) {
                    let help =
                        "`keep`, `target`, `target_port`, or a name such as shop.example.com".to_owned();
                    faults.wrong(place, format!("`{text}` is not a host"), help);
                }
                Self::Value(text.to_owned())
            }
        }
    }
}

/// Timeouts and retries of a request. A `None` value is derived from the tiers of the upstreams during
/// compilation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestPolicy {
    /// Timeout of the whole request, over all tries; zero for no limit.
    pub timeout: Duration,
    /// Timeout of one try of an idempotent request; zero for no limit.
    pub try_timeout: Option<Duration>,
    /// Longest silence in one try, of any method; zero for no limit.
    pub try_idle_timeout: Duration,
    /// Retries. `None` if they are off or empty: a single try may take the whole timeout then.
    pub retries: Option<Retries>,
}

/// Conditions and limits of retries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retries {
    /// Number of tries after the first.
    pub attempts: Option<u32>,
    /// Number of tries after which a retry moves on to the next tier, from 1 to 100.
    pub tries_per_tier: Option<u32>,
    /// Conditions for a retry, in Envoy's spelling with `-`.
    pub retry_on: Vec<String>,
    /// Additional statuses that are retried.
    pub statuses: Vec<u32>,
    /// Retries of methods that are not idempotent.
    pub methods_once: MethodsOnce,
    /// Delay before the first retry.
    pub back_off_base: Duration,
    /// Maximum delay between tries.
    pub back_off_max: Duration,
    /// Maximum size of a request body that is kept for a retry, in bytes.
    pub body: u64,
}

impl Retries {
    /// True if there is a condition for a retry, and a try after the first is allowed.
    fn are_any(&self) -> bool {
        self.attempts != Some(0) && !(self.retry_on.is_empty() && self.statuses.is_empty())
    }
}

/// Conditions for a retry that are gRPC statuses.
pub const GRPC_STATUSES: [&str; 5] =
    ["cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"];

/// Envoy's conditions for a retry, for HTTP and gRPC, in the spelling of the config.
const RETRY_ON: [&str; 16] = [
    "5xx",
    "gateway_error",
    "reset",
    "reset_before_request",
    "connect_failure",
    "envoy_ratelimited",
    "retriable_4xx",
    "refused_stream",
    "retriable_status_codes",
    "retriable_headers",
    "http3_post_connect_failure",
    "cancelled",
    "deadline_exceeded",
    "internal",
    "resource_exhausted",
    "unavailable",
];

/// Maximum number of orders of the members. Each order is a cluster (without a thread or a connection of its
/// own) and an entry in every route.
const MAX_ORDERS: usize = 90;

/// Timeouts and retries that a service or a route declares.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeclaredPolicy<'a> {
    pub(crate) timeout: Option<crate::config::values::Duration>,
    pub(crate) try_timeout: Option<crate::config::values::Duration>,
    pub(crate) try_idle_timeout: Option<crate::config::values::Duration>,
    pub(crate) retries: Option<&'a Switch<document::service::Retries>>,
}

/// Resolves the policy of a service, or that of a route over its service's.
pub(crate) fn resolve(
    place: &FaultPlace<'_>,
    declared: DeclaredPolicy<'_>,
    base: Option<&RequestPolicy>,
    faults: &mut FaultCollector,
) -> RequestPolicy {
    let inherited = base.and_then(|base| base.retries.clone());
    let policy = RequestPolicy {
        timeout: declared.timeout.map_or_else(
            || base.map_or(document::service::Service::TIMEOUT.0, |base| base.timeout),
            |timeout| timeout.0,
        ),
        try_timeout: declared
            .try_timeout
            .map(|timeout| timeout.0)
            .or_else(|| base.and_then(|base| base.try_timeout)),
        try_idle_timeout: declared.try_idle_timeout.map_or_else(
            || base.map_or(document::service::Service::TRY_IDLE_TIMEOUT.0, |base| base.try_idle_timeout),
            |timeout| timeout.0,
        ),
        retries: match declared.retries {
            Some(Switch::Off) => None,
            Some(Switch::On(retries)) => {
                let retries = resolve_retries(&place.key("retries"), retries, inherited, faults);
                Some(retries).filter(Retries::are_any)
            }
            None if base.is_some() => inherited,
            None => Some(Retries::default()),
        },
    };
    if policy.retries.is_none() && declared.try_timeout.is_some_and(|timeout| !timeout.0.is_zero()) {
        let message = "nothing is tried again here, and the one try may take the whole `timeout`".to_owned();
        let help = "remove `try_timeout`, or say it as `timeout`".to_owned();
        faults.error(&place.key("try_timeout"), code::CONFLICT, message, help);
    }
    policy
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts: None,
            tries_per_tier: None,
            retry_on: document::service::Retries::RETRY_ON.map(|word| word.replace('_', "-")).to_vec(),
            statuses: document::service::Retries::STATUSES.to_vec(),
            methods_once: MethodsOnce::default(),
            back_off_base: document::service::BackOff::BASE.0,
            back_off_max: document::service::BackOff::MAX.0,
            body: document::service::Retries::BODY.0,
        }
    }
}

/// Resolves the weight and the priority of a member of a service.
pub(crate) fn share(
    place: &FaultPlace<'_>,
    declared: &document::service::Member,
    faults: &mut FaultCollector,
) -> (u32, u32) {
    let weight = target::weight(place, declared.weight, faults);
    (weight, target::priority(place, declared.priority, declared.failover, "member", faults))
}

/// Checks the members of a service together, and turns their priorities into tiers.
pub(crate) fn members(
    place: &FaultPlace<'_>,
    mut members: Vec<Member>,
    faults: &mut FaultCollector,
) -> Vec<Member> {
    if !members.is_empty() && members.iter().all(|member| member.weight == 0) {
        let help = "let at least one of them have a weight above 0".to_owned();
        faults.error(place, code::NO_SHARE, "no member of this service gets traffic".to_owned(), help);
    }
    if let Some(sticky) = members.iter().find(|member| member.upstream.sticky.is_some() && members.len() > 1)
    {
        let message = format!("`{}` is sticky, and is not alone here", sticky.upstream.name);
        let help = "Envoy leads clients to their target only where a service has one upstream".to_owned();
        faults.error(place, code::STICKY_AGGREGATE, message, help);
    }
    let is_minimal = |member: &&Member| member.upstream.failover.minimum_healthy > 0 && members.len() > 1;
    if let Some(minimal) = members.iter().find(is_minimal) {
        let message =
            format!("`{}` has a `failover.minimum_healthy`, and is not alone here", minimal.upstream.name);
        let help = "Envoy would refuse requests in place of sending them to the others".to_owned();
        faults.error(place, code::CONFLICT, message, help);
    }
    let tiers = target::tiers(members.iter().map(|member| member.tier));
    for member in &mut members {
        member.tier = tiers[&member.tier];
    }
    members.sort_by_key(|member| member.tier);
    let orders = orders(&members);
    if orders > MAX_ORDERS {
        let message = format!("there are {orders} ways through the members of this service");
        let help = format!(
            "at most {MAX_ORDERS}: a tier of n members has n × (n − 1), and those of several tiers are multiplied"
        );
        faults.error(place, code::TOO_MANY_MEMBERS, message, help);
    }
    members
}

/// Returns the number of orders in which the members may be tried: in each tier any weighted member may be
/// the first, and any other the second.
fn orders(members: &[Member]) -> usize {
    let weighted = members.iter().filter(|member| member.weight > 0).collect::<Vec<_>>();
    let tiers = weighted.chunk_by(|one, next| one.tier == next.tier);
    tiers.map(|tier| tier.len().saturating_mul(tier.len() - 1).max(1)).fold(1, usize::saturating_mul)
}

fn resolve_retries(
    place: &FaultPlace<'_>,
    declared: &document::service::Retries,
    base: Option<Retries>,
    faults: &mut FaultCollector,
) -> Retries {
    let base = base.unwrap_or_default();
    let back_off = declared.back_off.clone().unwrap_or_default();
    let retries = Retries {
        attempts: declared.attempts.or(base.attempts),
        tries_per_tier: declared.tries_per_tier.or(base.tries_per_tier),
        retry_on: match &declared.retry_on {
            Some(words) => retry_on(&place.key("retry_on"), words, faults),
            None => base.retry_on,
        },
        statuses: declared.statuses.clone().unwrap_or(base.statuses),
        methods_once: declared.methods_once.unwrap_or(base.methods_once),
        back_off_base: back_off.base.map_or(base.back_off_base, |time| time.0),
        back_off_max: back_off.max.map_or(base.back_off_max, |time| time.0),
        body: declared.body.map_or(base.body, |size| size.0),
    };
    for (index, status) in declared.statuses.iter().flatten().enumerate() {
        if !(100..600).contains(status) {
            let place = place.key("statuses").index(index);
            faults.wrong(&place, format!("{status} is no HTTP status"), "100 to 599".to_owned());
        }
    }
    if declared.tries_per_tier.is_some_and(|tries| !(1..=100).contains(&tries)) {
        let message = "this is no number of tries for a tier".to_owned();
        faults.wrong(&place.key("tries_per_tier"), message, "1 to 100".to_owned());
    }
    if retries.back_off_base < Duration::from_millis(1) {
        let place = place.key("back_off").key("base");
        faults.wrong(&place, "this time is too short".to_owned(), "1ms or more".to_owned());
    }
    if retries.back_off_max < retries.back_off_base {
        let message = "`max` is shorter than `base`".to_owned();
        faults.error(&place.key("back_off").key("max"), code::CONFLICT, message, None);
    }
    if retries.body > u64::from(u32::MAX) {
        faults.wrong(
            &place.key("body"),
            "this is more than Envoy can keep".to_owned(),
            "below 4GiB".to_owned(),
        );
    }
    retries
}

fn retry_on(place: &FaultPlace<'_>, words: &[String], faults: &mut FaultCollector) -> Vec<String> {
    for (index, word) in words.iter().enumerate() {
        if !RETRY_ON.contains(&word.as_str()) {
            let help = match near(word, RETRY_ON).first() {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("one of {}", RETRY_ON.join(", ")),
            };
            faults.wrong(&place.index(index), format!("`{word}` is no condition for a retry"), help);
        }
    }
    words.iter().map(|word| word.replace('_', "-")).collect()
}
