//! The documents of a config, each parsed once for as long as its text stays.
//!
//! What came over REST may be a hundred thousand entities, so their maps are persistent: a copy shares all that did
//! not change, and what differs between two of them is found without looking at the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::slice;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use serde_json::Value;

use crate::config::document::{self, Document, Kind, Origin};
use crate::config::tree::Node;
use crate::config::{Path, Violation};
use crate::memo::Same;
use crate::model::name::Name;

/// Texts by file name.
type Files = BTreeMap<String, Arc<str>>;

/// Entities that were written over REST, by kind and name. A target's name is `upstream/host:port`, and an
/// upstream stands here without its targets; a raw resource's name is `type/name`.
pub type Stored = OrdMap<(Kind, String), Arc<Value>>;

/// The targets that were added to one upstream over REST, in the order of their names.
pub type Added = Vec<Arc<Document>>;

/// All documents, beside what they were parsed from.
#[derive(Debug, Clone, Default)]
pub struct Documents {
    texts: Files,
    bodies: Stored,
    files: BTreeMap<String, Vec<Arc<Document>>>,
    /// Without the targets.
    stored: OrdMap<(Kind, String), Arc<Document>>,
    /// By upstream.
    targets: OrdMap<Arc<str>, Arc<Added>>,
    /// The files that documents name, with keys and certificates in them. Nearly all documents name none.
    named_files: OrdMap<Origin, BTreeSet<String>>,
    entities: BTreeMap<Kind, Entities>,
}

/// The entities of a kind.
#[derive(Debug, Clone, Default)]
struct Entities {
    /// Those that have a name that can be one. Of what is right, each name stands for one.
    by_name: OrdMap<Name, Vec<Site>>,
    count: usize,
}

/// Where an entity is declared: in which document, and where in its list of the kind.
pub type Site = (Arc<Document>, usize);

impl Documents {
    /// Parses what is not in these documents, and forgets what is gone. The faults are those of what was parsed: it
    /// is for the caller to go on only with documents that have none.
    pub fn updated(&self, files: &Files, stored: &Stored) -> (Self, Vec<Violation>) {
        let mut documents = self.clone();
        let mut violations = Vec::new();
        for change in self.bodies.diff(stored) {
            match change {
                DiffItem::Add(key, body) | DiffItem::Update { new: (key, body), .. } => {
                    let (document, found) = document::parse_stored(key.0, &key.1, Node::from_json(body));
                    let document = Arc::new(document);
                    documents.note_files(&document.origin, slice::from_ref(&document));
                    documents.learn_entities(slice::from_ref(&document));
                    if let Some(last) = documents.put(key, document) {
                        documents.forget_entities(slice::from_ref(&last));
                    }
                    violations.extend(found);
                }
                DiffItem::Remove(key, _) => {
                    documents.note_files(&Origin::Stored { kind: key.0, name: key.1.as_str().into() }, &[]);
                    if let Some(last) = documents.remove(key) {
                        documents.forget_entities(slice::from_ref(&last));
                    }
                }
            }
        }
        for (name, text) in files.iter().filter(|(name, text)| self.texts.get(*name) != Some(text)) {
            let (parsed, found) = document::parse_file(name, text);
            let parsed: Vec<_> = parsed.into_iter().map(Arc::new).collect();
            documents.note_files(&Origin::File(name.as_str().into()), &parsed);
            documents.learn_entities(&parsed);
            if let Some(last) = documents.files.insert(name.clone(), parsed) {
                documents.forget_entities(&last);
            }
            violations.extend(found);
        }
        for name in self.texts.keys().filter(|name| !files.contains_key(*name)) {
            documents.note_files(&Origin::File(name.as_str().into()), &[]);
            if let Some(last) = documents.files.remove(name) {
                documents.forget_entities(&last);
            }
        }
        documents.texts.clone_from(files);
        documents.bodies.clone_from(stored);
        (documents, violations)
    }

    fn note_files(&mut self, origin: &Origin, documents: &[Arc<Document>]) {
        let named: BTreeSet<String> = documents.iter().flat_map(|document| document.named_files()).collect();
        match named.is_empty() {
            true => drop(self.named_files.remove(origin)),
            false => drop(self.named_files.insert(origin.clone(), named)),
        }
    }

    fn learn_entities(&mut self, documents: &[Arc<Document>]) {
        for (kind, name, site) in entities(documents) {
            let entities = self.entities.entry(kind).or_default();
            entities.count += 1;
            if let Some(name) = name {
                entities.by_name.entry(name).or_default().push(site);
            }
        }
    }

