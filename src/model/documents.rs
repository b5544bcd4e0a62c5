//! The documents of a config, each parsed once for as long as its text stays.
//!
//! What came over REST may be a hundred thousand entities, so their maps are persistent: a copy shares all that did
//! not change, and what differs between two of them is found without looking at the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::sync::Arc;
use std::thread;

use imbl::OrdMap;
use serde_json::Value;

use crate::config::decode;
use crate::config::document::{Document, Kind, Origin};
use crate::config::tree::Node;
use crate::config::{Path, Violation};
use crate::memo::{Change, Same, changes};
use crate::model::name::Name;

/// Texts by file name.
pub type Files = OrdMap<String, Arc<str>>;

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
    files: OrdMap<String, Vec<Arc<Document>>>,
    /// Without the targets.
    stored: OrdMap<(Kind, String), Arc<Document>>,
    /// By upstream.
    targets: OrdMap<Name, Same<Added>>,
    /// The files that documents name, with keys and certificates in them. Nearly all documents name none.
    named_files: OrdMap<Origin, BTreeSet<String>>,
    entities: BTreeMap<Kind, Entities>,
}

/// The entities of a kind.
#[derive(Debug, Clone, Default)]
struct Entities {
    /// Those that have a name that can be one, in the order in which they are declared. Of what is right, each name
    /// stands for one.
    by_name: OrdMap<Name, Vec<Site>>,
    /// The others.
    unnamed: Vec<Site>,
    count: usize,
}

/// Where an entity is declared. Another text is another site, even where it says the same.
#[derive(Debug, Clone, PartialEq)]
pub struct Site {
    /// In which document.
    pub document: Same<Document>,
    /// In its list of the kind.
    pub index: usize,
}

/// Documents with what was found to be wrong on the way.
#[derive(Debug)]
pub struct Parsed {
    /// All of them.
    pub documents: Documents,
    /// Those that were not there before.
    pub new: Vec<Arc<Document>>,
    /// The faults of these.
    pub violations: Vec<Violation>,
}

impl Documents {
    /// Parses what is not in these documents, and forgets what is gone. It is for the caller to go on only with
    /// documents that have no faults.
    pub fn updated(&self, files: &Files, stored: &Stored) -> Parsed {
        let documents = Self { texts: files.clone(), bodies: stored.clone(), ..self.clone() };
        let mut parsed = Parsed { documents, new: Vec::new(), violations: Vec::new() };
        for Change { key, new, .. } in changes(&self.bodies, stored) {
            let documents = new.map(|body| {
                let (document, violations) = decode::parse_stored(key.0, &key.1, Node::from_json(body));
                (vec![Arc::new(document)], violations)
            });
            parsed.take(&Origin::Stored { kind: key.0, name: key.1.as_str().into() }, documents);
        }
        let changed: Vec<_> = changes(&self.texts, files).collect();
        for (change, documents) in changed.iter().zip(in_parallel(&changed, parse)) {
            parsed.take(&Origin::File(change.key.as_str().into()), documents);
        }
        parsed
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
            let Some(name) = name else {
                entities.unnamed.push(site);
                continue;
            };
            let sites = entities.by_name.entry(name).or_default();
            let place = sites.partition_point(|known| known.rank() <= site.rank());
            sites.insert(place, site);
        }
    }

    fn forget_entities(&mut self, documents: &[Arc<Document>]) {
        for (kind, name, Site { document, .. }) in entities(documents) {
            let entities = self.entities.entry(kind).or_default();
            entities.count -= 1;
            let Some(name) = name else {
                entities.unnamed.retain(|site| site.document != document);
                continue;
            };
            let Some(sites) = entities.by_name.get_mut(&name) else { continue };
            sites.retain(|site| site.document != document);
            if sites.is_empty() {
                entities.by_name.remove(&name);
            }
        }
    }

    /// Puts documents in the place of those of the same origin, and gives these back. Of targets nobody asks.
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

    /// A target is a part of its upstream's.
    fn put_target(&mut self, name: &str, document: Option<Arc<Document>>) {
        let Some(upstream) = name.split('/').next().and_then(Name::parse) else { return };
        let known = self.targets.get(&upstream).map(|added| added.0.as_slice()).unwrap_or_default();
        let mut added: Added = known.iter().filter(|it| it.stored_name() != Some(name)).cloned().collect();
        if let Some(document) = document {
            let place = added.partition_point(|known| known.origin < document.origin);
            added.insert(place, document);
        }
        match added.is_empty() {
            true => drop(self.targets.remove(&upstream)),
            false => drop(self.targets.insert(upstream, Same(Arc::new(added)))),
        }
    }

    /// The files that the documents name, with keys and certificates in them.
    pub fn named_files(&self) -> BTreeSet<String> {
        self.named_files.values().flatten().cloned().collect()
    }

    /// Where each entity of a kind is declared, by name; of several of one name the first.
    pub fn sites(&self, kind: Kind) -> impl Iterator<Item = (&Name, &Site)> {
        let entities = self.entities.get(&kind).map(|entities| &entities.by_name);
        entities.into_iter().flatten().filter_map(|(name, sites)| Some((name, sites.first()?)))
    }

    /// Where the entity of this name is declared; of several the first.
    pub fn site(&self, kind: Kind, name: &str) -> Option<&Site> {
        self.entities.get(&kind)?.by_name.get(name)?.first()
    }

    /// The entities that have the name of another one, or none that can be one: of what is right there are none.
    pub fn odd(&self, kind: Kind) -> Vec<&Site> {
        let Some(Entities { by_name, unnamed, count }) = self.entities.get(&kind) else { return Vec::new() };
        if by_name.len() == *count {
            return Vec::new();
        }
        by_name.values().flat_map(|sites| &sites[1..]).chain(unnamed).collect()
    }

    /// The names of which not the same is declared in both.
    pub fn changed<'d>(&'d self, kind: Kind, last: &'d Self) -> Vec<&'d Name> {
        let [last, now] = [last, self].map(|documents| documents.entities.get(&kind).map(|it| &it.by_name));
        match (last, now) {
            (Some(last), Some(now)) => changes(last, now).map(|change| change.key).collect(),
            (last, now) => last.or(now).into_iter().flat_map(OrdMap::keys).collect(),
        }
    }

    /// The upstreams to which not the same targets were added over REST in both.
    pub fn changed_targets<'d>(&'d self, last: &'d Self) -> impl Iterator<Item = &'d Name> {
        changes(&last.targets, &self.targets).map(|change| change.key)
    }

    /// Those that may declare entities of a kind, those of the store first: where a file and the store name the
    /// same, the file is told. Targets that were added over REST are not among them: see [`Self::added`].
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Arc<Document>> {
        let from = (kind, String::new());
        let stored = self.stored.range(from..).take_while(move |((of, _), _)| *of == kind);
        stored.map(|(_, document)| document).chain(self.of_files())
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
        let Site { document: Same(document), index } = self.site(kind, name)?;
        Some((document, document.path_of(kind, *index)?))
    }

    /// The targets that were added to an upstream over REST.
    pub fn added(&self, upstream: &str) -> &[Arc<Document>] {
        self.targets.get(upstream).map(|added| added.0.as_slice()).unwrap_or_default()
    }

    /// The same as one value, by which it is told whether any of them changed.
    pub(crate) fn added_together(&self, upstream: &str) -> Option<Same<Added>> {
        self.targets.get(upstream).cloned()
    }
}

