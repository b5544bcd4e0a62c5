//! What connected Envoys said: who they are, and of each type which version they took or refused. Of those
//! that left, for an hour, what they said last.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use jiff::{SignedDuration, Timestamp};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::sync::mpsc;

use crate::envoy::ResourceType;
use crate::envoy::loads::Report;
use crate::events::{Event, Events};
use crate::node::Node;
use crate::snapshot::Version;

/// How long a node that left is remembered.
const MEMORY: SignedDuration = SignedDuration::from_hours(1);

/// How many nodes that left are remembered, and how many bytes of what they said: clients choose both.
const MAX_DEPARTED: usize = 50_000;
const MAX_DEPARTED_BYTES: usize = 64 << 20;

/// How many refusals wait to be taken at most. More than that are one incident.
const MAX_REFUSALS: usize = 1_000;

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
    /// The newest publication that its types are compared with.
    pub seen: u64,
    /// The types that it asked for.
    pub types: BTreeMap<ResourceType, Noted>,
}

impl Presence {
    /// About how much memory depends on what the client said.
    fn weight(&self) -> usize {
        let length = |error: &String| error.len();
        let errors = self.types.values().map(|noted| {
            noted.error.as_ref().map_or(0, length)
                + noted.last_error.as_ref().map_or(0, |(error, _)| error.len())
        });
        self.node.weight() + errors.sum::<usize>()
    }
}