    fn forget_entities(&mut self, documents: &[Arc<Document>]) {
        for (kind, name, (document, _)) in entities(documents) {
            let entities = self.entities.entry(kind).or_default();
            entities.count -= 1;
            let Some(name) = name else { continue };
            let Some(sites) = entities.by_name.get_mut(&name) else { continue };
            sites.retain(|(of, _)| !Arc::ptr_eq(of, &document));
            if sites.is_empty() {
                entities.by_name.remove(&name);
            }
        }
    }

    /// Gives the one before of what is not a target.
    fn put(&mut self, key: &(Kind, String), document: Arc<Document>) -> Option<Arc<Document>> {
        let Some(upstream) = upstream_of(key) else {
            return self.stored.insert(key.clone(), document);
        };
        let added = Arc::make_mut(self.targets.entry(upstream.into()).or_default());
        match added.binary_search_by(|known| known.origin.cmp(&document.origin)) {
            Ok(index) => added[index] = document,
            Err(index) => added.insert(index, document),
        }
        None
    }

    /// Gives what went of what is not a target.
    fn remove(&mut self, key: &(Kind, String)) -> Option<Arc<Document>> {
        let Some(upstream) = upstream_of(key) else { return self.stored.remove(key) };
        let added = Arc::make_mut(self.targets.get_mut(upstream)?);
        added.retain(|document| document.stored_name() != Some(&key.1));
        if added.is_empty() {
            self.targets.remove(upstream);
        }
        None
    }

    /// The files that the documents name, with keys and certificates in them.
    pub fn named_files(&self) -> BTreeSet<String> {
        self.named_files.values().flatten().cloned().collect()
    }

    /// Every entity of a kind by name, if each has one of its own.
    pub fn by_name(&self, kind: Kind) -> Option<impl Iterator<Item = (&Name, &Site)>> {
        let entities = self.entities.get(&kind)?;
        let all = entities.by_name.iter().filter_map(|(name, sites)| Some((name, sites.first()?)));
        (entities.by_name.len() == entities.count).then_some(all)
    }

    /// Those that may declare entities of a kind, those of the store first: where a file and the store name the
    /// same, the file is told. Targets that were added over REST are not among them: see [`Self::added`].
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Arc<Document>> {
        let from = (kind, String::new());
        let stored = self.stored.range(from..).take_while(move |((of, _), _)| *of == kind);
        stored.map(|(_, document)| document).chain(self.of_files())
    }

    /// All but the targets that were added over REST, those of the store first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Document>> {
        self.stored.values().chain(self.of_files())
    }

    /// Those of the files.
    pub fn of_files(&self) -> impl Iterator<Item = &Arc<Document>> {
        self.files.values().flatten()
    }

    /// The entity of a name: the document that declares it, and where it stands there.
    pub fn find(&self, kind: Kind, name: &str) -> Option<(&Arc<Document>, &Path)> {
        if kind == Kind::Raw {
            // Their names have their type in front: they are not among those that entities may have.
            return self.of(kind).find_map(|document| {
                let (_, path) = document.named(kind).into_iter().find(|(own, _)| *own == name)?;
                Some((document, path))
            });
        }
        let (document, index) = self.entities.get(&kind)?.by_name.get(name)?.first()?;
        Some((document, document.path_of(kind, *index)?))
    }

    /// The targets that were added to an upstream over REST.
    pub fn added(&self, upstream: &str) -> &[Arc<Document>] {
        self.targets.get(upstream).map(|added| added.as_slice()).unwrap_or_default()
    }

    /// The same as one value, by which it is told whether any of them changed.
    pub(crate) fn added_together(&self, upstream: &str) -> Option<Same<Added>> {
        self.targets.get(upstream).cloned().map(Same)
    }
}

/// The entities that documents declare, with their names where these can be names.
fn entities(documents: &[Arc<Document>]) -> impl Iterator<Item = (Kind, Option<Name>, Site)> {
    documents.iter().flat_map(|document| {
        Kind::TOP.into_iter().flat_map(move |kind| {
            let names = document.names(kind).into_iter().enumerate();
            names.map(move |(index, name)| (kind, name.and_then(Name::parse), (document.clone(), index)))
        })
    })
}

/// The upstream of a target.
fn upstream_of((kind, name): &(Kind, String)) -> Option<&str> {
    match kind {
        Kind::Target => name.split('/').next(),
        _ => None,
    }
}