/// What a file says now; none when it is gone.
fn parse(change: &Change<'_, String, Arc<str>>) -> Option<(Vec<Arc<Document>>, Vec<Violation>)> {
    let (documents, violations) = decode::parse_file(change.key, change.new?);
    Some((documents.into_iter().map(Arc::new).collect(), violations))
}

/// The function of each item, in their order, on as many threads as there is work for.
fn in_parallel<T: Sync, R: Send>(items: &[T], function: fn(&T) -> R) -> Vec<R> {
    const WORTH_A_THREAD: usize = 64;
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let share = items.len().div_ceil(threads).max(WORTH_A_THREAD);
    if items.len() <= share {
        return items.iter().map(function).collect();
    }
    thread::scope(|scope| {
        let shares = items.chunks(share);
        let started: Vec<_> =
            shares.map(|share| scope.spawn(move || share.iter().map(function).collect::<Vec<R>>())).collect();
        started.into_iter().flat_map(|share| share.join().expect("it does not panic")).collect()
    })
}

impl Parsed {
    /// Takes what an origin says now; none when it is gone.
    fn take(&mut self, origin: &Origin, parsed: Option<(Vec<Arc<Document>>, Vec<Violation>)>) {
        let (documents, violations) = parsed.unwrap_or_default();
        self.documents.note_files(origin, &documents);
        self.documents.learn_entities(&documents);
        let last = self.documents.put(origin, documents.clone());
        self.documents.forget_entities(&last);
        self.new.extend(documents);
        self.violations.extend(violations);
    }
}

impl Site {
    /// Before which others of its name it stands: those of the store first, then by file.
    fn rank(&self) -> (bool, &Origin) {
        let origin = &self.document.0.origin;
        (matches!(origin, Origin::File(_)), origin)
    }
}

/// The entities that documents declare, with their names where these can be names.
fn entities(documents: &[Arc<Document>]) -> impl Iterator<Item = (Kind, Option<Name>, Site)> {
    documents.iter().flat_map(|document| {
        Kind::TOP.into_iter().flat_map(move |kind| {
            let names = document.names(kind).into_iter().enumerate();
            let site = move |index| Site { document: Same(document.clone()), index };
            names.map(move |(index, name)| (kind, name.and_then(Name::parse), site(index)))
        })
    })
}
