//! `understudy status`

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::client::{Client, Server};
use crate::cli::orders::{item_list, text, time};
use crate::cli::output::{Format, Output, table};
use crate::cli::print;

/// How often `--watch` looks again.
const GLANCE: Duration = Duration::from_secs(1);

/// What clears a terminal and goes to its first line.
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";

/// Of which control plane.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Look again every second, until interrupted
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    output: Output<Format>,
    #[command(flatten)]
    server: Server,
}

/// Prints what is served, who serves it, and what each Envoy took of it. The exit code is 1 while files are refused or an
/// Envoy refuses something.
pub(crate) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let client = options.server.client()?;
    loop {
        let status = gathered(&client).await?;
        if options.watch && print::live() && options.output.format() == Format::Human {
            print::raw(&format!("{CLEAR}{}", human(&status)))?;
        } else {
            options.output.say(&status, human)?;
        }
        if !options.watch {
            let is_bad = status["violations"] != json!(0) || list(&status, "fleet").iter().any(is_refused);
            return Ok(if is_bad { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
        tokio::time::sleep(GLANCE).await;
    }
}

async fn gathered(client: &Client) -> anyhow::Result<Value> {
    let mut status = client.get("/status").await?;
    status["fleet"] = client.get("/fleet").await?["nodes"].clone();
    let topology = client.get("/topology").await?;
    let mut serving = topology["upstreams"].as_array().cloned().unwrap_or_default();
    // Upstreams on standby first.
    serving.sort_by_key(|upstream| {
        let is_away = upstream["serving_priority"].as_u64().is_some_and(|priority| priority > 0);
        (!is_away, upstream["name"].as_str().unwrap_or_default().to_owned())
    });
    status["serving"] = Value::from(serving);
    status["not_reporting"] = topology["not_reporting"].clone();
    status["orders"] = client.get("/orders").await?;
    Ok(status)
}

fn is_refused(node: &Value) -> bool {
    node["types"].as_object().is_some_and(|types| types.values().any(|of| of["state"] == "nacked"))
}

fn list<'v>(status: &'v Value, key: &str) -> &'v [Value] {
    item_list(&status[key])
}

fn human(status: &Value) -> String {
    let fields = ["version", "revision", "routes", "services", "upstreams", "violations", "nodes"];
    let mut told: String =
        fields.iter().map(|field| format!("{field}: {}\n", text(&status[*field]))).collect();
    told += &rollout(&status["rollout"]);
    if status["violations"] != json!(0) {
        told += "\nthe files were refused, and the last good config serves: see `understudy check`\n";
    }
    for node in list(status, "fleet").iter().filter(|node| is_refused(node)) {
        let types = node["types"].as_object().into_iter().flatten();
        for (of, noted) in types.filter(|(_, noted)| noted["state"] == "nacked") {
            told += &format!("\n{} refuses {of}: {}\n", text(&node["id"]), text(&noted["error"]));
        }
    }
    told +=
        &part("upstream,serves,since,requests/s,tiers,held", list(status, "serving").iter().map(upstream));
    let orders = &status["orders"];
    told += &part("upstream,part,state,until,author,reason", list(orders, "states").iter().map(state));
    told += &part("upstream,pinned to,until,author,reason", list(orders, "pins").iter().map(pin));
    told += &part("drill,upstream,down,until,requests,errors", list(orders, "drills").iter().map(drill));
    told += &part("node,fleet,state,types", list(status, "fleet").iter().map(node));
    let silent = list(status, "not_reporting");
    if !silent.is_empty() {
        let nodes: Vec<String> = silent.iter().map(text).collect();
        told += &format!(
            "\nnot reporting their load, so that nobody knows who serves there: {}\n\
             (their bootstrap lacks `cluster_manager.load_stats_config`; `understudy bootstrap` has it)\n",
            nodes.join(", ")
        );
    }
    told
}

