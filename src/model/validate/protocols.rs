//! Validation of protocols: whether those of listeners, services and upstreams fit together, and whether the
//! fields of an entity have a meaning for its protocol.

use crate::config::code;
use crate::config::document::upstream::UpstreamProtocol;
use crate::config::{Path, Step};
use crate::model::place::FaultPlace;
use crate::model::service::hash::HashBy;
use crate::model::service::{Member, Service};
use crate::model::upstream::Upstream;
use crate::model::validate::context::Validation;

/// Fields of an upstream that apply to requests only.
const OF_REQUESTS: [&[&str]; 4] =
    [&["idle_timeout"], &["limits", "requests_per_connection"], &["sticky"], &["whole_response"]];

/// Fields of a service that apply to connections too; all others apply to requests only.
const OF_CONNECTIONS: [&str; 6] = ["name", "upstream", "upstreams", "retries", "hash_by", "tags"];

/// Fields of the retries of a service that apply to connections too.
const RETRIES_OF_CONNECTIONS: [&str; 2] = ["attempts", "back_off"];

/// Reports settings of an upstream that do not fit its protocol.
pub(super) fn check_upstream(validation: &mut Validation<'_>, place: &FaultPlace<'_>, upstream: &Upstream) {
    match upstream.protocol {
        UpstreamProtocol::Auto if !upstream.is_tls_throughout() => {
            let message = "`auto` is agreed on by ALPN, which is a part of TLS".to_owned();
            let help = "say `tls: {}`, or choose `http1` or `http2`".to_owned();
            validation.faults.error(&place.key("protocol"), code::PROTOCOL, message, help);
        }
        UpstreamProtocol::Tcp => {
            for keys in OF_REQUESTS {
                let field = keys.iter().fold(place.clone(), |place, key| place.key(key));
                report_without_meaning(validation, &field);
            }
        }
        _ => {}
    }
}

/// Reports settings of a service for TCP connections that apply to requests only.
pub(super) fn check_service(
    validation: &mut Validation<'_>,
    place: &FaultPlace<'_>,
    members: &[Member],
    hash_by: &[HashBy],
) {
    let is_tcp = |member: &Member| member.upstream.protocol == UpstreamProtocol::Tcp;
    if !members.iter().any(is_tcp) {
        return;
    }
    if !members.iter().all(is_tcp) {
        let message = "some of these upstreams are for connections, and some for requests".to_owned();
        let help = "give all of them `protocol: tcp`, or none".to_owned();
        validation.faults.error(&place.key("upstreams"), code::PROTOCOL, message, help);
        return;
    }
    for (index, by) in hash_by.iter().enumerate().filter(|(_, by)| **by != HashBy::SourceIp) {
        let place = place.key("hash_by").index(index);
        let message = format!("a connection has no {}", by.word());
        validation.faults.error(&place, code::CONFLICT, message, "the only one is `source_ip`".to_owned());
    }
    let retries = place.key("retries");
    for field in fields(place).into_iter().filter(|field| !OF_CONNECTIONS.contains(&field.as_str())) {
        report_without_meaning(validation, &place.key(&field));
    }
    for field in fields(&retries) {
        if !RETRIES_OF_CONNECTIONS.contains(&field.as_str()) {
            report_without_meaning(validation, &retries.key(&field));
        }
    }
}

/// Reports a service whose upstreams do not accept connections, or add TLS to connections that are TLS
/// already.
pub(super) fn require_connections(
    validation: &mut Validation<'_>,
    place: &FaultPlace<'_>,
    service: &Service,
    is_tls: bool,
) {
    let not_tcp = service.upstreams().find(|upstream| upstream.protocol != UpstreamProtocol::Tcp);
    let in_tls = service.upstreams().find(|upstream| is_tls && upstream.is_tls());
    if let Some(upstream) = not_tcp {
        let message = format!("the upstream `{}` is for requests, not for connections", upstream.name);
        let help = "give the upstream `protocol: tcp`".to_owned();
        validation.faults.error(place, code::PROTOCOL, message, help);
    } else if let Some(upstream) = in_tls {
        let message =
            format!("the connections are TLS already, and the upstream `{}` has `tls`", upstream.name);
        let help = "leave out the `tls` of the upstream and of its targets".to_owned();
        validation.faults.error(place, code::PROTOCOL, message, help);
    }
}

/// Reports a service for requests that has an upstream for TCP connections.
pub(super) fn require_requests(validation: &mut Validation<'_>, place: &FaultPlace<'_>, service: &Service) {
    if let Some(upstream) = service.upstreams().find(|it| it.protocol == UpstreamProtocol::Tcp) {
        let message = format!("the upstream `{}` is for connections, not for requests", upstream.name);
        let help = "give the upstream `protocol: http1`, or the service to a listener of protocol tcp";
        validation.faults.error(place, code::PROTOCOL, message, help.to_owned());
    }
}

/// Reports a field that has no meaning for TCP, if it is declared.
fn report_without_meaning(validation: &mut Validation<'_>, place: &FaultPlace<'_>) {
    if !is_declared(place) {
        return;
    }
    let message = format!("{} is about requests, and TCP has none", last(&place.path));
    validation.faults.error(place, code::CONFLICT, message, "leave it out".to_owned());
}

/// Returns the fields that are present, whatever their values.
pub(super) fn fields(place: &FaultPlace<'_>) -> Vec<String> {
    match place.document.json(&place.path) {
        serde_json::Value::Object(fields) => fields.into_iter().map(|(key, _)| key).collect(),
        _ => Vec::new(),
    }
}

/// True if the value at `place` differs from an absent one.
pub(super) fn is_declared(place: &FaultPlace<'_>) -> bool {
    match place.document.json(&place.path) {
        serde_json::Value::Null | serde_json::Value::Bool(false) => false,
        serde_json::Value::Array(items) => !items.is_empty(),
        serde_json::Value::Object(fields) => !fields.is_empty(),
        serde_json::Value::String(text) => text != "off",
        _ => true,
    }
}

fn last(path: &Path) -> String {
    match path.0.last() {
        Some(Step::Key(key)) => format!("`{key}`"),
        _ => "this".to_owned(),
    }
}
