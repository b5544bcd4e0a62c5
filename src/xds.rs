//! The xDS protocol: the responses that a client is sent, and their order.
//!
//! - [`stream`]: state of a client and its next responses, without a socket or a clock: requests and
//!   snapshots go in, responses come out. There are two variants, [`sotw`](stream::sotw) and
//!   [`delta`](stream::delta), with the same interface,
//!   [`DiscoveryStream`](stream::protocol::DiscoveryStream). The rules that keep a change from failing a
//!   request are in [`order`](stream::order).
//! - [`wire`]: requests and responses as bytes.
//! - [`port`]: sockets, and the limits on clients.
//! - [`service`]: the gRPC services: discovery, load reports, health checks by Envoys, the status of clients,
//!   gRPC health and reflection.
//!
//! The name of a test carries the number of the rule of the protocol checklist that it shows (`rule_19_…`):
//! on the streams in [`stream`], over sockets in `tests/xds.rs`, with a real Envoy in `tests/envoy/`. Rules
//! without a test of their own:
//!
//! - 12 is covered by 11: the error text of a NACK is a hint only, and the bad resource is found without it.
//! - 26 holds by construction: a [`cache`](crate::cache) cannot be created without a build.
//! - 37, 39 and 41 are about Envoy: its behaviour while it waits and when it is overloaded.
//!   [`model::validate`](crate::model::validate) ensures that no route names a missing cluster.
//! - 47: no resource has a TTL; Envoy 1.40 does not announce support for it.

pub mod port;
pub mod service;
pub mod stream;
pub mod wire;
