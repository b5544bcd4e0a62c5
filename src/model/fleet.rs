//! Fleets: groups of Envoys that share a configuration.
//!
//! A fleet is selected by the node that Envoy sends in the first request of a stream.

use std::collections::BTreeMap;

use crate::config::document::{self, Declared};
use crate::envoy::node::Node;
use crate::model::matching::StringMatch;
use crate::model::name::Name;
use crate::model::place::{Faults, Place};

/// Group of Envoys.
#[derive(Debug, Clone, PartialEq)]
pub struct Fleet {
    /// Unique among fleets.
    pub name: Name,
    /// Conditions, all of which must match; without any, every node matches.
    select: BTreeMap<Field, StringMatch>,
}

/// Field of a node that a fleet may match.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Field {
    Cluster,
    Id,
    Region,
    Zone,
    Metadata(String),
}

impl Fleet {
    /// True if the node matches this fleet. It belongs to it unless a fleet declared earlier selects it too.
    pub fn selects(&self, node: &Node) -> bool {
        let given = |text: &'_ str| (!text.is_empty()).then(|| text.to_owned());
        self.select.iter().all(|(field, expected)| {
            let value = match field {
                Field::Cluster => given(&node.cluster),
                Field::Id => given(&node.id),
                Field::Region => given(&node.locality.region),
                Field::Zone => given(&node.locality.zone),
                Field::Metadata(key) => node.metadata.get(key).cloned(),
            };
            expected.matches(value.as_deref())
        })
    }
}

/// Resolves a declared fleet whose name is already resolved.
pub(crate) fn resolve(
    name: Name,
    place: &Place<'_>,
    fleet: &Declared<document::fleet::Fleet>,
    faults: &mut Faults,
) -> Fleet {
    let place = place.key("select");
    let select = fleet.entity.select.clone().unwrap_or_default();
    let plain = [
        (Field::Cluster, "cluster", select.cluster),
        (Field::Id, "id", select.id),
        (Field::Region, "region", select.region),
        (Field::Zone, "zone", select.zone),
    ];
    let plain = plain.into_iter().filter_map(|(field, key, text)| Some((field, place.key(key), text?)));
    let metadata = select
        .metadata
        .into_iter()
        .map(|(key, text)| (Field::Metadata(key.clone()), place.key("metadata").key(&key), text));
    let mut select = BTreeMap::new();
    for (field, place, text) in plain.chain(metadata) {
        match StringMatch::parse(&text) {
            Ok(expected) => {
                select.insert(field, expected);
            }
            Err(error) => faults.wrong(&place, format!("`{text}` is not a valid regex: {error}"), None),
        }
    }
    Fleet { name, select }
}
