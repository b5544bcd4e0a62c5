//! Wiring of the control plane: sockets, admin API, watched files, xDS server, shutdown.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::access::identity::IdentityRule;
use crate::access::incoming::Incoming;
use crate::access::policy::{Access, AccessPolicy};
use crate::access::tls::{PortTls, TlsFiles};
use crate::admin;
use crate::admin::http::gate::AdminGate;
use crate::admin::http::guard::PeerAddress;
use crate::admin::state::{Admin, HistoryReaders};
use crate::cache::Cache;
use crate::config::Violation;
use crate::config::edit::Files;
use crate::control::Control;
use crate::control::operation::WriteError;
use crate::control::start::Start;
use crate::failover::ledger::Ledger;
use crate::failover::supervisor::Supervisor;
use crate::failover::traffic::Traffic;
use crate::inspect::removal::{AllowedLosses, LossLimits};
use crate::nodes::Nodes;
use crate::nodes::report::NodeReport;
use crate::source::files;
use crate::source::resolve::{DnsResolver, ResolvedNames};
use crate::source::watch as watcher;
use crate::store::Store;
use crate::store::redb::RedbStore;
use crate::telemetry::events::Events;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::webhooks::Notifier;
use crate::xds::port::guard::PortGuard;
use crate::xds::port::limits::StreamLimits;
use crate::xds::service;
use crate::xds::service::discovery::DiscoveryService;

/// Maximum number of connections waiting to be accepted. After a restart the whole fleet reconnects at once.
const BACKLOG: u32 = 4096;

/// Time limits at shutdown: for requests under way, then for the last bytes of their responses.
const GRACE: Duration = Duration::from_secs(10);
const LAST_BYTES: Duration = Duration::from_secs(1);

/// Interval at which the health of the store is checked.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

/// Settings of the control plane. The default has the values that `serve` uses without options.
#[derive(Debug, Clone)]
pub struct Options {
    /// Config files and directories; empty for REST only.
    pub paths: Vec<PathBuf>,
    /// Listen address of the xDS server.
    pub xds: SocketAddr,
    /// Listen address of the admin API.
    pub admin: SocketAddr,
    /// Interval at which files are read without a file event.
    pub poll: Duration,
    /// Data directory.
    pub data: PathBuf,
    /// True if addresses other than loopback are allowed without TLS.
    pub insecure: bool,
    /// True if existing entities are changed over REST only with `If-Match`.
    pub require_if_match: bool,
    /// TLS files of the xDS port; none for plain text.
    pub xds_tls: Option<TlsFiles>,
    /// Rule for the node that an Envoy's certificate permits. Applies only if clients must show a
    /// certificate.
    pub node_identity: IdentityRule,
    /// TLS files of the admin API; none for plain text.
    pub admin_tls: Option<TlsFiles>,
    /// True if the admin API requires a token on loopback too.
    pub require_token: bool,
    /// Maximum number of requests per second for each token.
    pub requests_per_second: u32,
    /// Limits of the losses that changes by files may cause.
    pub loss_limits: LossLimits,
    /// Directory below which requests may name files with keys and certificates; none: nowhere.
    pub material_dir: Option<PathBuf>,
}

/// Default of [`Options::requests_per_second`].
pub const REQUESTS_PER_SECOND: u32 = 10_000;

impl Default for Options {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            paths: Vec::new(),
            xds: loopback(18000),
            admin: loopback(8001),
            poll: watcher::POLL,
            data: "./understudy-data".into(),
            insecure: false,
            require_if_match: false,
            xds_tls: None,
            node_identity: IdentityRule::Pattern("{id}".to_owned()),
            admin_tls: None,
            require_token: false,
            requests_per_second: REQUESTS_PER_SECOND,
            loss_limits: LossLimits::default(),
            material_dir: None,
        }
    }
}

/// Reason why serving did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Faults of the files or of the entities in the data directory.
    #[error("the config has {} faults", .0.len())]
    Config(Vec<Violation>),
    /// Any other failure.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

/// Running control plane. Dropping it stops it at once.
#[derive(Debug)]
pub struct App {
    control: Control,
    addresses: admin::state::BoundAddresses,
    gate: AdminGate,
    shutdown: watch::Sender<bool>,
    admin: JoinSet<anyhow::Result<()>>,
    servers: JoinSet<anyhow::Result<()>>,
}

