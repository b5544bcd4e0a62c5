//! Reports to the outside: events, metrics, and webhooks that carry events to other systems.

pub mod events;
pub mod metrics;
pub mod webhooks;
