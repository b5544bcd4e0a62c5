//! Clusters that nodes hold, by their discovery streams.
//!
//! A client can report load, or check results, in the name of any node. Reports move traffic, so they count only
//! for clusters that a discovery stream of the same node, with the same certificate, has acknowledged.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::access::certificate::CertificateNames;
use crate::xds::port::connection::ClientPeer;
use crate::xds::stream::held::HeldClusters;

/// Time for which a node counts as holding its clusters after its last discovery stream ended: every stream ends
/// now and then, and Envoy opens the next one within seconds.
const GRACE: Duration = Duration::from_secs(20);

/// Clusters that nodes hold. Cheap to clone: clones share.
#[derive(Debug, Clone, Default)]
pub struct Holdings {
    nodes: Arc<Mutex<HeldByNode>>,
}

#[derive(Debug, Default)]
struct HeldByNode {
    /// Number of the last stream.
    last: u64,
    by_id: HashMap<Arc<str>, NodeHoldings>,
    /// Nodes whose last stream ended, in that order.
    departures: VecDeque<(Instant, Arc<str>)>,
}

/// Holdings of one node.
#[derive(Debug, Default)]
struct NodeHoldings {
    streams: Vec<StreamHoldings>,
    /// End of the last stream that held clusters, and its certificate.
    left: Option<(Instant, Certificate)>,
    /// Wakes reporters that wait for the node to hold clusters.
    waiting: Option<Arc<Notify>>,
}

/// Names in the certificate of a client; none without one.
type Certificate = Option<Arc<CertificateNames>>;

#[derive(Debug)]
struct StreamHoldings {
    number: u64,
    certificate: Certificate,
    clusters: HeldClusters,
}

/// Clusters of one node whose reports count.
#[derive(Debug)]
pub struct NodeClusters {
    streams: Vec<HeldClusters>,
    /// True if all clusters count, since the streams of the node ended a moment ago.
    is_in_grace: bool,
}

impl NodeClusters {
    /// True if a report on this cluster counts.
    pub fn include(&self, cluster: &str) -> bool {
        self.is_in_grace || self.streams.iter().any(|held| held.include(cluster))
    }
}

/// Holdings of one discovery stream, until it is dropped.
#[derive(Debug)]
pub struct HoldingsGuard {
    holdings: Holdings,
    node: Arc<str>,
    certificate: Certificate,
    /// Number of the stream, once it holds clusters.
    number: Option<u64>,
    last: Option<HeldClusters>,
}

impl Holdings {
    /// Begins to record what a stream of this node holds.
    pub fn begin(&self, node: &str, peer: Option<&ClientPeer>) -> HoldingsGuard {
        let (node, certificate) = (node.into(), peer.and_then(|peer| peer.names.clone()));
        HoldingsGuard { holdings: self.clone(), node, certificate, number: None, last: None }
    }

    /// Returns the clusters that a node holds whose client has this certificate; none if it has no discovery stream
    /// that holds any.
    pub fn of(&self, node: &str, peer: Option<&ClientPeer>) -> Option<NodeClusters> {
        self.at(Instant::now(), node, peer)
    }

    fn at(&self, now: Instant, node: &str, peer: Option<&ClientPeer>) -> Option<NodeClusters> {
        let certificate = peer.and_then(|peer| peer.names.as_deref());
        let nodes = self.lock();
        let own = nodes.by_id.get(node)?;
        let streams = own.streams.iter().filter(|stream| stream.certificate.as_deref() == certificate);
        let streams: Vec<HeldClusters> = streams.map(|stream| stream.clusters.clone()).collect();
        let is_in_grace = streams.is_empty()
            && own
                .left
                .as_ref()
                .is_some_and(|(at, left)| now.duration_since(*at) < GRACE && left.as_deref() == certificate);
        (is_in_grace || !streams.is_empty()).then_some(NodeClusters { streams, is_in_grace })
    }

    /// Waits until a node with this certificate holds clusters.
    pub async fn wait_for(&self, node: &str, peer: Option<&ClientPeer>) {
        loop {
            let waiting = {
                let mut nodes = self.lock();
                let own = nodes.by_id.entry(node.into()).or_default();
                own.waiting.get_or_insert_default().clone()
            };
            let _entry = WaitingEntry { holdings: self, node };
            let notified = waiting.notified();
            tokio::pin!(notified);
            // Registered before the check, so that no change is missed in between.
            notified.as_mut().enable();
            if self.of(node, peer).is_some() {
                return;
            }
            notified.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HeldByNode> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Entry of a node that a reporter waits for; dropped with the wait if nothing else needs it.
struct WaitingEntry<'a> {
    holdings: &'a Holdings,
    node: &'a str,
}

impl Drop for WaitingEntry<'_> {
    fn drop(&mut self) {
        self.holdings.lock().remove_if_empty(self.node);
    }
}

impl HeldByNode {
    fn remove_if_empty(&mut self, node: &str) {
        let is_empty = |own: &mut NodeHoldings| {
            // A wait holds a second reference, and this one is dropped first.
            own.waiting.take_if(|waiting| Arc::strong_count(waiting) <= 2);
            own.streams.is_empty() && own.left.is_none() && own.waiting.is_none()
        };
        if self.by_id.get_mut(node).is_some_and(is_empty) {
            self.by_id.remove(node);
        }
    }

