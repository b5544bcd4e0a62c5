//! Hash policies for load balancers that hash requests.

use envoy_types::pb::envoy::config::route::v3::route_action::HashPolicy;
use envoy_types::pb::envoy::config::route::v3::route_action::hash_policy::{
    ConnectionProperties, Cookie, Header, PolicySpecifier, QueryParameter,
};
use envoy_types::pb::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;

use crate::build::compile::duration;
use crate::build::compile::route::matching::regex;
use crate::model::service::hash::HashBy;

/// Returns one hash policy. It is terminal: later policies apply only if the request lacks what this one
/// hashes.
pub(super) fn policy(by: &HashBy) -> HashPolicy {
    let specifier = match by {
        HashBy::Header(name) => header(name, None),
        // Envoy's `:path` includes the query, which is removed here.
        HashBy::Path => header(":path", Some((r"^([^?]*)\?.*$", r"\1"))),
        HashBy::Cookie(cookie) => PolicySpecifier::Cookie(Cookie {
            name: cookie.name.clone(),
            ttl: cookie.ttl.map(duration),
            path: cookie.path.clone(),
            ..Default::default()
        }),
        HashBy::Query(name) => PolicySpecifier::QueryParameter(QueryParameter { name: name.clone() }),
        HashBy::SourceIp => PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true }),
    };
    HashPolicy { terminal: true, policy_specifier: Some(specifier) }
}

fn header(name: &str, rewrite: Option<(&str, &str)>) -> PolicySpecifier {
    let regex_rewrite = rewrite.map(|(pattern, substitution)| RegexMatchAndSubstitute {
        pattern: Some(regex(pattern)),
        substitution: substitution.to_owned(),
    });
    PolicySpecifier::Header(Header { header_name: name.to_owned(), regex_rewrite })
}
