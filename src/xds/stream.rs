//! State of a stream: the responses that a client is sent, and their order.
//!
//! Nothing here uses a socket or a clock: [`sotw`] and [`delta`] implement [`protocol::DiscoveryStream`] as
//! plain structs.

pub mod delta;
pub mod held;
pub mod names;
pub mod order;
pub mod proofs;
#[cfg(test)]
mod properties;
pub mod protocol;
pub mod quarantine;
pub mod sotw;
pub mod subscription;
#[cfg(test)]
pub(crate) mod testkit;
mod type_table;
mod withhold;
