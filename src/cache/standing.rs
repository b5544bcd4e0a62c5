//! Standing of this control plane towards clients that run a config which it does not know.
//!
//! A lost or exchanged data directory looks like a config with less in it, and an Envoy that is answered from
//! it drops what it serves. So such an Envoy is answered only by a control plane of which that is meant.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::build::snapshot::store_id::StoreId;

/// Standing of the control plane, with its store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Id of the own store; none outside of a control plane.
    pub store: Option<StoreId>,
    /// ConfigTrust in the own config.
    pub trust: ConfigTrust,
    /// Other stores whose clients are answered as the own ones are.
    pub adopted: Arc<BTreeSet<StoreId>>,
}

/// ConfigTrust in the own config, compared with an unknown one of a client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ConfigTrust {
    /// The config is meant for all clients.
    #[default]
    Full,
    /// The store was handed down from an earlier process, so it may belong to another environment.
    Inherited,
    /// Nothing was accepted yet that gives the client a route.
    Blank,
}

impl Standing {
    /// Returns the standing towards clients that would get a route, or none. The first route makes a blank
    /// config one that is meant.
    #[must_use]
    pub fn towards(&self, has_routes: bool) -> Self {
        let trust = match self.trust {
            ConfigTrust::Blank if has_routes => ConfigTrust::Full,
            trust => trust,
        };
        Self { trust, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_ends_blankness_and_nothing_else() {
        let towards = |trust, has_routes| Standing { trust, ..Standing::default() }.towards(has_routes).trust;
        assert_eq!(
            [false, true].map(|has| towards(ConfigTrust::Blank, has)),
            [ConfigTrust::Blank, ConfigTrust::Full]
        );
        assert_eq!(
            [false, true].map(|has| towards(ConfigTrust::Inherited, has)),
            [ConfigTrust::Inherited; 2]
        );
        assert_eq!([false, true].map(|has| towards(ConfigTrust::Full, has)), [ConfigTrust::Full; 2]);
    }
}
