//! Everything that runs during a demo, and the directory for its files.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, bail};
use reqwest::Url;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::app::{self, App};
use crate::cli::demo::ports::Ports;
use crate::cli::demo::processes::{BackendProcess, EnvoyProcess};
use crate::cli::offline::bootstrap;
use crate::cli::offline::check;

pub(crate) const PRIMARY_1: &str = "PRIMARY-1";
pub(crate) const PRIMARY_2: &str = "PRIMARY-2";
pub(crate) const FAILOVER: &str = "FAILOVER";

/// Names of the backends of every demo.
pub(crate) const BACKENDS: [&str; 3] = [PRIMARY_1, PRIMARY_2, FAILOVER];

/// Time limit for Envoy until it serves. It is ready within a second on a machine that is not busy.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Control plane, Envoy and backends of a demo. Dropping it ends them all.
#[derive(Debug)]
pub(crate) struct DemoEnvironment {
    pub(crate) ports: Ports,
    pub(crate) backends: [BackendProcess; 3],
    envoy: EnvoyProcess,
    control_plane: App,
    /// Directory of the demo. Dropped last, so that it is removed when nothing writes there any more.
    directory: DemoDirectory,
}

impl DemoEnvironment {
    /// Starts everything, and returns once both primaries serve through Envoy.
    pub(crate) async fn start(envoy: &Path) -> anyhow::Result<Self> {
        let directory = DemoDirectory::new()?;
        directory.start_log()?;
        let (ports, control_plane) = control_plane(&directory).await?;
        let [first, second, third] = ports.backends;
        let backends = [
            BackendProcess::start(PRIMARY_1, first).await?,
            BackendProcess::start(PRIMARY_2, second).await?,
            BackendProcess::start(FAILOVER, third).await?,
        ];
        directory.write("bootstrap.yaml", &bootstrap(&ports)?)?;
        let envoy =
            EnvoyProcess::start(envoy, &directory.path("bootstrap.yaml"), directory.path("logs/envoy.log"))?;
        let mut environment = Self { ports, backends, envoy, control_plane, directory };
        environment.wait_until_primaries_serve().await?;
        Ok(environment)
    }

    async fn wait_until_primaries_serve(&mut self) -> anyhow::Result<()> {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(1)).build()?;
        let deadline = Instant::now() + TIMEOUT;
        let mut missing = vec![PRIMARY_1, PRIMARY_2];
        while !missing.is_empty() {
            if Instant::now() > deadline {
                bail!("Envoy does not serve after {TIMEOUT:?}{}", self.envoy.log_tail());
            }
            self.check()?;
            // Refused at first, then answered 503: Envoy is still starting.
            if let Ok(answer) = client.get(self.url()).send().await
                && answer.status().is_success()
            {
                let server = answer.headers().get("x-backend");
                missing.retain(|name| server.is_none_or(|server| server != name));
            } else {
                sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// Returns the URL for clients.
    pub(crate) fn url(&self) -> Url {
        let url = format!("http://{}/", self.ports.listener);
        url.parse().expect("an address makes an authority")
    }

    /// Returns the path of the config file that the user may edit.
    pub(crate) fn config(&self) -> PathBuf {
        self.directory.path("demo.yaml")
    }

    /// Returns the directory with the logs of Envoy and the control plane.
    pub(crate) fn logs(&self) -> PathBuf {
        self.directory.path("logs")
    }

    /// Checks that Envoy runs.
    ///
    /// # Errors
    ///
    /// Fails if Envoy has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        self.envoy.check()
    }

    /// Kills these backends, if they live. Nothing is awaited, so that requests before and after the kill can
    /// be distinguished.
    pub(crate) fn kill(&mut self, names: &[&str]) -> anyhow::Result<()> {
        let killed = self.backends.iter_mut().filter(|backend| names.contains(&backend.name));
        killed.filter_map(|backend| backend.is_alive().then(|| backend.kill())).collect()
    }

    /// Restarts all dead backends except these.
    pub(crate) async fn restart_all_except(&mut self, names: &[&str]) -> anyhow::Result<()> {
        for backend in &mut self.backends {
            if !names.contains(&backend.name) && !backend.is_alive() {
                backend.restart().await?;
            }
        }
        Ok(())
    }

    /// Ends everything. All ports are free again when this returns.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.envoy.kill().await;
        for backend in &mut self.backends {
            backend.stop().await;
        }
        drop(self.control_plane);
        let path = self.directory.0.path().to_owned();
        self.directory.0.close().with_context(|| format!("cannot remove {}", path.display()))
    }
}

/// Directory of a demo. Only the config is at the top: the control plane looks at every change there.
#[derive(Debug)]
struct DemoDirectory(TempDir);

impl DemoDirectory {
    fn new() -> anyhow::Result<Self> {
        let make = || {
            let directory = tempfile::Builder::new().prefix("understudy-demo-").tempdir()?;
            fs::create_dir(directory.path().join("logs"))?;
            io::Result::Ok(directory)
        };
        make().map(Self).context("cannot make a temporary directory")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.path(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Starts logging to a file, because lines on the terminal would tear the table apart.
    fn start_log(&self) -> anyhow::Result<()> {
        let path = self.path("logs/understudy.log");
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        tracing_subscriber::fmt()
            .with_env_filter("info")
            .with_ansi(false)
            .with_writer(Mutex::new(file))
            .try_init()
            .map_err(|error| anyhow::anyhow!(error))
    }
}

/// Starts the control plane on the first free set of ports.
async fn control_plane(directory: &DemoDirectory) -> anyhow::Result<(Ports, App)> {
    for ports in Ports::candidates().filter(Ports::free) {
        directory.write("demo.yaml", &config(&ports))?;
        let options = app::Options {
            paths: vec![directory.path("demo.yaml")],
            xds: ports.xds,
            admin: ports.admin,
            data: directory.path("data"),
            ..app::Options::default()
        };
        match App::start(options).await {
            Ok(app) => return Ok((ports, app)),
            Err(app::Error::Other(error)) if is_address_in_use(&error) => {} // Another demo was faster.
            Err(app::Error::Other(error)) => return Err(error),
            Err(app::Error::Config(violations)) => {
                check::report(&violations);
                bail!("the control plane refused the demo's config");
            }
        }
    }
    bail!("every set of ports for the demo has a port that is in use")
}

fn is_address_in_use(error: &anyhow::Error) -> bool {
    let cause = error.root_cause().downcast_ref::<io::Error>();
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::AddrInUse)
}

/// Returns the config, without any health check or retry: the demo shows the defaults.
fn config(ports: &Ports) -> String {
    let Ports { listener, backends: [first, second, third], .. } = ports;
    format!(
        "\
# What the demo serves. Save a change, and Envoy has it a moment later.
listeners:
  - name: demo
    address: {listener}
routes:
  - name: demo
    service: demo
services:
  - name: demo
    upstream: demo
upstreams:
  - name: demo
    targets:
      - {{ target: {first} }}                  # {PRIMARY_1}
      - {{ target: {second} }}                  # {PRIMARY_2}
      - {{ target: {third}, failover: true }}  # {FAILOVER}: serves when no other can
"
    )
}

fn bootstrap(ports: &Ports) -> anyhow::Result<String> {
    bootstrap::render(&bootstrap::Options {
        xds: ports.xds.to_string(),
        node_id: "demo".to_owned(),
        node_cluster: "demo".to_owned(),
        node_locality: None,
        envoy_admin: Some(ports.envoy_admin),
        delta: false,
        tls: bootstrap::XdsTlsOptions::default(),
    })
}
