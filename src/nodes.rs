//! Status of the connected Envoys: their identity, and the version of each type that they acknowledged or
//! refused. The last status of an Envoy is kept for an hour after it disconnects.

pub mod nack;
mod registry;
pub mod report;
pub mod status;
pub mod unknown;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::sync::mpsc;

use self::registry::Registry;
use self::report::NodeReport;
use self::status::{Nack, Presence, Provenance, TypeStatus};
use self::unknown::UnknownReporters;
use crate::build::snapshot::store_id::StoreId;
use crate::envoy::ResourceType;
use crate::envoy::checks::CheckResults;
use crate::envoy::load_totals::LoadTotals;
use crate::envoy::loads::LoadReport;
use crate::envoy::node::{Locality, Node};
use crate::telemetry::events::{Event, Events};

/// Number of reports that are queued; further reporters wait.
const MAX_QUEUED_REPORTS: usize = 64;

/// Status of all Envoys. Cheap to clone: clones share their state.
///
/// The mutex is a blocking one: it is held while a few fields are copied and never across an await.
#[derive(Debug, Clone, Default)]
pub struct Nodes {
    nodes: Arc<Mutex<Registry>>,
    events: Events,
    signal: Arc<WakeSignal>,
    /// Channel to the single consumer of load reports; unset before [`Nodes::subscribe_reports`].
    listener: Arc<OnceLock<mpsc::Sender<NodeReport>>>,
    unknown_reporters: UnknownReporters,
}

/// Wakes the task that waits in [`Nodes::changed`].
#[derive(Debug, Default)]
struct WakeSignal {
    notify: Notify,
    is_close: AtomicBool,
}

impl Nodes {
    /// Creates an empty registry that publishes connections and disconnections in `events`.
    pub fn new(events: Events) -> Self {
        Self { events, ..Self::default() }
    }

    /// Returns the publisher of events about Envoys.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Returns the clients that report in the name of nodes without a discovery stream.
    pub fn unknown_reporters(&self) -> &UnknownReporters {
        &self.unknown_reporters
    }

    /// Records a new stream; it counts as connected until the guard is dropped.
    pub fn connect(&self, node: Node, address: Option<SocketAddr>) -> StreamGuard {
        let (id, cluster) = (node.id.clone(), node.cluster.clone());
        let mut nodes = self.lock();
        let stream = nodes.connect(node, address, Timestamp::now());
        let is_arrival = nodes.streams(&id) == 1;
        if is_arrival {
            self.events.publish(&Event::Connected { node: id, cluster });
        }
        drop(nodes);
        self.wake(is_arrival);
        StreamGuard { nodes: self.clone(), stream }
    }

    /// Returns the channel of load reports and check results from now on, which `Supervisor::ingest_reports`
    /// receives. Only the first call gets them.
    pub fn subscribe_reports(&self) -> mpsc::Receiver<NodeReport> {
        let (sender, receiver) = mpsc::channel(MAX_QUEUED_REPORTS);
        // A second receiver is closed at once.
        let _ = self.listener.set(sender);
        receiver
    }

    /// Queues the check results of a node, which reports them at this interval; waits while the queue is
    /// full.
    pub async fn report_checks(&self, node: &str, interval: Duration, findings: CheckResults) {
        self.queue(NodeReport::HealthChecks { node: node.to_owned(), interval, findings }).await;
    }

    async fn queue(&self, report: NodeReport) {
        if let Some(listener) = self.listener.get() {
            // The receiver is gone when the server shuts down.
            let _ = listener.send(report).await;
        }
    }

    /// Records that a node at this locality began to report its load, which it does until the guard is
    /// dropped.
    pub async fn begin_load_reports(&self, node: String, locality: Locality) -> ReporterGuard {
        self.lock().begin_reports(&node);
        let reporter = ReporterGuard { nodes: self.clone(), node };
        self.queue(NodeReport::Joined { node: reporter.node.clone(), locality }).await;
        reporter
    }

    /// Lists every node: first the disconnected ones by time of departure, then every stream by age, oldest
    /// first.
    pub fn nodes(&self) -> Vec<Presence> {
        self.lock().list(Timestamp::now())
    }

    /// Returns the newest stream of a node, or its last status if it disconnected.
    pub fn node(&self, id: &str) -> Option<Presence> {
        self.lock().find(id, Timestamp::now())
    }

    /// Returns the streams of a node, oldest first.
    pub fn streams(&self, id: &str) -> Vec<Presence> {
        let nodes = self.lock();
        let streams = nodes.by_id.get(id).map(|record| record.streams.as_slice()).unwrap_or_default();
        streams.iter().filter_map(|stream| nodes.connected.get(stream).cloned()).collect()
    }

    /// Returns the sum of the load reports of a node.
    pub fn totals(&self, id: &str) -> LoadTotals {
        self.lock().by_id.get(id).map(|record| record.totals).unwrap_or_default()
    }

