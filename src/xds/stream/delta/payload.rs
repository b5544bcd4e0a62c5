//! Content of a delta response, and its split into messages of a limited size.

use std::ops::Range;
use std::sync::Arc;

use crate::build::snapshot::{MAX_PIECE, Resource, ResourceSet, Variant, Version};

#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) nonce: u64,
    pub(super) version: Version,
    pub(super) payload: Payload,
}

/// Content of a response.
#[derive(Debug)]
pub(super) enum Payload {
    /// One of the pieces of a set, which streams share.
    Piece(Arc<ResourceSet>, Range<usize>),
    /// A selection of resources, and the names of removed ones.
    Selection { resources: Vec<Arc<Resource>>, removed: Vec<Arc<str>> },
}

impl Payload {
    /// Returns each name with the version that was sent; none for a removed resource.
    pub(super) fn names(&self) -> Vec<(Arc<str>, Option<Version>)> {
        let sent = |resource: &Arc<Resource>| (resource.name.clone(), Some(resource.version));
        match self {
            Self::Piece(set, range) => set.range(range.clone()).iter().map(sent).collect(),
            Self::Selection { resources, removed } => {
                resources.iter().map(sent).chain(removed.iter().map(|name| (name.clone(), None))).collect()
            }
        }
    }
}

/// Resources to send and names to remove.
pub(super) struct ResourceDelta {
    pub(super) resources: Vec<Arc<Resource>>,
    pub(super) removed: Vec<Arc<str>>,
}

/// Splits a whole set into its shared pieces.
pub(super) fn pieces(set: &Arc<ResourceSet>) -> Vec<Payload> {
    set.pieces().iter().map(|piece| Payload::Piece(set.clone(), piece.range.clone())).collect()
}

/// Splits new and removed resources into parts of at most [`MAX_PIECE`] bytes, but of at least one name each.
/// Returns one part even if there is nothing to send.
pub(super) fn split(resources: Vec<Arc<Resource>>, removed: Vec<Arc<str>>) -> Vec<Payload> {
    let mut parts = Vec::new();
    let (mut part, mut size) = ((Vec::new(), Vec::new()), 0);
    let resources =
        resources.into_iter().map(|resource| (resource.field(Variant::Delta).len(), Ok(resource)));
    // The key and the length of a name take at most 6 bytes.
    let removed = removed.into_iter().map(|name| (name.len() + 6, Err(name)));
    for (length, item) in resources.chain(removed) {
        if size + length > MAX_PIECE && size > 0 {
            parts.push(std::mem::take(&mut part));
            size = 0;
        }
        size += length;
        match item {
            Ok(resource) => part.0.push(resource),
            Err(name) => part.1.push(name),
        }
    }
    parts.push(part);
    parts.into_iter().map(|(resources, removed)| Payload::Selection { resources, removed }).collect()
}
