//! Status of the connected Envoys: their identity, and the version of each type that they acknowledged or
//! refused. The last status of an Envoy is kept for an hour after it disconnects.

pub mod nack;
mod registry;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::sync::mpsc;

use crate::build::snapshot::Version;
use crate::envoy::ResourceType;
use crate::envoy::checks::Findings;
use crate::envoy::loads::Report;
use crate::envoy::node::{Locality, Node};
use crate::nodes::registry::Registry;
use crate::telemetry::events::{Event, Events};

/// Outcome of the last response of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No answer yet; Envoy does not answer while a cluster is warming.
    Pending,
    /// Acknowledged.
    Acked,
    /// Refused; the client keeps its earlier config.
    Nacked,
}

/// Status of one type on a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypeStatus<'a> {
    /// Outcome of the last response.
    pub state: State,
    /// Version of the last acknowledged response; none before the first ACK.
    pub version: Option<Version>,
    /// True if the client was sent everything that it asked for from the newest snapshot.
    pub current: bool,
    /// Error text of the client, while it refuses.
    pub error: Option<&'a str>,
}

/// Status of one type on a stream, with times, as it was recorded.
#[derive(Debug, Clone)]
pub struct Noted {
    /// Outcome of the last response.
    pub state: State,
    /// Time since which the type has this outcome.
    pub since: Timestamp,
    /// Version of the last acknowledged response; none before the first ACK.
    pub version: Option<Version>,
    /// True if the client was sent everything that it asked for from the newest snapshot.
    pub current: bool,
    /// Error text of the client, while it refuses.
    pub error: Option<String>,
    /// Text and time of the last refusal, kept after the client has recovered.
    pub last_error: Option<(String, Timestamp)>,
}

/// A stream of an Envoy, or the last status of an Envoy that disconnected.
#[derive(Debug, Clone)]
pub struct Presence {
    /// Identity of the Envoy.
    pub node: Node,
    /// Remote address of the connection, if known.
    pub address: Option<SocketAddr>,
    /// Time at which the stream began.
    pub connected_at: Timestamp,
    /// Time at which its last stream ended; none while it is connected.
    pub disconnected_at: Option<Timestamp>,
    /// Time of its last load report; none before the first.
    pub last_load_report: Option<Timestamp>,
    /// Newest generation that its types were compared with.
    pub seen: u64,
    /// Status of the types that it asked for.
    pub types: BTreeMap<ResourceType, Noted>,
}

/// A message about the load of an Envoy, or about the targets that it checked for the control plane.
#[derive(Debug)]
pub enum NodeReport {
    /// Load that the Envoy sent to each cluster since its last report.
    Load {
        /// Node id.
        node: String,
        /// Content of the report.
        report: Report,
    },
    /// Results of the health checks that the Envoy runs for the control plane.
    Checked {
        /// Node id.
        node: String,
        /// Interval at which it reports them.
        interval: Duration,
        /// Health of the endpoints.
        findings: Findings,
    },
    /// Start of load reports.
    Here {
        /// Node id.
        node: String,
        /// Locality of the Envoy.
        place: Locality,
    },
    /// End of load reports.
    Left {
        /// Node id.
        node: String,
    },
}

/// Number of reports that are queued; further reporters wait.
const REPORTS: usize = 64;

/// Status of all Envoys. Cheap to clone: clones share.
///
/// The mutex is a blocking one: it is held while a few fields are copied and never across an await.
#[derive(Debug, Clone, Default)]
pub struct Nodes {
    nodes: Arc<Mutex<Registry>>,
    events: Events,
    signal: Arc<Signal>,
    /// Channel to the single consumer of load reports; unset before [`Nodes::loads`].
    listener: Arc<OnceLock<mpsc::Sender<NodeReport>>>,
}

/// Wakes the task that waits in [`Nodes::stirs`].
#[derive(Debug, Default)]
struct Signal {
    notify: Notify,
    is_close: AtomicBool,
}

/// Start of a refusal by an Envoy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Node id.
    pub node: String,
    /// Newest generation that it was sent.
    pub seen: u64,
}

/// Requests that an Envoy sent to targets, by its load reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Completed requests, successful or not.
    pub requests: u64,
    /// Failed requests among them.
    pub errors: u64,
}

impl Nodes {
    /// Creates an empty fleet that publishes connections and disconnections in `events`.
    pub fn new(events: Events) -> Self {
        Self { events, ..Self::default() }
    }

