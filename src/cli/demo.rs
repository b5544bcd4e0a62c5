//! `understudy demo`: a failover on this machine, as clients see it.
//!
//! Only the order of events is scripted: the control plane and Envoy are the ones that production would run,
//! the backends are processes that are killed with SIGKILL, and the load counts every response. The demo also
//! checks what it claims, so a run that ends with exit code 0 is a proof for this machine.

mod environment;
pub mod load;
mod ports;
mod processes;
mod report;
mod screen;
mod script;

use std::process::ExitCode;

use anyhow::Context as _;

use crate::cli::demo::environment::Stage;
use crate::cli::demo::screen::Screen;
use crate::cli::demo::script::{End, Show};
use crate::cli::offline::envoy;
use crate::cli::output::{Format, Output};
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
    output: Output<Format>,
}

/// Plays the demo; the exit code is 1 if a client saw an error.
///
/// # Errors
///
/// Fails if the demo cannot be set up, or if a phase does not end as expected.
pub(crate) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let is_human = options.output.format() == Format::Human;
    let screen = if is_human { Screen::stdout() } else { Screen::notes() };
    let envoy = tokio::task::spawn_blocking(|| envoy::locate(&|line| print::note(line)))
        .await
        .context("the search for Envoy did not end")??;
    let mut told_to_stop = Box::pin(serve::told_to_stop()?);
    let stage = tokio::select! {
        stage = Stage::set_up(&envoy) => stage?,
        () = &mut told_to_stop => return Ok(ExitCode::SUCCESS),
    };
    let mut show = Show::new(stage, screen, told_to_stop);
    let end = show.play(options.once).await;
    let report = show.close().await?;
    options.output.say(&serde_json::to_value(&report)?, |_| report.human())?;
    match end {
        End::Failed(error) => Err(error),
        End::Played | End::ToldToStop => {
            Ok(if report.errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}
