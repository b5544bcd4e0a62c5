//! The config that one fleet should run: resources, encoded and versioned once.
//!
//! A version is the hash of the content that is sent. So equal input gives equal versions on any replica and
//! after any restart, compiling the same files again sends nothing, and an unchanged resource keeps its bytes
//! in memory.

pub mod past;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::num::ParseIntError;
use std::ops::Range;
use std::str::FromStr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use imbl::OrdMap;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use prost::{Message, Name};
use serde_json::{Map, Value};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::envoy::{self, ResourceType, canonical, descriptors, json};
use crate::memo::{ArcPtrEq, MapChange, changes};

/// Hash of some content (XXH3, 128 bits), written as 32 hex digits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u128);

impl Version {
    fn of(parts: &[&[u8]]) -> Self {
        let mut hash = Xxh3::new();
        for part in parts {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(hash.digest128())
    }

    /// Adds a resource to the version of a set, which is the sum over its resources, so that an update costs
    /// only the difference.
    fn learn(&mut self, resource: &Resource) {
        self.0 = self.0.wrapping_add(resource.digest());
    }

    fn forget(&mut self, resource: Option<ArcPtrEq<Resource>>) {
        self.0 = self.0.wrapping_sub(resource.map_or(0, |ArcPtrEq(resource)| resource.digest()));
    }
}

/// Number of digits in the text of a version.
const VERSION_DIGITS: usize = 32;

impl FromStr for Version {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        u128::from_str_radix(text, 16).map(Self)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:0VERSION_DIGITS$x}", self.0)
    }
}

/// One Envoy resource, encoded for both variants of the protocol in one buffer.
///
/// Both responses carry resources in field 2, SotW as `Any` and delta as `Resource`. A `Resource` carries its
/// `Any` in field 2 as well, and protobuf leaves the order of fields open: so what SotW sends is the tail of
/// what delta sends.
#[derive(Clone, PartialEq, Eq)]
pub struct Resource {
    /// Name by which clients ask for it.
    pub name: Arc<str>,
    /// Hash of its type and bytes.
    pub version: Version,
    /// Endpoints that a cluster waits for before it serves (`EdsClusterConfig.service_name`); none for other
    /// types.
    pub endpoints: Option<Arc<str>>,
    /// Clusters that a listener, a route configuration or an aggregate cluster sends requests to; empty
    /// otherwise.
    pub clusters: Vec<Arc<str>>,
    delta: Bytes,
    state_of_the_world: usize,
    message: usize,
}

impl Resource {
    /// Encodes `message` as the resource `name`.
    pub fn new<M: Message + Name>(name: &str, message: &M) -> Self {
        Self::framed(name, &M::type_url(), &canonical::encode(message))
    }

    /// Wraps `body`, the canonical encoding of a message, as the resource `name`.
    pub fn encoded(resource_type: ResourceType, name: &str, body: &[u8]) -> Self {
        let endpoints = match resource_type {
            ResourceType::Cluster => envoy::awaited_endpoints(body).map(Arc::from),
            _ => None,
        };
        Self { endpoints, ..Self::framed(name, resource_type.type_url(), body) }
    }

    fn framed(name: &str, type_url: &str, body: &[u8]) -> Self {
        let version = Version::of(&[type_url.as_bytes(), body]);
        let text = version.to_string();

        let any = field_len(1, type_url.len()) + field_len(2, body.len());
        let resource = field_len(3, name.len()) + field_len(1, text.len()) + field_len(2, any);
        let mut buffer = BytesMut::with_capacity(field_len(2, resource));
        put_head(2, resource, &mut buffer);
        put_field(3, name.as_bytes(), &mut buffer);
        put_field(1, text.as_bytes(), &mut buffer);
        let state_of_the_world = buffer.len();
        put_head(2, any, &mut buffer);
        put_field(1, type_url.as_bytes(), &mut buffer);
        put_head(2, body.len(), &mut buffer);
        let message = buffer.len();
        buffer.put_slice(body);

        Self {
            name: name.into(),
            version,
            endpoints: None,
            clusters: Vec::new(),
            delta: buffer.freeze(),
            state_of_the_world,
            message,
        }
    }

