//! The config that one fleet should run: resources, encoded and versioned once.
//!
//! Compiling the same files again gives equal versions, so it sends nothing.

pub mod past;
pub mod resource;
pub mod set;
pub mod stated;
pub mod store_id;

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::build::snapshot::resource::Resource;
use crate::build::snapshot::set::ResourceSet;
use crate::envoy::ResourceType;

/// All resources that one fleet should run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    sets: [Arc<ResourceSet>; ResourceType::ALL.len()],
}

impl Snapshot {
    /// Creates a snapshot of these resources, by type.
    pub fn new(mut resources: impl FnMut(ResourceType) -> Vec<Arc<Resource>>) -> Self {
        Self { sets: ResourceType::ALL.map(|it| Arc::new(ResourceSet::new(resources(it)))) }
    }

    /// Derives a snapshot with other resources of one type.
    #[must_use]
    pub fn with(&self, resource_type: ResourceType, set: ResourceSet) -> Self {
        let mut sets = self.sets.clone();
        sets[resource_type as usize] = Arc::new(set);
        Self { sets }
    }

    /// Replaces each set that equals the one in `last` by that one, so that comparing pointers is enough to
    /// find that nothing changed.
    #[must_use]
    pub fn keeping(mut self, last: &Self) -> Self {
        for (set, last) in self.sets.iter_mut().zip(&last.sets).filter(|(set, last)| *set == *last) {
            set.clone_from(last);
        }
        self
    }

    /// Converts everything to Envoy's JSON, by the plural of each type. A type in [`ResourceType::FURTHER`]
    /// is left out if it has no resources.
    pub fn to_json(&self) -> Value {
        let list = |resource_type: ResourceType| {
            let resources = self.set(resource_type).iter();
            resources.map(|resource| resource.to_json(resource_type)).collect()
        };
        ResourceType::ALL
            .into_iter()
            .filter(|it| !ResourceType::FURTHER.contains(it) || !self.set(*it).is_empty())
            .map(|it| (it.plural().to_owned(), list(it)))
            .collect::<Map<_, _>>()
            .into()
    }

    /// Returns all resources of a type.
    pub fn set(&self, resource_type: ResourceType) -> &Arc<ResourceSet> {
        &self.sets[resource_type as usize]
    }

    /// Derives the snapshot without private secrets: keys and the like, but not certificate authorities. None if it
    /// has none.
    pub fn without_private_secrets(&self) -> Option<Self> {
        let public = self.set(ResourceType::Secret).without_private()?;
        let mut sets = self.sets.clone();
        sets[ResourceType::Secret as usize].clone_from(public);
        Some(Self { sets })
    }

    /// True if nothing but endpoints differs.
    pub fn is_alike(&self, other: &Self) -> bool {
        let mut others = ResourceType::ALL.into_iter().filter(|it| *it != ResourceType::Endpoints);
        others.all(|it| self.set(it) == other.set(it))
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::cluster::v3::Cluster;

    use super::*;

    fn cluster(name: &str) -> Cluster {
        Cluster { name: name.into(), alt_stat_name: "x".repeat(200), ..Default::default() }
    }

    #[test]
    fn a_set_that_did_not_change_stays_the_same_allocation() {
        let resources = |names: &'static [&str]| {
            move |resource_type| match resource_type {
                ResourceType::Cluster => {
                    names.iter().map(|name| Arc::new(Resource::new(name, &cluster(name)))).collect()
                }
                _ => Vec::new(),
            }
        };
        let first = Snapshot::new(resources(&["a", "b"]));
        let same = Snapshot::new(resources(&["a", "b"])).keeping(&first);
        assert!(Arc::ptr_eq(first.set(ResourceType::Cluster), same.set(ResourceType::Cluster)));
        let more = Snapshot::new(resources(&["a", "b", "c"])).keeping(&first);
        assert!(!Arc::ptr_eq(first.set(ResourceType::Cluster), more.set(ResourceType::Cluster)));
        assert!(Arc::ptr_eq(first.set(ResourceType::Listener), more.set(ResourceType::Listener)));
    }
}
