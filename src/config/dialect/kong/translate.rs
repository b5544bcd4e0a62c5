//! Second step: the entities of all documents to native units.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::config::code;
use crate::config::dialect::kong::certificates::{self, HTTP_NAME, HTTPS_NAME};
use crate::config::dialect::kong::entity::Entity;
use crate::config::dialect::kong::kind::EntityKind;
use crate::config::dialect::kong::read::KongDocument;
use crate::config::dialect::kong::routes::{self, Destination};
use crate::config::dialect::kong::teller::Teller;
use crate::config::dialect::kong::world::{Surroundings, World};
use crate::config::dialect::kong::{services, upstreams};
use crate::config::dialect::listeners::NativeListeners;
use crate::config::dialect::note::Fate;
use crate::config::dialect::translation::{Unit, Units};

/// Units, with what each was made of.
#[derive(Debug, Clone, Default)]
pub struct KongTranslation {
    /// Units by name.
    pub units: Units,
    made_of: HashMap<String, Ingredients>,
    surroundings: Surroundings,
    /// Environment of which the vaults read.
    variables: Arc<BTreeMap<String, String>>,
}

/// Entities and facts of which a unit is made.
#[derive(Debug, Clone, Default)]
struct Ingredients {
    entities: Vec<Arc<Entity>>,
    /// Upstream of which fields are read, and not its extent: that ends elsewhere when a target changes.
    upstream: Option<Arc<Entity>>,
    facts: Vec<String>,
}

impl PartialEq for Ingredients {
    fn eq(&self, other: &Self) -> bool {
        let is_same = |(ours, theirs): (&Arc<Entity>, &Arc<Entity>)| Arc::ptr_eq(ours, theirs);
        self.entities.len() == other.entities.len()
            && self.entities.iter().zip(&other.entities).all(is_same)
            && self.facts == other.facts
            && match (&self.upstream, &other.upstream) {
                (Some(ours), Some(theirs)) => {
                    let (ours, theirs) = (&ours.object, &theirs.object);
                    Arc::ptr_eq(ours, theirs)
                        || (ours.file == theirs.file
                            && ours.path == theirs.path
                            && ours.node.value == theirs.node.value)
                }
                (ours, theirs) => ours.is_none() && theirs.is_none(),
            }
    }
}

/// Translates the entities of all documents. A unit of which nothing changed since `last` is shared with it.
pub fn translate(
    documents: &[Arc<KongDocument>],
    native: &NativeListeners,
    variables: &Arc<BTreeMap<String, String>>,
    last: &KongTranslation,
) -> KongTranslation {
    let mut listeners = native.clone();
    let mut world = World::new(documents, &listeners, variables);
    if !native.any {
        listeners.http = vec![HTTP_NAME.to_owned()];
        if !certificates::shown(&world).is_empty() {
            listeners.https = vec![HTTPS_NAME.to_owned()];
        }
        world.listeners = listeners;
    }
    let surroundings = world.surroundings();
    let is_alike = surroundings == last.surroundings && *variables == last.variables;
    let mut maker = UnitMaker {
        last: is_alike.then_some(last),
        made: KongTranslation { surroundings, variables: variables.clone(), ..KongTranslation::default() },
    };
    let lost = conflicts(&world);
    maker.all(&world, &lost);
    if !native.any && !documents.is_empty() {
        maker.listeners(&world);
    }
    let faults = faults(&world, &lost);
    if !faults.notes.is_empty() {
        maker.made.units.insert("faults".to_owned(), Arc::new(faults));
    }
    maker.made
}

/// Maker of units, which takes those of the last translation of which nothing changed.
struct UnitMaker<'m> {
    last: Option<&'m KongTranslation>,
    made: KongTranslation,
}

