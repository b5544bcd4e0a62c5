//! Names that a client asks for, and clusters that it acknowledged.

use std::sync::Arc;

use crate::build::snapshot::set::ResourceSet;
use crate::xds::stream::names::NameSet;
use crate::xds::stream::subscription::TypeSubscription;

/// Names that a client asks for, and clusters that it holds.
#[derive(Debug)]
pub struct AskedResources {
    /// Sets of names, one for each type of which it names any.
    pub names: Vec<Arc<NameSet>>,
    /// Clusters that it acknowledged; none before the first acknowledgement.
    pub clusters: Option<HeldClusters>,
}

/// Clusters that a client acknowledged, or the endpoints if it asked for no clusters: then its clusters are its own.
/// Cheap to clone: clones share.
#[derive(Debug, Clone)]
pub struct HeldClusters {
    set: Arc<ResourceSet>,
    /// Names that the client asked for; none if it asked for all.
    names: Option<Arc<NameSet>>,
}

impl HeldClusters {
    /// Returns the part of a set that a client subscribes to.
    pub(super) fn new(set: Arc<ResourceSet>, subscription: &TypeSubscription) -> Self {
        let names = (!subscription.is_wildcard()).then(|| subscription.names().clone());
        Self { set, names }
    }

    /// Returns all clusters of a set.
    #[cfg(test)]
    pub(crate) fn all(set: Arc<ResourceSet>) -> Self {
        Self { set, names: None }
    }

    /// True if a cluster is among them.
    pub fn include(&self, cluster: &str) -> bool {
        self.names.as_ref().is_none_or(|names| names.names.contains(cluster))
            && self.set.get(cluster).is_some()
    }
}

impl PartialEq for HeldClusters {
    fn eq(&self, other: &Self) -> bool {
        let names = |held: &Self| held.names.as_ref().map(Arc::as_ptr);
        Arc::ptr_eq(&self.set, &other.set) && names(self) == names(other)
    }
}
