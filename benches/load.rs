//! Fleet of clients for any ADS server, and measurement of the server's cost.
//!
//! `cargo bench --bench load -- all` measures understudy; `benches/README.md` has the other commands. The
//! server and the load are two processes, and only the server's processor time and memory are counted.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a table is what it is for")]

#[path = "load/broadcast.rs"]
mod broadcast;
#[path = "load/fleet.rs"]
mod fleet;
#[path = "load/process.rs"]
mod process;
#[path = "load/report.rs"]
mod report;
#[path = "load/reports.rs"]
mod reports;
#[path = "load/scenario.rs"]
mod scenario;
#[path = "load/server.rs"]
mod server;
#[path = "load/stream.rs"]
mod stream;
#[path = "load/target.rs"]
mod target;
#[path = "load/wire.rs"]
mod wire;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};

use crate::report::ReportRow;
use crate::scenario::{
    CLUSTER_DELTA, CLUSTER_SOTW, CLUSTER_SOTW_FOLLOWED, Case, ENDPOINTS_DELTA, ENDPOINTS_SOTW, Scale,
};
use crate::target::{MeasuredServer, Size};
use crate::wire::Variant;

/// Aim a fleet of xDS clients at a server and measure the server
#[derive(Debug, Clone, Parser)]
#[command(name = "load")]
struct Options {
    #[arg(value_enum)]
    scenario: Scenario,
    /// Address of the server; without it an understudy is started with a config of --upstreams × --targets
    #[arg(long, value_name = "ADDRESS", requires = "pid")]
    xds: Option<SocketAddr>,
    /// Process id of the server, to read its processor time and memory
    #[arg(long)]
    pid: Option<u32>,
    /// Command run by `sh -c` to change the config of --xds; $WHAT is `cluster` or `endpoints`, $STEP a
    /// number
    #[arg(long, value_name = "COMMAND", requires = "xds")]
    change_command: Option<String>,
    /// Cluster that --change-command changes; without it any news counts
    #[arg(long, value_name = "NAME", requires = "xds")]
    changed: Option<String>,
    /// Executable of the understudy to start
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_understudy"))]
    binary: PathBuf,
    /// Number of streams, each on a connection of its own [default: 1000; 10000 for idle and reconnect]
    #[arg(long)]
    streams: Option<usize>,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Number of streams in every hundred that stop reading
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..100))]
    stuck: u64,
    /// Variant for first, memory, idle and watch; without it both
    #[arg(long, value_enum)]
    variant: Option<VariantName>,
    #[arg(long, default_value_t = 1000)]
    upstreams: usize,
    #[arg(long, default_value_t = 10)]
    targets: usize,
    /// Seconds to watch
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Number of threads of the load itself
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Print JSON in place of a table
    #[arg(long)]
    json: bool,
    /// Number of bytes for broadcast
    #[arg(long, hide = true, default_value_t = 0)]
    bytes: usize,
    /// Set by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// All of the following
    All,
    /// (a) endpoints change, delta
    EndpointsDelta,
    /// Endpoints change, SotW
    EndpointsSotw,
    /// (b) a cluster changes, delta, its endpoints follow
    ClusterDelta,
    /// (c) a cluster changes, SotW, clusters only
    ClusterSotw,
    /// A cluster changes, SotW, its endpoints follow
    ClusterSotwFollowed,
    /// (d) first full answers
    First,
    /// (e) memory, and whether it grows
    Memory,
    /// (f) thousands of idle streams
    Idle,
    /// (g) thousands of streams come back at once
    Reconnect,
    /// (h) some do not read
    Stuck,
    /// (i) a fleet that reports its load
    Reports,
    /// Watch only, for --seconds
    Watch,
    #[value(hide = true)]
    Broadcast,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum VariantName {
    Sotw,
    Delta,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    rlimit::increase_nofile_limit(u64::MAX).context("cannot raise the limit of open files")?;
    let broadcasts = options.scenario == Scenario::Broadcast;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // The broadcaster gets as many threads as a server.
        .worker_threads(if broadcasts {
            std::thread::available_parallelism()?.get()
        } else {
            options.threads
        })
        .enable_all()
        .build()?;
    runtime.block_on(async {
        if broadcasts {
            return broadcast::serve(options.bytes).await;
        }
        let rows = run(&options).await?;
        match options.json {
            true => println!("{:#}", report::json(&rows)),
            false => println!("{}", report::markdown(&rows)),
        }
        Ok(())
    })
}

