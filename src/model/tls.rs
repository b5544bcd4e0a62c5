//! TLS to targets: SNI, trusted authorities, verified names and client certificates.
//!
//! The defaults are strict: a target must prove the name, or the address, under which it is declared.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::config::code;
use crate::config::document;
use crate::config::document::tls::VerifyNames;
use crate::config::material::Ca;
use crate::config::values::Switch;
use crate::model::certificate::{self, Authority, Certificate, Certificates, Sources};
use crate::model::name::Name;
use crate::model::place::{FaultCollector, FaultPlace};

/// TLS settings of connections to targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTls {
    /// Server name that is requested.
    pub sni: Sni,
    /// Authorities whose certificates are accepted.
    pub trust: Trust,
    /// Names that a certificate must have.
    pub verify: Verify,
    /// Certificate that is presented to a target that requests one.
    pub client_certificate: Option<Arc<Certificate>>,
}

/// Server name that is requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sni {
    /// Host name of the target.
    Host,
    /// Fixed name.
    Name(String),
    /// No server name: the target is an address (RFC 6066, section 3).
    None,
}

/// Authorities whose certificates are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// System trust store of the machine on which Envoy runs.
    System,
    /// Declared authority.
    Authority(Authority),
    /// Any certificate, without verification.
    Anything,
}

/// Names that a certificate must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verify {
    /// Requested server name.
    Sni,
    /// Any of these names.
    Names(Vec<SubjectName>),
    /// Whatever names.
    Any,
}

/// Subject alternative name of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubjectName {
    /// Host name.
    Dns(String),
    /// IP address.
    Ip(IpAddr),
    /// URI, such as `spiffe://example.com/shop`.
    Uri(String),
}

impl fmt::Display for SubjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(text) | Self::Uri(text) => f.write_str(text),
            Self::Ip(ip) => write!(f, "{ip}"),
        }
    }
}

/// TLS settings of one target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TargetTls {
    /// Settings of its upstream.
    #[default]
    AsUpstream,
    /// TLS with settings of its own.
    Own(Arc<UpstreamTls>),
    /// Plain text, although its upstream has TLS.
    Plain,
}

/// Certificates that `tls` may refer to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KnownCertificates<'a> {
    pub(crate) certificates: &'a Certificates,
    /// False if names may exist that no document shows, because a text could not be read.
    pub(crate) all_are_known: bool,
    pub(crate) sources: Sources<'a>,
}

/// Resolves `tls` of an upstream, or that of a target over its upstream's. `owner` is the prefix of the name
/// of a CA's secret.
pub(crate) fn resolve(
    owner: &str,
    place: &FaultPlace<'_>,
    declared: &document::tls::Tls,
    base: Option<&UpstreamTls>,
    known: KnownCertificates<'_>,
    faults: &mut FaultCollector,
) -> UpstreamTls {
    let sni = match &declared.sni {
        Some(text) => Sni::Name(server_name(text, &place.key("sni"), faults)),
        None => base.map_or(Sni::Host, |base| base.sni.clone()),
    };
    let verify = match &declared.verify_names {
        None => base.map_or(Verify::Sni, |base| base.verify.clone()),
        Some(VerifyNames::Any) => Verify::Any,
        Some(VerifyNames::Listed(names)) if names.is_empty() => Verify::Sni,
        Some(VerifyNames::Listed(names)) => {
            Verify::Names(names.iter().map(|name| subject_name(name)).collect())
        }
    };
    let client_certificate = match &declared.client_certificate {
        Some(name) => certificate_named(name, &place.key("client_certificate"), known, faults),
        None => base.and_then(|base| base.client_certificate.clone()),
    };
    UpstreamTls { sni, trust: trust(owner, place, declared, base, known, faults), verify, client_certificate }
}

