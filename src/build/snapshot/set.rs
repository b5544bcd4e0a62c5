//! Sets of the resources of one type, with the results that many streams need.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use imbl::OrdMap;
use xxhash_rust::xxh3::xxh3_128;

use crate::build::snapshot::resource::{Resource, Variant, Version, put_field};
use crate::envoy;
use crate::memo::{ArcPtrEq, MapChange, changes};

/// All resources of one type, sorted by name.
///
/// Sets share the resources that they have in common, and a set is derived from another at the cost of the
/// difference.
///
/// Results that many streams need are computed once and kept here: all resources in one buffer, the position
/// of each, and the differences to the sets that clients have.
#[derive(Debug)]
pub struct ResourceSet {
    pub(super) by_name: OrdMap<Arc<str>, ArcPtrEq<Resource>>,
    pub(super) version: Version,
    in_order: OnceLock<Vec<Arc<Resource>>>,
    index: OnceLock<HashMap<Arc<str>, usize>>,
    inventory: OnceLock<u128>,
    whole: [OnceLock<Bytes>; 2],
    pieces: OnceLock<Vec<Piece>>,
    changes: Recent<ResourceNames>,
    variations: Recent<Arc<Self>>,
    /// Set without private secrets; none if there are none.
    public: OnceLock<Option<Arc<Self>>>,
}

/// Results of comparing or combining a set with a few others, by the version of the other set.
type Recent<T> = Mutex<Vec<(Version, T)>>;

/// Consecutive resources of a set that a delta client is sent in one response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Positions of the resources in the set.
    pub range: Range<usize>,
    /// Their encoded fields `resources`.
    pub fields: Bytes,
}

/// Names of resources, shared between streams.
pub type ResourceNames = Arc<[Arc<str>]>;

/// Number of other sets for which results are kept. Nearly all clients have the previous set.
const RECENT: usize = 4;

/// Size in bytes that a piece does not exceed unless it has a single resource: some clients accept at most 4
/// MiB.
pub const MAX_PIECE: usize = 1 << 20;

impl PartialEq for ResourceSet {
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version
    }
}

impl Eq for ResourceSet {}

impl Default for ResourceSet {
    fn default() -> Self {
        Self::from(OrdMap::new(), Version::default())
    }
}

impl ResourceSet {
    /// Creates a set of resources with distinct names.
    pub fn new(resources: impl IntoIterator<Item = Arc<Resource>>) -> Self {
        Self::default().changed(&[], resources)
    }

    /// Derives a set without the names in `removed` and with the resources in `new`, which replace resources of
    /// the same name.
    pub fn changed(&self, removed: &[Arc<str>], new: impl IntoIterator<Item = Arc<Resource>>) -> Self {
        let (mut by_name, mut version) = (self.by_name.clone(), self.version);
        for name in removed {
            version.remove(by_name.remove(name));
        }
        for resource in new {
            version.add(&resource);
            version.remove(by_name.insert(resource.name.clone(), ArcPtrEq(resource)));
        }
        Self::from(by_name, version)
    }

    /// Creates a set of these resources, whose version is known.
    pub(super) fn from(by_name: OrdMap<Arc<str>, ArcPtrEq<Resource>>, version: Version) -> Self {
        Self {
            by_name,
            version,
            in_order: OnceLock::new(),
            index: OnceLock::new(),
            inventory: OnceLock::new(),
            whole: Default::default(),
            pieces: OnceLock::new(),
            changes: Mutex::default(),
            variations: Mutex::default(),
            public: OnceLock::new(),
        }
    }

