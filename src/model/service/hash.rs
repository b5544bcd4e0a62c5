//! Hash keys: requests with equal keys should be sent to the same target.

use crate::config::document;
use crate::model::cookie::Cookie;
use crate::model::header;
use crate::model::place::{Faults, Place};

/// Input of the hash of a hashing load balancer (`ring_hash`, `maglev`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashBy {
    /// Value of a header, by its name in lower case.
    Header(String),
    /// Value of a cookie.
    Cookie(Cookie),
    /// Value of a query parameter, by its name.
    Query(String),
    /// Path without its query.
    Path,
    /// Source address of the client's connection.
    SourceIp,
}

impl HashBy {
    /// Returns its word in the config.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Header(_) => "header",
            Self::Cookie(_) => "cookie",
            Self::Query(_) => "query",
            Self::Path => "path",
            Self::SourceIp => "source_ip",
        }
    }
}

/// Resolves the declared hash keys and keeps their order of precedence.
pub(crate) fn resolve(
    place: &Place<'_>,
    declared: &[document::service::HashBy],
    faults: &mut Faults,
) -> Vec<HashBy> {
    let each = declared.iter().enumerate();
    each.map(|(index, one)| HashBy::resolve(&place.index(index), one, faults)).collect()
}

impl HashBy {
    fn resolve(place: &Place<'_>, declared: &document::service::HashBy, faults: &mut Faults) -> Self {
        match declared {
            document::service::HashBy::Header(name) => {
                header::name(&place.key("header"), name, faults);
                Self::Header(name.to_ascii_lowercase())
            }
            document::service::HashBy::Cookie(cookie) => {
                Self::Cookie(Cookie::resolve(&place.key("cookie"), cookie, faults))
            }
            document::service::HashBy::Query(name) => {
                if name.is_empty() {
                    let message = "a query parameter has a name".to_owned();
                    faults.wrong(&place.key("query"), message, "such as `query: user`".to_owned());
                }
                Self::Query(name.clone())
            }
            document::service::HashBy::Path => Self::Path,
            document::service::HashBy::SourceIp => Self::SourceIp,
        }
    }
}
