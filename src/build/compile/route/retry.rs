//! Retry policies and try timeouts.

use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3 as envoy;
use envoy_types::pb::envoy::config::route::v3::retry_policy::{
    RetryBackOff, RetryHostPredicate, RetryPriority, retry_host_predicate, retry_priority,
};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;

use crate::build::compile::route::matching::Methods;
use crate::build::compile::service::{self, WeightedOrder};
use crate::build::compile::{any, duration, uint32};
use crate::config::document::service::MethodsOnce;
use crate::model::service::{GRPC_STATUSES, RequestPolicy, Retries, Service};

/// Effective retry settings for requests of idempotent methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryLimits {
    /// Maximum number of retries after the first try.
    pub attempts: u32,
    /// Timeout of one try; none for no limit.
    pub try_timeout: Option<Duration>,
    /// Number of tries after which a retry moves on to the next tier.
    pub update_frequency: u32,
}

/// Returns the effective retry settings of a policy with the upstreams of a service: as declared, or else
/// derived from their tiers. None if retries are off.
pub fn tries(policy: &RequestPolicy, service: &Service) -> Option<RetryLimits> {
    let (retries, orders) = (policy.retries.as_ref()?, service::orders(service));
    Some(RetryLimits {
        attempts: retries.attempts.unwrap_or_else(|| attempts(&orders)),
        try_timeout: effective_try_timeout(policy, &orders),
        update_frequency: update_frequency(&orders),
    })
}

/// Retry conditions under which the request surely reached no server.
const REACHED_NO_SERVER: &str = "connect-failure,refused-stream,reset-before-request";

