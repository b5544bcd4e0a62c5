//! Resources, encoded and versioned once.
//!
//! A version is the hash of the content that is sent. So equal input gives equal versions on any replica and
//! after any restart, and an unchanged resource keeps its bytes in memory.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use prost::{Message, Name};
use serde_json::Value;
use xxhash_rust::xxh3::Xxh3;

use crate::build::snapshot::store_id::{STORE_DIGITS, StoreId};
use crate::envoy::{self, ResourceType, canonical, descriptors, json};
use crate::memo::ArcPtrEq;

/// Hash of some content (XXH3, 128 bits), written as 32 hex digits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u128);

impl Version {
    /// Hashes these texts, each with its length.
    pub(super) fn of(texts: &[&[u8]]) -> Self {
        let mut hash = Xxh3::new();
        for text in texts {
            hash.update(&(text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        Self(hash.digest128())
    }

    /// Adds a resource to the version of a set, which is the sum over its resources, so that an update costs
    /// only the difference.
    pub(super) fn add(&mut self, resource: &Resource) {
        self.0 = self.0.wrapping_add(resource.digest());
    }

    /// Removes a resource from the version of a set.
    pub(super) fn remove(&mut self, resource: Option<ArcPtrEq<Resource>>) {
        self.0 = self.0.wrapping_sub(resource.map_or(0, |ArcPtrEq(resource)| resource.digest()));
    }

    /// True for the version of a set without resources.
    pub fn is_of_nothing(self) -> bool {
        self == Self::default()
    }

    /// Returns its text for clients, followed by the id of the store if there is one.
    pub fn text(self, store: Option<StoreId>) -> String {
        store.map_or_else(|| self.to_string(), |store| format!("{self}{store}"))
    }

    /// Returns the bytes of the hash, the lowest first.
    pub(super) fn to_le_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }
}

/// Number of digits in the text of a version.
pub(super) const VERSION_DIGITS: usize = 32;

/// Text that is no version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a version has {VERSION_DIGITS} hex digits")]
pub struct NoVersion;

impl FromStr for Version {
    type Err = NoVersion;

    fn from_str(text: &str) -> Result<Self, NoVersion> {
        // The standard library takes a sign, too.
        let is_text = text.len() == VERSION_DIGITS && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        is_text.then(|| u128::from_str_radix(text, 16).ok()).flatten().map(Self).ok_or(NoVersion)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:0VERSION_DIGITS$x}", self.0)
    }
}

/// The two variants of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// State of the world: a response repeats unchanged resources.
    StateOfTheWorld,
    /// Incremental: a response has the changes only.
    Delta,
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
    /// Store that its version names for clients; none outside of a control plane.
    pub store: Option<StoreId>,
    pub(super) delta: Bytes,
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
            store: None,
            delta: buffer.freeze(),
            state_of_the_world,
            message,
        }
    }

    /// Writes the id of a store into the text of its version. The message and the version stay.
    #[must_use]
    pub fn stamped(mut self, store: Option<StoreId>) -> Self {
        if self.store == store {
            return self;
        }
        let text = self.version.text(store);
        let any = self.delta.slice(self.state_of_the_world..);
        let resource = field_len(3, self.name.len()) + field_len(1, text.len()) + any.len();
        let mut buffer = BytesMut::with_capacity(field_len(2, resource));
        put_head(2, resource, &mut buffer);
        put_field(3, self.name.as_bytes(), &mut buffer);
        put_field(1, text.as_bytes(), &mut buffer);
        self.message = self.message - self.state_of_the_world + buffer.len();
        (self.store, self.state_of_the_world) = (store, buffer.len());
        buffer.put_slice(&any);
        self.delta = buffer.freeze();
        self
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
        let (delta, store) = (buffer.freeze(), None);
        Self { name: name.into(), version, endpoints, clusters, store, delta, state_of_the_world, message }
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
        let digits = VERSION_DIGITS + self.store.map_or(0, |_| STORE_DIGITS);
        &self.delta[self.state_of_the_world - digits..self.state_of_the_world]
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

pub(super) fn put_field(number: u32, value: &[u8], buffer: &mut BytesMut) {
    put_head(number, value.len(), buffer);
    buffer.put_slice(value);
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
    fn a_stamp_changes_the_text_of_the_version_and_nothing_else() {
        let plain = Resource::new("a", &cluster("a"));
        let store = StoreId::parse("00000000000000a7");
        let stamped = plain.clone().stamped(store);
        assert_eq!(stamped.field(Variant::StateOfTheWorld), plain.field(Variant::StateOfTheWorld));
        assert_eq!((stamped.version, stamped.message()), (plain.version, plain.message()));
        assert_eq!(stamped.digest(), plain.digest());
        let delta = DeltaDiscoveryResponse::decode(stamped.field(Variant::Delta)).expect("decodes");
        let text = format!("{}00000000000000a7", plain.version);
        assert_eq!((delta.resources[0].name.as_str(), &delta.resources[0].version), ("a", &text));
        assert_eq!(stamped.version_text(), text.as_bytes());
        assert_eq!(stamped.stamped(None), plain);
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
}