    /// Returns the publisher of events about Envoys.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Records a new stream; it counts as connected until the guard is dropped.
    pub fn connect(&self, node: Node, address: Option<SocketAddr>) -> Connection {
        let (id, cluster) = (node.id.clone(), node.cluster.clone());
        let mut nodes = self.lock();
        let stream = nodes.connect(node, address, Timestamp::now());
        if nodes.streams(&id) == 1 {
            self.events.publish(&Event::Connected { node: id, cluster });
        }
        drop(nodes);
        self.stirred(false);
        Connection { nodes: self.clone(), stream }
    }

    /// Returns the channel of load reports and check results from now on. Only the first call gets them.
    pub fn loads(&self) -> mpsc::Receiver<NodeReport> {
        let (sender, receiver) = mpsc::channel(REPORTS);
        // A second receiver is closed at once.
        let _ = self.listener.set(sender);
        receiver
    }

    /// Queues the check results of a node, which reports them at this interval; waits while the queue is
    /// full.
    pub async fn found(&self, node: &str, interval: Duration, findings: Findings) {
        self.tell(NodeReport::Checked { node: node.to_owned(), interval, findings }).await;
    }

    async fn tell(&self, heard: NodeReport) {
        if let Some(listener) = self.listener.get() {
            // The receiver is gone when the server shuts down.
            let _ = listener.send(heard).await;
        }
    }

    /// Records that a node at this locality began to report its load, which it does until the guard is
    /// dropped.
    pub async fn reports(&self, node: String, place: Locality) -> Reporter {
        self.lock().begin_reports(&node);
        let reporter = Reporter { nodes: self.clone(), node };
        self.tell(NodeReport::Here { node: reporter.node.clone(), place }).await;
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
        let streams = nodes.by_id.get(id).map(|known| known.streams.as_slice()).unwrap_or_default();
        streams.iter().filter_map(|stream| nodes.connected.get(stream).cloned()).collect()
    }

    /// Returns the sum of the load reports of a node.
    pub fn totals(&self, id: &str) -> Totals {
        self.lock().by_id.get(id).map(|known| known.totals).unwrap_or_default()
    }

    /// Waits until an Envoy refuses something; in close mode ([`Self::follow_closely`]) also until one
    /// connects, disconnects, answers or reports its load. Only one task may wait.
    pub async fn stirs(&self) {
        self.signal.notify.notified().await;
    }

    /// Switches the close mode of [`Self::stirs`], in which all events wake it, on or off.
    pub fn follow_closely(&self, is_close: bool) {
        self.signal.is_close.store(is_close, Ordering::Relaxed);
    }

    /// Takes the refusals since the last call.
    pub fn take_refusals(&self) -> Vec<Refused> {
        std::mem::take(&mut self.lock().refusals)
    }

    fn stirred(&self, is_refusal: bool) {
        if is_refusal || self.signal.is_close.load(Ordering::Relaxed) {
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
pub struct Connection {
    nodes: Nodes,
    stream: u64,
}

impl Connection {
    /// Records the status of the stream with the newest generation that it has seen. The time of an
    /// unchanged status is kept.
    pub fn note<'a>(&self, seen: u64, statuses: impl IntoIterator<Item = (ResourceType, TypeStatus<'a>)>) {
        let refusals = {
            let mut nodes = self.nodes.lock();
            nodes.note(self.stream, seen, statuses, Timestamp::now());
            !nodes.refusals.is_empty()
        };
        self.nodes.stirred(refusals);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut nodes = self.nodes.lock();
        let id = nodes.connected.get(&self.stream).map(|presence| presence.node.id.clone());
        nodes.disconnect(self.stream, Timestamp::now());
        if let Some(node) = id.filter(|id| nodes.streams(id) == 0) {
            self.nodes.events.publish(&Event::Disconnected { node });
        }
        drop(nodes);
        self.nodes.stirred(false);
    }
}

/// Guard of a node's stream of load reports.
#[derive(Debug)]
pub struct Reporter {
    nodes: Nodes,
    node: String,
}

impl Reporter {
    /// Records a report and queues it; waits while the queue is full.
    pub async fn report(&self, report: Report) {
        let totals = Totals { requests: report.requests, errors: report.errors };
        self.nodes.lock().report(&self.node, totals, Timestamp::now());
        self.nodes.stirred(false);
        self.nodes.tell(NodeReport::Load { node: self.node.clone(), report }).await;
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        if !self.nodes.lock().end_reports(&self.node) {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            let (nodes, node) = (self.nodes.clone(), std::mem::take(&mut self.node));
            runtime.spawn(async move { nodes.tell(NodeReport::Left { node }).await });
        }
    }
}
