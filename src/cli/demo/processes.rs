//! Processes of a demo.
//!
//! Each is in a process group of its own: a Ctrl-C reaches the demo, which still has requests under way, but
//! not the processes that answer them. None outlives the demo, however that ends.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// Number of lines of Envoy's log that are printed when it fails.
const TAIL: usize = 10;

/// Backend process that can be killed and restarted at the same address.
#[derive(Debug)]
pub(crate) struct BackendProcess {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    child: Child,
}

impl BackendProcess {
    /// Starts the process, and returns once it accepts connections.
    pub(crate) async fn start(name: &'static str, address: SocketAddr) -> anyhow::Result<Self> {
        let child = backend(name, address).await.with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, address, child })
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends SIGKILL. The backend answers nothing from now on, but its port may take a moment to become free.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.start_kill().with_context(|| format!("cannot kill {}", self.name))
    }

    /// Kills the process. It and its sockets are gone when this returns.
    pub(crate) async fn stop(&mut self) {
        // Fails only for a process that has ended.
        let _ = self.child.kill().await;
    }

    /// Restarts the backend as a new process.
    pub(crate) async fn restart(&mut self) -> anyhow::Result<()> {
        self.stop().await;
        *self = Self::start(self.name, self.address).await?;
        Ok(())
    }
}

async fn backend(name: &str, address: SocketAddr) -> anyhow::Result<Child> {
    let program_path = std::env::current_exe().context("cannot find the program of understudy")?;
    let mut child = Command::new(program_path)
        .args(["backend", "--listen", &address.to_string(), "--name", name, "--exit-with-stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let stdout = child.stdout.take().context("its output is not piped")?;
    let line = BufReader::new(stdout).lines().next_line().await?;
    ensure!(line.is_some_and(|line| line.starts_with("listening ")), "it ended at its start");
    Ok(child)
}

/// Envoy process of the demo.
#[derive(Debug)]
pub(crate) struct EnvoyProcess {
    /// Process that kills Envoy when the demo dies. Dropped first, so that it never kills a process that
    /// merely got the number of a past Envoy.
    guard: Child,
    child: Child,
    log: PathBuf,
}

impl EnvoyProcess {
    /// Starts Envoy, and returns before it has read its config.
    pub(crate) fn start(program: &Path, bootstrap: &Path, log: PathBuf) -> anyhow::Result<Self> {
        let start = || {
            // Not --log-path: messages about a bad option or a crash belong in the log too.
            let output = File::create(&log)?;
            let child = Command::new(program)
                .arg("-c")
                .arg(bootstrap)
                .args(["--disable-hot-restart", "--concurrency", "1", "-l", "warning"])
                .stdin(Stdio::null())
                .stdout(output.try_clone()?)
                .stderr(output)
                .process_group(0)
                .kill_on_drop(true)
                .spawn()?;
            anyhow::Ok((guard(&child)?, child))
        };
        let (guard, child) = start().with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { guard, child, log })
    }

    /// Checks that Envoy runs.
    ///
    /// # Errors
    ///
    /// Fails with the end of Envoy's log if Envoy has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait().context("cannot check whether Envoy runs")? {
            None => Ok(()),
            Some(status) => anyhow::bail!("Envoy ended by itself ({status}){}", self.log_tail()),
        }
    }

    /// Returns the end of Envoy's log, as the end of an error message.
    pub(crate) fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        if lines.is_empty() {
            return "; its log is empty".to_owned();
        }
        format!("; its log ends with\n  {}", lines[lines.len().saturating_sub(TAIL)..].join("\n  "))
    }

    /// Kills Envoy. Its port is free when this returns.
    pub(crate) async fn kill(&mut self) {
        // Both fail only for a process that has ended.
        let _ = self.guard.kill().await;
        let _ = self.child.kill().await;
    }
}

/// Starts a shell that kills Envoy when its own input ends, as it does when the demo ends. Envoy itself does
/// not notice when the demo is killed, and would hold its port forever.
fn guard(envoy: &Child) -> anyhow::Result<Child> {
    let pid = envoy.id().context("it ended at its start")?;
    let guard = Command::new("sh")
        .args(["-c", "read -r _; kill -9 \"$0\"", &pid.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    Ok(guard)
}
