//! What connected Envoys said: who they are, and of each type which version they took or refused. Of those
//! that left, for an hour, what they said last.

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

/// What became of the last response of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The client has not answered yet; a cluster that warms withholds the answer.
    Pending,
    /// The client took it.
    Acked,
    /// The client refused it and keeps what it had.
    Nacked,
}

/// How a stream stands with one type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypeStatus<'a> {
    /// Of the last response.
    pub state: State,
    /// Acknowledged last; none before the first ACK.
    pub version: Option<Version>,
    /// It was told all that it asked for of the newest snapshot.
    pub current: bool,
    /// The client's words, while it refuses.
    pub error: Option<&'a str>,
}

/// The same with times, as they were noted.
#[derive(Debug, Clone)]
pub struct Noted {
    /// Of the last response.
    pub state: State,
    /// When that began.
    pub since: Timestamp,
    /// Acknowledged last; none before the first ACK.
    pub version: Option<Version>,
    /// It was told all that it asked for of the newest snapshot.
    pub current: bool,
    /// The client's words, while it refuses.
    pub error: Option<String>,
    /// The last refusal and its time, kept after the client recovered.
    pub last_error: Option<(String, Timestamp)>,
}

/// A stream of an Envoy, or what is remembered of an Envoy that left.
#[derive(Debug, Clone)]
pub struct Presence {
    /// Who it is.
    pub node: Node,
    /// Its end of the connection, where known.
    pub address: Option<SocketAddr>,
    /// When the stream began.
    pub connected_at: Timestamp,
    /// When its last stream ended; none while it is connected.
    pub disconnected_at: Option<Timestamp>,
    /// When its last load report came.
    pub last_load_report: Option<Timestamp>,
    /// The newest generation that its types are compared with.
    pub seen: u64,
    /// The types that it asked for.
    pub types: BTreeMap<ResourceType, Noted>,
}

/// What an Envoy says of its load, and of targets that it checked on our behalf.
#[derive(Debug)]
pub enum NodeReport {
    /// What it sent to each cluster since its last report.
    Load {
        /// Its id.
        node: String,
        /// What it said.
        report: Report,
    },
    /// What it found when it checked targets.
    Checked {
        /// Its id.
        node: String,
        /// How often it says so.
        interval: Duration,
        /// What it found.
        findings: Findings,
    },
    /// It reports its load from now on.
    Here {
        /// Its id.
        node: String,
        /// Where it runs.
        place: Locality,
    },
    /// It reports its load no more.
    Left {
        /// Its id.
        node: String,
    },
}

/// How many reports may wait to be looked at; then those who report wait.
const REPORTS: usize = 64;

/// All Envoys. Cheap to clone: clones share.
///
/// The mutex is a plain one: it is held for the copying of a few fields and never across an await.
#[derive(Debug, Clone, Default)]
pub struct Nodes {
    nodes: Arc<Mutex<Registry>>,
    events: Events,
    signal: Arc<Signal>,
    /// Who listens to what Envoys say of their load.
    listener: Arc<OnceLock<mpsc::Sender<NodeReport>>>,
}

/// Wakes the one who follows.
#[derive(Debug, Default)]
struct Signal {
    notify: Notify,
    is_close: AtomicBool,
}

/// An Envoy began to refuse something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its node id.
    pub node: String,
    /// The newest generation that it was told of.
    pub seen: u64,
}

/// Requests that an Envoy sent to targets, by its load reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// That ended, one way or the other.
    pub requests: u64,
    /// Of these, those that failed.
    pub errors: u64,
}

impl Nodes {
    /// Nobody yet. It is told in `events` who comes and goes.
    pub fn new(events: Events) -> Self {
        Self { events, ..Self::default() }
    }

    /// Where it is told what happens to Envoys.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Notes a new stream; it counts as connected until the guard is dropped.
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

    /// What Envoys say of their load from now on. Only the first who asks hears it.
    pub fn loads(&self) -> mpsc::Receiver<NodeReport> {
        let (sender, receiver) = mpsc::channel(REPORTS);
        // A second one hears nothing, ever.
        let _ = self.listener.set(sender);
        receiver
    }

    /// Notes what a node found when it checked targets, which it says this often, and waits while others are being
    /// looked at.
    pub async fn found(&self, node: &str, interval: Duration, findings: Findings) {
        self.tell(NodeReport::Checked { node: node.to_owned(), interval, findings }).await;
    }

    async fn tell(&self, heard: NodeReport) {
        if let Some(listener) = self.listener.get() {
            // Nobody listens when we are shutting down.
            let _ = listener.send(heard).await;
        }
    }

    /// Notes that a node at this place began to report its load, which it does until the guard is dropped.
    pub async fn reports(&self, node: String, place: Locality) -> Reporter {
        self.lock().begin_reports(&node);
        let reporter = Reporter { nodes: self.clone(), node };
        self.tell(NodeReport::Here { node: reporter.node.clone(), place }).await;
        reporter
    }

    /// Every node: those that left, the longest ago first, then every stream, the oldest first.
    pub fn nodes(&self) -> Vec<Presence> {
        self.lock().list(Timestamp::now())
    }

    /// The newest stream of a node, or what is remembered of it.
    pub fn node(&self, id: &str) -> Option<Presence> {
        self.lock().find(id, Timestamp::now())
    }

    /// The streams of a node, the oldest first.
    pub fn streams(&self, id: &str) -> Vec<Presence> {
        let nodes = self.lock();
        let streams = nodes.by_id.get(id).map(|known| known.streams.as_slice()).unwrap_or_default();
        streams.iter().filter_map(|stream| nodes.connected.get(stream).cloned()).collect()
    }

    /// What a node reported of its requests since it first did.
    pub fn totals(&self, id: &str) -> Totals {
        self.lock().by_id.get(id).map(|known| known.totals).unwrap_or_default()
    }

    /// Waits until an Envoy refuses something; while somebody follows closely, also until one comes, leaves or
    /// answers. There is one who waits.
    pub async fn stirs(&self) {
        self.signal.notify.notified().await;
    }

    /// From now on [`Self::stirs`] is about everything that happens, or no longer.
    pub fn follow_closely(&self, is_close: bool) {
        self.signal.is_close.store(is_close, Ordering::Relaxed);
    }

    /// The refusals since this was asked last.
    pub fn take_refusals(&self) -> Vec<Refused> {
        std::mem::take(&mut self.lock().refusals)
    }

    fn stirred(&self, is_refusal: bool) {
        if is_refusal || self.signal.is_close.load(Ordering::Relaxed) {
            self.signal.notify.notify_one();
        }
    }

    /// The streams that are as wanted, the oldest first.
    pub fn select(&self, is_wanted: impl Fn(&Presence) -> bool) -> Vec<Presence> {
        self.lock().connected.values().filter(|presence| is_wanted(presence)).cloned().collect()
    }

    /// How many streams there are.
    pub fn connected(&self) -> usize {
        self.lock().connected.len()
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The presence of one stream in the [`Nodes`].
#[derive(Debug)]
pub struct Connection {
    nodes: Nodes,
    stream: u64,
}

impl Connection {
    /// Notes how the stream stands with the newest generation that it has seen. Unchanged types keep their time.
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

/// One node's stream of load reports.
#[derive(Debug)]
pub struct Reporter {
    nodes: Nodes,
    node: String,
}

impl Reporter {
    /// Notes a report, and waits while others are being looked at.
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
