//! Fleet of streams that get the same resources, and the responses to each of them.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::stream::{self, ReadBehaviour};
use crate::wire::{Resource, Response, Type, Variant};

/// Time without the change after which a stream counts as deaf.
pub(crate) const DEAF_AFTER: Duration = Duration::from_secs(10);

/// Number of streams that may wait for their first responses, unless all at once is measured.
pub(crate) const RAMP: usize = 100;

/// Behaviour of all streams of a fleet.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    /// Address of the server.
    pub(crate) address: SocketAddr,
    /// Variant of the protocol.
    pub(crate) variant: Variant,
    /// Types to ask for, in this order.
    pub(crate) types: &'static [Type],
    /// Names, and held resources, in the first request of each type.
    pub(crate) first: [Bytes; 2],
    /// Number of resources that make the first responses complete, by type.
    pub(crate) expected: [u64; 2],
    /// True to ask for all types at once.
    pub(crate) at_once: bool,
    /// Resource that is going to change; none if it is not known.
    pub(crate) changed: Option<String>,
    /// True to decode large responses too, and keep their resources.
    pub(crate) scout: bool,
}

/// Phase of a fleet, sent to all streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Connect, and wait.
    Connect,
    /// Send the first requests.
    Ask,
    /// Stop reading, in the streams that are to be stuck.
    Freeze,
}

/// State shared by the streams and their fleet.
#[derive(Debug)]
pub(crate) struct FleetState {
    /// Behaviour of the streams.
    pub(crate) script: Arc<Script>,
    /// State of each stream.
    pub(crate) slots: Vec<StreamProgress>,
    began: Instant,
    found: Mutex<[Vec<Resource>; 2]>,
}

/// Responses to one stream.
#[derive(Debug, Default)]
pub(crate) struct StreamProgress {
    /// True once the connection stands.
    pub(crate) connected: AtomicBool,
    /// Number of bytes received in total.
    pub(crate) bytes: AtomicU64,
    responses: AtomicU64,
    resources: [AtomicU64; 2],
    removed: AtomicU64,
    /// Arrival of the change, by type, in nanoseconds since the fleet began; 0 before it arrives.
    arrived: [AtomicU64; 2],
    ended: AtomicBool,
    stuck: AtomicBool,
}

impl FleetState {
    /// Records a response.
    pub(crate) fn record(&self, index: usize, of: Type, response: Response) {
        let slot = &self.slots[index];
        let of_type = of as usize;
        slot.responses.fetch_add(1, Relaxed);
        slot.resources[of_type].fetch_add(response.resources, Relaxed);
        slot.removed.fetch_add(response.removed, Relaxed);
        // A response that is too large to be decoded counts as news of the change.
        let is_change = match (&self.script.changed, &response.inside) {
            (Some(name), Some(inside)) => inside.iter().any(|resource| resource.name == *name),
            _ => response.resources > 0,
        };
        if is_change && slot.arrived[of_type].load(Relaxed) == 0 {
            let now = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            slot.arrived[of_type].store(now, Relaxed);
        }
        if self.script.scout {
            let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            found[of_type].extend(response.inside.unwrap_or_default());
        }
    }

    /// Returns true if the first responses to this stream are complete.
    pub(crate) fn has_all(&self, index: usize) -> bool {
        let slot = &self.slots[index];
        self.script.types.iter().all(|of| {
            slot.responses.load(Relaxed) > 0
                && slot.resources[*of as usize].load(Relaxed) >= self.script.expected[*of as usize]
        })
    }
}

/// Numbers of streams that did not get a change.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct MissedChanges {
    /// Streams without it within [`DEAF_AFTER`].
    pub(crate) at_first: usize,
    /// Streams without it when no more responses came.
    pub(crate) for_good: usize,
}

impl std::ops::AddAssign for MissedChanges {
    fn add_assign(&mut self, other: Self) {
        self.at_first += other.at_first;
        self.for_good += other.for_good;
    }
}

/// Streams that run until this is dropped.
#[derive(Debug)]
pub(crate) struct Fleet {
    shared: Arc<FleetState>,
    phase: watch::Sender<Phase>,
    streams: JoinSet<()>,
    /// First reason for which a stream ended.
    trouble: Arc<Mutex<Option<String>>>,
}

impl Fleet {
    /// Starts `count` streams that connect and wait. Of every hundred the last `stuck` will stop reading,
    /// alternating between the two ways. At most `ramp` are without their first responses at a time.
    pub(crate) fn start(script: Script, count: usize, stuck: usize, ramp: Option<usize>) -> Self {
        let slots = (0..count).map(|_| StreamProgress::default()).collect();
        let shared = Arc::new(FleetState {
            script: Arc::new(script),
            slots,
            began: Instant::now(),
            found: Mutex::default(),
        });
        let (phase, _) = watch::channel(Phase::Connect);
        let mut fleet = Self { shared, phase, streams: JoinSet::new(), trouble: Arc::default() };
        let ramp = ramp.map(|permits| Arc::new(Semaphore::new(permits)));
        for index in 0..count {
            let behaviour = match index % 100 >= 100 - stuck {
                false => ReadBehaviour::Reads,
                true if (index / 100 + index) % 2 == 0 => ReadBehaviour::Frozen,
                true => ReadBehaviour::Windowless,
            };
            fleet.shared.slots[index].stuck.store(behaviour != ReadBehaviour::Reads, Relaxed);
            fleet.spawn(index, behaviour, ramp.clone());
        }
        fleet
    }

