//! `understudy target drain|down|auto`, `pin` and `failback`: orders over the admin API.

use std::process::ExitCode;

use reqwest::Method;
use serde_json::{Value, json};

use crate::cli::online::client::{AdminClient, RequestOptions, WriteOptions, segment};
use crate::cli::online::value::{text, time};

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

/// Reason and end of an order.
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
    let response = client.send(Method::PUT, &path, &body, &WriteOptions::default()).await?;
    output.print(&response, |response| {
        let until = if response["expires_at"].is_null() {
            String::new()
        } else {
            format!(" until {}", time(&response["expires_at"]))
        };
        format!("{part} of {upstream} is {}{until}", text(&response["state"]))
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
    let response = client.send(Method::PUT, &path, &body, &WriteOptions::default()).await?;
    output.print(&response, |response| {
        format!("{upstream} is pinned to priority {} while that is healthy", response["priority"])
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Releases a held standby.
pub(crate) async fn failback(options: FailbackOptions) -> anyhow::Result<ExitCode> {
    let FailbackOptions { upstream, request: RequestOptions { output, server } } = options;
    let path = format!("/upstreams/{}/failback", segment(&upstream));
    let response = server.client()?.send(Method::POST, &path, &json!({}), &WriteOptions::default()).await?;
    output.print(&response, |_| format!("the standby of {upstream} is released"))?;
    Ok(ExitCode::SUCCESS)
}
