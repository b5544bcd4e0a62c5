//! Answers that Envoy gives by itself: redirects, and fixed ones.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::route::v3 as envoy;
use envoy_types::pb::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use envoy_types::pb::google::protobuf::UInt32Value;

use crate::compile::route::header;
use crate::compile::uint32;
use crate::config::document::route::Scheme;
use crate::model::route::Route;
use crate::model::route::action::{Action, Redirect, Respond};

/// Envoy's default for the longest body of a fixed answer.
const ENVOYS_LONGEST: usize = 4096;

/// `route` as one that sends clients elsewhere.
pub(super) fn redirect(route: envoy::Route, redirect: &Redirect) -> envoy::Route {
    let code = match redirect.status {
        302 => RedirectResponseCode::Found,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        _ => RedirectResponseCode::MovedPermanently,
    };
    let scheme = redirect.scheme.map(|scheme| match scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    });
    let action = envoy::RedirectAction {
        host_redirect: redirect.host.clone().unwrap_or_default(),
        response_code: code.into(),
        scheme_rewrite_specifier: scheme
            .map(|scheme| SchemeRewriteSpecifier::SchemeRedirect(scheme.to_owned())),
        path_rewrite_specifier: redirect.path.clone().map(PathRewriteSpecifier::PathRedirect),
        ..Default::default()
    };
    envoy::Route { action: Some(envoy::route::Action::Redirect(action)), ..route }
}

/// `route` as one that is answered with this. Its headers come before those that the route adds to answers, so
/// that the route has the last word.
pub(super) fn respond(route: envoy::Route, respond: &Respond) -> envoy::Route {
    let body = (!respond.body.is_empty()).then(|| core::DataSource {
        specifier: Some(Specifier::InlineString(respond.body.clone())),
        ..Default::default()
    });
    let action = envoy::DirectResponseAction { status: respond.status.into(), body, ..Default::default() };
    let headers = respond.headers.iter().map(|(name, value)| header::set(name, value));
    envoy::Route {
        action: Some(envoy::route::Action::DirectResponse(action)),
        response_headers_to_add: headers.chain(route.response_headers_to_add).collect(),
        ..route
    }
}

/// In bytes, of the answer that a route gives itself.
pub(super) fn body_length(route: &Route) -> usize {
    match &route.action {
        Action::Respond(respond) => respond.body.len(),
        Action::Forward(_) | Action::Redirect(_) => 0,
    }
}

/// The longest of these bodies, where it is longer than what Envoy takes without being told.
pub(super) fn longest_body(lengths: impl Iterator<Item = usize>) -> Option<UInt32Value> {
    let longest = lengths.max().filter(|longest| *longest > ENVOYS_LONGEST)?;
    Some(uint32(u32::try_from(longest).unwrap_or(u32::MAX)))
}
