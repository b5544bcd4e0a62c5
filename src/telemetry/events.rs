//! Events of the control plane, as `GET /events` streams them.
//!
//! All publishers share one [`Events`]; [`publish`](Events::publish) never waits for a reader. The last
//! events are kept in a ring, which each follower reads at its own pace. There is no queue per follower: one
//! that is too slow finds that its next event was dropped, and gets [`FollowOutcome::TooSlow`].
//!
//! A new kind of event needs a variant of [`Event`] and its word in [`Event::word`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::watch;

/// Maximum number of events that are kept, and maximum bytes of their JSON, which contains texts of clients.
const MAX_EVENTS: usize = 4_096;
const MAX_BYTES: usize = 8 << 20;

/// Event of the control plane. Its fields are the fields of the JSON that followers get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Event {
    /// A change was accepted; it is durable and published.
    Revision {
        /// Number of the revision, from 1, without gaps.
        number: u64,
        /// Source of the change: `files`, `api` or `rollback`.
        source: &'static str,
        /// Author of the change: the files, or the REST client.
        author: String,
        /// Reason that the author gave.
        reason: Option<String>,
        /// Description of the change, in words.
        summary: String,
    },
    /// A change that a canary refused was rolled back.
    Rejected {
        /// Numbers of the revisions that are not in effect.
        revisions: Vec<u64>,
        /// Ids of the canary nodes that refused it.
        by: Vec<String>,
        /// Error message of the canaries.
        error: String,
    },
    /// An Envoy refused resources and keeps the previous ones.
    Nack {
        /// Id of the node.
        node: String,
        /// Type of the resources, such as `clusters`.
        #[serde(rename = "type")]
        resource_type: &'static str,
        /// Version of the refused response.
        version: String,
        /// Names of the resources that are now held back; empty while it is unknown which are at fault.
        names: Vec<String>,
        /// Error message of the Envoy.
        error: String,
    },
    /// The first stream of an Envoy began.
    Connected {
        /// Id of the node.
        node: String,
        /// Cluster that the node names for itself.
        cluster: String,
    },
    /// The last stream of an Envoy ended.
    Disconnected {
        /// Id of the node.
        node: String,
    },
    /// The files have faults; the last good config keeps serving.
    FilesRefused {
        /// Number of violations; `GET /violations` lists them.
        violations: usize,
    },
    /// The files are without faults again, and are what is served.
    FilesRecovered {},
    /// A standby serves.
    Failover {
        /// Name of the upstream.
        upstream: String,
        /// Further fields.
        #[serde(flatten)]
        what: Value,
    },
    /// The primaries serve again.
    Failback {
        /// Name of the upstream.
        upstream: String,
        /// Further fields.
        #[serde(flatten)]
        what: Value,
    },
    /// Targets (one, or all of a tier, zone or region) were taken out of rotation or are back.
    TargetState {
        /// Name of the upstream.
        upstream: String,
        /// Further fields.
        #[serde(flatten)]
        what: Value,
    },
    /// A tier was pinned, or its pin was removed.
    Pin {
        /// Name of the upstream.
        upstream: String,
        /// Further fields.
        #[serde(flatten)]
        what: Value,
    },
    /// A standby is held, its hold changed, or it was released.
    Hold {
        /// Name of the upstream.
        upstream: String,
        /// Further fields.
        #[serde(flatten)]
        what: Value,
    },
    /// A drill began, ended, or was skipped.
    Drill {
        /// Name of the upstream.
        upstream: String,
        /// Further fields.
        #[serde(flatten)]
        what: Value,
    },
}

impl Event {
    /// Returns the word of its kind: the `event` field of the stream.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Revision { .. } => "revision",
            Self::Rejected { .. } => "rejected",
            Self::Nack { .. } => "nack",
            Self::Connected { .. } => "connected",
            Self::Disconnected { .. } => "disconnected",
            Self::FilesRefused { .. } => "files_refused",
            Self::FilesRecovered {} => "files_recovered",
            Self::Failover { .. } => "failover",
            Self::Failback { .. } => "failback",
            Self::TargetState { .. } => "target_state",
            Self::Pin { .. } => "pin",
            Self::Hold { .. } => "hold",
            Self::Drill { .. } => "drill",
        }
    }
}

