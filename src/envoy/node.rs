//! Identity of an Envoy.
//!
//! Envoy sends its node in the first request of a stream and may omit it afterwards (xDS protocol, "Basic
//! Protocol Overview"), so the needed fields are copied then. The rest of that message, some 60 KB of
//! extension names, is dropped at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::google::protobuf::value::Kind;

/// Identity of an Envoy, as it reports it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Field `node.id`.
    pub id: String,
    /// Field `node.cluster`.
    pub cluster: String,
    /// Locality in which it runs.
    pub locality: Locality,
    /// String values at the top level of `node.metadata`.
    pub metadata: BTreeMap<String, String>,
    /// Version, such as `1.40.0`; empty if it is not reported.
    pub version: String,
}

/// Location of a node or a target; empty levels are unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Locality {
    /// Largest level.
    pub region: String,
    /// Zone within the region.
    pub zone: String,
    /// Sub-zone within the zone.
    pub sub_zone: String,
}

/// Field of a node by which fleets are selected, and for which a certificate may vouch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeField {
    /// Field `node.cluster`.
    Cluster,
    /// Field `node.id`.
    Id,
    /// Region of the locality.
    Region,
    /// Zone of the locality.
    Zone,
    /// Text at this key of `node.metadata`.
    Metadata(String),
}

impl fmt::Display for NodeField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str("cluster"),
            Self::Id => f.write_str("id"),
            Self::Region => f.write_str("region"),
            Self::Zone => f.write_str("zone"),
            Self::Metadata(key) => write!(f, "metadata.{key}"),
        }
    }
}

impl FromStr for NodeField {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "cluster" => Ok(Self::Cluster),
            "id" => Ok(Self::Id),
            "region" => Ok(Self::Region),
            "zone" => Ok(Self::Zone),
            _ => match text.strip_prefix("metadata.") {
                Some(key) if !key.is_empty() => Ok(Self::Metadata(key.to_owned())),
                _ => Err(()),
            },
        }
    }
}

/// Fields of nodes that are known to be true, since certificates vouch for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VouchedFields {
    /// All fields: every client is trusted to be what it says.
    All,
    /// These fields alone.
    Only(BTreeSet<NodeField>),
}

impl VouchedFields {
    /// True if the field is among them.
    pub fn include(&self, field: &NodeField) -> bool {
        match self {
            Self::All => true,
            Self::Only(fields) => fields.contains(field),
        }
    }
}

impl FromStr for Locality {
    type Err = String;

    /// Parses `region`, `region/zone` or `region/zone/sub_zone`; levels may be empty.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split('/').map(str::to_owned);
        let mut part = || parts.next().unwrap_or_default();
        let locality = Self { region: part(), zone: part(), sub_zone: part() };
        match parts.next() {
            None => Ok(locality),
            Some(_) => Err("a locality is region/zone/sub_zone".to_owned()),
        }
    }
}

impl Node {
    /// Returns a field; none if the node does not have it. Only metadata may be empty.
    pub fn field(&self, field: &NodeField) -> Option<&str> {
        let given = |text: &'_ String| !text.is_empty();
        let text = match field {
            NodeField::Cluster => Some(&self.cluster).filter(|text| given(text)),
            NodeField::Id => Some(&self.id).filter(|text| given(text)),
            NodeField::Region => Some(&self.locality.region).filter(|text| given(text)),
            NodeField::Zone => Some(&self.locality.zone).filter(|text| given(text)),
            NodeField::Metadata(key) => self.metadata.get(key),
        };
        text.map(String::as_str)
    }

    /// Returns its size in bytes of text.
    pub fn weight(&self) -> usize {
        let Locality { region, zone, sub_zone } = &self.locality;
        let words = [&self.id, &self.cluster, region, zone, sub_zone, &self.version];
        words.into_iter().chain(self.metadata.keys()).chain(self.metadata.values()).map(String::len).sum()
    }
}

impl From<core::Node> for Node {
    fn from(node: core::Node) -> Self {
        let locality = node.locality.unwrap_or_default();
        let metadata = node.metadata.unwrap_or_default().fields.into_iter().filter_map(|(key, value)| {
            match value.kind? {
                Kind::StringValue(text) => Some((key, text)),
                _ => None,
            }
        });
        Self {
            id: node.id,
            cluster: node.cluster,
            locality: Locality { region: locality.region, zone: locality.zone, sub_zone: locality.sub_zone },
            metadata: metadata.collect(),
            version: version(node.user_agent_version_type),
        }
    }
}

fn version(user_agent: Option<core::node::UserAgentVersionType>) -> String {
    use core::node::UserAgentVersionType as Version;
    match user_agent {
        Some(Version::UserAgentVersion(text)) => text,
        Some(Version::UserAgentBuildVersion(build)) => build
            .version
            .map(|version| format!("{}.{}.{}", version.major_number, version.minor_number, version.patch))
            .unwrap_or_default(),
        None => String::new(),
    }
}
