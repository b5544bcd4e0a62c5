//! Messages of discovery in the bytes in which they are sent.

pub mod frame;
pub mod request;
