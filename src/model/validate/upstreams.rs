//! Validation of upstreams.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::config::document::{self, Declared, Document, Kind};
use crate::config::values::Switch;
use crate::memo::{ArcEq, ArcPtrEq};
use crate::model::documents::{Added, Documents, Site};
use crate::model::name::Name;
use crate::model::place::FaultPlace;
use crate::model::tls::{self, UpstreamTls};
use crate::model::upstream::{self, Upstream};
use crate::model::validate::context::{self, Named, Validation};
use crate::model::validate::outcome::{EntityOutcome, TlsMaterial, alone};
use crate::model::validate::{protocols, targets};

/// All inputs of an upstream.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct UpstreamInput {
    pub(super) name: Name,
    pub(super) site: Site,
    /// Targets added over REST.
    pub(super) added: Option<ArcPtrEq<Added>>,
    pub(super) uses: upstream::Uses,
    /// Keys and certificates, if the upstream or one of its targets mentions TLS.
    pub(super) material: Option<ArcEq<TlsMaterial>>,
}

impl UpstreamInput {
    /// Collects the input of a declared upstream.
    pub(super) fn new(
        documents: &Documents,
        named: &Named<'_, document::upstream::Upstream>,
        uses: upstream::Uses,
        material: &ArcEq<TlsMaterial>,
    ) -> Self {
        let added = documents.added_together(named.name.as_str());
        let all_added = added.as_ref().map(|added| added.0.as_slice()).unwrap_or_default();
        let material = mentions_tls(&named.declared.entity, all_added).then(|| material.clone());
        Self { name: named.name.clone(), site: named.site(), added, uses, material }
    }

    pub(super) fn resolve(&self) -> EntityOutcome<Upstream> {
        let (declared, place) = self.site.declared(|document| &document.upstreams);
        let added = self.added.iter().flat_map(|added| added.0.iter());
        let added = added.filter_map(|document| Some((&**document, &document.target.as_ref()?.1)));
        let material = self.material.as_ref().map(|material| &*material.0);
        alone(material, |it| {
            Some(upstream(it, &self.name, &place, &declared.entity, added.collect(), self.uses))
        })
    }
}

/// True if the upstream or one of its targets mentions TLS.
fn mentions_tls(upstream: &document::upstream::Upstream, added: &[Arc<Document>]) -> bool {
    let own = upstream.targets.iter().flatten();
    let added = added.iter().filter_map(|document| Some(&document.target.as_ref()?.1.entity));
    upstream.tls.is_some() || own.chain(added).any(|target| target.tls.is_some())
}

fn upstream<'p>(
    validation: &mut Validation<'_>,
    name: &Name,
    place: &FaultPlace<'p>,
    declared: &document::upstream::Upstream,
    added: Vec<(&'p Document, &'p Declared<document::target::Target>)>,
    uses: upstream::Uses,
) -> Upstream {
    let tls = upstream_tls(validation, name, place, declared);
    let targets = targets::resolve(validation, name, tls.as_deref(), place, declared, added);
    let upstream = upstream::resolve(name.clone(), targets, uses, place, declared, &mut validation.faults);
    let upstream = Upstream { tls, ..upstream };
    protocols::check_upstream(validation, place, &upstream);
    upstream
}

/// Resolves `tls` of an upstream.
fn upstream_tls(
    validation: &mut Validation<'_>,
    name: &Name,
    place: &FaultPlace<'_>,
    upstream: &document::upstream::Upstream,
) -> Option<Arc<UpstreamTls>> {
    let declared = match &upstream.tls {
        Some(Switch::On(declared)) => declared,
        _ => return None,
    };
    let known = context::known(&validation.certificates, validation.is_complete, validation.sources);
    let owner = format!("upstreams/{name}");
    let tls = tls::resolve(&owner, &place.key("tls"), declared, None, known, &mut validation.faults);
    Some(Arc::new(tls))
}

/// Returns the requirements of services and routes on each upstream.
pub(super) fn uses(documents: &Documents) -> BTreeMap<Name, upstream::Uses> {
    let services = || {
        let sites = documents.sites(Kind::Service);
        sites.map(|(name, site)| (name, &site.document.0.services[site.index].entity))
    };
    let routes = documents.sites(Kind::Route).map(|(_, site)| &site.document.0.routes[site.index].entity);
    let by_service = services().filter_map(|(name, service)| Some((name.as_str(), service.try_timeout?)));
    let by_route = routes.filter_map(|route| Some((route.service.as_deref()?, route.try_timeout?)));
    let mut shortest: HashMap<&str, Duration> = HashMap::new();
    for (service, timeout) in by_service.chain(by_route).filter(|(_, timeout)| !timeout.0.is_zero()) {
        let entry = shortest.entry(service).or_insert(timeout.0);
        *entry = timeout.0.min(*entry);
    }
    let mut uses: BTreeMap<Name, upstream::Uses> = BTreeMap::new();
    for (name, service) in services() {
        let timeout = shortest.get(name.as_str()).copied();
        let by_name = service.host_header.as_deref() == Some("target");
        let by_name_and_port = service.host_header.as_deref() == Some("target_port");
        if timeout.is_none() && !by_name && !by_name_and_port {
            continue;
        }
        let members = service.upstreams.iter().map(|member| &member.name).chain([&service.upstream]);
        for upstream in members.filter_map(|name| Name::parse(name.as_deref()?)) {
            let uses = uses.entry(upstream).or_default();
            uses.shortest_try = uses.shortest_try.into_iter().chain(timeout).min();
            uses.by_name |= by_name;
            uses.by_name_and_port |= by_name_and_port;
        }
    }
    uses
}
