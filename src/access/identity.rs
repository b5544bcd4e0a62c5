//! Verification of a client's node identity against its certificate.
//!
//! A node states its own id, cluster, locality and metadata, and the config that it gets depends on them. Where
//! clients present certificates, the subject alternative names must include the names that the rules derive
//! from the node: otherwise any Envoy could ask for the config, and the keys, of any other. A field of the node
//! that no rule derives a name from is bound by nothing, and fleets that it selects are sent no keys.

use std::str::FromStr;

use crate::access::certificate::CertificateNames;
use crate::envoy::node::{Node, NodeField, VouchedFields};

/// Rules for the names that a node's certificate must have, all of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdentityRules(Vec<IdentityRule>);

/// Rule for a name that a node's certificate must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityRule {
    /// Any name: the certificate authority alone vouches for what its clients say.
    Any,
    /// The name that the pattern makes of the node.
    Pattern(IdentityPattern),
}

/// Pattern of a name, with placeholders such as `{id}` and `{metadata.team}` for fields of a node.
///
/// Text stands between every two placeholders, so that a name can be read in one way only. Without a
/// placeholder, it is the same name for every node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityPattern {
    /// Text before the first placeholder.
    start: String,
    /// Placeholders, each with the text after it.
    fields: Vec<(NodeField, String)>,
}

impl FromStr for IdentityRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "any" => Ok(Self::Any),
            "san-equals-node-id" => "{id}".parse().map(Self::Pattern),
            "san-equals-node-cluster" => "{cluster}".parse().map(Self::Pattern),
            word if word.starts_with("san-equals-") => Err(format!(
                "`{word}` is no rule: write san-equals-node-id, san-equals-node-cluster, any, or a pattern such as \
                 spiffe://example.org/{{cluster}}/{{id}}"
            )),
            pattern => pattern.parse().map(Self::Pattern),
        }
    }
}

impl FromStr for IdentityPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split('{');
        let start = parts.next().unwrap_or_default().to_owned();
        let mut fields: Vec<(NodeField, String)> = Vec::new();
        for part in parts {
            let (word, after) =
                part.split_once('}').ok_or_else(|| format!("`{{{part}` has no closing brace"))?;
            let field = word.parse().map_err(|()| {
                format!("`{{{word}}}` is no field of a node: write {{id}}, {{cluster}}, {{region}}, {{zone}} or {{metadata.KEY}}")
            })?;
            if let Some((before, between)) = fields.last()
                && between.is_empty()
            {
                return Err(format!(
                    "`{{{before}}}{{{field}}}` could be read in two ways: put text between them"
                ));
            }
            fields.push((field, after.to_owned()));
        }
        Ok(Self { start, fields })
    }
}

impl IdentityPattern {
    /// Returns the name for a node.
    ///
    /// # Errors
    ///
    /// Fails if the node lacks a field, or if the name could be that of another node as well, since a field
    /// holds the text that ends it.
    fn name_of(&self, node: &Node) -> Result<String, String> {
        let mut name = self.start.clone();
        for (index, (field, after)) in self.fields.iter().enumerate() {
            let id = &node.id;
            let value = node.field(field).ok_or_else(|| {
                format!("the node `{id}` has no {field}, for which its certificate must vouch")
            })?;
            let is_last = index + 1 == self.fields.len();
            if !is_last && format!("{value}{after}").find(after) != Some(value.len()) {
                return Err(format!("the {field} `{value}` of the node `{id}` must not contain `{after}`"));
            }
            name.push_str(value);
            name.push_str(after);
        }
        Ok(name)
    }
}

impl FromIterator<IdentityRule> for IdentityRules {
    fn from_iter<I: IntoIterator<Item = IdentityRule>>(rules: I) -> Self {
        Self(rules.into_iter().collect())
    }
}

impl IdentityRules {
    /// Returns the rule that applies if the operator states none: the name is the node id.
    pub fn of_node_id() -> Self {
        let fields = vec![(NodeField::Id, String::new())];
        Self(vec![IdentityRule::Pattern(IdentityPattern { start: String::new(), fields })])
    }

    /// Returns the patterns; none if any certificate is fine.
    fn patterns(&self) -> impl Iterator<Item = &IdentityPattern> {
        self.0.iter().filter_map(|rule| match rule {
            IdentityRule::Any => None,
            IdentityRule::Pattern(pattern) => Some(pattern),
        })
    }

    /// True if a certificate may be that of any node.
    pub fn are_open(&self) -> bool {
        self.patterns().next().is_none()
    }

    /// Returns the fields for which a certificate vouches if the rules hold; all of them if the authority alone
    /// vouches.
    pub fn vouched(&self) -> VouchedFields {
        if self.are_open() {
            return VouchedFields::All;
        }
        let fields = self.patterns().flat_map(|pattern| &pattern.fields);
        VouchedFields::Only(fields.map(|(field, _)| field.clone()).collect())
    }

