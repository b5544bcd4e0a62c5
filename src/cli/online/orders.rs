//! `understudy target drain|down|auto`, `pin`, `failback`, `drill`, `drills`, `failovers` and `notify`:
//! orders over the admin API.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::Method;
use serde_json::{Value, json};

use crate::cli::online::client::{AdminClient, RequestOptions, WriteOptions, segment};
use crate::cli::output::table;
use crate::cli::print;

/// Interval at which a running drill is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Options of `understudy target drain|down|auto`.
#[derive(Debug, clap::Args)]
pub struct StateOptions {
    upstream: String,
    /// Target as host:port, priority=N for a tier, or zone=Z
    part: String,
    #[command(flatten)]
    order: OrderOptions,
    /// Set the state even if it leaves nothing usable
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    request: RequestOptions,
}

#[derive(Debug, clap::Args)]
struct OrderOptions {
    /// Reason, shown with the order
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Time after which the order ends by itself, such as 10m
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
}

impl OrderOptions {
    fn in_body(&self, mut body: Value) -> Value {
        if let Some(reason) = &self.reason {
            body["reason"] = json!(reason);
        }
        if let Some(expires) = &self.expires {
            body["expires_in"] = json!(expires);
        }
        body
    }
}

/// Options of `understudy pin`.
#[derive(Debug, clap::Args)]
pub struct PinOptions {
    upstream: String,
    /// Tier, from 0
    #[arg(long, required_unless_present = "off")]
    priority: Option<u32>,
    /// Remove the pin
    #[arg(long, conflicts_with = "priority")]
    off: bool,
    #[command(flatten)]
    order: OrderOptions,
    #[command(flatten)]
    request: RequestOptions,
}

/// Options of `understudy failback`.
#[derive(Debug, clap::Args)]
pub struct FailbackOptions {
    upstream: String,
    #[command(flatten)]
    request: RequestOptions,
}

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

/// Options of `understudy failovers`.
#[derive(Debug, clap::Args)]
pub struct FailoversOptions {
    /// Upstream whose failovers to show; all without
    upstream: Option<String>,
    #[command(flatten)]
    request: RequestOptions,
}

/// Options of `understudy notify`.
#[derive(Debug, clap::Args)]
pub struct NotifyOptions {
    #[command(subcommand)]
    command: NotifyCommand,
}

#[derive(Debug, clap::Subcommand)]
enum NotifyCommand {
    /// Send a test event to each receiver, once
    Test {
        #[command(flatten)]
        request: RequestOptions,
    },
}

/// Sends a test event to all receivers. The exit code is 1 if one of the deliveries failed.
pub(crate) async fn notify(options: NotifyOptions) -> anyhow::Result<ExitCode> {
    let NotifyCommand::Test { request: RequestOptions { output, server } } = options.command;
    let answer =
        server.client()?.send(Method::POST, "/notify/test", &json!({}), &WriteOptions::default()).await?;
    output.print(&answer, |answer| {
        let receivers = item_list(&answer["receivers"]);
        let row = |one: &Value| match one["error"].as_str() {
            None => vec![text(&one["url"]), "told".to_owned()],
            Some(error) => vec![text(&one["url"]), error.to_owned()],
        };
        match receivers {
            [] => "`notify` names nobody".to_owned(),
            receivers => table(&["receiver", "outcome"], receivers.iter().map(row)),
        }
    })?;
    let is_failed = item_list(&answer["receivers"]).iter().any(|one| !one["error"].is_null());
    Ok(if is_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// Formats a time to the second.
pub(crate) fn time(value: &Value) -> String {
    let parsed = value.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    parsed.map_or_else(|| text(value), |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// Sets the state of a part of an upstream.
pub(crate) async fn state(options: StateOptions, state: &str) -> anyhow::Result<ExitCode> {
    let StateOptions { upstream, part, order, force, request: RequestOptions { output, server } } = options;
    let client: AdminClient = server.client()?;
    let kind = match part.split_once('=') {
        Some(("priority", priority)) => format!("tiers/{}", segment(priority)),
        Some(("zone", zone)) => format!("zones/{}", segment(zone)),
        Some((word, _)) => anyhow::bail!("`{word}` has no state; name a target, priority=N or zone=Z"),
        None => format!("targets/{}", segment(&part)),
    };
    let force = if force { "?force=true" } else { "" };
    let body = order.in_body(json!({ "state": state }));
    let path = format!("/upstreams/{}/{kind}/state{force}", segment(&upstream));
    let answer = client.send(Method::PUT, &path, &body, &WriteOptions::default()).await?;
    output.print(&answer, |answer| {
        let until = match answer["expires_at"].is_null() {
            true => String::new(),
            false => format!(" until {}", time(&answer["expires_at"])),
        };
        format!("{part} of {upstream} is {}{until}", text(&answer["state"]))
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Pins a tier, or removes the pin.
pub(crate) async fn pin(options: PinOptions) -> anyhow::Result<ExitCode> {
    let PinOptions { upstream, priority, off, order, request: RequestOptions { output, server } } = options;
    let (client, path) = (server.client()?, format!("/upstreams/{}/pin", segment(&upstream)));
    if off {
        client.send(Method::DELETE, &path, &Value::Null, &WriteOptions::default()).await?;
        output.print(&json!({ "priority": null }), |_| format!("{upstream} is pinned no more"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let body = order.in_body(json!({ "priority": priority }));
    let answer = client.send(Method::PUT, &path, &body, &WriteOptions::default()).await?;
    output.print(&answer, |answer| {
        format!("{upstream} is pinned to priority {} while that is healthy", answer["priority"])
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Releases a held standby.
pub(crate) async fn failback(options: FailbackOptions) -> anyhow::Result<ExitCode> {
    let FailbackOptions { upstream, request: RequestOptions { output, server } } = options;
    let path = format!("/upstreams/{}/failback", segment(&upstream));
    let answer = server.client()?.send(Method::POST, &path, &json!({}), &WriteOptions::default()).await?;
    output.print(&answer, |_| format!("the standby of {upstream} is released"))?;
    Ok(ExitCode::SUCCESS)
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
    let reason = match drill["reason"].is_null() {
        true => String::new(),
        false => format!(": {}", text(&drill["reason"])),
    };
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
            rows(drills, &fields)
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

/// Prints the failovers: when standbys served, and why.
pub(crate) async fn failovers(options: FailoversOptions) -> anyhow::Result<ExitCode> {
    let query = options.upstream.map(|name| format!("?upstream={}", segment(&name))).unwrap_or_default();
    let failovers = Value::from(options.request.server.client()?.list(&format!("/failovers{query}")).await?);
    options.request.output.print(&failovers, |failovers| {
        let fields = ["upstream", "start", "end", "cause", "from", "to", "nodes", "requests", "errors"];
        rows(failovers, &fields)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn rows(items: &Value, fields: &[&str]) -> String {
    let cell = |item: &Value, field: &str| match field {
        "start" | "end" | "started" => time(&item[field]),
        field => text(&item[field]),
    };
    let items = item_list(items);
    match items {
        [] => "none".to_owned(),
        items => table(fields, items.iter().map(|item| fields.iter().map(|it| cell(item, it)).collect())),
    }
}

pub(crate) fn item_list(items: &Value) -> &[Value] {
    items.as_array().map(Vec::as_slice).unwrap_or_default()
}
