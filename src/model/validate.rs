//! Validation: turns documents into a [`Model`], or returns all faults at once.
//!
//! An entity with a fault can still be referred to by its name, and a fault reported by decoding is not
//! reported again. If a file cannot be parsed, names that it might declare are not reported as dangling.

mod connections;
mod reuse;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;
use jiff::Timestamp;

use crate::config::document::listener::ListenerProtocol;
use crate::config::document::{self, Declared, Document, Kind, Origin};
use crate::config::material::NamedFiles;
use crate::config::{Level, Violation};
use crate::memo::{Same, Shared, changes};
use crate::model::Model;
use crate::model::certificate::{Certificates, Sources};
use crate::model::documents::{Documents, Site};
use crate::model::fleet::{self, Fleet};
use crate::model::listener::{self, Listener};
use crate::model::matching::StringMatch;
use crate::model::name::{Name, Scope};
use crate::model::notify;
use crate::model::passthrough::Passthrough;
use crate::model::place::{Faults, Place, code};
use crate::model::raw;
use crate::model::resolver;
use crate::model::rollout;
use crate::model::route::{self, HostMatch, PathMatch, Route};
use crate::model::service::hash;
use crate::model::service::{self, HostHeader, Member, Service};
use crate::model::target::{self, Candidate, Target};
use crate::model::tls::Tls;
use crate::model::upstream::{self, Upstream};
use crate::model::validate::reuse::{Material, RouteInput, Scopes, ServiceInput, UpstreamInput};

pub use reuse::Resolved;

/// Result of a validation without errors.
#[derive(Debug)]
pub struct Meaning {
    /// Resolved configuration.
    pub model: Model,
    /// Warnings: valid settings that are probably not meant.
    pub warnings: Vec<Violation>,
    /// Time at which the warnings change although no input changed, because certificates expire.
    pub until: Option<Timestamp>,
    /// Cache for the next validation.
    pub resolved: Resolved,
}

/// Validates all documents together. `named_files` hold keys and certificates; without `now`, no certificate
/// counts as expired. An entity whose inputs did not change is reused from `last`.
///
/// # Errors
///
/// Returns every fault of validation. The caller adds those of decoding.
pub fn validate(
    documents: &Documents,
    named_files: &NamedFiles,
    now: Option<Timestamp>,
    last: &Resolved,
) -> Result<Meaning, Vec<Violation>> {
    let mut validation = Validation {
        documents,
        whole: documents.of_files().all(|document| document.whole),
        sources: Sources { files: named_files, now },
        certificates: Arc::default(),
        faults: Faults::default(),
    };
    let (model, resolved) = validation.model(last);
    let Faults { violations: warnings, until } = validation.faults;
    match warnings.iter().any(|violation| violation.level == Level::Error) {
        true => Err(warnings),
        false => Ok(Meaning { model, warnings, until, resolved }),
    }
}

struct Validation<'a> {
    documents: &'a Documents,
    /// True if every text could be read to its end, so that all names are known.
    whole: bool,
    sources: Sources<'a>,
    /// Resolved certificates; empty until they are validated.
    certificates: Arc<Certificates>,
    faults: Faults,
}

/// Entity with its name and place.
struct Named<'a, T> {
    /// Declared name; a placeholder if it is missing or invalid.
    name: Name,
    /// True for the first entity of its name. Others are only checked for further faults.
    counts: bool,
    declared: &'a Declared<T>,
    document: &'a Arc<Document>,
    /// Index in the document's list of its kind.
    index: usize,
}

impl<'a, T> Named<'a, T> {
    fn place(&self) -> Place<'a> {
        Place::new(self.document, &self.declared.path)
    }

    fn site(&self) -> Site {
        Site { document: Same(self.document.clone()), index: self.index }
    }
}