async fn run(options: &Options) -> anyhow::Result<Vec<ReportRow>> {
    let mut rows = Vec::new();
    if options.scenario == Scenario::All {
        // One server runs all of these: (e) measures it after everything that came before.
        let mut target = start(options).await?;
        for scenario in [
            Scenario::EndpointsDelta,
            Scenario::EndpointsSotw,
            Scenario::ClusterDelta,
            Scenario::ClusterSotw,
            Scenario::ClusterSotwFollowed,
            Scenario::First,
            Scenario::Memory,
        ] {
            rows.extend(rows_or_failure(scenario, measure_scenario(options, scenario, &mut target).await));
        }
        drop(target);
        for scenario in [Scenario::Idle, Scenario::Reconnect, Scenario::Stuck, Scenario::Reports] {
            rows.extend(rows_or_failure(
                scenario,
                measure_scenario(options, scenario, &mut start(options).await?).await,
            ));
        }
    } else {
        rows.extend(measure_scenario(options, options.scenario, &mut start(options).await?).await?);
    }
    Ok(rows)
}

/// Turns a failure into a row, so that the other scenarios are still measured.
fn rows_or_failure(scenario: Scenario, outcome: anyhow::Result<Vec<ReportRow>>) -> Vec<ReportRow> {
    outcome.unwrap_or_else(|error| {
        vec![ReportRow {
            scenario: format!("{scenario:?}"),
            note: format!("failed: {error:#}"),
            ..ReportRow::default()
        }]
    })
}

async fn start(options: &Options) -> anyhow::Result<MeasuredServer> {
    match options.xds {
        Some(xds) => {
            let command = options.change_command.clone();
            Ok(MeasuredServer::foreign(xds, options.pid, command, options.changed.clone()))
        }
        None => {
            let size = Size { upstreams: options.upstreams, targets: options.targets };
            MeasuredServer::start(&options.binary, size).await
        }
    }
}

async fn measure_scenario(
    options: &Options,
    scenario: Scenario,
    target: &mut MeasuredServer,
) -> anyhow::Result<Vec<ReportRow>> {
    let many = matches!(scenario, Scenario::Idle | Scenario::Reconnect);
    let scale = Scale {
        streams: options.streams.unwrap_or(if many { 10_000 } else { 1_000 }),
        rounds: options.rounds,
        stuck: usize::try_from(options.stuck)?,
    };
    let case = |case: Case| {
        eprintln!("{}", case.name);
        case
    };
    let mut rows = Vec::new();
    match scenario {
        Scenario::EndpointsDelta => rows = scenario::changes(target, scale, case(ENDPOINTS_DELTA)).await?,
        Scenario::EndpointsSotw => rows = scenario::changes(target, scale, case(ENDPOINTS_SOTW)).await?,
        Scenario::ClusterDelta => rows = scenario::changes(target, scale, case(CLUSTER_DELTA)).await?,
        Scenario::ClusterSotw => rows = scenario::changes(target, scale, case(CLUSTER_SOTW)).await?,
        Scenario::ClusterSotwFollowed => {
            rows = scenario::changes(target, scale, case(CLUSTER_SOTW_FOLLOWED)).await?;
        }
        Scenario::Stuck => rows = scenario::stuck(target, &mut start(options).await?, scale).await?,
        Scenario::Reconnect => rows = scenario::reconnect(target, scale).await?,
        Scenario::Reports => rows = reports::measure(target, scale.streams, options.upstreams).await?,
        Scenario::First | Scenario::Memory | Scenario::Idle | Scenario::Watch => {
            for variant in variants(options) {
                eprintln!("{scenario:?}, {variant:?}");
                rows.extend(match scenario {
                    Scenario::First => scenario::first(target, scale, variant).await?,
                    Scenario::Memory => scenario::memory(target, scale, variant).await?,
                    Scenario::Idle => scenario::idle(target, scale, variant).await?,
                    _ => {
                        scenario::watch(target, scale, variant, options.seconds, |line| println!("{line}"))
                            .await?;
                        Vec::new()
                    }
                });
            }
        }
        Scenario::All | Scenario::Broadcast => {}
    }
    Ok(rows)
}

fn variants(options: &Options) -> Vec<Variant> {
    match options.variant {
        Some(VariantName::Sotw) => vec![Variant::Sotw],
        Some(VariantName::Delta) => vec![Variant::Delta],
        None => vec![Variant::Delta, Variant::Sotw],
    }
}
