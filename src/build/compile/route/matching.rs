//! Match conditions of Envoy routes.

use envoy_types::pb::envoy::config::route::v3 as envoy;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher};

use crate::model::matching::StringMatch;
use crate::model::path_match::PathMatch;
use crate::model::route::Route;

/// Idempotent methods, whose requests may be repeated (RFC 9110, section 9.2.2).
const IDEMPOTENT: [&str; 6] = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"];

/// Subset of a route's methods to which one of its Envoy routes applies.
#[derive(Clone, Copy)]
pub(super) enum Methods {
    /// All methods of the route, treated alike.
    All,
    /// Idempotent methods.
    Idempotent,
    /// Methods that are not idempotent.
    Others,
}

/// Returns the match of an Envoy route; none if the route has no method in the subset.
pub(super) fn route_match(path: &PathMatch, route: &Route, methods: Methods) -> Option<envoy::RouteMatch> {
    let method = method_matcher(&route.methods, methods)?;
    let headers = route.headers.iter().map(|(name, expected)| header_matcher(name, expected));
    Some(envoy::RouteMatch {
        path_specifier: Some(path_specifier(path)),
        headers: method.into_iter().chain(headers).collect(),
        query_parameters: route.query.iter().map(|(name, expected)| query_matcher(name, expected)).collect(),
        ..Default::default()
    })
}

/// Returns `route` with the condition that the request's host begins with `prefix`.
pub(super) fn under_authority(route: envoy::Route, prefix: &str) -> envoy::Route {
    let matcher =
        StringMatcher { match_pattern: Some(MatchPattern::Prefix(prefix.to_owned())), ignore_case: true };
    let condition = envoy::HeaderMatcher {
        name: ":authority".to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(matcher)),
        ..Default::default()
    };
    let mut matched = route.r#match.unwrap_or_default();
    matched.headers.push(condition);
    envoy::Route { r#match: Some(matched), ..route }
}

/// Returns the matcher of the method: `Some(None)` if any method matches, `None` if no method is left to
/// match.
#[expect(clippy::option_option, reason = "no route, a route without a matcher, a route with one")]
fn method_matcher(methods_of_route: &[String], methods: Methods) -> Option<Option<envoy::HeaderMatcher>> {
    let idempotent = |method: &str| IDEMPOTENT.contains(&method);
    let wanted: Vec<&str> = match methods {
        Methods::All => methods_of_route.iter().map(String::as_str).collect(),
        Methods::Idempotent if methods_of_route.is_empty() => IDEMPOTENT.to_vec(),
        Methods::Idempotent => {
            methods_of_route.iter().map(String::as_str).filter(|method| idempotent(method)).collect()
        }
        // The route for idempotent methods precedes this one, so that no matcher is needed.
        Methods::Others if methods_of_route.is_empty() => return Some(None),
        Methods::Others => {
            methods_of_route.iter().map(String::as_str).filter(|method| !idempotent(method)).collect()
        }
    };
    match (wanted.as_slice(), methods_of_route.is_empty()) {
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
        PathMatch::StartsWith(beginning) => PathSpecifier::Prefix(beginning.clone()),
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

/// Returns the matcher of a value; none if only presence or absence counts.
fn string_matcher(expected: &StringMatch) -> Option<StringMatcher> {
    let pattern = match expected {
        StringMatch::Exact(text) => MatchPattern::Exact(text.clone()),
        StringMatch::Regex(pattern) => MatchPattern::SafeRegex(regex(pattern)),
        StringMatch::Present | StringMatch::Absent => return None,
    };
    Some(StringMatcher { match_pattern: Some(pattern), ..Default::default() })
}

pub(super) fn regex(pattern: &str) -> RegexMatcher {
    RegexMatcher { regex: pattern.to_owned(), ..Default::default() }
}
