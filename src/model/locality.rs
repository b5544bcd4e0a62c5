//! Distance from an Envoy to a target, and the tiers that follow from it.

use std::collections::{BTreeMap, BTreeSet};

use crate::envoy::node::Locality;
use crate::model::target::{Host, Target};
use crate::model::upstream::Upstream;

/// Sort key of tiers: the declared tier, then the distance to the Envoy, then the priority of a DNS SRV
/// record.
pub type TierRank = (u32, Distance, u16);

/// Distance between two localities; the nearest is the smallest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Distance {
    /// Same zone, and same sub-zone if both have one.
    Here,
    /// Another sub-zone of the zone.
    SameZone,
    /// Another zone of the region.
    SameRegion,
    /// Another region, or an unknown locality.
    Elsewhere,
}

impl Distance {
    /// All distances, the nearest first.
    pub const ALL: [Self; 4] = [Self::Here, Self::SameZone, Self::SameRegion, Self::Elsewhere];

    /// Returns the distance from one locality to another.
    pub fn between(from: &Locality, to: &Locality) -> Self {
        let same = |a: &str, b: &str| !a.is_empty() && a == b;
        let may_be_same = |a: &str, b: &str| a.is_empty() || b.is_empty() || a == b;
        // Zone names are unique across regions in most clouds: a locality with a zone alone is enough.
        if same(&from.zone, &to.zone) && may_be_same(&from.region, &to.region) {
            if may_be_same(&from.sub_zone, &to.sub_zone) { Self::Here } else { Self::SameZone }
        } else if same(&from.region, &to.region) {
            Self::SameRegion
        } else {
            Self::Elsewhere
        }
    }
}

impl Upstream {
    /// Returns the distance from an Envoy at `from` to a target at `place`. It is [`Distance::Elsewhere`] for
    /// all targets if the upstream ignores distance or the locality of the Envoy is unknown.
    pub fn distance(&self, from: Option<&Locality>, place: &Locality) -> Distance {
        match from {
            Some(from) if self.failover.locality => Distance::between(from, place),
            _ => Distance::Elsewhere,
        }
    }

    /// Returns the tier of each target as seen by an Envoy at `from`.
    pub fn ranks(&self, from: Option<&Locality>) -> Ranks<'_> {
        Ranks { upstream: self, by_distance: self.failover.locality.then(|| self.ranks_by_distance(from)) }
    }

    fn ranks_by_distance(&self, from: Option<&Locality>) -> Vec<u32> {
        let tier = |target: &Target| (target.tier, self.distance(from, &target.locality));
        // A declared tier counts even if none of its targets gets traffic, so that the absence of the first
        // tier shows.
        let has_targets = |tier: u32| self.targets.iter().any(|target| target.tier == tier);
        let empty = (0..self.tier_count).filter(|tier| !has_targets(*tier));
        let tiers: BTreeSet<_> =
            self.targets.iter().map(tier).chain(empty.map(|tier| (tier, Distance::Elsewhere))).collect();
        let ranks: BTreeMap<_, u32> = tiers.into_iter().zip(0..).collect();
        self.targets.iter().map(|target| ranks[&tier(target)]).collect()
    }

    /// Returns the number of targets of each tier, first tier first, for each distinct view that an Envoy can
    /// have. There is one view unless the upstream uses distance.
    ///
    /// The DNS records of a service are not known here: it counts as two tiers of one target.
    pub fn views(&self) -> BTreeSet<Vec<usize>> {
        let targets = self.targets.iter().filter(|_| self.failover.locality);
        let froms = targets.flat_map(|target| seen_from(&target.locality)).map(Some).chain([None]);
        froms.collect::<BTreeSet<_>>().iter().map(|from| self.view(from.as_ref())).collect()
    }

    /// Returns the minimum number of targets. The number behind a service is known only to DNS, so it counts
    /// as ten.
    pub fn most_targets(&self) -> usize {
        const MANY: usize = 10;
        let count = |host: &Host| if matches!(host, Host::Service(_)) { MANY } else { 1 };
        self.targets.iter().map(|target| count(&target.address.host)).sum()
    }

    fn view(&self, from: Option<&Locality>) -> Vec<usize> {
        let mut tiers: BTreeMap<_, usize> = BTreeMap::new();
        for target in &self.targets {
            let tier = (target.tier, self.distance(from, &target.locality));
            *tiers.entry((tier, false)).or_default() += 1;
            if matches!(target.address.host, Host::Service(_)) {
                *tiers.entry((tier, true)).or_default() += 1;
            }
        }
        tiers.into_values().collect()
    }
}

/// Tier of each target of an upstream as seen by one Envoy: the declared one or, if the upstream uses
/// distance, one per distance within it, numbered without gaps. It is the priority that the Envoy gets for
/// the target as long as nothing is steered; SRV priorities are left out.
#[derive(Debug, Clone)]
pub struct Ranks<'u> {
    upstream: &'u Upstream,
    /// Tiers by index of the target, if the upstream uses distance.
    by_distance: Option<Vec<u32>>,
}

impl Ranks<'_> {
    /// Returns the tier of the target with this index; 0 serves first.
    pub fn of(&self, target: usize) -> u32 {
        match &self.by_distance {
            Some(ranks) => ranks[target],
            None => self.upstream.targets[target].tier,
        }
    }
}

/// Returns one locality for each distance from `place` at which an Envoy may be, except elsewhere.
fn seen_from(place: &Locality) -> [Locality; 3] {
    let zone = Locality { sub_zone: String::new(), ..place.clone() };
    let region = Locality { zone: String::new(), ..zone.clone() };
    [place.clone(), zone, region]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(from: &str, to: &str, expected: Distance) {
        let place = |text: &str| text.parse::<Locality>().expect("a locality");
        assert_eq!(Distance::between(&place(from), &place(to)), expected, "{from} to {to}");
    }

    #[test]
    fn the_nearest_have_the_zone_in_common() {
        check("eu/a", "eu/a", Distance::Here);
        check("eu/a", "eu/b", Distance::SameRegion);
        check("eu/a", "us/c", Distance::Elsewhere);
        check("eu/a", "us/a", Distance::Elsewhere);
    }

    #[test]
    fn sub_zones_count_where_both_say_one() {
        check("eu/a/1", "eu/a/1", Distance::Here);
        check("eu/a/1", "eu/a/2", Distance::SameZone);
        check("eu/a", "eu/a/2", Distance::Here);
        check("eu/a/1", "eu/a", Distance::Here);
        check("eu/a/1", "eu/b/1", Distance::SameRegion);
    }

    #[test]
    fn a_zone_alone_is_understood() {
        check("eu/a", "/a", Distance::Here);
        check("/a", "eu/a", Distance::Here);
        check("/a", "/b", Distance::Elsewhere);
    }

    #[test]
    fn who_does_not_say_where_it_is_is_elsewhere() {
        check("eu/a", "", Distance::Elsewhere);
        check("", "eu/a", Distance::Elsewhere);
        check("", "", Distance::Elsewhere);
        check("eu", "eu/a", Distance::SameRegion);
    }
}
