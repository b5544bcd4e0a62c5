//! How far a target is from the Envoy that asks, and which tiers come of it.

use std::collections::{BTreeMap, BTreeSet};

use crate::envoy::node::Locality;
use crate::model::target::{Host, Target};
use crate::model::upstream::Upstream;

/// How far something is; the nearest is the smallest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Distance {
    /// The same zone, and the same sub-zone where both say one.
    Here,
    /// Another sub-zone of the zone.
    SameZone,
    /// Another zone of the region.
    SameRegion,
    /// Another region, or a place that nobody said.
    Elsewhere,
}

impl Distance {
    /// All, the nearest first.
    pub const ALL: [Self; 4] = [Self::Here, Self::SameZone, Self::SameRegion, Self::Elsewhere];

    /// From one place to another.
    pub fn between(from: &Locality, to: &Locality) -> Self {
        let same = |a: &str, b: &str| !a.is_empty() && a == b;
        let may_be_same = |a: &str, b: &str| a.is_empty() || b.is_empty() || a == b;
        // Zones have names of their own in most places: who says the zone alone is understood.
        if same(&from.zone, &to.zone) && may_be_same(&from.region, &to.region) {
            match may_be_same(&from.sub_zone, &to.sub_zone) {
                true => Self::Here,
                false => Self::SameZone,
            }
        } else if same(&from.region, &to.region) {
            Self::SameRegion
        } else {
            Self::Elsewhere
        }
    }
}

impl Upstream {
    /// How far a target at `place` is for an Envoy at `from`: the same for all targets where distance does not
    /// count, and for an Envoy that does not say where it is.
    pub fn distance(&self, from: Option<&Locality>, place: &Locality) -> Distance {
        match from {
            Some(from) if self.failover.locality => Distance::between(from, place),
            _ => Distance::Elsewhere,
        }
    }

    /// In which tier each target is for an Envoy at `from`.
    pub fn ranks(&self, from: Option<&Locality>) -> Ranks<'_> {
        Ranks { upstream: self, by_distance: self.failover.locality.then(|| self.ranks_by_distance(from)) }
    }

    fn ranks_by_distance(&self, from: Option<&Locality>) -> Vec<u32> {
        let tier = |target: &Target| (target.tier, self.distance(from, &target.locality));
        // A declared tier counts whether or not a target of it gets traffic: that its first one is not there shows.
        let has_targets = |tier: u32| self.targets.iter().any(|target| target.tier == tier);
        let empty = (0..self.tier_count).filter(|tier| !has_targets(*tier));
        let tiers: BTreeSet<_> =
            self.targets.iter().map(tier).chain(empty.map(|tier| (tier, Distance::Elsewhere))).collect();
        let ranks: BTreeMap<_, u32> = tiers.into_iter().zip(0..).collect();
        self.targets.iter().map(|target| ranks[&tier(target)]).collect()
    }

    /// How many targets each tier has, from the first, for each Envoy that sees other tiers than the others do.
    /// One view, unless distance counts.
    ///
    /// What DNS has for a service is not known here: it counts as two tiers of one target.
    pub fn views(&self) -> BTreeSet<Vec<usize>> {
        let targets = self.targets.iter().filter(|_| self.failover.locality);
        let froms = targets.flat_map(|target| seen_from(&target.locality)).map(Some).chain([None]);
        froms.collect::<BTreeSet<_>>().iter().map(|from| self.view(from.as_ref())).collect()
    }

    /// How many targets there are at least; of what a service leads to only DNS knows, so as many as count.
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

/// In which tier the targets of an upstream are for one Envoy: the declared one or, where distance counts, one for each
/// distance within it, counted without gaps. That is the priority which the Envoy is told of a target while nothing is
/// steered; what DNS says of a service is left out.
#[derive(Debug, Clone)]
pub struct Ranks<'u> {
    upstream: &'u Upstream,
    /// By the index of the target, where distance counts.
    by_distance: Option<Vec<u32>>,
}

impl Ranks<'_> {
    /// The tier of the target with this index; 0 serves first.
    pub fn of(&self, target: usize) -> u32 {
        match &self.by_distance {
            Some(ranks) => ranks[target],
            None => self.upstream.targets[target].tier,
        }
    }
}

/// The places at whose distances from `place` an Envoy may be, but for elsewhere.
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