/// Resolves the TLS settings of a target. `ip` is its address; none if it is declared by a name.
pub(crate) fn of_target(
    owner: &str,
    place: &FaultPlace<'_>,
    declared: Option<&Switch<document::tls::Tls>>,
    ip: Option<IpAddr>,
    upstream: Option<&UpstreamTls>,
    known: KnownCertificates<'_>,
    faults: &mut FaultCollector,
) -> TargetTls {
    let own = match (declared, upstream) {
        (Some(Switch::Off), Some(_)) => return TargetTls::Plain,
        (Some(Switch::On(declared)), _) => resolve(owner, place, declared, upstream, known, faults),
        (None, Some(upstream)) => upstream.clone(),
        (Some(Switch::Off) | None, None) => return TargetTls::AsUpstream,
    };
    let own = for_address(own, ip);
    if upstream == Some(&own) { TargetTls::AsUpstream } else { TargetTls::Own(Arc::new(own)) }
}

/// Adapts the settings to a target that is an IP address: it requests no server name, and the certificate
/// must have the address unless other names are declared or nothing is verified.
fn for_address(tls: UpstreamTls, ip: Option<IpAddr>) -> UpstreamTls {
    match ip {
        Some(ip) if tls.sni == Sni::Host => {
            let is_default = tls.verify == Verify::Sni && tls.trust != Trust::Anything;
            let verify =
                if is_default { Verify::Names(vec![SubjectName::Ip(ip)]) } else { tls.verify.clone() };
            UpstreamTls { sni: Sni::None, verify, ..tls }
        }
        _ => tls,
    }
}

fn server_name(text: &str, place: &FaultPlace<'_>, faults: &mut FaultCollector) -> String {
    // Gateways name their chains by a single label that DNS would not take.
    let longest = if text.contains('.') { 63 } else { 255 };
    let label = |label: &str| {
        (1..=longest).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    let is_name = text.len() <= longest.max(253) && text.split('.').all(label);
    if !is_name || text.parse::<IpAddr>().is_ok() {
        let help = "write a host name, such as shop.example.com".to_owned();
        faults.wrong(place, format!("`{text}` is no name to ask for"), help);
    }
    text.to_ascii_lowercase()
}

fn subject_name(text: &str) -> SubjectName {
    match text.parse() {
        Ok(ip) => SubjectName::Ip(ip),
        Err(_) if text.contains("://") => SubjectName::Uri(text.to_owned()),
        Err(_) => SubjectName::Dns(text.to_ascii_lowercase()),
    }
}

fn trust(
    owner: &str,
    place: &FaultPlace<'_>,
    declared: &document::tls::Tls,
    base: Option<&UpstreamTls>,
    known: KnownCertificates<'_>,
    faults: &mut FaultCollector,
) -> Trust {
    if declared.insecure.unwrap_or(document::tls::Tls::INSECURE) {
        let checks = [
            ("ca", declared.ca.is_some()),
            (
                "verify_names",
                declared.verify_names.as_ref().is_some_and(|names| *names != VerifyNames::Listed(Vec::new())),
            ),
        ];
        for (field, _) in checks.into_iter().filter(|(_, is_set)| *is_set) {
            let message = format!("`insecure` believes anybody, so `{field}` has no meaning");
            let help = "leave one of them out".to_owned();
            faults.error(&place.key(field), code::CONFLICT, message, help);
        }
        return Trust::Anything;
    }
    match (&declared.ca, base.map(|base| &base.trust)) {
        (Some(Ca::Pem(material)), _) => {
            let secret = format!("{owner}/ca");
            let found = certificate::authority(secret, &place.key("ca"), material, known.sources, faults);
            found.map_or(Trust::System, Trust::Authority)
        }
        (Some(Ca::System), _) | (None, None) => Trust::System,
        (None, Some(Trust::Anything)) if declared.insecure == Some(false) => Trust::System,
        (None, Some(base)) => base.clone(),
    }
}

/// Returns the certificate of this name.
pub(crate) fn certificate_named(
    name: &str,
    place: &FaultPlace<'_>,
    known: KnownCertificates<'_>,
    faults: &mut FaultCollector,
) -> Option<Arc<Certificate>> {
    let found = Name::parse(name).and_then(|name| known.certificates.get(&name));
    if found.is_none() && known.all_are_known {
        let names = known.certificates.keys().map(Name::as_str);
        faults.dangling(place, "certificate", name, names);
    }
    found.cloned().flatten()
}
