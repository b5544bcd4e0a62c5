//! Orders in force beside the config: drained targets, pins, held standbys, drills.
//!
//! Orders are values. Each function derives the next orders from the current ones, the newest config and the
//! time. [`Orders::overrides`] turns them into overrides of endpoints. The supervisor makes orders durable
//! before it publishes them to Envoys.

pub mod decide;
pub mod drill;
pub mod hold;
pub mod request;
pub mod time;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::failover::orders::drill::DrillRun;
use crate::failover::orders::hold::Hold;
use crate::failover::orders::time::{Timed, restore_past};
use crate::model::name::Name;
use crate::model::overrides::{EndpointOverrides, First, OverrideState, OverridesByUpstream};
use crate::model::selector::TargetSelector;
use crate::model::target::Target;
use crate::model::upstream::Upstream;

/// Author, reason and lifetime of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderMetadata {
    /// Name of the client that gave the order.
    pub author: String,
    /// Reason, if the author gave one.
    pub reason: Option<String>,
    /// Time at which the order was given.
    pub since: Timestamp,
    /// Time at which it expires; none if it never does.
    pub expires_at: Option<Timestamp>,
}

impl OrderMetadata {
    fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }
}

/// Order that takes targets of an upstream out of rotation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateOrder {
    /// State of the targets.
    pub state: OverrideState,
    /// Author, reason and lifetime.
    #[serde(flatten)]
    pub metadata: OrderMetadata,
}

/// Order that a tier serves before all others while it is healthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinOrder {
    /// Number of the tier, from 0.
    pub priority: u32,
    /// Author, reason and lifetime.
    #[serde(flatten)]
    pub metadata: OrderMetadata,
}

/// Orders in force, with all drills, running and ended.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Orders {
    /// States by upstream and selected targets.
    pub states: BTreeMap<(Name, TargetSelector), StateOrder>,
    /// Pins by upstream.
    pub pins: BTreeMap<Name, PinOrder>,
    /// Holds by upstream.
    pub holds: BTreeMap<Name, Hold>,
    /// Drills by number, from 1, including those that ended.
    pub drills: BTreeMap<u64, DrillRun>,
}

impl Orders {
    /// Returns the overrides of endpoints that the orders amount to. An upstream without one has no entry.
    pub fn overrides(&self) -> OverridesByUpstream {
        let mut overrides: BTreeMap<Name, EndpointOverrides> = BTreeMap::new();
        for ((upstream, selector), order) in &self.states {
            let endpoint_overrides = overrides.entry(upstream.clone()).or_default();
            endpoint_overrides.states.insert(selector.clone(), order.state);
        }
        for drill in self.drills.values().filter(|drill| drill.is_running()) {
            let endpoint_overrides = overrides.entry(drill.upstream.clone()).or_default();
            for selector in &drill.down {
                // A state that an operator gave takes precedence.
                endpoint_overrides.states.entry(selector.clone()).or_insert(OverrideState::Rehearsed);
            }
        }
        for (upstream, hold) in &self.holds {
            overrides.entry(upstream.clone()).or_default().first = hold.first();
        }
        for (upstream, pin) in &self.pins {
            let first = First { tier: pin.priority, home: 0 };
            overrides.entry(upstream.clone()).or_default().first = Some(first);
        }
        let is_needed = |(_, endpoint_overrides): &(Name, EndpointOverrides)| {
            *endpoint_overrides != EndpointOverrides::default()
        };
        overrides
            .into_iter()
            .filter(is_needed)
            .map(|(name, endpoint_overrides)| (name, Arc::new(endpoint_overrides)))
            .collect()
    }

    /// Returns the orders without expired states and pins.
    #[must_use]
    pub fn without_expired(&self, now: Timestamp) -> Self {
        let mut orders = self.clone();
        orders.states.retain(|_, order| !order.metadata.is_expired(now));
        orders.pins.retain(|_, pin| !pin.metadata.is_expired(now));
        orders
    }

    /// Returns the orders as a restarted control plane has them: without expired states and pins, and with
    /// running drills reverted, since nothing watched them meanwhile. If the wall clock was set back
    /// meanwhile, an order lasts for no longer than it was given for.
    #[must_use]
    pub fn restarted(&self, now: Timestamp) -> Self {
        let mut orders = self.clone();
        orders.restore_past(now);
        let mut orders = orders.without_expired(now);
        for drill in orders.drills.values_mut().filter(|drill| drill.is_running()) {
            drill.revert(now, "the control plane was restarted");
        }
        orders
    }

