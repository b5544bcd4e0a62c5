//! Upstreams by the addresses of their targets, to find those that share a target.
//!
//! Hundreds of upstreams may share one standby. So no upstream is ever compared with all others: what the rules
//! ask is answered by the first upstream, by name, of each way of checking an address. A lookup costs the
//! logarithm of their number, and a change of one upstream concerns another only if it changes its answer.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use crate::memo::{MapChange, changes};
use crate::model::health::{HealthCheck, Probe};
use crate::model::name::Name;
use crate::model::target::Address;
use crate::model::upstream::Upstream;

/// Number of upstreams up to which those of an address are kept in a plain list.
const FEW: usize = 16;

/// Protocol of a health check, its path or service, and its port; the interval does not matter.
type ProbeKey = (&'static str, String, Option<u16>);

/// Another upstream that has a target in common with one, and that target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Neighbour {
    /// Name of the other upstream.
    pub(super) upstream: Name,
    /// Address that both have.
    pub(super) address: Address,
}

/// Neighbours of an upstream, as far as rules ask for them: of each kind one, the first by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct UpstreamNeighbours {
    /// Neighbour that checks a common target in another way: in any way, if this upstream has no checks.
    pub(super) checked_otherwise: Option<Neighbour>,
    /// Neighbours that have a standby of this upstream as a primary, one for each such standby, in the order of the
    /// targets.
    pub(super) primary_elsewhere: Vec<Neighbour>,
}

/// Upstreams by the addresses of their targets. It is updated incrementally, at the cost of what changed.
#[derive(Debug, Clone, Default)]
pub(super) struct Neighbours {
    by_address: imbl::HashMap<Address, Sharers>,
}

/// Upstreams that have one address.
#[derive(Debug, Clone)]
enum Sharers {
    /// Up to [`FEW`], by name. Nearly all addresses have one.
    Few(Arc<[Sharer]>),
    Many(Arc<ManySharers>),
}

/// Upstream that has an address.
#[derive(Debug, Clone)]
struct Sharer {
    name: Name,
    /// Health check of the upstream, if it has one.
    probe: Option<Arc<ProbeKey>>,
    /// True if the address is a target of its first tier.
    is_primary: bool,
}

/// More than a few upstreams that have one address.
#[derive(Debug, Clone, Default)]
struct ManySharers {
    all: OrdMap<Name, Sharer>,
    /// Upstreams by their health check.
    by_probe: OrdMap<Arc<ProbeKey>, OrdSet<Name>>,
    /// First upstream of each health check, by name.
    first_by_probe: OrdMap<Name, Arc<ProbeKey>>,
    primaries: OrdSet<Name>,
}

/// Everything about an address that other upstreams depend on.
#[derive(Debug, Default, PartialEq)]
struct Answers {
    /// First upstream that checks the address, and the first that does so in another way.
    checked: [Option<(Name, Arc<ProbeKey>)>; 2],
    /// First upstream that has the address as a primary.
    primary: Option<Name>,
}

impl Neighbours {
    /// Updates the neighbours from `last` to `now`. Returns the upstreams that changed, and those whose own
    /// neighbours are others than before.
    pub(super) fn update(
        &mut self,
        last: &OrdMap<Name, Arc<Upstream>>,
        now: &OrdMap<Name, Arc<Upstream>>,
    ) -> BTreeSet<Name> {
        let mut touched: BTreeSet<Name> = BTreeSet::new();
        // Answers before the update, of the addresses that other upstreams have too.
        let mut before: HashMap<&Address, Answers> = HashMap::new();
        for MapChange { key: name, old, new } in changes(last, now) {
            touched.insert(name.clone());
            let mut note = |address, sharers: &Sharers| {
                if sharers.has_other_than(name) {
                    before.entry(address).or_insert_with(|| sharers.answers());
                }
            };
            for target in old.iter().flat_map(|upstream| &upstream.targets) {
                let Some(sharers) = self.by_address.get_mut(&target.address) else { continue };
                note(&target.address, sharers);
                if sharers.remove(name) {
                    self.by_address.remove(&target.address);
                }
            }
            let probe = new.and_then(|upstream| upstream.health_check.as_ref()).map(probe_key).map(Arc::new);
            for target in new.iter().flat_map(|upstream| &upstream.targets) {
                let sharer =
                    Sharer { name: name.clone(), probe: probe.clone(), is_primary: target.tier == 0 };
                match self.by_address.get_mut(&target.address) {
                    None => drop(self.by_address.insert(target.address.clone(), Sharers::one(sharer))),
                    Some(sharers) => {
                        note(&target.address, sharers);
                        sharers.insert(sharer);
                    }
                }
            }
        }
        for (address, answers) in before {
            let Some(sharers) = self.by_address.get(address) else { continue };
            if sharers.answers() != answers {
                touched.extend(sharers.names().cloned());
            }
        }
        touched
    }

