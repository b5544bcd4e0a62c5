//! State of all nodes, without a clock: those that are connected, and those that disconnected lately.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::status::{Nack, Presence, Provenance, RecordedStatus, TypeStatus};
use crate::build::snapshot::store_id::StoreId;
use crate::envoy::ResourceType;
use crate::envoy::load_totals::LoadTotals;
use crate::envoy::node::Node;

/// Time for which a disconnected node is remembered.
const RETENTION: SignedDuration = SignedDuration::from_hours(1);

/// Limits on the disconnected nodes that are remembered: their number, and the bytes that they sent. Clients
/// determine both.
const MAX_DEPARTED: usize = 50_000;
const MAX_DEPARTED_BYTES: usize = 64 << 20;

/// Limit on the refusals that wait to be taken. More than that belong to one incident.
const MAX_NACKS: usize = 1_000;

/// Limit on the stores that wait to be adopted. Clients determine them.
const MAX_STORES: usize = 100;

/// State of all nodes.
#[derive(Debug, Default)]
pub(super) struct Registry {
    /// Number of the last stream or departure.
    next: u64,
    pub(super) connected: BTreeMap<u64, Presence>,
    /// Disconnected streams in the order of their departure. Also of nodes that still have other streams:
    /// those entries are hidden until the last of these streams ends.
    departed: BTreeMap<u64, Presence>,
    departed_bytes: usize,
    pub(super) nacks: Vec<Arc<Nack>>,
    /// Foreign stores whose clients are answered, and that were not taken yet.
    pub(super) answered_stores: BTreeSet<StoreId>,
    /// State by node id, for as long as anything is known of the node.
    pub(super) by_id: HashMap<String, NodeRecord>,
}

/// State of a node that does not belong to one of its streams.
#[derive(Debug, Default)]
pub(super) struct NodeRecord {
    /// Numbers of its streams, the newest last.
    pub(super) streams: Vec<u64>,
    departed: Option<u64>,
    /// Number of its load report streams.
    reporters: usize,
    last_load_report: Option<Timestamp>,
    pub(super) totals: LoadTotals,
    /// True once it was logged that the node is not answered.
    is_reported: bool,
}

impl Presence {
    /// Estimates the memory, in bytes, that depends on data from the client.
    fn weight(&self) -> usize {
        let length = |error: &String| error.len();
        let errors = self.types.values().map(|status| {
            status.error.as_ref().map_or(0, length)
                + status.last_nack.as_ref().map_or(0, |nack| nack.error.len() + nack.node.len())
        });
        self.node.weight() + errors.sum::<usize>()
    }
}

impl Registry {
    pub(super) fn connect(&mut self, node: Node, address: Option<SocketAddr>, now: Timestamp) -> u64 {
        let stream = self.next_number();
        let record = self.by_id.entry(node.id.clone()).or_default();
        record.streams.push(stream);
        if let Some(departed) = record.departed.take() {
            self.remove_departed(departed);
        }
        let presence = Presence {
            node,
            address,
            connected_at: now,
            disconnected_at: None,
            last_load_report: None,
            generation: 0,
            provenance: Provenance::default(),
            types: BTreeMap::new(),
        };
        self.connected.insert(stream, presence);
        stream
    }

    pub(super) fn record<'a>(
        &mut self,
        stream: u64,
        generation: u64,
        statuses: impl IntoIterator<Item = (ResourceType, TypeStatus<'a>)>,
        now: Timestamp,
    ) {
        let Some(presence) = self.connected.get_mut(&stream) else { return };
        presence.generation = generation;
        for (resource_type, status) in statuses {
            let TypeStatus { state, version, current, error } = status;
            let last = presence.types.get(&resource_type);
            if last.is_some_and(|last| {
                (last.state, last.version, last.current, last.error.as_deref())
                    == (state, version, current, error)
            }) {
                continue;
            }
            let since = last.filter(|last| last.state == state).map_or(now, |last| last.since);
            let is_new = last.is_none_or(|last| last.error.as_deref() != error);
            let mut last_nack = last.and_then(|last| last.last_nack.clone());
            if let Some(error) = error.filter(|_| is_new) {
                let (node, error) = (presence.node.id.clone(), error.to_owned());
                let nack = Arc::new(Nack { node, generation, error, at: now });
                if self.nacks.len() < MAX_NACKS {
                    self.nacks.push(nack.clone());
                }
                last_nack = Some(nack);
            }
            let error = error.map(str::to_owned);
            let status = RecordedStatus { state, since, version, current, error, last_nack };
            presence.types.insert(resource_type, status);
        }
    }

