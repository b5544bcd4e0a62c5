//! What one fleet should run: resources encoded and versioned once.
//!
//! A version is the hash of what is sent. Hence equal input makes equal versions on any replica and after any
//! restart, recompiling the same files sends nothing, and an unchanged resource keeps its bytes in memory.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use prost::{Message, Name};
use serde_json::{Map, Value};
use xxhash_rust::xxh3::Xxh3;

use crate::envoy::{self, ResourceType, canonical, descriptors, json};

/// The hash of some content (XXH3, 128 bits), written as 32 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
}

impl FromStr for Version {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        u128::from_str_radix(text, 16).map(Self)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// One Envoy resource, encoded for both variants of the protocol in one buffer.
///
/// Both responses carry resources in field 2, SotW as `Any` and delta as `Resource`. A `Resource` carries its
/// `Any` in field 2 as well, and protobuf leaves the order of fields open: so what SotW sends is the tail of
/// what delta sends.
#[derive(Clone, PartialEq, Eq)]
pub struct Resource {
    /// As clients ask for it.
    pub name: Arc<str>,
    /// The hash of its type and bytes.
    pub version: Version,
    /// Of a cluster: the endpoints that it waits for before it serves (`EdsClusterConfig.service_name`).
    pub endpoints: Option<String>,
    /// Of a listener, a route configuration or an aggregate: the clusters that it sends requests to.
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

    /// The resource `name` whose canonical encoding is `body`.
    pub fn encoded(resource_type: ResourceType, name: &str, body: &[u8]) -> Self {
        let endpoints = match resource_type {
            ResourceType::Cluster => envoy::awaited_endpoints(body),
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

    /// The field `resources` of a response with this resource.
    pub fn field(&self, variant: Variant) -> Bytes {
        match variant {
            Variant::StateOfTheWorld => self.delta.slice(self.state_of_the_world..),
            Variant::Delta => self.delta.clone(),
        }
    }

    /// The message in Envoy's JSON.
    pub fn to_json(&self, resource_type: ResourceType) -> Value {
        json::from_bytes(self.message(), descriptors::served(resource_type))
    }

    /// The encoded message itself.
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
/// What many streams would work out alike is worked out once and kept here: all resources in one piece, and
/// the difference to the sets that clients have.
#[derive(Debug)]
pub struct ResourceSet {
    resources: Vec<Arc<Resource>>,
    version: Version,
    whole: [OnceLock<Bytes>; 2],
    changes: Mutex<Vec<(Version, Names)>>,
}

/// Names of resources, which streams share.
pub type Names = Arc<[Arc<str>]>;

/// The two variants of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// A response repeats what is as it was.
    StateOfTheWorld,
    /// A response says what changed.
    Delta,
}

/// To how many older sets the difference is kept. Nearly all clients have the one before.
const KEPT_CHANGES: usize = 4;

impl PartialEq for ResourceSet {
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version
    }
}

impl Eq for ResourceSet {}

impl Default for ResourceSet {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl ResourceSet {
    /// The set of these resources, whose names differ.
    pub fn new(mut resources: Vec<Arc<Resource>>) -> Self {
        resources.sort_by(|a, b| a.name.cmp(&b.name));
        let mut hash = Xxh3::new();
        for resource in &resources {
            hash.update(&(resource.name.len() as u64).to_le_bytes());
            hash.update(resource.name.as_bytes());
            hash.update(&resource.version.0.to_le_bytes());
        }
        let version = Version(hash.digest128());
        Self { resources, version, whole: Default::default(), changes: Mutex::default() }
    }

    /// The hash of every name and version in it.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The resource of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Resource>> {
        let index = self.resources.binary_search_by(|resource| (*resource.name).cmp(name)).ok()?;
        Some(&self.resources[index])
    }

