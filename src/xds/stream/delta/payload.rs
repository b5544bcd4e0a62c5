//! Content of a delta response, and its split into messages of a limited size.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

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
    /// Returns the encoded resources, and the names of removed ones.
    pub(super) fn encode(&self) -> (Vec<Bytes>, Vec<String>) {
        match self {
            Self::Piece(set, range) => {
                let piece = set.pieces().iter().find(|piece| piece.range == *range);
                (piece.into_iter().map(|piece| piece.fields.clone()).collect(), Vec::new())
            }
            Self::Selection { resources, removed } => (
                resources.iter().map(|resource| resource.field(Variant::Delta)).collect(),
                removed.iter().map(|name| name.to_string()).collect(),
            ),
        }
    }

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

/// Returns the payloads of a change towards `target`: its shared pieces if the change is all of it.
pub(super) fn payloads(target: &Arc<ResourceSet>, delta: ResourceDelta) -> Vec<Payload> {
    let ResourceDelta { resources, removed } = delta;
    let is_all = resources.len() == target.len() && removed.is_empty();
    if is_all && resources.iter().all(|own| target.get(&own.name).is_some()) {
        pieces(target)
    } else {
        split(resources, removed)
    }
}

/// Splits new and removed resources into payloads of at most [`MAX_PIECE`] bytes, but of at least one name
/// each. Returns one payload even if there is nothing to send.
fn split(resources: Vec<Arc<Resource>>, removed: Vec<Arc<str>>) -> Vec<Payload> {
    let mut selections = Vec::new();
    let (mut selection, mut size) = ((Vec::new(), Vec::new()), 0);
    let resources =
        resources.into_iter().map(|resource| (resource.field(Variant::Delta).len(), Ok(resource)));
    // The key and the length of a name take at most 6 bytes.
    let removed = removed.into_iter().map(|name| (name.len() + 6, Err(name)));
    for (length, item) in resources.chain(removed) {
        if size + length > MAX_PIECE && size > 0 {
            selections.push(std::mem::take(&mut selection));
            size = 0;
        }
        size += length;
        match item {
            Ok(resource) => selection.0.push(resource),
            Err(name) => selection.1.push(name),
        }
    }
    selections.push(selection);
    selections.into_iter().map(|(resources, removed)| Payload::Selection { resources, removed }).collect()
}
