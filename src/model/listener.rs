//! Listeners of Envoys, and their protocols.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::config::code;
use crate::config::document::listener::{ListenerProtocol, LogFormat};
use crate::config::document::{self, Declared};
use crate::config::values::Switch;
use crate::model::certificate::{self, Authority, Certificate};
use crate::model::name::{Name, Scope};
use crate::model::place::{FaultCollector, FaultPlace};
use crate::model::service::Service;
use crate::model::tls::{self, KnownCertificates};

/// Name of the listener that is added if none is declared.
pub const DEFAULT: &str = "default";

/// Address on which Envoys accept connections.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Unique among listeners; also the name of its Envoy route configuration.
    pub name: Name,
    /// Address and port; the port is never 0.
    pub address: SocketAddr,
    /// True if a listener on all IPv6 addresses takes IPv4 connections too. It leaves them to a listener of its fleets
    /// on an IPv4 address with the same port.
    pub takes_ipv4: bool,
    /// Protocol of the connections.
    pub protocol: ProtocolSettings,
    /// Fleets that open it.
    pub fleets: Scope,
    /// Time after which an idle connection is closed; zero for never.
    pub idle_timeout: Duration,
    /// Access log of the requests, or of the connections for protocols without requests.
    pub access_log: Option<AccessLog>,
}

/// Protocol of a listener.
#[derive(Debug, Clone, PartialEq)]
pub enum ProtocolSettings {
    /// HTTP/1 and HTTP/2 in plain text.
    Http,
    /// HTTP/1 and HTTP/2 over TLS.
    Https(Termination),
    /// Any protocol: connections are forwarded to this service.
    Tcp(Arc<Service>),
    /// TLS that is not terminated here.
    TlsPassthrough,
    /// Connections for the upstream whose name is their SNI. Without certificates their TLS is not terminated
    /// here.
    FailoverGateway(Option<Termination>),
}

/// Settings of the termination of TLS.
#[derive(Debug, Clone, PartialEq)]
pub struct Termination {
    /// Certificates, at least one: chosen by SNI, with the first as the fallback.
    pub certificates: Vec<Arc<Certificate>>,
    /// CA that must have signed the certificate of a client; `None` if clients need none.
    pub client_ca: Option<Authority>,
}

/// Access log of a listener.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    /// Path of the file on the machine of the Envoy.
    pub path: String,
    /// Format of a line.
    pub format: LogFormat,
}

impl Listener {
    /// Returns the listener that is added if none is declared: HTTP on port 8000 of all IPv4 addresses, for
    /// all fleets.
    pub fn default_listener() -> Self {
        Self {
            name: Name::parse(DEFAULT).expect("`default` is a name"),
            address: SocketAddr::from(([0, 0, 0, 0], 8000)),
            takes_ipv4: true,
            protocol: ProtocolSettings::Http,
            fleets: Scope::All,
            idle_timeout: document::listener::Listener::IDLE_TIMEOUT.0,
            access_log: None,
        }
    }

    /// True if requests are routed here, not connections.
    pub fn is_http(&self) -> bool {
        matches!(self.protocol, ProtocolSettings::Http | ProtocolSettings::Https(_))
    }

    /// Returns the service that gets all connections of a TCP listener.
    pub fn service(&self) -> Option<&Arc<Service>> {
        match &self.protocol {
            ProtocolSettings::Tcp(service) => Some(service),
            _ => None,
        }
    }

    /// Returns the settings of the termination of TLS, if TLS is terminated here.
    pub fn termination(&self) -> Option<&Termination> {
        match &self.protocol {
            ProtocolSettings::Https(termination) | ProtocolSettings::FailoverGateway(Some(termination)) => {
                Some(termination)
            }
            _ => None,
        }
    }
}

/// Resolves a declared listener whose name, fleets and service are already resolved. `service` is `None` for
/// a TCP listener whose service was at fault.
pub(crate) fn resolve(
    name: Name,
    fleets: Scope,
    service: Option<Arc<Service>>,
    place: &FaultPlace<'_>,
    listener: &Declared<document::listener::Listener>,
    known: KnownCertificates<'_>,
    faults: &mut FaultCollector,
) -> Option<Listener> {
    let declared = &listener.entity;
    let access_log = access_log(&place.key("access_log"), declared.access_log.as_ref(), faults);
    let protocol = protocol(&name, service, place, declared, known, faults);
    let address = match &declared.address {
        Some(text) => address(text, &place.key("address"), faults)?,
        None => {
            faults.missing(
                &place.key("address"),
                "`address`",
                "say where Envoy listens, such as 0.0.0.0:8000",
            );
            return None;
        }
    };
    let idle_timeout = declared.idle_timeout.unwrap_or(document::listener::Listener::IDLE_TIMEOUT).0;
    Some(Listener { name, address, takes_ipv4: true, protocol: protocol?, fleets, idle_timeout, access_log })
}