    /// All, sorted by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Resource>> {
        self.resources.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.resources.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    /// The fields `resources` of a response with all of them.
    pub fn whole(&self, variant: Variant) -> Bytes {
        let concatenate = || {
            let fields = self.resources.iter().map(|resource| resource.field(variant));
            fields.fold(BytesMut::new(), |mut all, field| {
                all.put_slice(&field);
                all
            })
        };
        self.whole[variant as usize].get_or_init(|| concatenate().freeze()).clone()
    }

    /// The names that are new, changed or gone since `old`.
    pub fn changed_since(&self, old: &Self) -> Names {
        let mut kept = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, names)) = kept.iter().find(|(version, _)| *version == old.version) {
            return names.clone();
        }
        let names = self.compare(old);
        kept.truncate(KEPT_CHANGES - 1);
        kept.insert(0, (old.version, names.clone()));
        names
    }

    fn compare(&self, old: &Self) -> Names {
        let changed = self
            .resources
            .iter()
            .filter(|resource| old.get(&resource.name).is_none_or(|known| known.version != resource.version));
        let gone = old.resources.iter().filter(|resource| self.get(&resource.name).is_none());
        changed.chain(gone).map(|resource| resource.name.clone()).collect()
    }
}

/// Everything one fleet should run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    sets: [Arc<ResourceSet>; ResourceType::ALL.len()],
}

impl Snapshot {
    /// A snapshot of these resources. A set that is as in `last` is the one of `last`, so that to find that nothing
    /// changed is to compare pointers.
    pub fn new(mut resources: impl FnMut(ResourceType) -> Vec<Arc<Resource>>, last: Option<&Self>) -> Self {
        let sets = ResourceType::ALL.map(|resource_type| {
            let set = Arc::new(ResourceSet::new(resources(resource_type)));
            match last.map(|last| last.set(resource_type)) {
                Some(last) if *last == set => last.clone(),
                _ => set,
            }
        });
        Self { sets }
    }

    /// This snapshot with other resources of one type. If they are as in `last`, that set is the one of `last`.
    #[must_use]
    pub fn with(
        &self,
        resource_type: ResourceType,
        resources: Vec<Arc<Resource>>,
        last: Option<&Self>,
    ) -> Self {
        let set = Arc::new(ResourceSet::new(resources));
        let mut sets = self.sets.clone();
        sets[resource_type as usize] = match last.map(|last| last.set(resource_type)) {
            Some(last) if *last == set => last.clone(),
            _ => set,
        };
        Self { sets }
    }

    /// Everything in Envoy's JSON, by the plural of each type; of [`ResourceType::FURTHER`] those that there are.
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

    /// All resources of a type.
    pub fn set(&self, resource_type: ResourceType) -> &Arc<ResourceSet> {
        &self.sets[resource_type as usize]
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
    }

    #[test]
    fn the_version_follows_the_content() {
        let of = |names: &[&str]| {
            let resources = names.iter().map(|name| Arc::new(Resource::new(name, &cluster(name))));
            ResourceSet::new(resources.collect()).version()
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
            ResourceSet::new(clusters.iter().map(resource).collect())
        };
        let old = set(&[("a", "1"), ("b", "1"), ("c", "1")]);
        let new = set(&[("a", "1"), ("b", "2"), ("d", "1")]);
        for _ in 0..2 {
            let names = new.changed_since(&old);
            assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), ["b", "d", "c"]);
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
        let first = Snapshot::new(resources(&["a", "b"]), None);
        let same = Snapshot::new(resources(&["a", "b"]), Some(&first));
        assert!(Arc::ptr_eq(first.set(ResourceType::Cluster), same.set(ResourceType::Cluster)));
        let more = Snapshot::new(resources(&["a", "b", "c"]), Some(&first));
        assert!(!Arc::ptr_eq(first.set(ResourceType::Cluster), more.set(ResourceType::Cluster)));
        assert!(Arc::ptr_eq(first.set(ResourceType::Listener), more.set(ResourceType::Listener)));
    }
}
