//! Documents of a config. Each is parsed again only when its text changes.
//!
//! A hundred thousand entities may be written over REST, so their maps are persistent: a copy shares all
//! entries that did not change, and two copies are compared without a scan of the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::sync::Arc;
use std::thread;

use imbl::OrdMap;

use crate::config::decode;
use crate::config::dialect::listeners::NativeListeners;
use crate::config::dialect::translation::Unit;
use crate::config::dialect::{self, ReadingTerms};
use crate::config::document::listener::ListenerProtocol;
use crate::config::document::{Document, Kind, Origin};
use crate::config::edit::{Files, Stored};
use crate::config::material::NamedFile;
use crate::config::tree::Node;
use crate::config::{Path, Violation};
use crate::memo::{ArcPtrEq, MapChange, changes};
use crate::model::foreign::ForeignDocuments;
use crate::model::name::Name;

/// Targets added to one upstream over REST, sorted by name.
pub type Added = Vec<Arc<Document>>;

/// All documents, with the texts and bodies that they were parsed from.
#[derive(Debug, Clone, Default)]
pub struct Documents {
    texts: Files,
    bodies: Stored,
    files: OrdMap<String, Vec<Arc<Document>>>,
    /// Documents of entities written over REST, except targets.
    stored: OrdMap<(Kind, String), Arc<Document>>,
    /// Documents of targets added over REST, by upstream.
    targets: OrdMap<Name, ArcPtrEq<Added>>,
    /// Names of files with keys and certificates, by the document that names them. Nearly all documents name
    /// none.
    named_files: OrdMap<Origin, BTreeSet<NamedFile>>,
    entities: BTreeMap<Kind, KindIndex>,
    foreign: ForeignDocuments,
}

/// Entities of one kind.
#[derive(Debug, Clone, Default)]
struct KindIndex {
    /// Entities with a valid name, in order of precedence. In a valid config each name has one entity.
    by_name: OrdMap<Name, Vec<Site>>,
    /// Entities without a valid name.
    unnamed: Vec<Site>,
    count: usize,
}

/// Place of the declaration of an entity. A changed text is another site, even if it declares the same.
#[derive(Debug, Clone, PartialEq)]
pub struct Site {
    /// Document that declares it.
    pub document: ArcPtrEq<Document>,
    /// Index in the document's list of the kind.
    pub index: usize,
}

/// Documents with the faults found while parsing.
#[derive(Debug)]
pub struct Parsed {
    /// All documents, parsed before or now.
    pub documents: Documents,
    /// Documents that were parsed now.
    pub new: Vec<Arc<Document>>,
    /// Faults of the documents that were parsed now.
    pub violations: Vec<Violation>,
}