/// Published event.
#[derive(Debug)]
pub struct PublishedEvent {
    /// Number of the event since the start of the process, from 1.
    pub number: u64,
    /// Word of its kind.
    pub word: &'static str,
    /// JSON of the event and its `time`.
    pub json: String,
}

/// Event with the time of its generation.
#[derive(Serialize)]
struct TimedEvent<'a> {
    time: String,
    #[serde(flatten)]
    event: &'a Event,
}

/// Publisher and ring of the last events. Cheap to clone: clones share their state.
#[derive(Debug, Clone)]
pub struct Events {
    /// Id of this run of the process. Event numbers of other runs are unknown here.
    run: Arc<str>,
    ring: Arc<Mutex<Ring>>,
    newest: watch::Sender<u64>,
}

impl Default for Events {
    fn default() -> Self {
        let run = format!("{:x}", Timestamp::now().as_millisecond());
        Self { run: run.into(), ring: Arc::default(), newest: watch::Sender::new(0) }
    }
}

impl Events {
    /// Publishes an event to all followers, and keeps it for those that will resume.
    pub fn publish(&self, event: &Event) {
        let timed = TimedEvent { time: Timestamp::now().to_string(), event };
        let json = serde_json::to_string(&timed).expect("an event is texts and numbers");
        // Numbers are announced under the lock, so that no follower wakes up before an earlier event is
        // there.
        let mut ring = self.lock();
        let number = ring.push(event.word(), json);
        self.newest.send_replace(number);
    }

    /// Returns a follower of the events from now on or, with the id of an event, from the one after it.
    pub fn follow(&self, last: Option<&str>) -> Follower {
        let newest = self.newest.subscribe();
        let (position, is_known) = {
            let ring = self.lock();
            match last {
                None => (ring.next, true),
                Some(last) => match self.number(last).filter(|number| ring.holds(*number + 1)) {
                    Some(number) => (number + 1, true),
                    None => (ring.oldest(), false),
                },
            }
        };
        Follower { events: self.clone(), newest, position, is_known }
    }

