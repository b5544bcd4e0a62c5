//! Responses that Envoy sends itself: redirects and fixed responses.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::route::v3 as envoy;
use envoy_types::pb::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use envoy_types::pb::google::protobuf::UInt32Value;

use crate::build::compile::route::rewrite::PathChange;
use crate::build::compile::route::{header, rewrite};
use crate::build::compile::uint32;
use crate::config::document::route::Scheme;
use crate::model::path_match::PathMatch;
use crate::model::route::Route;
use crate::model::route::action::{Redirect, Respond, RouteAction};
use crate::model::route::rewrite::Rewrite;

/// Default of Envoy for the maximum body of a direct response, in bytes.
const ENVOYS_LONGEST: usize = 4096;

/// Returns `route` with a redirect as its action.
pub(super) fn redirect(route: envoy::Route, redirect: &Redirect, path: &PathMatch) -> envoy::Route {
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
        path_rewrite_specifier: redirect.path.as_ref().map(|change| path_rewrite(change, path)),
        ..Default::default()
    };
    envoy::Route { action: Some(envoy::route::Action::Redirect(action)), ..route }
}

fn path_rewrite(change: &Rewrite, path: &PathMatch) -> PathRewriteSpecifier {
    match change {
        Rewrite::Path(path) => PathRewriteSpecifier::PathRedirect(path.clone()),
        Rewrite::Prefix(_) | Rewrite::Regex { .. } => match rewrite::change(change, path) {
            PathChange::Prefix(prefix) => PathRewriteSpecifier::PrefixRewrite(prefix),
            PathChange::Regex(regex) => PathRewriteSpecifier::RegexRewrite(regex),
        },
    }
}

/// Returns `route` with a fixed response as its action. The headers of the response precede those that the
/// route adds, so that the route can overwrite them.
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

/// Returns the length of the body of a route's fixed response, in bytes; 0 for other actions.
pub(super) fn body_length(route: &Route) -> usize {
    match &route.action {
        RouteAction::Respond(respond) => respond.body.len(),
        RouteAction::Forward(_) | RouteAction::Redirect(_) => 0,
    }
}

/// Returns the longest of these lengths if it is above Envoy's default maximum.
pub(super) fn longest_body(lengths: impl Iterator<Item = usize>) -> Option<UInt32Value> {
    let longest = lengths.max().filter(|longest| *longest > ENVOYS_LONGEST)?;
    Some(uint32(u32::try_from(longest).unwrap_or(u32::MAX)))
}
