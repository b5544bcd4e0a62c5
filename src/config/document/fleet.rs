//! `fleets`: the groups of Envoys that share a configuration.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

/// A fleet: the Envoys that share a configuration.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["name"]))]
pub struct Fleet {
    /// Name, unique among fleets over all files and REST.
    #[schemars(extend(
        "examples" = ["edge"], "minLength" = 1, "pattern" = "^[A-Za-z0-9_][A-Za-z0-9_.-]*$"
    ))]
    pub name: Option<String>,
    /// Conditions on a node; all that are given must match. A node joins the first fleet that selects it.
    #[schemars(extend("default" = {}, "examples" = [{ "cluster": "edge", "region": "eu-1" }]))]
    pub select: Option<Select>,
    /// Words to find the fleet by.
    #[schemars(extend("examples" = [["shop"]]))]
    pub tags: Vec<String>,
}

/// Conditions that select the nodes of a fleet. In each text `~` begins a regex over the whole, `*` is anything
/// present, `!` is absent.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Select {
    /// Cluster that the node names as its own (`--service-cluster`).
    #[schemars(extend("examples" = ["edge"]))]
    pub cluster: Option<String>,
    /// Id of the node (`--service-node`).
    #[schemars(extend("examples" = ["~edge-[0-9]+"]))]
    pub id: Option<String>,
    /// Region in the node's locality.
    #[schemars(extend("examples" = ["eu-1"]))]
    pub region: Option<String>,
    /// Zone in the node's locality.
    #[schemars(extend("examples" = ["eu-1a"]))]
    pub zone: Option<String>,
    /// Texts in the node's metadata, by key.
    #[schemars(extend("examples" = [{ "tier": "front" }]))]
    pub metadata: BTreeMap<String, String>,
}
