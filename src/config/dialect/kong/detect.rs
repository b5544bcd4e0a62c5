//! Marks by which a document is Kong's, or native.

use crate::config::Span;
use crate::config::dialect::kong::kind::EntityKind;
use crate::config::dialect::kong::table;
use crate::config::tree::{Entry, Node, Value};

/// Words that only native documents have, by list.
const NATIVE_FIELDS: [(&str, &[&str]); 4] = [
    (
        "services",
        &["upstream", "upstreams", "timeout", "try_timeout", "host_header", "hash_by", "websocket", "lint"],
    ),
    (
        "routes",
        &[
            "listeners",
            "fleets",
            "query",
            "redirect",
            "respond",
            "rewrite",
            "request_headers",
            "rank",
            "lint",
        ],
    ),
    (
        "upstreams",
        &[
            "load_balancer",
            "sticky",
            "slow_start",
            "limits",
            "health_check",
            "outlier_detection",
            "failover",
            "failback",
            "drill",
            "resolve",
            "whole_response",
            "tls",
            "lint",
        ],
    ),
    ("certificates", &["certificate"]),
];

const NATIVE_TOP: [&str; 7] = ["fleets", "listeners", "resolver", "rollout", "lint", "notify", "raw"];

/// Fields that Kong and the native config share, by list; all others of Kong's table are Kong's alone.
const SHARED_FIELDS: [(&str, &[&str]); 4] = [
    ("services", &["name", "retries", "tags"]),
    ("routes", &["name", "service", "methods", "hosts", "paths", "headers", "tags"]),
    ("upstreams", &["name", "targets", "tags"]),
    ("certificates", &["name", "key", "tags"]),
];

/// Word of a document, and its range.
pub type Mark<'n> = (&'n str, Option<Span>);

/// Returns the first word that only Kong has.
pub fn mark_of_kong(root: &Node) -> Option<Mark<'_>> {
    find(root, |list, field| match field {
        None => {
            table::TOP[..6].contains(&list)
                || EntityKind::from_plural(list).is_some()
                    && SHARED_FIELDS.iter().all(|(shared, _)| *shared != list)
        }
        Some(field) => {
            let shared = SHARED_FIELDS.iter().find(|(shared, _)| *shared == list);
            let kind = EntityKind::from_plural(list);
            let is_known = kind.is_some_and(|kind| table::field_at(kind, &[field]).is_some());
            is_known && shared.is_some_and(|(_, fields)| !fields.contains(&field))
        }
    })
}

/// Returns the first word that only native documents have.
pub fn mark_of_native(root: &Node) -> Option<Mark<'_>> {
    find(root, |list, field| match field {
        None => NATIVE_TOP.contains(&list),
        Some(field) => NATIVE_FIELDS.iter().any(|(of, fields)| *of == list && fields.contains(&field)),
    })
}

/// Returns the first key at the top, or of an element of a list at the top, that is one.
fn find(root: &Node, is: impl Fn(&str, Option<&str>) -> bool) -> Option<Mark<'_>> {
    let entries = entries(root);
    if let Some(entry) = entries.iter().find(|entry| is(&entry.key, None)) {
        return Some((&entry.key, entry.key_span));
    }
    for list in entries {
        let Value::Sequence(items) = &list.value.value else { continue };
        for entry in items.iter().flat_map(self::entries) {
            if is(&list.key, Some(&entry.key)) {
                return Some((&entry.key, entry.key_span));
            }
        }
    }
    None
}

fn entries(node: &Node) -> &[Entry] {
    match &node.value {
        Value::Mapping(entries) => entries,
        _ => &[],
    }
}

/// Returns true if a text has a line that begins as Kong's files do: a guess, which saves reading the text twice.
pub fn looks_like(text: &str) -> bool {
    let is_key = |line: &str| {
        let line = line.trim_start_matches(['{', ' ', '"']);
        line.starts_with("_format_version") || line.starts_with("_transform")
    };
    text.lines().take(50).any(is_key)
}