impl Documents {
    /// Parses the texts and bodies that changed, and removes the documents of those that are gone. Documents
    /// with faults are included; the caller must check the violations before it uses them.
    pub fn updated(&self, files: &Files, stored: &Stored, terms: &ReadingTerms) -> Parsed {
        if self.foreign.terms != *terms {
            let foreign = ForeignDocuments { terms: terms.clone(), ..ForeignDocuments::default() };
            return Self { foreign, ..Self::default() }.updated(files, stored, terms);
        }
        let documents = Self { texts: files.clone(), bodies: stored.clone(), ..self.clone() };
        let mut parsed = Parsed { documents, new: Vec::new(), violations: Vec::new() };
        for MapChange { key, new, .. } in changes(&self.bodies, stored) {
            let documents = new.map(|body| {
                let (document, violations) = decode::parse_stored(key.0, &key.1, Node::from_json(body));
                (vec![Arc::new(document)], violations)
            });
            parsed.replace(&Origin::Stored { kind: key.0, name: key.1.as_str().into() }, documents);
        }
        let changed: Vec<_> = changes(&self.texts, files).collect();
        let parse = |change: &MapChange<'_, String, Arc<str>>| {
            let last = self.foreign.files.get(change.key).map(|file| file.documents.as_slice());
            Some(decode::parse_file(change.key, change.new?, terms, last.unwrap_or_default()))
        };
        let mut has_foreign_change = false;
        for (change, file) in changed.iter().zip(in_parallel(&changed, parse)) {
            let mut file = file.unwrap_or_default();
            let documents = std::mem::take(&mut file.documents).into_iter().map(Arc::new).collect();
            let violations = std::mem::take(&mut file.violations);
            parsed.replace(&Origin::File(change.key.as_str().into()), Some((documents, violations)));
            has_foreign_change |= parsed.documents.foreign.put(change.key, file);
        }
        parsed.translate(has_foreign_change);
        parsed
    }

    /// Returns the terms under which the files were read.
    pub fn terms(&self) -> &ReadingTerms {
        &self.foreign.terms
    }

    /// Returns the foreign documents and what became of them.
    pub fn foreign(&self) -> &ForeignDocuments {
        &self.foreign
    }

    /// Returns the listeners that native documents declare.
    fn native_listeners(&self) -> NativeListeners {
        let mut listeners = NativeListeners::default();
        for (name, Site { document: ArcPtrEq(document), index }) in self.sites(Kind::Listener) {
            if document.is_translated() {
                continue;
            }
            let declared = document.listeners.get(*index).map(|listener| listener.entity.protocol);
            let protocol = match declared.flatten().unwrap_or_default() {
                ListenerProtocol::Http => "http",
                ListenerProtocol::Https => "https",
                ListenerProtocol::TlsPassthrough => "tls_passthrough",
                ListenerProtocol::Tcp | ListenerProtocol::FailoverGateway => "",
            };
            listeners.add(name.as_str(), protocol);
        }
        listeners
    }

    fn index_named_files(&mut self, origin: &Origin, documents: &[Arc<Document>]) {
        let named: BTreeSet<NamedFile> =
            documents.iter().flat_map(|document| document.named_files()).collect();
        if named.is_empty() {
            self.named_files.remove(origin);
        } else {
            self.named_files.insert(origin.clone(), named);
        }
    }

    fn index_entities(&mut self, documents: &[Arc<Document>]) {
        for (kind, name, site) in entities(documents) {
            let entities = self.entities.entry(kind).or_default();
            entities.count += 1;
            let Some(name) = name else {
                entities.unnamed.push(site);
                continue;
            };
            let sites = entities.by_name.entry(name).or_default();
            let place = sites.partition_point(|known| known.rank() <= site.rank());
            sites.insert(place, site);
        }
    }

    fn unindex_entities(&mut self, documents: &[Arc<Document>]) {
        let mut unnamed: BTreeSet<Kind> = BTreeSet::new();
        for (kind, name, Site { document, .. }) in entities(documents) {
            let entities = self.entities.entry(kind).or_default();
            entities.count -= 1;
            let Some(name) = name else {
                unnamed.insert(kind);
                continue;
            };
            let Some(sites) = entities.by_name.get_mut(&name) else { continue };
            sites.retain(|site| site.document != document);
            if sites.is_empty() {
                entities.by_name.remove(&name);
            }
        }
        let removed: BTreeSet<*const Document> = documents.iter().map(Arc::as_ptr).collect();
        for (_, entities) in self.entities.iter_mut().filter(|(kind, _)| unnamed.contains(kind)) {
            entities.unnamed.retain(|site| !removed.contains(&Arc::as_ptr(&site.document.0)));
        }
    }

    /// Replaces the documents of an origin and returns the previous ones. For targets it returns none,
    /// because no caller needs them.
    fn put(&mut self, origin: &Origin, documents: Vec<Arc<Document>>) -> Vec<Arc<Document>> {
        match origin {
            Origin::File(name) if documents.is_empty() => self.files.remove(&**name).unwrap_or_default(),
            Origin::File(name) => self.files.insert((**name).to_owned(), documents).unwrap_or_default(),
            Origin::Stored { kind: Kind::Target, name } => {
                self.put_target(name, documents.into_iter().next());
                Vec::new()
            }
            Origin::Stored { kind, name } => {
                let key = (*kind, (**name).to_owned());
                let last = match documents.into_iter().next() {
                    Some(document) => self.stored.insert(key, document),
                    None => self.stored.remove(&key),
                };
                last.into_iter().collect()
            }
        }
    }

    /// Replaces the document of a target in the list of its upstream.
    fn put_target(&mut self, name: &str, document: Option<Arc<Document>>) {
        let Some(upstream) = name.split('/').next().and_then(Name::parse) else { return };
        // A list that an earlier version of the documents shares is copied once, however many of its targets change.
        let mut known = self.targets.remove(&upstream).map_or_else(Arc::default, |added| added.0);
        let added = Arc::make_mut(&mut known);
        let origin = Origin::Stored { kind: Kind::Target, name: name.into() };
        let place = added.partition_point(|known| known.origin < origin);
        if added.get(place).is_some_and(|known| known.origin == origin) {
            added.remove(place);
        }
        if let Some(document) = document {
            added.insert(place, document);
        }
        if !added.is_empty() {
            self.targets.insert(upstream, ArcPtrEq(known));
        }
    }

    /// Returns the names of files with keys and certificates that the documents refer to.
    pub fn named_files(&self) -> BTreeSet<NamedFile> {
        self.named_files.values().flatten().cloned().collect()
    }

    /// Iterates over the sites of the entities of a kind, by name; for a duplicate name, the first.
    pub fn sites(&self, kind: Kind) -> impl Iterator<Item = (&Name, &Site)> {
        let entities = self.entities.get(&kind).map(|entities| &entities.by_name);
        entities.into_iter().flatten().filter_map(|(name, sites)| Some((name, sites.first()?)))
    }

    /// Returns the site of the entity with this name; for a duplicate name, the first.
    pub fn site(&self, kind: Kind, name: &str) -> Option<&Site> {
        self.entities.get(&kind)?.by_name.get(name)?.first()
    }

    /// Returns the sites of entities with a duplicate or invalid name. A valid config has none.
    pub fn misnamed(&self, kind: Kind) -> Vec<&Site> {
        let Some(KindIndex { by_name, unnamed, count }) = self.entities.get(&kind) else { return Vec::new() };
        if by_name.len() == *count {
            return Vec::new();
        }
        by_name.values().flat_map(|sites| &sites[1..]).chain(unnamed).collect()
    }

    /// Returns the names whose declarations differ between the two.
    pub fn changed<'d>(&'d self, kind: Kind, last: &'d Self) -> Vec<&'d Name> {
        let [last, now] = [last, self].map(|documents| documents.entities.get(&kind).map(|it| &it.by_name));
        match (last, now) {
            (Some(last), Some(now)) => changes(last, now).map(|change| change.key).collect(),
            (last, now) => last.or(now).into_iter().flat_map(OrdMap::keys).collect(),
        }
    }

    /// Returns the upstreams whose targets added over REST differ between the two.
    pub fn changed_targets<'d>(&'d self, last: &'d Self) -> impl Iterator<Item = &'d Name> {
        changes(&last.targets, &self.targets).map(|change| change.key)
    }

    /// Iterates over the documents that may declare entities of a kind. Stored ones come first, so that a
    /// name declared twice is reported in the file. Targets added over REST are not included: see
    /// [`Self::added`].
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Arc<Document>> {
        let from = (kind, String::new());
        let stored = self.stored.range(from..).take_while(move |((of, _), _)| *of == kind);
        stored.map(|(_, document)| document).chain(self.of_files())
    }

    /// Iterates over the documents of the files.
    pub fn of_files(&self) -> impl Iterator<Item = &Arc<Document>> {
        self.files.values().flatten().chain(self.foreign.documents())
    }

    /// Returns the document that declares the entity of this name, and its path there.
    pub fn find(&self, kind: Kind, name: &str) -> Option<(&Arc<Document>, &Path)> {
        if kind == Kind::Raw {
            // Names of raw resources include their type, so they are not valid names of entities and have no
            // site.
            return self.of(kind).find_map(|document| {
                let (_, path) = document.named(kind).into_iter().find(|(own, _)| *own == name)?;
                Some((document, path))
            });
        }
        let Site { document: ArcPtrEq(document), index } = self.site(kind, name)?;
        Some((document, document.path_of(kind, *index)?))
    }

    /// Returns the targets added to an upstream over REST.
    pub fn added(&self, upstream: &str) -> &[Arc<Document>] {
        self.targets.get(upstream).map(|added| added.0.as_slice()).unwrap_or_default()
    }

    /// Returns the targets added to an upstream over REST as one value, which shows by its pointer if any of
    /// them changed.
    pub(crate) fn added_together(&self, upstream: &str) -> Option<ArcPtrEq<Added>> {
        self.targets.get(upstream).cloned()
    }
}