    /// Returns the hash of all names and versions in the set.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Returns the resource of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Resource>> {
        self.by_name.get(name).map(|ArcPtrEq(resource)| resource)
    }

    /// Returns the resource of this name and its position. For callers that look up many: the first call
    /// builds an index.
    pub fn find(&self, name: &str) -> Option<(usize, &Arc<Resource>)> {
        let make = || self.iter().enumerate().map(|(at, own)| (own.name.clone(), at)).collect();
        let at = *self.index.get_or_init(make).get(name)?;
        Some((at, &self.in_order()[at]))
    }

    /// Iterates over all resources, sorted by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Resource>> {
        self.by_name.values().map(|ArcPtrEq(resource)| resource)
    }

    /// Returns all resources as a slice, for access by position. The first call builds the list.
    fn in_order(&self) -> &[Arc<Resource>] {
        self.in_order.get_or_init(|| self.iter().cloned().collect())
    }

    /// Number of resources.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// True if there are no resources.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Returns the encoded fields `resources` of a response with all resources.
    pub fn whole(&self, variant: Variant) -> Bytes {
        let concatenate = || {
            let fields = || self.iter().map(|resource| resource.field(variant));
            let length = fields().map(|field| field.len()).sum();
            fields().fold(BytesMut::with_capacity(length), |mut all, field| {
                all.put_slice(&field);
                all
            })
        };
        self.whole[variant as usize].get_or_init(|| concatenate().freeze()).clone()
    }

    /// Returns the [`inventory`] of a client that holds exactly this set.
    pub fn inventory(&self) -> u128 {
        *self.inventory.get_or_init(|| {
            let mut entry = BytesMut::new();
            let entries = self.iter().map(|resource| {
                entry.clear();
                put_field(1, resource.name.as_bytes(), &mut entry);
                put_field(2, resource.version_text(), &mut entry);
                xxh3_128(&entry)
            });
            entries.fold(0, u128::wrapping_add)
        })
    }

    /// Splits all resources into pieces of at most [`MAX_PIECE`] bytes, but of at least one resource each; an
    /// empty set has one empty piece.
    pub fn pieces(&self) -> &[Piece] {
        self.pieces.get_or_init(|| {
            let whole = self.whole(Variant::Delta);
            let (mut pieces, mut first, mut from, mut to) = (Vec::new(), 0, 0, 0);
            for (at, resource) in self.iter().enumerate() {
                let length = resource.delta.len();
                if to - from + length > MAX_PIECE && first < at {
                    pieces.push(Piece { range: first..at, fields: whole.slice(from..to) });
                    (first, from) = (at, to);
                }
                to += length;
            }
            pieces.push(Piece { range: first..self.len(), fields: whole.slice(from..to) });
            pieces
        })
    }

    /// Returns the resources at these positions.
    pub fn range(&self, range: Range<usize>) -> &[Arc<Resource>] {
        &self.in_order()[range]
    }

    /// Returns the names that are new, changed or gone since `old`.
    pub fn changed_since(&self, old: &Self) -> ResourceNames {
        if self.version == old.version {
            return ResourceNames::default();
        }
        recent(&self.changes, old.version, || self.compare(old))
    }

    /// Derives a set with the resources in `others`, which replace resources of the same name, and without
    /// the names in `left_out`. Recent results are kept, so that streams share them.
    pub fn with(self: &Arc<Self>, others: Vec<Arc<Resource>>, left_out: &BTreeSet<Arc<str>>) -> Arc<Self> {
        if others.is_empty() && left_out.is_empty() {
            return self.clone();
        }
        let mut version = Version::default();
        others.iter().for_each(|other| version.add(other));
        let others_version = version.to_le_bytes();
        let mut key: Vec<&[u8]> = left_out.iter().map(|name| name.as_bytes()).collect();
        key.push(&others_version);
        recent(&self.variations, Version::of(&key), || {
            let left_out: Vec<Arc<str>> = left_out.iter().cloned().collect();
            let others = others.into_iter().filter(|other| !left_out.contains(&other.name));
            Arc::new(self.changed(&left_out, others))
        })
    }

    /// Derives the set without private secrets, for a set of secrets: once for all streams. None if there are no
    /// private ones.
    pub(super) fn without_private(&self) -> Option<&Arc<Self>> {
        let make = || {
            let private = self.iter().filter(|own| envoy::is_private(own.message()));
            let private: Vec<Arc<str>> = private.map(|own| own.name.clone()).collect();
            (!private.is_empty()).then(|| Arc::new(self.changed(&private, [])))
        };
        self.public.get_or_init(make).as_ref()
    }

    fn compare(&self, old: &Self) -> ResourceNames {
        let is_other = |change: &MapChange<'_, Arc<str>, ArcPtrEq<Resource>>| {
            let [old, new] = [change.old, change.new].map(|side| side.map(|ArcPtrEq(own)| own.version));
            old != new
        };
        changes(&old.by_name, &self.by_name).filter(is_other).map(|change| change.key.clone()).collect()
    }
}

