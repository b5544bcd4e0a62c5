//! `understudy demo`: a failover on this machine, as clients see it.
//!
//! Only the order of events is scripted: the control plane and Envoy are the ones that production would run,
//! the backends are processes that are killed with SIGKILL, and the load counts every response. The demo also
//! checks its claims, so a run that ends with exit code 0 is a proof for this machine.

mod environment;
pub mod load;
mod ports;
mod processes;
mod report;
mod screen;
mod script;

use std::process::ExitCode;

use anyhow::Context as _;

use crate::cli::demo::environment::DemoEnvironment;
use crate::cli::demo::screen::DemoScreen;
use crate::cli::demo::script::{DemoEnd, DemoRun};
use crate::cli::offline::envoy;
use crate::cli::output::{Format, FormatOptions};
use crate::cli::print;
use crate::cli::serve;

/// Options of `understudy demo`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Exit after the last phase, in place of running on
    #[arg(long)]
    once: bool,
    // Progress goes to standard error unless the format is for people.
    #[command(flatten)]
    output: FormatOptions<Format>,
}

/// Plays the demo; the exit code is 1 if a client saw an error.
///
/// # Errors
///
/// Fails if the demo cannot be set up, or if a phase does not end as expected.
pub(crate) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let is_human = options.output.format() == Format::Human;
    let screen = if is_human { DemoScreen::stdout() } else { DemoScreen::stderr() };
    let envoy = tokio::task::spawn_blocking(|| envoy::locate(&|line| print::note(line)))
        .await
        .context("the search for Envoy did not end")??;
    let mut stop_signal = Box::pin(serve::stop_signal()?);
    let environment = tokio::select! {
        environment = DemoEnvironment::start(&envoy) => environment?,
        () = &mut stop_signal => return Ok(ExitCode::SUCCESS),
    };
    let mut run = DemoRun::new(environment, screen, stop_signal);
    let end = run.play(options.once).await;
    let report = run.close().await?;
    options.output.print(&serde_json::to_value(&report)?, |_| report.human())?;
    match end {
        DemoEnd::Failed(_) if print::is_unread() => Ok(ExitCode::SUCCESS),
        DemoEnd::Failed(error) => Err(error),
        DemoEnd::Played | DemoEnd::Stopped => {
            Ok(if report.errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}
