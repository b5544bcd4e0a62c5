//! Fleets: groups of Envoys that share a configuration.
//!
//! A fleet is selected by the node that Envoy sends in the first request of a stream.

use std::collections::BTreeMap;

use crate::config::document::{self, Declared};
use crate::envoy::node::{Node, NodeField};
use crate::model::matching::StringMatch;
use crate::model::name::Name;
use crate::model::place::{FaultCollector, FaultPlace};

/// Group of Envoys.
#[derive(Debug, Clone, PartialEq)]
pub struct Fleet {
    /// Unique among fleets.
    pub name: Name,
    /// Conditions, all of which must match; without any, every node matches.
    select: BTreeMap<NodeField, StringMatch>,
}

impl Fleet {
    /// True if the node matches this fleet. It belongs to it unless a fleet declared earlier selects it too.
    pub fn selects(&self, node: &Node) -> bool {
        self.select.iter().all(|(field, expected)| expected.matches(node.field(field)))
    }

    /// Iterates over the fields of a node that decide if it matches this fleet.
    pub fn selecting_fields(&self) -> impl Iterator<Item = &NodeField> {
        self.select.keys()
    }

    /// True if it has the same conditions as another fleet.
    pub fn selects_alike(&self, other: &Self) -> bool {
        self.select == other.select
    }
}

/// Resolves a declared fleet whose name is already resolved.
pub(crate) fn resolve(
    name: Name,
    place: &FaultPlace<'_>,
    fleet: &Declared<document::fleet::Fleet>,
    faults: &mut FaultCollector,
) -> Fleet {
    let place = place.key("select");
    let select = fleet.entity.select.clone().unwrap_or_default();
    let plain = [
        (NodeField::Cluster, "cluster", select.cluster),
        (NodeField::Id, "id", select.id),
        (NodeField::Region, "region", select.region),
        (NodeField::Zone, "zone", select.zone),
    ];
    let plain = plain.into_iter().filter_map(|(field, key, text)| Some((field, place.key(key), text?)));
    let metadata = select
        .metadata
        .into_iter()
        .map(|(key, text)| (NodeField::Metadata(key.clone()), place.key("metadata").key(&key), text));
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
