//! Reasons why an order is not in force.

use crate::failover::orders::decide::OrderRefusal;
use crate::store;

/// Reason why an order is not in force.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The order was refused.
    #[error("{0}")]
    Refused(OrderRefusal),
    /// The order could not be made durable.
    #[error("the order could not be stored")]
    Store(#[source] store::Error),
    /// The control plane is shutting down.
    #[error("understudy is shutting down")]
    ShuttingDown,
}

impl From<OrderRefusal> for Error {
    fn from(refusal: OrderRefusal) -> Self {
        Self::Refused(refusal)
    }
}