    fn spawn(&mut self, index: usize, behaviour: ReadBehaviour, ramp: Option<Arc<Semaphore>>) {
        let (shared, trouble, phase) = (self.shared.clone(), self.trouble.clone(), self.phase.subscribe());
        self.streams.spawn(async move {
            let permit = match ramp {
                Some(ramp) => ramp.acquire_owned().await.ok(),
                None => None,
            };
            let outcome = stream::run(shared.clone(), index, behaviour, phase, permit).await;
            shared.slots[index].ended.store(true, Relaxed);
            if let Err(error) = outcome {
                let mut trouble = trouble.lock().unwrap_or_else(PoisonError::into_inner);
                trouble.get_or_insert_with(|| format!("stream {index}: {error:#}"));
            }
        });
    }

    /// Waits until all connections stand.
    pub(crate) async fn connected(&self, patience: Duration) -> anyhow::Result<()> {
        let missing = self.wait(patience, self.all(), |_, slot| slot.connected.load(Relaxed)).await;
        anyhow::ensure!(missing == 0, "{missing} streams did not connect: {}", self.trouble());
        Ok(())
    }

    /// Sends a phase to all streams.
    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Waits until the first responses are complete, and returns the number of streams without them.
    pub(crate) async fn answered(&self, patience: Duration) -> MissedChanges {
        let missing = self.wait(patience, self.all(), |index, _| self.shared.has_all(index)).await;
        MissedChanges { at_first: missing, for_good: missing }
    }

    /// Forgets past arrivals, before the next change.
    pub(crate) fn listen(&self) {
        for arrived in self.shared.slots.iter().flat_map(|slot| &slot.arrived) {
            arrived.store(0, Relaxed);
        }
    }

    /// Waits until news of `of` came to all streams, and returns the number of streams without it.
    pub(crate) async fn heard(&self, of: Type) -> MissedChanges {
        let at_first = self.missing(of).await;
        if at_first == 0 {
            return MissedChanges::default();
        }
        // A late change is not lost: whether it comes at all tells where to look for the cause.
        let mut last = self.bytes();
        for _ in 0..30 {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let now = self.bytes();
            if std::mem::replace(&mut last, now) == now {
                break;
            }
        }
        let arrived = |slot: &StreamProgress| slot.arrived[of as usize].load(Relaxed) != 0;
        MissedChanges { at_first, for_good: self.readers().filter(|(_, slot)| !arrived(slot)).count() }
    }

    async fn missing(&self, of: Type) -> usize {
        self.wait(DEAF_AFTER, self.readers(), |_, slot| slot.arrived[of as usize].load(Relaxed) != 0).await
    }

    /// Returns the time from `since` until the news came, for each stream that got it, in ascending order.
    pub(crate) fn delays(&self, of: Type, since: Instant) -> Vec<Duration> {
        let since = since.duration_since(self.shared.began);
        let arrived = self.readers().map(|(_, slot)| slot.arrived[of as usize].load(Relaxed));
        let delay = |at: u64| Duration::from_nanos(at).saturating_sub(since);
        let mut delays: Vec<Duration> = arrived.filter(|at| *at != 0).map(delay).collect();
        delays.sort();
        delays
    }

    /// Waits until `done` holds for each of these streams, and returns the number of those for which it does
    /// not.
    async fn wait<'a>(
        &'a self,
        patience: Duration,
        streams: impl Iterator<Item = (usize, &'a StreamProgress)> + Clone,
        done: impl Fn(usize, &StreamProgress) -> bool,
    ) -> usize {
        let end = Instant::now() + patience;
        loop {
            let missing = streams.clone().filter(|(index, slot)| !done(*index, slot));
            let (missing, hopeless) = missing.fold((0, true), |(count, hopeless), (_, slot)| {
                (count + 1, hopeless && slot.ended.load(Relaxed))
            });
            if hopeless || Instant::now() > end {
                return missing;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn all(&self) -> impl Iterator<Item = (usize, &StreamProgress)> + Clone {
        self.shared.slots.iter().enumerate()
    }

    /// Returns the streams that are not to be stuck.
    fn readers(&self) -> impl Iterator<Item = (usize, &StreamProgress)> + Clone {
        self.all().filter(|(_, slot)| !slot.stuck.load(Relaxed))
    }

    /// Returns the number of streams.
    pub(crate) fn len(&self) -> usize {
        self.shared.slots.len()
    }

    /// Returns the number of bytes received so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.shared.slots.iter().map(|slot| slot.bytes.load(Relaxed)).sum()
    }

    /// Returns the number of resources received so far, removals included.
    pub(crate) fn resources(&self) -> u64 {
        let of = |slot: &StreamProgress| {
            slot.resources.iter().map(|it| it.load(Relaxed)).sum::<u64>() + slot.removed.load(Relaxed)
        };
        self.shared.slots.iter().map(of).sum()
    }

    /// Returns the number of reading streams that have ended.
    pub(crate) fn ended(&self) -> usize {
        self.readers().filter(|(_, slot)| slot.ended.load(Relaxed)).count()
    }

    /// Returns the reason for which the first stream ended.
    pub(crate) fn trouble(&self) -> String {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.clone().unwrap_or_else(|| "no reason is known".to_owned())
    }

    /// Returns the resources that a scout found, by type.
    pub(crate) fn found(&self) -> [Vec<Resource>; 2] {
        self.shared.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Closes all connections, and returns when they are closed.
    pub(crate) async fn close(mut self) {
        self.streams.shutdown().await;
    }
}