/// Bound ports, with their TLS.
struct BoundPorts {
    xds: Incoming,
    admin: Incoming,
    addresses: admin::state::BoundAddresses,
}

/// Connected nodes, events and metrics.
#[derive(Clone)]
struct Telemetry {
    nodes: Nodes,
    events: Events,
    metrics: Metrics,
}

/// Config with everything that changes it: store, control, followed files, and the supervisor of orders.
struct Core {
    store: Arc<dyn Store>,
    names: ResolvedNames,
    control: Control,
    cache: Arc<Cache>,
    supervisor: Supervisor,
}

impl App {
    /// Loads the config, binds both ports and serves.
    ///
    /// # Errors
    ///
    /// Fails with all faults of the config, or if an address or the data directory cannot be used.
    pub async fn start(options: Options) -> Result<Self, Error> {
        check_exposure(&options)?;
        // Bound before the store is opened, so that a second understudy fails here and writes or serves
        // nothing.
        let ports = BoundPorts::bind(&options)?;
        let addresses = ports.addresses;
        let (shutdown, stop) = watch::channel(false);
        let (gate, mut api) = (AdminGate::default(), JoinSet::new());
        api.spawn(serve_admin(ports.admin, gate.clone(), stop.clone()));

        let (events, metrics) = (Events::default(), Metrics::default());
        let telemetry = Telemetry { nodes: Nodes::new(events.clone()), events, metrics };
        let core = Core::start(&options, telemetry.clone()).await?;
        let Telemetry { nodes, events, metrics } = telemetry;
        let guard = PortGuard::new(StreamLimits::default());
        let guard = guard.with_metrics(metrics.clone()).with_identity(identity(&options));
        let discovery = DiscoveryService::new(core.cache.clone(), nodes.clone(), &identifier(), guard);
        let access = Access::new(policy(&options), &*core.store).context("cannot read the tokens")?;
        let (notifier, loads) = (Notifier::default(), nodes.subscribe_reports());
        let mut servers = JoinSet::new();
        servers.spawn(supervise(core.supervisor.clone(), loads));
        servers.spawn(notify(notifier.clone(), events.clone(), core.cache.clone()));
        servers.spawn(serve_xds(ports.xds, discovery, stop));
        servers.spawn(watch_health(core.store.clone(), gate.clone()));
        let control = core.control.clone();
        gate.open(admin::service(Admin {
            control: core.control,
            store: core.store,
            names: core.names,
            cache: core.cache,
            supervisor: core.supervisor,
            notifier,
            nodes,
            events,
            metrics,
            started: Timestamp::now(),
            history_readers: HistoryReaders::default(),
            paths: options.paths.into(),
            addresses,
            access: Arc::new(access),
            require_if_match: options.require_if_match,
        }));
        info!(xds = %addresses.xds, admin = %addresses.admin, "serving");
        Ok(Self { control, addresses, gate, shutdown, admin: api, servers })
    }

    /// Returns the bound addresses.
    pub fn addresses(&self) -> admin::state::BoundAddresses {
        self.addresses
    }

    /// Serves until `stop` resolves or a server fails. Envoys keep the config they have.
    ///
    /// # Errors
    ///
    /// Fails if a server fails, or if the thread that makes changes ends.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        tokio::select! {
            () = stop => {}
            Some(ended) = self.servers.join_next() => ended.context("a server panicked")??,
            Some(ended) = self.admin.join_next() => ended.context("the admin API panicked")??,
            () = self.control.ended() => anyhow::bail!(
                "a fault of understudy's own ended the thread that makes changes (see the panic above); what was \
                 acknowledged is stored, and Envoys keep what they have: start it again, and report this"
            ),
        }
        info!("shutting down");
        self.gate.close(GRACE).await;
        self.shutdown.send_replace(true);
        // Followers of the event stream do not disconnect by themselves.
        let _ = tokio::time::timeout(LAST_BYTES, self.admin.join_next()).await;
        // xDS streams do not end by themselves: they are cut. Envoy reconnects once a control plane listens
        // again.
        self.servers.shutdown().await;
        Ok(())
    }
}

