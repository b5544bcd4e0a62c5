//! `notify`: the receivers of events.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A receiver of events, by POST.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["url"]))]
pub struct Notify {
    /// Address to which events are posted.
    #[schemars(extend("examples" = ["https://hooks.example.com/x"], "pattern" = "^https?://"))]
    pub url: Option<String>,
    /// Events to post.
    #[schemars(extend("default" = NotifyEvent::ALL, "examples" = [["failover", "failback"]]))]
    pub events: Option<Vec<NotifyEvent>>,
    /// Key with which the body is signed. Absent: it is not.
    pub secret: Option<String>,
}

/// An event that a receiver may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NotifyEvent {
    /// A standby serves.
    Failover,
    /// The primaries serve again.
    Failback,
    /// An Envoy refuses a configuration.
    Nack,
    /// The files were refused.
    StaleFiles,
    /// A drill began or ended.
    Drill,
}

impl NotifyEvent {
    /// Every event; default of `notify[].events`.
    pub const ALL: [Self; 5] = [Self::Failover, Self::Failback, Self::Nack, Self::StaleFiles, Self::Drill];
}