impl UnitMaker<'_> {
    /// Makes the units of all entities.
    fn all(&mut self, world: &World<'_>, lost: &LostRoutes<'_>) {
        for service in world.all(EntityKind::Service) {
            self.service(world, service, lost);
        }
        for upstream in world.all(EntityKind::Upstream) {
            self.upstream(world, upstream);
        }
        for address in world.addresses() {
            let entities = world.callers_of_address(address).iter().copied().cloned().collect();
            let name = format!("address {}", upstreams::address_name(address));
            let entities = with_authorities(world, entities);
            let of = Ingredients { entities, ..Ingredients::default() };
            self.make(name, of, || upstreams::of_address(world, address));
        }
        for route in world.all(EntityKind::Route) {
            self.stray_route(world, route, lost);
        }
        for certificate in world.all(EntityKind::Certificate) {
            let entities = [certificate].into_iter().chain(world.owned(EntityKind::Sni, certificate));
            let of = Ingredients { entities: entities.copied().cloned().collect(), ..Ingredients::default() };
            let name = format!("certificate {}", world.certificate_name(certificate));
            self.make(name, of, || certificates::translate(world, certificate));
        }
    }

    /// Makes the listeners that a Kong has by default.
    fn listeners(&mut self, world: &World<'_>) {
        let entities = certificates::shown(world).into_iter().cloned().collect();
        let heads = world.documents.iter().filter_map(|document| document.head.as_ref());
        let facts = heads.map(|head| head.file.to_string()).collect();
        self.make("listeners".to_owned(), Ingredients { entities, facts, ..Ingredients::default() }, || {
            certificates::listeners(world)
        });
    }

    fn make(&mut self, name: String, of: Ingredients, make: impl FnOnce() -> Unit) {
        let known = self.last.and_then(|last| {
            let unit = last.units.get(&name)?;
            (last.made_of.get(&name) == Some(&of)).then(|| unit.clone())
        });
        let unit = known.unwrap_or_else(|| Arc::new(make()));
        // The first entity of a name counts; the second is a fault of its own.
        if !self.made.units.contains_key(&name) {
            self.made.units.insert(name.clone(), unit);
            self.made.made_of.insert(name, of);
        }
    }

    fn service(&mut self, world: &World<'_>, service: &Arc<Entity>, lost: &LostRoutes<'_>) {
        let routes = world.owned(EntityKind::Route, service);
        let upstream = world.upstream_of(service);
        let mut entities: Vec<Arc<Entity>> = vec![service.clone()];
        entities.extend(routes.iter().copied().cloned());
        let beside = match (upstream, world.address_of(service)) {
            (Some(upstream), _) => world.callers(upstream),
            (None, Some(address)) => world.callers_of_address(&address),
            (None, None) => &[],
        };
        // The name of the native upstream depends on the services beside this one only if there are several ways.
        if beside.len() > 1 {
            entities.extend(beside.iter().copied().cloned());
        }
        let entities = with_authorities(world, entities);
        let of = |route: &Arc<Entity>| lost.of(route);
        let facts = routes.iter().copied().flat_map(of).collect();
        let name = format!("service {}", world.name(service));
        self.make(name, Ingredients { entities, upstream: upstream.cloned(), facts }, || {
            services::translate(world, service, &of)
        });
    }

    fn upstream(&mut self, world: &World<'_>, upstream: &Arc<Entity>) {
        let mut entities = vec![upstream.clone()];
        entities.extend(world.owned(EntityKind::Target, upstream).iter().copied().cloned());
        entities.extend(world.callers(upstream).iter().copied().cloned());
        let entities = with_authorities(world, entities);
        let name = format!("upstream {}", world.name(upstream));
        self.make(name, Ingredients { entities, ..Ingredients::default() }, || {
            upstreams::translate(world, upstream)
        });
    }

    /// Translates a route that belongs to no service, or to one that is not there.
    fn stray_route(&mut self, world: &World<'_>, route: &Arc<Entity>, lost: &LostRoutes<'_>) {
        if world.owner(route, "service", EntityKind::Service).is_some() {
            return;
        }
        let facts = lost.of(route);
        let name = format!("route {}", world.name(route));
        let make = || {
            let (mut unit, mut teller) = (Unit::default(), Teller::default());
            match route.reference("service") {
                Some((name, _)) => {
                    let words = format!("no service has the name or id `{name}`");
                    teller
                        .note(&route.object, &["service"], Fate::Refused, words)
                        .code(code::FOREIGN_DANGLING);
                }
                None => {
                    let words = "the route has no service: it answers 503, as Kong does";
                    teller.note(&route.object, &[], Fate::Approximated, words).warning();
                    routes::translate(world, route, &Destination::Nowhere, &facts, &mut unit, &mut teller);
                }
            }
            Unit { notes: teller.notes, added: teller.added, ..unit }
        };
        self.make(
            name,
            Ingredients { entities: vec![route.clone()], facts: facts.clone(), ..Ingredients::default() },
            make,
        );
    }
}

/// Adds the authorities and certificates that services name.
fn with_authorities(world: &World<'_>, mut entities: Vec<Arc<Entity>>) -> Vec<Arc<Entity>> {
    let mut more = Vec::new();
    for entity in &entities {
        if !matches!(entity.kind, EntityKind::Service | EntityKind::Upstream) {
            continue;
        }
        if let Some((name, _)) = entity.reference("client_certificate") {
            more.extend(world.find(EntityKind::Certificate, name).cloned());
        }
        for (id, _) in world.view(entity).texts(&["ca_certificates"]) {
            more.extend(world.find(EntityKind::CaCertificate, id).cloned());
        }
    }
    entities.extend(more);
    entities
}

/// Routes that lose some or all of their requests to another route.
#[derive(Debug, Default)]
struct LostRoutes<'l>(HashMap<*const Entity, Vec<(String, &'l Arc<Entity>)>>);

impl LostRoutes<'_> {
    fn of(&self, route: &Arc<Entity>) -> Vec<String> {
        let lost = self.0.get(&Arc::as_ptr(route)).into_iter().flatten();
        lost.map(|(key, _)| key.clone()).collect()
    }
}

