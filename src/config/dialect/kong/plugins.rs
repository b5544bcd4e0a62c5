//! Plugins: which are missed, which are not, and without which nothing may be served.

use crate::config::code;
use crate::config::dialect::foreign::ForeignObject;
use crate::config::dialect::kong::entity::{child, text};
use crate::config::dialect::kong::teller::Teller;
use crate::config::dialect::note::Fate;
use crate::config::tree::Value;

/// Plugins that only watch.
const WATCHES: [&str; 10] = [
    "prometheus",
    "opentelemetry",
    "zipkin",
    "datadog",
    "statsd*",
    "app-dynamics",
    "*-log",
    "loggly",
    "syslog",
    "*-log-advanced",
];

/// Plugins that limit or help; requests are served without them.
const LIMITS: [&str; 6] = [
    "rate-limiting*",
    "response-ratelimiting",
    "request-size-limiting",
    "cors",
    "proxy-cache*",
    "correlation-id",
];

/// Plugins that decide who gets in.
const GUARDS: [&str; 13] = [
    "acl",
    "*-auth*",
    "jwt*",
    "oauth2*",
    "openid-connect",
    "saml",
    "session",
    "ip-restriction",
    "bot-detection",
    "opa",
    "*-validator",
    "*-protection",
    "header-cert-auth",
];

/// Notes the fate of a plugin.
pub fn read(plugin: &ForeignObject, teller: &mut Teller) {
    let Some(name) = child(&plugin.node, "name").and_then(text) else { return };
    if child(&plugin.node, "enabled").is_some_and(|enabled| enabled.value == Value::Bool(false)) {
        teller.note(plugin, &[], Fate::Ignored, format!("plugin `{name}` is not enabled"));
        return;
    }
    let is = |patterns: &[&str]| patterns.iter().any(|pattern| matches(pattern, name));
    if is(&WATCHES) {
        teller.note(plugin, &[], Fate::Ignored, format!("plugin `{name}` is not run by understudy"));
    } else if is(&LIMITS) {
        let words = format!("plugin `{name}` is not run by understudy: requests go on without it");
        teller.note(plugin, &[], Fate::Ignored, words).warning();
    } else if is(&GUARDS) {
        let words = format!("plugin `{name}` is not run by understudy: without it everyone gets through");
        teller
            .note(plugin, &[], Fate::Refused, words)
            .code(code::PROTECTS)
            .help("remove it, or accept that: `lint: { US207: warning }` in a native file beside this one");
    } else {
        let words = format!("plugin `{name}` is not run by understudy: it answers, or changes what is sent");
        teller
            .note(plugin, &[], Fate::Refused, words)
            .code(code::CHANGES_REQUESTS)
            .help("remove it, or accept that: `lint: { US213: warning }` in a native file beside this one");
    }
}

/// Returns true if a name matches a pattern with `*` at its ends.
fn matches(pattern: &str, name: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(_), Some(_)) => name.contains(pattern.trim_matches('*')),
        (Some(end), None) => name.ends_with(end),
        (None, Some(start)) => name.starts_with(start),
        (None, None) => name == pattern,
    }
}
