//! Transport sockets for TLS, downstream and upstream.
//!
//! Keys and certificates are not embedded but referenced: they come by SDS, so that a renewal changes neither
//! a listener nor a cluster.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::cluster::v3::cluster::TransportSocketMatch;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType;
use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as envoy;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::google::protobuf::{BoolValue, Struct, Value, value};

use crate::build::compile::{ads, any};
use crate::build::snapshot::resource::Resource;
use crate::config::document::upstream::UpstreamProtocol;
use crate::model::listener::Termination;
use crate::model::target::Target;
use crate::model::tls::{Sni, SubjectName, TargetTls, Trust, UpstreamTls, Verify};
use crate::model::upstream::Upstream;

/// Path of the system's CA bundle on Debian, Ubuntu and in Envoy's own images. `system_root_certs`, which
/// would need no path, is in Envoy's API but not implemented.
const SYSTEM_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Endpoint metadata that selects the transport socket: the filter's name and the key in it.
const MATCH: (&str, &str) = ("envoy.transport_socket_match", "tls");

/// Returns the transport socket of a listener that terminates TLS.
pub(crate) fn downstream(termination: &Termination, alpn: &[&str]) -> core::TransportSocket {
    let client_ca = termination.client_ca.as_ref();
    let context = envoy::DownstreamTlsContext {
        common_tls_context: Some(envoy::CommonTlsContext {
            // Envoy chooses among them by SNI; the first serves any other name.
            tls_certificate_sds_secret_configs: termination
                .certificates
                .iter()
                .map(|certificate| by_sds(certificate.name.as_str()))
                .collect(),
            alpn_protocols: alpn.iter().map(ToString::to_string).collect(),
            validation_context_type: client_ca
                .map(|ca| ValidationContextType::ValidationContextSdsSecretConfig(by_sds(&ca.secret))),
            ..Default::default()
        }),
        require_client_certificate: client_ca.is_some().then_some(BoolValue { value: true }),
        ..Default::default()
    };
    socket("tls", any(&context))
}

/// Returns the transport socket for targets without TLS settings of their own, and the sockets of the other
/// `targets`, selected by endpoint metadata.
pub(crate) fn to_targets(
    upstream: &Upstream,
    targets: &[Target],
) -> (Option<core::TransportSocket>, Vec<TransportSocketMatch>) {
    let others: BTreeMap<String, core::TransportSocket> =
        targets.iter().filter_map(|target| own_socket(&target.tls, upstream.protocol)).collect();
    let matches = others.into_iter().map(|(key, socket)| TransportSocketMatch {
        name: key.clone(),
        r#match: Some(selection(&key)),
        transport_socket: Some(socket),
    });
    let own = upstream.tls.as_ref().map(|tls| client(tls, upstream.protocol));
    (own, matches.collect())
}

/// Returns the endpoint metadata that selects the socket of a target; none for a target without TLS settings
/// of its own.
pub(crate) fn metadata(target: &TargetTls, protocol: UpstreamProtocol) -> Option<core::Metadata> {
    let (key, _) = own_socket(target, protocol)?;
    let filter_metadata = [(MATCH.0.to_owned(), selection(&key))].into();
    Some(core::Metadata { filter_metadata, ..Default::default() })
}

/// Returns the socket of a target with TLS settings of its own, and its key. Equal sockets have equal keys.
fn own_socket(target: &TargetTls, protocol: UpstreamProtocol) -> Option<(String, core::TransportSocket)> {
    match target {
        TargetTls::AsUpstream => None,
        TargetTls::Plain => Some(("plain".to_owned(), socket("raw_buffer", any(&RawBuffer {})))),
        TargetTls::Own(tls) => {
            let socket = client(tls, protocol);
            // The key depends on the content alone: a target's socket must not change when another target
            // comes or goes.
            let key = Resource::new("", &socket).version.to_string();
            Some((key, socket))
        }
    }
}

fn selection(key: &str) -> Struct {
    let value = Value { kind: Some(value::Kind::StringValue(key.to_owned())) };
    Struct { fields: [(MATCH.1.to_owned(), value)].into() }
}

fn client(tls: &UpstreamTls, protocol: UpstreamProtocol) -> core::TransportSocket {
    let alpn: &[&str] = if protocol == UpstreamProtocol::Http2 { &["h2"] } else { &[] };
    let context = envoy::UpstreamTlsContext {
        sni: match &tls.sni {
            Sni::Name(name) => name.clone(),
            Sni::Host | Sni::None => String::new(),
        },
        auto_host_sni: tls.sni == Sni::Host,
        auto_sni_san_validation: tls.verify == Verify::Sni && tls.trust != Trust::Anything,
        common_tls_context: Some(envoy::CommonTlsContext {
            tls_certificate_sds_secret_configs: tls
                .client_certificate
                .iter()
                .map(|certificate| by_sds(certificate.name.as_str()))
                .collect(),
            alpn_protocols: alpn.iter().map(ToString::to_string).collect(),
            validation_context_type: validation(tls),
            ..Default::default()
        }),
        ..Default::default()
    };
    socket("tls", any(&context))
}

fn validation(tls: &UpstreamTls) -> Option<ValidationContextType> {
    let names = match &tls.verify {
        Verify::Sni | Verify::Any => Vec::new(),
        Verify::Names(names) => names.iter().map(subject_name).collect(),
    };
    let context =
        envoy::CertificateValidationContext { match_typed_subject_alt_names: names, ..Default::default() };
    match &tls.trust {
        Trust::Anything => None,
        Trust::System => {
            let bundle = core::data_source::Specifier::Filename(SYSTEM_BUNDLE.to_owned());
            let trusted_ca = Some(core::DataSource { specifier: Some(bundle), ..Default::default() });
            let context = envoy::CertificateValidationContext { trusted_ca, ..context };
            Some(ValidationContextType::ValidationContext(context))
        }
        Trust::Authority(authority) => {
            Some(ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
                default_validation_context: Some(context),
                validation_context_sds_secret_config: Some(by_sds(&authority.secret)),
                ..Default::default()
            }))
        }
    }
}

fn subject_name(name: &SubjectName) -> envoy::SubjectAltNameMatcher {
    let (san_type, text) = match name {
        SubjectName::Dns(name) => (SanType::Dns, name.clone()),
        SubjectName::Ip(ip) => (SanType::IpAddress, ip.to_string()),
        SubjectName::Uri(uri) => (SanType::Uri, uri.clone()),
    };
    envoy::SubjectAltNameMatcher {
        san_type: san_type.into(),
        matcher: Some(StringMatcher { match_pattern: Some(MatchPattern::Exact(text)), ..Default::default() }),
        ..Default::default()
    }
}

fn by_sds(name: &str) -> envoy::SdsSecretConfig {
    envoy::SdsSecretConfig { name: name.to_owned(), sds_config: Some(ads()) }
}

fn socket(name: &str, config: envoy_types::pb::google::protobuf::Any) -> core::TransportSocket {
    core::TransportSocket {
        name: format!("envoy.transport_sockets.{name}"),
        config_type: Some(ConfigType::TypedConfig(config)),
    }
}
