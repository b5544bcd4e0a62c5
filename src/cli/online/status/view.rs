//! Text of `status`: complete, or as much as a terminal has room for.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cli::online::status::rows::{self, abbreviated, is_away, is_refused, is_withheld, list};
use crate::cli::online::value::{text, time};
use crate::cli::output::table;

/// Minimum number of rows to which a table is cut for want of room.
const MINIMUM_ROWS: usize = 3;

/// Rows under a header.
struct StatusTable {
    head: &'static str,
    rows: Vec<Vec<String>>,
    /// Noun for the rows, if rows may be left out for want of room.
    noun: Option<&'static str>,
}

impl StatusTable {
    fn new(head: &'static str, rows: impl Iterator<Item = Vec<String>>) -> Self {
        Self { head, rows: rows.collect(), noun: None }
    }

    /// Allows rows to be left out. The first ones must say the most.
    fn abridged(self, noun: &'static str) -> Self {
        Self { noun: Some(noun), ..self }
    }

    /// Returns the table's lines after an empty one, with at most `most` rows; none without rows.
    fn lines(&self, most: usize) -> Vec<String> {
        if self.rows.is_empty() {
            return Vec::new();
        }
        let head: Vec<&str> = self.head.split(',').collect();
        let printed = table(&head, self.rows.iter().take(most).cloned());
        let mut lines = vec![String::new()];
        lines.extend(printed.lines().map(str::to_owned));
        if let Some(left) = self.rows.len().checked_sub(most).filter(|left| *left > 0) {
            lines.push(format!("… and {left} more {}", self.noun.unwrap_or("rows")));
        }
        lines
    }
}

