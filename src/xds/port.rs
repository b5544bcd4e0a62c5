//! Sockets of the xDS port, and the limits on the cost of its clients.

pub mod admission;
pub mod connection;
pub mod guard;
pub mod limits;
pub mod names;
pub mod reader;
