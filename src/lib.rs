//! The failover control plane for Envoy: a config in files or over REST becomes what fleets of Envoys are told.
//!
//! ```text
//!         I/O                       pure: no async, no clock, no files                           I/O
//!  ┌──────────────────┐ Inputs ┌────────┐ Document ┌───────┐ Model ┌─────────┐ Snapshot ┌───────┐ watch ┌─────┐ gRPC
//!  │ source: files    │ ─────► │ config │ ───────► │ model │ ────► │ compile │ ───────► │ cache │ ────► │ xds │ ────► Envoy
//!  │ store:  REST     │        └────────┘          └───────┘       └─────────┘ by fleet └───┬───┘       └──┬──┘
//!  │ source: DNS      │          └── violations, with places ─► log, cli, admin            read         fleet
//!  └──────────────────┘                                                                      └── admin ────┘ ─► operator
//!  ▲  control: the one writer; a change → build::build → store → cache.publish; if that fails the last good stays
//! ```
//!
//! The modules, from the ground up. Each answers one question, and uses only modules above it in this list:
//!
//! - [`envoy`]: Envoy's vocabulary: types, JSON, one encoding for one value, nodes, load and health reports.
//! - [`memo`]: functions that are not called twice with equal arguments.
//! - [`config`]: what operators write: text to a spanned tree to documents, every fault with its place.
//! - [`model`]: what the documents mean together.
//! - [`build`]: documents to what Envoys get, as one pure function: compile, lint, snapshot.
//! - [`inspect`]: questions about a build: settings, plan, simulation.
//! - [`source`]: files, their changes, and host names.
//! - [`access`]: who may connect and do what: TLS, tokens, identity.
//! - [`store`]: what is kept.
//! - [`cache`]: what is published now.
//! - [`telemetry`]: events, metrics, webhooks.
//! - [`nodes`]: connected Envoys, what they took and refused.
//! - [`control`]: the one writer of the desired config, and its rollout.
//! - [`failover`]: who serves, who should, who did.
//! - [`xds`]: the protocol as a struct, and its sockets.
//! - [`admin`]: the admin API.
//! - [`app`]: the wiring.
//! - [`cli`]: the commands.
//!
//! The whole of it in one call, as `check` and `compile` make it:
//!
//! ```
//! use understudy::build::{Inputs, build};
//!
//! let text = "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80, failover: true }] }]";
//! let mut inputs = Inputs::default();
//! inputs.files.insert("shop.yaml".into(), text.into());
//! let build = build(&inputs, None).expect("there is nothing wrong with it");
//! let told = build.snapshot(&understudy::model::name::Name::default_fleet()).to_json();
//! assert_eq!(told["endpoints"][0]["endpoints"][1]["priority"], 1);
//!
//! inputs.files.insert("shop.yaml".into(), "fleets: [{ nmae: edge }]".into());
//! let faults = understudy::build::build(&inputs, Some(&build)).expect_err("nothing changes");
//! assert_eq!((faults[0].line, faults[0].help.as_deref()), (Some(1), Some("did you mean `name`?")));
//! ```
//!
//! How to add
//!
//! - **a lint**: a row (code, why, fix, a bad and a good config, the check) in a file of `build/lint/`, and its code
//!   with level and title in [`config::code`]. A test runs the two configs of each row.
//! - **a field of the config**: a field with doc comment, default and constraints in a file of
//!   [`config::document`], where the schema, `show` and `docs/reference.md` take them from; then its meaning in
//!   [`model`] and what Envoy gets in [`build::compile`].
//! - **a dialect**: a variant and a file in [`config::dialect`].
//! - **an error code**: a constant and a row in [`config::code`], and its explanation in `build/lint/faults.rs`.
//! - **an endpoint of the API**: a row with path, role, handler, body and response in a file of `admin/resource/`.
//!   The router, the guard and `/openapi.json` are made from the rows.
//! - **a store**: an implementation of [`store::Store`] beside [`store::redb`], opened in [`app`].
//!
//! What holds, and `tests/tidy.rs` checks what can be checked by reading:
//!
//! - Nothing from [`config`] to [`build`] does I/O, waits or looks at a clock, nor does the protocol below
//!   [`xds::service`].
//! - Nothing under [`build::compile`] can fail: what could was refused by [`model::validate`].
//! - A change is durable before it is published, and published whole or not at all.
//! - A version is the hash of what is sent. There is no counter that a restart would reset.
//! - No queue stands between the cache and a client: a slow one gets the newest state when it is ready.
//! - No core type leaves through [`admin`]; only [`cli`] prints.

pub mod access;
pub mod admin;
pub mod app;
pub mod build;
pub mod cache;
pub mod cli;
pub mod config;
pub mod control;
pub mod envoy;
pub mod failover;
pub mod inspect;
pub mod memo;
pub mod model;
pub mod nodes;
pub mod source;
pub mod store;
pub mod telemetry;
pub mod xds;
