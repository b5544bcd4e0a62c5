//! State of the handlers: handles of the other rooms, wired by `app`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::Semaphore;

use crate::access::policy::Access;
use crate::admin::view::secret::SecretMask;
use crate::cache::Cache;
use crate::control::Control;
use crate::failover::supervisor::Supervisor;
use crate::nodes::Nodes;
use crate::source::resolve::ResolvedNames;
use crate::store::Store;
use crate::telemetry::events::Events;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::webhooks::Notifier;

/// State of the handlers.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Handle of the one writer.
    pub control: Control,
    /// Durable state.
    pub store: Arc<dyn Store>,
    /// Permits of those who read revisions.
    pub history_readers: HistoryReaders,
    /// Host names among the targets.
    pub names: ResolvedNames,
    /// Builds that are served, for reads.
    pub cache: Arc<Cache>,
    /// Orders, and what came of them.
    pub supervisor: Supervisor,
    /// Sender of events to webhooks.
    pub notifier: Notifier,
    /// Connected Envoys.
    pub nodes: Nodes,
    /// Events, for those who follow them.
    pub events: Events,
    /// Counters of the program.
    pub metrics: Metrics,
    /// Time at which the program started.
    pub started: Timestamp,
    /// Paths of the config.
    pub paths: Arc<[PathBuf]>,
    /// Places of the requests that read the config files.
    pub reads: Arc<Semaphore>,
    /// Addresses of the ports.
    pub addresses: BoundAddresses,
    /// Tokens and rates.
    pub access: Arc<Access>,
    /// Replaces the secrets in answers.
    pub mask: SecretMask,
    /// True if an existing entity changes only with `If-Match`.
    pub require_if_match: bool,
}

/// Permits to read revisions, whose edits may be large: further readers wait.
#[derive(Debug, Clone)]
pub struct HistoryReaders(pub Arc<Semaphore>);

impl Default for HistoryReaders {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(Self::MAX)))
    }
}

impl HistoryReaders {
    /// Maximum number of readers at once.
    const MAX: usize = 4;
}

/// Addresses that `serve` bound.
#[derive(Debug, Clone, Copy)]
pub struct BoundAddresses {
    /// Address of the xDS port.
    pub xds: SocketAddr,
    /// Address of this API.
    pub admin: SocketAddr,
}
