//! Snapshots that differ by where an Envoy is.
//!
//! Where an upstream says `failover.locality`, its endpoints have other tiers for each distance of an Envoy to its
//! targets. What an Envoy far from all of them is told is compiled with the build; the rest when the first Envoy
//! of its kind asks, once for all that see the same distances.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use crate::build::compile::Compiled;
use crate::build::snapshot::Snapshot;
use crate::envoy::node::Locality;
use crate::model::Model;
use crate::model::index::Subsets;
use crate::model::locality::Distance;
use crate::model::name::Name;

/// A fleet, and how far each of its places is.
type Key = (Name, Vec<Distance>);

/// The snapshots of one build that were asked for.
#[derive(Debug, Default)]
pub(super) struct Variants {
    /// Where the targets are whose distance counts, by fleet; nothing of a fleet where none does.
    places: BTreeMap<Name, Vec<Locality>>,
    made: Mutex<BTreeMap<Key, Arc<Snapshot>>>,
    /// Those of the build before, for what did not change.
    last: BTreeMap<Key, Arc<Snapshot>>,
}

impl Variants {
    /// None yet.
    pub(super) fn new(model: &Model, subsets: &Subsets, compiled: &Compiled, last: &Self) -> Self {
        let upstreams = &subsets.by_distance;
        let fleets = if upstreams.is_empty() { Vec::new() } else { model.fleet_names() };
        let places = fleets.into_iter().map(|fleet| {
            let here = upstreams.values().filter(|upstream| compiled.has(&fleet, &upstream.name));
            let targets = here.flat_map(|upstream| &upstream.targets);
            let places: BTreeSet<Locality> = targets.map(|target| target.locality.clone()).collect();
            (fleet, places.into_iter().collect())
        });
        let last = last.made.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Self { places: places.collect(), made: Mutex::default(), last }
    }

    /// What an Envoy of this fleet at this place is told: `base`, or what `make` makes of it and of what such an
    /// Envoy was told before.
    pub(super) fn snapshot(
        &self,
        fleet: &Name,
        place: &Locality,
        base: Arc<Snapshot>,
        make: impl FnOnce(&Snapshot, Option<&Snapshot>) -> Snapshot,
    ) -> Arc<Snapshot> {
        let places = self.places.get(fleet).map(Vec::as_slice).unwrap_or_default();
        let distances: Vec<Distance> = places.iter().map(|to| Distance::between(place, to)).collect();
        // Whoever is equally far from all sees the declared tiers.
        if distances.windows(2).all(|pair| pair[0] == pair[1]) {
            return base;
        }
        let key = (fleet.clone(), distances);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(snapshot) = made.get(&key) {
            return snapshot.clone();
        }
        let last = self.last.get(&key);
        let snapshot = match make(&base, last.map(Arc::as_ref)) {
            same if last.is_some_and(|last| **last == same) => last.cloned().unwrap_or_default(),
            snapshot => Arc::new(snapshot),
        };
        made.insert(key, snapshot.clone());
        snapshot
    }
}
