//! Server under measurement, and the changes of its config.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

use crate::process::Gauge;
use crate::server::{Server, address, name, upstream};

/// Subject of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChangeSubject {
    /// Weight of one target.
    Endpoints,
    /// Connect timeout of one upstream.
    Cluster,
}

/// Server under measurement.
#[derive(Debug)]
pub(crate) struct MeasuredServer {
    /// Address of the xDS server.
    pub(crate) xds: SocketAddr,
    /// Name of the cluster, and of its endpoints, that is going to change.
    pub(crate) changed: Option<String>,
    gauge: Option<Gauge>,
    change: ChangeMethod,
    /// Number of the change, different for every change.
    step: u64,
    /// Understudy that was started here; none for a foreign server.
    _own: Option<OwnServer>,
}

#[derive(Debug)]
enum ChangeMethod {
    Rest { client: reqwest::Client, admin: String },
    Command(String),
    None,
}

/// Understudy that was started here, ended when this is dropped.
#[derive(Debug)]
struct OwnServer {
    _server: Server,
    _directory: TempDir,
}

/// Size of a config.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// Number of clusters.
    pub(crate) upstreams: usize,
    /// Number of endpoints of each cluster.
    pub(crate) targets: usize,
}

impl MeasuredServer {
    /// Creates the target for a foreign server.
    pub(crate) fn foreign(
        xds: SocketAddr,
        pid: Option<u32>,
        change_command: Option<String>,
        changed: Option<String>,
    ) -> Self {
        let change = change_command.map_or(ChangeMethod::None, ChangeMethod::Command);
        Self { xds, changed, gauge: pid.map(Gauge::new), change, step: 0, _own: None }
    }

    /// Starts `binary` with a config of this size. One upstream is stored over REST, to be changed there; the
    /// others stand in a file.
    pub(crate) async fn start(binary: &Path, size: Size) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("understudy-load-").tempdir()?;
        // Understudy watches the parents of a config too: neither its log nor its store lies in one of them.
        let config = directory.path().join("config/of/load");
        std::fs::create_dir_all(&config)?;
        let changing = size.upstreams / 2;
        let others = (0..size.upstreams).filter(|number| *number != changing);
        let file =
            json!({ "upstreams": others.map(|number| upstream(number, size.targets)).collect::<Vec<_>>() });
        std::fs::write(config.join("upstreams.json"), file.to_string())?;
        if accepts_rollout(binary, directory.path()).await? {
            std::fs::write(config.join("rollout.yaml"), ROLLOUT)?;
        }
        let server = Server::start(binary, Some(&config), directory.path()).await?;
        let gauge = server.child.id().map(Gauge::new);
        let client = reqwest::Client::new();
        let body = upstream(changing, size.targets);
        let admin = format!("http://{}", server.admin);
        let created = client.post(format!("{admin}/upstreams")).json(&body).send().await?;
        let status = created.status();
        anyhow::ensure!(status.is_success(), "cannot store an upstream: {status} {}", created.text().await?);
        Ok(Self {
            xds: server.xds,
            changed: Some(name(changing)),
            gauge,
            change: ChangeMethod::Rest { client, admin },
            step: 0,
            _own: Some(OwnServer { _server: server, _directory: directory }),
        })
    }

    /// Returns the processor time that the server has used; zero if its process is not known.
    pub(crate) fn cpu(&mut self) -> anyhow::Result<Duration> {
        self.gauge.as_mut().map_or(Ok(Duration::ZERO), Gauge::cpu)
    }

    /// Returns the resident memory, in bytes; 0 if the process is not known.
    pub(crate) fn rss(&self) -> anyhow::Result<u64> {
        self.gauge.as_ref().map_or(Ok(0), Gauge::rss)
    }

    /// Makes one change, and returns the time of its request.
    pub(crate) async fn make(&mut self, what: ChangeSubject) -> anyhow::Result<Instant> {
        self.step += 1;
        let step = self.step % 100;
        let since = Instant::now();
        match &self.change {
            ChangeMethod::Rest { client, admin } => {
                let upstream = self.changed.as_deref().context("its name is known")?;
                let (path, body) = match what {
                    ChangeSubject::Cluster => {
                        (String::new(), json!({ "connect_timeout": format!("{}ms", 100 + step) }))
                    }
                    ChangeSubject::Endpoints => {
                        let number = upstream.trim_start_matches("u-").parse()?;
                        (format!("/targets/{}", address(number, 0)), json!({ "weight": 1 + step }))
                    }
                };
                let patch = client.patch(format!("{admin}/upstreams/{upstream}{path}")).json(&body);
                let answer = patch.send().await?;
                let status = answer.status();
                anyhow::ensure!(
                    status.is_success(),
                    "the change was refused: {status} {}",
                    answer.text().await?
                );
            }
            ChangeMethod::Command(command) => {
                let what = if what == ChangeSubject::Cluster { "cluster" } else { "endpoints" };
                let mut shell = Command::new("sh");
                let shell = shell.args(["-c", command]).env("WHAT", what).env("STEP", self.step.to_string());
                let status = shell.stdin(Stdio::null()).status().await?;
                anyhow::ensure!(status.success(), "the change command failed: {status}");
            }
            ChangeMethod::None => anyhow::bail!("this scenario changes the config: say --change-command"),
        }
        Ok(since)
    }

    /// Waits until the server has nothing more to do for `streams` streams.
    ///
    /// # Errors
    ///
    /// Fails if the server is still busy after a minute.
    pub(crate) async fn quiet(&mut self, streams: usize) -> anyhow::Result<()> {
        const WINDOW: Duration = Duration::from_millis(20);
        // Idle streams are pinged now and then.
        let idle = Duration::from_micros(500) + Duration::from_nanos(200) * u32::try_from(streams)?;
        let end = Instant::now() + Duration::from_secs(60);
        let (mut calm, mut last) = (0, self.cpu()?);
        while calm < 6 {
            tokio::time::sleep(WINDOW).await;
            let now = self.cpu()?;
            calm = if now.saturating_sub(last) < idle { calm + 1 } else { 0 };
            last = now;
            anyhow::ensure!(Instant::now() < end, "the server does not come to rest");
        }
        Ok(())
    }
}

const ROLLOUT: &str = "rollout: { canary: false }\n";

/// Returns true if this understudy knows `rollout`. The bounds are those of the protocol, without a canary;
/// older versions do not know the word.
async fn accepts_rollout(binary: &Path, directory: &Path) -> anyhow::Result<bool> {
    let probe: PathBuf = directory.join("probe.yaml");
    std::fs::write(&probe, ROLLOUT)?;
    let check = Command::new(binary).arg("check").arg(&probe).output().await;
    Ok(check.with_context(|| format!("cannot run {}", binary.display()))?.status.success())
}
