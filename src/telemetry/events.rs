//! Events of the control plane, as `GET /events` streams them.
//!
//! All publishers share one [`Events`]; [`publish`](Events::publish) never waits for a reader. The last
//! events are kept in a ring, which each follower reads at its own pace. There is no queue per follower: one
//! that is too slow finds that its next event was dropped, and gets [`FollowOutcome::TooSlow`].
//!
//! A new kind of event needs a variant of [`Event`] and its word in [`EventKind::word`].

pub mod kind;
pub mod payload;
pub mod ring;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::watch;

use self::kind::EventKind;
use self::payload::{DrillEvent, FailoverEvent, HoldEvent, PinEvent, TargetStateEvent};
use self::ring::{PublishedEvent, Ring, RingSlot};

/// Event of the control plane. Its fields are the fields of the JSON that followers get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
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
    Failover(FailoverEvent),
    /// The primaries serve again.
    Failback(FailoverEvent),
    /// Targets (one, or all of a tier, zone or region) were taken out of rotation or are back.
    TargetState(TargetStateEvent),
    /// A tier was pinned, or its pin was removed.
    Pin(PinEvent),
    /// A standby is held, its hold changed, or it was released.
    Hold(HoldEvent),
    /// A drill began, ended, or was skipped.
    Drill(DrillEvent),
}

impl Event {
    /// Returns its kind.
    pub fn kind(&self) -> EventKind {
        match self {
            Self::Revision { .. } => EventKind::Revision,
            Self::Rejected { .. } => EventKind::Rejected,
            Self::Nack { .. } => EventKind::Nack,
            Self::Connected { .. } => EventKind::Connected,
            Self::Disconnected { .. } => EventKind::Disconnected,
            Self::FilesRefused { .. } => EventKind::FilesRefused,
            Self::FilesRecovered {} => EventKind::FilesRecovered,
            Self::Failover(_) => EventKind::Failover,
            Self::Failback(_) => EventKind::Failback,
            Self::TargetState(_) => EventKind::TargetState,
            Self::Pin(_) => EventKind::Pin,
            Self::Hold(_) => EventKind::Hold,
            Self::Drill(_) => EventKind::Drill,
        }
    }
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
        let number = ring.push(event.kind(), json);
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
                RingSlot::Event(event) => {
                    self.position += 1;
                    return FollowOutcome::Event(event);
                }
                RingSlot::Dropped => return FollowOutcome::TooSlow,
                RingSlot::Pending => {}
            }
            // Cannot fail: the follower holds a sender itself.
            let _ = self.newest.changed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ring::{MAX_BYTES, MAX_EVENTS};
    use super::*;

    fn gone(node: usize) -> Event {
        Event::Disconnected { node: node.to_string() }
    }

    async fn node(follower: &mut Follower) -> String {
        match follower.next().await {
            FollowOutcome::Event(published) => {
                let event: serde_json::Value = serde_json::from_str(&published.json).unwrap_or_default();
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
        let RingSlot::Event(published) = events.lock().get(1) else { panic!("it was published") };
        assert!(published.json.starts_with("{\"time\":\"2"), "{}", published.json);
        let rest = r#"Z","number":7,"source":"api","author":"ci","reason":null,"summary":"a\nb"}"#;
        assert!(published.json.ends_with(rest), "{}", published.json);
    }
}
