//! What connected Envoys said: who they are, and of each type which version they took or refused.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::envoy::ResourceType;
use crate::node::Node;
use crate::snapshot::Version;

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
    /// The client's words, while it refuses.
    pub error: Option<String>,
    /// The last refusal and its time, kept after the client recovered.
    pub last_error: Option<(String, Timestamp)>,
}

/// A connected Envoy.
#[derive(Debug, Clone)]
pub struct Connected {
    /// Who it is.
    pub node: Node,
    /// Its end of the connection, where known.
    pub address: Option<SocketAddr>,
    /// When the stream began.
    pub connected_at: Timestamp,
    /// The types that it asked for.
    pub types: BTreeMap<ResourceType, Noted>,
}

/// All connected Envoys. Cheap to clone: clones share.
///
/// The mutex is a plain one: it is held for the copying of a few fields and never across an await.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    streams: Arc<Mutex<Streams>>,
}

#[derive(Debug, Default)]
struct Streams {
    next: u64,
    connected: BTreeMap<u64, Connected>,
}

impl Fleet {
    /// Notes a new stream; it counts as connected until the guard is dropped.
    pub fn connect(&self, node: Node, address: Option<SocketAddr>) -> Connection {
        let mut streams = self.lock();
        let stream = streams.next;
        streams.next += 1;
        let connected = Connected { node, address, connected_at: Timestamp::now(), types: BTreeMap::new() };
        streams.connected.insert(stream, connected);
        Connection { fleet: self.clone(), stream }
    }

    /// Every stream, the oldest first.
    pub fn connected(&self) -> Vec<Connected> {
        self.lock().connected.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The presence of one stream in the [`Fleet`].
#[derive(Debug)]
pub struct Connection {
    fleet: Fleet,
    stream: u64,
}

impl Connection {
    /// Notes how the stream stands. Unchanged types keep their time.
    pub fn note<'a>(&self, statuses: impl IntoIterator<Item = (ResourceType, TypeStatus<'a>)>) {
        let mut streams = self.fleet.lock();
        let Some(connected) = streams.connected.get_mut(&self.stream) else { return };
        for (resource_type, status) in statuses {
            let TypeStatus { state, version, error } = status;
            let known = connected.types.get(&resource_type);
            if known.is_some_and(|known| {
                (known.state, known.version, known.error.as_deref()) == (state, version, error)
            }) {
                continue;
            }
            let now = Timestamp::now();
            let since = known.filter(|known| known.state == state).map_or(now, |known| known.since);
            let error = error.map(str::to_owned);
            let last_error = known.and_then(|known| known.last_error.clone());
            let last_error = error.clone().map(|error| (error, now)).or(last_error);
            connected.types.insert(resource_type, Noted { state, since, version, error, last_error });
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.fleet.lock().connected.remove(&self.stream);
    }
}
