//! Commands of the program: each is one call and one printer.
//!
//! Exit codes: 0 done, 1 violations or a failed operation, 2 wrong usage, 3 changes (`plan --exit-code`).

pub mod demo;
pub(crate) mod dialect;
pub mod offline;
pub mod online;
mod output;
mod print;
pub mod serve;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::cli::offline::{
    backend, bootstrap, check, compile, convert, envoy, explain, schema, show, simulate,
};
use crate::cli::online::{apply, drills, entities, failovers, history, notify, orders, plan, status, token};

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
    /// Check a config and print its faults
    Check(check::Options),
    /// Explain a code: what it means, why it hurts and what to do
    Explain(explain::Options),
    /// Print the JSON Schema of config files, for editors
    Schema,
    /// Print the resources that Envoys would get, in Envoy's JSON
    Compile(compile::Options),
    /// Print files of other gateways as a native config, or what becomes of each of their values
    Convert(convert::Options),
    /// Simulate where requests go when some targets are down
    Simulate(simulate::Options),
    /// Print the effective settings of an upstream, and the source of each
    Show(show::Options),
    /// Show what files would change in the served config, and the effects
    Plan(plan::Options),
    /// Show entities
    Get(entities::GetOptions),
    /// Apply config files over REST
    Apply(apply::Options),
    /// Remove an entity
    Delete(entities::DeleteOptions),
    /// Add, remove or weigh a target, or set its state
    Target(entities::TargetOptions),
    /// Export the whole config
    Config(entities::ConfigOptions),
    /// Show the revisions: what changed, when, by whom and why
    Revisions(history::RevisionsOptions),
    /// Restore the config of a revision
    Rollback(history::RollbackOptions),
    /// Keep the traffic of an upstream on one of its tiers while that tier is healthy
    Pin(orders::PinOptions),
    /// Give recovered primaries their traffic back
    Failback(orders::FailbackOptions),
    /// Rehearse a failover, and print its report
    Drill(drills::DrillOptions),
    /// Show drills, end one, or save its report
    Drills(drills::DrillsOptions),
    /// Show the failovers: when standbys served, and why
    Failovers(failovers::Options),
    /// Send a test event to the receivers of events
    Notify(notify::Options),
    /// Show what is served, which tiers serve, and what each Envoy accepted
    Status(status::Options),
    /// Manage the tokens of the admin API
    Token(token::Options),
    /// Copy all durable state to a file
    Backup(history::BackupOptions),
    /// Replace a data directory with a backup
    Restore(history::RestoreOptions),
    /// Print an Envoy bootstrap for this control plane
    Bootstrap(bootstrap::Options),
    /// Print the path of an Envoy, fetching the pinned release if it is missing
    Envoy(envoy::Options),
    /// Print the script that completes these commands in a shell
    Completions {
        /// Shell to complete in
        shell: clap_complete::Shell,
    },
    /// Show a failover on this machine: three backends, an Envoy, and load
    Demo(demo::Options),
    /// Run a small backend with selectable faults
    #[command(hide = true)]
    Backend(backend::Options),
}

/// Runs the command. Machine-readable output goes to standard output, the rest to standard error.
///
/// # Errors
///
/// Fails if the command could not do its work.
pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::Serve(options) => on_runtime(serve::run(options)),
        Command::Check(options) => check::run(&options),
        Command::Explain(options) => explain::run(&options),
        Command::Schema => schema::run(),
        Command::Compile(options) => compile::run(&options),
        Command::Convert(options) => convert::run(&options),
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
        Command::Drill(options) => on_runtime(drills::drill(options)),
        Command::Drills(options) => on_runtime(drills::drills(options)),
        Command::Failovers(options) => on_runtime(failovers::run(options)),
        Command::Notify(options) => on_runtime(notify::run(options)),
        Command::Status(options) => on_runtime(status::run(options)),
        Command::Token(options) => on_runtime(token::run(options)),
        Command::Backup(options) => on_runtime(history::backup(options)),
        Command::Restore(options) => history::restore(&options),
        Command::Bootstrap(options) => bootstrap::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Envoy(options) => envoy::run(&options),
        Command::Completions { shell } => print_completions(shell),
        Command::Demo(options) => on_runtime(demo::run(options)),
        Command::Backend(options) => {
            on_runtime(async { backend::run(options).await.map(|()| ExitCode::SUCCESS) })
        }
    }
}

fn print_completions(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "understudy", &mut text);
    print::raw(&String::from_utf8_lossy(&text))?;
    Ok(ExitCode::SUCCESS)
}

fn on_runtime(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    tokio::runtime::Runtime::new()?.block_on(command)
}