impl BoundPorts {
    fn bind(options: &Options) -> anyhow::Result<Self> {
        let xds_tls = watch_tls(options.xds_tls.as_ref(), "xds", &["h2"])?;
        let admin_tls = watch_tls(options.admin_tls.as_ref(), "admin", &["http/1.1"])?;
        let xds = bind(options.xds).context("cannot serve xDS")?;
        let admin = bind(options.admin).context("cannot serve the admin API")?;
        let addresses = admin::state::BoundAddresses {
            xds: xds.local_addr().context("cannot serve xDS")?,
            admin: admin.local_addr().context("cannot serve the admin API")?,
        };
        Ok(Self { xds: Incoming::new(xds, xds_tls), admin: Incoming::new(admin, admin_tls), addresses })
    }
}

impl Core {
    /// Opens the store, builds the first config and follows the config paths.
    async fn start(options: &Options, telemetry: Telemetry) -> Result<Self, Error> {
        let read = files::read(&options.paths);
        for empty in files::empty(&options.paths) {
            warn!(path = empty.file, "{}", empty.message);
        }
        let last = read.clone().unwrap_or_default();
        let (data, events, limits) = (options.data.clone(), telemetry.events.clone(), options.loss_limits);
        let material_dir = options.material_dir.as_deref().map(material_directory).transpose()?;
        let runtime = tokio::runtime::Handle::current();
        let start = move || open(&data, (read, material_dir), limits, telemetry, &runtime);
        let started = tokio::task::spawn_blocking(start).await.context("the first build did not end")?;
        let Opened { store, names, control, cache, ledger } = started.map_err(|error| match error {
            WriteError::Refused(violations) => Error::Config(violations),
            WriteError::Store(error) => Error::Other(anyhow::Error::new(error)),
            error => Error::Other(error.into()),
        })?;
        follow(control.clone(), options.poll, options.paths.clone(), last);
        let hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
        tokio::spawn(reload_on(hangup, control.clone(), options.paths.clone()));
        let traffic = Arc::new(Traffic::default());
        let supervisor =
            Supervisor::new(control.clone(), store.clone(), cache.clone(), traffic, events, ledger);
        Ok(Self { store, names, control, cache, supervisor })
    }
}

/// Opened store, with the first config.
struct Opened {
    store: Arc<dyn Store>,
    names: ResolvedNames,
    control: Control,
    cache: Arc<Cache>,
    ledger: Ledger,
}

/// Opens the store and builds the first config; blocks.
fn open(
    data: &Path,
    (files, material_dir): (Result<Files, Vec<Violation>>, Option<Arc<Path>>),
    loss_limits: LossLimits,
    telemetry: Telemetry,
    runtime: &tokio::runtime::Handle,
) -> Result<Opened, WriteError> {
    let store: Arc<dyn Store> = Arc::new(RedbStore::open(data)?);
    let ledger = Ledger::open(&*store, Timestamp::now())?;
    let resolver = DnsResolver::new();
    let names = resolver.names();
    let Telemetry { nodes, events, metrics } = telemetry;
    let start = Start {
        files,
        store: store.clone(),
        resolver,
        overrides: ledger.orders.overrides(),
        events,
        metrics,
        nodes,
        loss_limits,
        material_dir,
    };
    let (control, cache) = Control::start(start, runtime)?;
    Ok(Opened { store, names, control, cache, ledger })
}

/// Returns the absolute path of the directory below which requests may name files.
fn material_directory(directory: &Path) -> anyhow::Result<Arc<Path>> {
    anyhow::ensure!(directory.is_dir(), "--material-dir: {} is no directory", directory.display());
    let absolute = std::path::absolute(directory).context("cannot use --material-dir")?;
    Ok(absolute.into())
}

/// Refuses addresses that are open to others without protection, and warns of an open xDS port.
fn check_exposure(options: &Options) -> anyhow::Result<()> {
    guard("xds", options.xds, options.xds_tls.is_some() || options.insecure)?;
    guard("admin", options.admin, options.admin_tls.is_some() || options.insecure)?;
    if !options.xds.ip().is_loopback() && options.xds_tls.as_ref().is_some_and(|tls| tls.client_ca.is_none())
    {
        warn!("any Envoy that reaches --xds is told the config, keys included; --xds-client-ca ends that");
    }
    Ok(())
}

fn watch_tls(
    files: Option<&TlsFiles>,
    port: &'static str,
    protocols: &'static [&'static str],
) -> anyhow::Result<Option<PortTls>> {
    let watched = files.cloned().map(|files| PortTls::watch(files, port, protocols));
    watched.transpose().map_err(anyhow::Error::from)
}