    /// Forgets the nodes whose grace is over.
    fn expire(&mut self, now: Instant) {
        while self.departures.front().is_some_and(|(at, _)| now.duration_since(*at) >= GRACE) {
            let Some((at, node)) = self.departures.pop_front() else { return };
            if let Some(own) = self.by_id.get_mut(&node) {
                own.left.take_if(|(left, _)| *left == at);
            }
            self.remove_if_empty(&node);
        }
    }
}

impl HoldingsGuard {
    /// Records the clusters that the stream holds now.
    pub fn record(&mut self, clusters: Option<HeldClusters>) {
        if clusters == self.last {
            return;
        }
        self.last.clone_from(&clusters);
        let Some(clusters) = clusters else { return };
        let mut nodes = self.holdings.lock();
        let own = nodes.by_id.entry(self.node.clone()).or_default();
        if let Some(stream) = own.streams.iter_mut().find(|stream| Some(stream.number) == self.number) {
            stream.clusters = clusters;
            return;
        }
        let certificate = self.certificate.clone();
        own.left = None;
        let waiting = own.waiting.clone();
        nodes.last += 1;
        let number = nodes.last;
        let stream = StreamHoldings { number, certificate, clusters };
        nodes.by_id.entry(self.node.clone()).or_default().streams.push(stream);
        self.number = Some(number);
        drop(nodes);
        waiting.iter().for_each(|waiting| waiting.notify_waiters());
    }
}

impl Drop for HoldingsGuard {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let now = Instant::now();
        let mut nodes = self.holdings.lock();
        if let Some(own) = nodes.by_id.get_mut(&self.node) {
            own.streams.retain(|stream| stream.number != number);
            if own.streams.is_empty() {
                own.left = Some((now, self.certificate.clone()));
                nodes.departures.push_back((now, self.node.clone()));
            }
        }
        nodes.expire(now);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::envoy::ResourceType;
    use crate::xds::stream::testkit::snapshot;

    fn peer(names: &[&str]) -> ClientPeer {
        let names = CertificateNames::from_iter(names.iter().map(ToString::to_string));
        ClientPeer::new(([127, 0, 0, 1], 1).into(), Some(Arc::new(names)))
    }

    fn clusters(text: &str) -> Option<HeldClusters> {
        Some(HeldClusters::all(snapshot(text).set(ResourceType::Cluster).clone()))
    }

    #[test]
    fn reports_count_for_what_streams_of_the_node_hold() {
        let holdings = Holdings::default();
        let counts = |node: &str, cluster: &str| holdings.of(node, None).map(|held| held.include(cluster));
        assert_eq!(counts("a", "x"), None, "nobody knows it");
        let mut first = holdings.begin("a", None);
        assert_eq!(counts("a", "x"), None, "it has acknowledged nothing");
        first.record(clusters("cds:x"));
        assert_eq!((counts("a", "x"), counts("a", "y"), counts("b", "x")), (Some(true), Some(false), None));
        let mut second = holdings.begin("a", None);
        second.record(clusters("cds:y"));
        assert_eq!((counts("a", "x"), counts("a", "y")), (Some(true), Some(true)));
        drop(first);
        assert_eq!((counts("a", "x"), counts("a", "y")), (Some(false), Some(true)));
        // Between two streams of the node everything counts, for a while.
        drop(second);
        assert_eq!(counts("a", "x"), Some(true));
        let later = Instant::now() + GRACE;
        assert!(holdings.at(later, "a", None).is_none());
        holdings.lock().expire(later);
        assert!(holdings.lock().by_id.is_empty());
    }

    #[test]
    fn a_report_comes_with_the_certificate_of_the_stream() {
        let holdings = Holdings::default();
        let mut stream = holdings.begin("a", Some(&peer(&["a"])));
        stream.record(clusters("cds:x"));
        assert!(holdings.of("a", Some(&peer(&["a"]))).is_some());
        assert!(holdings.of("a", Some(&peer(&["b"]))).is_none());
        assert!(holdings.of("a", None).is_none());
    }

    #[tokio::test]
    async fn who_waits_is_woken_once_clusters_are_held() {
        let holdings = Holdings::default();
        let waiting = holdings.wait_for("a", None);
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        let mut stream = holdings.begin("a", None);
        stream.record(clusters("cds:x"));
        assert!(waiting.as_mut().now_or_never().is_some());
        // Nothing is left of a wait that is given up.
        {
            let gone = holdings.wait_for("b", None);
            tokio::pin!(gone);
            assert!(gone.as_mut().now_or_never().is_none());
        }
        assert_eq!(holdings.lock().by_id.len(), 1);
    }
}
