//! Decoder of discovery requests that does not copy their long lists.
//!
//! A client that reconnects states the versions of thousands of resources, and thousands of clients reconnect
//! at once. So the lists in a request stay in the bytes in which they arrived, validated, and are decoded on
//! iteration. All other fields are decoded as usual: a message may be decoded piece by piece (protobuf
//! encoding, "Last One Wins").

use std::ops::Range;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, check_wire_type, decode_key, skip_field};

use crate::build::snapshot::set::inventory;
use crate::envoy::fields::{self, ReadError, text};

/// Numbers of the fields that are lists. Both variants have the names in the same field.
const NAMES: u32 = 3;
const UNSUBSCRIBED: u32 = 4;
const VERSIONS: u32 = 5;

/// A request of one variant without its lists.
pub trait RequestHead: Message + Default + 'static {
    /// Numbers of the fields that are lists.
    const LISTS: &[u32];

    /// Takes the node out of the request; none if the client did not send it.
    fn node(&mut self) -> Option<core::Node>;

    /// Returns the type URL that the request is about, for modification.
    fn type_url(&mut self) -> &mut String;
}

impl RequestHead for DiscoveryRequest {
    const LISTS: &[u32] = &[NAMES];

    fn node(&mut self) -> Option<core::Node> {
        self.node.take()
    }

    fn type_url(&mut self) -> &mut String {
        &mut self.type_url
    }
}

impl RequestHead for DeltaDiscoveryRequest {
    const LISTS: &[u32] = &[NAMES, UNSUBSCRIBED, VERSIONS];

    fn node(&mut self) -> Option<core::Node> {
        self.node.take()
    }

    fn type_url(&mut self) -> &mut String {
        &mut self.type_url
    }
}

/// A request: its lists, and everything else.
#[derive(Debug, Clone, Default)]
pub struct LazyRequest<H> {
    /// All other fields; its own list fields are empty.
    pub head: H,
    /// `resource_names`; of a delta request `resource_names_subscribe`.
    pub names: NameList,
    /// `resource_names_unsubscribe`; delta only.
    pub unsubscribed: NameList,
    /// `initial_resource_versions`; delta only.
    pub versions: VersionList,
}

/// Names in the order in which they came. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct NameList(FieldList);

/// Names with versions, in the order in which they came. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct VersionList(FieldList);

/// A repeated field in the bytes in which it arrived, including other fields between its items.
#[derive(Debug, Clone, Default)]
struct FieldList {
    /// List fields of the request: items of other lists may be in between.
    lists: &'static [u32],
    field: u32,
    encoded: Bytes,
}

impl<H: RequestHead> LazyRequest<H> {
    /// Reads a request.
    ///
    /// # Errors
    ///
    /// Fails if decoding the whole message would fail.
    pub fn read(encoded: &Bytes) -> Result<Self, ReadError> {
        let mut head = H::default();
        let mut lists = [const { 0..0 }; 3];
        let mut rest: &[u8] = encoded;
        let mut decoded = 0;
        while !rest.is_empty() {
            let start = encoded.len() - rest.len();
            let (field, Some(value)) = next(&mut rest, H::LISTS)? else { continue };
            match field {
                VERSIONS => entry(value).map(|_| ())?,
                _ => text(value).map(|_| ())?,
            }
            let end = encoded.len() - rest.len();
            let list = &mut lists[(field - NAMES) as usize];
            *list = if list.end == 0 { start..end } else { list.start..end };
            head.merge(&encoded[decoded..start])?;
            decoded = end;
        }
        head.merge(&encoded[decoded..])?;
        let [names, unsubscribed, versions] = lists;
        let list =
            |field, range: Range<usize>| FieldList { lists: H::LISTS, field, encoded: encoded.slice(range) };
        Ok(Self {
            head,
            names: NameList(list(NAMES, names)),
            unsubscribed: NameList(list(UNSUBSCRIBED, unsubscribed)),
            versions: VersionList(list(VERSIONS, versions)),
        })
    }

    /// Copies the lists, so that the bytes of the whole request can be freed.
    pub fn pack(&mut self) {
        for list in [&mut self.names.0, &mut self.unsubscribed.0, &mut self.versions.0] {
            list.encoded = Bytes::copy_from_slice(&list.encoded);
        }
    }
}

/// Conversion as if the request had been sent: it is encoded and read.
impl<H: RequestHead> From<H> for LazyRequest<H> {
    fn from(request: H) -> Self {
        Self::read(&request.encode_to_vec().into()).expect("what was encoded can be read")
    }
}

impl NameList {
    /// Iterates over the names.
    pub fn iter(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.values().map(|value| text(value).expect("it was checked when it was read"))
    }

