//! Validation of connection-level settings: certificates, TLS, TCP, and the compatibility of protocols.

use std::collections::HashMap;
use std::sync::Arc;

use imbl::OrdMap;

use super::{Named, Validation};
use crate::config::document::listener::ListenerProtocol;
use crate::config::document::upstream::UpstreamProtocol;
use crate::config::document::{self, Kind};
use crate::config::values::Switch;
use crate::config::{Path, Step};
use crate::model::certificate::{self, Certificates};
use crate::model::listener::word;
use crate::model::name::Name;
use crate::model::passthrough::{self, Passthrough};
use crate::model::place::{Place, code};
use crate::model::route;
use crate::model::service::hash::HashBy;
use crate::model::service::{Member, Service};
use crate::model::target::Candidate;
use crate::model::tls::{self, Known, Tls};
use crate::model::upstream::Upstream;

/// Fields of an upstream that apply to requests only.
const OF_REQUESTS: [&[&str]; 4] =
    [&["idle_timeout"], &["limits", "requests_per_connection"], &["sticky"], &["whole_response"]];

/// Fields of a service that apply to connections too; all others apply to requests only.
const OF_CONNECTIONS: [&str; 6] = ["name", "upstream", "upstreams", "retries", "hash_by", "tags"];

/// Fields of the retries of a service that apply to connections too.
const RETRIES_OF_CONNECTIONS: [&str; 2] = ["attempts", "back_off"];

impl<'a> Validation<'a> {
    pub(super) fn certificates(
        &mut self,
        declared: Vec<Named<'a, document::certificate::Certificate>>,
    ) -> Certificates {
        let mut certificates = Certificates::new();
        for named in declared {
            let place = named.place();
            let Named { name, counts, declared, .. } = named;
            let certificate =
                certificate::resolve(name.clone(), &place, &declared.entity, self.sources, &mut self.faults);
            if counts {
                certificates.insert(name, certificate.map(Arc::new));
            }
        }
        certificates
    }

    /// Resolves `tls` of an upstream.
    pub(super) fn upstream_tls(
        &mut self,
        name: &Name,
        place: &Place<'_>,
        upstream: &document::upstream::Upstream,
    ) -> Option<Arc<Tls>> {
        let declared = match &upstream.tls {
            Some(Switch::On(declared)) => declared,
            _ => return None,
        };
        let known = known(&self.certificates, self.whole, self.sources);
        let owner = format!("upstreams/{name}");
        let tls = tls::resolve(&owner, &place.key("tls"), declared, None, known, &mut self.faults);
        Some(Arc::new(tls))
    }

    /// Resolves `tls` of a target over that of its upstream.
    pub(super) fn target_tls(
        &mut self,
        upstream: &Name,
        candidate: &mut Candidate<'_>,
        declared: &document::target::Target,
        tls: Option<&Tls>,
    ) {
        let known = known(&self.certificates, self.whole, self.sources);
        let owner = format!("upstreams/{upstream}/targets/{}", candidate.address);
        candidate.tls = tls::of_target(
            &owner,
            &candidate.place.key("tls"),
            declared.tls.as_deref(),
            &candidate.address.host,
            tls,
            known,
            &mut self.faults,
        );
    }

    /// Reports settings of an upstream that do not fit its protocol.
    pub(super) fn upstream_protocol(&mut self, place: &Place<'_>, upstream: &Upstream) {
        match upstream.protocol {
            UpstreamProtocol::Auto if !upstream.is_tls_throughout() => {
                let message = "`auto` is agreed on by ALPN, which is a part of TLS".to_owned();
                let help = "say `tls: {}`, or choose `http1` or `http2`".to_owned();
                self.faults.error(&place.key("protocol"), code::PROTOCOL, message, help);
            }
            UpstreamProtocol::Tcp => {
                for keys in OF_REQUESTS {
                    let field = keys.iter().fold(place.clone(), |place, key| place.key(key));
                    self.meaningless_for_tcp(&field);
                }
            }
            _ => {}
        }
    }