    /// Records the origin of a client's config. True if it is the first stream of its node that is not
    /// answered.
    pub(super) fn record_provenance(&mut self, stream: u64, provenance: Provenance) -> bool {
        let Some(presence) = self.connected.get_mut(&stream) else { return false };
        presence.provenance = provenance;
        if let Some(store) = provenance.foreign_store.filter(|_| provenance.is_adopted)
            && self.answered_stores.len() < MAX_STORES
        {
            self.answered_stores.insert(store);
        }
        let Some(record) = self.by_id.get_mut(&presence.node.id) else { return false };
        provenance.withheld.is_some() && !std::mem::replace(&mut record.is_reported, true)
    }

    /// Turns a stream into the last status of its node, merged with the types of streams that ended before: a
    /// client with a stream for each type loses them one after the other.
    pub(super) fn disconnect(&mut self, stream: u64, now: Timestamp) {
        let Some(mut presence) = self.connected.remove(&stream) else { return };
        let departure = self.next_number();
        let Some(record) = self.by_id.get_mut(&presence.node.id) else { return };
        record.streams.retain(|other| *other != stream);
        let earlier = record.departed.replace(departure);
        if let Some(earlier) = earlier.and_then(|earlier| self.remove_departed(earlier)) {
            for (resource_type, status) in earlier.types {
                presence.types.entry(resource_type).or_insert(status);
            }
        }
        presence.disconnected_at = Some(now);
        self.departed_bytes += presence.weight();
        self.departed.insert(departure, presence);
        self.expire(now);
    }

    /// Returns the number of streams of a node.
    pub(super) fn streams(&self, id: &str) -> usize {
        self.by_id.get(id).map_or(0, |record| record.streams.len())
    }

    pub(super) fn begin_reports(&mut self, id: &str) {
        self.by_id.entry(id.to_owned()).or_default().reporters += 1;
    }

    pub(super) fn report(&mut self, id: &str, totals: LoadTotals, now: Timestamp) {
        if let Some(record) = self.by_id.get_mut(id) {
            record.last_load_report = Some(now);
            record.totals = record.totals.plus(totals);
        }
    }

    /// Returns true if this was the last load report stream of the node.
    pub(super) fn end_reports(&mut self, id: &str) -> bool {
        let left = self.by_id.get_mut(id).map(|record| {
            record.reporters -= 1;
            record.reporters
        });
        self.remove_if_unknown(id);
        left == Some(0)
    }

    pub(super) fn list(&mut self, now: Timestamp) -> Vec<Presence> {
        self.expire(now);
        let departed = self.departed.values().filter(|presence| {
            self.by_id.get(&presence.node.id).is_none_or(|record| record.streams.is_empty())
        });
        departed.chain(self.connected.values()).map(|presence| self.with_load_report(presence)).collect()
    }

    pub(super) fn find(&mut self, id: &str, now: Timestamp) -> Option<Presence> {
        self.expire(now);
        let record = self.by_id.get(id)?;
        let newest = record.streams.last().and_then(|stream| self.connected.get(stream));
        let departed = record.departed.and_then(|departed| self.departed.get(&departed));
        newest.or(departed).map(|presence| self.with_load_report(presence))
    }

    fn with_load_report(&self, presence: &Presence) -> Presence {
        let record = self.by_id.get(&presence.node.id);
        Presence { last_load_report: record.and_then(|record| record.last_load_report), ..presence.clone() }
    }