    /// True if there are no names.
    pub fn is_empty(&self) -> bool {
        self.0.encoded.is_empty()
    }

    /// Returns the list in the bytes in which it came: if the bytes of two lists are equal, so are the lists.
    pub fn encoded(&self) -> &[u8] {
        &self.0.encoded
    }
}

impl<'a> FromIterator<&'a str> for NameList {
    fn from_iter<I: IntoIterator<Item = &'a str>>(names: I) -> Self {
        let resource_names = names.into_iter().map(str::to_owned).collect();
        LazyRequest::from(DiscoveryRequest { resource_names, ..Default::default() }).names
    }
}

impl VersionList {
    /// Iterates over the names and the versions that the client holds. If a name occurs twice, the last one
    /// counts.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.values().map(|value| entry(value).expect("it was checked when it was read"))
    }

    /// Iterates over the encoded entries.
    pub fn entries(&self) -> impl Iterator<Item = &[u8]> {
        self.0.values()
    }

    /// Copies the list, so that the bytes of the whole request can be freed.
    #[must_use]
    pub fn packed(&self) -> Self {
        Self(FieldList { encoded: Bytes::copy_from_slice(&self.0.encoded), ..self.0.clone() })
    }

    /// True if there are no versions.
    pub fn is_empty(&self) -> bool {
        self.0.encoded.is_empty()
    }

    /// Computes the number that
    /// [`ResourceSet::inventory`](crate::build::snapshot::set::ResourceSet::inventory) returns for the same set.
    pub fn inventory(&self) -> u128 {
        inventory(self.0.values())
    }
}

impl FieldList {
    fn values(&self) -> impl Iterator<Item = &[u8]> + Clone {
        const CHECKED: &str = "it was checked when it was read";
        let (lists, wanted, mut rest) = (self.lists, self.field, &self.encoded[..]);
        std::iter::from_fn(move || {
            while !rest.is_empty() {
                let (field, value) = next(&mut rest, lists).expect(CHECKED);
                if field == wanted && value.is_some() {
                    return value;
                }
            }
            None
        })
    }
}

/// Splits the next field off `rest`: returns its number, and its value if it is one of `lists`.
fn next<'a>(rest: &mut &'a [u8], lists: &[u32]) -> Result<(u32, Option<&'a [u8]>), ReadError> {
    let (field, wire_type) = decode_key(rest)?;
    // Like prost, which decodes a map field regardless of its wire type.
    let is_list = wire_type == WireType::LengthDelimited || field == VERSIONS;
    if is_list && lists.contains(&field) {
        return Ok((field, Some(fields::value(rest)?)));
    }
    skip_field(wire_type, field, rest, DecodeContext::default())?;
    Ok((field, None))
}

