//! Validation of listeners.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use imbl::OrdMap;

use crate::config::code;
use crate::config::document::listener::ListenerProtocol;
use crate::config::document::{self, Kind};
use crate::model::listener::{self, Listener};
use crate::model::name::{Name, Scope};
use crate::model::place::FaultPlace;
use crate::model::service::Service;
use crate::model::upstream::Upstream;
use crate::model::validate::context::{self, Named, Validation};
use crate::model::validate::overlap::ScopeIndex;
use crate::model::validate::protocols;

/// Resolves the listeners. Without any, there is the default one.
pub(super) fn resolve<'a>(
    validation: &mut Validation<'a>,
    declared: Vec<Named<'a, document::listener::Listener>>,
    fleet_names: &BTreeSet<Name>,
    services: &OrdMap<Name, Arc<Service>>,
    upstreams: &OrdMap<Name, Arc<Upstream>>,
) -> Vec<Listener> {
    if declared.is_empty() && validation.is_complete {
        return if is_raw_alone(validation) { Vec::new() } else { vec![Listener::default_listener()] };
    }
    let mut listeners: Vec<(FaultPlace<'_>, Listener)> = Vec::new();
    let mut by_address = ScopeIndex::default();
    for named in declared {
        let place = named.place();
        let Named { name, counts, declared, .. } = named;
        let scope = validation.fleets(&place, &declared.entity.fleets, fleet_names);
        if declared.entity.protocol == Some(ListenerProtocol::FailoverGateway) {
            report_equal_sni(validation, &place, upstreams.keys());
        }
        let is_tcp = declared.entity.protocol == Some(ListenerProtocol::Tcp);
        let service = match declared.entity.service.as_deref() {
            service if is_tcp => validation.service_of(&place, service, services),
            _ => None,
        };
        if let Some(service) = &service {
            protocols::require_connections(validation, &place.key("service"), service, false);
        }
        let known = context::known(&validation.certificates, validation.is_complete, validation.sources);
        let listener =
            listener::resolve(name, scope, service, &place, declared, known, &mut validation.faults);
        let Some(listener) = listener else { continue };
        if let Some(used_by) = by_address.first(&listener.address, &listener.fleets) {
            let (first, other) = &listeners[used_by];
            let message = format!("listener `{}` has the address {} too", other.name, listener.address);
            let related = vec![first.key("address").related("first used here")];
            let help = "give each listener of a fleet an address of its own".to_owned();
            validation.faults.error_with(&place.key("address"), code::SAME_ADDRESS, message, help, related);
        }
        if counts {
            by_address.insert(listener.address, &listener.fleets, listeners.len());
            listeners.push((place, listener));
        }
    }
    leave_ipv4_to_others(listeners.into_iter().map(|(_, listener)| listener).collect())
}

/// Leaves IPv4 connections to the listeners on IPv4 addresses with the same port: two sockets cannot have them.
fn leave_ipv4_to_others(mut listeners: Vec<Listener>) -> Vec<Listener> {
    let on_ipv4 = listeners.iter().filter(|listener| listener.address.is_ipv4());
    let taken: Vec<(u16, Scope)> = on_ipv4.map(|it| (it.address.port(), it.fleets.clone())).collect();
    for listener in &mut listeners {
        let (address, fleets) = (listener.address, &listener.fleets);
        let is_taken = taken.iter().any(|(port, other)| *port == address.port() && other.overlaps(fleets));
        listener.takes_ipv4 = address.is_ipv4() || !is_taken;
    }
    listeners
}

/// True if there are raw resources and no route that the default listener could serve. The default
/// listener is not added then.
fn is_raw_alone(validation: &Validation<'_>) -> bool {
    let has_raw = validation.documents.of(Kind::Raw).any(|document| !document.raw.is_empty());
    has_raw && validation.documents.of(Kind::Route).all(|document| document.routes.is_empty())
}

/// Reports names of upstreams that differ only in case, which SNI ignores: a gateway could not tell them
/// apart.
fn report_equal_sni<'n>(
    validation: &mut Validation<'_>,
    gateway: &FaultPlace<'_>,
    upstreams: impl Iterator<Item = &'n Name>,
) {
    let mut seen: HashMap<String, &Name> = HashMap::new();
    for name in upstreams {
        if let Some(other) = seen.insert(name.as_str().to_ascii_lowercase(), name) {
            let message =
                format!("the upstreams `{other}` and `{name}` are one name for TLS, which ignores case");
            let help = "give one of them another name".to_owned();
            validation.faults.error(&gateway.key("protocol"), code::PROTOCOL, message, help);
        }
    }
}
