//! Tests of the admin API with the real program: every status, races between writers, revisions, restarts.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

#[path = "admin/commands.rs"]
mod commands;
#[path = "admin/disk.rs"]
mod disk;
#[path = "admin/durability.rs"]
mod durability;
#[path = "admin/events.rs"]
mod events;
#[path = "harness/mod.rs"]
mod harness;
#[path = "admin/limits.rs"]
mod limits;
#[path = "admin/openapi.rs"]
mod openapi;
#[path = "admin/orders.rs"]
mod orders;
#[path = "admin/plan_files.rs"]
mod plan_files;
#[path = "admin/plans.rs"]
mod plans;
#[path = "admin/races.rs"]
mod races;
#[path = "admin/readiness.rs"]
mod readiness;
#[path = "admin/refusals.rs"]
mod refusals;
#[path = "admin/reload.rs"]
mod reload;
#[path = "admin/removal.rs"]
mod removal;
#[path = "admin/revisions.rs"]
mod revisions;
#[path = "admin/schemas.rs"]
mod schemas;
#[path = "admin/secrets.rs"]
mod secrets;
#[path = "admin/security.rs"]
mod security;
#[path = "admin/settings.rs"]
mod settings;
#[path = "admin/stage.rs"]
mod stage;
#[path = "admin/statuses.rs"]
mod statuses;
#[expect(dead_code, reason = "the tests with an Envoy use the rest")]
#[path = "envoy/tls.rs"]
mod tls;
#[path = "admin/tokens_race.rs"]
mod tokens_race;
#[path = "admin/traces.rs"]
mod traces;
