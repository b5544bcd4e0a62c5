//! Commands that talk to a control plane over its admin API.

pub mod apply;
pub mod client;
pub mod connection;
pub mod drills;
pub mod entities;
pub mod failovers;
pub mod history;
pub mod notify;
pub mod orders;
mod outcome;
pub mod plan;
pub mod status;
pub mod token;
mod value;