/// Compiles the retry policy of one of the Envoy routes of a route; none for no retries and no limit of silence, which
/// Envoy has there.
pub(super) fn retry_policy(
    policy: &RequestPolicy,
    orders: &[WeightedOrder<'_>],
    methods: Methods,
) -> Option<envoy::RetryPolicy> {
    let repeating = repeating(policy, orders, methods);
    if policy.try_idle_timeout.is_zero() {
        return repeating;
    }
    let once = || envoy::RetryPolicy { num_retries: Some(uint32(0)), ..Default::default() };
    let per_try_idle_timeout = Some(duration(policy.try_idle_timeout));
    Some(envoy::RetryPolicy { per_try_idle_timeout, ..repeating.unwrap_or_else(once) })
}

/// Returns the conditions and limits of retries; none for no retries.
fn repeating(
    policy: &RequestPolicy,
    orders: &[WeightedOrder<'_>],
    methods: Methods,
) -> Option<envoy::RetryPolicy> {
    let retries = policy.retries.as_ref()?;
    let full = envoy::RetryPolicy {
        retry_on: retry_on(retries),
        num_retries: Some(uint32(retries.attempts.unwrap_or_else(|| attempts(orders)))),
        per_try_timeout: effective_try_timeout(policy, orders).map(duration),
        retry_back_off: Some(RetryBackOff {
            base_interval: Some(duration(retries.back_off_base)),
            max_interval: Some(duration(retries.back_off_max)),
        }),
        retriable_status_codes: retries.statuses.clone(),
        host_selection_retry_max_attempts: 5,
        retry_host_predicate: vec![previous_hosts()],
        retry_priority: Some(previous_priorities(orders)),
        ..Default::default()
    };
    match (methods, retries.methods_once) {
        (Methods::All | Methods::Idempotent, _) | (Methods::Others, MethodsOnce::Always) => Some(full),
        (Methods::Others, MethodsOnce::Never) => None,
        (Methods::Others, MethodsOnce::Safe) => Some(envoy::RetryPolicy {
            retry_on: safe_retry_on(retries),
            per_try_timeout: None,
            retriable_status_codes: Vec::new(),
            ..full
        }),
    }
}

/// Returns the retry conditions for requests that are not idempotent: those under which the request reached
/// no server, and the declared gRPC statuses. All gRPC requests are POSTs, so a declared gRPC status is meant
/// for them.
fn safe_retry_on(retries: &Retries) -> String {
    let statuses = retries.retry_on.iter().map(String::as_str).filter(|word| GRPC_STATUSES.contains(word));
    std::iter::once(REACHED_NO_SERVER).chain(statuses).collect::<Vec<_>>().join(",")
}

fn retry_on(retries: &Retries) -> String {
    let mut words = retries.retry_on.clone();
    let by_status = "retriable-status-codes";
    if !retries.statuses.is_empty() && !words.iter().any(|word| word == by_status) {
        words.push(by_status.to_owned());
    }
    words.join(",")
}

/// Returns the default number of retries: enough to reach every target, from 3 to 10.
fn attempts(orders: &[WeightedOrder<'_>]) -> u32 {
    let targets = orders.iter().map(WeightedOrder::targets).max().unwrap_or(0);
    u32::try_from(targets).unwrap_or(u32::MAX).clamp(3, 10)
}

/// Returns the number of tries after which a retry moves on to the next tier: 2 if every tier but the last
/// has a second target to try first, else 1. A tier of one target must be left at once, since Envoy goes on
/// choosing the tier even if its only host is ejected between two tries. Routes are the same for all Envoys,
/// so a single target counts if any locality sees one.
fn update_frequency(orders: &[WeightedOrder<'_>]) -> u32 {
    if orders.iter().any(WeightedOrder::has_a_single_before_the_last) { 1 } else { 2 }
}

/// Returns the timeout of one try of an idempotent request: as declared, or the request timeout divided by
/// the number of tries that it takes to reach the last tier, at least 2. A healthy but slow service must not
/// be cut off, and a frozen target must leave time for the others. None for no limit.
fn effective_try_timeout(policy: &RequestPolicy, orders: &[WeightedOrder<'_>]) -> Option<Duration> {
    let try_timeout = policy.try_timeout.unwrap_or_else(|| {
        let tiers = orders.iter().map(WeightedOrder::most_tiers).max().unwrap_or(0);
        let before_last = u32::try_from(tiers.saturating_sub(1)).unwrap_or(u32::MAX);
        let tries = before_last.saturating_mul(update_frequency(orders)).saturating_add(1).max(2);
        Duration::from_millis(u64::try_from((policy.timeout / tries).as_millis()).unwrap_or(u64::MAX))
    });
    (!try_timeout.is_zero()).then_some(try_timeout)
}

fn previous_hosts() -> RetryHostPredicate {
    RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(retry_host_predicate::ConfigType::TypedConfig(any(&PreviousHostsPredicate {}))),
    }
}

fn previous_priorities(orders: &[WeightedOrder<'_>]) -> RetryPriority {
    let config = PreviousPrioritiesConfig {
        update_frequency: i32::try_from(update_frequency(orders)).expect("it is 1 or 2"),
    };
    RetryPriority {
        name: "envoy.retry_priorities.previous_priorities".to_owned(),
        config_type: Some(retry_priority::ConfigType::TypedConfig(any(&config))),
    }
}

#[cfg(test)]
mod tests {
    use crate::build::{Inputs, build};

    use super::*;

    /// Asserts the settings derived for an upstream with `tiers` targets per tier and a service with these
    /// settings: number of retries, try timeout in milliseconds, update frequency.
    fn check(tiers: &[usize], service: &str, expected: (u32, Option<u128>, u32)) {
        let targets = tiers.iter().enumerate().flat_map(|(tier, count)| {
            (0..*count).map(move |index| format!("{{ target: 10.0.{tier}.{index}:80, priority: {tier} }}"))
        });
        let targets = targets.collect::<Vec<_>>().join(", ");
        let text = format!(
            "upstreams: [{{ name: u, targets: [{targets}] }}]\nservices: [{{ name: s, upstream: u, {service} }}]\n"
        );
        let files = imbl::OrdMap::unit("a.yaml".to_owned(), text.into());
        let build = build(&Inputs { files, ..Inputs::default() }, None).expect("it builds");
        let service = build.model.services.values().next().expect("there is one");
        let RetryLimits { attempts, try_timeout, update_frequency } =
            tries(&service.policy, service).expect("retries are on");
        let found = (attempts, try_timeout.map(|time| time.as_millis()), update_frequency);
        assert_eq!(found, expected, "{tiers:?} {service:?}");
    }

    #[test]
    fn a_try_leaves_time_to_reach_the_last_tier() {
        check(&[1], "timeout: 15s", (3, Some(7_500), 2));
        check(&[2], "timeout: 15s", (3, Some(7_500), 2));
        check(&[2, 1], "timeout: 15s", (3, Some(5_000), 2));
        check(&[1, 1], "timeout: 15s", (3, Some(7_500), 1));
        check(&[2, 2, 2], "timeout: 15s", (6, Some(3_000), 2));
        check(&[2, 1, 2], "timeout: 15s", (5, Some(5_000), 1));
        check(&[1, 1, 1, 1], "timeout: 2s", (4, Some(500), 1));
    }

    #[test]
    fn attempts_reach_every_target_within_bounds() {
        check(&[6], "timeout: 10s", (6, Some(5_000), 2));
        check(&[20, 5], "timeout: 15s", (10, Some(5_000), 2));
        check(&[6], "timeout: 10s, retries: { attempts: 1 }", (1, Some(5_000), 2));
    }

    #[test]
    fn what_is_said_wins_and_no_limit_stays_none() {
        check(&[2, 1], "try_timeout: 250ms", (3, Some(250), 2));
        check(&[2, 1], "timeout: 0s", (3, None, 2));
        check(&[2, 1], "timeout: 0s, try_timeout: 1s", (3, Some(1_000), 2));
        check(&[2, 1], "try_timeout: 0s", (3, None, 2));
    }
}
