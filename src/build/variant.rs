//! Variants of a snapshot by the locality of an Envoy.
//!
//! With `failover.locality`, the tiers of an upstream depend on the distances between the Envoy and the
//! targets. The snapshot for an Envoy that is equally far from all targets is compiled with the build. Any
//! other is compiled when the first Envoy requests it, once for all Envoys with the same distances.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use crate::build::compile::Compiled;
use crate::build::index::UpstreamIndex;
use crate::build::snapshot::Snapshot;
use crate::envoy::node::Locality;
use crate::model::Model;
use crate::model::locality::Distance;
use crate::model::name::Name;

/// Key of a variant: a fleet, and the distance to each of its places.
type VariantKey = (Name, Vec<Distance>);

/// Variants of the snapshots of one build, as far as they were requested.
#[derive(Debug, Default)]
pub(super) struct Variants {
    /// Localities of the targets whose distance counts, by fleet; none for a fleet without such targets.
    places: BTreeMap<Name, Vec<Locality>>,
    made: Mutex<BTreeMap<VariantKey, Arc<Snapshot>>>,
    /// Variants of the previous build, from which unchanged resources are taken.
    last: BTreeMap<VariantKey, Arc<Snapshot>>,
}

impl Variants {
    /// Creates an empty set of variants that takes unchanged resources from `last`.
    pub(super) fn new(model: &Model, subsets: &UpstreamIndex, compiled: &Compiled, last: &Self) -> Self {
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

    /// Returns the snapshot for an Envoy of `fleet` at `place`: `base` if distances make no difference, else
    /// the variant that `make` returns, given `base` and the corresponding variant of the previous build.
    pub(super) fn snapshot(
        &self,
        fleet: &Name,
        place: &Locality,
        base: Arc<Snapshot>,
        make: impl FnOnce(&Snapshot, Option<&Snapshot>) -> Snapshot,
    ) -> Arc<Snapshot> {
        let places = self.places.get(fleet).map(Vec::as_slice).unwrap_or_default();
        let distances: Vec<Distance> = places.iter().map(|to| Distance::between(place, to)).collect();
        // An Envoy that is equally far from all targets gets the declared tiers.
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
