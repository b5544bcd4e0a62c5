//! Dialects: the formats in which config files may be written.
//!
//! A dialect is a pure function from the tree of one document to a native tree. Each node of the result keeps the
//! span of the node that it came from, so that a fault that a native rule finds points into the file as it was
//! written. A dialect does no I/O and sees no other document.
//!
//! To add one: a variant of [`Dialect`], a file in `dialect/` with its `read`, and an arm in [`detect`] and
//! [`read`].

pub mod native;

use crate::config::Fault;
use crate::config::tree::Node;

/// Format of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Services, routes, upstreams and targets, as `docs/reference.md` describes them.
    Native,
}

/// Returns the dialect of a document, by its content alone. A document without the marks of a foreign dialect is
/// native.
pub fn detect(_document: &Node) -> Dialect {
    Dialect::Native
}

/// Translates a document to the native tree. Returns the faults of what cannot be translated, at their places in
/// `document`.
pub fn read(dialect: Dialect, document: Node) -> (Node, Vec<Fault>) {
    match dialect {
        Dialect::Native => native::read(document),
    }
}
