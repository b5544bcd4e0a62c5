//! Understudy that is started here, its config, and its memory.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// Running understudy, ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) child: Child,
    /// Address of the xDS server.
    pub(crate) xds: SocketAddr,
    /// Address of the admin API.
    pub(crate) admin: SocketAddr,
    _stdout: Lines<BufReader<ChildStdout>>,
}

impl Server {
    /// Starts `binary` on ports of its own, with its log and its store in `directory`. Returns when it is
    /// ready.
    pub(crate) async fn start(
        binary: &Path,
        config: Option<&Path>,
        directory: &Path,
    ) -> anyhow::Result<Self> {
        let log = fs::File::create(directory.join("log"))?;
        let mut child = Command::new(binary)
            .arg("serve")
            .args(config)
            .args(["--xds", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data"])
            .arg(directory.join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("it has a standard output")?).lines();
        let mut addresses = ["xds ", "admin "].map(|_| None);
        while let Some(line) = tokio::time::timeout(Duration::from_secs(60), lines.next_line()).await?? {
            for (address, prefix) in addresses.iter_mut().zip(["xds ", "admin "]) {
                *address = line.strip_prefix(prefix).map(str::parse).transpose()?.or(*address);
            }
            if line == "ready" {
                break;
            }
        }
        let [Some(xds), Some(admin)] = addresses else {
            anyhow::bail!("understudy did not start: {}", fs::read_to_string(directory.join("log"))?);
        };
        Ok(Self { child, xds, admin, _stdout: lines })
    }
}

/// Returns the resident memory of a process, in bytes.
pub(crate) fn rss(pid: u32) -> anyhow::Result<u64> {
    let file = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kilobytes.with_context(|| format!("{file} has no VmRSS"))? << 10)
}

/// Returns the name of an upstream.
pub(crate) fn name(number: usize) -> String {
    format!("u-{number:05}")
}

/// Returns the address of a target. It is on this machine, although no requests are sent to it.
pub(crate) fn address(upstream: usize, target: usize) -> String {
    format!("127.{}.{}.{}:8080", 1 + upstream / 250, upstream % 250, 1 + target)
}

/// Returns an upstream with so many targets, the last of which is a standby.
pub(crate) fn upstream(number: usize, targets: usize) -> serde_json::Value {
    let is_standby = |target: usize| target > 0 && target + 1 == targets;
    let targets = (0..targets)
        .map(|target| json!({ "target": address(number, target), "failover": is_standby(target) }));
    json!({ "name": name(number), "targets": targets.collect::<Vec<_>>() })
}