    /// Waits until an Envoy connects or refuses something; in close mode ([`Self::follow_closely`]) also until
    /// one disconnects, answers or reports its load. Only one task may wait.
    pub async fn changed(&self) {
        self.signal.notify.notified().await;
    }

    /// Switches the close mode of [`Self::changed`], in which all events wake it, on or off.
    pub fn follow_closely(&self, is_close: bool) {
        self.signal.is_close.store(is_close, Ordering::Relaxed);
    }

    /// Takes the refusals that began since the last call.
    pub fn take_nacks(&self) -> Vec<Arc<Nack>> {
        std::mem::take(&mut self.lock().nacks)
    }

    /// Takes the foreign stores whose clients are answered since the last call.
    pub fn take_answered_stores(&self) -> BTreeSet<StoreId> {
        std::mem::take(&mut self.lock().answered_stores)
    }

    /// Returns the foreign stores of the clients that are not answered.
    pub fn withheld_stores(&self) -> BTreeSet<StoreId> {
        let nodes = self.lock();
        let withheld = nodes.connected.values().filter(|presence| presence.provenance.withheld.is_some());
        withheld.filter_map(|presence| presence.provenance.foreign_store).collect()
    }

    /// Returns the number of nodes that are not answered.
    pub fn withheld(&self) -> usize {
        let nodes = self.lock();
        let withheld = nodes.connected.values().filter(|presence| presence.provenance.withheld.is_some());
        withheld.map(|presence| &presence.node.id).collect::<BTreeSet<_>>().len()
    }

    /// Takes the nodes that connected since the last call and are still connected.
    pub fn take_arrivals(&self) -> Vec<Node> {
        self.lock().take_arrivals()
    }

    /// Wakes the writer's thread, which waits in `Writer::wait`: outside of the close mode if it is due.
    fn wake(&self, is_due: bool) {
        if is_due || self.signal.is_close.load(Ordering::Relaxed) {
            self.signal.notify.notify_one();
        }
    }

    /// Returns the streams for which `is_wanted` is true, oldest first.
    pub fn select(&self, is_wanted: impl Fn(&Presence) -> bool) -> Vec<Presence> {
        self.lock().connected.values().filter(|presence| is_wanted(presence)).cloned().collect()
    }

    /// Returns the number of streams.
    pub fn connected(&self) -> usize {
        self.lock().connected.len()
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Guard of one stream in the [`Nodes`].
#[derive(Debug)]
pub struct StreamGuard {
    nodes: Nodes,
    stream: u64,
}

impl StreamGuard {
    /// Records the status of the stream with the newest generation that it was compared with. The time of an
    /// unchanged status is kept. `refused` are the types of responses that were refused since the last call,
    /// each with the generation of the response.
    pub fn record<'a>(
        &self,
        generation: u64,
        refused: &[(ResourceType, u64)],
        statuses: impl IntoIterator<Item = (ResourceType, TypeStatus<'a>)>,
    ) {
        let has_nacks = {
            let mut nodes = self.nodes.lock();
            nodes.record(self.stream, (generation, refused), statuses, Timestamp::now());
            !nodes.nacks.is_empty()
        };
        self.nodes.wake(has_nacks);
    }
}

impl StreamGuard {
    /// Records the origin of the config with which the client came. True if it is the first stream of its node
    /// that is not answered.
    pub fn record_provenance(&self, provenance: Provenance) -> bool {
        let is_new = self.nodes.lock().record_provenance(self.stream, provenance);
        // A store that is adopted has to be recorded, and rollouts do not wait for those who are not answered.
        self.nodes.wake(provenance.is_adopted);
        is_new
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        let mut nodes = self.nodes.lock();
        let id = nodes.connected.get(&self.stream).map(|presence| presence.node.id.clone());
        nodes.disconnect(self.stream, Timestamp::now());
        if let Some(node) = id.filter(|id| nodes.streams(id) == 0) {
            self.nodes.events.publish(&Event::Disconnected { node });
        }
        drop(nodes);
        self.nodes.wake(false);
    }
}

/// Guard of a node's stream of load reports.
#[derive(Debug)]
pub struct ReporterGuard {
    nodes: Nodes,
    node: String,
}

impl ReporterGuard {
    /// Records a report and queues it; waits while the queue is full.
    pub async fn report(&self, report: LoadReport) {
        self.nodes.lock().report(&self.node, report.totals, Timestamp::now());
        self.nodes.wake(false);
        self.nodes.queue(NodeReport::Load { node: self.node.clone(), report }).await;
    }
}

impl Drop for ReporterGuard {
    fn drop(&mut self) {
        if !self.nodes.lock().end_reports(&self.node) {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            let (nodes, node) = (self.nodes.clone(), std::mem::take(&mut self.node));
            runtime.spawn(async move { nodes.queue(NodeReport::Left { node }).await });
        }
    }
}