    /// Reports settings of a service for TCP connections that apply to requests only.
    pub(super) fn service_protocol(&mut self, place: &Place<'_>, members: &[Member], hash_by: &[HashBy]) {
        let is_tcp = |member: &Member| member.upstream.protocol == UpstreamProtocol::Tcp;
        if !members.iter().any(is_tcp) {
            return;
        }
        if !members.iter().all(is_tcp) {
            let message = "some of these upstreams are for connections, and some for requests".to_owned();
            let help = "give all of them `protocol: tcp`, or none".to_owned();
            self.faults.error(&place.key("upstreams"), code::PROTOCOL, message, help);
            return;
        }
        for (index, by) in hash_by.iter().enumerate().filter(|(_, by)| **by != HashBy::SourceIp) {
            let place = place.key("hash_by").index(index);
            let message = format!("a connection has no {}", by.word());
            self.faults.error(&place, code::CONFLICT, message, "the only one is `source_ip`".to_owned());
        }
        let retries = place.key("retries");
        for field in fields(place).into_iter().filter(|field| !OF_CONNECTIONS.contains(&field.as_str())) {
            self.meaningless_for_tcp(&place.key(&field));
        }
        for field in fields(&retries) {
            if !RETRIES_OF_CONNECTIONS.contains(&field.as_str()) {
                self.meaningless_for_tcp(&retries.key(&field));
            }
        }
    }

    fn meaningless_for_tcp(&mut self, place: &Place<'_>) {
        if !is_said(place) {
            return;
        }
        let message = format!("{} is about requests, and TCP has none", last(&place.path));
        self.faults.error(place, code::CONFLICT, message, "leave it out".to_owned());
    }

