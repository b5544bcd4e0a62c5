//! What happens, as those hear of it who follow `GET /events`.
//!
//! One [`Events`] is shared by all who have something to tell: they [`publish`](Events::publish) and go on. The
//! last events are kept in one ring, and whoever follows it reads there at a pace of its own. So no queue stands
//! between the two: a reader that is too slow finds that what it wants is no longer kept, and is told so.
//!
//! To tell of something new, add a variant to [`Event`] and its word to [`Event::word`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::watch;

/// How many events are kept, and how many bytes of text that others chose.
const KEPT: usize = 4_096;
const KEPT_BYTES: usize = 8 << 20;

/// Something that happened. Its fields are the fields of the JSON that followers get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Event {
    /// A change was accepted; it is durable and published.
    Revision {
        /// From 1, without gaps.
        number: u64,
        /// `files`, `api` or `rollback`.
        source: &'static str,
        /// The files, or who wrote over REST.
        author: String,
        /// What the author gave as reason.
        reason: Option<String>,
        /// What changed, in words.
        summary: String,
    },
    /// What a canary refused was taken back.
    Rejected {
        /// The revisions that are not in effect.
        revisions: Vec<u64>,
        /// The canaries that refused it, by node id.
        by: Vec<String>,
        /// Their words.
        error: String,
    },
    /// An Envoy refused something and keeps what it had.
    Nack {
        /// The id of the Envoy.
        node: String,
        /// Such as `clusters`.
        #[serde(rename = "type")]
        resource_type: &'static str,
        /// The version that was sent.
        version: String,
        /// The resources that are now held back; none while it is not known which they are.
        names: Vec<String>,
        /// Envoy's words.
        error: String,
    },
    /// The first stream of an Envoy began.
    Connected {
        /// The id of the Envoy.
        node: String,
        /// As it says of itself.
        cluster: String,
    },
    /// The last stream of an Envoy ended.
    Disconnected {
        /// The id of the Envoy.
        node: String,
    },
    /// The files have faults; the last good config keeps serving.
    FilesRefused {
        /// How many; `GET /violations` has them.
        violations: usize,
    },
    /// What the files say is what is served again.
    FilesRecovered {},
    /// A standby serves.
    Failover {
        /// Of which upstream.
        upstream: String,
        /// What there is to say of it.
        #[serde(flatten)]
        what: Value,
    },
    /// The primaries serve again.
    Failback {
        /// Of which upstream.
        upstream: String,
        /// What there is to say of it.
        #[serde(flatten)]
        what: Value,
    },
    /// A target, a tier or a zone was taken out, or is back.
    TargetState {
        /// Of which upstream.
        upstream: String,
        /// What there is to say of it.
        #[serde(flatten)]
        what: Value,
    },
    /// A tier was pinned, or is no more.
    Pin {
        /// Of which upstream.
        upstream: String,
        /// What there is to say of it.
        #[serde(flatten)]
        what: Value,
    },
    /// A standby is held, or is no more.
    Hold {
        /// Of which upstream.
        upstream: String,
        /// What there is to say of it.
        #[serde(flatten)]
        what: Value,
    },
    /// A drill began, ended, or was left out.
    Drill {
        /// Of which upstream.
        upstream: String,
        /// What there is to say of it.
        #[serde(flatten)]
        what: Value,
    },
}

impl Event {
    /// The word of its kind: the `event` of the stream.
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

/// An event as it is told.
#[derive(Debug)]
pub struct Told {
    /// How many were told before it since the start, and one.
    pub number: u64,
    /// The word of its kind.
    pub word: &'static str,
    /// The event and its `time`, in JSON.
    pub json: String,
}

/// The event with when it happened.
#[derive(Serialize)]
struct Timed<'a> {
    time: String,
    #[serde(flatten)]
    event: &'a Event,
}

