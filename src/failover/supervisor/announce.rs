//! Announcements: log lines and events about orders and failovers.

use tracing::{info, warn};

use crate::failover::history::{FailoverChange, FailoverRecord};
use crate::failover::orders::drill::DrillState;
use crate::failover::orders::hold::{Hold, HoldPhase};
use crate::failover::orders::{OrderMetadata, Orders, PinOrder, StateOrder};
use crate::model::name::Name;
use crate::model::overrides::OverrideState;
use crate::model::selector::TargetSelector;
use crate::telemetry::events::payload::{
    DrillEvent, DrillStateWord, FailoverEvent, HoldChange, HoldEvent, HoldPhaseWord, PinChange, PinEvent,
    TargetStateChange, TargetStateEvent, TargetStateWord,
};
use crate::telemetry::events::{Event, Events};

/// Logs and publishes the difference of two orders.
pub(super) fn announce_orders(events: &Events, before: &Orders, after: &Orders) {
    announce_states(events, before, after);
    announce_pins(events, before, after);
    announce_holds(events, before, after);
    announce_drills(events, before, after);
}

/// Logs and publishes the beginning or the end of a failover.
pub(super) fn announce_failover(events: &Events, change: FailoverChange, failover: &FailoverRecord) {
    let FailoverRecord { upstream, cause, from, to, nodes, .. } = failover;
    match change {
        FailoverChange::Began(id) => {
            warn!(%upstream, from, to, cause = cause.word(), ?nodes, "failover");
            events.publish(&Event::Failover(failover_event(id, failover)));
        }
        FailoverChange::Spread(_) => {}
        FailoverChange::Ended(id) => {
            info!(%upstream, from = to, to = from, "failback");
            events.publish(&Event::Failback(failover_event(id, failover)));
        }
    }
}

/// Logs and publishes that a scheduled drill was refused.
pub(super) fn announce_refused_drill(events: &Events, upstream: &Name, reason: String) {
    warn!(%upstream, %reason, "a scheduled drill was left out");
    let (upstream, state) = (upstream.to_string(), DrillStateWord::Refused);
    events.publish(&Event::Drill(DrillEvent { upstream, id: None, reason: Some(reason), state }));
}

fn announce_states(events: &Events, before: &Orders, after: &Orders) {
    for ((upstream, selector), order) in &after.states {
        if before.states.get(&(upstream.clone(), selector.clone())) == Some(order) {
            continue;
        }
        let OrderMetadata { author, reason, .. } = &order.metadata;
        info!(%upstream, part = %selector, state = order.state.word(), author, reason, "state set");
        publish_state(events, upstream, state_change(selector, order));
    }
    for (upstream, selector) in before.states.keys().filter(|key| !after.states.contains_key(key)) {
        info!(%upstream, part = %selector, state = "auto", "state set");
        let change = TargetStateChange::Cleared { part: selector.clone(), state: TargetStateWord::Auto };
        publish_state(events, upstream, change);
    }
}

fn announce_pins(events: &Events, before: &Orders, after: &Orders) {
    let publish = |upstream: &Name, change| {
        events.publish(&Event::Pin(PinEvent { upstream: upstream.to_string(), change }));
    };
    for (upstream, pin) in after.pins.iter().filter(|(name, pin)| before.pins.get(*name) != Some(pin)) {
        info!(%upstream, priority = pin.priority, "pinned");
        publish(upstream, pin_change(pin));
    }
    for upstream in before.pins.keys().filter(|name| !after.pins.contains_key(*name)) {
        info!(%upstream, "pin removed");
        publish(upstream, PinChange::Removed { priority: () });
    }
}

fn announce_holds(events: &Events, before: &Orders, after: &Orders) {
    let publish = |upstream: &Name, change| {
        events.publish(&Event::Hold(HoldEvent { upstream: upstream.to_string(), change }));
    };
    for (upstream, hold) in after.holds.iter().filter(|(name, hold)| before.holds.get(*name) != Some(hold)) {
        info!(%upstream, priority = hold.tier, phase = ?hold.phase, flapping = hold.is_flapping, "standby held");
        publish(upstream, hold_change(hold));
    }
    for upstream in before.holds.keys().filter(|name| !after.holds.contains_key(*name)) {
        info!(%upstream, "hold released");
        publish(upstream, HoldChange::Released { phase: HoldPhaseWord::Released });
    }
}

fn announce_drills(events: &Events, before: &Orders, after: &Orders) {
    for (id, drill) in &after.drills {
        if before.drills.get(id).map(|drill| drill.state) == Some(drill.state) {
            continue;
        }
        info!(id, upstream = %drill.upstream, state = drill.state.word(), reason = drill.reason, "drill");
        events.publish(&Event::Drill(DrillEvent {
            upstream: drill.upstream.to_string(),
            id: Some(id.to_string()),
            reason: drill.reason.clone(),
            state: drill_word(drill.state),
        }));
    }
}

fn publish_state(events: &Events, upstream: &Name, change: TargetStateChange) {
    events.publish(&Event::TargetState(TargetStateEvent { upstream: upstream.to_string(), change }));
}

fn failover_event(id: u64, failover: &FailoverRecord) -> FailoverEvent {
    FailoverEvent {
        upstream: failover.upstream.to_string(),
        cause: failover.cause,
        end: failover.end,
        errors: failover.errors,
        from: failover.from,
        id: id.to_string(),
        nodes: failover.nodes.clone(),
        requests: failover.requests,
        start: failover.start,
        to: failover.to,
    }
}

fn state_change(selector: &TargetSelector, order: &StateOrder) -> TargetStateChange {
    let OrderMetadata { author, reason, expires_at, .. } = order.metadata.clone();
    let state = match order.state {
        OverrideState::Drained => TargetStateWord::Drained,
        OverrideState::Rehearsed | OverrideState::Down => TargetStateWord::Down,
    };
    TargetStateChange::Ordered { author, expires_at, part: selector.clone(), reason, state }
}

fn pin_change(pin: &PinOrder) -> PinChange {
    let OrderMetadata { author, reason, expires_at, .. } = pin.metadata.clone();
    PinChange::Pinned { author, expires_at, priority: pin.priority, reason }
}

fn hold_change(hold: &Hold) -> HoldChange {
    let phase = match hold.phase {
        HoldPhase::Held { until } => HoldPhaseWord::Held { until },
        HoldPhase::Trying { until } => HoldPhaseWord::Trying { until },
        HoldPhase::Step { index, percent, serving_since } => {
            HoldPhaseWord::Step { index, percent, serving_since }
        }
    };
    HoldChange::Held { flapping: hold.is_flapping, phase, priority: hold.tier }
}

fn drill_word(state: DrillState) -> DrillStateWord {
    match state {
        DrillState::Running => DrillStateWord::Running,
        DrillState::Done => DrillStateWord::Done,
        DrillState::Aborted => DrillStateWord::Aborted,
        DrillState::Reverted => DrillStateWord::Reverted,
    }
}
