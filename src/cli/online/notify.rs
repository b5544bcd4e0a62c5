//! `understudy notify`: a test event for the receivers of events.

use std::process::ExitCode;

use reqwest::Method;
use serde_json::{Value, json};

use crate::cli::online::client::{RequestOptions, WriteOptions};
use crate::cli::online::value::{items, text};
use crate::cli::output::table;

/// Options of `understudy notify`.
#[derive(Debug, clap::Args)]
pub struct Options {
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
pub(crate) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let NotifyCommand::Test { request: RequestOptions { output, server } } = options.command;
    let answer =
        server.client()?.send(Method::POST, "/notify/test", &json!({}), &WriteOptions::default()).await?;
    output.print(&answer, |answer| {
        let receivers = items(&answer["receivers"]);
        let row = |one: &Value| match one["error"].as_str() {
            None => vec![text(&one["url"]), "told".to_owned()],
            Some(error) => vec![text(&one["url"]), error.to_owned()],
        };
        match receivers {
            [] => "`notify` names nobody".to_owned(),
            receivers => table(&["receiver", "outcome"], receivers.iter().map(row)),
        }
    })?;
    let is_failed = items(&answer["receivers"]).iter().any(|one| !one["error"].is_null());
    Ok(if is_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
