//! Orders of operators, and holds of standbys.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::admin::view::drill::DrillView;
use crate::failover::orders::hold::{Hold, HoldPhase};
use crate::failover::orders::{OrderMetadata, PinOrder, StateOrder};
use crate::failover::round::rounded;
use crate::model::failback::Failback;
use crate::model::name::Name;
use crate::model::overrides;
use crate::model::selector::TargetSelector;

/// State of a target, tier or zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StateWord {
    /// No order: its health decides.
    Auto,
    /// No new requests; requests in progress end normally.
    Drained,
    /// Treated as if its health check had failed.
    Down,
}

impl From<overrides::OverrideState> for StateWord {
    fn from(state: overrides::OverrideState) -> Self {
        match state {
            overrides::OverrideState::Drained => Self::Drained,
            overrides::OverrideState::Rehearsed | overrides::OverrideState::Down => Self::Down,
        }
    }
}

impl StateWord {
    /// Returns the state that is ordered; none for `auto`.
    pub(crate) fn state(self) -> Option<overrides::OverrideState> {
        match self {
            Self::Auto => None,
            Self::Drained => Some(overrides::OverrideState::Drained),
            Self::Down => Some(overrides::OverrideState::Down),
        }
    }
}

/// Author, reason and lifetime of an order.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct NoteView {
    /// Name of the client that gave the order.
    author: String,
    /// Reason, if the author gave one.
    reason: Option<String>,
    /// Time at which the order was given.
    since: String,
    /// Time at which it expires; null if it never does.
    expires_at: Option<String>,
}

impl From<&OrderMetadata> for NoteView {
    fn from(note: &OrderMetadata) -> Self {
        Self {
            author: note.author.clone(),
            reason: note.reason.clone(),
            since: note.since.to_string(),
            expires_at: note.expires_at.map(|at| at.to_string()),
        }
    }
}

/// Targets that an order is about.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SelectorView {
    /// Address of a single target.
    Target(String),
    /// Tier.
    Priority(u32),
    /// Zone.
    Zone(String),
    /// Other selection, such as `region=eu`.
    Part(String),
}

impl From<&TargetSelector> for SelectorView {
    fn from(part: &TargetSelector) -> Self {
        match part {
            TargetSelector::Target(address) => Self::Target(address.to_string()),
            TargetSelector::Priority(priority) => Self::Priority(*priority),
            TargetSelector::Zone(zone) => Self::Zone(zone.clone()),
            part => Self::Part(part.to_string()),
        }
    }
}

/// State of a target, tier or zone, with the order that gave it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct StateView {
    state: StateWord,
    /// Reason of the order.
    reason: Option<String>,
    /// Author of the order; null if there is none.
    author: Option<String>,
    /// Time of the order; null if there is none.
    since: Option<String>,
    /// Time at which the order expires; null if it never does.
    expires_at: Option<String>,
    #[serde(flatten)]
    selector: SelectorView,
}

impl StateView {
    /// Returns the state of these targets; `auto` without an order.
    pub(crate) fn new(part: &TargetSelector, order: Option<&StateOrder>) -> Self {
        let note = order.map(|order| &order.metadata);
        Self {
            state: order.map_or(StateWord::Auto, |order| order.state.into()),
            reason: note.and_then(|note| note.reason.clone()),
            author: note.map(|note| note.author.clone()),
            since: note.map(|note| note.since.to_string()),
            expires_at: note.and_then(|note| note.expires_at).map(|at| at.to_string()),
            selector: part.into(),
        }
    }
}

/// Pin of a tier.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PinView {
    /// Pinned tier.
    priority: u32,
    #[serde(flatten)]
    note: NoteView,
}

impl From<&PinOrder> for PinView {
    fn from(pin: &PinOrder) -> Self {
        Self { priority: pin.priority, note: (&pin.metadata).into() }
    }
}

/// Response to a failback.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct FailbackView {
    /// Name of the upstream.
    pub(crate) upstream: String,
    /// Always true.
    pub(crate) released: bool,
    /// Phase of the hold that goes on; null if it is over.
    pub(crate) phase: Option<PhaseView>,
}

