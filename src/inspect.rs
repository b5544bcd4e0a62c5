//! Questions about a [`Build`](crate::build::Build): effective settings, the plan of a change, what a
//! change takes away, a simulation.
//!
//! Pure: nothing here changes what is served.

pub mod conversion;
pub mod plan;
pub mod removal;
pub mod settings;
pub mod simulate;
