//! How requests are served: by which upstreams, how long they may take, and what is tried again.

pub mod hash;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::config::document;
use crate::config::document::service::MethodsOnce;
use crate::config::near;
use crate::config::values::Switch;
use crate::model::name::Name;
use crate::model::place::{Faults, Place, code};
use crate::model::route::is_authority;
use crate::model::service::hash::HashBy;
use crate::model::target;
use crate::model::upstream::Upstream;

/// How requests are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Unique among services.
    pub name: Name,
    /// Where its requests go: at least one, by tier, then as declared.
    pub members: Vec<Member>,
    /// Times and retries; a route may override them.
    pub policy: Policy,
    /// The host that targets are told.
    pub host_header: HostHeader,
    /// What a balancer that hashes goes by: the first that a request has.
    pub hash_by: Vec<HashBy>,
    /// Connections may be upgraded to WebSocket.
    pub websocket: bool,
}

impl Service {
    /// The upstream whose settings count where there can be only one.
    pub fn first(&self) -> &Upstream {
        &self.members[0].upstream
    }

    /// All its upstreams, those without traffic too.
    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.members.iter().map(|member| &member.upstream)
    }
}

/// An upstream of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Only once in a service.
    pub upstream: Arc<Upstream>,
    /// Its share of the requests of its tier. With 0 it gets none and stands in for nobody.
    pub weight: u32,
    /// From 0 and without gaps: it serves when no member of the tiers before it can.
    pub tier: u32,
}

/// The host that targets are told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum HostHeader {
    /// The client's.
    #[default]
    Keep,
    /// The target's name, or its IP address where it has no name; without a port.
    Target,
    /// This, with a port if there is one to say.
    Value(String),
}

impl HostHeader {
    pub(crate) fn resolve(place: &Place<'_>, declared: Option<&str>, faults: &mut Faults) -> Self {
        match declared.unwrap_or(document::service::Service::HOST_HEADER) {
            "keep" => Self::Keep,
            "target" => Self::Target,
            text => {
                if !is_authority(text) {
                    let help = "`keep`, `target`, or a name such as shop.example.com".to_owned();
                    faults.wrong(place, format!("`{text}` is not a host"), help);
                }
                Self::Value(text.to_owned())
            }
        }
    }
}

/// The times and retries of a request. What is `None` is derived from the upstreams' tiers when compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The whole request, all tries; zero for no limit.
    pub timeout: Duration,
    /// One try of an idempotent request; zero for no limit.
    pub try_timeout: Option<Duration>,
    /// What is tried again. None if that is off or comes to nothing: the one try may take the whole timeout then.
    pub retries: Option<Retries>,
}

/// What is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retries {
    /// After the first.
    pub attempts: Option<u32>,
    /// Envoy's words, with `-`.
    pub retry_on: Vec<String>,
    /// Further statuses that are tried again.
    pub statuses: Vec<u32>,
    /// Of methods that are not idempotent.
    pub methods_once: MethodsOnce,
    /// How long to wait before the first retry.
    pub back_off_base: Duration,
    /// How long at most.
    pub back_off_max: Duration,
    /// The largest request body that is kept for a retry, in bytes.
    pub body: u64,
}

impl Retries {
    /// False when there is nothing to try again, or no further try.
    fn are_any(&self) -> bool {
        self.attempts != Some(0) && !(self.retry_on.is_empty() && self.statuses.is_empty())
    }
}

/// The conditions for a retry that are statuses of gRPC.
pub const GRPC_STATUSES: [&str; 5] =
    ["cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"];

/// Envoy's conditions for a retry, HTTP's and gRPC's, as they stand in the config.
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

/// Each is a cluster, if one without a thread or a connection of its own, and an entry in every route.
const MAX_WAYS: usize = 90;

/// What a service or a route says of times and retries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Declared<'a> {
    pub(crate) timeout: Option<crate::config::values::Duration>,
    pub(crate) try_timeout: Option<crate::config::values::Duration>,
    pub(crate) retries: Option<&'a Switch<document::service::Retries>>,
}

/// The policy of a service, or of a route over its service's.
pub(crate) fn resolve(
    place: &Place<'_>,
    declared: Declared<'_>,
    base: Option<&Policy>,
    faults: &mut Faults,
) -> Policy {
    let inherited = base.and_then(|base| base.retries.clone());
    let policy = Policy {
        timeout: declared.timeout.map_or_else(
            || base.map_or(document::service::Service::TIMEOUT.0, |base| base.timeout),
            |timeout| timeout.0,
        ),
        try_timeout: declared
            .try_timeout
            .map(|timeout| timeout.0)
            .or_else(|| base.and_then(|base| base.try_timeout)),
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
            retry_on: document::service::Retries::RETRY_ON.map(|word| word.replace('_', "-")).to_vec(),
            statuses: document::service::Retries::STATUSES.to_vec(),
            methods_once: MethodsOnce::default(),
            back_off_base: document::service::BackOff::BASE.0,
            back_off_max: document::service::BackOff::MAX.0,
            body: document::service::Retries::BODY.0,
        }
    }
}

/// The weight and the priority that a member of a service is declared with.
pub(crate) fn share(
    place: &Place<'_>,
    declared: &document::service::Member,
    faults: &mut Faults,
) -> (u32, u32) {
    let weight = target::weight(place, declared.weight, faults);
    (weight, target::priority(place, declared.priority, declared.failover, "member", faults))
}

/// Looks at the members of a service together. Their priorities become tiers.
pub(crate) fn members(place: &Place<'_>, mut members: Vec<Member>, faults: &mut Faults) -> Vec<Member> {
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
    let priorities: BTreeSet<u32> = members.iter().map(|member| member.tier).collect();
    for member in &mut members {
        member.tier = u32::try_from(priorities.range(..member.tier).count()).unwrap_or(u32::MAX);
    }
    members.sort_by_key(|member| member.tier);
    let ways = ways(&members);
    if ways > MAX_WAYS {
        let message = format!("there are {ways} ways through the members of this service");
        let help = format!(
            "at most {MAX_WAYS}: a tier of n members has n × (n − 1), and those of several tiers are multiplied"
        );
        faults.error(place, code::TOO_MANY_MEMBERS, message, help);
    }
    members
}

/// In how many orders the members may be asked: of each tier any may be the first, and any other the second.
fn ways(members: &[Member]) -> usize {
    let weighted = members.iter().filter(|member| member.weight > 0).collect::<Vec<_>>();
    let tiers = weighted.chunk_by(|one, next| one.tier == next.tier);
    tiers.map(|tier| (tier.len() * (tier.len() - 1)).max(1)).fold(1, usize::saturating_mul)
}

fn resolve_retries(
    place: &Place<'_>,
    declared: &document::service::Retries,
    base: Option<Retries>,
    faults: &mut Faults,
) -> Retries {
    let base = base.unwrap_or_default();
    let back_off = declared.back_off.clone().unwrap_or_default();
    let retries = Retries {
        attempts: declared.attempts.or(base.attempts),
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

fn retry_on(place: &Place<'_>, words: &[String], faults: &mut Faults) -> Vec<String> {
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
