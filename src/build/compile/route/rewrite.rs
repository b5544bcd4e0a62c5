//! The path that targets see.

use envoy_types::pb::envoy::config::route::v3 as envoy;
use envoy_types::pb::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;

use crate::build::compile::route::matching::regex;
use crate::model::route::PathMatch;
use crate::model::route::rewrite::Rewrite;

/// `action` with the path rewritten.
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
        // What Envoy matches for these is `/`, and nothing stands between it and what follows.
        (Rewrite::Prefix(to), PathMatch::Prefix(from)) if from.is_empty() => by_prefix(format!("{to}/")),
        // `/` in place of `/checkout` would make `//x` of `/checkout/x`, and nothing a path that Envoy refuses.
        (Rewrite::Prefix(to), PathMatch::Prefix(from)) if to.is_empty() => {
            by_regex(&format!("^{}/?", regex::escape(from)), "/")
        }
        (Rewrite::Prefix(to), _) if to.is_empty() => by_prefix("/".to_owned()),
        (Rewrite::Prefix(to), _) => by_prefix(to.clone()),
        (Rewrite::Path(to), _) => by_regex("^/.*$", &to.replace('\\', r"\\")),
        (Rewrite::Regex { pattern, substitution }, _) => by_regex(pattern, substitution),
    }
}
