//! `understudy failovers`: the history of failovers.

use std::process::ExitCode;

use serde_json::Value;

use crate::cli::online::client::{RequestOptions, segment};
use crate::cli::online::value::field_table;

/// Options of `understudy failovers`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Upstream whose failovers to show; all without
    upstream: Option<String>,
    #[command(flatten)]
    request: RequestOptions,
}

/// Prints the failovers: when standbys served, and why.
pub(crate) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let query = options.upstream.map(|name| format!("?upstream={}", segment(&name))).unwrap_or_default();
    let failovers = Value::from(options.request.server.client()?.list(&format!("/failovers{query}")).await?);
    options.request.output.print(&failovers, |failovers| {
        let fields = ["upstream", "start", "end", "cause", "from", "to", "nodes", "requests", "errors"];
        field_table(failovers, &fields)
    })?;
    Ok(ExitCode::SUCCESS)
}