/// Decodes an entry of a map from text to text.
fn entry(mut rest: &[u8]) -> Result<(&str, &str), ReadError> {
    let mut entry = ["", ""];
    while !rest.is_empty() {
        let (field, wire_type) = decode_key(&mut rest)?;
        match field {
            1 | 2 => {
                check_wire_type(WireType::LengthDelimited, wire_type)?;
                entry[field as usize - 1] = text(fields::value(&mut rest)?)?;
            }
            _ => skip_field(wire_type, field, &mut rest, DecodeContext::default())?,
        }
    }
    Ok(entry.into())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use envoy_types::pb::google::rpc::Status;
    use proptest::prelude::*;

    use super::*;
    use crate::build::snapshot::resource::Resource;
    use crate::envoy::ResourceType;
    use crate::xds::stream::testkit::snapshot;

    /// Rebuilds the request, with its lists in the fields where a decoder puts them.
    fn whole(request: LazyRequest<DeltaDiscoveryRequest>) -> DeltaDiscoveryRequest {
        let owned = |names: &NameList| names.iter().map(str::to_owned).collect();
        let versions = request.versions.iter().map(|(name, version)| (name.to_owned(), version.to_owned()));
        DeltaDiscoveryRequest {
            resource_names_subscribe: owned(&request.names),
            resource_names_unsubscribe: owned(&request.unsubscribed),
            initial_resource_versions: versions.collect(),
            ..request.head
        }
    }

    fn check(encoded: Vec<u8>) {
        let encoded = Bytes::from(encoded);
        let expected = DeltaDiscoveryRequest::decode(encoded.clone());
        let read = LazyRequest::<DeltaDiscoveryRequest>::read(&encoded);
        match (expected, read) {
            (Ok(expected), Ok(mut read)) => {
                assert_eq!(whole(read.clone()), expected);
                read.pack();
                assert_eq!(whole(read), expected);
            }
            (Err(_), Err(_)) => {}
            (expected, read) => panic!("{expected:?} is not {read:?}"),
        }

        let expected = DiscoveryRequest::decode(encoded.clone());
        let read = LazyRequest::<DiscoveryRequest>::read(&encoded);
        match (expected, read) {
            (Ok(expected), Ok(read)) => {
                let resource_names = read.names.iter().map(str::to_owned).collect();
                assert_eq!(DiscoveryRequest { resource_names, ..read.head }, expected);
            }
            (Err(_), Err(_)) => {}
            (expected, read) => panic!("{expected:?} is not {read:?}"),
        }
    }

    fn request() -> impl Strategy<Value = DeltaDiscoveryRequest> {
        let names = || prop::collection::vec("[a-zé*/]{0,9}", 0..5);
        let versions = prop::collection::hash_map("[a-z]{0,3}", "[0-9a-f]{0,200}", 0..5);
        let node = prop::option::of("[a-z]{0,200}");
        (names(), names(), versions, "[a-z]{0,4}", node, prop::option::of("[a-z]{0,4}")).prop_map(
            |(subscribe, unsubscribe, versions, nonce, node, error)| DeltaDiscoveryRequest {
                node: node.map(|id| core::Node { id, ..Default::default() }),
                type_url: "type".to_owned(),
                resource_names_subscribe: subscribe,
                resource_names_unsubscribe: unsubscribe,
                initial_resource_versions: versions,
                response_nonce: nonce,
                error_detail: error.map(|message| Status { message, ..Default::default() }),
                ..Default::default()
            },
        )
    }

    proptest! {
        #[test]
        fn a_request_reads_as_it_decodes(requests in prop::collection::vec(request(), 0..4)) {
            // Concatenated messages are one message, with its fields in any order.
            check(requests.iter().flat_map(Message::encode_to_vec).collect());
        }

        #[test]
        fn a_damaged_request_is_refused_as_it_fails_to_decode(
            request in request(),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut encoded = request.encode_to_vec();
            for (index, byte) in damage {
                let index = index.index(encoded.len());
                encoded[index] = byte;
            }
            check(encoded.clone());
            encoded.truncate(cut.index(encoded.len()));
            check(encoded);
        }

        #[test]
        fn noise_reads_as_it_decodes(encoded in prop::collection::vec(any::<u8>(), 0..40)) {
            check(encoded);
        }
    }

    #[test]
    fn a_list_of_another_wire_type_reads_as_it_decodes() {
        let field =
            |number: u8, wire_type: u8| vec![number << 3 | wire_type, 4, 0x0A, 2, b'a', b'b', 0, 0, 0];
        for number in 1..=7 {
            for wire_type in 0..=7 {
                check(field(number, wire_type));
                check(field(number, wire_type)[..6].to_vec());
                // The field between two names of a list.
                for list in 3..=4 {
                    let name = vec![list << 3 | 2, 1, b'x'];
                    check([name.clone(), field(number, wire_type), name.clone()].concat());
                    check([name.clone(), vec![number << 3 | wire_type, 0], name].concat());
                }
            }
        }
    }

    #[test]
    fn who_holds_all_of_a_set_and_nothing_else_has_its_inventory() {
        let set = |text: &str| snapshot(text).set(ResourceType::Cluster).clone();
        let all = set("cds:a cds:b@2 cds:c");
        let inventory = |text: &str| {
            let entry = |own: &Arc<Resource>| {
                let entry = HashMap::from([(own.name.to_string(), own.version.to_string())]);
                DeltaDiscoveryRequest { initial_resource_versions: entry, ..Default::default() }
            };
            // A map has no order, so each entry is encoded on its own.
            let entries = text.split_whitespace().map(|word| entry(set(word).iter().next().expect("one")));
            let encoded: Vec<u8> = entries.flat_map(|request| request.encode_to_vec()).collect();
            LazyRequest::<DeltaDiscoveryRequest>::read(&encoded.into())
                .expect("it is one")
                .versions
                .inventory()
        };
        assert_eq!(inventory("cds:a cds:b@2 cds:c"), all.inventory());
        assert_eq!(inventory("cds:c cds:a cds:b@2"), all.inventory());
        for other in
            ["cds:a cds:b@2", "cds:a cds:b cds:c", "cds:a cds:a cds:b@2 cds:c", "cds:a cds:b@2 cds:c cds:d"]
        {
            assert_ne!(inventory(other), all.inventory(), "{other}");
        }
    }

    #[test]
    fn the_last_version_of_a_name_counts() {
        let of = |version: &str| DeltaDiscoveryRequest {
            initial_resource_versions: HashMap::from([("a".to_owned(), version.to_owned())]),
            ..Default::default()
        };
        check([of("1"), of("2")].iter().flat_map(Message::encode_to_vec).collect());
    }
}
