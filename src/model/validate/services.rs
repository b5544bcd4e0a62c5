//! Validation of services.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use imbl::OrdMap;

use crate::config::code;
use crate::config::document::{self, Kind};
use crate::memo::ArcEq;
use crate::model::documents::Site;
use crate::model::name::Name;
use crate::model::place::FaultPlace;
use crate::model::service::hash;
use crate::model::service::{self, HostHeader, Member, Service};
use crate::model::upstream::Upstream;
use crate::model::validate::context::{Named, Validation};
use crate::model::validate::outcome::{EntityOutcome, alone};
use crate::model::validate::protocols;

/// All inputs of a service.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ServiceInput {
    pub(super) name: Name,
    pub(super) site: Site,
    /// Upstreams that it names and that exist.
    pub(super) upstreams: Vec<ArcEq<Upstream>>,
}

impl ServiceInput {
    /// Collects the input of a declared service. Reports upstreams that do not exist.
    pub(super) fn new(
        validation: &mut Validation<'_>,
        named: &Named<'_, document::service::Service>,
        upstreams: &OrdMap<Name, Arc<Upstream>>,
    ) -> Self {
        let (place, entity) = (named.place(), &named.declared.entity);
        let several = place.key("upstreams");
        let members = entity.upstreams.iter().enumerate();
        let members = members
            .filter_map(|(index, member)| Some((several.index(index).key("name"), member.name.as_deref()?)));
        let only = entity.upstream.as_deref().map(|name| (place.key("upstream"), name));
        let mut found = Vec::new();
        for (place, name) in only.into_iter().chain(members) {
            match upstreams.get(name) {
                Some(upstream) => found.push(ArcEq(upstream.clone())),
                None => validation.dangling(&place, Kind::Upstream, name, upstreams.keys()),
            }
        }
        Self { name: named.name.clone(), site: named.site(), upstreams: found }
    }

    pub(super) fn resolve(&self) -> EntityOutcome<Service> {
        let (declared, place) = self.site.declared(|document| &document.services);
        let upstreams = self.upstreams.iter().map(|it| (it.0.name.clone(), it.0.clone()));
        let upstreams: BTreeMap<Name, Arc<Upstream>> = upstreams.collect();
        alone(None, |it| service(it, &self.name, &place, &declared.entity, &upstreams))
    }
}

fn service(
    validation: &mut Validation<'_>,
    name: &Name,
    place: &FaultPlace<'_>,
    declared: &document::service::Service,
    upstreams: &BTreeMap<Name, Arc<Upstream>>,
) -> Option<Service> {
    let policy = service::DeclaredPolicy {
        timeout: declared.timeout,
        try_timeout: declared.try_timeout,
        try_idle_timeout: declared.try_idle_timeout,
        retries: declared.retries.as_ref(),
    };
    let policy = service::resolve(place, policy, None, &mut validation.faults);
    let members = members(validation, place, declared, upstreams);
    let host_header = declared.host_header.as_deref();
    let host_header = HostHeader::resolve(&place.key("host_header"), host_header, &mut validation.faults);
    one_host_of_targets(validation, &place.key("host_header"), &host_header, &members);
    let hash_by = hash::resolve(&place.key("hash_by"), &declared.hash_by, &mut validation.faults);
    protocols::check_service(validation, place, &members, &hash_by);
    let websocket = declared.websocket.unwrap_or(document::service::Service::WEBSOCKET);
    let is_served = !members.is_empty();
    is_served.then(|| Service { name: name.clone(), members, policy, host_header, hash_by, websocket })
}

/// Reports a service that sends targets their names with ports where another one sends them without, or the reverse. An
/// endpoint has one name.
fn one_host_of_targets(
    validation: &mut Validation<'_>,
    place: &FaultPlace<'_>,
    host_header: &HostHeader,
    members: &[Member],
) {
    let (own, other) = match host_header {
        HostHeader::Target => ("target", "target_port"),
        HostHeader::TargetPort => ("target_port", "target"),
        HostHeader::Keep | HostHeader::Value(_) => return,
    };
    let both = |upstream: &Upstream| upstream.by_name && upstream.by_name_and_port;
    if let Some(member) = members.iter().find(|member| both(&member.upstream)) {
        let name = &member.upstream.name;
        let message =
            format!("another service of the upstream `{name}` says `{other}`, and this one `{own}`");
        let help = "say the same in both, or give each service an upstream of its own".to_owned();
        validation.faults.error(place, code::CONFLICT, message, help);
    }
}

/// Resolves the members of a service; empty if no valid upstream is named.
fn members(
    validation: &mut Validation<'_>,
    place: &FaultPlace<'_>,
    service: &document::service::Service,
    upstreams: &BTreeMap<Name, Arc<Upstream>>,
) -> Vec<Member> {
    let several = place.key("upstreams");
    if service.upstreams.is_empty() {
        let only = upstream(validation, &place.key("upstream"), service.upstream.as_deref(), upstreams);
        return only.map(|upstream| Member { upstream, weight: 1, tier: 0 }).into_iter().collect();
    }
    if service.upstream.is_some() {
        let message = "`upstream` and `upstreams` both say where requests go".to_owned();
        let help = "leave one of them out".to_owned();
        validation.faults.error(&place.key("upstream"), code::CONFLICT, message, help);
    }
    let (mut members, mut known): (Vec<Member>, HashSet<Name>) = Default::default();
    for (index, declared) in service.upstreams.iter().enumerate() {
        let place = several.index(index);
        let (weight, tier) = service::share(&place, declared, &mut validation.faults);
        let Some(name) = declared.name.as_deref() else {
            validation.faults.missing(&place.key("name"), "`name`", "name the upstream that serves");
            continue;
        };
        let Some(upstream) = upstream(validation, &place.key("name"), Some(name), upstreams) else {
            continue;
        };
        if !known.insert(upstream.name.clone()) {
            let message = format!("upstream `{}` is a member of this service already", upstream.name);
            let help = "list it once, with one weight".to_owned();
            validation.faults.error(&place.key("name"), code::SAME_MEMBER, message, help);
        }
        members.push(Member { upstream, weight, tier });
    }
    service::members(&several, members, &mut validation.faults)
}

/// Returns the upstream of this name. A dangling name has been reported already.
fn upstream(
    validation: &mut Validation<'_>,
    place: &FaultPlace<'_>,
    name: Option<&str>,
    upstreams: &BTreeMap<Name, Arc<Upstream>>,
) -> Option<Arc<Upstream>> {
    if name.is_none() {
        validation.missing_reference(place, Kind::Upstream);
    }
    upstreams.get(name?).cloned()
}
