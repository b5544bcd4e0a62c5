//! The upstreams of which something is so that is so of few: whoever looks for them need not look at all.

use std::sync::Arc;

use imbl::OrdMap;

use crate::config::document::upstream::Resolve;
use crate::memo::changes;
use crate::model::name::Name;
use crate::model::target::Host;
use crate::model::tls::OfTarget;
use crate::model::upstream::Upstream;

type Upstreams = OrdMap<Name, Arc<Upstream>>;

/// Upstreams by what is so of them.
#[derive(Debug, Clone, Default)]
pub struct Subsets {
    /// TLS is spoken to a target.
    pub in_tls: Upstreams,
    /// The control plane resolves names among the targets.
    pub with_names: Upstreams,
    /// Tiers depend on where an Envoy is.
    pub by_distance: Upstreams,
    /// A failover is rehearsed on a schedule.
    pub drilled: Upstreams,
}

impl Subsets {
    /// Those of `now`, where these are those of `last`.
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