impl<'a> Validation<'a> {
    fn model(&mut self, last: &Resolved) -> (Model, Resolved) {
        let mut resolved = Resolved { documents: self.documents.clone(), ..last.clone() };
        let fleets = self.named(Kind::Fleet, |document| &document.fleets, |fleet| fleet.name.as_deref());
        let listeners = self.named(Kind::Listener, |document| &document.listeners, |it| it.name.as_deref());
        let certificates =
            self.named(Kind::Certificate, |document| &document.certificates, |it| it.name.as_deref());

        let fleets = self.fleets_in_order(fleets);
        self.certificates = Arc::new(self.certificates(certificates));
        self.upstreams(last, &mut resolved);
        self.services(last, &mut resolved);
        let (upstreams, services) = (&resolved.upstreams.entities, &resolved.services.entities);
        let named = listeners.iter().filter(|listener| listener.counts);
        let mut listener_names: Vec<Name> = named.map(|listener| listener.name.clone()).collect();
        let listeners = self.listeners(listeners, &fleets, services, upstreams);
        if listener_names.is_empty() {
            listener_names.extend(listeners.iter().map(|listener| listener.name.clone()));
        }
        let fleet_names = fleets.iter().map(|fleet| fleet.name.clone()).chain([Name::default_fleet()]);
        resolved.scopes = Scopes { fleets: fleet_names.collect(), listeners: listener_names };
        let passthroughs = self.routes(last, &mut resolved);
        let raw = raw::resolve(self.documents, &listeners, self.whole, &mut self.faults);
        let certificates = self.certificates.iter();
        let certificates = certificates.filter_map(|(name, it)| Some((name.clone(), it.clone()?))).collect();
        let resolver = resolver::resolve(self.documents, &mut self.faults);
        let rollout = rollout::resolve(self.documents, &mut self.faults);
        let notify = notify::resolve(self.documents, &mut self.faults);
        let told = resolved.upstreams.told().chain(resolved.services.told()).chain(resolved.routes.told());
        self.faults.violations.extend(told.cloned());
        let model = Model {
            fleets,
            listeners,
            certificates,
            routes: resolved.routes.entities.clone(),
            passthroughs,
            services: resolved.services.entities.clone(),
            upstreams: resolved.upstreams.entities.clone(),
            resolver,
            rollout,
            notify,
            raw,
        };
        (model, resolved)
    }

