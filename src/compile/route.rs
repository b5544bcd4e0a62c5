//! Routes and the policies of their services as a route configuration.
//!
//! One route of ours becomes two of Envoy's for each of its paths: idempotent methods get the full recipe of
//! retries; the others are tried again only when the request surely reached no server, and no timer cuts a
//! try of theirs.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3 as envoy;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::retry_policy::{
    RetryBackOff, RetryHostPredicate, RetryPriority, retry_host_predicate, retry_priority,
};
use envoy_types::pb::envoy::config::route::v3::route_action::{ClusterSpecifier, UpgradeConfig};
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher};
use envoy_types::pb::google::protobuf::{BoolValue, UInt64Value};

use crate::compile::{any, duration, uint32};
use crate::config::document::MethodsOnce;
use crate::model::matching::StringMatch;
use crate::model::name::Name;
use crate::model::route::{HostMatch, PathMatch, Route};
use crate::model::service::{Policy, Retries};
use crate::model::upstream::Upstream;
use crate::snapshot::Resource;

/// Methods whose requests may be repeated (RFC 9110, section 9.2.2).
const IDEMPOTENT: [&str; 6] = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"];

/// What surely reached no server.
const REACHED_NO_SERVER: &str = "connect-failure,refused-stream,reset-before-request";

/// The route configuration of a listener, which has the listener's name.
pub fn compile<'a>(listener: &Name, routes: impl Iterator<Item = &'a Route>) -> Resource {
    let routes: Vec<&Route> = routes.collect();
    let hosts: BTreeSet<&HostMatch> = routes.iter().flat_map(|route| &route.hosts).collect();
    let configuration = envoy::RouteConfiguration {
        name: listener.to_string(),
        virtual_hosts: hosts.into_iter().map(|host| virtual_host(host, &routes)).collect(),
        ignore_port_in_host_matching: true,
        ..Default::default()
    };
    let mut resource = Resource::new(listener.as_str(), &configuration);
    let clusters: BTreeSet<&str> = routes.iter().map(|route| route.service.upstream.name.as_str()).collect();
    resource.clusters = clusters.into_iter().map(Arc::from).collect();
    resource
}

/// One path of a route on the host by which it was chosen.
struct Candidate<'a> {
    host: &'a HostMatch,
    path: &'a PathMatch,
    route: &'a Route,
}

impl Candidate<'_> {
    /// Smaller wins: the host, the path, then what more is asked for, then the name.
    fn rank(&self) -> impl Ord + use<> {
        let kind = match self.path {
            PathMatch::Exact(_) => 0,
            PathMatch::Prefix(_) => 1,
            PathMatch::Regex(_) => 2,
        };
        let Route { methods, headers, query, name, .. } = self.route;
        let named = (Reverse(methods.len()), Reverse(headers.len()), Reverse(query.len()));
        (host_rank(self.host), kind, Reverse(self.path.length()), named, name.clone(), self.path.clone())
    }
}

/// Smaller wins: an exact host, then the longest wildcard, then any.
fn host_rank(host: &HostMatch) -> (u8, Reverse<usize>) {
    match host {
        HostMatch::Exact(_) => (0, Reverse(0)),
        HostMatch::Suffix(suffix) => (1, Reverse(suffix.len())),
        HostMatch::Any => (2, Reverse(0)),
    }
}

/// A host with the routes that name it, and after them those of wider hosts.
fn virtual_host(host: &HostMatch, routes: &[&Route]) -> envoy::VirtualHost {
    let mut candidates: Vec<Candidate<'_>> = routes
        .iter()
        .filter_map(|route| {
            let covering =
                route.hosts.iter().filter(|own| own.covers(host)).min_by_key(|own| host_rank(own))?;
            Some((covering, *route))
        })
        .flat_map(|(host, route)| route.paths.iter().map(move |path| Candidate { host, path, route }))
        .collect();
    candidates.sort_by_cached_key(|candidate| candidate.rank());
    envoy::VirtualHost {
        name: host.to_string(),
        domains: vec![host.to_string()],
        routes: candidates
            .iter()
            .flat_map(|candidate| envoy_routes(candidate.path, candidate.route))
            .collect(),
        ..Default::default()
    }
}

/// Which requests one of the Envoy routes of a route is for.
#[derive(Clone, Copy)]
enum Methods {
    /// Whatever the route asks for: all are treated alike.
    All,
    /// Those that may be repeated.
    Idempotent,
    /// What is left after those.
    Others,
}

fn envoy_routes(path: &PathMatch, route: &Route) -> Vec<envoy::Route> {
    let alike = match &route.policy.retries {
        Some(retries) => retries.methods_once == MethodsOnce::Always,
        None => true,
    };
    let kinds: &[Methods] = if alike { &[Methods::All] } else { &[Methods::Idempotent, Methods::Others] };
    kinds.iter().filter_map(|methods| envoy_route(path, route, *methods)).collect()
}

