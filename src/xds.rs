//! The protocol: what a client is told, and when.
//!
//! A stream is a struct without a socket or a clock: requests and snapshots go in, responses come out. The
//! rules of order that keep a change from failing a request stand in [`order`]; sockets only in [`server`].

pub mod frame;
pub mod order;
pub mod server;
pub mod sotw;
pub mod subscription;
