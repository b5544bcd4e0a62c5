//! Payloads of the events about failover.
//!
//! Fields are serialized in the order of their declaration, which is alphabetical after `upstream`.

use std::collections::BTreeSet;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use crate::model::cause::FailoverCause;
use crate::model::selector::TargetSelector;

/// Failover, at its beginning or at its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct FailoverEvent {
    /// Name of the upstream.
    pub upstream: String,
    /// Cause of the failover.
    pub cause: FailoverCause,
    /// Time at which the last Envoy was back; null at the beginning.
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub end: Option<Timestamp>,
    /// Requests that a target failed. Most of them were retried elsewhere.
    pub errors: u64,
    /// Tier that served before.
    pub from: u32,
    /// Number of the failover.
    pub id: String,
    /// Ids of the Envoys that were served by a standby.
    pub nodes: BTreeSet<String>,
    /// Requests to targets while it lasted, including retries.
    pub requests: u64,
    /// Time at which the first Envoy left the primaries.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub start: Timestamp,
    /// Tier that served last.
    pub to: u32,
}

/// Change of the state of targets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct TargetStateEvent {
    /// Name of the upstream.
    pub upstream: String,
    /// Change of the state.
    #[serde(flatten)]
    pub change: TargetStateChange,
}

/// Change of the state of targets: a state was ordered, or its order ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum TargetStateChange {
    /// An order takes the targets out of rotation.
    Ordered {
        /// Name of the client that gave the order.
        author: String,
        /// Time at which the order expires; null if it never does.
        #[schemars(with = "Option<String>", extend("format" = "date-time"))]
        expires_at: Option<Timestamp>,
        /// Targets: an address, `priority=N`, `zone=Z`, `sub_zone=S` or `region=R`.
        #[schemars(with = "String")]
        part: TargetSelector,
        /// Reason, if the author gave one.
        reason: Option<String>,
        /// State of the targets.
        state: TargetStateWord,
    },
    /// Only the health of the targets counts again.
    Cleared {
        /// Targets: an address, `priority=N`, `zone=Z`, `sub_zone=S` or `region=R`.
        #[schemars(with = "String")]
        part: TargetSelector,
        /// Always `auto`.
        state: TargetStateWord,
    },
}

/// State of targets in an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TargetStateWord {
    /// Only their health counts.
    Auto,
    /// No new requests.
    Drained,
    /// Treated as unhealthy.
    Down,
}

/// Change of the pin of an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PinEvent {
    /// Name of the upstream.
    pub upstream: String,
    /// Change of the pin.
    #[serde(flatten)]
    pub change: PinChange,
}

/// Change of a pin: a tier was pinned, or the pin was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum PinChange {
    /// A tier was pinned.
    Pinned {
        /// Name of the client that gave the order.
        author: String,
        /// Time at which the pin expires; null if it never does.
        #[schemars(with = "Option<String>", extend("format" = "date-time"))]
        expires_at: Option<Timestamp>,
        /// Number of the tier.
        priority: u32,
        /// Reason, if the author gave one.
        reason: Option<String>,
    },
    /// The pin was removed.
    Removed {
        /// Always null.
        priority: (),
    },
}

/// Change of the hold of a standby.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct HoldEvent {
    /// Name of the upstream.
    pub upstream: String,
    /// Change of the hold.
    #[serde(flatten)]
    pub change: HoldChange,
}

/// Change of a hold: it began or its phase changed, or it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum HoldChange {
    /// A standby is held.
    Held {
        /// True if failbacks came too often, so that only an operator releases the hold.
        flapping: bool,
        /// Phase of the hold.
        phase: HoldPhaseWord,
        /// Tier of the standby.
        priority: u32,
    },
    /// The hold ended.
    Released {
        /// Always `released`.
        phase: HoldPhaseWord,
    },
}

/// Phase of a hold in an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HoldPhaseWord {
    /// The standby serves alone.
    Held {
        /// Time of the next try to fail back; null while the hold waits for an operator or for the primaries.
        #[schemars(with = "Option<String>", extend("format" = "date-time"))]
        until: Option<Timestamp>,
    },
    /// The declared order is restored for a try.
    Trying {
        /// Time by which the primaries must serve.
        #[schemars(with = "String", extend("format" = "date-time"))]
        until: Timestamp,
    },
    /// The primaries have a share of the traffic.
    Step {
        /// Index of the step, from 0.
        index: usize,
        /// Share of the primaries, in percent.
        percent: u32,
        /// Time since which the primaries serve in this step; null before they do.
        #[schemars(with = "Option<String>", extend("format" = "date-time"))]
        serving_since: Option<Timestamp>,
    },
    /// The hold ended.
    Released,
}

/// Beginning or end of a drill, or a scheduled drill that was skipped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DrillEvent {
    /// Name of the upstream.
    pub upstream: String,
    /// Number of the drill; absent if it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Reason of an early end or of the refusal.
    pub reason: Option<String>,
    /// State of the drill.
    pub state: DrillStateWord,
}