/// Phase of a hold.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PhaseView {
    /// The standby serves alone.
    Held {
        /// Time of the next try to fail back; null while the hold waits for an operator or for the primaries.
        until: Option<String>,
    },
    /// The declared order is restored for a try.
    Trying {
        /// Time by which the primaries must serve.
        until: String,
    },
    /// The primaries have a share of the traffic.
    Step {
        /// Index of the step, from 0.
        index: usize,
        /// Share of the primaries, in percent.
        percent: u32,
        /// Time since which the primaries serve in this step; null before they do.
        serving_since: Option<String>,
    },
}

impl From<&HoldPhase> for PhaseView {
    fn from(phase: &HoldPhase) -> Self {
        let text = |at: &Option<Timestamp>| at.map(|at| at.to_string());
        match phase {
            HoldPhase::Held { until } => Self::Held { until: text(until) },
            HoldPhase::Trying { until } => Self::Trying { until: until.to_string() },
            HoldPhase::Step { index, percent, serving_since } => {
                Self::Step { index: *index, percent: *percent, serving_since: text(serving_since) }
            }
        }
    }
}

/// Hold of a standby, with the time that is left.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct HoldView {
    /// Tier of the standby.
    priority: u32,
    /// Time at which the hold began.
    since: String,
    phase: PhaseView,
    /// True if failbacks came too often, so that only an operator releases it.
    flapping: bool,
    /// True if the time counts from the recovery of the primaries, and they have not recovered yet.
    waits_for_primaries: bool,
    /// Time of the next step; null if it is not known.
    due: Option<String>,
    /// Seconds until the next step, or its length from the recovery of the primaries; null if an operator releases it.
    seconds_left: Option<f64>,
}

impl HoldView {
    /// Returns the hold of an upstream with these settings, as it is at `now`.
    pub(crate) fn new(hold: &Hold, failback: &Failback, now: Timestamp) -> Self {
        let due = hold.due(failback);
        let waits = hold.waits_for_primaries(failback);
        let left = due.map(|due| due.duration_since(now).as_secs_f64().max(0.0));
        Self {
            priority: hold.tier,
            since: hold.since.to_string(),
            phase: (&hold.phase).into(),
            flapping: hold.is_flapping,
            waits_for_primaries: waits.is_some(),
            due: due.map(|due| due.to_string()),
            seconds_left: left.or(waits.map(|after| after.as_secs_f64())).map(rounded),
        }
    }
}

/// All that is in force beside the config.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct OrdersView {
    /// States of targets, tiers and zones.
    pub(crate) states: Vec<UpstreamStateView>,
    /// Pins of tiers.
    pub(crate) pins: Vec<UpstreamPinView>,
    /// Holds of standbys.
    pub(crate) holds: Vec<UpstreamHoldView>,
    /// Running drills.
    pub(crate) drills: Vec<DrillView>,
}

/// State of targets of an upstream.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct UpstreamStateView {
    /// Name of the upstream.
    pub(crate) upstream: String,
    #[serde(flatten)]
    pub(crate) state: StateView,
}

/// Pin of an upstream.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct UpstreamPinView {
    /// Name of the upstream.
    pub(crate) upstream: String,
    #[serde(flatten)]
    pub(crate) pin: PinView,
}

/// Hold of an upstream.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct UpstreamHoldView {
    /// Name of the upstream.
    upstream: String,
    /// Tier of the standby.
    priority: u32,
    /// Time at which the hold began.
    since: String,
    phase: PhaseView,
    /// True if failbacks came too often, so that only an operator releases it.
    flapping: bool,
    /// Time of the next step; null if it is not known.
    due: Option<String>,
}

impl UpstreamHoldView {
    /// Returns the hold of an upstream; `failback` is none if the upstream is gone.
    pub(crate) fn new(upstream: &Name, hold: &Hold, failback: Option<&Failback>) -> Self {
        Self {
            upstream: upstream.to_string(),
            priority: hold.tier,
            since: hold.since.to_string(),
            phase: (&hold.phase).into(),
            flapping: hold.is_flapping,
            due: failback.and_then(|failback| hold.due(failback)).map(|due| due.to_string()),
        }
    }
}
