//! Validation of routes for TLS connections, which are matched by SNI.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use imbl::OrdMap;

use crate::config::code;
use crate::config::document::listener::ListenerProtocol;
use crate::config::document::{self, Kind};
use crate::model::host_match::{self, HostMatch};
use crate::model::listener::word;
use crate::model::name::Name;
use crate::model::passthrough::{self, Passthrough};
use crate::model::place::FaultPlace;
use crate::model::service::Service;
use crate::model::validate::context::{Named, Validation};
use crate::model::validate::overlap::ScopeIndex;
use crate::model::validate::protocols;
use crate::model::validate::protocols::{fields, is_declared};

/// Returns the protocol of each declared listener.
pub(super) fn listener_protocols<'a>(validation: &Validation<'a>) -> HashMap<&'a str, ListenerProtocol> {
    let sites = validation.documents.sites(Kind::Listener);
    let listeners = sites.map(|(name, site)| (name, &site.document.0.listeners[site.index].entity));
    listeners.map(|(name, it)| (name.as_str(), it.protocol.unwrap_or_default())).collect()
}

/// True for a route that matches connections, not requests. Reports listeners whose protocol does not
/// fit.
pub(super) fn is_of_connections<'a>(
    validation: &mut Validation<'a>,
    route: &Named<'a, document::route::Route>,
    protocols: &HashMap<&str, ListenerProtocol>,
) -> bool {
    use ListenerProtocol::{FailoverGateway, Http, Https, Tcp, TlsPassthrough};

    let listeners = &route.declared.entity.listeners;
    let protocol = |name: &String| protocols.get(name.as_str()).copied();
    let first = listeners
        .iter()
        .find_map(|name| protocol(name).filter(|protocol| matches!(protocol, Http | Https | TlsPassthrough)));
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
                format!("the listener `{name}` is of protocol {}, and another one is not", word(protocol)),
                "make two routes: one is for connections, one for requests",
            ),
        };
        validation.faults.error(&place, code::PROTOCOL, message, help.to_owned());
    }
    first == Some(TlsPassthrough)
}

/// Resolves the routes for connections.
pub(super) fn resolve<'a>(
    validation: &mut Validation<'a>,
    declared: Vec<Named<'a, document::route::Route>>,
    fleet_names: &BTreeSet<Name>,
    services: &OrdMap<Name, Arc<Service>>,
) -> Vec<Passthrough> {
    let mut all: Vec<(FaultPlace<'a>, Passthrough)> = Vec::new();
    for named in declared {
        let place = named.place();
        let Named { name, counts, declared, .. } = named;
        let entity = &declared.entity;
        for field in fields(&place).into_iter().filter(|it| !passthrough::FIELDS.contains(&it.as_str())) {
            let place = place.key(&field);
            if is_declared(&place) {
                let message = format!("`{field}` is about requests, which TLS that is not ended here hides");
                let help = "leave it out, or end TLS on a listener of protocol https".to_owned();
                validation.faults.error(&place, code::CONFLICT, message, help);
            }
        }
        let fleets = validation.fleets(&place, &entity.fleets, fleet_names);
        let hosts = host_match::resolve(&place.key("hosts"), &entity.hosts, &mut validation.faults);
        for (index, _) in hosts.iter().enumerate().filter(|(_, host)| matches!(host, HostMatch::Prefix(_))) {
            let message = "Envoy matches the name that a client asks for in TLS from its end only".to_owned();
            let help = "name the hosts, or write *.example.com".to_owned();
            validation.faults.error(&place.key("hosts").index(index), code::CONFLICT, message, help);
        }
        let listeners = entity.listeners.iter().filter_map(|name| Name::parse(name)).collect();
        let service = validation.service_of(&place, entity.service.as_deref(), services);
        let Some(service) = service else { continue };
        protocols::require_connections(validation, &place.key("service"), &service, true);
        if counts {
            all.push((place, Passthrough { name, listeners, fleets, hosts, service }));
        }
    }
    report_equal_matches(validation, &all);
    all.into_iter().map(|(_, passthrough)| passthrough).collect()
}

/// Reports two routes that match the same connections.
fn report_equal_matches<'a>(validation: &mut Validation<'a>, all: &[(FaultPlace<'a>, Passthrough)]) {
    let mut by_match = ScopeIndex::default();
    for (index, (place, own)) in all.iter().enumerate() {
        let matches = || own.hosts.iter().flat_map(|host| own.listeners.iter().map(move |it| (host, it)));
        let twins = matches().filter_map(|key| Some((by_match.first(&key, &own.fleets)?, key.0)));
        // The first host that the first of them has too.
        let twin = twins.min_by_key(|(other, _)| *other);
        matches().for_each(|key| by_match.insert(key, &own.fleets, index));
        let twin = twin.map(|(other, host)| (&all[other].0, &all[other].1, host));
        if let Some((first, other, host)) = twin {
            let message = format!("route `{}` asks for the same connections: {host}", other.name);
            let help = "let them differ in their hosts or listeners".to_owned();
            let related = vec![first.key("name").related("the other route")];
            validation.faults.error_with(&place.key("name"), code::SAME_REQUESTS, message, help, related);
        }
    }
}
