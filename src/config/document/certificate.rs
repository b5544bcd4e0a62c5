//! `certificates`: the certificates that Envoys present, and their keys.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::material::Material;

/// A certificate that Envoys present, to clients or to targets.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["name", "certificate", "key"]))]
pub struct Certificate {
    /// Name, unique among certificates over all files and REST.
    #[schemars(extend(
        "examples" = ["shop"], "minLength" = 1, "pattern" = "^[A-Za-z0-9_][A-Za-z0-9_.-]*$"
    ))]
    pub name: Option<String>,
    /// Certificate chain in PEM, the leaf first.
    #[schemars(extend("examples" = [{ "file": "shop.pem" }]))]
    pub certificate: Option<Material>,
    /// Private key of the leaf in PEM.
    #[schemars(extend("examples" = [{ "file": "shop.key" }]))]
    pub key: Option<Material>,
    /// Words to find the certificate by.
    #[schemars(extend("examples" = [["shop"]]))]
    pub tags: Vec<String>,
}
