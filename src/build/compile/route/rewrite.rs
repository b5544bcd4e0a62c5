//! Rewrites of the path that targets receive.

use envoy_types::pb::envoy::config::route::v3 as envoy;
use envoy_types::pb::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;

use crate::build::compile::route::matching::regex;
use crate::model::path_match::PathMatch;
use crate::model::route::rewrite::Rewrite;

/// Returns `action` with a rewrite of the path.
pub(super) fn rewritten(
    action: envoy::RouteAction,
    rewrite: &Rewrite,
    path: &PathMatch,
) -> envoy::RouteAction {
    let by_prefix = |prefix| envoy::RouteAction { prefix_rewrite: prefix, ..action.clone() };
    let by_regex = |pattern: &str, substitution: &str| envoy::RouteAction {
        regex_rewrite: Some(RegexMatchAndSubstitute {
            pattern: Some(regex(pattern)),
            substitution: substitution.to_owned(),
        }),
        ..action.clone()
    };
    match (rewrite, path) {
        // The empty prefix is matched as `/`, without a separator between it and the rest, so the replacement
        // ends in `/`.
        (Rewrite::Prefix(to), PathMatch::Prefix(from)) if from.is_empty() => by_prefix(format!("{to}/")),
        // Replacing `/checkout` with `/` would turn `/checkout/x` into `//x`; replacing it with nothing would
        // turn `/checkout` into an empty path, which Envoy rejects.
        (Rewrite::Prefix(to), PathMatch::Prefix(from)) if to.is_empty() => {
            by_regex(&format!("^{}/?", regex::escape(from)), "/")
        }
        (Rewrite::Prefix(to), _) if to.is_empty() => by_prefix("/".to_owned()),
        (Rewrite::Prefix(to), _) => by_prefix(to.clone()),
        (Rewrite::Path(to), _) => by_regex("^/.*$", &to.replace('\\', r"\\")),
        (Rewrite::Regex { pattern, substitution }, _) => by_regex(pattern, substitution),
    }
}