    /// Returns the id of an event, with which a client resumes.
    pub fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.run)
    }

    /// Returns the number of followers.
    pub fn followers(&self) -> usize {
        self.newest.receiver_count()
    }

    fn number(&self, id: &str) -> Option<u64> {
        let (run, number) = id.trim().split_once('-')?;
        number.parse().ok().filter(|_| *run == *self.run)
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reader of the events, with a position of its own.
#[derive(Debug)]
pub struct Follower {
    events: Events,
    newest: watch::Receiver<u64>,
    position: u64,
    is_known: bool,
}

/// Outcome of waiting for the next event.
#[derive(Debug)]
pub enum FollowOutcome {
    /// The next event.
    Event(Arc<PublishedEvent>),
    /// The requested event is no longer kept; the oldest event that is kept follows.
    Missed,
    /// The follower was too slow: its next event is no longer kept. It should follow anew.
    TooSlow,
}

impl Follower {
    /// Waits for the next event.
    pub async fn next(&mut self) -> FollowOutcome {
        if !std::mem::replace(&mut self.is_known, true) {
            return FollowOutcome::Missed;
        }
        loop {
            self.newest.mark_unchanged();
            match self.events.lock().get(self.position) {
                RingSlot::Event(told) => {
                    self.position += 1;
                    return FollowOutcome::Event(told);
                }
                RingSlot::Gone => return FollowOutcome::TooSlow,
                RingSlot::NotYet => {}
            }
            // Cannot fail: the follower holds a sender itself.
            let _ = self.newest.changed().await;
        }
    }
}

/// Ring of the last events, in order.
#[derive(Debug)]
struct Ring {
    /// Number of the next event.
    next: u64,
    events: VecDeque<Arc<PublishedEvent>>,
    bytes: usize,
}

impl Default for Ring {
    fn default() -> Self {
        Self { next: 1, events: VecDeque::new(), bytes: 0 }
    }
}

/// Content of the ring at a number.
enum RingSlot {
    Event(Arc<PublishedEvent>),
    NotYet,
    Gone,
}

impl Ring {
    fn push(&mut self, word: &'static str, json: String) -> u64 {
        let number = self.next;
        self.next += 1;
        self.bytes += json.len();
        self.events.push_back(Arc::new(PublishedEvent { number, word, json }));
        while self.events.len() > MAX_EVENTS || self.bytes > MAX_BYTES {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= oldest.json.len();
        }
        number
    }

    fn oldest(&self) -> u64 {
        self.next - self.events.len() as u64
    }

    /// True if no event from this number on was dropped.
    fn holds(&self, number: u64) -> bool {
        (self.oldest()..=self.next).contains(&number)
    }

    fn get(&self, number: u64) -> RingSlot {
        match number.checked_sub(self.oldest()) {
            None => RingSlot::Gone,
            Some(index) => usize::try_from(index)
                .ok()
                .and_then(|index| self.events.get(index))
                .cloned()
                .map_or(RingSlot::NotYet, RingSlot::Event),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(node: usize) -> Event {
        Event::Disconnected { node: node.to_string() }
    }

    async fn node(follower: &mut Follower) -> String {
        match follower.next().await {
            FollowOutcome::Event(told) => {
                let event: serde_json::Value = serde_json::from_str(&told.json).unwrap_or_default();
                event["node"].as_str().unwrap_or_default().to_owned()
            }
            FollowOutcome::Missed => "missed".to_owned(),
            FollowOutcome::TooSlow => "too slow".to_owned(),
        }
    }

    #[tokio::test]
    async fn those_who_follow_hear_what_happens_from_then_on() {
        let events = Events::default();
        events.publish(&gone(1));
        let mut follower = events.follow(None);
        events.publish(&gone(2));
        events.publish(&gone(3));
        assert_eq!((node(&mut follower).await, node(&mut follower).await), ("2".to_owned(), "3".to_owned()));
        let (next, ()) = tokio::join!(node(&mut follower), async { events.publish(&gone(4)) });
        assert_eq!(next, "4");
    }

    #[tokio::test]
    async fn those_who_come_back_hear_what_they_missed_or_that_it_is_not_known() {
        let events = Events::default();
        (1..=3).for_each(|number| events.publish(&gone(number)));
        assert_eq!(node(&mut events.follow(Some(&events.id(1)))).await, "2");
        for strange in ["", "7", "0-1", &events.id(9)] {
            let mut follower = events.follow(Some(strange));
            assert_eq!(node(&mut follower).await, "missed", "{strange}");
            assert_eq!(node(&mut follower).await, "1", "{strange}");
        }
        let mut newest = events.follow(Some(&events.id(3)));
        events.publish(&gone(4));
        assert_eq!(node(&mut newest).await, "4");
    }

    #[tokio::test]
    async fn so_many_are_kept_and_who_is_slower_is_told() {
        let events = Events::default();
        let mut slow = events.follow(None);
        (0..=MAX_EVENTS).for_each(|number| events.publish(&gone(number)));
        assert_eq!(node(&mut slow).await, "too slow");
        assert_eq!(node(&mut events.follow(Some(&events.id(1)))).await, "1", "the oldest that is kept");
        let long = |_| events.publish(&Event::Disconnected { node: "x".repeat(MAX_BYTES / 4) });
        (0..8).for_each(long);
        assert!(events.lock().bytes <= MAX_BYTES);
    }

    #[test]
    fn an_event_is_one_line_of_json() {
        let events = Events::default();
        events.publish(&Event::Revision {
            number: 7,
            source: "api",
            author: "ci".into(),
            reason: None,
            summary: "a\nb".into(),
        });
        let RingSlot::Event(told) = events.lock().get(1) else { panic!("it was told") };
        assert!(told.json.starts_with("{\"time\":\"2"), "{}", told.json);
        let rest = r#"Z","number":7,"source":"api","author":"ci","reason":null,"summary":"a\nb"}"#;
        assert!(told.json.ends_with(rest), "{}", told.json);
    }
}
