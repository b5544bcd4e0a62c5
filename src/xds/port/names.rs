//! Limits on the names that clients ask for.
//!
//! Names take memory, and a client may ask for names that do not exist. So the names of each node and of each
//! connection are bounded, and the sets of names of all clients together. Many clients, each within its bounds,
//! can still ask for more than that: then the connection that asks for the most is ended, so that no other client
//! is refused a name. Sets that connections share count for each in part, so a fleet that asks for the same
//! names is never the one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::warn;

use crate::xds::port::connection::ConnectionEnd;
use crate::xds::port::limits::NameLimits;
use crate::xds::stream::names::NameSet;

/// Names of all clients. Cheap to clone: clones share.
#[derive(Debug, Clone, Default)]
pub struct NameMeter {
    state: Arc<Mutex<MeterState>>,
}

#[derive(Debug, Default)]
struct MeterState {
    /// Number of the last stream.
    last: u64,
    streams: HashMap<u64, StreamNames>,
    /// Names by node and by connection, each set once for every stream.
    nodes: HashMap<Arc<str>, usize>,
    connections: HashMap<u64, usize>,
}

/// Names of one stream.
#[derive(Debug)]
struct StreamNames {
    node: Arc<str>,
    connection: ConnectionEnd,
    sets: Vec<Arc<NameSet>>,
}

impl StreamNames {
    fn count(&self) -> usize {
        self.sets.iter().map(|set| set.len()).sum()
    }
}

/// Names of one stream, which no longer count once it is dropped.
#[derive(Debug)]
pub struct NameShare {
    meter: NameMeter,
    number: u64,
}

/// Bound that a stream exceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooManyNames {
    /// The bound of its node.
    #[error("a node may ask for {0} names")]
    Node(usize),
    /// The bound of its connection.
    #[error("a connection may ask for {0} names")]
    Connection(usize),
    /// The bound of all clients, of which it asks for the most.
    #[error("clients ask for more than {0} names, and this connection for the most")]
    All(usize),
}

impl NameMeter {
    /// Creates the share of a new stream of this node, over this connection.
    pub fn share(&self, node: &str, connection: ConnectionEnd) -> NameShare {
        let mut state = self.lock();
        state.last += 1;
        let number = state.last;
        state.streams.insert(number, StreamNames { node: node.into(), connection, sets: Vec::new() });
        NameShare { meter: self.clone(), number }
    }

    fn lock(&self) -> MutexGuard<'_, MeterState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NameShare {
    /// Records the sets of names that the stream asks for now. `all` is the number of names of all clients.
    ///
    /// # Errors
    ///
    /// Fails if the stream must end, since it exceeds a bound.
    pub fn record(
        &self,
        sets: Vec<Arc<NameSet>>,
        all: usize,
        limits: &NameLimits,
    ) -> Result<(), TooManyNames> {
        let mut state = self.meter.lock();
        let Some(stream) = state.streams.get_mut(&self.number) else { return Ok(()) };
        let is_same = |(one, other): (&Arc<NameSet>, &Arc<NameSet>)| Arc::ptr_eq(one, other);
        if sets.len() == stream.sets.len() && sets.iter().zip(&stream.sets).all(is_same) {
            return Ok(());
        }
        let before = stream.count();
        stream.sets = sets;
        let (after, node, connection) = (stream.count(), stream.node.clone(), stream.connection.clone());
        let of_node = change(&mut state.nodes, node, before, after);
        let of_connection = change(&mut state.connections, connection.number(), before, after);
        if after <= before {
            Ok(())
        } else if of_node > limits.node {
            Err(TooManyNames::Node(limits.node))
        } else if of_connection > limits.connection {
            Err(TooManyNames::Connection(limits.connection))
        } else if all > limits.all && !state.make_room(all, limits.all, &connection) {
            Err(TooManyNames::All(limits.all))
        } else {
            Ok(())
        }
    }
}

impl Drop for NameShare {
    fn drop(&mut self) {
        let mut state = self.meter.lock();
        let Some(stream) = state.streams.remove(&self.number) else { return };
        let count = stream.count();
        change(&mut state.nodes, stream.node.clone(), count, 0);
        change(&mut state.connections, stream.connection.number(), count, 0);
    }
}

/// Changes the part of a sum, and returns the sum. Sums of nothing are forgotten.
fn change<K: std::hash::Hash + Eq + Clone>(
    sums: &mut HashMap<K, usize>,
    key: K,
    before: usize,
    after: usize,
) -> usize {
    let sum = sums.get(&key).copied().unwrap_or_default() + after - before;
    match sum {
        0 => _ = sums.remove(&key),
        sum => _ = sums.insert(key, sum),
    }
    sum
}

