//! `understudy status`: prints the state of a control plane.

mod rows;
mod view;

use std::process::ExitCode;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cli::online::client::{AdminClient, RequestOptions};
use crate::cli::output::Format;
use crate::cli::print;

/// Interval at which `--watch` polls.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Columns and rows assumed for a terminal of unknown size.
const SIZE: (usize, usize) = (80, 24);

/// Options of `understudy status`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Poll every second, until interrupted
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    request: RequestOptions,
}

/// Prints what is served, which tiers serve, and what each Envoy accepted. The exit code is 1 while files are
/// refused, an Envoy refuses something or an Envoy is not answered.
pub(crate) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let client = options.request.server.client()?;
    let status = fetch_status(&client).await?;
    let is_human = options.request.output.format() == Format::Human;
    if options.watch && is_human && print::live() {
        tokio::select! {
            watched = watch(&client, status) => watched?,
            _ = tokio::signal::ctrl_c() => {}
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut status = status;
    loop {
        options.request.output.print(&status, |status| view::whole(status, Timestamp::now()))?;
        if !options.watch || print::is_unread() {
            let fleet = rows::list(&status, "fleet");
            let is_bad_node = |node| rows::is_refused(node) || rows::is_withheld(node);
            let is_bad = status["violations"] != json!(0) || fleet.iter().any(is_bad_node);
            return Ok(if is_bad { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
        tokio::time::sleep(POLL_INTERVAL).await;
        status = fetch_status(&client).await?;
    }
}

/// Alternate screen of the terminal. Dropping it restores the previous contents.
struct AlternateScreen;

impl AlternateScreen {
    fn open() -> anyhow::Result<Self> {
        // Alternate buffer, no cursor, no wrapping of long lines.
        print::raw("\u{1b}[?1049h\u{1b}[?25l\u{1b}[?7l")?;
        Ok(Self)
    }

    /// Draws over the last frame, line by line, so that nothing flickers.
    fn draw(&self, lines: &[String]) -> anyhow::Result<()> {
        let lines: Vec<String> = lines.iter().map(|line| format!("{line}\u{1b}[K")).collect();
        print::raw(&format!("\u{1b}[H{}\u{1b}[J", lines.join("\r\n")))
    }
}

impl Drop for AlternateScreen {
    fn drop(&mut self) {
        // A terminal that is gone needs no repair.
        let _ = print::raw("\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l");
    }
}

/// Draws the status each second. A failed request is retried at the next interval.
async fn watch(client: &AdminClient, mut status: Value) -> anyhow::Result<()> {
    let screen = AlternateScreen::open()?;
    loop {
        screen.draw(&view::frame(&status, Timestamp::now(), size()))?;
        tokio::time::sleep(POLL_INTERVAL).await;
        match fetch_status(client).await {
            Ok(newer) => status = newer,
            Err(error) => status["away"] = json!(format!("{error:#}")),
        }
    }
}

fn size() -> (usize, usize) {
    let size = terminal_size::terminal_size();
    size.map_or(SIZE, |(columns, rows)| (usize::from(columns.0), usize::from(rows.0)))
}

async fn fetch_status(client: &AdminClient) -> anyhow::Result<Value> {
    let mut status = client.get("/status").await?;
    status["fleet"] = client.get("/fleet").await?["nodes"].clone();
    let topology = client.get("/topology").await?;
    let mut serving = topology["upstreams"].as_array().cloned().unwrap_or_default();
    // Upstreams on standby first.
    serving.sort_by_key(|upstream| (!rows::is_away(upstream), upstream["name"].as_str().map(str::to_owned)));
    status["serving"] = Value::from(serving);
    status["not_reporting"] = topology["not_reporting"].clone();
    status["orders"] = client.get("/orders").await?;
    Ok(status)
}
