//! Writes over the API: what one changes, how it runs, and its reply.

pub(crate) mod entity;
pub(crate) mod operation;
pub(crate) mod place;
pub(crate) mod reply;
pub(crate) mod run;
pub(crate) mod slot;