/// Finds the routes that ask for the same requests: the smaller name serves.
fn conflicts<'w>(world: &World<'w>) -> LostRoutes<'w> {
    let mut by_key: HashMap<String, Vec<&'w Arc<Entity>>> = HashMap::new();
    for route in world.all(EntityKind::Route).iter().copied() {
        let to = match world.owner(route, "service", EntityKind::Service) {
            Some(service) if !world.view(service).is(&["enabled"]) => continue,
            Some(service) => services::destination(world, service),
            None => Destination::Nowhere,
        };
        for key in routes::conflict_keys(world, route, &to) {
            by_key.entry(key).or_default().push(route);
        }
    }
    let mut lost = LostRoutes::default();
    for (key, mut routes) in by_key.into_iter().filter(|(_, routes)| routes.len() > 1) {
        routes.sort_by(|a, b| a.name().cmp(&b.name()));
        for route in &routes[1..] {
            lost.0.entry(Arc::as_ptr(route)).or_default().push((key.clone(), routes[0]));
        }
    }
    lost.0.values_mut().for_each(|keys| keys.sort_by(|a, b| a.0.cmp(&b.0)));
    lost
}

/// Finds what is wrong between entities: names that are there twice, owners that are not there, lost routes.
fn faults(world: &World<'_>, lost: &LostRoutes<'_>) -> Unit {
    let mut teller = Teller::default();
    for kind in [EntityKind::Service, EntityKind::Route, EntityKind::Upstream, EntityKind::CaCertificate] {
        for entity in world.all(kind) {
            let Some(name) = entity.name() else { continue };
            let first = world.find(kind, name);
            if let Some(first) = first.filter(|first| !Arc::ptr_eq(first, entity)) {
                let words = format!("another {} is named `{name}`", kind.singular());
                let note =
                    teller.note(&entity.object, &["name"], Fate::Refused, words).code(code::DUPLICATE_NAME);
                note.related("first declared here", &first.object, None);
            }
        }
    }
    for (kind, field, owner) in [
        (EntityKind::Target, "upstream", EntityKind::Upstream),
        (EntityKind::Sni, "certificate", EntityKind::Certificate),
    ] {
        for entity in world.all(kind).iter().filter(|entity| entity.parent.is_none()) {
            let words = match entity.reference(field) {
                Some((name, _)) if world.find(owner, name).is_some() => continue,
                Some((name, _)) => format!("no {} has the name or id `{name}`", owner.singular()),
                None => format!("`{field}` is missing"),
            };
            teller.note(&entity.object, &[field], Fate::Refused, words).code(code::FOREIGN_DANGLING);
        }
    }
    for route in world.all(EntityKind::Route) {
        if let Some((_, winner)) = lost.0.get(&Arc::as_ptr(route)).and_then(|keys| keys.first()) {
            let name = winner.name().unwrap_or_default();
            let words = format!(
                "the route `{name}` asks for the same requests, and serves them; Kong takes one by id"
            );
            let note = teller
                .note(&route.object, &[], Fate::Approximated, words)
                .warning()
                .code(code::LOST_CONFLICT);
            note.related("the other route", &winner.object, None);
        }
    }
    Unit { notes: teller.notes, ..Unit::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::dialect::kong::read;
    use crate::config::tree::{self, Schema};

    fn document(file: &str, text: &str, last: Option<&KongDocument>) -> Arc<KongDocument> {
        let (roots, faults) = tree::yaml_by(text, Schema::Go);
        assert_eq!(faults, []);
        Arc::new(read::read(&file.into(), roots.into_iter().next().expect("a document"), true, last))
    }

    /// Returns the names of the units that differ by more than their place in memory.
    fn made_again(before: &KongTranslation, after: &KongTranslation) -> Vec<String> {
        let is_new = |(name, unit): &(&String, &Arc<Unit>)| {
            before.units.get(*name).is_none_or(|known| !Arc::ptr_eq(known, unit))
        };
        after.units.iter().filter(is_new).map(|(name, _)| name.clone()).collect()
    }

    #[test]
    fn a_change_translates_what_it_touches_and_nothing_else() {
        let text = |weight: u32, host: &str| {
            format!(
                "_format_version: \"3.0\"\nservices:\n- {{ name: a, host: a, routes: [{{ name: a, paths: [/a] }}] }}\n\
                 - {{ name: b, host: {host}, routes: [{{ name: b, paths: [/b] }}] }}\nupstreams:\n\
                 - {{ name: a, targets: [{{ target: \"10.0.0.1:80\", weight: {weight} }}] }}\n\
                 - {{ name: b, targets: [{{ target: \"10.0.0.2:80\" }}] }}\n"
            )
        };
        let (listeners, variables) = (NativeListeners::default(), Arc::default());
        let other = document("other.yaml", "services: [{ name: c, host: 10.0.0.3 }]", None);
        let first = document("kong.yaml", &text(100, "b"), None);
        let none = KongTranslation::default();
        let before = translate(&[first.clone(), other.clone()], &listeners, &variables, &none);
        for (weight, host, expected) in [
            (100, "b", vec![]),
            (50, "b", vec!["upstream a"]),
            (100, "c", vec!["address c_80", "service b", "upstream b"]),
        ] {
            let changed = document("kong.yaml", &text(weight, host), Some(&first));
            let after = translate(&[changed, other.clone()], &listeners, &variables, &before);
            assert_eq!(made_again(&before, &after), expected, "weight {weight}, host {host}");
        }
    }
}
