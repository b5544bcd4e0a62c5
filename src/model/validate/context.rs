//! Context of a validation: the documents, what is known of them, and the faults found so far.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdMap;

use crate::config::code;
use crate::config::document::{Declared, Document, Kind};
use crate::memo::ArcPtrEq;
use crate::model::certificate::{self, Certificates, Sources};
use crate::model::documents::{Documents, Site};
use crate::model::name::{Name, Scope};
use crate::model::place::{FaultCollector, FaultPlace};
use crate::model::service::Service;
use crate::model::tls::KnownCertificates;

/// Documents to validate, with the faults found so far.
pub(super) struct Validation<'a> {
    pub(super) documents: &'a Documents,
    /// True if every text could be read to its end, so that all names are known.
    pub(super) is_complete: bool,
    pub(super) sources: Sources<'a>,
    /// Resolved certificates; empty until they are validated.
    pub(super) certificates: Arc<Certificates>,
    pub(super) faults: FaultCollector,
}

/// Entity with its name and place.
pub(super) struct Named<'a, T> {
    /// Declared name; a placeholder if it is missing or invalid.
    pub(super) name: Name,
    /// True for the first entity of its name. Others are only checked for further faults.
    pub(super) counts: bool,
    pub(super) declared: &'a Declared<T>,
    pub(super) document: &'a Arc<Document>,
    /// Index in the document's list of its kind.
    pub(super) index: usize,
}

impl<'a, T> Named<'a, T> {
    /// Returns the place of the entity.
    pub(super) fn place(&self) -> FaultPlace<'a> {
        FaultPlace::new(self.document, &self.declared.path)
    }

    /// Returns the site of the declaration.
    pub(super) fn site(&self) -> Site {
        Site { document: ArcPtrEq(self.document.clone()), index: self.index }
    }
}

impl<'a> Validation<'a> {
    /// Returns the entities of a kind, sorted by name. Reports a duplicate name as a fault.
    pub(super) fn named<T>(
        &mut self,
        kind: Kind,
        list: fn(&Document) -> &Vec<Declared<T>>,
        name: fn(&T) -> Option<&str>,
    ) -> Vec<Named<'a, T>> {
        let mut all = self.misnamed(kind, list, name);
        all.extend(self.documents.sites(kind).map(|(name, site)| first_of(name, site, list)));
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Returns the entity of a kind with this name; for a duplicate name, the first.
    pub(super) fn first_named<T>(
        &self,
        kind: Kind,
        list: fn(&Document) -> &Vec<Declared<T>>,
        name: &Name,
    ) -> Option<Named<'a, T>> {
        let site = self.documents.site(kind, name.as_str())?;
        Some(first_of(name, site, list))
    }

    /// Returns the entities of a kind with a duplicate, missing or invalid name. Reports each as a fault.
    pub(super) fn misnamed<T>(
        &mut self,
        kind: Kind,
        list: fn(&Document) -> &Vec<Declared<T>>,
        name: fn(&T) -> Option<&str>,
    ) -> Vec<Named<'a, T>> {
        let mut misnamed = Vec::new();
        for Site { document: ArcPtrEq(document), index } in self.documents.misnamed(kind) {
            let declared = &list(document)[*index];
            let place = FaultPlace::new(document, &declared.path);
            let name = self.name(kind, &place, name(&declared.entity));
            if let Some(name) = &name {
                self.report_duplicate(kind, list, name, &place);
            }
            let name = name.unwrap_or_else(Name::unnamed);
            misnamed.push(Named { name, counts: false, declared, document, index: *index });
        }
        misnamed
    }

    /// Reports a second entity of a name.
    fn report_duplicate<T>(
        &mut self,
        kind: Kind,
        list: fn(&Document) -> &Vec<Declared<T>>,
        name: &Name,
        place: &FaultPlace<'_>,
    ) {
        let first = self.first_named(kind, list, name).map(|first| first.place());
        let message = format!("another {} is named `{name}`", kind.singular());
        let help = format!("names are unique among {}", kind.plural());
        let related = first.map(|first| first.key("name").related("first declared here"));
        let related = related.into_iter().collect();
        self.faults.error_with(&place.key("name"), code::DUPLICATE_NAME, message, help, related);
    }

    /// Parses the name of an entity. Reports a missing or invalid one.
    fn name(&mut self, kind: Kind, place: &FaultPlace<'_>, text: Option<&str>) -> Option<Name> {
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
    pub(super) fn scope(
        &mut self,
        place: &FaultPlace<'_>,
        kind: Kind,
        list: &[String],
        known: &BTreeSet<Name>,
    ) -> Scope {
        if list.is_empty() {
            return Scope::All;
        }
        let mut names = Vec::new();
        for (index, text) in list.iter().enumerate() {
            match known.get(text.as_str()) {
                Some(name) => names.push(name.clone()),
                None if !self.is_complete => {}
                None => {
                    let candidates = known.iter().map(Name::as_str);
                    self.faults.dangling(&place.index(index), kind.singular(), text, candidates);
                }
            }
        }
        Scope::Only(names)
    }

    /// Resolves a scope of fleets. `names` are those of all fleets, the default one too.
    pub(super) fn fleets(
        &mut self,
        place: &FaultPlace<'_>,
        list: &[String],
        names: &BTreeSet<Name>,
    ) -> Scope {
        self.scope(&place.key("fleets"), Kind::Fleet, list, names)
    }

    /// Reports a missing reference to an entity of a kind.
    pub(super) fn missing_reference(&mut self, place: &FaultPlace<'_>, kind: Kind) {
        let help = format!("name the {} that serves", kind.singular());
        self.faults.missing(place, &format!("`{}`", kind.singular()), &help);
    }

    /// Reports a reference to an entity that does not exist, if all names are known.
    pub(super) fn dangling<'n>(
        &mut self,
        place: &FaultPlace<'_>,
        kind: Kind,
        name: &str,
        names: impl IntoIterator<Item = &'n Name>,
    ) {
        if self.is_complete {
            let names = names.into_iter().map(Name::as_str);
            self.faults.dangling(place, kind.singular(), name, names);
        }
    }

    /// Returns the service that a route or a listener names.
    pub(super) fn service_of(
        &mut self,
        place: &FaultPlace<'_>,
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
}

/// Returns the first entity of a name.
fn first_of<'a, T>(
    name: &Name,
    Site { document: ArcPtrEq(document), index }: &'a Site,
    list: fn(&Document) -> &Vec<Declared<T>>,
) -> Named<'a, T> {
    let declared = &list(document)[*index];
    Named { name: name.clone(), counts: true, declared, document, index: *index }
}

/// Returns the certificates that `tls` may refer to. It is not a method, so that `faults` can be borrowed at
/// the same time.
pub(super) fn known<'k>(
    certificates: &'k Certificates,
    all_are_known: bool,
    sources: certificate::Sources<'k>,
) -> KnownCertificates<'k> {
    KnownCertificates { certificates, all_are_known, sources }
}
