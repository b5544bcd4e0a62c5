//! Foreign stores: Envoys that run the config of another store, and whether they are answered.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;
use tracing::{error, info};

use crate::build::Build;
use crate::build::snapshot::store_id::StoreId;
use crate::cache::Cache;
use crate::cache::standing::{ConfigTrust, Standing};
use crate::nodes::Nodes;
use crate::store::{self, Record, Store};

/// Kind of the records of adopted stores.
const KIND: &str = "adopted_store";

/// Limit on the stores that are adopted because their Envoys are answered. Clients determine them.
const MAX_ANSWERED: usize = 100;

/// Stores whose Envoys are answered as the own ones are, and the standing that follows.
#[derive(Debug)]
pub(super) struct ForeignStores {
    store: Arc<dyn Store>,
    cache: Arc<Cache>,
    nodes: Nodes,
}

/// Returns the trust in the first config of a start. That of a store that was just born is meant for all as
/// soon as it has a route, since a container without a volume has a new store at each start.
pub(super) fn first_trust(is_newborn: bool, build: &Build, allows_foreign: bool) -> ConfigTrust {
    let has_routes = || build.model.fleet_names().iter().any(|fleet| build.model.has_routes(fleet));
    if allows_foreign {
        ConfigTrust::Full
    } else if is_newborn || !has_routes() {
        ConfigTrust::Blank
    } else {
        ConfigTrust::Inherited
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
    pub(super) fn start(&self, trust: ConfigTrust) -> Result<(), store::Error> {
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
        let room = MAX_ANSWERED.saturating_sub(self.cache.standing().adopted.len());
        let answered = answered.into_iter().take(room).collect();
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
        if standing.trust == ConfigTrust::Blank {
            self.cache.set_standing(Standing { trust: ConfigTrust::Full, ..standing });
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::build::{self, Inputs};
    use crate::config::edit::Files;
    use crate::envoy::node::Node;
    use crate::nodes::status::{Provenance, WithholdReason};
    use crate::store::redb::RedbStore;

    fn build(text: &str) -> Build {
        let inputs = Inputs { files: Files::unit("a.yaml".into(), text.into()), ..Inputs::default() };
        build::build(&inputs, None).expect("it builds")
    }

    #[test]
    fn a_config_is_meant_for_all_if_that_is_said_and_inherited_if_it_has_a_route() {
        let upstream = "upstreams: [{name: a, targets: [{target: 10.0.0.1:80}]}]";
        let service = format!("{upstream}\nservices: [{{name: a, upstream: a}}]");
        let route = format!("{service}\nroutes: [{{name: a, service: a}}]");
        let elsewhere = format!(
            "{service}\nfleets: [{{name: west, select: {{cluster: west}}}}]\n\
             listeners: [{{name: web, address: 0.0.0.0:80, fleets: [west]}}]\n\
             routes: [{{name: a, service: a, fleets: [west]}}]"
        );
        let raw = "raw: {resources: [{'@type': type.googleapis.com/envoy.config.listener.v3.Listener, name: web, \
                   address: {socket_address: {address: 0.0.0.0, port_value: 80}}}]}";
        for (text, of_old, of_new) in [
            ("rollout: {canary: false}", ConfigTrust::Blank, ConfigTrust::Blank),
            (upstream, ConfigTrust::Blank, ConfigTrust::Blank),
            (&service, ConfigTrust::Blank, ConfigTrust::Blank),
            (&route, ConfigTrust::Inherited, ConfigTrust::Blank),
            (&elsewhere, ConfigTrust::Inherited, ConfigTrust::Blank),
            (raw, ConfigTrust::Inherited, ConfigTrust::Blank),
        ] {
            let build = build(text);
            assert_eq!(first_trust(false, &build, false), of_old, "{text}");
            assert_eq!(first_trust(true, &build, false), of_new, "{text}");
            assert_eq!(first_trust(false, &build, true), ConfigTrust::Full, "{text}");
        }
    }

    fn started(directory: &Path, trust: ConfigTrust) -> ForeignStores {
        let store = Arc::new(RedbStore::open(directory).expect("opens"));
        let cache = Arc::new(Cache::new(Arc::new(Build::default())));
        let stores = ForeignStores::new(store, cache, Nodes::default());
        stores.start(trust).expect("the records are read");
        stores
    }

    fn adopted(stores: &ForeignStores) -> Vec<String> {
        stores.cache.standing().adopted.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn stores_that_are_answered_or_allowed_are_adopted_for_good() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let id = |digit: &str| digit.repeat(16);
        let stores = started(directory.path(), ConfigTrust::Inherited);
        let guards =
            [("a", true, None), ("b", false, Some(WithholdReason::ForeignStore)), ("c", false, None)];
        let guards = guards.map(|(digit, is_adopted, withheld)| {
            let guard = stores.nodes.connect(Node { id: digit.into(), ..Node::default() }, None);
            let foreign_store = StoreId::parse(&id(digit));
            guard.record_provenance(Provenance { foreign_store, is_adopted, withheld });
            guard
        });
        stores.adopt_answered();
        assert_eq!(adopted(&stores), [id("a")]);
        let released = stores.release().expect("it is stored");
        assert_eq!(released.iter().map(ToString::to_string).collect::<Vec<_>>(), [id("b")]);
        assert_eq!(adopted(&stores), [id("a"), id("b")]);
        assert_eq!(stores.cache.standing().trust, ConfigTrust::Inherited, "others are not answered");
        drop((guards, stores));
        assert_eq!(adopted(&started(directory.path(), ConfigTrust::Inherited)), [id("a"), id("b")]);
    }

    #[test]
    fn a_blank_config_is_meant_for_all_once_that_is_allowed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let stores = started(directory.path(), ConfigTrust::Blank);
        assert_eq!(stores.release().expect("it is stored").len(), 0);
        assert_eq!(stores.cache.standing().trust, ConfigTrust::Full);
    }
}
