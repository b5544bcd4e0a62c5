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
    let response =
        server.client()?.send(Method::POST, "/notify/test", &json!({}), &WriteOptions::default()).await?;
    output.print(&response, |response| {
        let receivers = items(&response["receivers"]);
        let row = |receiver: &Value| match receiver["error"].as_str() {
            None => vec![text(&receiver["url"]), "told".to_owned()],
            Some(error) => vec![text(&receiver["url"]), error.to_owned()],
        };
        match receivers {
            [] => "`notify` has no receivers".to_owned(),
            receivers => table(&["receiver", "outcome"], receivers.iter().map(row)),
        }
    })?;
    let is_failed = items(&response["receivers"]).iter().any(|receiver| !receiver["error"].is_null());
    Ok(if is_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
