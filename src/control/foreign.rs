//! Foreign stores: Envoys that run the config of another store, and whether they are answered.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;
use tracing::{error, info};

use crate::build::Build;
use crate::build::snapshot::store_id::StoreId;
use crate::cache::Cache;
use crate::cache::standing::{Standing, Trust};
use crate::nodes::Nodes;
use crate::store::{self, Record, Store};

/// Kind of the records of adopted stores.
const KIND: &str = "adopted_store";

/// Stores whose Envoys are answered as the own ones are, and the standing that follows.
#[derive(Debug)]
pub(super) struct ForeignStores {
    store: Arc<dyn Store>,
    cache: Arc<Cache>,
    nodes: Nodes,
}

/// Returns the trust in the first config of a start. That of a store that was just born is meant for all as
/// soon as it has a route, since a container without a volume has a new store at each start.
pub(super) fn first_trust(is_newborn: bool, build: &Build, allows_foreign: bool) -> Trust {
    let has_routes = || build.model.fleet_names().iter().any(|fleet| build.model.has_routes(fleet));
    if allows_foreign {
        Trust::Full
    } else if is_newborn || !has_routes() {
        Trust::Blank
    } else {
        Trust::Inherited
    }
}

impl ForeignStores {
    pub(super) fn new(store: Arc<dyn Store>, cache: Arc<Cache>, nodes: Nodes) -> Self {
        Self { store, cache, nodes }
    }

    /// Publishes the standing of a start.
    ///
    /// # Errors
    ///
    /// Fails if the store cannot be read.
    pub(super) fn start(&self, trust: Trust) -> Result<(), store::Error> {
        let records = self.store.records()?.into_iter().filter(|(kind, ..)| kind == KIND);
        let adopted: BTreeSet<StoreId> = records.filter_map(|(_, key, _)| StoreId::parse(&key)).collect();
        let store = Some(StoreId::new(self.store.id()));
        self.cache.set_standing(Standing { store, trust, adopted: Arc::new(adopted) });
        Ok(())
    }

    /// Records the stores whose Envoys are answered because the config is meant for all. The next start has
    /// to answer them too: they keep versions of their store where the content is equal.
    pub(super) fn adopt_answered(&self) {
        let answered = self.nodes.take_answered_stores();
        if let Err(error) = self.adopt(answered) {
            let error = &error as &dyn std::error::Error;
            error!(error, "that another store was adopted was not stored");
        }
    }

    /// Answers the Envoys that were not answered so far, and others of their stores. Returns the stores.
    ///
    /// # Errors
    ///
    /// Fails if the store cannot be written. Nothing changes then.
    pub(super) fn release(&self) -> Result<BTreeSet<StoreId>, store::Error> {
        let withheld = self.nodes.withheld_stores();
        self.adopt(withheld.clone())?;
        let standing = self.cache.standing();
        if standing.trust == Trust::Blank {
            self.cache.set_standing(Standing { trust: Trust::Full, ..standing });
        }
        Ok(withheld)
    }

    fn adopt(&self, stores: BTreeSet<StoreId>) -> Result<(), store::Error> {
        let standing = self.cache.standing();
        let new: BTreeSet<StoreId> = stores.difference(&standing.adopted).copied().collect();
        if new.is_empty() {
            return Ok(());
        }
        let record = |store: &StoreId| Record { kind: KIND, key: store.to_string(), value: Some(json!({})) };
        self.store.put_records(&new.iter().map(record).collect::<Vec<_>>())?;
        for store in &new {
            info!(%store, "Envoys that run the config of this store are answered from now on");
        }
        let adopted = Arc::new(standing.adopted.union(&new).copied().collect());
        self.cache.set_standing(Standing { adopted, ..standing });
        Ok(())
    }
}