fn envoy_route(path: &PathMatch, route: &Route, methods: Methods) -> Option<envoy::Route> {
    let method = method_matcher(&route.methods, methods)?;
    let headers = route.headers.iter().map(|(name, expected)| header_matcher(name, expected));
    let body = route.policy.retries.as_ref().map(|retries| UInt64Value { value: retries.body });
    Some(envoy::Route {
        name: route.name.to_string(),
        r#match: Some(envoy::RouteMatch {
            path_specifier: Some(path_specifier(path)),
            headers: method.into_iter().chain(headers).collect(),
            query_parameters: route
                .query
                .iter()
                .map(|(name, expected)| query_matcher(name, expected))
                .collect(),
            ..Default::default()
        }),
        // A body over this limit is silently not retried; Envoy's default is about 1 MiB.
        request_body_buffer_limit: body,
        action: Some(envoy::route::Action::Route(route_action(route, methods))),
        ..Default::default()
    })
}

fn route_action(route: &Route, methods: Methods) -> envoy::RouteAction {
    let upstream = &route.service.upstream;
    let no_websocket = || UpgradeConfig {
        upgrade_type: "websocket".to_owned(),
        enabled: Some(BoolValue { value: false }),
        ..Default::default()
    };
    envoy::RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(upstream.name.to_string())),
        timeout: Some(duration(route.policy.timeout)),
        retry_policy: retry_policy(&route.policy, upstream, methods),
        upgrade_configs: (!route.service.websocket).then(no_websocket).into_iter().collect(),
        ..Default::default()
    }
}

/// The matcher of the method: `Some(None)` when any will do, `None` when there is none left to match.
#[expect(clippy::option_option, reason = "no route, a route without a matcher, a route with one")]
fn method_matcher(asked: &[String], methods: Methods) -> Option<Option<envoy::HeaderMatcher>> {
    let idempotent = |method: &str| IDEMPOTENT.contains(&method);
    let wanted: Vec<&str> = match methods {
        Methods::All => asked.iter().map(String::as_str).collect(),
        Methods::Idempotent if asked.is_empty() => IDEMPOTENT.to_vec(),
        Methods::Idempotent => asked.iter().map(String::as_str).filter(|method| idempotent(method)).collect(),
        // It stands behind the one for idempotent methods, so it need not say which.
        Methods::Others if asked.is_empty() => return Some(None),
        Methods::Others => asked.iter().map(String::as_str).filter(|method| !idempotent(method)).collect(),
    };
    match (wanted.as_slice(), asked.is_empty()) {
        ([], true) => Some(None),
        ([], false) => None,
        ([method], _) => Some(Some(header_matcher(":method", &StringMatch::Exact((*method).to_owned())))),
        (several, _) => Some(Some(header_matcher(":method", &StringMatch::Regex(several.join("|"))))),
    }
}

fn path_specifier(path: &PathMatch) -> PathSpecifier {
    match path {
        PathMatch::Exact(path) => PathSpecifier::Path(path.clone()),
        PathMatch::Prefix(prefix) if prefix.is_empty() => PathSpecifier::Prefix("/".to_owned()),
        PathMatch::Prefix(prefix) => PathSpecifier::PathSeparatedPrefix(prefix.clone()),
        PathMatch::Regex(pattern) => PathSpecifier::SafeRegex(regex(pattern)),
    }
}

fn header_matcher(name: &str, expected: &StringMatch) -> envoy::HeaderMatcher {
    let specifier = match string_matcher(expected) {
        Some(matcher) => HeaderMatchSpecifier::StringMatch(matcher),
        None => HeaderMatchSpecifier::PresentMatch(*expected == StringMatch::Present),
    };
    envoy::HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(specifier),
        ..Default::default()
    }
}

fn query_matcher(name: &str, expected: &StringMatch) -> envoy::QueryParameterMatcher {
    let specifier = match string_matcher(expected) {
        Some(matcher) => QueryParameterMatchSpecifier::StringMatch(matcher),
        None => QueryParameterMatchSpecifier::PresentMatch(*expected == StringMatch::Present),
    };
    envoy::QueryParameterMatcher { name: name.to_owned(), query_parameter_match_specifier: Some(specifier) }
}

/// None where only presence counts.
fn string_matcher(expected: &StringMatch) -> Option<StringMatcher> {
    let pattern = match expected {
        StringMatch::Exact(text) => MatchPattern::Exact(text.clone()),
        StringMatch::Regex(pattern) => MatchPattern::SafeRegex(regex(pattern)),
        StringMatch::Present | StringMatch::Absent => return None,
    };
    Some(StringMatcher { match_pattern: Some(pattern), ..Default::default() })
}