    /// Returns the protocol of each declared listener.
    pub(super) fn protocols(&self) -> HashMap<&'a str, ListenerProtocol> {
        let sites = self.documents.sites(Kind::Listener);
        let listeners = sites.map(|(name, site)| (name, &site.document.0.listeners[site.index].entity));
        listeners.map(|(name, it)| (name.as_str(), it.protocol.unwrap_or_default())).collect()
    }

    /// True for a route that matches connections, not requests. Reports listeners whose protocol does not
    /// fit.
    pub(super) fn is_of_connections(
        &mut self,
        route: &Named<'a, document::route::Route>,
        protocols: &HashMap<&str, ListenerProtocol>,
    ) -> bool {
        use ListenerProtocol::{FailoverGateway, Http, Https, Tcp, TlsPassthrough};

        let listeners = &route.declared.entity.listeners;
        let protocol = |name: &String| protocols.get(name.as_str()).copied();
        let first = listeners.iter().find_map(|name| {
            protocol(name).filter(|protocol| matches!(protocol, Http | Https | TlsPassthrough))
        });
        for (index, name) in listeners.iter().enumerate() {
            let Some(protocol) = protocol(name) else { continue };
            let place = route.place().key("listeners").index(index);
            let (message, help) = match protocol {
                Tcp | FailoverGateway => (
                    format!("there are no routes on the listener `{name}` of protocol {}", word(protocol)),
                    match protocol {
                        Tcp => "its `service` says where connections go",
                        _ => "connections go to the upstream whose name is their SNI",
                    },
                ),
                _ if (first == Some(TlsPassthrough)) == (protocol == TlsPassthrough) => continue,
                _ => (
                    format!(
                        "the listener `{name}` is of protocol {}, and another one is not",
                        word(protocol)
                    ),
                    "make two routes: one is for connections, one for requests",
                ),
            };
            self.faults.error(&place, code::PROTOCOL, message, help.to_owned());
        }
        first == Some(TlsPassthrough)
    }

    pub(super) fn passthroughs(
        &mut self,
        declared: Vec<Named<'a, document::route::Route>>,
        fleet_names: &[Name],
        services: &OrdMap<Name, Arc<Service>>,
    ) -> Vec<Passthrough> {
        let mut all: Vec<(Place<'a>, Passthrough)> = Vec::new();
        for named in declared {
            let place = named.place();
            let Named { name, counts, declared, .. } = named;
            let entity = &declared.entity;
            for field in fields(&place).into_iter().filter(|it| !passthrough::FIELDS.contains(&it.as_str())) {
                let place = place.key(&field);
                if is_said(&place) {
                    let message =
                        format!("`{field}` is about requests, which TLS that is not ended here hides");
                    let help = "leave it out, or end TLS on a listener of protocol https".to_owned();
                    self.faults.error(&place, code::CONFLICT, message, help);
                }
            }
            let fleets = self.fleets(&place, &entity.fleets, fleet_names);
            let hosts = route::hosts(&place.key("hosts"), &entity.hosts, &mut self.faults);
            let listeners = entity.listeners.iter().filter_map(|name| Name::parse(name)).collect();
            let service = self.service_of(&place, entity.service.as_deref(), services);
            let Some(service) = service else { continue };
            self.for_connections(&place.key("service"), &service, true);
            if counts {
                all.push((place, Passthrough { name, listeners, fleets, hosts, service }));
            }
        }
        self.same_names_asked_for(&all);
        all.into_iter().map(|(_, passthrough)| passthrough).collect()
    }

    /// Returns the service that a route or a listener names.
    pub(super) fn service_of(
        &mut self,
        place: &Place<'_>,
        text: Option<&str>,
        services: &OrdMap<Name, Arc<Service>>,
    ) -> Option<Arc<Service>> {
        let place = place.key("service");
        let Some(text) = text else {
            self.missing_reference(&place, Kind::Service);
            return None;
        };
        let service = services.get(text);
        // A declared service that is missing here has a fault, which has been reported.
        if service.is_none() && self.documents.site(Kind::Service, text).is_none() {
            let names = self.documents.sites(Kind::Service).map(|(name, _)| name);
            self.dangling(&place, Kind::Service, text, names);
        }
        service.cloned()
    }

    /// Reports a service whose upstreams do not accept connections, or add TLS to connections that are TLS
    /// already.
    pub(super) fn for_connections(&mut self, place: &Place<'_>, service: &Service, is_tls: bool) {
        let not_tcp = service.upstreams().find(|upstream| upstream.protocol != UpstreamProtocol::Tcp);
        let in_tls = service.upstreams().find(|upstream| is_tls && upstream.is_tls());
        if let Some(upstream) = not_tcp {
            let message = format!("the upstream `{}` is for requests, not for connections", upstream.name);
            let help = "give the upstream `protocol: tcp`".to_owned();
            self.faults.error(place, code::PROTOCOL, message, help);
        } else if let Some(upstream) = in_tls {
            let message =
                format!("the connections are TLS already, and the upstream `{}` has `tls`", upstream.name);
            let help = "leave out the `tls` of the upstream and of its targets".to_owned();
            self.faults.error(place, code::PROTOCOL, message, help);
        }
    }

    /// Reports a service for requests that has an upstream for TCP connections.
    pub(super) fn for_requests(&mut self, place: &Place<'_>, service: &Service) {
        if let Some(upstream) = service.upstreams().find(|it| it.protocol == UpstreamProtocol::Tcp) {
            let message = format!("the upstream `{}` is for connections, not for requests", upstream.name);
            let help = "give the upstream `protocol: http1`, or the service to a listener of protocol tcp";
            self.faults.error(place, code::PROTOCOL, message, help.to_owned());
        }
    }

    fn same_names_asked_for(&mut self, all: &[(Place<'a>, Passthrough)]) {
        for (index, (place, own)) in all.iter().enumerate() {
            let twin = all[..index].iter().find_map(|(first, other)| {
                let meets = other.fleets.overlaps(&own.fleets)
                    && other.listeners.iter().any(|listener| own.listeners.contains(listener));
                let host = own.hosts.iter().find(|host| other.hosts.contains(host));
                host.filter(|_| meets).map(|host| (first, other, host))
            });
            if let Some((first, other, host)) = twin {
                let message = format!("route `{}` asks for the same connections: {host}", other.name);
                let help = "let them differ in their hosts or listeners".to_owned();
                let related = vec![first.key("name").related("the other route")];
                self.faults.error_with(&place.key("name"), code::SAME_REQUESTS, message, help, related);
            }
        }
    }

    /// Reports names of upstreams that differ only in case, which SNI ignores: a gateway could not tell them
    /// apart.
    pub(super) fn names_by_sni<'n>(
        &mut self,
        gateway: &Place<'_>,
        upstreams: impl Iterator<Item = &'n Name>,
    ) {
        let mut seen: HashMap<String, &Name> = HashMap::new();
        for name in upstreams {
            if let Some(other) = seen.insert(name.as_str().to_ascii_lowercase(), name) {
                let message =
                    format!("the upstreams `{other}` and `{name}` are one name for TLS, which ignores case");
                let help = "give one of them another name".to_owned();
                self.faults.error(&gateway.key("protocol"), code::PROTOCOL, message, help);
            }
        }
    }
}

/// Returns the certificates that `tls` may refer to. It is not a method, so that `faults` can be borrowed at
/// the same time.
pub(super) fn known<'k>(
    certificates: &'k Certificates,
    all_are_known: bool,
    sources: certificate::Sources<'k>,
) -> Known<'k> {
    Known { certificates, all_are_known, sources }
}

/// Returns the fields that are present, whatever their values.
fn fields(place: &Place<'_>) -> Vec<String> {
    match place.document.json(&place.path) {
        serde_json::Value::Object(fields) => fields.into_iter().map(|(key, _)| key).collect(),
        _ => Vec::new(),
    }
}

/// True if the value at `place` differs from an absent one.
fn is_said(place: &Place<'_>) -> bool {
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