/// Returns the word for a protocol in the config.
pub(crate) fn word(protocol: ListenerProtocol) -> &'static str {
    match protocol {
        ListenerProtocol::Http => "http",
        ListenerProtocol::Https => "https",
        ListenerProtocol::Tcp => "tcp",
        ListenerProtocol::TlsPassthrough => "tls_passthrough",
        ListenerProtocol::FailoverGateway => "failover_gateway",
    }
}

fn protocol(
    name: &Name,
    service: Option<Arc<Service>>,
    place: &FaultPlace<'_>,
    declared: &document::listener::Listener,
    known: KnownCertificates<'_>,
    faults: &mut FaultCollector,
) -> Option<ProtocolSettings> {
    let protocol = declared.protocol.unwrap_or_default();
    meaningless(protocol, place, declared, faults);
    let termination = termination(name, place, declared, known, faults);
    match protocol {
        ListenerProtocol::Http => Some(ProtocolSettings::Http),
        ListenerProtocol::TlsPassthrough => Some(ProtocolSettings::TlsPassthrough),
        ListenerProtocol::Tcp => Some(ProtocolSettings::Tcp(service?)),
        ListenerProtocol::Https => {
            if declared.certificates.is_empty() {
                let help = "name at least one; the first is for clients that ask for no name of another";
                faults.missing(&place.key("certificates"), "`certificates`", help);
            }
            Some(ProtocolSettings::Https(termination?))
        }
        ListenerProtocol::FailoverGateway => {
            if declared.certificates.is_empty() {
                if declared.client_ca.is_some() {
                    let message =
                        "without `certificates` TLS is not ended here, so nobody looks at those of \
                                   clients"
                            .to_owned();
                    let help = "name `certificates`, or leave out `client_ca`".to_owned();
                    faults.error(&place.key("client_ca"), code::CONFLICT, message, help);
                }
                Some(ProtocolSettings::FailoverGateway(None))
            } else {
                Some(ProtocolSettings::FailoverGateway(Some(termination?)))
            }
        }
    }
}

/// Reports fields that belong to other protocols.
fn meaningless(
    protocol: ListenerProtocol,
    place: &FaultPlace<'_>,
    declared: &document::listener::Listener,
    faults: &mut FaultCollector,
) {
    use ListenerProtocol::{FailoverGateway, Http, Https, Tcp};

    let ends_tls = matches!(protocol, Https | FailoverGateway);
    let fields = [
        ("certificates", !declared.certificates.is_empty() && !ends_tls, "`protocol: https`"),
        ("client_ca", declared.client_ca.is_some() && !ends_tls, "`protocol: https`"),
        ("service", declared.service.is_some() && protocol != Tcp, "`protocol: tcp`"),
    ];
    for (field, is_wrong, instead) in fields {
        if is_wrong {
            let message = format!("`{field}` has no meaning for a listener of protocol {}", word(protocol));
            let help = match (field, protocol) {
                ("service", Http | Https) => "name the listener in a route in place of that".to_owned(),
                _ => format!("leave it out, or say {instead}"),
            };
            faults.error(&place.key(field), code::CONFLICT, message, help);
        }
    }
}

/// Resolves the termination of TLS; `None` without a usable certificate.
fn termination(
    name: &Name,
    place: &FaultPlace<'_>,
    declared: &document::listener::Listener,
    known: KnownCertificates<'_>,
    faults: &mut FaultCollector,
) -> Option<Termination> {
    let list = place.key("certificates");
    let mut certificates: Vec<Arc<Certificate>> = Vec::new();
    for (index, name) in declared.certificates.iter().enumerate() {
        let found = tls::certificate_named(name, &list.index(index), known, faults);
        certificates.extend(found.filter(|found| !certificates.contains(found)));
    }
    let client_ca = declared.client_ca.as_ref().and_then(|material| {
        let secret = format!("listeners/{name}/client_ca");
        certificate::authority(secret, &place.key("client_ca"), material, known.sources, faults)
    });
    (!certificates.is_empty()).then_some(Termination { certificates, client_ca })
}

fn access_log(
    place: &FaultPlace<'_>,
    declared: Option<&Switch<document::listener::AccessLog>>,
    faults: &mut FaultCollector,
) -> Option<AccessLog> {
    let Some(Switch::On(declared)) = declared else { return None };
    let path = declared.path.clone().filter(|path| !path.is_empty());
    if path.is_none() {
        faults.missing(&place.key("path"), "`path`", "say where Envoy writes it, such as /dev/stdout");
    }
    Some(AccessLog { path: path?, format: declared.format.unwrap_or_default() })
}

fn address(text: &str, place: &FaultPlace<'_>, faults: &mut FaultCollector) -> Option<SocketAddr> {
    let help = "write an IP address and a port, such as 0.0.0.0:8000 or [::]:8000".to_owned();
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => {
            faults.wrong(place, format!("`{text}` has port 0"), "name the port, from 1 to 65535".to_owned());
            None
        }
        Ok(address) => Some(address),
        Err(_) => {
            faults.wrong(place, format!("`{text}` is not an address to listen on"), help);
            None
        }
    }
}