fn regex(pattern: &str) -> RegexMatcher {
    RegexMatcher { regex: pattern.to_owned(), ..Default::default() }
}

fn retry_policy(policy: &Policy, upstream: &Upstream, methods: Methods) -> Option<envoy::RetryPolicy> {
    let retries = policy.retries.as_ref()?;
    let full = envoy::RetryPolicy {
        retry_on: retry_on(retries),
        num_retries: Some(uint32(retries.attempts.unwrap_or_else(|| attempts(upstream)))),
        per_try_timeout: effective_try_timeout(policy, upstream).map(duration),
        retry_back_off: Some(RetryBackOff {
            base_interval: Some(duration(retries.back_off_base)),
            max_interval: Some(duration(retries.back_off_max)),
        }),
        retriable_status_codes: retries.statuses.clone(),
        host_selection_retry_max_attempts: 5,
        retry_host_predicate: vec![previous_hosts()],
        retry_priority: Some(previous_priorities(upstream)),
        ..Default::default()
    };
    match (methods, retries.methods_once) {
        (Methods::All | Methods::Idempotent, _) | (Methods::Others, MethodsOnce::Always) => Some(full),
        (Methods::Others, MethodsOnce::Never) => None,
        (Methods::Others, MethodsOnce::Safe) => Some(envoy::RetryPolicy {
            retry_on: REACHED_NO_SERVER.to_owned(),
            per_try_timeout: None,
            retriable_status_codes: Vec::new(),
            ..full
        }),
    }
}

fn retry_on(retries: &Retries) -> String {
    let mut words = retries.retry_on.clone();
    let by_status = "retriable-status-codes";
    if !retries.statuses.is_empty() && !words.iter().any(|word| word == by_status) {
        words.push(by_status.to_owned());
    }
    words.join(",")
}

/// Enough to reach every target, within bounds.
fn attempts(upstream: &Upstream) -> u32 {
    u32::try_from(upstream.targets.len()).unwrap_or(u32::MAX).clamp(3, 10)
}

/// After how many tries a retry moves on to the next tier: a peer is tried first where every tier but the
/// last has one. A tier of one target must be left at once, since Envoy goes on choosing it after its only
/// host was ejected between two tries.
fn update_frequency(upstream: &Upstream) -> u32 {
    match upstream.tiers().split_last() {
        Some((_, before)) if before.iter().any(|targets| *targets < 2) => 1,
        _ => 2,
    }
}

/// How long one try of an idempotent request may take: what was said, or the timeout divided by the tries
/// that it takes to reach the last tier, at least 2. A healthy but slow service must not be cut, and a frozen
/// target must leave time for the others.
fn effective_try_timeout(policy: &Policy, upstream: &Upstream) -> Option<Duration> {
    let try_timeout = policy.try_timeout.unwrap_or_else(|| {
        let before_last = u32::try_from(upstream.tiers().len().saturating_sub(1)).unwrap_or(u32::MAX);
        let tries = before_last.saturating_mul(update_frequency(upstream)).saturating_add(1).max(2);
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

fn previous_priorities(upstream: &Upstream) -> RetryPriority {
    let config = PreviousPrioritiesConfig {
        update_frequency: i32::try_from(update_frequency(upstream)).expect("it is 1 or 2"),
    };
    RetryPriority {
        name: "envoy.retry_priorities.previous_priorities".to_owned(),
        config_type: Some(retry_priority::ConfigType::TypedConfig(any(&config))),
    }
}

#[cfg(test)]
mod tests {
    use crate::pipeline::{Inputs, build};

    use super::*;

    /// What is derived for an upstream with these tiers and a service with this timeout:
    /// tries of a request, try timeout in milliseconds, update frequency.
    fn check(tiers: &[usize], service: &str, expected: (u32, Option<u128>, u32)) {
        let targets = tiers.iter().enumerate().flat_map(|(tier, count)| {
            (0..*count).map(move |index| format!("{{ target: 10.0.{tier}.{index}:80, priority: {tier} }}"))
        });
        let targets = targets.collect::<Vec<_>>().join(", ");
        let text = format!(
            "upstreams: [{{ name: u, targets: [{targets}] }}]\nservices: [{{ name: s, upstream: u, {service} }}]\n"
        );
        let files = [("a.yaml".to_owned(), text.into())].into();
        let build = build(&Inputs { files, ..Inputs::default() }, None).expect("it builds");
        let service = build.model.services.values().next().expect("there is one");
        let retry =
            retry_policy(&service.policy, &service.upstream, Methods::Idempotent).expect("retries are on");
        let try_timeout =
            effective_try_timeout(&service.policy, &service.upstream).map(|time| time.as_millis());
        let tries = retry.num_retries.expect("it is set").value;
        assert_eq!(
            (tries, try_timeout, update_frequency(&service.upstream)),
            expected,
            "{tiers:?} {service:?}"
        );
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
