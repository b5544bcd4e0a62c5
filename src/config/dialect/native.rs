//! The native dialect: documents that need no translation.

use crate::config::Fault;
use crate::config::tree::Node;

/// Returns the document as it is.
pub fn read(document: Node) -> (Node, Vec<Fault>) {
    (document, Vec::new())
}
