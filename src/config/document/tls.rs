//! TLS to targets, of an upstream or of one target.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::material::Ca;

/// TLS to targets. For one target, an absent field is the upstream's, where that has TLS.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// Server name to ask for. Absent: the target's host name; none for an address.
    #[schemars(extend("examples" = ["shop.example.com"]))]
    pub sni: Option<String>,
    /// CA that must have signed the target's certificate; `system` is the bundle of the Envoy's machine.
    #[schemars(extend("default" = Tls::CA, "examples" = [{ "file": "ca.pem" }]))]
    pub ca: Option<Ca>,
    /// Names of which the target's certificate must have one; empty: the server name that is asked for, or the
    /// target's address.
    #[schemars(extend("default" = [], "examples" = [["shop.example.com"]]))]
    pub verify_names: Option<Vec<String>>,
    /// Name of the certificate that Envoy presents to targets. Absent: none.
    #[schemars(extend("examples" = ["edge"]))]
    pub client_certificate: Option<String>,
    /// Acceptance of any certificate, without verification.
    #[schemars(extend("default" = Tls::INSECURE))]
    pub insecure: Option<bool>,
}

impl Tls {
    /// Default of `ca`: the bundle of the machine on which Envoy runs.
    pub const CA: &str = "system";
    /// Default of `insecure`.
    pub const INSECURE: bool = false;
}