impl MeterState {
    /// Ends the connection that asks for the most names, unless those that end already make room enough. Returns
    /// false if it is `own`.
    fn make_room(&self, all: usize, limit: usize, own: &ConnectionEnd) -> bool {
        let mut holders: HashMap<*const NameSet, usize> = HashMap::new();
        let sets = || self.streams.values().flat_map(|stream| &stream.sets);
        sets().for_each(|set| *holders.entry(Arc::as_ptr(set)).or_default() += 1);
        let mut weights: HashMap<u64, (usize, &ConnectionEnd)> = HashMap::new();
        for StreamNames { connection, sets, .. } in self.streams.values() {
            let (weight, _) = weights.entry(connection.number()).or_insert((0, connection));
            *weight += sets.iter().map(|set| set.len() / holders[&Arc::as_ptr(set)]).sum::<usize>();
        }
        let ending: usize =
            weights.values().filter(|(_, connection)| connection.is_ended()).map(|(weight, _)| weight).sum();
        if all.saturating_sub(ending) <= limit {
            return true;
        }
        let open = weights.values().filter(|(_, connection)| !connection.is_ended());
        // Among equals it is the one that asks now.
        let most = open.max_by_key(|(weight, connection)| (*weight, connection.number() == own.number()));
        match most {
            Some((names, connection)) if connection.number() != own.number() => {
                let peer = connection.peer();
                warn!(%peer, names, all, "clients ask for too many names, so the one that asks for the most is cut off");
                connection.end();
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::stream::names::NameTable;
    use crate::xds::wire::request::NameList;

    const LIMITS: NameLimits = NameLimits { node: 10, connection: 15, all: 40 };

    fn connection() -> ConnectionEnd {
        ConnectionEnd::new(([127, 0, 0, 1], 1).into())
    }

    /// Names `{prefix}0`, `{prefix}1`, … of this number.
    fn set(table: &NameTable, prefix: &str, count: usize) -> Vec<Arc<NameSet>> {
        let list: NameList = (0..count)
            .map(|number| format!("{prefix}{number}"))
            .collect::<Vec<_>>()
            .iter()
            .map(String::as_str)
            .collect();
        vec![table.read(&list).0]
    }

    #[test]
    fn nodes_and_connections_have_bounds_of_their_own() {
        let (meter, table) = (NameMeter::default(), NameTable::default());
        let (one, other) = (connection(), connection());
        let ask = |share: &NameShare, prefix: &str, count| {
            share.record(set(&table, prefix, count), table.len(), &LIMITS)
        };
        let first = meter.share("a", one.clone());
        assert_eq!(ask(&first, "x", 10), Ok(()));
        assert_eq!(ask(&first, "x", 11), Err(TooManyNames::Node(10)));
        assert_eq!(ask(&first, "x", 10), Ok(()), "fewer are fine");
        // Over another connection it is the same node, and another node over the first is the same connection.
        let second = meter.share("a", other.clone());
        assert_eq!(ask(&second, "y", 1), Err(TooManyNames::Node(10)));
        let third = meter.share("b", one);
        assert_eq!(ask(&third, "z", 6), Err(TooManyNames::Connection(15)));
        drop((first, second));
        assert_eq!(ask(&third, "z", 7), Ok(()));
        drop(third);
        assert!(meter.lock().nodes.is_empty() && meter.lock().connections.is_empty());
    }

    #[test]
    fn the_connection_that_asks_for_the_most_makes_room() {
        let (meter, table) = (NameMeter::default(), NameTable::default());
        let open = |node: &str| {
            let connection = connection();
            (meter.share(node, connection.clone()), connection)
        };
        let ask = |(share, _): &(NameShare, ConnectionEnd), sets: &[Arc<NameSet>]| {
            share.record(sets.to_vec(), table.len(), &LIMITS)
        };
        // Three honest ones share their names, and count for a third each.
        let shared = set(&table, "shared", 10);
        let honest = [open("a"), open("b"), open("c")];
        honest.iter().for_each(|it| assert_eq!(ask(it, &shared), Ok(())));
        let hostile: Vec<_> = (0..3).map(|number| open(&format!("h{number}"))).collect();
        let mut kept = Vec::new();
        for (number, it) in hostile.iter().enumerate() {
            let names = set(&table, &format!("h{number}-"), 10 - number);
            assert_eq!(ask(it, &names), Ok(()));
            kept.push(names);
        }
        assert_eq!(table.len(), 37);
        let late = open("late");
        let few = set(&table, "late", 4);
        assert_eq!(ask(&late, &few), Ok(()));
        let ended: Vec<bool> = hostile.iter().map(|(_, connection)| connection.is_ended()).collect();
        assert_eq!(ended, [true, false, false]);
        // It is ending already, so nobody else is ended.
        let more = set(&table, "more", 9);
        assert_eq!(ask(&late, &more), Ok(()));
        assert!(!hostile[1].1.is_ended() && honest.iter().all(|(_, connection)| !connection.is_ended()));
        // One that would have the most itself is refused.
        let last = open("last");
        let most = set(&table, "last", 10);
        assert_eq!(ask(&last, &most), Err(TooManyNames::All(40)));
        assert!(!last.1.is_ended(), "it hears why");
    }
}
