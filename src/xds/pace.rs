//! How often each Envoy is asked to report its load, so that listening costs the same however many there are.
//!
//! What a report costs grows with the clusters that it tells of. There is a budget of clusters a second: half of it goes to
//! Envoys that are watched closely, each second, as many as fit; all others share the other half, and report the more
//! rarely the more they are. To see that something happens takes a few Envoys; to see it at each of a thousand may take
//! a minute.
//!
//! An Envoy with a steady load keeps its place. What it costs is learned from its reports, and its place changes only when
//! there is clearly too much, or clearly room.

use std::time::Duration;

/// How often those report that are watched closely: failover should be seen as it happens.
pub const OFTEN: Duration = Duration::from_secs(1);

/// How often all others do, at the least.
const RARELY: Duration = Duration::from_secs(10);

/// How many clusters a second each half is worth.
const BUDGET: u64 = 20_000;

/// What a report costs beside its clusters, in clusters.
const HEAD: u64 = 50;

/// What an Envoy that has not reported yet is taken to cost.
const UNKNOWN: u64 = 1_000;

/// All Envoys that report.
#[derive(Debug, Default)]
pub struct Pace {
    /// What a report of each costs, summed over those that are watched and over the others.
    watched: u64,
    others: u64,
}

/// The place of one of them.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    cost: u64,
    is_watched: bool,
    /// How often it was asked to report.
    pub interval: Duration,
}

impl Pace {
    /// A place for one that begins to report.
    pub fn join(&mut self) -> Place {
        let is_watched = self.watched + UNKNOWN <= BUDGET;
        let mut place = Place { cost: UNKNOWN, is_watched, interval: OFTEN };
        *self.half(is_watched) += UNKNOWN;
        place.interval = self.interval(&place);
        place
    }

    /// Takes in that it reported so many clusters. The interval of the place is how often it should report from now on.
    pub fn reported(&mut self, place: &mut Place, clusters: usize) {
        *self.half(place.is_watched) -= place.cost;
        place.cost = HEAD + clusters as u64;
        place.is_watched = match place.is_watched {
            true => self.watched + place.cost <= BUDGET,
            // With some room to spare, so that none comes and goes.
            false => self.watched + place.cost <= BUDGET * 3 / 4,
        };
        *self.half(place.is_watched) += place.cost;
        place.interval = self.interval(place);
    }

    /// It reports no more.
    pub fn leave(&mut self, place: &Place) {
        *self.half(place.is_watched) -= place.cost;
    }

    fn half(&mut self, is_watched: bool) -> &mut u64 {
        if is_watched { &mut self.watched } else { &mut self.others }
    }

    /// Those that are not watched report every 10, 20, 40, … s: a step that is not taken each time one comes.
    fn interval(&self, place: &Place) -> Duration {
        if place.is_watched {
            return OFTEN;
        }
        let mut interval = RARELY;
        while interval.as_secs().saturating_mul(BUDGET) < self.others {
            interval = interval.saturating_mul(2);
        }
        interval
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fleet of Envoys that send to so many clusters each, after they reported some times.
    fn fleet(envoys: usize, clusters: usize) -> (Pace, Vec<Place>) {
        let mut pace = Pace::default();
        let mut places: Vec<Place> = (0..envoys).map(|_| pace.join()).collect();
        for _ in 0..3 {
            for place in &mut places {
                pace.reported(place, clusters);
            }
        }
        (pace, places)
    }

    /// How many are watched, how often the others report in seconds, and what all cost a second.
    fn told(places: &[Place]) -> (usize, u64, u64) {
        let others = places.iter().filter(|place| !place.is_watched);
        let slowest = others.map(|place| place.interval.as_secs()).max().unwrap_or_default();
        let cost = places.iter().map(|place| place.cost as f64 / place.interval.as_secs_f64()).sum::<f64>();
        (places.iter().filter(|place| place.is_watched).count(), slowest, cost.round() as u64)
    }

    #[test]
    fn a_small_fleet_is_watched_closely() {
        assert_eq!(told(&fleet(3, 1_000).1), (3, 0, 3_150));
        assert_eq!(told(&fleet(100, 50).1), (100, 0, 10_000));
    }

    #[test]
    fn a_large_one_costs_what_it_may_and_no_more() {
        for (envoys, clusters, watched, slowest) in
            [(1_000, 1_000, 19, 80), (10_000, 1_000, 19, 640), (10_000, 10, 250, 40), (100_000, 1, 294, 320)]
        {
            let (_, places) = fleet(envoys, clusters);
            let told = told(&places);
            assert_eq!(
                (told.0, told.1),
                (watched, slowest),
                "{envoys} Envoys of {clusters} clusters: {told:?}"
            );
            assert!(told.2 <= 2 * BUDGET, "{envoys} Envoys of {clusters} clusters cost {}", told.2);
        }
    }

    #[test]
    fn even_before_they_reported_for_the_first_time() {
        let mut pace = Pace::default();
        let places: Vec<Place> = (0..1_000).map(|_| pace.join()).collect();
        assert_eq!(places.iter().filter(|place| place.is_watched).count(), 20);
        assert_eq!(places.last().map(|place| place.interval.as_secs()), Some(80));
    }

    #[test]
    fn who_turns_out_to_be_large_gives_its_place_up_and_one_that_fits_takes_it() {
        let (mut pace, mut places) = fleet(20, 900);
        assert_eq!(told(&places).0, 20);
        pace.reported(&mut places[0], 9_000);
        assert!(!places[0].is_watched);
        pace.reported(&mut places[0], 900);
        assert!(!places[0].is_watched, "there is room, but none to spare");
        for gone in places.drain(1..10) {
            pace.leave(&gone);
        }
        pace.reported(&mut places[0], 900);
        assert!(places[0].is_watched);
    }

    #[test]
    fn nothing_is_left_of_those_who_left() {
        let (mut pace, places) = fleet(100, 1_000);
        for place in &places {
            pace.leave(place);
        }
        assert_eq!((pace.watched, pace.others), (0, 0));
    }
}
