//! Sockets of the xDS port, and the limits on what its clients can cost.

pub mod admission;
pub mod connection;
pub mod meter;
pub mod reader;