/// The last events. Cheap to clone: clones share.
#[derive(Debug, Clone)]
pub struct Events {
    /// Tells this run of the program from others, whose numbers mean nothing here.
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
    /// Tells everyone who follows, and those who will ask what they missed.
    pub fn publish(&self, event: &Event) {
        let timed = Timed { time: Timestamp::now().to_string(), event };
        let json = serde_json::to_string(&timed).expect("an event is texts and numbers");
        // Under the lock, so that nobody is woken for a number before an earlier one is there.
        let mut ring = self.lock();
        let number = ring.push(event.word(), json);
        self.newest.send_replace(number);
    }

    /// Follows from now on or, given the id of an event, from the one after it.
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

    /// The id of an event, for those who come back for what they missed.
    pub fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.run)
    }

    /// How many follow.
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

/// One who follows.
#[derive(Debug)]
pub struct Follower {
    events: Events,
    newest: watch::Receiver<u64>,
    position: u64,
    is_known: bool,
}

/// What a follower gets next.
#[derive(Debug)]
pub enum Next {
    /// The next event.
    Event(Arc<Told>),
    /// The event that was asked for is not kept any more: what comes next is the oldest that is.
    Missed,
    /// The follower was so slow that the next event is not kept any more. It should begin anew.
    TooSlow,
}

impl Follower {
    /// Waits for the next event.
    pub async fn next(&mut self) -> Next {
        if !std::mem::replace(&mut self.is_known, true) {
            return Next::Missed;
        }
        loop {
            self.newest.mark_unchanged();
            match self.events.lock().get(self.position) {
                Found::Event(told) => {
                    self.position += 1;
                    return Next::Event(told);
                }
                Found::Gone => return Next::TooSlow,
                Found::NotYet => {}
            }
            // It cannot fail: this follower holds a sender itself.
            let _ = self.newest.changed().await;
        }
    }
}

/// The last events in their order.
#[derive(Debug)]
struct Ring {
    /// The number of the next.
    next: u64,
    events: VecDeque<Arc<Told>>,
    bytes: usize,
}

impl Default for Ring {
    fn default() -> Self {
        Self { next: 1, events: VecDeque::new(), bytes: 0 }
    }
}

/// What the ring has under a number.
enum Found {
    Event(Arc<Told>),
    NotYet,
    Gone,
}

impl Ring {
    fn push(&mut self, word: &'static str, json: String) -> u64 {
        let number = self.next;
        self.next += 1;
        self.bytes += json.len();
        self.events.push_back(Arc::new(Told { number, word, json }));
        while self.events.len() > KEPT || self.bytes > KEPT_BYTES {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= oldest.json.len();
        }
        number
    }

    fn oldest(&self) -> u64 {
        self.next - self.events.len() as u64
    }

    /// True when no event from this number on is missing.
    fn holds(&self, number: u64) -> bool {
        (self.oldest()..=self.next).contains(&number)
    }

    fn get(&self, number: u64) -> Found {
        match number.checked_sub(self.oldest()) {
            None => Found::Gone,
            Some(index) => usize::try_from(index)
                .ok()
                .and_then(|index| self.events.get(index))
                .cloned()
                .map_or(Found::NotYet, Found::Event),
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
            Next::Event(told) => {
                let event: serde_json::Value = serde_json::from_str(&told.json).unwrap_or_default();
                event["node"].as_str().unwrap_or_default().to_owned()
            }
            Next::Missed => "missed".to_owned(),
            Next::TooSlow => "too slow".to_owned(),
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
        (0..=KEPT).for_each(|number| events.publish(&gone(number)));
        assert_eq!(node(&mut slow).await, "too slow");
        assert_eq!(node(&mut events.follow(Some(&events.id(1)))).await, "1", "the oldest that is kept");
        let long = |_| events.publish(&Event::Disconnected { node: "x".repeat(KEPT_BYTES / 4) });
        (0..8).for_each(long);
        assert!(events.lock().bytes <= KEPT_BYTES);
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
        let Found::Event(told) = events.lock().get(1) else { panic!("it was told") };
        assert!(told.json.starts_with("{\"time\":\"2"), "{}", told.json);
        let rest = r#"Z","number":7,"source":"api","author":"ci","reason":null,"summary":"a\nb"}"#;
        assert!(told.json.ends_with(rest), "{}", told.json);
    }
}
