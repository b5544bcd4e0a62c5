//! Verification of a client's node identity against its certificate.
//!
//! A node states its own id and cluster, and the config that it gets depends on them. Where clients present
//! certificates, one of the subject alternative names must be the name that the rule derives from the node:
//! otherwise any Envoy could ask for the config, and the keys, of any other.

use std::convert::Infallible;
use std::str::FromStr;

use crate::access::certificate::CertificateNames;

/// Rule for the name that a node's certificate must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityRule {
    /// Any name: the certificate authority alone decides which clients may connect.
    Any,
    /// This name, with `{id}` replaced by the node's id and `{cluster}` by its cluster.
    Pattern(String),
}

impl FromStr for IdentityRule {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "any" => Self::Any,
            "san-equals-node-id" => Self::Pattern("{id}".to_owned()),
            "san-equals-node-cluster" => Self::Pattern("{cluster}".to_owned()),
            pattern => Self::Pattern(pattern.to_owned()),
        })
    }
}

impl IdentityRule {
    /// Checks that a client whose certificate has these `names` may be this node.
    ///
    /// # Errors
    ///
    /// Returns the reason of the refusal, for the client and the log.
    pub fn check(&self, names: Option<&CertificateNames>, id: &str, cluster: &str) -> Result<(), String> {
        let Self::Pattern(pattern) = self else { return Ok(()) };
        // Split first, so that an id that contains `{cluster}` is not expanded.
        let parts = pattern.split("{id}").map(|part| part.replace("{cluster}", cluster));
        let wanted = parts.collect::<Vec<_>>().join(id);
        match names {
            Some(names) if names.has(&wanted) => Ok(()),
            Some(names) => Err(format!(
                "the node `{id}` of cluster `{cluster}` must show a certificate for `{wanted}`; this one is for {names}"
            )),
            None => Err(format!("the node `{id}` must show a certificate for `{wanted}`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_makes_a_name_of_the_node() {
        let names = CertificateNames::from_iter(
            ["edge-1", "spiffe://example.org/edge/edge-1", "10.0.0.1"].map(str::to_owned),
        );
        let cases = [
            ("any", "edge-9", true),
            ("san-equals-node-id", "edge-1", true),
            ("san-equals-node-id", "edge-2", false),
            ("san-equals-node-id", "edge-", false),
            ("san-equals-node-id", "", false),
            ("spiffe://example.org/{cluster}/{id}", "edge-1", true),
            ("spiffe://example.org/{cluster}/{id}", "edge-2", false),
            ("san-equals-node-cluster", "edge-1", false),
            ("{id}", "10.0.0.1", true),
        ];
        for (rule, id, fine) in cases {
            let parsed: IdentityRule = rule.parse().expect("any text is a rule");
            assert_eq!(parsed.check(Some(&names), id, "edge").is_ok(), fine, "{rule} {id}");
        }
        let rule = IdentityRule::Pattern("{id}".to_owned());
        assert_eq!(
            rule.check(Some(&CertificateNames::from_iter(["a".to_owned()])), "b", "edge"),
            Err("the node `b` of cluster `edge` must show a certificate for `b`; this one is for `a`"
                .to_owned())
        );
        assert!(rule.check(None, "b", "edge").is_err());
        // A placeholder in an id is not expanded.
        let rule = IdentityRule::Pattern("{id}/{cluster}".to_owned());
        assert!(
            rule.check(Some(&CertificateNames::from_iter(["edge/edge".to_owned()])), "{cluster}", "edge")
                .is_err()
        );
    }
}
