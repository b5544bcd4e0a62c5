//! Services of the xDS port.

pub mod client_status;
pub mod discovery;
pub mod health_discovery;
pub mod load_report;
