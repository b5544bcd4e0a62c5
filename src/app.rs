//! Wiring of the control plane: sockets, admin API, watched files, xDS server, shutdown.

mod exposure;
mod health;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::access::descriptors::{self, ConnectionShares};
use crate::access::identity::IdentityRules;
use crate::access::incoming::{ConnectionLimit, Incoming};
use crate::access::policy::{Access, AccessPolicy};
use crate::access::tls::{PortTls, TlsFiles};
use crate::admin;
use crate::admin::http::gate::AdminGate;
use crate::admin::http::serve::{self, TOO_MANY_CONNECTIONS};
use crate::admin::state::{Admin, HistoryReaders};
use crate::admin::view::secret::SecretMask;
use crate::app::exposure::{XdsClients, warn_of_exposure};
use crate::cache::Cache;
use crate::config::Violation;
use crate::config::dialect::ReadingTerms;
use crate::config::edit::Files;
use crate::control::Control;
use crate::control::operation::WriteError;
use crate::control::start::{ARRIVAL, Start};
use crate::failover::ledger::Ledger;
use crate::failover::supervisor::Supervisor;
use crate::failover::traffic::Traffic;
use crate::inspect::removal::{AllowedLosses, LossLimits};
use crate::nodes::Nodes;
use crate::nodes::report::NodeReport;
use crate::source::files;
use crate::source::material::MaterialReader;
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

/// Number of requests that read the config files at the same time.
const READS_AT_ONCE: usize = 4;

/// Number of descriptors below which a start warns: a fleet of a thousand Envoys needs some 1,200.
const FEW_DESCRIPTORS: u64 = 2_048;

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
    /// Rules for the node that an Envoy's certificate permits. They apply only if clients must show a
    /// certificate.
    pub node_identity: IdentityRules,
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
    /// True if Envoys are answered that run the config of another data directory, or one that is not known.
    pub allow_foreign: bool,
    /// Terms under which files are read.
    pub terms: ReadingTerms,
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
            node_identity: IdentityRules::of_node_id(),
            admin_tls: None,
            require_token: false,
            requests_per_second: REQUESTS_PER_SECOND,
            loss_limits: LossLimits::default(),
            material_dir: None,
            allow_foreign: false,
            terms: ReadingTerms::default(),
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
        let clients = xds_clients(&options);
        let access = Access::new(policy(&options), &*core.store).context("cannot read the tokens")?;
        let mask = SecretMask::open(&*core.store).context("cannot read the key of shown hashes")?;
        let (notifier, loads) = (Notifier::default(), nodes.subscribe_reports());
        let mut servers = JoinSet::new();
        servers.spawn(supervise(core.supervisor.clone(), loads));
        servers.spawn(notify(notifier.clone(), events.clone(), core.cache.clone()));
        servers.spawn(warn_of_exposure(core.cache.clone(), clients));
        servers.spawn(serve_xds(ports.xds, discovery, stop));
        servers.spawn(health::watch(core.store.clone(), core.control.clone(), gate.clone()));
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
            reads: Arc::new(Semaphore::new(READS_AT_ONCE)),
            addresses,
            access: Arc::new(access),
            mask,
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
        let shares = share_descriptors();
        let limit = |port, connections, refusal| ConnectionLimit { port, connections, refusal };
        let xds = Incoming::new(xds, xds_tls, limit("xds", shares.xds, b""));
        let admin = Incoming::new(admin, admin_tls, limit("admin", shares.admin, TOO_MANY_CONNECTIONS));
        Ok(Self { xds, admin, addresses })
    }
}

impl Core {
    /// Opens the store, builds the first config and follows the config paths.
    async fn start(options: &Options, telemetry: Telemetry) -> Result<Self, Error> {
        let read = files::read(&options.paths);
        let last = read.clone().unwrap_or_default();
        let (data, events) = (options.data.clone(), telemetry.events.clone());
        let (limits, allows_foreign) = (options.loss_limits, options.allow_foreign);
        let material_dir = options.material_dir.as_deref().map(material_directory).transpose()?;
        let (runtime, terms) = (tokio::runtime::Handle::current(), options.terms.clone());
        let files = (read, terms, material_dir);
        let start = move || open(&data, files, (limits, allows_foreign), telemetry, &runtime);
        let started = tokio::task::spawn_blocking(start).await.context("the first build did not end")?;
        let Opened { store, names, control, cache, ledger } = started.map_err(|error| match error {
            WriteError::Refused(violations) => Error::Config(violations),
            WriteError::Store(error) => Error::Other(anyhow::Error::new(error)),
            error => Error::Other(error.into()),
        })?;
        for empty in cache.build().adjusted(files::empty(&options.paths)) {
            warn!(path = empty.file, "{}", empty.message);
        }
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
    (files, terms, material_dir): (Result<Files, Vec<Violation>>, ReadingTerms, Option<Arc<Path>>),
    (loss_limits, allows_foreign): (LossLimits, bool),
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
        material: MaterialReader::new(material_dir),
        terms,
        allows_foreign,
        arrival: ARRIVAL,
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

/// Refuses addresses that are open to others without protection.
fn check_exposure(options: &Options) -> anyhow::Result<()> {
    guard("xds", options.xds, options.xds_tls.is_some() || options.insecure)?;
    guard("admin", options.admin, options.admin_tls.is_some() || options.insecure)?;
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

/// Returns the clients that the xDS port lets in.
fn xds_clients(options: &Options) -> XdsClients {
    match identity(options) {
        Some(rules) => XdsClients::Certified(rules),
        None if options.xds.ip().is_loopback() => XdsClients::Local,
        None => XdsClients::All,
    }
}

/// Returns the rules for the nodes of client certificates; none without them.
fn identity(options: &Options) -> Option<IdentityRules> {
    let shows_certificate = options.xds_tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
    shows_certificate.then(|| options.node_identity.clone())
}

/// Passes every change of the config paths, and of the files that the config names, to the control.
fn follow(control: Control, poll: Duration, paths: Vec<PathBuf>, mut last: Files) {
    let mut named = control.named_files();
    let watched = {
        let (paths, named) = (paths.clone(), named.clone());
        move || {
            paths
                .iter()
                .cloned()
                .chain(named.borrow().iter().map(|named| PathBuf::from(&named.path)))
                .collect()
        }
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

async fn notify(notifier: Notifier, events: Events, cache: Arc<Cache>) -> anyhow::Result<()> {
    notifier.run(&events, &cache).await
}

async fn serve_admin(incoming: Incoming, gate: AdminGate, stop: watch::Receiver<bool>) -> anyhow::Result<()> {
    serve::serve(incoming, gate, stopped(stop)).await;
    Ok(())
}

/// Raises the limit of descriptors to the hard limit, and shares them out among the ports.
fn share_descriptors() -> ConnectionShares {
    let limit = descriptors::raise().unwrap_or_else(|error| {
        warn!(%error, "the limit of open descriptors cannot be raised");
        descriptors::limit()
    });
    let shares = ConnectionShares::of(limit);
    let ConnectionShares { xds, admin } = shares;
    if limit < FEW_DESCRIPTORS {
        warn!(
            limit,
            xds, admin, "there are few descriptors for connections: raise the hard limit (ulimit -Hn)"
        );
    }
    shares
}
