//! Rows of the tables of `status`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use crate::cli::online::value::{items, text, time};

/// Maximum number of names in one line.
const NAMED: usize = 3;

/// Joins the first few names, and says how many more there are.
pub(super) fn abbreviated(names: &[String]) -> String {
    match names.len().checked_sub(NAMED) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..NAMED].join(", ")),
    }
}

/// Returns true if the node refused a resource type.
pub(super) fn is_refused(node: &Value) -> bool {
    node["types"].as_object().is_some_and(|types| types.values().any(|report| report["state"] == "nacked"))
}

/// Returns true if the node is connected and not answered.
pub(super) fn is_withheld(node: &Value) -> bool {
    node["state"] == "connected" && node["withheld"].is_string()
}

/// Returns true if a standby serves.
pub(super) fn is_away(upstream: &Value) -> bool {
    upstream["serving_priority"].as_u64().is_some_and(|priority| priority > 0)
}

/// Returns the elements of a list in an object; none if it is missing.
pub(super) fn list<'v>(status: &'v Value, key: &str) -> &'v [Value] {
    items(&status[key])
}

/// Returns the row of an upstream: its serving tier, the health of its tiers, and its hold.
pub(super) fn upstream(upstream: &Value) -> Vec<String> {
    let rate = upstream["requests_per_second"].as_f64().unwrap_or_default();
    let tiers = list(upstream, "tiers").iter().map(healthy_share).collect::<Vec<_>>().join(" ");
    vec![
        text(&upstream["name"]),
        serving(upstream),
        time(&upstream["since"]),
        format!("{rate:.1}"),
        tiers,
        hold(&upstream["hold"]),
    ]
}

/// Formats the tier that serves, and whether that is known, old, or of no use.
fn serving(upstream: &Value) -> String {
    let is_dead = |target: &Value| target["health"] == "unhealthy" && target["stale"] != true;
    let mut targets = list(upstream, "tiers").iter().flat_map(|tier| list(tier, "targets")).peekable();
    let are_all_dead = targets.peek().is_some() && targets.all(is_dead);
    match (upstream["serving_priority"].as_u64(), upstream["stale"] == true) {
        (Some(_), false) if are_all_dead => "NONE ANSWERS".to_owned(),
        (None, _) => "unknown".to_owned(),
        (Some(priority), is_stale) => {
            let tier = if priority == 0 { "primaries".to_owned() } else { format!("STANDBY {priority}") };
            if is_stale { format!("{tier} (old)") } else { tier }
        }
    }
}

/// Formats the healthy targets of a tier, such as `1/2`; `?/2` if the health of none is known.
fn healthy_share(tier: &Value) -> String {
    let targets = list(tier, "targets");
    let is_healthy = |target: &&Value| target["health"] == "healthy" && target["stale"] != true;
    let is_known = |target: &Value| target["health"].is_string() && target["stale"] != true;
    let healthy = targets.iter().filter(is_healthy).count();
    if healthy == 0 && !targets.iter().any(is_known) {
        format!("?/{}", targets.len())
    } else {
        format!("{healthy}/{}", targets.len())
    }
}

/// Formats the end of a hold; `-` without a hold.
fn hold(hold: &Value) -> String {
    match (hold.is_object(), hold["seconds_left"].as_f64()) {
        (false, _) => "-".to_owned(),
        (true, Some(seconds)) if hold["waits_for_primaries"] == true => {
            format!("{seconds:.0} s after primaries recover")
        }
        (true, Some(seconds)) if hold["phase"]["trying"].is_object() => {
            format!("primaries are tried, {seconds:.0} s")
        }
        (true, Some(seconds)) => format!("{seconds:.0} s left"),
        (true, None) if hold["flapping"] == true => "flapping: until released".to_owned(),
        (true, None) => "until released".to_owned(),
    }
}