/// Applies a function to each item and keeps the order. Uses one thread for every 64 items or more, up to the
/// available parallelism.
fn in_parallel<T: Sync, R: Send>(items: &[T], function: impl Fn(&T) -> R + Sync) -> Vec<R> {
    const WORTH_A_THREAD: usize = 64;
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let share = items.len().div_ceil(threads).max(WORTH_A_THREAD);
    if items.len() <= share {
        return items.iter().map(function).collect();
    }
    let function = &function;
    thread::scope(|scope| {
        let shares = items.chunks(share);
        let started: Vec<_> =
            shares.map(|share| scope.spawn(move || share.iter().map(function).collect::<Vec<R>>())).collect();
        started.into_iter().flat_map(|share| share.join().expect("it does not panic")).collect()
    })
}

impl Parsed {
    /// Replaces the documents of an origin; `None` if it is gone.
    fn replace(&mut self, origin: &Origin, parsed: Option<(Vec<Arc<Document>>, Vec<Violation>)>) {
        let (documents, violations) = parsed.unwrap_or_default();
        self.documents.index_named_files(origin, &documents);
        self.documents.index_entities(&documents);
        let last = self.documents.put(origin, documents.clone());
        self.documents.unindex_entities(&last);
        self.new.extend(documents);
        self.violations.extend(violations);
    }

