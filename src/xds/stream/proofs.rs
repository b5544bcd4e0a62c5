//! Table of the versions that clients stated and are not answered to.
//!
//! When a control plane lost its config, thousands of Envoys state the same thousands of versions, each in an
//! order of its own, and nothing is sent that would make the lists obsolete. So streams share them.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::xds::wire::request::VersionList;

/// Lists of versions that streams hold. Cheap to clone: clones share.
#[derive(Debug, Clone, Default)]
pub struct ProofTable {
    lists: Arc<Mutex<HashMap<u128, Weak<VersionList>>>>,
    /// Random hash keys, unknown to clients, so that no client can make two lists with the same hash.
    keys: [RandomState; 2],
}

impl ProofTable {
    /// Returns a list that states the same: one that another stream holds, or else a copy of this one.
    pub(super) fn share(&self, versions: &VersionList) -> Arc<VersionList> {
        let hash = versions.entries().fold(0, |sum: u128, entry| {
            let [high, low] = self.keys.each_ref().map(|key| u128::from(key.hash_one(entry)));
            sum.wrapping_add(high << 64 | low)
        });
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lists.get(&hash).and_then(Weak::upgrade) {
            return known;
        }
        // At powers of two, so that the cost per insertion stays constant.
        if lists.len().is_power_of_two() {
            lists.retain(|_, list| list.strong_count() > 0);
        }
        let list = Arc::new(versions.packed());
        lists.insert(hash, Arc::downgrade(&list));
        list
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
    use prost::Message as _;

    use super::*;
    use crate::xds::wire::request::LazyRequest;

    /// Returns the lists of a request that states these versions, and of another in the opposite order.
    fn lists(versions: &[(&str, &str)]) -> [VersionList; 2] {
        let read = |versions: &mut dyn Iterator<Item = &(&str, &str)>| {
            let one = |(name, version): &(&str, &str)| DeltaDiscoveryRequest {
                initial_resource_versions: [((*name).to_owned(), (*version).to_owned())].into(),
                ..Default::default()
            };
            let encoded: Vec<u8> = versions.flat_map(|version| one(version).encode_to_vec()).collect();
            LazyRequest::<DeltaDiscoveryRequest>::read(&encoded.into()).expect("a request").versions
        };
        [read(&mut versions.iter()), read(&mut versions.iter().rev())]
    }

    #[test]
    fn clients_that_state_the_same_share_the_list() {
        let table = ProofTable::default();
        let [list, reversed] = lists(&[("a", "1"), ("b", "2")]);
        let first = table.share(&list);
        assert!(Arc::ptr_eq(&first, &table.share(&reversed)));
        let versions: BTreeMap<_, _> = first.iter().collect();
        assert_eq!(versions, [("a", "1"), ("b", "2")].into());
        for other in [&[("a", "1"), ("b", "1")][..], &[("a", "1")], &[], &[("a", "1"), ("a", "1")]] {
            assert!(!Arc::ptr_eq(&first, &table.share(&lists(other)[0])), "{other:?}");
        }
        drop(first);
        (0..64).for_each(|number| drop(table.share(&lists(&[("a", &number.to_string())])[0])));
        assert!(
            table.lists.lock().expect("nobody panicked").len() <= 64,
            "those that nobody holds are dropped"
        );
    }
}
