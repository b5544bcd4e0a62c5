//! Cookies that lead a client to the target that served it before.

use std::time::Duration;

use crate::config::document;
use crate::model::place::{Faults, Place};

/// Cookie of a sticky upstream or of a hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cookie {
    /// Name; an HTTP token.
    pub name: String,
    /// Lifetime in whole seconds; zero for a session cookie. `None` if it is not declared.
    pub ttl: Option<Duration>,
    /// Path below which a browser sends it; begins with `/`.
    pub path: String,
}

impl Cookie {
    pub(crate) fn resolve(
        place: &Place<'_>,
        declared: &document::cookie::Cookie,
        faults: &mut Faults,
    ) -> Self {
        let name = declared.name.clone().unwrap_or_default();
        if declared.name.is_none() {
            faults.missing(&place.key("name"), "`name`", "name the cookie, such as `name: route`");
        } else if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            let help = "letters, digits and a few signs such as - and _".to_owned();
            faults.wrong(&place.key("name"), format!("`{name}` is not the name of a cookie"), help);
        }
        let ttl = declared.ttl.map(|ttl| ttl.0);
        if ttl.is_some_and(|ttl| ttl.subsec_nanos() > 0) {
            let message = "browsers count the life of a cookie in seconds".to_owned();
            faults.wrong(&place.key("ttl"), message, "whole seconds".to_owned());
        }
        let path = declared.path.clone().unwrap_or_else(|| document::cookie::Cookie::PATH.to_owned());
        if !path.starts_with('/') || !path.chars().all(|c| c.is_ascii_graphic() && c != ';') {
            let message = format!("`{path}` is not the path of a cookie");
            faults.wrong(&place.key("path"), message, "begin it with /".to_owned());
        }
        Self { name, ttl, path }
    }
}
