//! Health checks of upstreams: said blocks are Kong's, with Kong's defaults; the rest is understudy's recipe.

use crate::config::dialect::foreign::ForeignObject;
use crate::config::dialect::kong::build::{self, Fields};
use crate::config::dialect::kong::entity::{EntityView, number, text};
use crate::config::dialect::kong::hashing::hashes;
use crate::config::dialect::kong::speech::Speech;
use crate::config::dialect::kong::teller::Teller;
use crate::config::dialect::note::Fate;
use crate::config::tree::{Node, Value};
use crate::config::{Level, code};

const ACTIVE: [&str; 2] = ["healthchecks", "active"];
const PASSIVE: [&str; 2] = ["healthchecks", "passive"];

/// Counters of failures.
const FAILURES: [&str; 3] = ["http_failures", "tcp_failures", "timeouts"];

fn keys<'k>(block: [&'k str; 2], rest: &[&'k str]) -> Vec<&'k str> {
    block.iter().chain(rest).copied().collect()
}

/// Returns true if Kong would send checks.
fn is_active(view: EntityView<'_>) -> bool {
    ["healthy", "unhealthy"].into_iter().any(|state| view.number(&keys(ACTIVE, &[state, "interval"])) > 0.0)
}

/// Returns true if Kong would judge by answers.
fn is_passive(view: EntityView<'_>) -> bool {
    FAILURES.into_iter().any(|counter| view.number(&keys(PASSIVE, &["unhealthy", counter])) > 0.0)
}

/// Adds the native health check, ejection and threshold of an upstream.
pub fn put(view: EntityView<'_>, speech: &Speech, has_standby: bool, fields: &mut Fields) {
    if is_active(view) {
        fields.put("health_check", check(view, speech));
    }
    if is_passive(view) {
        fields.put("outlier_detection", ejection(view));
    }
    let threshold = view.number(&["healthchecks", "threshold"]);
    if threshold > 0.0 && !has_standby && !hashes(view) {
        let span = view.get(&["healthchecks", "threshold"]).and_then(|said| said.node.span);
        let mut failover = Fields::default();
        failover.put("minimum_healthy", build::integer(threshold.round() as i64, span));
        fields.put("failover", failover.node(span));
    }
}

fn seconds(value: f64) -> String {
    build::milliseconds(value * 1000.0)
}

fn check(view: EntityView<'_>, speech: &Speech) -> Node {
    let get = |rest: &[&str]| view.get(&keys(ACTIVE, rest));
    let span = |rest: &[&str]| get(rest).and_then(|said| said.node.span);
    let value = |rest: &[&str]| view.number(&keys(ACTIVE, rest));
    let mut fields = Fields::default();
    let kind = view.text(&keys(ACTIVE, &["type"])).unwrap_or("http");
    match (kind, speech.native_protocol()) {
        ("tcp", _) | (_, "tcp") => fields.put("tcp", Fields::default().node(span(&["type"]))),
        ("grpc" | "grpcs", "http2") => fields.put("grpc", Fields::default().node(span(&["type"]))),
        _ => fields.put("http", http(view)),
    };
    let (healthy, unhealthy) = (value(&["healthy", "interval"]), value(&["unhealthy", "interval"]));
    let mut time = |name: &str, value: f64, rest: &[&str]| {
        fields.put(name, build::text(seconds(value), span(rest)));
    };
    match (healthy > 0.0, unhealthy > 0.0) {
        (true, true) => {
            time("interval", healthy, &["healthy", "interval"]);
            time("unhealthy_interval", unhealthy, &["unhealthy", "interval"]);
        }
        (true, false) => time("interval", healthy, &["healthy", "interval"]),
        (false, _) => time("interval", unhealthy, &["unhealthy", "interval"]),
    }
    time("timeout", value(&["timeout"]), &["timeout"]);
    let successes = value(&["healthy", "successes"]);
    let successes = if successes > 0.0 { successes } else { 3.0 };
    fields.put("healthy_threshold", build::integer(successes as i64, span(&["healthy", "successes"])));
    let (failures, counter) = smallest(view, ACTIVE, &FAILURES).unwrap_or((2.0, ""));
    fields.put("unhealthy_threshold", build::integer(failures as i64, span(&["unhealthy", counter])));
    let block = view.get(&ACTIVE).and_then(|said| said.node.span);
    fields.node(block)
}

/// Returns the smallest counter above 0, and its name.
fn smallest<'c>(view: EntityView<'_>, block: [&str; 2], counters: &[&'c str]) -> Option<(f64, &'c str)> {
    let values =
        counters.iter().map(|counter| (view.number(&keys(block, &["unhealthy", counter])), *counter));
    values.filter(|(value, _)| *value > 0.0).min_by(|a, b| a.0.total_cmp(&b.0))
}

fn http(view: EntityView<'_>) -> Node {
    let get = |rest: &[&str]| view.get(&keys(ACTIVE, rest));
    let mut fields = Fields::default();
    let path = get(&["http_path"]);
    fields.put("path", path.map_or_else(|| build::text("/", None), |said| said.node.clone()));
    let mut host = view.get(&["host_header"]).map(|said| said.node.clone());
    let mut headers = Fields::default();
    if let Some(said) = get(&["headers"])
        && let Value::Mapping(entries) = &said.node.value
    {
        for entry in entries {
            let Value::Sequence(values) = &entry.value.value else { continue };
            let joined = values.iter().filter_map(text).collect::<Vec<_>>().join(", ");
            let node = build::text(joined, entry.value.span);
            match entry.key.eq_ignore_ascii_case("host") {
                true => host = Some(node),
                false => drop(headers.put(entry.key.as_str(), node)),
            }
        }
    }
    if let Some(host) = host {
        fields.put("host", host);
    }
    if !headers.is_empty() {
        fields.put("headers", headers.node(get(&["headers"]).and_then(|said| said.node.span)));
    }
    let expected = get(&["healthy", "http_statuses"]);
    let statuses: Vec<Node> = match expected.map(|said| &said.node.value) {
        Some(Value::Sequence(items)) => items
            .iter()
            .filter(|item| number(item).is_some_and(|status| (100.0..600.0).contains(&status)))
            .cloned()
            .collect(),
        _ => [200, 302].map(|status| build::integer(status, None)).to_vec(),
    };
    fields.put("expected", build::list(statuses, expected.and_then(|said| said.node.span)));
    fields.node(get(&["http_path"]).or_else(|| get(&[])).and_then(|said| said.node.span))
}

fn ejection(view: EntityView<'_>) -> Node {
    let said =
        |counter: &str| view.get(&keys(PASSIVE, &["unhealthy", counter])).and_then(|said| said.node.span);
    let http = view.number(&keys(PASSIVE, &["unhealthy", "http_failures"]));
    let mut fields = Fields::default();
    fields.put("consecutive_5xx", build::integer(http as i64, said("http_failures")));
    let (gateway, counter) =
        smallest(view, PASSIVE, &["tcp_failures", "timeouts"]).unwrap_or((0.0, "tcp_failures"));
    fields.put("consecutive_gateway_failure", build::integer(gateway as i64, said(counter)));
    fields.node(view.get(&PASSIVE).and_then(|said| said.node.span))
}

/// Adds the recipe's check to the report.
pub fn add_check(name: &str, object: &ForeignObject, teller: &mut Teller) {
    let native = format!("upstreams.{name}.health_check");
    teller.add(
        native,
        "the default",
        "Kong checks nothing here; each Envoy opens a connection each second",
        object,
    );
}

/// Adds the recipe's ejection to the report.
pub fn add_ejection(name: &str, object: &ForeignObject, teller: &mut Teller) {
    let native = format!("upstreams.{name}.outlier_detection");
    teller.add(native, "the default", "the file has no passive checks", object);
}

/// Notes what of the health checks differs or is ignored.
pub fn notes(view: EntityView<'_>, name: &str, has_standby: bool, teller: &mut Teller) {
    let object = &view.entity.object;
    if let Some(said) = view.said(&["healthchecks", "threshold"]) {
        let path = ["healthchecks", "threshold"];
        if hashes(view) {
            let words = "a balancer that hashes does not refuse requests by the number of usable targets";
            teller.note(said.object, &path, Fate::Ignored, words).warning();
        } else if has_standby {
            let words = "the failover targets serve in place of a 503";
            teller.note(said.object, &path, Fate::Ignored, words).warning();
        } else {
            let words = "it counts targets, and not their weights";
            let note = teller.note(said.object, &path, Fate::Approximated, words);
            note.native(format!("upstreams.{name}.failover.minimum_healthy"));
        }
    }
    match is_active(view) {
        true => active(view, name, teller),
        false => {
            add_check(name, object, teller);
            unused(
                view,
                ACTIVE,
                "Kong checks nothing here, for both intervals are 0: the recipe's check counts",
                teller,
            );
        }
    }
    match is_passive(view) {
        true => passive(view, name, teller),
        false => {
            add_ejection(name, object, teller);
            unused(
                view,
                PASSIVE,
                "Kong judges nothing here, for all counters are 0: the recipe's ejection counts",
                teller,
            );
        }
    }
    if is_active(view) && is_passive(view) {
        let words = "a good check does not end an ejection here; Kong's does";
        teller
            .note(object, &PASSIVE, Fate::Approximated, words)
            .native(format!("upstreams.{name}.outlier_detection"));
    }
}

/// Notes a block that has no effect: one note for each value in it.
fn unused(view: EntityView<'_>, block: [&str; 2], words: &'static str, teller: &mut Teller) {
    if let Some(said) = view.get(&block) {
        let is_dump = is_of_defaults(view, said.node, &mut block.to_vec());
        teller.note(said.object, &block, Fate::Approximated, words).quiet_if(is_dump);
    }
}

/// True if every value of a block is Kong's default.
fn is_of_defaults(view: EntityView<'_>, node: &Node, keys: &mut Vec<&str>) -> bool {
    let Value::Mapping(entries) = &node.value else { return view.said(keys).is_none() };
    entries.iter().all(|entry| {
        let mut below: Vec<&str> = keys.clone();
        below.push(&entry.key);
        is_of_defaults(view, &entry.value, &mut below)
    })
}

/// Notes the fields of active checks.
fn active(view: EntityView<'_>, name: &str, teller: &mut Teller) {
    let native = |field: &str| format!("upstreams.{name}.health_check.{field}");
    let mut say = |rest: &[&str], fate: Fate, words: &'static str, field: &str| -> Option<bool> {
        let path = keys(ACTIVE, rest);
        let said = view.get(&path)?;
        teller.note(said.object, &path, fate, words).quiet_if(!said.is_own).native(native(field));
        Some(said.is_own)
    };
    if matches!(view.text(&keys(ACTIVE, &["type"])), Some("https" | "grpc" | "grpcs")) {
        say(
            &["type"],
            Fate::Approximated,
            "the check speaks what the services of the upstream speak",
            "http",
        );
    }
    let interval = |state: &str| view.number(&keys(ACTIVE, &[state, "interval"]));
    if interval("healthy") == 0.0 {
        say(
            &["healthy", "interval"],
            Fate::Approximated,
            "Kong would never check healthy targets; here the other interval counts",
            "interval",
        );
    }
    if interval("unhealthy") == 0.0 {
        say(
            &["unhealthy", "interval"],
            Fate::Approximated,
            "Kong would never check unhealthy targets again; here the other interval counts",
            "unhealthy_interval",
        );
    }
    if view.number(&keys(ACTIVE, &["healthy", "successes"])) == 0.0 {
        say(
            &["healthy", "successes"],
            Fate::Approximated,
            "Kong would never take a target back; here 3 successes do",
            "healthy_threshold",
        );
    }
    for counter in FAILURES {
        let words = "one count of failures: the smallest above 0 of `http_failures`, `tcp_failures` and `timeouts`, else 2";
        say(&["unhealthy", counter], Fate::Approximated, words, "unhealthy_threshold");
    }
    let words = "any status that is not expected counts as a failure; Kong ignores what is in neither list";
    say(&["unhealthy", "http_statuses"], Fate::Approximated, words, "http.expected");
    say(&["concurrency"], Fate::Ignored, "each Envoy checks all targets at their interval", "");
    active_tls_and_statuses(view, teller);
}

