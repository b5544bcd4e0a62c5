//! Views: the shapes of responses that several resources have, or that are large.

pub(crate) mod drill;
pub(crate) mod failover;
pub(crate) mod health;
pub(crate) mod order;
pub(crate) mod revision;
pub mod secret;
pub(crate) mod simulation;
pub(crate) mod token;
pub(crate) mod write;
