//! Access logs of listeners.

use envoy_types::pb::envoy::config::accesslog::v3 as envoy;
use envoy_types::pb::envoy::config::accesslog::v3::access_log::ConfigType;
use envoy_types::pb::envoy::config::core::v3::{SubstitutionFormatString, substitution_format_string};
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log};
use envoy_types::pb::google::protobuf::{Struct, Value, value};

use crate::build::compile::any;
use crate::config::document::listener::LogFormat;
use crate::model::listener::Listener;

/// Fields of every log line, of requests and connections alike, with their Envoy format commands: the target
/// that served and the reason of its failure, as needed after a failover.
const OF_ALL: [(&str, &str); 10] = [
    ("time", "%START_TIME%"),
    ("duration_ms", "%DURATION%"),
    ("flags", "%RESPONSE_FLAGS%"),
    ("client", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("sni", "%REQUESTED_SERVER_NAME%"),
    ("upstream", "%UPSTREAM_CLUSTER%"),
    ("target", "%UPSTREAM_HOST%"),
    ("target_failure", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
];

const OF_REQUESTS: [(&str, &str); 10] = [
    ("method", "%REQUEST_HEADER(:METHOD)%"),
    ("host", "%REQUEST_HEADER(:AUTHORITY)%"),
    ("path", "%REQUEST_HEADER(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("status", "%RESPONSE_CODE%"),
    ("status_details", "%RESPONSE_CODE_DETAILS%"),
    ("attempts", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"),
    ("route", "%ROUTE_NAME%"),
    ("request_id", "%REQUEST_HEADER(X-REQUEST-ID)%"),
    ("user_agent", "%REQUEST_HEADER(USER-AGENT)%"),
];

/// Returns the access log of a listener; empty if it has none.
pub(crate) fn compile(listener: &Listener) -> Vec<envoy::AccessLog> {
    let log = |log: &crate::model::listener::AccessLog| {
        let format = match log.format {
            LogFormat::Json => Some(json(listener.is_http())),
            LogFormat::Text => None,
        };
        let file = FileAccessLog { path: log.path.clone(), access_log_format: format };
        envoy::AccessLog {
            name: "envoy.access_loggers.file".to_owned(),
            config_type: Some(ConfigType::TypedConfig(any(&file))),
            ..Default::default()
        }
    };
    listener.access_log.iter().map(log).collect()
}

fn json(has_requests: bool) -> file_access_log::AccessLogFormat {
    let of_requests: &[_] = if has_requests { &OF_REQUESTS } else { &[] };
    let field = |(name, command): &(&str, &str)| {
        let value = Value { kind: Some(value::Kind::StringValue((*command).to_owned())) };
        ((*name).to_owned(), value)
    };
    let fields = OF_ALL.iter().chain(of_requests).map(field).collect();
    file_access_log::AccessLogFormat::LogFormat(SubstitutionFormatString {
        format: Some(substitution_format_string::Format::JsonFormat(Struct { fields })),
        ..Default::default()
    })
}