/// Formats the complete status.
pub(super) fn whole(status: &Value, now: Timestamp) -> String {
    let fields = ["version", "revision", "routes", "services", "upstreams", "violations", "nodes"];
    let mut lines: Vec<String> =
        fields.iter().map(|field| format!("{field}: {}", text(&status[*field]))).collect();
    lines.extend(alarms(status));
    lines.extend(tables(status, now).iter().flat_map(|table| table.lines(usize::MAX)));
    lines.extend(silent(status));
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Formats as much of the status as fits into so many columns and rows. Each line is whole or cut, never
/// wrapped.
pub(super) fn frame(status: &Value, now: Timestamp, (columns, rows): (usize, usize)) -> Vec<String> {
    let mut lines = vec![head(status, now)];
    lines.extend(alarms(status));
    let (tables, silent) = (tables(status, now), silent(status));
    let mut most: Vec<usize> = tables.iter().map(|table| table.rows.len()).collect();
    let height = |most: &[usize]| -> usize {
        lines.len()
            + silent.len()
            + tables.iter().zip(most).map(|(table, most)| table.lines(*most).len()).sum::<usize>()
    };
    // The last tables are the least important.
    for at in (0..tables.len()).rev().filter(|at| tables[*at].noun.is_some()) {
        // One line says how many rows are left out.
        let excess = height(&most).saturating_sub(rows);
        if excess > 0 && most[at] > MINIMUM_ROWS {
            most[at] = (most[at] - 1).saturating_sub(excess).max(MINIMUM_ROWS);
        }
    }
    lines.extend(tables.iter().zip(&most).flat_map(|(table, most)| table.lines(*most)));
    lines.extend(silent);
    lines.truncate(rows);
    lines.into_iter().map(|line| cut(&line, columns)).collect()
}

/// Cuts a line to the columns. Control characters are replaced: texts of others may contain some that move
/// the cursor.
fn cut(line: &str, columns: usize) -> String {
    let shown = line.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    if line.chars().count() <= columns {
        shown.collect()
    } else {
        shown.take(columns.saturating_sub(1)).chain(['…']).collect()
    }
}

fn head(status: &Value, now: Timestamp) -> String {
    let away = list(status, "serving").iter().filter(|upstream| is_away(upstream)).count();
    let nodes = list(status, "fleet").iter().filter(|node| node["state"] == "connected").count();
    format!(
        "understudy {}  revision {}  upstreams {}, on standby {away}  Envoys {nodes}  {} UTC",
        text(&status["version"]),
        text(&status["revision"]),
        text(&status["upstreams"]),
        now.strftime("%H:%M:%S"),
    )
}

/// Returns the lines that need attention first.
fn alarms(status: &Value) -> Vec<String> {
    let mut lines = rollout(&status["rollout"]);
    if let Some(error) = status["away"].as_str() {
        lines.push(format!("the control plane does not answer, so this is its last status: {error}"));
    }
    let lost = &status["lost_changes"];
    if !lost.is_null() {
        lines.push(format!(
            "changes were lost: revision {} was acknowledged, and the start found {}",
            lost["acknowledged"], lost["found"]
        ));
    }
    if status["violations"] != json!(0) {
        lines.push(String::new());
        let since = time(&status["files_stale_since"]);
        lines.push(format!(
            "the files were refused, and the last good config serves since {since}: see `understudy check`"
        ));
    }
    for node in list(status, "fleet").iter().filter(|node| is_refused(node)) {
        let types = node["types"].as_object().into_iter().flatten();
        for (kind, report) in types.filter(|(_, report)| report["state"] == "nacked") {
            lines.push(String::new());
            lines.push(format!("{} refuses {kind}: {}", text(&node["id"]), text(&report["error"])));
        }
    }
    lines.extend(withheld(list(status, "fleet")));
    lines
}

/// Returns a line for each reason for which Envoys are not answered.
fn withheld(fleet: &[Value]) -> Vec<String> {
    let mut nodes: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for node in fleet.iter().filter(|node| is_withheld(node)) {
        let key = (text(&node["withheld"]), text(&node["foreign_store"]));
        nodes.entry(key).or_default().push(text(&node["id"]));
    }
    let line = |((reason, store), mut nodes): ((String, String), Vec<String>)| {
        nodes.sort_unstable();
        nodes.dedup();
        let nodes = abbreviated(&nodes);
        let reason = match reason.as_str() {
            "nothing_accepted" => {
                "nothing was accepted yet that gives them a route: was the data directory lost?".to_owned()
            }
            _ => format!(
                "they run the config of another data directory, {store}; `POST /reload?allow=foreign` answers them"
            ),
        };
        [String::new(), format!("withheld from {nodes}, which keep what they have: {reason}")]
    };
    nodes.into_iter().flat_map(line).collect()
}

fn tables(status: &Value, now: Timestamp) -> Vec<StatusTable> {
    let (serving, orders, fleet) = (list(status, "serving"), &status["orders"], list(status, "fleet"));
    let mut states: Vec<&Value> = list(orders, "states").iter().collect();
    // The soonest to end first, orders without an end last.
    states.sort_by_key(|order| (order["expires_at"].is_null(), text(&order["expires_at"])));
    let mut nodes: Vec<&Value> = fleet.iter().collect();
    nodes.sort_by_key(|node| (!is_refused(node), node["state"] == "connected", text(&node["id"])));
    let until = |order: &Value, field: &str| rows::until(&order[field], now);
    vec![
        StatusTable::new("upstream,serves,since,requests/s,tiers,held", serving.iter().map(rows::upstream))
            .abridged("upstreams"),
        StatusTable::new("upstream,envoy,says otherwise", serving.iter().flat_map(rows::disagreements))
            .abridged("disagreements"),
        StatusTable::new(
            "upstream,part,state,until,author,reason",
            states.into_iter().map(|order| rows::state(order, until(order, "expires_at"))),
        ),
        StatusTable::new(
            "upstream,pinned to,until,author,reason",
            list(orders, "pins").iter().map(|order| rows::pin(order, until(order, "expires_at"))),
        ),
        StatusTable::new(
            "drill,upstream,down,until,requests,errors",
            list(orders, "drills").iter().map(|order| rows::drill(order, until(order, "until"))),
        ),
        StatusTable::new("fleet,envoys,on standby,refusing,pending", rows::fleets(fleet)).abridged("fleets"),
        StatusTable::new("node,fleet,state,types", nodes.into_iter().map(rows::node)).abridged("Envoys"),
    ]
}

fn silent(status: &Value) -> Vec<String> {
    let silent = list(status, "not_reporting");
    if silent.is_empty() {
        return Vec::new();
    }
    let names: Vec<String> = silent.iter().map(text).collect();
    vec![
        String::new(),
        format!("not reporting load, so the targets that serve there are unknown: {}", abbreviated(&names)),
        "(their bootstrap lacks `cluster_manager.load_stats_config`; `understudy bootstrap` has it)"
            .to_owned(),
    ]
}

/// Returns a line for each canary under test, and one for changes that were taken back.
fn rollout(rollout: &Value) -> Vec<String> {
    let canaries = rollout["canaries"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or("none yet").to_owned();
    let line = |canary: &Value| {
        let [fleet, node, phase] = ["fleet", "node", "phase"].map(|field| text(&canary[field]));
        format!("rolling out {}: fleet {fleet}, canary {node}, {phase}", rollout["rolling_out"])
    };
    let mut lines: Vec<String> = canaries.map(line).collect();
    let rejected = &rollout["rejected"];
    if !rejected.is_null() {
        let [revisions, by] = ["revisions", "refused_by"].map(|field| rejected[field].to_string());
        let error = text(&rejected["error"]);
        lines.push(format!("taken back: revisions {revisions}, refused by {by}: {error}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-21T12:00:00Z".parse().expect("a time")
    }

    fn serving(name: &str, priority: u64) -> Value {
        let target = |priority: u64, disagree: &[&str]| json!({ "target": format!("10.0.0.{priority}:80"), "health": "healthy", "disagree": disagree });
        json!({
            "name": name, "serving_priority": priority, "stale": name == "quiet",
            "since": "2026-11-21T11:00:00.5Z", "requests_per_second": 12.34, "hold": null,
            "tiers": [
                { "priority": 0, "nodes": [], "targets": [target(1, &[])] },
                { "priority": 1, "nodes": [], "targets": [target(9, &["edge-2"][..usize::from(priority > 0)])] },
            ],
        })
    }

    fn node(id: &str, state: &str) -> Value {
        json!({ "id": id, "fleet": "edge", "state": "connected", "on_standby": ["shop"],
            "types": { "clusters": { "state": state, "error": "no such thing" } } })
    }

    /// Returns the status of a control plane with so many upstreams and Envoys. The last Envoy refuses
    /// clusters.
    fn status(upstreams: usize, nodes: usize) -> Value {
        let mut fleet: Vec<Value> =
            (1..nodes).map(|number| node(&format!("edge-{number}"), "acked")).collect();
        fleet.push(node("late", "nacked"));
        let others = (1..upstreams).map(|number| serving(&format!("u-{number:04}"), 0));
        let drained = json!({ "upstream": "shop", "target": "10.0.0.1:80", "state": "drained",
            "expires_at": "2026-11-21T12:09:30Z", "author": "ann", "reason": "disks" });
        json!({
            "version": "1.0.0", "revision": 7, "routes": 1, "services": 1, "upstreams": upstreams,
            "violations": 2, "files_stale_since": "2026-11-21T11:59:00Z", "nodes": nodes, "rollout": { "canaries": [], "rejected": null }, "fleet": fleet,
            "serving": std::iter::once(serving("shop", 1)).chain(others).collect::<Vec<_>>(),
            "not_reporting": [], "orders": { "states": [drained], "pins": [], "drills": [] },
        })
    }

    fn check(lines: &[String], expected: &expect_test::Expect) {
        expected.assert_eq(&lines.iter().map(|line| format!("{line}\n")).collect::<String>());
    }

    #[test]
    fn what_matters_comes_first() {
        let lines = frame(&status(1, 2), now(), (100, 40));
        let expected = expect_test::expect![[r#"
            understudy 1.0.0  revision 7  upstreams 1, on standby 1  Envoys 2  12:00:00 UTC

            the files were refused, and the last good config serves since 2026-11-21 11:59:00: see `understudy …

            late refuses clusters: no such thing

            UPSTREAM  SERVES     SINCE                REQUESTS/S  TIERS    HELD
            shop      STANDBY 1  2026-11-21 11:00:00  12.3        1/1 1/1  -

            UPSTREAM  ENVOY   SAYS OTHERWISE
            shop      edge-2  10.0.0.9:80 is unhealthy

            UPSTREAM  PART         STATE    UNTIL                        AUTHOR  REASON
            shop      10.0.0.1:80  drained  2026-11-21 12:09:30 (9 min)  ann     disks

            FLEET  ENVOYS  ON STANDBY  REFUSING  PENDING
            edge   2       2           1         0

            NODE    FLEET  STATE      TYPES
            late    edge   connected  clusters nacked
            edge-1  edge   connected  clusters acked
        "#]];
        check(&lines, &expected);
    }

    #[test]
    fn what_is_not_known_is_not_shown_as_healthy() {
        let row = |stale: bool, targets: &[(u64, &str, bool)]| {
            let tier = |priority: u64| {
                let own = targets.iter().filter(|(of, ..)| *of == priority);
                let target = |(_, health, stale): &(u64, &str, bool)| {
                    let health = Some(health).filter(|health| !health.is_empty());
                    json!({ "target": "10.0.0.1:80", "health": health, "stale": stale })
                };
                json!({ "priority": priority, "targets": own.map(target).collect::<Vec<_>>() })
            };
            let row = rows::upstream(&json!({ "name": "shop", "serving_priority": 1, "stale": stale,
                "tiers": [tier(0), tier(1)], "hold": null }));
            (row[1].clone(), row[4].clone())
        };
        let (good, bad) = ("healthy", "unhealthy");
        for (stale, targets, expected) in [
            (false, [(0, bad, false), (0, good, false), (1, good, false)], ("STANDBY 1", "1/2 1/1")),
            (false, [(0, bad, false), (0, "", false), (1, "", false)], ("STANDBY 1", "0/2 ?/1")),
            (true, [(0, good, true), (0, good, true), (1, good, false)], ("STANDBY 1 (old)", "?/2 1/1")),
            (false, [(0, bad, false), (0, bad, false), (1, bad, false)], ("NONE ANSWERS", "0/2 0/1")),
            (true, [(0, bad, false), (0, bad, false), (1, bad, false)], ("STANDBY 1 (old)", "0/2 0/1")),
        ] {
            let (serves, tiers) = row(stale, &targets);
            assert_eq!((serves.as_str(), tiers.as_str()), expected);
        }
    }

    #[test]
    fn many_rows_are_cut_where_they_say_the_least() {
        let lines = frame(&status(1000, 200), now(), (80, 24));
        assert_eq!(lines.len(), 24);
        let expected = expect_test::expect![[r#"
            understudy 1.0.0  revision 7  upstreams 1000, on standby 1  Envoys 200  12:00:0…

            the files were refused, and the last good config serves since 2026-11-21 11:59:…

            late refuses clusters: no such thing

            UPSTREAM  SERVES     SINCE                REQUESTS/S  TIERS    HELD
            shop      STANDBY 1  2026-11-21 11:00:00  12.3        1/1 1/1  -
            u-0001    primaries  2026-11-21 11:00:00  12.3        1/1 1/1  -
            u-0002    primaries  2026-11-21 11:00:00  12.3        1/1 1/1  -
            … and 997 more upstreams

            UPSTREAM  ENVOY   SAYS OTHERWISE
            shop      edge-2  10.0.0.9:80 is unhealthy

            UPSTREAM  PART         STATE    UNTIL                        AUTHOR  REASON
            shop      10.0.0.1:80  drained  2026-11-21 12:09:30 (9 min)  ann     disks

            FLEET  ENVOYS  ON STANDBY  REFUSING  PENDING
            edge   200     200         1         0

            NODE     FLEET  STATE      TYPES
            late     edge   connected  clusters nacked
            edge-1   edge   connected  clusters acked
        "#]];
        check(&lines, &expected);
    }

    #[test]
    fn who_is_served_by_another_tier_than_most_says_so() {
        let tier = |priority: u64, serving: bool, node: &str| json!({ "priority": priority, "serving": serving, "nodes": [node], "targets": [] });
        let mut shop = serving("shop", 2);
        // Tiers by distance, as each Envoy numbers them: priority 2 of most Envoys is the tier declared
        // first.
        shop["tiers"] = json!([tier(0, true, "edge-1"), tier(1, false, "edge-2")]);
        assert_eq!(rows::disagreements(&shop), [["shop", "edge-2", "priority 1 serves"]]);
    }

    #[test]
    fn no_line_is_longer_than_the_terminal_nor_are_there_more() {
        for size in [(20, 5), (1, 1), (40, 10), (80, 24), (200, 60), (10, 0)] {
            let lines = frame(&status(1000, 200), now(), size);
            assert!(
                lines.len() <= size.1 && lines.iter().all(|line| line.chars().count() <= size.0),
                "{size:?}"
            );
        }
    }

    #[test]
    fn what_an_envoy_says_draws_nothing_of_its_own() {
        assert_eq!(cut("refused:\n\u{1b}[2Jgone", 80), "refused:  [2Jgone");
    }

    #[test]
    fn all_of_it_leaves_nothing_out() {
        let whole = whole(&status(1000, 200), now());
        assert!(whole.contains("u-0999") && whole.contains("edge-199") && !whole.contains('…'));
    }
}