/// What an Envoy says of its load.
#[derive(Debug)]
pub enum Heard {
    /// What it sent to each cluster since its last report.
    Load {
        /// Its id.
        node: String,
        /// What it said.
        report: Report,
    },
    /// It reports no more.
    Gone {
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
pub struct Fleet {
    nodes: Arc<Mutex<Nodes>>,
    events: Events,
    signal: Arc<Signal>,
    /// Who listens to what Envoys say of their load.
    listener: Arc<OnceLock<mpsc::Sender<Heard>>>,
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
    /// The newest publication that it was told of.
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

impl Fleet {
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
        Connection { fleet: self.clone(), stream }
    }

    /// What Envoys say of their load from now on. Only the first who asks hears it.
    pub fn loads(&self) -> mpsc::Receiver<Heard> {
        let (sender, receiver) = mpsc::channel(REPORTS);
        // A second one hears nothing, ever.
        let _ = self.listener.set(sender);
        receiver
    }

    /// Notes that a node began to report its load, which it does until the guard is dropped.
    pub fn reports(&self, node: String) -> Reporter {
        self.lock().begin_reports(&node);
        Reporter { fleet: self.clone(), node }
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

    fn lock(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The presence of one stream in the [`Fleet`].
#[derive(Debug)]
pub struct Connection {
    fleet: Fleet,
    stream: u64,
}

impl Connection {
    /// Notes how the stream stands with the newest publication that it has seen. Unchanged types keep their time.
    pub fn note<'a>(&self, seen: u64, statuses: impl IntoIterator<Item = (ResourceType, TypeStatus<'a>)>) {
        let refusals = {
            let mut nodes = self.fleet.lock();
            nodes.note(self.stream, seen, statuses, Timestamp::now());
            !nodes.refusals.is_empty()
        };
        self.fleet.stirred(refusals);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut nodes = self.fleet.lock();
        let id = nodes.connected.get(&self.stream).map(|presence| presence.node.id.clone());
        nodes.disconnect(self.stream, Timestamp::now());
        if let Some(node) = id.filter(|id| nodes.streams(id) == 0) {
            self.fleet.events.publish(&Event::Disconnected { node });
        }
        drop(nodes);
        self.fleet.stirred(false);
    }
}

/// One node's stream of load reports.
#[derive(Debug)]
pub struct Reporter {
    fleet: Fleet,
    node: String,
}

impl Reporter {
    /// Notes a report, and waits while others are being looked at.
    pub async fn report(&self, report: Report) {
        let totals = Totals { requests: report.requests, errors: report.errors };
        self.fleet.lock().report(&self.node, totals, Timestamp::now());
        self.fleet.stirred(false);
        if let Some(listener) = self.fleet.listener.get() {
            // Nobody listens when we are shutting down.
            let _ = listener.send(Heard::Load { node: self.node.clone(), report }).await;
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        if !self.fleet.lock().end_reports(&self.node) {
            return;
        }
        let Some((listener, runtime)) = self.fleet.listener.get().zip(Handle::try_current().ok()) else {
            return;
        };
        let (listener, node) = (listener.clone(), std::mem::take(&mut self.node));
        runtime.spawn(async move { listener.send(Heard::Gone { node }).await });
    }
}

/// The same without a clock.
#[derive(Debug, Default)]
struct Nodes {
    /// Of the next stream or departure.
    next: u64,
    connected: BTreeMap<u64, Presence>,
    /// By the order in which they left. Also of nodes that have other streams still: they come to light when
    /// the last of these ends.
    departed: BTreeMap<u64, Presence>,
    departed_bytes: usize,
    refusals: Vec<Refused>,
    /// By node id; as long as anything is known of it.
    by_id: HashMap<String, Known>,
}

/// What belongs to a node rather than to one of its streams.
#[derive(Debug, Default)]
struct Known {
    /// Its newest stream is the last.
    streams: Vec<u64>,
    departed: Option<u64>,
    /// Streams of load reports.
    reporters: usize,
    last_load_report: Option<Timestamp>,
    totals: Totals,
}

impl Nodes {
    fn connect(&mut self, node: Node, address: Option<SocketAddr>, now: Timestamp) -> u64 {
        let stream = self.number();
        let known = self.by_id.entry(node.id.clone()).or_default();
        known.streams.push(stream);
        if let Some(departed) = known.departed.take() {
            self.forget(departed);
        }
        let presence = Presence {
            node,
            address,
            connected_at: now,
            disconnected_at: None,
            last_load_report: None,
            seen: 0,
            types: BTreeMap::new(),
        };
        self.connected.insert(stream, presence);
        stream
    }

    fn note<'a>(
        &mut self,
        stream: u64,
        seen: u64,
        statuses: impl IntoIterator<Item = (ResourceType, TypeStatus<'a>)>,
        now: Timestamp,
    ) {
        let Some(presence) = self.connected.get_mut(&stream) else { return };
        presence.seen = seen;
        for (resource_type, status) in statuses {
            let TypeStatus { state, version, current, error } = status;
            let known = presence.types.get(&resource_type);
            if known.is_some_and(|known| {
                (known.state, known.version, known.current, known.error.as_deref())
                    == (state, version, current, error)
            }) {
                continue;
            }
            let since = known.filter(|known| known.state == state).map_or(now, |known| known.since);
            let is_new = known.is_none_or(|known| known.error.as_deref() != error);
            let last_error = known.and_then(|known| known.last_error.clone());
            let error = error.map(str::to_owned);
            if is_new && error.is_some() && self.refusals.len() < MAX_REFUSALS {
                self.refusals.push(Refused { node: presence.node.id.clone(), seen });
            }
            let last_error = error.clone().filter(|_| is_new).map(|error| (error, now)).or(last_error);
            let noted = Noted { state, since, version, current, error, last_error };
            presence.types.insert(resource_type, noted);
        }
    }

    /// The stream becomes what is remembered of its node, with the types of streams that ended before: a
    /// client with a stream for each type loses all of them one after the other.
    fn disconnect(&mut self, stream: u64, now: Timestamp) {
        let Some(mut presence) = self.connected.remove(&stream) else { return };
        let departure = self.number();
        let Some(known) = self.by_id.get_mut(&presence.node.id) else { return };
        known.streams.retain(|other| *other != stream);
        let earlier = known.departed.replace(departure);
        if let Some(earlier) = earlier.and_then(|earlier| self.forget(earlier)) {
            for (resource_type, noted) in earlier.types {
                presence.types.entry(resource_type).or_insert(noted);
            }
        }
        presence.disconnected_at = Some(now);
        self.departed_bytes += presence.weight();
        self.departed.insert(departure, presence);
        self.expire(now);
    }

    /// How many streams a node has.
    fn streams(&self, id: &str) -> usize {
        self.by_id.get(id).map_or(0, |known| known.streams.len())
    }

    fn begin_reports(&mut self, id: &str) {
        self.by_id.entry(id.to_owned()).or_default().reporters += 1;
    }

    fn report(&mut self, id: &str, totals: Totals, now: Timestamp) {
        if let Some(known) = self.by_id.get_mut(id) {
            known.last_load_report = Some(now);
            known.totals.requests += totals.requests;
            known.totals.errors += totals.errors;
        }
    }

    /// True when this was the last stream of reports of the node.
    fn end_reports(&mut self, id: &str) -> bool {
        let left = self.by_id.get_mut(id).map(|known| {
            known.reporters -= 1;
            known.reporters
        });
        self.tidy(id);
        left == Some(0)
    }

    fn list(&mut self, now: Timestamp) -> Vec<Presence> {
        self.expire(now);
        let departed = self.departed.values().filter(|presence| {
            self.by_id.get(&presence.node.id).is_none_or(|known| known.streams.is_empty())
        });
        departed.chain(self.connected.values()).map(|presence| self.told(presence)).collect()
    }

    fn find(&mut self, id: &str, now: Timestamp) -> Option<Presence> {
        self.expire(now);
        let known = self.by_id.get(id)?;
        let newest = known.streams.last().and_then(|stream| self.connected.get(stream));
        let departed = known.departed.and_then(|departed| self.departed.get(&departed));
        newest.or(departed).map(|presence| self.told(presence))
    }

    fn told(&self, presence: &Presence) -> Presence {
        let known = self.by_id.get(&presence.node.id);
        Presence { last_load_report: known.and_then(|known| known.last_load_report), ..presence.clone() }
    }

    /// Forgets those who left too long ago, and the first of them when they are too many.
    fn expire(&mut self, now: Timestamp) {
        while let Some((departure, presence)) = self.departed.first_key_value() {
            let is_old = presence.disconnected_at.is_some_and(|left| now.duration_since(left) > MEMORY);
            let are_many = self.departed.len() > MAX_DEPARTED || self.departed_bytes > MAX_DEPARTED_BYTES;
            if !is_old && !are_many {
                return;
            }
            let (departure, id) = (*departure, presence.node.id.clone());
            self.forget(departure);
            if let Some(known) = self.by_id.get_mut(&id) {
                known.departed = None;
            }
            self.tidy(&id);
        }
    }

    fn forget(&mut self, departure: u64) -> Option<Presence> {
        let presence = self.departed.remove(&departure)?;
        self.departed_bytes -= presence.weight();
        Some(presence)
    }

    fn tidy(&mut self, id: &str) {
        let is_nobody =
            |known: &Known| known.streams.is_empty() && known.departed.is_none() && known.reporters == 0;
        if self.by_id.get(id).is_some_and(is_nobody) {
            self.by_id.remove(id);
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("within the calendar")
    }

    fn node(id: &str) -> Node {
        Node { id: id.into(), ..Node::default() }
    }

    fn acked(resource_type: ResourceType) -> [(ResourceType, TypeStatus<'static>); 1] {
        [(resource_type, TypeStatus { state: State::Acked, version: None, current: true, error: None })]
    }

    /// What is listed at `now`, each `id` with when it left and its types.
    fn listed(nodes: &mut Nodes, now: i64) -> Vec<String> {
        let words = |presence: Presence| {
            let types: Vec<&str> = presence.types.keys().map(|kind| kind.plural()).collect();
            let left = presence.disconnected_at.map(|at| format!(" left {}", at.as_second()));
            format!("{}{} {}", presence.node.id, left.unwrap_or_default(), types.join(","))
        };
        nodes.list(at(now)).into_iter().map(words).collect()
    }

    #[test]
    fn a_node_that_left_is_remembered_for_an_hour() {
        let mut nodes = Nodes::default();
        let stream = nodes.connect(node("a"), None, at(0));
        nodes.note(stream, 1, acked(ResourceType::Cluster), at(1));
        nodes.disconnect(stream, at(10));
        assert_eq!(listed(&mut nodes, 3610), ["a left 10 clusters"]);
        assert_eq!(listed(&mut nodes, 3611), Vec::<String>::new());
        assert!(nodes.by_id.is_empty());
        assert_eq!(nodes.departed_bytes, 0);
    }

    #[test]
    fn a_node_that_returns_is_not_listed_as_gone() {
        let mut nodes = Nodes::default();
        let stream = nodes.connect(node("a"), None, at(0));
        nodes.disconnect(stream, at(10));
        let stream = nodes.connect(node("a"), None, at(11));
        assert_eq!(listed(&mut nodes, 12), ["a "]);
        nodes.disconnect(stream, at(20));
        assert_eq!(listed(&mut nodes, 21), ["a left 20 "]);
    }

    #[test]
    fn a_stream_that_overlaps_with_the_next_leaves_the_node_connected() {
        let mut nodes = Nodes::default();
        let old = nodes.connect(node("a"), None, at(0));
        let new = nodes.connect(node("a"), None, at(5));
        nodes.note(new, 1, acked(ResourceType::Listener), at(5));
        nodes.disconnect(old, at(6));
        assert_eq!(listed(&mut nodes, 7), ["a listeners"]);
        assert_eq!(nodes.find("a", at(7)).and_then(|presence| presence.disconnected_at), None);
    }

    #[test]
    fn streams_of_one_type_each_are_remembered_together() {
        let mut nodes = Nodes::default();
        let clusters = nodes.connect(node("a"), None, at(0));
        let listeners = nodes.connect(node("a"), None, at(0));
        nodes.note(clusters, 1, acked(ResourceType::Cluster), at(1));
        nodes.note(listeners, 1, acked(ResourceType::Listener), at(1));
        nodes.disconnect(clusters, at(10));
        nodes.disconnect(listeners, at(11));
        assert_eq!(listed(&mut nodes, 12), ["a left 11 clusters,listeners"]);
    }

    #[test]
    fn only_so_many_are_remembered() {
        let mut nodes = Nodes::default();
        for number in 0..=MAX_DEPARTED {
            let stream = nodes.connect(node(&number.to_string()), None, at(0));
            nodes.disconnect(stream, at(0));
        }
        assert_eq!((nodes.departed.len(), nodes.by_id.len()), (MAX_DEPARTED, MAX_DEPARTED));
        assert!(nodes.find("0", at(0)).is_none(), "the first to leave is the first to be forgotten");
    }

    #[test]
    fn only_so_much_is_remembered() {
        let mut nodes = Nodes::default();
        let long = "x".repeat(MAX_DEPARTED_BYTES / 4);
        for number in 0..6 {
            let stream = nodes.connect(node(&format!("{number}{long}")), None, at(0));
            nodes.disconnect(stream, at(0));
        }
        assert!(nodes.departed_bytes <= MAX_DEPARTED_BYTES);
        assert_eq!(nodes.departed.len(), 3);
    }

    #[test]
    fn the_last_load_report_outlives_its_stream() {
        let mut nodes = Nodes::default();
        let report = |nodes: &mut Nodes| nodes.find("a", at(6)).and_then(|node| node.last_load_report);
        let stream = nodes.connect(node("a"), None, at(0));
        nodes.begin_reports("a");
        assert_eq!(report(&mut nodes), None);
        nodes.report("a", Totals::default(), at(5));
        nodes.end_reports("a");
        assert_eq!(report(&mut nodes), Some(at(5)));
        nodes.disconnect(stream, at(6));
        assert_eq!(report(&mut nodes), Some(at(5)));
        nodes.begin_reports("stranger");
        nodes.end_reports("stranger");
        assert_eq!(nodes.by_id.len(), 1);
    }

    #[test]
    fn an_error_keeps_the_time_at_which_it_came() {
        let mut nodes = Nodes::default();
        let stream = nodes.connect(node("a"), None, at(0));
        let refused = |current| {
            let status = TypeStatus { state: State::Nacked, version: None, current, error: Some("no") };
            [(ResourceType::Cluster, status)]
        };
        nodes.note(stream, 1, refused(false), at(1));
        nodes.note(stream, 1, refused(true), at(2));
        let noted = nodes.find("a", at(3)).map(|mut presence| presence.types.remove(&ResourceType::Cluster));
        let noted = noted.flatten().expect("it was noted");
        assert_eq!((noted.since, noted.last_error), (at(1), Some(("no".to_owned(), at(1)))));
    }
}
