//! Cost of writes over REST: how many a second, from one writer and from many, and how a store of a hundred
//! thousand targets starts.
//!
//! `cargo bench --bench writes`; `benches/README.md` has figures. `load` measures the time until a write is
//! on the wire.

#![expect(clippy::print_stdout, reason = "a table is what it is for")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use serde_json::{Value, json};

#[expect(dead_code, reason = "nobody connects to it here")]
#[path = "load/server.rs"]
mod server;

use crate::server::{Server, name, rss, upstream};

/// Write over REST to an understudy that this starts
#[derive(Debug, Parser)]
#[command(name = "writes")]
struct Options {
    /// Executable of the understudy to start
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_understudy"))]
    binary: PathBuf,
    /// Seconds for each number of writers
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Set by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

const TARGETS: usize = 10;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    println!("| upstreams × 10 targets, stored | writers | writes a second | p50 / p99, ms |");
    println!("| --- | --- | --- | --- |");
    for upstreams in [1_000, 10_000] {
        let directory = tempfile::Builder::new().prefix("understudy-writes-").tempdir()?;
        let mut server = Server::start(&options.binary, None, directory.path()).await?;
        fill(&server, upstreams).await?;
        for writers in [1, 64] {
            let time = Duration::from_secs(options.seconds);
            let mut delays = write(&server, upstreams, writers, time).await?;
            delays.sort();
            let at = |percent: usize| delays[(delays.len() - 1) * percent / 100].as_secs_f64() * 1e3;
            let rate = delays.len() as u64 / options.seconds;
            println!("| {upstreams} | {writers} | {rate} | {:.1} / {:.1} |", at(50), at(99));
        }
        let filled = megabytes(&server)?;
        server.child.kill().await?;
        let since = Instant::now();
        let server = Server::start(&options.binary, None, directory.path()).await?;
        let (took, rss) = (since.elapsed().as_secs_f64(), megabytes(&server)?);
        println!(
            "\n{upstreams} upstreams: a start takes {took:.2} s and {rss} MB (it had {filled} MB before)\n"
        );
    }
    Ok(())
}

/// Stores so many upstreams.
async fn fill(server: &Server, upstreams: usize) -> anyhow::Result<()> {
    let client = reqwest::Client::new();
    let numbers: Vec<usize> = (0..upstreams).collect();
    for numbers in numbers.chunks(1_000) {
        let create = |number: &usize| json!({ "method": "POST", "path": "/upstreams", "body": upstream(*number, TARGETS) });
        let changes: Vec<Value> = numbers.iter().map(create).collect();
        let body = json!({ "changes": changes });
        let answer = client.patch(format!("http://{}/config", server.admin)).json(&body).send().await?;
        anyhow::ensure!(answer.status().is_success(), "{}", answer.text().await?);
    }
    Ok(())
}

/// Adds targets, each writer one after the other, and returns the durations of the writes.
async fn write(
    server: &Server,
    upstreams: usize,
    writers: usize,
    time: Duration,
) -> anyhow::Result<Vec<Duration>> {
    let (end, admin) = (Instant::now() + time, server.admin);
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..writers {
        tasks.spawn(async move {
            let client = reqwest::Client::new();
            let mut delays = Vec::new();
            while Instant::now() < end {
                let added = delays.len();
                let upstream = name((writer * 131 + added * 37) % upstreams);
                // An address beside those of the upstream: 127.200 and above.
                let (high, middle, low) = (200 + added / 60_000, added / 250 % 250, 1 + added % 250);
                let own = format!("127.{high}.{middle}.{low}:{}", 1_000 + writer + 64 * writers);
                let since = Instant::now();
                let write = client.post(format!("http://{admin}/upstreams/{upstream}/targets"));
                let answer = write.json(&json!({ "target": own })).send().await?;
                anyhow::ensure!(answer.status() == 201, "{}", answer.text().await?);
                delays.push(since.elapsed());
            }
            Ok(delays)
        });
    }
    let mut delays = Vec::new();
    while let Some(written) = tasks.join_next().await {
        delays.extend(written??);
    }
    Ok(delays)
}

/// Returns the resident memory of a server, in megabytes.
fn megabytes(server: &Server) -> anyhow::Result<u64> {
    Ok(rss(server.child.id().context("it runs")?)? / 1_000_000)
}
