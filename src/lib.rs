//! The failover control plane for Envoy: a config in files or over REST becomes what fleets of Envoys are told.
//!
//! ```text
//!         I/O                       pure: no async, no clock, no files                           I/O
//!  ┌──────────────────┐ Inputs ┌────────┐ Document ┌───────┐ Model ┌─────────┐ Snapshot ┌───────┐ watch ┌─────┐ gRPC
//!  │ source: files    │ ─────► │ config │ ───────► │ model │ ────► │ compile │ ───────► │ cache │ ────► │ xds │ ────► Envoy
//!  │ store:  REST     │        └────────┘          └───────┘       └─────────┘ by fleet └───┬───┘       └──┬──┘
//!  │ source: DNS      │          └── violations, with places ─► log, cli, admin            read         fleet
//!  └──────────────────┘                                                                      └── admin ────┘ ─► operator
//!  ▲  control: the one door; a change → pipeline::build → store → cache.publish; if that fails the last good stays
//! ```
//!
//! What Envoy is told, from the ground up:
//!
//! - [`envoy`]: Envoy's types, their JSON form, one encoding for one value.
//! - [`node`]: who an Envoy is.
//! - [`memo`]: functions that are not called again with what they were called with before.
//! - [`config`]: text to a spanned tree to documents, every fault with its place.
//! - [`model`]: what the documents mean together.
//! - [`snapshot`]: what one fleet should run; resources encoded and versioned once.
//! - [`compile`]: a model to snapshots.
//! - [`pipeline`]: all of that as one function.
//! - [`plan`]: what changes between two builds, and what that means.
//!
//! Beside it, as pure:
//!
//! - [`show`]: the effective settings of an upstream, and where each came from.
//! - [`lint`]: what is valid and will hurt all the same.
//! - [`simulate`]: where requests go when some targets are down.
//! - [`live`]: what the load reports of all Envoys say together.
//! - [`orders`]: what is in force beside the config: drains, pins, holds, drills.
//! - [`history`]: when a standby served, and why.
//!
//! Around it:
//!
//! - [`events`]: what happens, told to those who follow.
//! - [`metrics`]: what is counted and timed.
//! - [`source`]: reads and watches files, resolves host names.
//! - [`store`]: durable state of what was written over REST.
//! - [`cache`]: the current build, published atomically.
//! - [`control`]: the one door through which the desired config changes.
//! - [`fleet`]: what connected Envoys said.
//! - [`conductor`]: gives orders, and sees what comes of them.
//! - [`notify`]: tells receivers of what happens.
//! - [`xds`]: the protocol as a struct, and its sockets.
//! - [`admin`]: the admin API.
//! - [`access`]: who may do what.
//! - [`tls`]: how our own ports are encrypted.
//! - [`app`]: the wiring.
//! - [`cli`]: the commands.
//! - [`load`]: open-loop load, for the demo and the tests.
//!
//! The whole of it in one call, as `check` and `compile` make it:
//!
//! ```
//! use understudy::pipeline::{Inputs, build};
//!
//! let text = "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80, failover: true }] }]";
//! let mut inputs = Inputs::default();
//! inputs.files.insert("shop.yaml".into(), text.into());
//! let build = build(&inputs, None).expect("there is nothing wrong with it");
//! let told = build.snapshot(&understudy::model::name::Name::default_fleet()).to_json();
//! assert_eq!(told["endpoints"][0]["endpoints"][1]["priority"], 1);
//!
//! inputs.files.insert("shop.yaml".into(), "fleets: [{ nmae: edge }]".into());
//! let faults = understudy::pipeline::build(&inputs, Some(&build)).expect_err("nothing changes");
//! assert_eq!((faults[0].line, faults[0].help.as_deref()), (Some(1), Some("did you mean `name`?")));
//! ```
//!
//! What holds, and `tests/tidy.rs` checks what can be checked by reading:
//!
//! - Nothing from [`config`] to [`pipeline`] does I/O, waits or looks at a clock, nor does the protocol below
//!   [`xds::server`].
//! - Nothing under [`compile`] can fail: what could was refused by [`model::validate`].
//! - A change is durable before it is published, and published whole or not at all.
//! - A version is the hash of what is sent. There is no counter that a restart would reset.
//! - No queue stands between the cache and a client: a slow one gets the newest state when it is ready.
//! - No core type leaves through [`admin`]; only [`cli`] prints.

pub mod access;
pub mod admin;
pub mod app;
pub mod cache;
pub mod cli;
pub mod compile;
pub mod conductor;
pub mod config;
pub mod control;
pub mod envoy;
pub mod events;
pub mod fleet;
pub mod history;
pub mod lint;
pub mod live;
pub mod load;
pub mod memo;
pub mod metrics;
pub mod model;
pub mod node;
pub mod notify;
pub mod orders;
pub mod pipeline;
pub mod plan;
pub mod show;
pub mod simulate;
pub mod snapshot;
pub mod source;
pub mod store;
pub mod tls;
pub mod xds;
