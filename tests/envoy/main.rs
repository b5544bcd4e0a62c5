//! The whole program in front of a real Envoy: failover, REST, files, restarts, refusals, counted by what
//! clients saw.
//!
//! One binary, because linking one costs more than running it. Every test has processes and ports of its own;
//! those with an Envoy take turns.

#[path = "../harness/mod.rs"]
mod harness;
mod stage;

mod changes;
mod durability;
mod failover;
mod howto;
mod input;
mod nack;
mod post;
mod raw;
mod reload;
mod simulate;
mod startup;
