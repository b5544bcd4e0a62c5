//! Temporary differences between the endpoints of an upstream and its declaration, requested by operators,
//! drills and failback.
//!
//! They are expressed in endpoints, so that they reach Envoys within milliseconds and no cluster with targets
//! is replaced. If each tier is a cluster, the tier that serves first is moved to the front of the aggregate
//! cluster, which has neither connections nor health state to lose. Entries for targets that an upstream does
//! not have are ignored.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::document::upstream::Resolve;
use crate::model::name::Name;
use crate::model::selector::Part;
use crate::model::target::{Host, Target};
use crate::model::upstream::Upstream;

/// Overrides by upstream; an upstream without any has no entry.
pub type OverridesByUpstream = BTreeMap<Name, Arc<EndpointOverrides>>;

/// State that an operator or a drill gave to a target, worse than its own health. Variants are ordered from
/// the mildest to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Down for a drill: the target serves only if no other target can, so that a standby which fails during
    /// the drill costs no request.
    Rehearsed,
    /// No new requests; requests in progress end normally.
    Drained,
    /// Treated as if its health check had failed.
    Down,
}

impl State {
    /// Returns its word in the API.
    pub fn word(self) -> &'static str {
        match self {
            Self::Drained => "drained",
            Self::Rehearsed | Self::Down => "down",
        }
    }
}

/// Overrides of one upstream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointOverrides {
    /// States of selected targets.
    pub states: BTreeMap<Part, State>,
    /// Tier that serves before all others, as long as it can.
    pub first: Option<First>,
}

/// Tier that serves before all others, as long as it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct First {
    /// Index of the tier, from 0.
    pub tier: u32,
    /// Share of the requests that declared tier 0 gets at the same time, in percent.
    pub home: u32,
}

impl EndpointOverrides {
    /// Returns the state given to a target, directly or through its tier, zone or region; the worst of
    /// several.
    pub fn state(&self, target: &Target) -> Option<State> {
        self.states.iter().filter(|(part, _)| part.includes(target)).map(|(_, state)| *state).max()
    }

    /// Returns the position at which a tier serves; 0 serves first.
    pub fn rank(&self, tier: u32) -> u32 {
        self.first.map_or(tier, |first| first.rank(tier))
    }
}

impl First {
    /// Returns the position of `tier` while this tier serves first. Tier 0 shares position 0 if it has a
    /// share.
    pub fn rank(self, tier: u32) -> u32 {
        match tier {
            _ if tier == self.tier || (tier == 0 && self.home > 0) => 0,
            _ if tier < self.tier => tier + 1,
            _ => tier,
        }
    }
}

impl Upstream {
    /// Returns a selected target that cannot be steered, if there is one: if Envoy resolves names, the
    /// endpoints of such a tier are in the cluster itself, which would have to be replaced.
    pub fn beyond_reach(&self, is_meant: impl Fn(&Target) -> bool) -> Option<&Target> {
        let by_name = |tier: u32| {
            let is_name = |target: &&Target| matches!(target.address.host, Host::Name(_));
            self.targets.iter().filter(|target| target.tier == tier).any(|target| is_name(&target))
        };
        let mut meant = self.targets.iter().filter(|target| is_meant(target));
        meant.find(|target| self.resolve == Resolve::Envoy && by_name(target.tier))
    }
}

/// Weight of an endpoint whose tier shares the traffic with another, in millionths of the whole.
///
/// The weights of a tier add up to 10,000 per percent of its share, however many targets it has and whatever
/// their declared weights are (`of_tier` is their sum).
pub(crate) fn shared_weight(weight: u32, of_tier: u64, percent: u32) -> u32 {
    const ONE_PERCENT: u64 = 10_000;
    let weight = u64::from(weight) * u64::from(percent) * ONE_PERCENT / of_tier.max(1);
    u32::try_from(weight).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(tier: u32, home: u32) -> EndpointOverrides {
        EndpointOverrides { first: Some(First { tier, home }), ..EndpointOverrides::default() }
    }

    #[test]
    fn a_tier_that_serves_first_goes_before_the_others_and_these_stay_in_their_order() {
        let ranks = |endpoint_overrides: &EndpointOverrides| {
            (0..4).map(|tier| endpoint_overrides.rank(tier)).collect::<Vec<_>>()
        };
        assert_eq!(ranks(&EndpointOverrides::default()), [0, 1, 2, 3]);
        assert_eq!(ranks(&first(1, 0)), [1, 0, 2, 3]);
        assert_eq!(ranks(&first(2, 0)), [1, 2, 0, 3]);
        assert_eq!(ranks(&first(0, 0)), [0, 1, 2, 3]);
        assert_eq!(ranks(&first(2, 10)), [0, 2, 0, 3]);
    }

    #[test]
    fn shared_weights_keep_the_share_of_a_tier() {
        let tier = [100, 300].map(|weight| shared_weight(weight, 400, 10));
        let other = [7, 7, 7].map(|weight| shared_weight(weight, 21, 90));
        assert_eq!((tier.iter().sum::<u32>(), tier[1]), (100_000, 75_000));
        assert_eq!(other.iter().sum::<u32>(), 900_000);
        assert_eq!(shared_weight(1, 1_000_000_000, 1), 1, "none is left out");
    }
}
