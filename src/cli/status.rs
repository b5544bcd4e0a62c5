//! `understudy status`

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::cli::client::Server;
use crate::cli::output::{Format, Output, table};

/// Of which control plane.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    output: Output<Format>,
    #[command(flatten)]
    server: Server,
}

/// Prints what is served, and what each Envoy took of it. The exit code is 1 while files are refused or an Envoy
/// refuses something.
pub(crate) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let client = options.server.client()?;
    let (status, fleet) = (client.get("/status").await?, client.get("/fleet").await?);
    let mut both = status;
    both["fleet"] = fleet["nodes"].clone();
    options.output.say(&both, human)?;
    let is_refused = |node: &Value| {
        node["types"].as_object().is_some_and(|types| types.values().any(|of| of["state"] == "nacked"))
    };
    let is_bad = both["violations"] != json!(0) || nodes(&both).iter().any(is_refused);
    Ok(if is_bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn nodes(status: &Value) -> &[Value] {
    status["fleet"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn human(status: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let fields = ["version", "revision", "routes", "services", "upstreams", "violations", "nodes"];
    let lines: String = fields.iter().map(|field| format!("{field}: {}\n", text(&status[*field]))).collect();
    let row = |node: &Value| {
        let types = node["types"].as_object().into_iter().flatten();
        let states: Vec<String> =
            types.map(|(of, noted)| format!("{of} {}", text(&noted["state"]))).collect();
        let mut row: Vec<String> = ["id", "fleet", "state"].iter().map(|field| text(&node[*field])).collect();
        row.push(states.join(", "));
        row
    };
    let lines = lines + &rollout(&status["rollout"]);
    match nodes(status) {
        [] => lines,
        nodes => format!("{lines}\n{}", table(&["node", "fleet", "state", "types"], nodes.iter().map(row))),
    }
}

/// A line for each canary that is being asked.
fn rollout(rollout: &Value) -> String {
    let canaries = rollout["canaries"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or("nobody yet").to_owned();
    let line = |canary: &Value| {
        let [fleet, node, phase] = ["fleet", "node", "phase"].map(|field| text(&canary[field]));
        format!("rolling out {}: fleet {fleet}, canary {node}, {phase}\n", rollout["rolling_out"])
    };
    canaries.map(line).collect()
}