/// Returns the policy of the admin API.
fn policy(options: &Options) -> AccessPolicy {
    AccessPolicy {
        loopback: options.admin.ip().is_loopback(),
        tls: options.admin_tls.is_some(),
        require_token: options.require_token,
        requests_per_second: options.requests_per_second,
    }
}

/// Returns the rule for the nodes of client certificates; any node without them.
fn identity(options: &Options) -> IdentityRule {
    let shows_certificate = options.xds_tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
    if shows_certificate { options.node_identity.clone() } else { IdentityRule::Any }
}

/// Passes every change of the config paths, and of the files that the config names, to the control.
fn follow(control: Control, poll: Duration, paths: Vec<PathBuf>, mut last: Files) {
    let mut named = control.named_files();
    let watched = {
        let (paths, named) = (paths.clone(), named.clone());
        move || paths.iter().cloned().chain(named.borrow().iter().map(PathBuf::from)).collect()
    };
    let nudge = watcher::watch(poll, watched, move || {
        let read = files::read_settled(&paths, &last);
        if let Ok(files) = &read {
            last.clone_from(files);
        }
        control.files(read)
    });
    tokio::spawn(async move {
        while named.changed().await.is_ok() {
            named.mark_unchanged();
            nudge.nudge();
        }
    });
}

/// Reloads the config paths at every signal.
async fn reload_on(mut signals: Signal, control: Control, paths: Vec<PathBuf>) -> anyhow::Result<()> {
    while signals.recv().await.is_some() {
        let paths = paths.clone();
        let read = tokio::task::spawn_blocking(move || files::read(&paths)).await?;
        info!("told to read the files again");
        control.reload(read, AllowedLosses::default()).await?;
    }
    Ok(())
}

/// Refuses an address other than loopback unless `is_fine`. Without TLS, any client that reaches the port may
/// read and write everything.
fn guard(name: &str, address: SocketAddr, is_fine: bool) -> anyhow::Result<()> {
    anyhow::ensure!(
        is_fine || address.ip().is_loopback(),
        "--{name} {address} is open to others, without encryption or authentication: choose a loopback address, \
         give it --{name}-tls-cert and --{name}-tls-key, or say --insecure"
    );
    Ok(())
}

fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().with_context(|| format!("cannot listen on {address}"))
}

/// Returns the identifier of this control plane in xDS responses. Envoy shows it in its statistics.
fn identifier() -> String {
    format!("understudy {} ({})", env!("CARGO_PKG_VERSION"), std::process::id())
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // A dropped sender means stop too.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn serve_xds(
    incoming: Incoming,
    discovery: DiscoveryService,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    service::serve(incoming, discovery, stopped(stop)).await.context("xDS failed")
}

async fn supervise(supervisor: Supervisor, loads: mpsc::Receiver<NodeReport>) -> anyhow::Result<()> {
    tokio::join!(supervisor.run(), supervisor.ingest_reports(loads));
    Ok(())
}

/// Makes `/readyz` answer 503 while the store cannot be changed.
async fn watch_health(store: Arc<dyn Store>, gate: AdminGate) -> anyhow::Result<()> {
    let mut is_healthy = true;
    loop {
        let store = store.clone();
        let health = tokio::task::spawn_blocking(move || store.health()).await?;
        match &health {
            Err(error) if is_healthy => {
                let error = error as &dyn std::error::Error;
                error!(error, "nothing can be changed any more; what is served stays");
            }
            Ok(()) if !is_healthy => info!("changes are accepted again"),
            _ => {}
        }
        is_healthy = health.is_ok();
        gate.set_unready(health.err().map(|error| format!("{:#}", anyhow::Error::new(error))));
        tokio::time::sleep(HEALTH_INTERVAL).await;
    }
}

async fn notify(notifier: Notifier, events: Events, cache: Arc<Cache>) -> anyhow::Result<()> {
    notifier.run(&events, &cache).await
}

async fn serve_admin(incoming: Incoming, gate: AdminGate, stop: watch::Receiver<bool>) -> anyhow::Result<()> {
    let service = gate.router().into_make_service_with_connect_info::<PeerAddress>();
    axum::serve(incoming, service).with_graceful_shutdown(stopped(stop)).await.context("the admin API failed")
}