    /// Checks that a client whose certificate has these `names` may be this node.
    ///
    /// # Errors
    ///
    /// Returns the reason of the refusal, for the client and the log.
    pub fn check(&self, names: Option<&CertificateNames>, node: &Node) -> Result<(), String> {
        for pattern in self.patterns() {
            let wanted = pattern.name_of(node)?;
            let Node { id, cluster, .. } = node;
            match names {
                Some(names) if names.has(&wanted) => {}
                Some(names) => {
                    return Err(format!(
                        "the node `{id}` of cluster `{cluster}` must show a certificate for `{wanted}`; this one is \
                         for {names}"
                    ));
                }
                None => return Err(format!("the node `{id}` must show a certificate for `{wanted}`")),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str, cluster: &str) -> Node {
        Node { id: id.to_owned(), cluster: cluster.to_owned(), ..Node::default() }
    }

    fn rules(texts: &[&str]) -> IdentityRules {
        texts.iter().map(|text| text.parse::<IdentityRule>().expect("a rule")).collect()
    }

    fn names(texts: &[&str]) -> CertificateNames {
        CertificateNames::from_iter(texts.iter().map(ToString::to_string))
    }

    #[test]
    fn the_rule_makes_a_name_of_the_node() {
        let names = names(&["edge-1", "spiffe://example.org/edge/edge-1", "10.0.0.1"]);
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
            ("10.0.0.1", "edge-9", true),
            ("10.0.0.2", "edge-1", false),
        ];
        for (rule, id, fine) in cases {
            assert_eq!(rules(&[rule]).check(Some(&names), &node(id, "edge")).is_ok(), fine, "{rule} {id}");
        }
        let of_id = IdentityRules::of_node_id();
        assert_eq!(of_id, rules(&["san-equals-node-id"]));
        assert_eq!(
            of_id.check(Some(&CertificateNames::from_iter(["a".to_owned()])), &node("b", "edge")),
            Err("the node `b` of cluster `edge` must show a certificate for `b`; this one is for `a`"
                .to_owned())
        );
        assert!(of_id.check(None, &node("b", "edge")).is_err());
    }

    #[test]
    fn every_field_that_selects_can_be_bound() {
        let mut edge = node("edge-1", "west");
        edge.locality.region = "eu".to_owned();
        edge.locality.zone = "eu-1a".to_owned();
        edge.metadata = [("team".to_owned(), "shop".to_owned()), ("empty".to_owned(), String::new())].into();
        let check = |texts: &[&str], shown: &[&str], fine: bool| {
            let checked = rules(texts).check(Some(&names(shown)), &edge);
            assert_eq!(checked.is_ok(), fine, "{texts:?} {shown:?}: {checked:?}");
        };
        // All rules must hold, each by any of the names.
        check(&["{id}", "{cluster}"], &["edge-1", "west"], true);
        check(&["{id}", "{cluster}"], &["edge-1", "east"], false);
        check(&["{id}", "{cluster}"], &["west"], false);
        check(&["any", "{cluster}"], &["west"], true);
        check(&["any", "{cluster}"], &["edge-1"], false);
        check(&["x/{region}/{zone}"], &["x/eu/eu-1a"], true);
        check(&["x/{region}/{zone}"], &["x/eu/eu-1b"], false);
        check(&["{metadata.team}.teams.example"], &["shop.teams.example"], true);
        check(&["{metadata.team}.teams.example"], &["other.teams.example"], false);
        check(&["x{metadata.empty}"], &["x"], true);
        // A field that the node lacks is vouched for by no name.
        check(&["x{metadata.absent}"], &["x"], false);
        // A placeholder in a field is not expanded.
        let tricky = node("{cluster}", "edge");
        assert!(rules(&["{id}/{cluster}"]).check(Some(&names(&["edge/edge"])), &tricky).is_err());
        assert!(rules(&["{id}/{cluster}"]).check(Some(&names(&["{cluster}/edge"])), &tricky).is_ok());
    }

    #[test]
    fn a_name_is_that_of_one_node_only() {
        // A certificate that is made for `b/c` of cluster `a` must not be good for `c` of cluster `a/b`.
        let rule = rules(&["spiffe://x/{cluster}/{id}"]);
        let shown = names(&["spiffe://x/a/b/c"]);
        assert!(rule.check(Some(&shown), &node("b/c", "a")).is_ok());
        let refused = rule.check(Some(&shown), &node("c", "a/b")).expect_err("another reading");
        assert_eq!(refused, "the cluster `a/b` of the node `c` must not contain `/`");
        let rule = rules(&["{cluster}--{id}"]);
        let shown = names(&["a---b"]);
        let fine: Vec<bool> = [("a", "-b"), ("a-", "b")]
            .map(|(cluster, id)| rule.check(Some(&shown), &node(id, cluster)).is_ok())
            .into();
        assert_eq!(fine, [true, false]);
    }

    #[test]
    fn rules_that_cannot_be_meant_are_refused() {
        let refused = |text: &str| text.parse::<IdentityRule>().expect_err(text);
        assert!(refused("san-equals-id").contains("is no rule"));
        assert!(refused("{id").contains("no closing brace"));
        assert!(refused("{ID}").contains("{metadata.KEY}"));
        assert!(refused("{metadata.}").contains("{metadata.KEY}"));
        assert!(refused("{cluster}{id}").contains("in two ways"));
    }

    #[test]
    fn certificates_vouch_for_the_fields_in_the_rules() {
        let vouched = |texts: &[&str]| match rules(texts).vouched() {
            VouchedFields::All => "all".to_owned(),
            VouchedFields::Only(fields) => {
                fields.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
            }
        };
        for (texts, expected) in [
            (&["any"][..], "all"),
            (&["san-equals-node-id"], "id"),
            (&["any", "san-equals-node-id"], "id"),
            (&["san-equals-node-id", "san-equals-node-cluster"], "cluster id"),
            (&["x/{cluster}/{id}", "{metadata.team}.x"], "cluster id metadata.team"),
            (&["{region}/{zone}"], "region zone"),
            (&["the-same-for-all"], ""),
        ] {
            assert_eq!(vouched(texts), expected, "{texts:?}");
        }
    }
}