    /// Forgets nodes that disconnected too long ago, and the oldest ones if there are too many.
    fn expire(&mut self, now: Timestamp) {
        while let Some((departure, presence)) = self.departed.first_key_value() {
            let is_old = presence.disconnected_at.is_some_and(|left| now.duration_since(left) > RETENTION);
            let are_many = self.departed.len() > MAX_DEPARTED || self.departed_bytes > MAX_DEPARTED_BYTES;
            if !is_old && !are_many {
                return;
            }
            let (departure, id) = (*departure, presence.node.id.clone());
            self.remove_departed(departure);
            if let Some(record) = self.by_id.get_mut(&id) {
                record.departed = None;
            }
            self.remove_if_unknown(&id);
        }
    }

    fn remove_departed(&mut self, departure: u64) -> Option<Presence> {
        let presence = self.departed.remove(&departure)?;
        self.departed_bytes -= presence.weight();
        Some(presence)
    }

    fn remove_if_unknown(&mut self, id: &str) {
        let is_unknown = |record: &NodeRecord| {
            record.streams.is_empty() && record.departed.is_none() && record.reporters == 0
        };
        if self.by_id.get(id).is_some_and(is_unknown) {
            self.by_id.remove(id);
        }
    }

    fn next_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::nodes::status::{AckState, WithholdReason};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("within the calendar")
    }

    fn node(id: &str) -> Node {
        Node { id: id.into(), ..Node::default() }
    }

    fn acked(resource_type: ResourceType) -> [(ResourceType, TypeStatus<'static>); 1] {
        [(resource_type, TypeStatus { state: AckState::Acked, version: None, current: true, error: None })]
    }

    /// Formats the list at `now`: each `id` with the time of its departure and its types.
    fn listed(nodes: &mut Registry, now: i64) -> Vec<String> {
        let words = |presence: Presence| {
            let types: Vec<&str> = presence.types.keys().map(|kind| kind.plural()).collect();
            let left = presence.disconnected_at.map(|at| format!(" left {}", at.as_second()));
            format!("{}{} {}", presence.node.id, left.unwrap_or_default(), types.join(","))
        };
        nodes.list(at(now)).into_iter().map(words).collect()
    }

    #[test]
    fn a_node_that_left_is_remembered_for_an_hour() {
        let mut nodes = Registry::default();
        let stream = nodes.connect(node("a"), None, at(0));
        nodes.record(stream, 1, acked(ResourceType::Cluster), at(1));
        nodes.disconnect(stream, at(10));
        assert_eq!(listed(&mut nodes, 3610), ["a left 10 clusters"]);
        assert_eq!(listed(&mut nodes, 3611), Vec::<String>::new());
        assert!(nodes.by_id.is_empty());
        assert_eq!(nodes.departed_bytes, 0);
    }

    #[test]
    fn a_node_that_returns_is_not_listed_as_gone() {
        let mut nodes = Registry::default();
        let stream = nodes.connect(node("a"), None, at(0));
        nodes.disconnect(stream, at(10));
        let stream = nodes.connect(node("a"), None, at(11));
        assert_eq!(listed(&mut nodes, 12), ["a "]);
        nodes.disconnect(stream, at(20));
        assert_eq!(listed(&mut nodes, 21), ["a left 20 "]);
    }

    #[test]
    fn a_stream_that_overlaps_with_the_next_leaves_the_node_connected() {
        let mut nodes = Registry::default();
        let old = nodes.connect(node("a"), None, at(0));
        let new = nodes.connect(node("a"), None, at(5));
        nodes.record(new, 1, acked(ResourceType::Listener), at(5));
        nodes.disconnect(old, at(6));
        assert_eq!(listed(&mut nodes, 7), ["a listeners"]);
        assert_eq!(nodes.find("a", at(7)).and_then(|presence| presence.disconnected_at), None);
    }

    #[test]
    fn streams_of_one_type_each_are_remembered_together() {
        let mut nodes = Registry::default();
        let clusters = nodes.connect(node("a"), None, at(0));
        let listeners = nodes.connect(node("a"), None, at(0));
        nodes.record(clusters, 1, acked(ResourceType::Cluster), at(1));
        nodes.record(listeners, 1, acked(ResourceType::Listener), at(1));
        nodes.disconnect(clusters, at(10));
        nodes.disconnect(listeners, at(11));
        assert_eq!(listed(&mut nodes, 12), ["a left 11 clusters,listeners"]);
    }

    #[test]
    fn only_so_many_are_remembered() {
        let mut nodes = Registry::default();
        for number in 0..=MAX_DEPARTED {
            let stream = nodes.connect(node(&number.to_string()), None, at(0));
            nodes.disconnect(stream, at(0));
        }
        assert_eq!((nodes.departed.len(), nodes.by_id.len()), (MAX_DEPARTED, MAX_DEPARTED));
        assert!(nodes.find("0", at(0)).is_none(), "the first to leave is the first to be forgotten");
    }

    #[test]
    fn only_so_much_is_remembered() {
        let mut nodes = Registry::default();
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
        let mut nodes = Registry::default();
        let report = |nodes: &mut Registry| nodes.find("a", at(6)).and_then(|node| node.last_load_report);
        let stream = nodes.connect(node("a"), None, at(0));
        nodes.begin_reports("a");
        assert_eq!(report(&mut nodes), None);
        nodes.report("a", LoadTotals::default(), at(5));
        nodes.end_reports("a");
        assert_eq!(report(&mut nodes), Some(at(5)));
        nodes.disconnect(stream, at(6));
        assert_eq!(report(&mut nodes), Some(at(5)));
        nodes.begin_reports("stranger");
        nodes.end_reports("stranger");
        assert_eq!(nodes.by_id.len(), 1);
    }

    #[test]
    fn a_node_that_is_not_answered_is_reported_once() {
        let mut nodes = Registry::default();
        let withheld =
            Provenance { withheld: Some(WithholdReason::NothingAccepted), ..Provenance::default() };
        let mut report = |provenance, seconds| {
            let stream = nodes.connect(node("a"), None, at(seconds));
            let is_new = nodes.record_provenance(stream, provenance);
            let is_recorded = nodes.find("a", at(seconds)).is_some_and(|it| it.provenance == provenance);
            nodes.disconnect(stream, at(seconds));
            (is_new, is_recorded)
        };
        assert_eq!(report(Provenance::default(), 0), (false, true));
        assert_eq!(report(withheld, 1), (true, true));
        assert_eq!(report(withheld, 2), (false, true));
        assert_eq!(report(Provenance::default(), 3), (false, true));
        assert!(nodes.list(at(3604)).is_empty(), "it is forgotten");
        assert!(nodes.answered_stores.is_empty());
    }

    #[test]
    fn a_foreign_store_that_is_answered_waits_to_be_adopted() {
        let mut nodes = Registry::default();
        let stream = nodes.connect(node("a"), None, at(0));
        for number in 1..=MAX_STORES as u64 + 1 {
            let foreign_store = NonZeroU64::new(number).map(StoreId::new);
            let provenance = Provenance { foreign_store, ..Provenance::default() };
            nodes.record_provenance(stream, provenance);
            nodes.record_provenance(stream, Provenance { is_adopted: true, ..provenance });
            assert_eq!(nodes.answered_stores.len() as u64, number.min(MAX_STORES as u64));
        }
    }

    #[test]
    fn an_error_keeps_the_time_at_which_it_came() {
        let mut nodes = Registry::default();
        let stream = nodes.connect(node("a"), None, at(0));
        let refused = |current| {
            let status = TypeStatus { state: AckState::Nacked, version: None, current, error: Some("no") };
            [(ResourceType::Cluster, status)]
        };
        nodes.record(stream, 1, refused(false), at(1));
        nodes.record(stream, 1, refused(true), at(2));
        let status = nodes.find("a", at(3)).map(|mut presence| presence.types.remove(&ResourceType::Cluster));
        let status = status.flatten().expect("it was recorded");
        let nack = Nack { node: "a".into(), generation: 1, error: "no".into(), at: at(1) };
        assert_eq!((status.since, status.last_nack), (at(1), Some(Arc::new(nack))));
        assert_eq!(nodes.nacks.len(), 1);
    }
}