/// State of a drill in an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DrillStateWord {
    /// The targets count as down.
    Running,
    /// The drill ran its full time.
    Done,
    /// The drill ended early.
    Aborted,
    /// The control plane restarted while the drill ran.
    Reverted,
    /// The scheduled drill did not begin.
    Refused,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::events::Event;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("within the calendar")
    }

    fn failover(end: Option<i64>) -> FailoverEvent {
        FailoverEvent {
            upstream: "shop".into(),
            cause: FailoverCause::HealthCheck,
            end: end.map(at),
            errors: 2,
            from: 0,
            id: "7".into(),
            nodes: ["edge-1".to_owned(), "edge-2".to_owned()].into(),
            requests: 90,
            start: at(0),
            to: 1,
        }
    }

    fn ordered(expires_at: Option<i64>, reason: Option<&str>) -> TargetStateChange {
        let part = TargetSelector::read("zone=a").expect("a selector");
        TargetStateChange::Ordered {
            author: "ann".into(),
            expires_at: expires_at.map(at),
            part,
            reason: reason.map(str::to_owned),
            state: TargetStateWord::Drained,
        }
    }

    fn check(event: Event, expected: &str) {
        assert_eq!(serde_json::to_string(&event).expect("JSON"), expected);
    }

    #[test]
    fn failover_and_failback_have_the_json_of_the_history() {
        check(
            Event::Failover(failover(None)),
            r#"{"upstream":"shop","cause":"health_check","end":null,"errors":2,"from":0,"id":"7","nodes":["edge-1","edge-2"],"requests":90,"start":"1970-01-01T00:00:00Z","to":1}"#,
        );
        check(
            Event::Failback(failover(Some(9))),
            r#"{"upstream":"shop","cause":"health_check","end":"1970-01-01T00:00:09Z","errors":2,"from":0,"id":"7","nodes":["edge-1","edge-2"],"requests":90,"start":"1970-01-01T00:00:00Z","to":1}"#,
        );
    }

    #[test]
    fn a_state_of_targets_has_an_author_or_is_auto() {
        let event = |change| Event::TargetState(TargetStateEvent { upstream: "shop".into(), change });
        check(
            event(ordered(Some(60), Some("repair"))),
            r#"{"upstream":"shop","author":"ann","expires_at":"1970-01-01T00:01:00Z","part":"zone=a","reason":"repair","state":"drained"}"#,
        );
        check(
            event(ordered(None, None)),
            r#"{"upstream":"shop","author":"ann","expires_at":null,"part":"zone=a","reason":null,"state":"drained"}"#,
        );
        let part = TargetSelector::read("10.0.0.1:80").expect("a selector");
        check(
            event(TargetStateChange::Cleared { part, state: TargetStateWord::Auto }),
            r#"{"upstream":"shop","part":"10.0.0.1:80","state":"auto"}"#,
        );
    }

    #[test]
    fn a_pin_has_an_author_or_no_priority() {
        let event = |change| Event::Pin(PinEvent { upstream: "shop".into(), change });
        check(
            event(PinChange::Pinned { author: "ann".into(), expires_at: None, priority: 1, reason: None }),
            r#"{"upstream":"shop","author":"ann","expires_at":null,"priority":1,"reason":null}"#,
        );
        check(event(PinChange::Removed { priority: () }), r#"{"upstream":"shop","priority":null}"#);
    }

    #[test]
    fn a_hold_has_a_phase() {
        let event = |change| Event::Hold(HoldEvent { upstream: "shop".into(), change });
        let held = |phase| event(HoldChange::Held { flapping: false, phase, priority: 1 });
        check(
            held(HoldPhaseWord::Held { until: None }),
            r#"{"upstream":"shop","flapping":false,"phase":{"held":{"until":null}},"priority":1}"#,
        );
        check(
            held(HoldPhaseWord::Trying { until: at(4) }),
            r#"{"upstream":"shop","flapping":false,"phase":{"trying":{"until":"1970-01-01T00:00:04Z"}},"priority":1}"#,
        );
        check(
            held(HoldPhaseWord::Step { index: 0, percent: 10, serving_since: None }),
            r#"{"upstream":"shop","flapping":false,"phase":{"step":{"index":0,"percent":10,"serving_since":null}},"priority":1}"#,
        );
        check(
            event(HoldChange::Released { phase: HoldPhaseWord::Released }),
            r#"{"upstream":"shop","phase":"released"}"#,
        );
    }

    #[test]
    fn a_drill_has_a_number_unless_it_was_refused() {
        let event = |id: Option<&str>, reason: Option<&str>, state| {
            let (id, reason) = (id.map(str::to_owned), reason.map(str::to_owned));
            Event::Drill(DrillEvent { upstream: "shop".into(), id, reason, state })
        };
        check(
            event(Some("3"), None, DrillStateWord::Running),
            r#"{"upstream":"shop","id":"3","reason":null,"state":"running"}"#,
        );
        check(
            event(Some("3"), Some("ann ended it"), DrillStateWord::Aborted),
            r#"{"upstream":"shop","id":"3","reason":"ann ended it","state":"aborted"}"#,
        );
        check(
            event(None, Some("a standby serves already"), DrillStateWord::Refused),
            r#"{"upstream":"shop","reason":"a standby serves already","state":"refused"}"#,
        );
    }

    #[test]
    fn the_schema_has_every_kind_and_describes_its_fields() {
        let schema = serde_json::to_value(schemars::schema_for!(Event)).expect("JSON");
        assert_eq!(schema["anyOf"].as_array().map(Vec::len), Some(13));
        let failover = &schema["$defs"]["FailoverEvent"]["properties"];
        assert_eq!(failover["cause"]["description"], "Cause of the failover.");
        assert_eq!(failover["start"]["format"], "date-time");
    }
}
