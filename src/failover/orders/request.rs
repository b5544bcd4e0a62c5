//! Request of a client for an order.

use std::time::Duration;

use jiff::Timestamp;

use crate::failover::orders::OrderMetadata;
use crate::failover::orders::time::later;

/// Author, reason and duration of an order that a client asks for.
#[derive(Debug, Clone)]
pub struct OrderRequest {
    /// Name of the client.
    pub author: String,
    /// Reason, if one was given.
    pub reason: Option<String>,
    /// Duration of the order; none if it does not expire.
    pub expires_in: Option<Duration>,
    /// True to skip the checks that protect traffic.
    pub force: bool,
}

impl OrderRequest {
    /// Returns the author, reason and lifetime of the order if it is given now.
    pub fn metadata(&self, now: Timestamp) -> OrderMetadata {
        let expires_at = self.expires_in.map(|length| later(now, length));
        OrderMetadata { author: self.author.clone(), reason: self.reason.clone(), since: now, expires_at }
    }
}