/// Sums the hashes of the encoded entries of a map from names to versions: one number for all, whatever their
/// order.
///
/// A client that forges entries with the same sum only harms itself.
pub fn inventory<'a>(entries: impl Iterator<Item = &'a [u8]>) -> u128 {
    entries.map(xxh3_128).fold(0, u128::wrapping_add)
}

/// Returns the result kept for `version`; makes and keeps it if there is none.
fn recent<T: Clone>(kept: &Recent<T>, version: Version, make: impl FnOnce() -> T) -> T {
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, known)) = kept.iter().find(|(known, _)| *known == version) {
        return known.clone();
    }
    let made = make();
    kept.truncate(RECENT - 1);
    kept.insert(0, (version, made.clone()));
    made
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::cluster::v3::Cluster;

    use super::*;

    fn cluster(name: &str) -> Cluster {
        Cluster { name: name.into(), alt_stat_name: "x".repeat(200), ..Default::default() }
    }

    #[test]
    fn pieces_are_small_and_make_the_whole() {
        let sizes = |sizes: &[usize]| {
            let resource = |(at, size): (usize, &usize)| {
                let name = format!("{at:03}");
                let cluster = Cluster { alt_stat_name: "x".repeat(*size), ..cluster(&name) };
                Arc::new(Resource::new(&name, &cluster))
            };
            let set = ResourceSet::new(sizes.iter().enumerate().map(resource));
            let whole: Vec<u8> = set.pieces().iter().flat_map(|piece| piece.fields.to_vec()).collect();
            assert_eq!(whole, set.whole(Variant::Delta));
            for Piece { range, fields } in set.pieces() {
                let length: usize = set.range(range.clone()).iter().map(|own| own.delta.len()).sum();
                assert_eq!(fields.len(), length);
                assert!(fields.len() <= MAX_PIECE || range.len() == 1);
            }
            set.pieces().iter().map(|piece| piece.range.len()).collect::<Vec<_>>()
        };
        let half = MAX_PIECE / 2;
        assert_eq!(sizes(&[]), [0]);
        assert_eq!(sizes(&[1, 1, 1]), [3]);
        assert_eq!(sizes(&[half, 1, half, 1]), [2, 2]);
        assert_eq!(sizes(&[2 * MAX_PIECE, 1, 2 * MAX_PIECE]), [1, 1, 1]);
    }

    #[test]
    fn a_set_with_other_resources_is_made_once() {
        let resource = |name: &str, content: &str| {
            Arc::new(Resource::new(name, &Cluster { name: content.into(), ..Default::default() }))
        };
        let set = Arc::new(ResourceSet::new(vec![resource("a", "1"), resource("b", "1")]));
        let others = || vec![resource("b", "2"), resource("c", "1")];
        let nothing = BTreeSet::new();
        let with = set.with(others(), &nothing);
        let expected = ResourceSet::new(vec![resource("a", "1"), resource("b", "2"), resource("c", "1")]);
        assert_eq!(*with, expected);
        assert!(Arc::ptr_eq(&with, &set.with(others(), &nothing)), "clients share it");
        assert!(Arc::ptr_eq(&set, &set.with(Vec::new(), &nothing)));
        let without = set.with(others(), &["a".into()].into());
        assert_eq!(*without, ResourceSet::new(vec![resource("b", "2"), resource("c", "1")]));
    }

    #[test]
    fn the_version_follows_the_content() {
        let of = |names: &[&str]| {
            let resources = names.iter().map(|name| Arc::new(Resource::new(name, &cluster(name))));
            ResourceSet::new(resources).version()
        };
        assert_eq!(of(&["a", "b"]), of(&["b", "a"]));
        assert_ne!(of(&["a", "b"]), of(&["a"]));
        assert_ne!(of(&["a"]), of(&[]));
    }

    #[test]
    fn the_difference_names_what_is_new_changed_or_gone() {
        let set = |clusters: &[(&str, &str)]| {
            let resource = |(name, content): &(&str, &str)| {
                Arc::new(Resource::new(name, &Cluster { name: (*content).into(), ..Default::default() }))
            };
            ResourceSet::new(clusters.iter().map(resource))
        };
        let old = set(&[("a", "1"), ("b", "1"), ("c", "1")]);
        let new = set(&[("a", "1"), ("b", "2"), ("d", "1")]);
        for _ in 0..2 {
            let names = new.changed_since(&old);
            assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), ["b", "c", "d"]);
        }
        assert!(new.changed_since(&new).is_empty());
    }
}
