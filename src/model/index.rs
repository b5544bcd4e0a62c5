//! Upstreams by rare trait, so that a search does not scan all of them.

use std::sync::Arc;

use imbl::OrdMap;

use crate::config::document::upstream::Resolve;
use crate::memo::changes;
use crate::model::name::Name;
use crate::model::target::Host;
use crate::model::tls::OfTarget;
use crate::model::upstream::Upstream;

type Upstreams = OrdMap<Name, Arc<Upstream>>;

/// Upstreams by trait.
#[derive(Debug, Clone, Default)]
pub struct Subsets {
    /// Upstreams with a target that is reached over TLS.
    pub in_tls: Upstreams,
    /// Upstreams with names that the control plane resolves.
    pub with_names: Upstreams,
    /// Upstreams whose tiers depend on the locality of the Envoy.
    pub by_distance: Upstreams,
    /// Upstreams with a scheduled drill.
    pub drilled: Upstreams,
}

impl Subsets {
    /// Returns the subsets of `now`, given that `self` holds those of `last`.
    #[must_use]
    pub fn updated(&self, last: &Upstreams, now: &Upstreams) -> Self {
        let mut subsets = self.clone();
        for change in changes(last, now) {
            let mut put = |subset: fn(&mut Self) -> &mut Upstreams, is_in: fn(&Upstream) -> bool| {
                let subset = subset(&mut subsets);
                match change.new.filter(|upstream| is_in(upstream)) {
                    Some(upstream) => drop(subset.insert(change.key.clone(), upstream.clone())),
                    None => drop(subset.remove(change.key)),
                }
            };
            put(|it| &mut it.in_tls, is_in_tls);
            put(|it| &mut it.with_names, has_names);
            put(|it| &mut it.by_distance, |upstream| upstream.failover.locality);
            put(|it| &mut it.drilled, |upstream| upstream.drill.is_some());
        }
        subsets
    }
}

fn is_in_tls(upstream: &Upstream) -> bool {
    let own = |tls: &OfTarget| matches!(tls, OfTarget::Own(_));
    upstream.tls.is_some() || upstream.targets.iter().any(|target| own(&target.tls))
}

fn has_names(upstream: &Upstream) -> bool {
    let is_name = |host: &Host| !matches!(host, Host::Ip(_));
    upstream.resolve == Resolve::ControlPlane
        && upstream.targets.iter().any(|target| is_name(&target.address.host))
}
