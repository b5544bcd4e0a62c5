//! `understudy drill` and `drills`: rehearsals of a failover, and their reports.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::Method;
use serde_json::{Value, json};

use crate::cli::online::client::{RequestOptions, WriteOptions, segment};
use crate::cli::online::value::{field_table, text, time};
use crate::cli::output::table;
use crate::cli::print;

/// Interval at which a running drill is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Options of `understudy drill`.
#[derive(Debug, clap::Args)]
pub struct DrillOptions {
    upstream: String,
    /// Part that counts as down: a target as host:port, priority=N, zone=Z or region=R; repeat for several
    #[arg(long, value_name = "WHAT", default_value = "priority=0")]
    down: Vec<String>,
    /// Length of the drill
    #[arg(long = "for", value_name = "TIME", default_value = "60s")]
    length: String,
    /// End the drill when more than this percentage of the requests fails
    #[arg(long, value_name = "PERCENT")]
    abort_error_rate: Option<f64>,
    /// Start the drill even if it would do harm
    #[arg(long)]
    force: bool,
    /// Do not wait for the end of the drill
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    request: RequestOptions,
}

/// Options of `understudy drills`.
#[derive(Debug, clap::Args)]
pub struct DrillsOptions {
    /// Id of one drill; all drills without
    id: Option<String>,
    /// Write the report of the drill to a file, in Markdown
    #[arg(long, value_name = "FILE", requires = "id")]
    markdown: Option<PathBuf>,
    /// End the drill
    #[arg(long, requires = "id", conflicts_with = "markdown")]
    abort: bool,
    #[command(flatten)]
    request: RequestOptions,
}

/// Starts a drill and, unless detached, waits for its end. The exit code is 1 if it ended early.
pub(crate) async fn drill(options: DrillOptions) -> anyhow::Result<ExitCode> {
    let DrillOptions {
        upstream,
        down,
        length,
        abort_error_rate,
        force,
        detach,
        request: RequestOptions { output, server },
    } = options;
    let client = server.client()?;
    let mut body = json!({ "down": down, "for": length });
    if let Some(rate) = abort_error_rate {
        body["abort_if"] = json!({ "error_rate": rate });
    }
    let force = if force { "?force=true" } else { "" };
    let path = format!("/upstreams/{}/drill{force}", segment(&upstream));
    let mut drill = client.send(Method::POST, &path, &body, &WriteOptions::default()).await?;
    let id = text(&drill["id"]);
    if !detach {
        print::note(&format!("drill {id} runs until {}", time(&drill["until"])));
        while drill["state"] == "running" {
            tokio::time::sleep(POLL_INTERVAL).await;
            drill = client.get(&format!("/drills/{id}")).await?;
        }
    }
    output.print(&drill, report)?;
    let is_fine = matches!(drill["state"].as_str(), Some("running" | "done"));
    Ok(if is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn report(drill: &Value) -> String {
    let reason =
        if drill["reason"].is_null() { String::new() } else { format!(": {}", text(&drill["reason"])) };
    let mut lines = format!(
        "drill {} of {}: {}{reason}\n{} requests, {} errors\n",
        text(&drill["id"]),
        text(&drill["upstream"]),
        text(&drill["state"]),
        drill["requests"],
        drill["errors"],
    );
    let shifts = drill["shift_seconds"].as_object().into_iter().flatten();
    for (node, seconds) in shifts {
        lines += &format!("{node} moved after {seconds} s\n");
    }
    let latency = |of: &str| match drill["latency_ms"][of].as_f64() {
        Some(milliseconds) => format!("{milliseconds} ms"),
        None => "not known".to_owned(),
    };
    lines += &format!("a request took {} before, {} during\n", latency("before"), latency("during"));
    let shares = drill["share"].as_object().into_iter().flatten();
    let before = |target: &str| text(&drill["share_before"][target]);
    let rows: Vec<Vec<String>> =
        shares.map(|(target, share)| vec![target.clone(), before(target), text(share)]).collect();
    if !rows.is_empty() {
        lines += &format!("\n{}", table(&["target", "share before", "share during"], rows));
    }
    lines
}

/// Prints drills, ends one, or saves its report.
pub(crate) async fn drills(options: DrillsOptions) -> anyhow::Result<ExitCode> {
    let DrillsOptions { id, markdown, abort, request: RequestOptions { output, server } } = options;
    let client = server.client()?;
    let Some(id) = id else {
        let drills = Value::from(client.list("/drills").await?);
        output.print(&drills, |drills| {
            let fields = ["id", "upstream", "state", "down", "started", "requests", "errors", "reason"];
            field_table(drills, &fields)
        })?;
        return Ok(ExitCode::SUCCESS);
    };
    let path = format!("/drills/{}", segment(&id));
    if abort {
        client.send(Method::DELETE, &path, &Value::Null, &WriteOptions::default()).await?;
    }
    if let Some(file) = markdown {
        let report = client.bytes(&format!("{path}?format=markdown")).await?;
        std::fs::write(&file, report).with_context(|| format!("cannot write {}", file.display()))?;
    }
    output.print(&client.get(&path).await?, report)?;
    Ok(ExitCode::SUCCESS)
}
