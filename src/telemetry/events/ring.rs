//! Ring of the last events.

use std::collections::VecDeque;
use std::sync::Arc;

use super::kind::EventKind;

/// Maximum number of events that are kept, and maximum bytes of their JSON, which contains texts of clients.
pub(super) const MAX_EVENTS: usize = 4_096;
pub(super) const MAX_BYTES: usize = 8 << 20;

/// Published event.
#[derive(Debug)]
pub struct PublishedEvent {
    /// Number of the event since the start of the process, from 1.
    pub number: u64,
    /// Kind of the event.
    pub kind: EventKind,
    /// JSON of the event and its `time`.
    pub json: String,
}

/// Ring of the last events, in order.
#[derive(Debug)]
pub(super) struct Ring {
    /// Number of the next event.
    pub(super) next: u64,
    events: VecDeque<Arc<PublishedEvent>>,
    pub(super) bytes: usize,
}

impl Default for Ring {
    fn default() -> Self {
        Self { next: 1, events: VecDeque::new(), bytes: 0 }
    }
}

/// Content of the ring at a number.
pub(super) enum RingSlot {
    /// The event of this number.
    Event(Arc<PublishedEvent>),
    /// No event has this number yet.
    Pending,
    /// The event was dropped.
    Dropped,
}

impl Ring {
    /// Adds an event, drops the oldest ones beyond the limits, and returns the number of the new one.
    pub(super) fn push(&mut self, kind: EventKind, json: String) -> u64 {
        let number = self.next;
        self.next += 1;
        self.bytes += json.len();
        self.events.push_back(Arc::new(PublishedEvent { number, kind, json }));
        while self.events.len() > MAX_EVENTS || self.bytes > MAX_BYTES {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= oldest.json.len();
        }
        number
    }

    /// Returns the number of the oldest event that is kept, or of the next one if none is.
    pub(super) fn oldest(&self) -> u64 {
        self.next - self.events.len() as u64
    }

    /// True if no event from this number on was dropped.
    pub(super) fn holds(&self, number: u64) -> bool {
        (self.oldest()..=self.next).contains(&number)
    }

    /// Returns the event of this number.
    pub(super) fn get(&self, number: u64) -> RingSlot {
        match number.checked_sub(self.oldest()) {
            None => RingSlot::Dropped,
            Some(index) => usize::try_from(index)
                .ok()
                .and_then(|index| self.events.get(index))
                .cloned()
                .map_or(RingSlot::Pending, RingSlot::Event),
        }
    }
}
