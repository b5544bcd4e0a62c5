//! The commands: each one call and one printer.
//!
//! Exit codes: 0 done, 1 violations or a failed operation, 2 wrong usage, 3 changes (`plan --exit-code`).

pub mod demo;
pub mod load;
pub mod offline;
pub mod online;
mod output;
mod print;
pub mod serve;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::cli::offline::{backend, bootstrap, check, compile, envoy, explain, plan, schema, show, simulate};
use crate::cli::online::{apply, entities, history, orders, status, token};

/// The failover control plane for Envoy
#[derive(Debug, Parser)]
#[command(name = "understudy", version, about, propagate_version = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a config from files and REST to Envoys
    Serve(serve::Options),
    /// Say what is wrong with a config
    Check(check::Options),
    /// Say what a code means, why it hurts and what to do
    Explain(explain::Options),
    /// Print the JSON Schema of config files, for editors
    Schema,
    /// Print what Envoys would be told, in Envoy's JSON
    Compile(compile::Options),
    /// Say where requests go when some targets are down
    Simulate(simulate::Options),
    /// Print the effective settings of an upstream, and where each came from
    Show(show::Options),
    /// Say what files would change of what is served, and what that means
    Plan(plan::Options),
    /// Show entities
    Get(entities::Get),
    /// Declare over REST what files say
    Apply(apply::Options),
    /// Remove an entity
    Delete(entities::Delete),
    /// Add, remove or weigh a target, or take it out for a while
    Target(entities::Target),
    /// The whole config
    Config(entities::Config),
    /// Show what changed, when, by whom and why
    Revisions(history::Revisions),
    /// Put back the config of a revision
    Rollback(history::Rollback),
    /// Keep the traffic of an upstream on one of its tiers while that is healthy
    Pin(orders::Pin),
    /// Give primaries that recovered their traffic back
    Failback(orders::Failback),
    /// Rehearse a failover, and see what came of it
    Drill(orders::Drill),
    /// Show drills, end one, or keep its report
    Drills(orders::Drills),
    /// Show when standbys served, and why
    Failovers(orders::Failovers),
    /// Tell the receivers of events that this is a test
    Notify(orders::Notify),
    /// Say what is served, who serves it, and what each Envoy took of it
    Status(status::Options),
    /// Say who may use the admin API
    Token(token::Options),
    /// Copy everything that is durable to a file
    Backup(history::Backup),
    /// Put a backup in the place of a data directory
    Restore(history::Restore),
    /// Print an Envoy bootstrap for this control plane
    Bootstrap(bootstrap::Options),
    /// Print the path of an Envoy, fetching the pinned release when it is missing
    Envoy {
        /// Another pinned release than the newest, whatever ENVOY_BIN says
        #[arg(long, value_name = "VERSION")]
        release: Option<String>,
    },
    /// Print what lets a shell complete these commands
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Watch a failover on this machine: three backends, an Envoy, and load
    Demo(demo::Options),
    /// A small backend whose faults can be chosen
    #[command(hide = true)]
    Backend(backend::Options),
}

/// Runs the command. What is printed for a machine goes to standard output, the rest to standard error.
///
/// # Errors
///
/// When the command could not do its work.
pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::Serve(options) => on_runtime(serve::run(options)),
        Command::Check(options) => check::run(&options),
        Command::Explain(options) => explain::run(&options),
        Command::Schema => schema::run(),
        Command::Compile(options) => compile::run(&options),
        Command::Simulate(options) => simulate::run(&options),
        Command::Show(options) => show::run(&options),
        Command::Plan(options) => on_runtime(plan::run(options)),
        Command::Get(options) => on_runtime(entities::get(options)),
        Command::Apply(options) => on_runtime(apply::run(options)),
        Command::Delete(options) => on_runtime(entities::delete(options)),
        Command::Target(options) => on_runtime(entities::target(options)),
        Command::Config(options) => on_runtime(entities::config(options)),
        Command::Revisions(options) => on_runtime(history::revisions(options)),
        Command::Rollback(options) => on_runtime(history::rollback(options)),
        Command::Pin(options) => on_runtime(orders::pin(options)),
        Command::Failback(options) => on_runtime(orders::failback(options)),
        Command::Drill(options) => on_runtime(orders::drill(options)),
        Command::Drills(options) => on_runtime(orders::drills(options)),
        Command::Failovers(options) => on_runtime(orders::failovers(options)),
        Command::Notify(options) => on_runtime(orders::notify(options)),
        Command::Status(options) => on_runtime(status::run(options)),
        Command::Token(options) => on_runtime(token::run(options)),
        Command::Backup(options) => on_runtime(history::backup(options)),
        Command::Restore(options) => history::restore(&options),
        Command::Bootstrap(options) => bootstrap::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Envoy { release } => {
            let progress = |line: &str| print::note(line);
            let path = match release {
                Some(version) => envoy::locate_version(&version, &progress)?,
                None => envoy::locate(&progress)?,
            };
            print::line(&path.display().to_string())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "understudy", &mut text);
            print::raw(&String::from_utf8_lossy(&text))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Demo(options) => on_runtime(demo::run(options)),
        Command::Backend(options) => {
            on_runtime(async { backend::run(options).await.map(|()| ExitCode::SUCCESS) })
        }
    }
}

fn on_runtime(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    tokio::runtime::Runtime::new()?.block_on(command)
}
