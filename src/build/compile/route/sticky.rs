//! Sticky sessions: clients return to the target that served them before.
//!
//! Every listener has the filter, disabled; only the routes to a sticky upstream enable it. Stickiness can
//! thus be switched without changing a listener, which would close the connections of clients.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::filters::http::stateful_session::v3 as filter;
use envoy_types::pb::envoy::extensions::filters::http::stateful_session::v3::stateful_session_per_route::Override;
use envoy_types::pb::envoy::extensions::http::stateful_session::cookie::v3::CookieBasedSessionState;
use envoy_types::pb::envoy::extensions::http::stateful_session::header::v3::HeaderBasedSessionState;
use envoy_types::pb::envoy::r#type::http::v3 as http;
use envoy_types::pb::google::protobuf::Any;

use crate::build::compile::{STATEFUL_SESSION, any, duration};
use crate::model::upstream::Sticky;

/// Returns the per-route filter settings for an upstream; empty if it is not sticky. The session is never
/// strict: a strict one is answered with 503 while other targets could serve.
pub(super) fn filters(sticky: Option<&Sticky>) -> HashMap<String, Any> {
    let Some(sticky) = sticky else { return HashMap::new() };
    let session = filter::StatefulSession { session_state: Some(state(sticky)), ..Default::default() };
    let per_route = filter::StatefulSessionPerRoute { r#override: Some(Override::StatefulSession(session)) };
    [(STATEFUL_SESSION.to_owned(), any(&per_route))].into()
}

fn state(sticky: &Sticky) -> core::TypedExtensionConfig {
    let (name, config) = match sticky {
        Sticky::Cookie(cookie) => {
            let cookie = http::Cookie {
                name: cookie.name.clone(),
                ttl: cookie.ttl.map(duration),
                path: cookie.path.clone(),
                ..Default::default()
            };
            ("cookie", any(&CookieBasedSessionState { cookie: Some(cookie) }))
        }
        Sticky::Header(name) => ("header", any(&HeaderBasedSessionState { name: name.clone() })),
    };
    core::TypedExtensionConfig {
        name: format!("envoy.http.stateful_session.{name}"),
        typed_config: Some(config),
    }
}
