//! Failover: which targets serve, which should, and which did.
//!
//! - [`traffic`]: load and health reports of all nodes, folded into one view of each upstream.
//! - [`orders`]: drains, pins, holds and drills in force, and the decisions on them.
//! - [`history`]: intervals in which a standby served, with their causes.
//! - `ledger`: orders and history as they are stored.
//! - [`supervisor`]: the task that carries orders out and records failovers.

pub mod history;
pub mod ledger;
pub mod orders;
pub mod supervisor;
pub mod traffic;
