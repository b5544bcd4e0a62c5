//! Order of routes: Kong's own, as one number (get_priority of its transform.lua).

use crate::config::dialect::kong::entity::EntityView;
use crate::config::dialect::kong::paths::RoutePath;

/// Largest value of the part for the length of a prefix.
const LENGTH: i64 = (1 << 15) - 1;

/// Returns the rank of a route for one of its paths; the larger goes first.
///
/// In this order: the number of kinds of conditions, plain hosts alone, the number of headers, a regex before a prefix,
/// `regex_priority` of regexes, the length of a prefix. The last bit is for the first form of a path, which goes before
/// the second.
pub fn rank(route: EntityView<'_>, path: Option<RoutePath<'_>>, is_first: bool) -> i64 {
    let is_said = |field: &str| !route.texts(&[field]).is_empty();
    let headers = header_count(route);
    let mut kinds = i64::from(headers > 0);
    for field in ["methods", "hosts", "snis", "paths"] {
        kinds += i64::from(is_said(field));
    }
    let hosts = route.texts(&["hosts"]);
    let has_plain_hosts_only = !hosts.is_empty() && hosts.iter().all(|(host, _)| !host.contains('*'));
    let is_regex = matches!(path, Some(RoutePath::Regex(_)));
    let regex_priority = if is_regex { route.number(&["regex_priority"]) as i64 } else { 0 };
    let length = path.map_or(0, RoutePath::rank_length);
    let parts = [
        (kinds, 3),
        (i64::from(has_plain_hosts_only), 1),
        (headers.min(255), 8),
        (i64::from(is_regex), 1),
        (regex_priority, 33),
        (i64::try_from(length).unwrap_or(LENGTH).min(LENGTH), 15),
        (i64::from(is_first), 1),
    ];
    parts.into_iter().fold(0, |rank, (part, bits)| (rank << bits) | part)
}

/// Returns the number of headers that a route asks for.
pub fn header_count(route: EntityView<'_>) -> i64 {
    match route.get(&["headers"]).map(|said| &said.node.value) {
        Some(crate::config::tree::Value::Mapping(entries)) => i64::try_from(entries.len()).unwrap_or(255),
        _ => 0,
    }
}
