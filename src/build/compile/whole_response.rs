//! Upstream filters that hold a response until it is complete.
//!
//! A response that is cut off or stalls then counts as a request without a response: it is retried, and it
//! counts against the target.

use envoy_types::pb::envoy::config::core::v3::DataSource;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::extensions::filters::http::lua::v3::Lua;
use envoy_types::pb::envoy::extensions::filters::http::upstream_codec::v3::UpstreamCodec;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter,
};

use crate::build::compile::any;
use crate::config::document::upstream::Chunked;
use crate::model::upstream::WholeResponse;

/// Returns the upstream filters of the cluster that a route names. Envoy does not run the filters of an
/// aggregate's members.
pub(super) fn filters(settings: &WholeResponse) -> Vec<HttpFilter> {
    let source =
        DataSource { specifier: Some(Specifier::InlineString(script(settings))), ..Default::default() };
    let lua = Lua { default_source_code: Some(source), ..Default::default() };
    // The codec ends the filter chain, and must be listed explicitly when any filter is.
    vec![
        filter("whole_response", &lua),
        filter("envoy.filters.http.upstream_codec", &UpstreamCodec::default()),
    ]
}

fn filter<M: prost::Message + prost::Name>(name: &str, config: &M) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any(config))),
        ..Default::default()
    }
}

/// Returns the Lua script. `h:body()` returns when the body is complete. A response that declares more than
/// `max` bytes is not held, since Envoy would replace it with a 500.
fn script(WholeResponse { max, chunked }: &WholeResponse) -> String {
    let held = match chunked {
        Chunked::Pass => format!("n and n <= {max}"),
        // A 101 switches protocols; the data after it is not a response body.
        Chunked::Hold => format!("h:headers():get(\":status\") ~= \"101\" and (not n or n <= {max})"),
    };
    format!(
        "function envoy_on_response(h)\n  local n = tonumber(h:headers():get(\"content-length\") or \"\")\n  \
         if {held} then h:body() end\nend\n"
    )
}
