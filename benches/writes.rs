//! What writes over REST cost: how many a second, from one writer and from many, and how a store of a hundred
//! thousand targets starts.
//!
//! `cargo bench --bench writes`; `benches/README.md` has figures. When a write is on the wire, `load` tells.

#![expect(clippy::print_stdout, reason = "a table is what it is for")]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// Writes over REST to an understudy that it starts.
#[derive(Debug, Parser)]
#[command(name = "writes")]
struct Options {
    /// The understudy to start
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_understudy"))]
    binary: PathBuf,
    /// For how long each number of writers writes
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Cargo says so
    #[arg(long, hide = true)]
    bench: bool,
}

const TARGETS: usize = 10;

/// An understudy that ends when this is dropped.
struct Server {
    child: Child,
    admin: String,
    _stdout: Lines<BufReader<ChildStdout>>,
    /// From its start until it was ready.
    took: Duration,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    println!(
        "| upstreams × 10 targets, stored | writers | writes a second | p50 / p99, ms |\n| --- | --- | --- | --- |"
    );
    for upstreams in [1_000, 10_000] {
        let directory = tempfile::Builder::new().prefix("understudy-writes-").tempdir()?;
        let server = Server::start(&options.binary, directory.path()).await?;
        server.fill(upstreams).await?;
        for writers in [1, 64] {
            let mut delays = server.write(upstreams, writers, Duration::from_secs(options.seconds)).await?;
            delays.sort();
            let at = |percent: usize| delays[(delays.len() - 1) * percent / 100].as_secs_f64() * 1e3;
            let rate = delays.len() as u64 / options.seconds;
            println!("| {upstreams} | {writers} | {rate} | {:.1} / {:.1} |", at(50), at(99));
        }
        let filled = server.rss()?;
        server.stop().await?;
        let server = Server::start(&options.binary, directory.path()).await?;
        let (took, rss) = (server.took.as_secs_f64(), server.rss()?);
        println!(
            "\n{upstreams} upstreams: a start takes {took:.2} s and {rss} MB (it had {filled} MB before)\n"
        );
    }
    Ok(())
}

impl Server {
    async fn start(binary: &Path, directory: &Path) -> anyhow::Result<Self> {
        let log = std::fs::File::create(directory.join("log"))?;
        let since = Instant::now();
        let mut child = Command::new(binary)
            .args(["serve", "--xds", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data"])
            .arg(directory.join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let mut stdout = BufReader::new(child.stdout.take().context("it has a standard output")?).lines();
        let mut admin = None;
        while let Some(line) = tokio::time::timeout(Duration::from_secs(60), stdout.next_line()).await?? {
            admin = line.strip_prefix("admin ").map(|address| format!("http://{address}")).or(admin);
            if line == "ready" {
                break;
            }
        }
        let admin = admin.context("understudy did not start")?;
        Ok(Self { child, admin, _stdout: stdout, took: since.elapsed() })
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Stores so many upstreams.
    async fn fill(&self, upstreams: usize) -> anyhow::Result<()> {
        let client = reqwest::Client::new();
        let numbers: Vec<usize> = (0..upstreams).collect();
        for numbers in numbers.chunks(1_000) {
            let change = |number: &usize| {
                let targets = (0..TARGETS).map(|target| json!({ "target": address(*number, target) }));
                let body = json!({ "name": name(*number), "targets": targets.collect::<Vec<Value>>() });
                json!({ "method": "POST", "path": "/upstreams", "body": body })
            };
            let changes: Vec<Value> = numbers.iter().map(change).collect();
            let body = json!({ "changes": changes });
            let answer = client.patch(format!("{}/config", self.admin)).json(&body).send().await?;
            anyhow::ensure!(answer.status().is_success(), "{}", answer.text().await?);
        }
        Ok(())
    }

    /// Adds targets, each writer one after the other, and says how long each took.
    async fn write(&self, upstreams: usize, writers: usize, time: Duration) -> anyhow::Result<Vec<Duration>> {
        let end = Instant::now() + time;
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..writers {
            let admin = self.admin.clone();
            tasks.spawn(async move {
                let client = reqwest::Client::new();
                let mut delays = Vec::new();
                while Instant::now() < end {
                    let number = (writer * 131 + delays.len() * 37) % upstreams;
                    let added = delays.len();
                    // Beside those that it has: 127.200 and above.
                    let own = format!(
                        "127.{}.{}.{}:{}",
                        200 + added / 60_000,
                        added / 250 % 250,
                        1 + added % 250,
                        1_000 + writer + 64 * writers
                    );
                    let since = Instant::now();
                    let write = client.post(format!("{admin}/upstreams/{}/targets", name(number)));
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

    /// Its resident memory, in megabytes.
    fn rss(&self) -> anyhow::Result<u64> {
        let pid = self.child.id().context("it runs")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes: u64 = line.context("Linux tells it")?.trim().trim_end_matches(" kB").parse()?;
        Ok(kilobytes * 1024 / 1_000_000)
    }
}

fn name(number: usize) -> String {
    format!("u-{number:05}")
}

/// Nobody connects to it; it is on this machine all the same.
fn address(upstream: usize, target: usize) -> String {
    format!("127.{}.{}.{}:8080", 1 + upstream / 250, upstream % 250, 1 + target)
}
