//! NACK of a response: what the Envoy refused and why.

use crate::envoy::ResourceType;
use crate::nodes::StreamGuard;
use crate::telemetry::events::Event;

/// Refusal of one response by an Envoy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseNack {
    /// Type of the refused resources.
    pub resource_type: ResourceType,
    /// Nonce of the refused response; nonces of a stream increase.
    pub nonce: u64,
    /// Version of the refused response.
    pub version: String,
    /// Error text of the client.
    pub error: String,
    /// Names of the resources that are held back from now on; empty while the bad ones are not known yet.
    pub names: Vec<String>,
}

impl StreamGuard {
    /// Publishes a NACK of this node as an event.
    pub fn publish_nack(&self, nack: ResponseNack) {
        let ResponseNack { resource_type, version, error, names, .. } = nack;
        let node = self.nodes.lock().connected.get(&self.stream).map(|presence| presence.node.id.clone());
        let Some(node) = node else { return };
        self.nodes.events.publish(&Event::Nack {
            node,
            resource_type: resource_type.plural(),
            version,
            names,
            error,
        });
    }
}

/// Longest error text that is kept, in bytes. Envoy cuts its own at some KB.
const MAX_ERROR: usize = 8 << 10;

/// Cuts a client's error text to at most 8 KiB, at a character boundary.
pub fn shorten_error(mut error: String) -> String {
    if error.len() > MAX_ERROR {
        error.truncate(error.floor_char_boundary(MAX_ERROR));
        error.shrink_to_fit();
    }
    error
}
