//! Sets of resources that clients were sent earlier, by version.
//!
//! A SotW client that reconnects states no more than the version of the last response that it acknowledged.
//! With the set of that version at hand, the changes since can be sent in the safe order.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::build::snapshot::Snapshot;
use crate::build::snapshot::resource::Version;
use crate::build::snapshot::set::ResourceSet;
use crate::envoy::ResourceType;

/// Sets that were sent last, of all fleets and of the types that are sent whole. Cheap to clone: clones
/// share.
#[derive(Debug, Clone, Default)]
pub struct SentSets {
    /// Sets, the most recent first.
    sets: Arc<Mutex<VecDeque<SentSet>>>,
}

#[derive(Debug)]
struct SentSet {
    set: Arc<ResourceSet>,
    /// True if a client refused a later response. It may have applied a part of that, and still states this
    /// version.
    doubtful: bool,
}

impl SentSets {
    /// Number of sets that are kept. They share the resources that did not change.
    pub const KEPT: usize = 32;

    /// Records that clients are sent `set`.
    pub fn remember(&self, set: &ResourceSet) {
        self.with(|sets| {
            match sets.iter().position(|known| known.set.version == set.version) {
                Some(0) => {}
                Some(at) => {
                    let known = sets.remove(at);
                    known.into_iter().for_each(|known| sets.push_front(known));
                }
                None => {
                    sets.truncate(Self::KEPT - 1);
                    // A copy without the cached encodings.
                    let set = Arc::new(ResourceSet::from(set.by_name.clone(), set.version));
                    sets.push_front(SentSet { set, doubtful: false });
                }
            }
        });
    }

    /// Records that clients have the clusters and listeners of `snapshot`.
    pub fn remember_snapshot(&self, snapshot: &Snapshot) {
        for resource_type in [ResourceType::Listener, ResourceType::Cluster] {
            self.remember(snapshot.set(resource_type));
        }
    }

    /// Records that a client refused a response that followed the set of this version.
    pub fn doubt(&self, version: Version) {
        self.with(|sets| {
            let known = sets.iter_mut().find(|known| known.set.version == version);
            known.into_iter().for_each(|known| known.doubtful = true);
        });
    }

    /// Returns the set of this version, and true if a client that states this version may hold more than
    /// that.
    pub fn recall(&self, version: Version) -> Option<(Arc<ResourceSet>, bool)> {
        self.with(|sets| {
            let known = sets.iter().find(|known| known.set.version == version)?;
            Some((known.set.clone(), known.doubtful))
        })
    }

    /// True if one of the sets has this resource.
    pub fn has(&self, name: &str, version: Version) -> bool {
        let is_it = |known: &SentSet| known.set.get(name).is_some_and(|own| own.version == version);
        self.with(|sets| sets.iter().any(is_it))
    }

    fn with<R>(&self, work: impl FnOnce(&mut VecDeque<SentSet>) -> R) -> R {
        work(&mut self.sets.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::cluster::v3::Cluster;

    use super::*;
    use crate::build::snapshot::resource::Resource;

    const KEPT: usize = SentSets::KEPT;

    fn set(content: usize) -> ResourceSet {
        let cluster = Cluster { name: content.to_string(), ..Default::default() };
        ResourceSet::new(vec![Arc::new(Resource::new("a", &cluster))])
    }

    #[test]
    fn those_that_were_told_last_are_known_by_their_version() {
        let past = SentSets::default();
        let knows = |content| past.recall(set(content).version()).is_some_and(|(it, _)| *it == set(content));
        for content in 0..KEPT {
            past.remember(&set(content));
        }
        past.remember(&set(0));
        past.remember(&set(KEPT));
        assert_eq!([0, 1, 2, KEPT, KEPT + 1].map(knows), [true, false, true, true, false]);
        let has = |content| past.has("a", set(content).get("a").expect("it is there").version);
        assert_eq!([0, 1, 2, KEPT, KEPT + 1].map(has), [true, false, true, true, false]);
    }

    #[test]
    fn a_set_is_doubtful_once_what_came_after_it_was_refused() {
        let past = SentSets::default();
        past.remember(&set(1));
        let is_doubtful = || past.recall(set(1).version()).map(|(_, doubtful)| doubtful);
        assert_eq!(is_doubtful(), Some(false));
        past.doubt(set(1).version());
        past.remember(&set(1));
        assert_eq!(is_doubtful(), Some(true));
    }
}
