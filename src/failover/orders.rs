//! What is in force beside the config: drained targets, pins, standbys that are held, drills.
//!
//! Orders are values: each function makes the next orders of the last ones, the newest config and the time. What they
//! ask of the endpoints is [`Orders::overrides`]; whoever holds them makes them durable before Envoys are told.

pub mod decide;
pub mod drill;
pub mod hold;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::failover::orders::drill::Drill;
use crate::failover::orders::hold::Hold;
use crate::model::name::Name;
use crate::model::overrides::{EndpointOverrides, First, OverridesByUpstream, State};
use crate::model::selector::Part;
use crate::model::target::Target;
use crate::model::upstream::Upstream;

/// Who asked for something, why, and until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Who.
    pub author: String,
    /// Why, if that was said.
    pub reason: Option<String>,
    /// Since when.
    pub since: Timestamp,
    /// When it ends by itself; none for never.
    pub expires_at: Option<Timestamp>,
}

impl Note {
    fn is_over(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }
}

/// A part of an upstream that is out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateOrder {
    /// How.
    pub state: State,
    /// Why.
    #[serde(flatten)]
    pub note: Note,
}

/// A tier that serves while it is healthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// From 0.
    pub priority: u32,
    /// Why.
    #[serde(flatten)]
    pub note: Note,
}

/// All orders that are in force, and the drills that were.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Orders {
    /// By upstream and part.
    pub states: BTreeMap<(Name, Part), StateOrder>,
    /// By upstream.
    pub pins: BTreeMap<Name, Pin>,
    /// By upstream.
    pub holds: BTreeMap<Name, Hold>,
    /// By number, from 1; those that ended too.
    pub drills: BTreeMap<u64, Drill>,
}

impl Orders {
    /// What is asked of the endpoints.
    pub fn overrides(&self) -> OverridesByUpstream {
        let mut overrides: BTreeMap<Name, EndpointOverrides> = BTreeMap::new();
        for ((upstream, part), order) in &self.states {
            let endpoint_overrides = overrides.entry(upstream.clone()).or_default();
            endpoint_overrides.states.insert(part.clone(), order.state);
        }
        for drill in self.drills.values().filter(|drill| drill.is_running()) {
            let endpoint_overrides = overrides.entry(drill.upstream.clone()).or_default();
            for part in &drill.down {
                // What an operator said of it is more.
                endpoint_overrides.states.entry(part.clone()).or_insert(State::Rehearsed);
            }
        }
        for (upstream, hold) in &self.holds {
            overrides.entry(upstream.clone()).or_default().first = hold.first();
        }
        for (upstream, pin) in &self.pins {
            let first = First { tier: pin.priority, home: 0 };
            overrides.entry(upstream.clone()).or_default().first = Some(first);
        }
        let asks = |(_, endpoint_overrides): &(Name, EndpointOverrides)| {
            *endpoint_overrides != EndpointOverrides::default()
        };
        overrides
            .into_iter()
            .filter(asks)
            .map(|(name, endpoint_overrides)| (name, Arc::new(endpoint_overrides)))
            .collect()
    }

    /// Without those whose time is over.
    #[must_use]
    pub fn at(&self, now: Timestamp) -> Self {
        let mut orders = self.clone();
        orders.states.retain(|_, order| !order.note.is_over(now));
        orders.pins.retain(|_, pin| !pin.note.is_over(now));
        orders
    }

    /// As they are when a control plane starts: without those whose time was over before, and without drills, which
    /// nobody watched meanwhile.
    #[must_use]
    pub fn restarted(&self, now: Timestamp) -> Self {
        let mut orders = self.at(now);
        for drill in orders.drills.values_mut().filter(|drill| drill.is_running()) {
            drill.revert(now, "the control plane was restarted");
        }
        orders
    }

    /// The running drill of an upstream.
    pub fn drill_of(&self, upstream: &Name) -> Option<(u64, &Drill)> {
        let mut running = self.drills.iter().filter(|(_, drill)| drill.is_running());
        running.find(|(_, drill)| drill.upstream == *upstream).map(|(id, drill)| (*id, drill))
    }

    /// True when a drill that runs takes a target of an upstream down.
    pub fn is_drilled(&self, upstream: &Upstream, target: &Target) -> bool {
        self.drill_of(&upstream.name).is_some_and(|(_, drill)| drill.includes(target))
    }

    /// The order that puts a target of an upstream out, itself or with others.
    pub fn state_of<'a>(
        &'a self,
        upstream: &'a Upstream,
        target: &'a Target,
    ) -> Option<(&'a Part, &'a StateOrder)> {
        let of = self
            .states
            .iter()
            .filter(move |((name, part), _)| *name == upstream.name && part.includes(target));
        of.max_by_key(|(_, order)| order.state).map(|((_, part), order)| (part, order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("within the calendar")
    }

    fn note(expires_at: Option<i64>) -> Note {
        Note { author: "ann".into(), reason: None, since: at(0), expires_at: expires_at.map(at) }
    }

    fn shop() -> Name {
        Name::parse("shop").expect("a name")
    }

    fn drained(orders: &mut Orders, part: &str, expires_at: Option<i64>) {
        let part = Part::read(part).expect("a part");
        let order = StateOrder { state: State::Drained, note: note(expires_at) };
        orders.states.insert((shop(), part), order);
    }

    #[test]
    fn orders_end_when_their_time_is_over() {
        let mut orders = Orders::default();
        drained(&mut orders, "10.0.0.1:80", Some(10));
        drained(&mut orders, "zone=a", None);
        orders.pins.insert(shop(), Pin { priority: 1, note: note(Some(20)) });
        let left = |now| {
            let orders = orders.at(at(now));
            (orders.states.len(), orders.pins.len())
        };
        assert_eq!([left(9), left(10), left(20)], [(2, 1), (1, 1), (1, 0)]);
    }

    #[test]
    fn a_pin_goes_before_a_hold() {
        let mut orders = Orders::default();
        orders.holds.insert(shop(), Hold::new(1, at(0), &Default::default(), false));
        let first = |orders: &Orders| orders.overrides()["shop"].first.map(|first| first.tier);
        assert_eq!(first(&orders), Some(1));
        orders.pins.insert(shop(), Pin { priority: 0, note: note(None) });
        assert_eq!(first(&orders), Some(0));
    }

    #[test]
    fn a_running_drill_takes_its_parts_down_and_a_restart_ends_it() {
        let mut orders = Orders::default();
        let part = Part::Priority(0);
        orders.drills.insert(1, Drill::begin(shop(), vec![part.clone()], at(0), at(60), 1.0, "ann".into()));
        assert_eq!(orders.overrides()["shop"].states[&part], State::Rehearsed);
        drained(&mut orders, "priority=0", Some(5));
        assert_eq!(orders.overrides()["shop"].states[&part], State::Drained, "an operator's word stands");
        let restarted = orders.restarted(at(5));
        assert!(restarted.overrides().is_empty());
        assert_eq!(restarted.drills[&1].state.word(), "reverted");
    }
}
