//! The upstream filters that pass an answer on only when it is whole.
//!
//! A cut or a stall is then one of a request that was not answered yet, so that it is tried again and counts
//! against the target.

use envoy_types::pb::envoy::config::core::v3::DataSource;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::extensions::filters::http::lua::v3::Lua;
use envoy_types::pb::envoy::extensions::filters::http::upstream_codec::v3::UpstreamCodec;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter,
};

use crate::compile::any;
use crate::config::document::upstream::Chunked;
use crate::model::upstream::WholeResponse;

/// The filters of the cluster that a route names; those of the members of an aggregate are not asked.
pub(super) fn filters(settings: &WholeResponse) -> Vec<HttpFilter> {
    let source =
        DataSource { specifier: Some(Specifier::InlineString(script(settings))), ..Default::default() };
    let lua = Lua { default_source_code: Some(source), ..Default::default() };
    // The codec ends the chain, and must be named when anything is.
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

/// `body` returns when the whole of it is there. One that is too large would become a 500.
fn script(WholeResponse { max, chunked }: &WholeResponse) -> String {
    let held = match chunked {
        Chunked::Pass => format!("n and n <= {max}"),
        // What follows a 101 is no answer.
        Chunked::Hold => format!("h:headers():get(\":status\") ~= \"101\" and (not n or n <= {max})"),
    };
    format!(
        "function envoy_on_response(h)\n  local n = tonumber(h:headers():get(\"content-length\") or \"\")\n  \
         if {held} then h:body() end\nend\n"
    )
}
