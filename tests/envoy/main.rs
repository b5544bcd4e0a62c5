//! Tests of the whole program in front of a real Envoy: failover, REST, files, restarts and refusals, counted
//! by what clients saw.
//!
//! One binary, because linking one costs more than running it. Every test has processes and ports of its own;
//! tests with an Envoy take turns.

mod echo;
#[path = "../harness/mod.rs"]
mod harness;
mod stage;
mod tls;

mod absence;
mod absent;
mod access_log;
mod acked;
mod balancer;
mod canary;
mod changes;
mod chaos;
mod connections;
mod control_tls;
mod damage;
mod detection;
mod dns;
mod durability;
mod failover;
mod flood;
mod hash;
mod howto;
mod https;
mod identity;
mod input;
mod kong;
mod live;
mod locality;
mod matrix;
mod nack;
mod names;
mod orders;
mod post;
mod raw;
mod reload;
mod reshaping;
mod restart;
mod routes;
mod services;
mod simulate;
mod split;
mod startup;
mod sticky;
mod targets_in_tls;
mod upgrades;
mod webhook;
mod whole;
mod withheld;