    /// Returns the entities of a kind, sorted by name. Reports a duplicate name as a fault.
    fn named<T>(
        &mut self,
        kind: Kind,
        list: fn(&Document) -> &Vec<Declared<T>>,
        name: fn(&T) -> Option<&str>,
    ) -> Vec<Named<'a, T>> {
        let mut all = self.odd(kind, list, name);
        all.extend(self.documents.sites(kind).map(|(name, site)| first_of(name, site, list)));
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Returns the entity of a kind with this name; for a duplicate name, the first.
    fn one<T>(
        &self,
        kind: Kind,
        list: fn(&Document) -> &Vec<Declared<T>>,
        name: &Name,
    ) -> Option<Named<'a, T>> {
        let site = self.documents.site(kind, name.as_str())?;
        Some(first_of(name, site, list))
    }

    /// Returns the entities of a kind with a duplicate, missing or invalid name. Reports each as a fault.
    fn odd<T>(
        &mut self,
        kind: Kind,
        list: fn(&Document) -> &Vec<Declared<T>>,
        name: fn(&T) -> Option<&str>,
    ) -> Vec<Named<'a, T>> {
        let mut odd = Vec::new();
        for Site { document: Same(document), index } in self.documents.odd(kind) {
            let declared = &list(document)[*index];
            let place = Place::new(document, &declared.path);
            let name = self.name(kind, &place, name(&declared.entity));
            if let Some(name) = &name {
                self.is_second(kind, list, name, &place);
            }
            let name = name.unwrap_or_else(Name::unnamed);
            odd.push(Named { name, counts: false, declared, document, index: *index });
        }
        odd
    }

    fn is_second<T>(
        &mut self,
        kind: Kind,
        list: fn(&Document) -> &Vec<Declared<T>>,
        name: &Name,
        place: &Place<'_>,
    ) {
        let first = self.one(kind, list, name).map(|first| first.place());
        let message = format!("another {} is named `{name}`", kind.singular());
        let help = format!("names are unique among {}", kind.plural());
        let related = first.map(|first| first.key("name").related("first declared here"));
        let related = related.into_iter().collect();
        self.faults.error_with(&place.key("name"), code::DUPLICATE_NAME, message, help, related);
    }

    fn name(&mut self, kind: Kind, place: &Place<'_>, text: Option<&str>) -> Option<Name> {
        let place_of_name = place.key("name");
        match text {
            None => {
                let help =
                    format!("give the {} a name that is unique among {}", kind.singular(), kind.plural());
                self.faults.missing(&place_of_name, "`name`", &help);
                None
            }
            Some(text) => Name::parse(text).or_else(|| {
                let help = format!("a name is made of {}", Name::RULE);
                self.faults.wrong(&place_of_name, format!("`{text}` is not a name"), help);
                None
            }),
        }
    }

    /// Resolves `list` to a scope of known names. Unknown names are reported and left out.
    fn scope<'n>(
        &mut self,
        place: &Place<'_>,
        kind: Kind,
        list: &[String],
        known: impl Fn() -> Vec<&'n Name>,
    ) -> Scope {
        if list.is_empty() {
            return Scope::All;
        }
        let known = known();
        let mut names = Vec::new();
        for (index, text) in list.iter().enumerate() {
            match known.iter().find(|name| name.as_str() == text) {
                Some(name) => names.push((*name).clone()),
                None if !self.whole => {}
                None => {
                    let candidates = known.iter().map(|name| name.as_str());
                    self.faults.dangling(&place.index(index), kind.singular(), text, candidates);
                }
            }
        }
        Scope::Only(names)
    }

    /// True if there are raw resources and no route that the default listener could serve. The default
    /// listener is not added then.
    fn is_raw_alone(&self) -> bool {
        let has_raw = self.documents.of(Kind::Raw).any(|document| !document.raw.is_empty());
        has_raw && self.documents.of(Kind::Route).all(|document| document.routes.is_empty())
    }

    fn listeners(
        &mut self,
        declared: Vec<Named<'a, document::listener::Listener>>,
        fleets: &[Fleet],
        services: &OrdMap<Name, Arc<Service>>,
        upstreams: &OrdMap<Name, Arc<Upstream>>,
    ) -> Vec<Listener> {
        if declared.is_empty() && self.whole {
            return if self.is_raw_alone() { Vec::new() } else { vec![Listener::default_listener()] };
        }
        let fleet_names: Vec<Name> = fleets.iter().map(|fleet| fleet.name.clone()).collect();
        let mut listeners: Vec<(Place<'_>, Listener)> = Vec::new();
        for named in declared {
            let place = named.place();
            let Named { name, counts, declared, .. } = named;
            let scope = self.fleets(&place, &declared.entity.fleets, &fleet_names);
            if declared.entity.protocol == Some(ListenerProtocol::FailoverGateway) {
                self.names_by_sni(&place, upstreams.keys());
            }
            let is_tcp = declared.entity.protocol == Some(ListenerProtocol::Tcp);
            let service = match declared.entity.service.as_deref() {
                service if is_tcp => self.service_of(&place, service, services),
                _ => None,
            };
            if let Some(service) = &service {
                self.for_connections(&place.key("service"), service, false);
            }
            let known = connections::known(&self.certificates, self.whole, self.sources);
            let listener = listener::resolve(name, scope, service, &place, declared, known, &mut self.faults);
            let Some(listener) = listener else { continue };
            let taken = listeners.iter().find(|(_, other)| {
                other.address == listener.address && other.fleets.overlaps(&listener.fleets)
            });
            if let Some((first, other)) = taken {
                let message = format!("listener `{}` has the address {} too", other.name, listener.address);
                let related = vec![first.key("address").related("first used here")];
                let help = "give each listener of a fleet an address of its own".to_owned();
                self.faults.error_with(&place.key("address"), code::SAME_ADDRESS, message, help, related);
            }
            if counts {
                listeners.push((place, listener));
            }
        }
        listeners.into_iter().map(|(_, listener)| listener).collect()
    }

    /// Resolves the fleets in declaration order: a node belongs to the first that selects it.
    fn fleets_in_order(&mut self, mut declared: Vec<Named<'a, document::fleet::Fleet>>) -> Vec<Fleet> {
        declared.sort_by(|a, b| {
            (a.document.file(), &a.declared.path).cmp(&(b.document.file(), &b.declared.path))
        });
        let mut fleets = Vec::new();
        for named in declared {
            let place = named.place();
            let Named { name, counts, declared, .. } = named;
            let fleet = fleet::resolve(name, &place, declared, &mut self.faults);
            fleets.extend(counts.then_some(fleet));
        }
        fleets
    }

    /// Resolves a scope of fleets. `names` are the declared ones; the default fleet always exists.
    fn fleets(&mut self, place: &Place<'_>, list: &[String], names: &[Name]) -> Scope {
        let default = Name::default_fleet();
        self.scope(&place.key("fleets"), Kind::Fleet, list, || names.iter().chain([&default]).collect())
    }

    /// Resolves again the upstreams that changed, whose users require something else of them, or whose keys
    /// and certificates may have changed.
    fn upstreams(&mut self, last: &Resolved, resolved: &mut Resolved) {
        const KIND: Kind = Kind::Upstream;
        fn list(document: &Document) -> &Vec<Declared<document::upstream::Upstream>> {
            &document.upstreams
        }
        let documents = self.documents;
        let are_as_used = [Kind::Service, Kind::Route]
            .iter()
            .all(|kind| documents.changed(*kind, &last.documents).is_empty());
        if !are_as_used {
            resolved.uses = Arc::new(uses(documents));
        }
        let material = Shared(Arc::new(Material {
            certificates: self.certificates.clone(),
            named_files: self.sources.files.clone(),
            now: self.sources.now,
            whole: self.whole,
        }));
        let mut asked: BTreeSet<Name> =
            documents.changed(KIND, &last.documents).into_iter().cloned().collect();
        asked.extend(documents.changed_targets(&last.documents).cloned());
        if !Arc::ptr_eq(&last.uses, &resolved.uses) {
            let used = last.uses.keys().chain(resolved.uses.keys());
            asked.extend(used.filter(|name| last.uses.get(*name) != resolved.uses.get(*name)).cloned());
        }
        // The passing of time affects only the upstreams of which a certificate has expired since.
        let known = last.material.clone().filter(|known| known.0.is_alike(&material.0));
        let has_passed = |until: Timestamp| self.sources.now.is_some_and(|now| until <= now);
        let is_due = |name: &&Name| known.is_none() || last.upstreams.until(name).is_some_and(has_passed);
        asked.extend(last.in_tls.iter().filter(is_due).cloned());
        for name in asked {
            let input = self.one(KIND, list, &name).map(|named| {
                let added = documents.added_together(name.as_str());
                let all_added = added.as_ref().map(|added| added.0.as_slice()).unwrap_or_default();
                let mentions_tls = reuse::mentions_tls(&named.declared.entity, all_added);
                UpstreamInput {
                    name: name.clone(),
                    site: named.site(),
                    added,
                    uses: resolved.uses.get(&name).copied().unwrap_or_default(),
                    material: mentions_tls.then(|| material.clone()),
                }
            });
            match input.as_ref().is_some_and(|input| input.material.is_some()) {
                true => drop(resolved.in_tls.insert(name.clone())),
                false => drop(resolved.in_tls.remove(&name)),
            }
            resolved.upstreams.put(&name, input, UpstreamInput::resolve);
        }
        for named in self.odd(KIND, list, |it| it.name.as_deref()) {
            let (name, site, material) = (named.name.clone(), named.site(), Some(material.clone()));
            let input = UpstreamInput { name, site, added: None, uses: upstream::Uses::default(), material };
            self.faults.violations.extend(input.resolve().faults);
        }
        resolved.material = known.or(Some(material));
        let in_tls = resolved.in_tls.iter();
        self.faults.hold_until(in_tls.filter_map(|name| resolved.upstreams.until(name)));
    }

    fn resolve_upstream<'p>(
        &mut self,
        name: &Name,
        place: &Place<'p>,
        declared: &document::upstream::Upstream,
        added: Vec<(&'p Document, &'p Declared<document::target::Target>)>,
        uses: upstream::Uses,
    ) -> Upstream {
        let tls = self.upstream_tls(name, place, declared);
        let targets = self.targets(name, tls.as_deref(), place, declared, added);
        let upstream = upstream::resolve(name.clone(), targets, uses, place, declared, &mut self.faults);
        let upstream = Upstream { tls, ..upstream };
        self.upstream_protocol(place, &upstream);
        upstream
    }

    /// Resolves the targets that get traffic (those of the upstream itself, then those added over REST).
    /// Returns them with the number of tiers.
    fn targets<'p>(
        &mut self,
        name: &Name,
        tls: Option<&Tls>,
        place: &Place<'p>,
        upstream: &document::upstream::Upstream,
        added: Vec<(&'p Document, &'p Declared<document::target::Target>)>,
    ) -> (Vec<Target>, u32) {
        let place = place.key("targets");
        let own = upstream.targets.as_deref().unwrap_or_default();
        let from_file = matches!(place.document.origin, Origin::File(_));
        if own.is_empty() && from_file && added.is_empty() {
            let help = "list at least one, such as `- target: 10.0.0.1:8080`".to_owned();
            self.faults.error(&place, code::NO_TARGETS, "an upstream needs a target".to_owned(), help);
        }
        let own = own.iter().enumerate().map(|(index, target)| (place.index(index), target));
        let added =
            added.into_iter().map(|(document, target)| (Place::new(document, &target.path), &target.entity));
        let mut candidates: Vec<Candidate<'_>> = Vec::new();
        for (place, target) in own.chain(added) {
            let Some(mut candidate) = target::resolve(place, target, upstream, &mut self.faults) else {
                continue;
            };
            self.target_tls(name, &mut candidate, target, tls);
            match candidates.iter_mut().find(|other| other.address == candidate.address) {
                Some(first) => self.same_target(first, candidate),
                None => candidates.push(candidate),
            }
        }
        self.tiers(candidates)
    }

    /// Merges a target that is listed twice, with a warning. Envoy keeps an address once, in its lowest
    /// priority; this does the same.
    fn same_target<'p>(&mut self, first: &mut Candidate<'p>, second: Candidate<'p>) {
        let message = format!("target `{}` is listed twice; it is kept once", second.address);
        let help = "remove one of them, or add up their weights".to_owned();
        self.faults.warning(&second.place.key("target"), code::SAME_TARGET, message, help);
        match (first.is_used(), second.is_used()) {
            (true, true) => first.priority = first.priority.min(second.priority),
            (false, true) => *first = second,
            (_, false) => {}
        }
    }

    /// Turns the declared priorities into tiers without gaps, as Envoy's documentation requires. Tier 0 is
    /// that of priority 0 even if no target has it, so that a standby stays one when the last primary is
    /// removed.
    fn tiers(&mut self, candidates: Vec<Candidate<'_>>) -> (Vec<Target>, u32) {
        let declared = candidates.iter().map(|candidate| candidate.priority);
        let priorities: BTreeSet<u32> = declared.chain([0]).collect();
        let tier = |priority| u32::try_from(priorities.range(..priority).count()).unwrap_or(u32::MAX);
        let gap = candidates
            .iter()
            .find(|candidate| candidate.priority > 1 && tier(candidate.priority) < candidate.priority);
        if let Some(candidate) = gap {
            let message =
                format!("priority {} follows a gap; it is moved up to the one before", candidate.priority);
            let help = "number the priorities 0, 1, 2, … without gaps".to_owned();
            self.faults.warning(&candidate.place.key("priority"), code::PRIORITY_GAP, message, help);
        }
        let mut targets: Vec<Target> = candidates
            .into_iter()
            .filter(Candidate::is_used)
            .map(|candidate| Target {
                tier: tier(candidate.priority),
                address: candidate.address,
                weight: candidate.weight,
                locality: candidate.locality,
                health_check: candidate.health_check,
                tls: candidate.tls,
            })
            .collect();
        // The vector reuses the allocation of the candidates, which are larger.
        targets.shrink_to_fit();
        targets.sort_by_key(|target| target.tier);
        (targets, tier(u32::MAX))
    }

    /// Resolves again the services that changed, or whose upstreams changed.
    fn services(&mut self, last: &Resolved, resolved: &mut Resolved) {
        const KIND: Kind = Kind::Service;
        fn list(document: &Document) -> &Vec<Declared<document::service::Service>> {
            &document.services
        }
        let mut asked: BTreeSet<Name> =
            self.documents.changed(KIND, &last.documents).into_iter().cloned().collect();
        for changed in changes(&last.upstreams.entities, &resolved.upstreams.entities) {
            asked.extend(last.services_of(changed.key).cloned());
        }
        for name in asked {
            let named = self.one(KIND, list, &name);
            let input = named.map(|named| self.service_input(&named, &resolved.upstreams.entities));
            resolved.put_service(&name, input);
        }
        for named in self.odd(KIND, list, |it| it.name.as_deref()) {
            let input = self.service_input(&named, &resolved.upstreams.entities);
            self.faults.violations.extend(input.resolve().faults);
        }
    }

    fn service_input(
        &mut self,
        named: &Named<'a, document::service::Service>,
        upstreams: &OrdMap<Name, Arc<Upstream>>,
    ) -> ServiceInput {
        let (place, entity) = (named.place(), &named.declared.entity);
        let several = place.key("upstreams");
        let members = entity.upstreams.iter().enumerate();
        let members = members
            .filter_map(|(index, member)| Some((several.index(index).key("name"), member.name.as_deref()?)));
        let one = entity.upstream.as_deref().map(|name| (place.key("upstream"), name));
        let mut found = Vec::new();
        for (place, name) in one.into_iter().chain(members) {
            match upstreams.get(name) {
                Some(upstream) => found.push(Shared(upstream.clone())),
                None => self.dangling(&place, Kind::Upstream, name, upstreams.keys()),
            }
        }
        ServiceInput { name: named.name.clone(), site: named.site(), upstreams: found }
    }

    fn resolve_service(
        &mut self,
        name: &Name,
        place: &Place<'_>,
        declared: &document::service::Service,
        upstreams: &BTreeMap<Name, Arc<Upstream>>,
    ) -> Option<Service> {
        let policy = service::Declared {
            timeout: declared.timeout,
            try_timeout: declared.try_timeout,
            retries: declared.retries.as_ref(),
        };
        let policy = service::resolve(place, policy, None, &mut self.faults);
        let members = self.members(place, declared, upstreams);
        let host_header = declared.host_header.as_deref();
        let host_header = HostHeader::resolve(&place.key("host_header"), host_header, &mut self.faults);
        let hash_by = hash::resolve(&place.key("hash_by"), &declared.hash_by, &mut self.faults);
        self.service_protocol(place, &members, &hash_by);
        let websocket = declared.websocket.unwrap_or(document::service::Service::WEBSOCKET);
        let is_served = !members.is_empty();
        is_served.then(|| Service { name: name.clone(), members, policy, host_header, hash_by, websocket })
    }

    /// Resolves the members of a service; empty if no valid upstream is named.
    fn members(
        &mut self,
        place: &Place<'_>,
        service: &document::service::Service,
        upstreams: &BTreeMap<Name, Arc<Upstream>>,
    ) -> Vec<Member> {
        let several = place.key("upstreams");
        if service.upstreams.is_empty() {
            let one = self.upstream(&place.key("upstream"), service.upstream.as_deref(), upstreams);
            return one.map(|upstream| Member { upstream, weight: 1, tier: 0 }).into_iter().collect();
        }
        if service.upstream.is_some() {
            let message = "`upstream` and `upstreams` both say where requests go".to_owned();
            let help = "leave one of them out".to_owned();
            self.faults.error(&place.key("upstream"), code::CONFLICT, message, help);
        }
        let mut members: Vec<Member> = Vec::new();
        for (index, declared) in service.upstreams.iter().enumerate() {
            let place = several.index(index);
            let (weight, tier) = service::share(&place, declared, &mut self.faults);
            let Some(name) = declared.name.as_deref() else {
                self.faults.missing(&place.key("name"), "`name`", "name the upstream that serves");
                continue;
            };
            let Some(upstream) = self.upstream(&place.key("name"), Some(name), upstreams) else { continue };
            if members.iter().any(|other| other.upstream.name == upstream.name) {
                let message = format!("upstream `{}` is a member of this service already", upstream.name);
                let help = "list it once, with one weight".to_owned();
                self.faults.error(&place.key("name"), code::SAME_MEMBER, message, help);
            }
            members.push(Member { upstream, weight, tier });
        }
        service::members(&several, members, &mut self.faults)
    }

    /// Returns the upstream of this name. A dangling name has been reported already.
    fn upstream(
        &mut self,
        place: &Place<'_>,
        name: Option<&str>,
        upstreams: &BTreeMap<Name, Arc<Upstream>>,
    ) -> Option<Arc<Upstream>> {
        if name.is_none() {
            self.missing_reference(place, Kind::Upstream);
        }
        upstreams.get(name?).cloned()
    }

    fn missing_reference(&mut self, place: &Place<'_>, kind: Kind) {
        let help = format!("name the {} that serves", kind.singular());
        self.faults.missing(place, &format!("`{}`", kind.singular()), &help);
    }

    fn dangling<'n>(
        &mut self,
        place: &Place<'_>,
        kind: Kind,
        name: &str,
        names: impl IntoIterator<Item = &'n Name>,
    ) {
        if self.whole {
            let names = names.into_iter().map(Name::as_str);
            self.faults.dangling(place, kind.singular(), name, names);
        }
    }

    /// Resolves again the routes that changed, or whose services changed. SNI routes are few, and are
    /// resolved each time.
    fn routes(&mut self, last: &Resolved, resolved: &mut Resolved) -> Vec<Passthrough> {
        const KIND: Kind = Kind::Route;
        fn list(document: &Document) -> &Vec<Declared<document::route::Route>> {
            &document.routes
        }
        let mut asked: BTreeSet<Name> =
            self.documents.changed(KIND, &last.documents).into_iter().cloned().collect();
        for name in &asked {
            let is_scoped = |named: Named<'a, document::route::Route>| {
                let entity = &named.declared.entity;
                !entity.listeners.is_empty() || !entity.fleets.is_empty()
            };
            match self.one(KIND, list, name).is_some_and(is_scoped) {
                true => drop(resolved.scoped.insert(name.clone())),
                false => drop(resolved.scoped.remove(name)),
            }
        }
        asked.extend(resolved.scoped.iter().cloned());
        for changed in changes(&last.services.entities, &resolved.services.entities) {
            asked.extend(last.routes_of(changed.key).cloned());
        }
        let protocols = self.protocols();
        let mut passthroughs = Vec::new();
        for name in asked {
            let input = match self.one(KIND, list, &name) {
                Some(named) if self.is_of_connections(&named, &protocols) => {
                    passthroughs.push(named);
                    None
                }
                named => {
                    named.map(|named| self.route_input(&named, &resolved.scopes, &resolved.services.entities))
                }
            };
            resolved.put_route(&name, input);
        }
        for named in self.odd(KIND, list, |it| it.name.as_deref()) {
            if self.is_of_connections(&named, &protocols) {
                passthroughs.push(named);
                continue;
            }
            let input = self.route_input(&named, &resolved.scopes, &resolved.services.entities);
            self.faults.violations.extend(input.resolve().faults);
        }
        let mut changed = changes(&last.routes.entities, &resolved.routes.entities);
        if !changed.all(|it| it.old.zip(it.new).is_some_and(|(old, new)| old.asks_for_the_same(new))) {
            self.same_requests(&resolved.routes.entities);
        }
        self.passthroughs(passthroughs, &resolved.scopes.fleets, &resolved.services.entities)
    }

    fn route_input(
        &mut self,
        named: &Named<'a, document::route::Route>,
        scopes: &Scopes,
        services: &OrdMap<Name, Arc<Service>>,
    ) -> RouteInput {
        let (place, entity) = (named.place(), &named.declared.entity);
        let known = || scopes.listeners.iter().collect();
        let listeners = self.scope(&place.key("listeners"), Kind::Listener, &entity.listeners, known);
        let fleets = self.fleets(&place, &entity.fleets, &scopes.fleets);
        let service = entity.service.as_deref();
        let service = service.and_then(|it| self.service_of(&place, Some(it), services));
        let (name, site) = (named.name.clone(), named.site());
        RouteInput { name, site, listeners, fleets, service: service.map(Shared) }
    }

    fn resolve_route(
        &mut self,
        references: route::References,
        place: &Place<'_>,
        declared: &Declared<document::route::Route>,
    ) -> Option<Route> {
        if let Some(service) = &references.service {
            self.for_requests(&place.key("service"), service);
        }
        route::resolve(references, place, declared, &mut self.faults)
    }

    /// Reports two routes that match exactly the same requests: the precedence between them would be
    /// undefined.
    fn same_requests(&mut self, routes: &OrdMap<Name, Arc<Route>>) {
        let place = |name| self.one(Kind::Route, |document| &document.routes, name).map(|it| it.place());
        let routes = routes.iter().filter_map(|(name, route)| Some((place(name)?, route)));
        let routes: Vec<(Place<'a>, &Arc<Route>)> = routes.collect();
        let mut asked: HashMap<Asked<'_>, Vec<usize>> = HashMap::new();
        for (index, (place, route)) in routes.iter().enumerate() {
            let mut twin = None;
            for host in &route.hosts {
                for path in &route.paths {
                    let others =
                        asked.entry((host, path, &route.methods, &route.headers, &route.query)).or_default();
                    let other = others.iter().find(|other| {
                        let other = routes[**other].1;
                        other.listeners.overlaps(&route.listeners) && other.fleets.overlaps(&route.fleets)
                    });
                    twin = twin.or(other.map(|other| (*other, host, path)));
                    others.push(index);
                }
            }
            if let Some((other, host, path)) = twin.filter(|(other, ..)| *other != index) {
                let (first, other) = &routes[other];
                let message =
                    format!("route `{}` asks for the same requests: host {host}, path {path}", other.name);
                let help = "let them differ in a host, a path, a method, a header or a query".to_owned();
                let related = vec![first.key("name").related("the other route")];
                self.faults.error_with(&place.key("name"), code::SAME_REQUESTS, message, help, related);
            }
        }
    }
}

type Asked<'r> = (
    &'r HostMatch,
    &'r PathMatch,
    &'r Vec<String>,
    &'r BTreeMap<String, StringMatch>,
    &'r BTreeMap<String, StringMatch>,
);

/// Returns the first entity of a name.
fn first_of<'a, T>(
    name: &Name,
    Site { document: Same(document), index }: &'a Site,
    list: fn(&Document) -> &Vec<Declared<T>>,
) -> Named<'a, T> {
    let declared = &list(document)[*index];
    Named { name: name.clone(), counts: true, declared, document, index: *index }
}

/// Returns the requirements of services and routes on each upstream.
fn uses(documents: &Documents) -> BTreeMap<Name, upstream::Uses> {
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
        if timeout.is_none() && !by_name {
            continue;
        }
        let members = service.upstreams.iter().map(|member| &member.name).chain([&service.upstream]);
        for upstream in members.filter_map(|name| Name::parse(name.as_deref()?)) {
            let uses = uses.entry(upstream).or_default();
            uses.shortest_try = uses.shortest_try.into_iter().chain(timeout).min();
            uses.by_name |= by_name;
        }
    }
    uses
}