    /// Builds the answer for a name that a client waits for and that does not exist: a `Resource` with the
    /// name as its alias and without a body (VHDS, "Virtual Host Naming Convention"). For delta only.
    pub fn absent(name: &str) -> Self {
        let resource = field_len(3, name.len()) + field_len(4, name.len());
        let mut buffer = BytesMut::with_capacity(field_len(2, resource));
        put_head(2, resource, &mut buffer);
        put_field(3, name.as_bytes(), &mut buffer);
        put_field(4, name.as_bytes(), &mut buffer);
        let (state_of_the_world, message) = (buffer.len(), buffer.len());
        let (endpoints, clusters, version) = (None, Vec::new(), Version::of(&[]));
        let delta = buffer.freeze();
        Self { name: name.into(), version, endpoints, clusters, delta, state_of_the_world, message }
    }

    /// Returns the encoded field `resources` of a response with this resource.
    pub fn field(&self, variant: Variant) -> Bytes {
        match variant {
            Variant::StateOfTheWorld => self.delta.slice(self.state_of_the_world..),
            Variant::Delta => self.delta.clone(),
        }
    }

    /// Hashes its name and version.
    fn digest(&self) -> u128 {
        Version::of(&[self.name.as_bytes(), &self.version.0.to_le_bytes()]).0
    }

    /// Returns the text of the version as clients get it.
    pub fn version_text(&self) -> &[u8] {
        // The version is the last field before the `Any`.
        &self.delta[self.state_of_the_world - VERSION_DIGITS..self.state_of_the_world]
    }

    /// Converts the message to Envoy's JSON.
    pub fn to_json(&self, resource_type: ResourceType) -> Value {
        json::from_bytes(self.message(), descriptors::served(resource_type))
    }