    fn restore_past(&mut self, now: Timestamp) {
        for order in self.states.values_mut() {
            let since = order.metadata.since;
            restore_past(order, since, now);
        }
        for pin in self.pins.values_mut() {
            let since = pin.metadata.since;
            restore_past(pin, since, now);
        }
        for hold in self.holds.values_mut() {
            let since = hold.last_change();
            restore_past(hold, since, now);
        }
    }

    /// Returns the running drill of an upstream and its number.
    pub fn drill_of(&self, upstream: &Name) -> Option<(u64, &DrillRun)> {
        let mut running = self.drills.iter().filter(|(_, drill)| drill.is_running());
        running.find(|(_, drill)| drill.upstream == *upstream).map(|(id, drill)| (*id, drill))
    }

    /// True if a running drill takes the target down.
    pub fn is_drilled(&self, upstream: &Upstream, target: &Target) -> bool {
        self.drill_of(&upstream.name).is_some_and(|(_, drill)| drill.includes(target))
    }

    /// Returns the order that takes a target out of rotation, alone or with others; the worst state if there
    /// are several.
    pub fn state_of<'a>(
        &'a self,
        upstream: &'a Upstream,
        target: &'a Target,
    ) -> Option<(&'a TargetSelector, &'a StateOrder)> {
        let of = self
            .states
            .iter()
            .filter(move |((name, selector), _)| *name == upstream.name && selector.includes(target));
        of.max_by_key(|(_, order)| order.state).map(|((_, selector), order)| (selector, order))
    }
}

impl Timed for OrderMetadata {
    fn map_times(&mut self, map: &dyn Fn(Timestamp) -> Timestamp) {
        self.since.map_times(map);
        self.expires_at.map_times(map);
    }
}

impl Timed for StateOrder {
    fn map_times(&mut self, map: &dyn Fn(Timestamp) -> Timestamp) {
        self.metadata.map_times(map);
    }
}

impl Timed for PinOrder {
    fn map_times(&mut self, map: &dyn Fn(Timestamp) -> Timestamp) {
        self.metadata.map_times(map);
    }
}

impl Timed for Orders {
    fn map_times(&mut self, map: &dyn Fn(Timestamp) -> Timestamp) {
        self.states.values_mut().for_each(|order| order.map_times(map));
        self.pins.values_mut().for_each(|pin| pin.map_times(map));
        self.holds.values_mut().for_each(|hold| hold.map_times(map));
        self.drills.values_mut().for_each(|drill| drill.map_times(map));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::failover::orders::drill::DrillObservations;
    use crate::failover::orders::time::WallClock;
    use crate::model::failback::{Failback, Release};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("within the calendar")
    }

    fn metadata(expires_at: Option<i64>) -> OrderMetadata {
        OrderMetadata { author: "ann".into(), reason: None, since: at(0), expires_at: expires_at.map(at) }
    }

    fn shop() -> Name {
        Name::parse("shop").expect("a name")
    }

    fn drained(orders: &mut Orders, part: &str, expires_at: Option<i64>) {
        let part = TargetSelector::read(part).expect("a part");
        let order = StateOrder { state: OverrideState::Drained, metadata: metadata(expires_at) };
        orders.states.insert((shop(), part), order);
    }

    #[test]
    fn orders_end_when_their_time_is_expired() {
        let mut orders = Orders::default();
        drained(&mut orders, "10.0.0.1:80", Some(10));
        drained(&mut orders, "zone=a", None);
        orders.pins.insert(shop(), PinOrder { priority: 1, metadata: metadata(Some(20)) });
        let left = |now| {
            let orders = orders.without_expired(at(now));
            (orders.states.len(), orders.pins.len())
        };
        assert_eq!([left(9), left(10), left(20)], [(2, 1), (1, 1), (1, 0)]);
    }