/// Returns rows for the Envoys that use another tier than most, and for those that see another health of a
/// target.
pub(super) fn disagreements(upstream: &Value) -> Vec<Vec<String>> {
    let row = |nodes: &Value, view: String| {
        let nodes: Vec<String> = items(nodes).iter().map(text).collect();
        (!nodes.is_empty()).then(|| vec![text(&upstream["name"]), abbreviated(&nodes), view])
    };
    let of_tier = |tier: &Value| {
        let is_other = tier["serving"] != true;
        is_other.then(|| row(&tier["nodes"], format!("priority {} serves", tier["priority"]))).flatten()
    };
    let of_target = |target: &Value| {
        let other = if target["health"] == "healthy" { "unhealthy" } else { "healthy" };
        row(&target["disagree"], format!("{} is {other}", text(&target["target"])))
    };
    let tiers = list(upstream, "tiers");
    let targets = tiers.iter().flat_map(|tier| list(tier, "targets"));
    tiers.iter().filter_map(of_tier).chain(targets.filter_map(of_target)).collect()
}

/// Formats the targets that an order is about.
fn target_text(order: &Value) -> String {
    match (order["target"].as_str(), order["priority"].as_u64(), order["zone"].as_str()) {
        (Some(target), ..) => target.to_owned(),
        (_, Some(priority), _) => format!("priority={priority}"),
        (_, _, Some(zone)) => format!("zone={zone}"),
        _ => text(&order["part"]),
    }
}

/// Formats the time at which something ends, and how soon that is.
pub(super) fn until(end: &Value, now: Timestamp) -> String {
    let Some(at) = end.as_str().and_then(|text| text.parse::<Timestamp>().ok()) else { return text(end) };
    let seconds = at.duration_since(now).as_secs().max(0);
    let left = match (seconds / 3600, seconds / 60) {
        (0, 0) => format!("{seconds} s"),
        (0, minutes) => format!("{minutes} min"),
        (hours, _) => format!("{hours} h"),
    };
    format!("{} ({left})", time(end))
}

/// Returns the row of a forced state.
pub(super) fn state(order: &Value, until: String) -> Vec<String> {
    let cells = [text(&order["upstream"]), target_text(order), text(&order["state"]), until];
    cells.into_iter().chain([text(&order["author"]), text(&order["reason"])]).collect()
}

/// Returns the row of a pin.
pub(super) fn pin(pin: &Value, until: String) -> Vec<String> {
    let cells = [text(&pin["upstream"]), text(&pin["priority"]), until];
    cells.into_iter().chain([text(&pin["author"]), text(&pin["reason"])]).collect()
}

/// Returns the row of a drill.
pub(super) fn drill(drill: &Value, until: String) -> Vec<String> {
    let cells = [text(&drill["id"]), text(&drill["upstream"]), text(&drill["down"]), until];
    cells.into_iter().chain([text(&drill["requests"]), text(&drill["errors"])]).collect()
}

/// Returns a row for each fleet with a connected Envoy.
pub(super) fn fleets(nodes: &[Value]) -> impl Iterator<Item = Vec<String>> {
    let has = |node: &Value, state: &str| {
        node["types"].as_object().is_some_and(|types| types.values().any(|report| report["state"] == state))
    };
    let mut fleets: BTreeMap<String, [usize; 4]> = BTreeMap::new();
    for node in nodes.iter().filter(|node| node["state"] == "connected") {
        let counts = fleets.entry(text(&node["fleet"])).or_default();
        let is_away = !list(node, "on_standby").is_empty();
        for (count, is_one) in
            counts.iter_mut().zip([true, is_away, has(node, "nacked"), has(node, "pending")])
        {
            *count += usize::from(is_one);
        }
    }
    let row = |(name, counts): (String, [usize; 4])| {
        std::iter::once(name).chain(counts.map(|count| count.to_string())).collect()
    };
    fleets.into_iter().map(row)
}

/// Returns the row of an Envoy.
pub(super) fn node(node: &Value) -> Vec<String> {
    let types = node["types"].as_object().into_iter().flatten();
    let states: Vec<String> =
        types.map(|(kind, report)| format!("{kind} {}", text(&report["state"]))).collect();
    let mut row: Vec<String> = ["id", "fleet", "state"].iter().map(|field| text(&node[*field])).collect();
    if is_withheld(node) {
        row[2].push_str(", withheld");
    }
    row.push(states.join(", "));
    row
}