    /// Returns the encoded message itself.
    pub fn message(&self) -> &[u8] {
        &self.delta[self.message..]
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

fn field_len(number: u32, length: usize) -> usize {
    key_len(number) + encoded_len_varint(length as u64) + length
}

fn put_head(number: u32, length: usize, buffer: &mut BytesMut) {
    encode_key(number, WireType::LengthDelimited, buffer);
    encode_varint(length as u64, buffer);
}

fn put_field(number: u32, value: &[u8], buffer: &mut BytesMut) {
    put_head(number, value.len(), buffer);
    buffer.put_slice(value);
}

/// All resources of one type, sorted by name.
///
/// Sets share the resources that they have in common, and a set is derived from another at the cost of the
/// difference.
///
/// Results that many streams need are computed once and kept here: all resources in one buffer, the position
/// of each, and the differences to the sets that clients have.
#[derive(Debug)]
pub struct ResourceSet {
    by_name: OrdMap<Arc<str>, ArcPtrEq<Resource>>,
    version: Version,
    in_order: OnceLock<Vec<Arc<Resource>>>,
    index: OnceLock<HashMap<Arc<str>, usize>>,
    inventory: OnceLock<u128>,
    whole: [OnceLock<Bytes>; 2],
    pieces: OnceLock<Vec<Piece>>,
    changes: Recent<ResourceNames>,
    variations: Recent<Arc<Self>>,
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

/// The two variants of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// State of the world: a response repeats unchanged resources.
    StateOfTheWorld,
    /// Incremental: a response has the changes only.
    Delta,
}

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

    /// Derives a set without the names in `gone` and with the resources in `new`, which replace resources of
    /// the same name.
    pub fn changed(&self, gone: &[Arc<str>], new: impl IntoIterator<Item = Arc<Resource>>) -> Self {
        let (mut by_name, mut version) = (self.by_name.clone(), self.version);
        for name in gone {
            version.forget(by_name.remove(name));
        }
        for resource in new {
            version.learn(&resource);
            version.forget(by_name.insert(resource.name.clone(), ArcPtrEq(resource)));
        }
        Self::from(by_name, version)
    }

    fn from(by_name: OrdMap<Arc<str>, ArcPtrEq<Resource>>, version: Version) -> Self {
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
        others.iter().for_each(|other| version.learn(other));
        let others_version = version.0.to_le_bytes();
        let mut parts: Vec<&[u8]> = left_out.iter().map(|name| name.as_bytes()).collect();
        parts.push(&others_version);
        recent(&self.variations, Version::of(&parts), || {
            let left_out: Vec<Arc<str>> = left_out.iter().cloned().collect();
            let others = others.into_iter().filter(|other| !left_out.contains(&other.name));
            Arc::new(self.changed(&left_out, others))
        })
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

/// All resources that one fleet should run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    sets: [Arc<ResourceSet>; ResourceType::ALL.len()],
}

impl Snapshot {
    /// Creates a snapshot of these resources, by type.
    pub fn new(mut resources: impl FnMut(ResourceType) -> Vec<Arc<Resource>>) -> Self {
        Self { sets: ResourceType::ALL.map(|it| Arc::new(ResourceSet::new(resources(it)))) }
    }

    /// Derives a snapshot with other resources of one type.
    #[must_use]
    pub fn with(&self, resource_type: ResourceType, set: ResourceSet) -> Self {
        let mut sets = self.sets.clone();
        sets[resource_type as usize] = Arc::new(set);
        Self { sets }
    }

    /// Replaces each set that equals the one in `last` by that one, so that comparing pointers is enough to
    /// find that nothing changed.
    #[must_use]
    pub fn keeping(mut self, last: &Self) -> Self {
        for (set, last) in self.sets.iter_mut().zip(&last.sets).filter(|(set, last)| *set == *last) {
            set.clone_from(last);
        }
        self
    }

    /// Converts everything to Envoy's JSON, by the plural of each type. A type in [`ResourceType::FURTHER`]
    /// is left out if it has no resources.
    pub fn to_json(&self) -> Value {
        let list = |resource_type: ResourceType| {
            let resources = self.set(resource_type).iter();
            resources.map(|resource| resource.to_json(resource_type)).collect()
        };
        ResourceType::ALL
            .into_iter()
            .filter(|it| !ResourceType::FURTHER.contains(it) || !self.set(*it).is_empty())
            .map(|it| (it.plural().to_owned(), list(it)))
            .collect::<Map<_, _>>()
            .into()
    }

    /// Returns all resources of a type.
    pub fn set(&self, resource_type: ResourceType) -> &Arc<ResourceSet> {
        &self.sets[resource_type as usize]
    }

    /// True if nothing but endpoints differs.
    pub fn is_alike(&self, other: &Self) -> bool {
        let mut others = ResourceType::ALL.into_iter().filter(|it| *it != ResourceType::Endpoints);
        others.all(|it| self.set(it) == other.set(it))
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::cluster::v3::Cluster;
    use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};

    use super::*;

    fn cluster(name: &str) -> Cluster {
        Cluster { name: name.into(), alt_stat_name: "x".repeat(200), ..Default::default() }
    }

    #[test]
    fn one_buffer_serves_both_variants() {
        let resource = Resource::new("a", &cluster("a"));
        let sotw = DiscoveryResponse::decode(resource.field(Variant::StateOfTheWorld)).expect("decodes");
        let any = &sotw.resources[0];
        assert_eq!(any.type_url, ResourceType::Cluster.type_url());
        assert_eq!(Cluster::decode(&*any.value).expect("decodes"), cluster("a"));

        let delta = DeltaDiscoveryResponse::decode(resource.field(Variant::Delta)).expect("decodes");
        let inner = &delta.resources[0];
        assert_eq!((inner.name.as_str(), &inner.version), ("a", &resource.version.to_string()));
        assert_eq!(inner.resource.as_ref(), Some(any));
        assert_eq!(resource.message(), any.value);
        assert_eq!(resource.version_text(), inner.version.as_bytes());
    }

    #[test]
    fn what_is_absent_is_told_by_its_alias() {
        let absent = Resource::absent("routes/host");
        let delta = DeltaDiscoveryResponse::decode(absent.field(Variant::Delta)).expect("decodes");
        let told = &delta.resources[0];
        assert_eq!(
            (told.name.as_str(), told.aliases.as_slice()),
            ("routes/host", &["routes/host".to_owned()][..])
        );
        assert_eq!(told.resource, None);
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

    #[test]
    fn a_set_that_did_not_change_stays_the_same_allocation() {
        let resources = |names: &'static [&str]| {
            move |resource_type| match resource_type {
                ResourceType::Cluster => {
                    names.iter().map(|name| Arc::new(Resource::new(name, &cluster(name)))).collect()
                }
                _ => Vec::new(),
            }
        };
        let first = Snapshot::new(resources(&["a", "b"]));
        let same = Snapshot::new(resources(&["a", "b"])).keeping(&first);
        assert!(Arc::ptr_eq(first.set(ResourceType::Cluster), same.set(ResourceType::Cluster)));
        let more = Snapshot::new(resources(&["a", "b", "c"])).keeping(&first);
        assert!(!Arc::ptr_eq(first.set(ResourceType::Cluster), more.set(ResourceType::Cluster)));
        assert!(Arc::ptr_eq(first.set(ResourceType::Listener), more.set(ResourceType::Listener)));
    }
}