/// Notes the TLS of active checks, and statuses that are none.
fn active_tls_and_statuses(view: EntityView<'_>, teller: &mut Teller) {
    for field in ["https_sni", "https_verify_certificate"] {
        let path = keys(ACTIVE, &[field]);
        if let Some(said) = view.get(&path) {
            let words = "the check uses the TLS of the services";
            let note = teller.note(said.object, &path, Fate::Ignored, words).quiet_if(!said.is_own);
            if said.is_own {
                note.warning();
            }
        }
    }
    let statuses = view.get(&keys(ACTIVE, &["healthy", "http_statuses"]));
    if let Some(said) = statuses
        && let Value::Sequence(items) = &said.node.value
    {
        for item in
            items.iter().filter(|item| number(item).is_none_or(|status| !(100.0..600.0).contains(&status)))
        {
            teller.note_at(said.object, item, Fate::Ignored, "Envoy knows no such status").warning();
        }
    }
}

/// Notes the fields of passive checks.
fn passive(view: EntityView<'_>, name: &str, teller: &mut Teller) {
    let native = |field: &str| format!("upstreams.{name}.outlier_detection.{field}");
    if let Some(said) = view.get(&keys(PASSIVE, &["type"])) {
        let words = "answers of all kinds count";
        teller.note(said.object, &keys(PASSIVE, &["type"]), Fate::Ignored, words).quiet_if(!said.is_own);
    }
    if let Some(said) = view.get(&keys(PASSIVE, &["healthy"])) {
        let words = "a success clears the counts; an ejection ends after 10 to 30 seconds, and Kong's never by itself";
        let mut block: Vec<&str> = keys(PASSIVE, &["healthy"]);
        let is_dump = is_of_defaults(view, said.node, &mut block);
        teller.note(said.object, &keys(PASSIVE, &["healthy"]), Fate::Ignored, words).quiet_if(is_dump);
    }
    let statuses = keys(PASSIVE, &["unhealthy", "http_statuses"]);
    let is_said = view.said(&statuses).is_some();
    let path = keys(PASSIVE, &["unhealthy", "http_failures"]);
    if let Some(said) = view.get(&path) {
        let words = "Envoy counts each 5xx, and no 429";
        let note = teller.note(said.object, &path, Fate::Approximated, words).quiet_if(!said.is_own);
        note.native(native("consecutive_5xx"));
    }
    if let Some(said) = view.get(&statuses) {
        let words = "Envoy counts each 5xx and nothing else, whatever the list says";
        let note = teller.note(said.object, &statuses, Fate::Approximated, words).quiet_if(!is_said);
        note.code(code::APPROXIMATED);
        if is_said {
            note.level = Some(Level::Warning);
        }
    }
    for counter in ["tcp_failures", "timeouts"] {
        let path = keys(PASSIVE, &["unhealthy", counter]);
        if let Some(said) = view.get(&path) {
            let words = "one count for both: the smaller above 0; a 502, 503 and 504 counts too";
            let note = teller.note(said.object, &path, Fate::Approximated, words).quiet_if(!said.is_own);
            note.native(native("consecutive_gateway_failure"));
        }
    }
}