    /// Translates the foreign documents, and replaces the native documents of the units that changed. Without a change of
    /// foreign documents or of listeners there is nothing to do.
    fn translate(&mut self, has_foreign_change: bool) {
        let documents = &mut self.documents;
        let listeners = documents.native_listeners();
        if !has_foreign_change && listeners == documents.foreign.listeners {
            return;
        }
        let foreign = &documents.foreign;
        let all = foreign.files.values().flat_map(|file| &file.documents);
        let translation = dialect::translate(all, &listeners, &foreign.terms, &foreign.translation);
        let masks: Vec<_> = foreign.files.values().flat_map(|file| file.masks.iter().cloned()).collect();
        let masks: Arc<[_]> = masks.into();
        let changes: Vec<(String, Option<Arc<Unit>>)> =
            changes(foreign.translation.units(), translation.units())
                .map(|change| (change.key.clone(), change.new.cloned()))
                .collect();
        for (name, unit) in changes {
            let parsed = unit.and_then(|unit| decode::parse_unit(&unit, &masks));
            let (document, violations) = parsed.unzip();
            let document = document.map(Arc::new);
            self.violations.extend(violations.into_iter().flatten());
            documents.index_entities(document.as_slice());
            let last = match &document {
                Some(document) => documents.foreign.documents.insert(name, document.clone()),
                None => documents.foreign.documents.remove(&name),
            };
            documents.unindex_entities(last.as_slice());
            self.new.extend(document);
        }
        documents.foreign.translation = translation;
        documents.foreign.listeners = listeners;
    }
}

impl Site {
    /// Returns the key of precedence among sites of one name: stored ones first, then by file.
    fn rank(&self) -> (bool, &Origin) {
        let origin = &self.document.0.origin;
        (matches!(origin, Origin::File(_)), origin)
    }
}

/// Iterates over the entities that documents declare; names that are not valid are `None`.
fn entities(documents: &[Arc<Document>]) -> impl Iterator<Item = (Kind, Option<Name>, Site)> {
    documents.iter().flat_map(|document| {
        Kind::TOP.into_iter().flat_map(move |kind| {
            let names = document.names(kind).into_iter().enumerate();
            let site = move |index| Site { document: ArcPtrEq(document.clone()), index };
            names.map(move |(index, name)| (kind, name.and_then(Name::parse), site(index)))
        })
    })
}
