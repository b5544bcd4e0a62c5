//! Commands that talk to a control plane over its admin API.

pub mod apply;
pub mod client;
pub mod connection;
pub mod entities;
pub mod history;
pub mod orders;
pub mod plan;
pub mod status;
pub mod token;
