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
    let without_slash = |to: &str| to.trim_end_matches('/').to_owned();
    let with_slash = |to: &str| format!("{}/", to.trim_end_matches('/'));
    match (rewrite, path) {
        // The empty prefix is matched as `/`, without a separator between it and the rest, so the replacement
        // ends in `/`.
        (Rewrite::Prefix(to), PathMatch::Prefix(from)) if from.is_empty() => by_prefix(with_slash(to)),
        // Replacing `/checkout` with `/` would turn `/checkout/x` into `//x`; replacing it with nothing would
        // turn `/checkout` into an empty path, which Envoy rejects.
        (Rewrite::Prefix(to), PathMatch::Prefix(from)) if without_slash(to).is_empty() => {
            by_regex(&format!("^{}/?", regex::escape(from)), "/")
        }
        // The rest of the path follows as text. There is one slash between it and a replacement that ends in one, or
        // that takes the place of one.
        (Rewrite::Prefix(to), PathMatch::StartsWith(from)) if from.ends_with('/') => {
            by_prefix(with_slash(to))
        }
        (Rewrite::Prefix(to), PathMatch::StartsWith(from)) if to.ends_with('/') => {
            by_regex(&format!("^{}/?", regex::escape(from)), &literal(&with_slash(to)))
        }
        (Rewrite::Prefix(to), _) if without_slash(to).is_empty() => by_prefix("/".to_owned()),
        (Rewrite::Prefix(to), _) => by_prefix(without_slash(to)),
        (Rewrite::Path(to), _) => by_regex("^/.*$", &literal(to)),
        (Rewrite::Regex { pattern, substitution }, _) => by_regex(pattern, substitution),
    }
}

/// Returns a substitution that stands for itself.
fn literal(text: &str) -> String {
    text.replace('\\', r"\\")
}
