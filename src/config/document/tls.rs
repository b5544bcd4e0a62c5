//! TLS to targets, of an upstream or of one target.

use std::fmt;

use schemars::JsonSchema;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

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
    /// target's address; `any`: whatever names, if the CA signed it.
    #[schemars(extend("default" = [], "examples" = [["shop.example.com"], "any"]))]
    pub verify_names: Option<VerifyNames>,
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

/// Names that a certificate may have.
#[derive(Debug, Clone, PartialEq)]
pub enum VerifyNames {
    /// Whatever names, written `any`.
    Any,
    /// One of these.
    Listed(Vec<String>),
}

impl<'de> Deserialize<'de> for VerifyNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyOrList;
        impl<'de> Visitor<'de> for AnyOrList {
            type Value = VerifyNames;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`any` or a list of names")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<VerifyNames, E> {
                match text {
                    "any" => Ok(VerifyNames::Any),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<VerifyNames, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(VerifyNames::Listed)
            }
        }
        deserializer.deserialize_any(AnyOrList)
    }
}
