//! How the endpoints of an upstream differ for now from what is declared: what operators, drills and failback ask for.
//!
//! It is told in endpoints, so that it reaches Envoys within milliseconds and no cluster with targets is swapped. Where
//! each tier is a cluster, the one that serves first is the first of their aggregate, which has neither connections nor
//! health to lose. What it says of parts that an upstream does not have says nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::document::upstream::Resolve;
use crate::model::name::Name;
use crate::model::part::Part;
use crate::model::target::{Host, Target};
use crate::model::upstream::Upstream;

/// What is asked for, by upstream; those of which nothing is asked are not there.
pub type Steerings = BTreeMap<Name, Arc<Steering>>;

/// A state that an operator or a drill gave to a target, worse than what its health says. From the mildest to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Down for a drill: it serves only where nothing else can, so that a standby which fails in it costs no request.
    Rehearsed,
    /// No new requests; those under way end in peace.
    Drained,
    /// As if its health check had failed.
    Down,
}

impl State {
    /// Its word in the API.
    pub fn word(self) -> &'static str {
        match self {
            Self::Drained => "drained",
            Self::Rehearsed | Self::Down => "down",
        }
    }
}

/// What is asked for of one upstream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Steering {
    /// The parts that are out.
    pub states: BTreeMap<Part, State>,
    /// The tier that serves before all others, while it can.
    pub first: Option<First>,
}

/// The tier that serves before all others, while it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct First {
    /// Which one, from 0.
    pub tier: u32,
    /// How many percent of the requests the first declared tier gets beside it.
    pub home: u32,
}

impl Steering {
    /// The state that a target was given, itself or with its tier or zone; of several the worst.
    pub fn state(&self, target: &Target) -> Option<State> {
        self.states.iter().filter(|(part, _)| part.includes(target)).map(|(_, state)| *state).max()
    }

    /// In which place a tier serves.
    pub fn rank(&self, tier: u32) -> u32 {
        self.first.map_or(tier, |first| first.rank(tier))
    }
}

impl First {
    /// In which place a tier serves, beside this one.
    pub fn rank(self, tier: u32) -> u32 {
        match tier {
            _ if tier == self.tier || (tier == 0 && self.home > 0) => 0,
            _ if tier < self.tier => tier + 1,
            _ => tier,
        }
    }
}

impl Upstream {
    /// The targets of these parts that cannot be steered: what Envoy looks up stands in its cluster, which would be
    /// swapped.
    pub fn beyond_reach(&self, is_meant: impl Fn(&Target) -> bool) -> Option<&Target> {
        let by_name = |tier: u32| {
            let is_name = |target: &&Target| matches!(target.address.host, Host::Name(_));
            self.targets.iter().filter(|target| target.tier == tier).any(|target| is_name(&target))
        };
        let mut meant = self.targets.iter().filter(|target| is_meant(target));
        meant.find(|target| self.resolve == Resolve::Envoy && by_name(target.tier))
    }
}

/// The weights of endpoints, in parts of a million for each percent of their tier's share.
///
/// Tiers that serve together get what they should however many targets they have and whatever these weigh.
pub(crate) fn shared_weight(weight: u32, of_tier: u64, percent: u32) -> u32 {
    const ONE_PERCENT: u64 = 10_000;
    let weight = u64::from(weight) * u64::from(percent) * ONE_PERCENT / of_tier.max(1);
    u32::try_from(weight).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(tier: u32, home: u32) -> Steering {
        Steering { first: Some(First { tier, home }), ..Steering::default() }
    }

    #[test]
    fn a_tier_that_serves_first_goes_before_the_others_and_these_stay_in_their_order() {
        let ranks = |steering: &Steering| (0..4).map(|tier| steering.rank(tier)).collect::<Vec<_>>();
        assert_eq!(ranks(&Steering::default()), [0, 1, 2, 3]);
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
