//! Hashing: the properties of requests by which an upstream chooses targets.

use std::sync::Arc;

use crate::config::Span;
use crate::config::code;
use crate::config::dialect::foreign::ForeignObject;
use crate::config::dialect::kong::build::{self, Fields};
use crate::config::dialect::kong::entity::{EntityView, text};
use crate::config::dialect::kong::teller::Teller;
use crate::config::dialect::note::Fate;
use crate::config::tree::Node;

/// Returns true if requests are led to targets by a hash.
pub fn hashes(upstream: EntityView<'_>) -> bool {
    let algorithm = upstream.text(&["algorithm"]).unwrap_or("round-robin");
    let fallback_counts = upstream.text(&["hash_on"]) == Some("consumer");
    let hash = if fallback_counts { "hash_fallback" } else { "hash_on" };
    let by = upstream.text(&[hash]).unwrap_or("none");
    matches!(algorithm, "round-robin" | "consistent-hashing") && !matches!(by, "none" | "consumer")
}

/// Returns the native properties that are hashed, and the upstream that says so.
pub fn hash_by(upstream: EntityView<'_>) -> Option<(Node, Arc<ForeignObject>)> {
    if !hashes(upstream) {
        return None;
    }
    let items: Vec<Node> = [("hash_on", "hash_on"), ("hash_fallback", "hash_fallback")]
        .into_iter()
        .filter_map(|(field, prefix)| hashed(upstream, field, prefix))
        .collect();
    let span = upstream.get(&["hash_on"]).and_then(|said| said.node.span);
    Some((build::list(items, span), upstream.entity.object.clone()))
}

fn hashed(upstream: EntityView<'_>, field: &str, prefix: &str) -> Option<Node> {
    let said = upstream.get(&[field])?;
    let span: Option<Span> = said.node.span;
    let named = |key: &str, field: &str| {
        let name = upstream.get(&[field])?;
        let mut fields = Fields::default();
        fields.put(key, build::text(text(name.node)?, name.node.span));
        Some(fields.node(name.node.span))
    };
    match text(said.node)? {
        "ip" => Some(build::text("source_ip", span)),
        "path" => Some(build::text("path", span)),
        "header" => named("header", &format!("{prefix}_header")),
        "query_arg" => named("query", &format!("{prefix}_query_arg")),
        "cookie" => {
            let mut cookie = Fields::default();
            let name = upstream.get(&["hash_on_cookie"])?;
            cookie.put("name", name.node.clone()).put_text("ttl", "0s");
            cookie.put_text("path", upstream.text(&["hash_on_cookie_path"]).unwrap_or("/"));
            let mut fields = Fields::default();
            fields.put("cookie", cookie.node(name.node.span));
            Some(fields.node(name.node.span))
        }
        _ => None,
    }
}

/// Notes the fate of what is hashed.
pub fn notes(view: EntityView<'_>, teller: &mut Teller) {
    let algorithm = view.text(&["algorithm"]).unwrap_or("round-robin");
    let has_effect = matches!(algorithm, "round-robin" | "consistent-hashing");
    for field in ["hash_on", "hash_fallback"] {
        let Some(said) = view.get(&[field]) else { continue };
        match text(said.node) {
            Some("none") => {}
            _ if !has_effect => {
                let words = format!("it has no effect with `algorithm: {algorithm}`, as in Kong");
                teller.note(said.object, &[field], Fate::Ignored, words);
            }
            Some("consumer") => {
                let words = "there are no consumers here: the fallback counts";
                teller.note(said.object, &[field], Fate::Approximated, words).warning();
            }
            Some("uri_capture") => {
                let words = "the captures of a path cannot be hashed";
                let note = teller.note(said.object, &[field], Fate::Refused, words);
                note.help("hash by `path`, `header`, `cookie`, `query_arg` or `ip`");
            }
            _ => {}
        }
        for (kind, key) in [("header", "header"), ("query_arg", "query_arg"), ("cookie", "cookie")] {
            let own = if key == "cookie" { "hash_on_cookie".to_owned() } else { format!("{field}_{key}") };
            if has_effect && text(said.node) == Some(kind) && view.get(&[&own]).is_none() {
                let words = format!("`{own}` is missing");
                teller.note(&view.entity.object, &[field], Fate::Refused, words).code(code::MISSING_FIELD);
            }
        }
    }
    for field in [
        "hash_on_header",
        "hash_fallback_header",
        "hash_on_query_arg",
        "hash_fallback_query_arg",
        "hash_on_cookie",
        "hash_on_cookie_path",
        "hash_on_uri_capture",
        "hash_fallback_uri_capture",
    ] {
        let Some(said) = view.get(&[field]) else { continue };
        let is_used = |of: &str| {
            let kind = view.text(&[of]).unwrap_or("none");
            kind == field.trim_start_matches(of).trim_start_matches('_')
                || (kind == "cookie" && field.starts_with("hash_on_cookie"))
        };
        if !has_effect || !(is_used("hash_on") || is_used("hash_fallback")) {
            let words = "nothing is hashed by it";
            teller.note(said.object, &[field], Fate::Ignored, words).quiet_if(!said.is_own);
        }
    }
}