    #[test]
    fn a_wall_clock_that_is_set_ends_nothing_early_and_prolongs_nothing() {
        let failback = Failback { release: Release::After(Duration::from_secs(60)), at_most: None };
        let mut orders = Orders::default();
        drained(&mut orders, "10.0.0.1:80", Some(1060));
        orders.pins.insert(shop(), PinOrder { priority: 1, metadata: metadata(Some(1060)) });
        orders.holds.insert(shop(), Hold::new(1, at(1000), &failback, false));
        let down = vec![TargetSelector::Priority(0)];
        orders.drills.insert(1, DrillRun::begin(shop(), down, at(1000), at(1060), 1.0, "ann".into()));
        // Lists what is in force: states, pins, holds before their end, running drills.
        let in_force = |orders: &Orders, now: Timestamp| {
            let mut orders = orders.without_expired(now);
            orders.drills.values_mut().for_each(|drill| drill.observe(now, DrillObservations::default()));
            let holds = orders.holds.values().filter(|hold| hold.due(&failback).is_none_or(|due| due > now));
            let drills = orders.drills.values().filter(|drill| drill.is_running());
            [orders.states.len(), orders.pins.len(), holds.count(), drills.count()]
        };
        for jump in [0, 3600, -3600, -1_000_000, 315_576_000] {
            let clock = WallClock::started_at(at(1000));
            let clock = clock.set_since(at(1030), at(1030 + jump)).unwrap_or(clock);
            let at_wall = clock.at_wall(orders.clone());
            for (second, expected) in [(1030, [1; 4]), (1059, [1; 4]), (1060, [0; 4])] {
                assert_eq!(in_force(&orders, at(second)), expected, "{jump} at {second}");
                let wall = clock.wall(at(second));
                assert_eq!(wall, at(second + jump));
                assert_eq!(in_force(&at_wall, wall), expected, "{jump} at {second}, as stored and shown");
            }
        }
    }

    #[test]
    fn a_wall_clock_that_was_set_back_between_runs_prolongs_nothing() {
        let mut orders = Orders::default();
        let given = OrderMetadata { since: at(1000), ..metadata(Some(1600)) };
        let order = StateOrder { state: OverrideState::Drained, metadata: given.clone() };
        orders.states.insert((shop(), TargetSelector::Priority(0)), order);
        orders.pins.insert(shop(), PinOrder { priority: 1, metadata: given });
        let failback = Failback { release: Release::After(Duration::from_secs(300)), at_most: None };
        orders.holds.insert(shop(), Hold::new(1, at(1000), &failback, false));
        let left = |now: i64| {
            let orders = orders.restarted(at(now));
            let end = |metadata: &OrderMetadata| metadata.expires_at.map(|end| end.as_second() - now);
            let states: Vec<_> = orders.states.values().map(|order| end(&order.metadata)).collect();
            let pins: Vec<_> = orders.pins.values().map(|pin| end(&pin.metadata)).collect();
            let due = orders.holds[&shop()].due(&failback).map(|due| due.as_second() - now);
            (states, pins, due)
        };
        assert_eq!(left(1100), (vec![Some(500)], vec![Some(500)], Some(200)), "as they were");
        assert_eq!(left(1600), (vec![], vec![], Some(-300)));
        for set_back in [999, 0, -1_000_000] {
            assert_eq!(left(set_back), (vec![Some(600)], vec![Some(600)], Some(300)), "at {set_back}");
        }
    }

    #[test]
    fn a_pin_goes_before_a_hold() {
        let mut orders = Orders::default();
        orders.holds.insert(shop(), Hold::new(1, at(0), &Default::default(), false));
        let first = |orders: &Orders| orders.overrides()["shop"].first.map(|first| first.tier);
        assert_eq!(first(&orders), Some(1));
        orders.pins.insert(shop(), PinOrder { priority: 0, metadata: metadata(None) });
        assert_eq!(first(&orders), Some(0));
    }

    #[test]
    fn a_running_drill_takes_its_parts_down_and_a_restart_ends_it() {
        let mut orders = Orders::default();
        let part = TargetSelector::Priority(0);
        orders
            .drills
            .insert(1, DrillRun::begin(shop(), vec![part.clone()], at(0), at(60), 1.0, "ann".into()));
        assert_eq!(orders.overrides()["shop"].states[&part], OverrideState::Rehearsed);
        drained(&mut orders, "priority=0", Some(5));
        assert_eq!(
            orders.overrides()["shop"].states[&part],
            OverrideState::Drained,
            "an operator's word stands"
        );
        let restarted = orders.restarted(at(5));
        assert!(restarted.overrides().is_empty());
        assert_eq!(restarted.drills[&1].state.word(), "reverted");
    }
}