    /// Returns the neighbours of an upstream.
    pub(super) fn of(&self, upstream: &Upstream) -> UpstreamNeighbours {
        let probe = upstream.health_check.as_ref().map(probe_key);
        let mut neighbours = UpstreamNeighbours::default();
        for target in &upstream.targets {
            let Some(sharers) = self.by_address.get(&target.address) else { continue };
            if !sharers.has_other_than(&upstream.name) {
                continue;
            }
            let Answers { checked, primary } = sharers.answers();
            let neighbour = |name| Neighbour { upstream: name, address: target.address.clone() };
            let mut otherwise = checked.into_iter().flatten();
            if let Some((name, _)) = otherwise.find(|(_, other)| Some(&**other) != probe.as_ref())
                && neighbours.checked_otherwise.as_ref().is_none_or(|known| name < known.upstream)
            {
                neighbours.checked_otherwise = Some(neighbour(name));
            }
            if target.tier > 0 {
                neighbours.primary_elsewhere.extend(primary.map(neighbour));
            }
        }
        neighbours
    }
}

fn probe_key(check: &HealthCheck) -> ProbeKey {
    match &check.probe {
        Probe::Tcp { .. } => ("tcp", String::new(), check.port),
        Probe::Http { path, .. } => ("http", path.clone(), check.port),
        Probe::Grpc { service, .. } => ("grpc", service.clone(), check.port),
    }
}

impl Sharers {
    fn one(sharer: Sharer) -> Self {
        Self::Few([sharer].into())
    }

    fn names(&self) -> Box<dyn Iterator<Item = &Name> + '_> {
        match self {
            Self::Few(few) => Box::new(few.iter().map(|sharer| &sharer.name)),
            Self::Many(many) => Box::new(many.all.keys()),
        }
    }

    fn has_other_than(&self, name: &Name) -> bool {
        match self {
            Self::Few(few) => few.iter().any(|sharer| sharer.name != *name),
            Self::Many(_) => true,
        }
    }

    /// Adds an upstream.
    fn insert(&mut self, sharer: Sharer) {
        match self {
            Self::Few(few) if few.len() < FEW => {
                let place = few.partition_point(|other| other.name < sharer.name);
                let (before, after) = few.split_at(place);
                *few = before.iter().cloned().chain([sharer]).chain(after.iter().cloned()).collect();
            }
            Self::Few(few) => {
                let mut many = ManySharers::default();
                few.iter().cloned().chain([sharer]).for_each(|sharer| many.insert(sharer));
                *self = Self::Many(Arc::new(many));
            }
            Self::Many(many) => Arc::make_mut(many).insert(sharer),
        }
    }

    /// Removes an upstream. Returns true if none is left.
    fn remove(&mut self, name: &Name) -> bool {
        match self {
            Self::Few(few) => {
                *few = few.iter().filter(|sharer| sharer.name != *name).cloned().collect();
                few.is_empty()
            }
            Self::Many(many) => {
                let many = Arc::make_mut(many);
                many.remove(name);
                if many.all.len() <= FEW {
                    *self = Self::Few(many.all.values().cloned().collect());
                }
                false
            }
        }
    }

    fn answers(&self) -> Answers {
        match self {
            Self::Few(few) => {
                let mut checked = few.iter().filter_map(|it| Some((it.name.clone(), it.probe.clone()?)));
                let first = checked.next();
                let other = first.as_ref().and_then(|(_, probe)| checked.find(|(_, other)| other != probe));
                let primary = few.iter().find(|sharer| sharer.is_primary).map(|sharer| sharer.name.clone());
                Answers { checked: [first, other], primary }
            }
            Self::Many(many) => {
                let mut checked =
                    many.first_by_probe.iter().map(|(name, probe)| (name.clone(), probe.clone()));
                Answers {
                    checked: [checked.next(), checked.next()],
                    primary: many.primaries.get_min().cloned(),
                }
            }
        }
    }
}

impl ManySharers {
    fn insert(&mut self, sharer: Sharer) {
        if let Some(probe) = &sharer.probe {
            self.with_probe(probe, |names| drop(names.insert(sharer.name.clone())));
        }
        if sharer.is_primary {
            self.primaries.insert(sharer.name.clone());
        }
        self.all.insert(sharer.name.clone(), sharer);
    }

    fn remove(&mut self, name: &Name) {
        let Some(sharer) = self.all.remove(name) else { return };
        if let Some(probe) = &sharer.probe {
            self.with_probe(probe, |names| drop(names.remove(name)));
        }
        self.primaries.remove(name);
    }

    /// Changes the upstreams of a health check, of which the first by name is kept apart.
    fn with_probe(&mut self, probe: &Arc<ProbeKey>, change: impl FnOnce(&mut OrdSet<Name>)) {
        let mut names = self.by_probe.remove(probe).unwrap_or_default();
        if let Some(first) = names.get_min() {
            self.first_by_probe.remove(first);
        }
        change(&mut names);
        if let Some(first) = names.get_min() {
            self.first_by_probe.insert(first.clone(), probe.clone());
            self.by_probe.insert(probe.clone(), names);
        }
    }
}

#[cfg(test)]
mod tests;
