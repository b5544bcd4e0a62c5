//! Which node a client's certificate lets it say it is.
//!
//! A node says of itself who it is, and what it is told depends on that. Where clients show certificates, one of
//! the subject alternative names must be the one that the rule makes of the node: otherwise any Envoy could ask
//! for the config, and the keys, of any other.

use std::convert::Infallible;
use std::str::FromStr;

use crate::access::tls::Names;

/// The name that a node's certificate must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// Any: the authority alone decides who may connect.
    Any,
    /// This one, with the node's id in the place of `{id}` and its cluster in that of `{cluster}`.
    Pattern(String),
}

impl FromStr for Rule {
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

impl Rule {
    /// Why a client whose certificate is for `names` may not be this node.
    ///
    /// # Errors
    ///
    /// With the reason, for the client and the log.
    pub fn check(&self, names: Option<&Names>, id: &str, cluster: &str) -> Result<(), String> {
        let Self::Pattern(pattern) = self else { return Ok(()) };
        // In one go: an id that holds `{cluster}` is not looked at again.
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
        let names =
            Names::from_iter(["edge-1", "spiffe://example.org/edge/edge-1", "10.0.0.1"].map(str::to_owned));
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
            let parsed: Rule = rule.parse().expect("any text is a rule");
            assert_eq!(parsed.check(Some(&names), id, "edge").is_ok(), fine, "{rule} {id}");
        }
        let rule = Rule::Pattern("{id}".to_owned());
        assert_eq!(
            rule.check(Some(&Names::from_iter(["a".to_owned()])), "b", "edge"),
            Err("the node `b` of cluster `edge` must show a certificate for `b`; this one is for `a`"
                .to_owned())
        );
        assert!(rule.check(None, "b", "edge").is_err());
        // An id cannot reach into the pattern.
        let rule = Rule::Pattern("{id}/{cluster}".to_owned());
        assert!(rule.check(Some(&Names::from_iter(["edge/edge".to_owned()])), "{cluster}", "edge").is_err());
    }
}
