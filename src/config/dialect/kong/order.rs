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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::config::dialect::kong::kind::EntityKind;
    use crate::config::dialect::kong::read;
    use crate::config::dialect::kong::world::World;
    use crate::config::dialect::listeners::NativeListeners;
    use crate::config::tree::{self, Schema};

    /// Returns the rank of a route for its first path.
    fn of(route: &str) -> i64 {
        let text = format!("routes: [{{ name: r, {route} }}]");
        let (roots, faults) = tree::yaml_by(&text, Schema::Go);
        assert_eq!(faults, []);
        let root = roots.into_iter().next().expect("a document");
        let documents = [Arc::new(read::read(&"kong.yaml".into(), root, true, None))];
        let variables = BTreeMap::new();
        let world = World::new(&documents, &NativeListeners::default(), &variables);
        let view = world.view(world.all(EntityKind::Route)[0]);
        let path = view.texts(&["paths"]).first().map(|(path, _)| RoutePath::parse(path));
        rank(view, path, true)
    }

    /// Pairs of which Kong asks the first one first (get_priority of transform.lua).
    #[test]
    fn routes_have_kongs_order() {
        for (first, second) in [
            // More kinds of conditions, whatever they are: the host is nothing special.
            ("methods: [GET], paths: [/x]", "hosts: [shop.test]"),
            ("hosts: [shop.test], paths: [/]", "paths: [/a/very/long/prefix]"),
            ("methods: [GET], hosts: [\"*.test\"]", "hosts: [shop.test]"),
            // Plain hosts alone.
            ("hosts: [shop.test]", "hosts: [\"*.test\"]"),
            ("hosts: [shop.test]", "hosts: [shop.test, \"*.test\"]"),
            ("hosts: [shop.test]", "headers: { a: [b], c: [d] }"),
            // More headers.
            ("headers: { a: [b], c: [d] }", "headers: { a: [b] }"),
            ("headers: { a: [b], c: [d] }, paths: [/x]", "headers: { a: [b] }, paths: [\"~/x\"]"),
            // A regex before a prefix.
            ("paths: [\"~/a\"]", "paths: [/a/very/long/prefix]"),
            // `regex_priority` of regexes.
            ("paths: [\"~/a\"], regex_priority: 2", "paths: [\"~/a/longer\"], regex_priority: 1"),
            // The longer prefix.
            ("paths: [/aa]", "paths: [/a]"),
            ("paths: [/aa]", "paths: [/a], regex_priority: 9"),
        ] {
            assert!(of(first) > of(second), "{first} goes before {second}");
        }
        assert_eq!(
            of("paths: [\"~/a\"]"),
            of("paths: [\"~/longer\"]"),
            "the length of a regex does not count"
        );
    }
}