/// A table after an empty line; nothing without rows.
fn part(head: &str, rows: impl Iterator<Item = Vec<String>>) -> String {
    let rows: Vec<Vec<String>> = rows.collect();
    if rows.is_empty() {
        return String::new();
    }
    let head: Vec<&str> = head.split(',').collect();
    format!("\n{}", table(&head, rows))
}

fn upstream(upstream: &Value) -> Vec<String> {
    let serving = match (upstream["serving_priority"].as_u64(), upstream["stale"] == true) {
        (None, _) => "unknown".to_owned(),
        (Some(priority), is_stale) => {
            let word = if priority == 0 { "primaries".to_owned() } else { format!("STANDBY {priority}") };
            if is_stale { format!("{word} (old)") } else { word }
        }
    };
    let tiers = item_list(&upstream["tiers"]).iter().map(|tier| {
        let targets = item_list(&tier["targets"]);
        let healthy = targets.iter().filter(|target| target["health"] == "healthy").count();
        format!("{healthy}/{}", targets.len())
    });
    let hold = &upstream["hold"];
    let held = match (hold.is_object(), hold["seconds_left"].as_f64()) {
        (false, _) => "-".to_owned(),
        (true, Some(seconds)) => format!("{seconds:.0} s left"),
        (true, None) if hold["flapping"] == true => "flapping: until released".to_owned(),
        (true, None) => "until released".to_owned(),
    };
    let rate = upstream["requests_per_second"].as_f64().unwrap_or_default();
    let tiers = tiers.collect::<Vec<_>>().join(" ");
    vec![text(&upstream["name"]), serving, time(&upstream["since"]), format!("{rate:.1}"), tiers, held]
}

fn part_of(order: &Value) -> String {
    match (order["target"].as_str(), order["priority"].as_u64(), order["zone"].as_str()) {
        (Some(target), ..) => target.to_owned(),
        (_, Some(priority), _) => format!("priority={priority}"),
        (_, _, Some(zone)) => format!("zone={zone}"),
        _ => text(&order["part"]),
    }
}

fn state(order: &Value) -> Vec<String> {
    let cells = [text(&order["upstream"]), part_of(order), text(&order["state"]), time(&order["expires_at"])];
    cells.into_iter().chain([text(&order["author"]), text(&order["reason"])]).collect()
}

fn pin(pin: &Value) -> Vec<String> {
    let cells = [text(&pin["upstream"]), text(&pin["priority"]), time(&pin["expires_at"])];
    cells.into_iter().chain([text(&pin["author"]), text(&pin["reason"])]).collect()
}

fn drill(drill: &Value) -> Vec<String> {
    let cells = [text(&drill["id"]), text(&drill["upstream"]), text(&drill["down"]), time(&drill["until"])];
    cells.into_iter().chain([text(&drill["requests"]), text(&drill["errors"])]).collect()
}

fn node(node: &Value) -> Vec<String> {
    let types = node["types"].as_object().into_iter().flatten();
    let states: Vec<String> = types.map(|(of, noted)| format!("{of} {}", text(&noted["state"]))).collect();
    let mut row: Vec<String> = ["id", "fleet", "state"].iter().map(|field| text(&node[*field])).collect();
    row.push(states.join(", "));
    row
}

/// A line for each canary that is being asked.
fn rollout(rollout: &Value) -> String {
    let canaries = rollout["canaries"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or("nobody yet").to_owned();
    let line = |canary: &Value| {
        let [fleet, node, phase] = ["fleet", "node", "phase"].map(|field| text(&canary[field]));
        format!("rolling out {}: fleet {fleet}, canary {node}, {phase}\n", rollout["rolling_out"])
    };
    let lines: String = canaries.map(line).collect();
    match &rollout["rejected"] {
        Value::Null => lines,
        rejected => {
            let [revisions, by] = ["revisions", "refused_by"].map(|field| rejected[field].to_string());
            lines
                + &format!(
                    "taken back: revisions {revisions}, refused by {by}: {}\n",
                    text(&rejected["error"])
                )
        }
    }
}
