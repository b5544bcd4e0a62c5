//! Intervals at which Envoys report their load, chosen so that the cost of all reports is bounded however
//! many Envoys there are.
//!
//! The cost of a report grows with the number of clusters in it. There is a budget of clusters per second.
//! One half goes to Envoys that report each second, as many as fit. All others share the other half: the more
//! they are, the longer their interval. A few Envoys are enough to notice a failover within a second; to see
//! it at each of a thousand may take a minute.
//!
//! The cost of an Envoy is learned from its reports. An Envoy with a steady load keeps its half, which
//! changes only when the budget is clearly exceeded or has clearly room.

use std::time::Duration;

/// Report interval of Envoys that are watched closely, short enough to see a failover as it happens.
pub const OFTEN: Duration = Duration::from_secs(1);

/// Shortest report interval of all other Envoys.
const RARELY: Duration = Duration::from_secs(10);

/// Budget of each half, in clusters per second.
const BUDGET: u64 = 20_000;

/// Fixed cost of a report, in clusters.
const HEAD: u64 = 50;

/// Assumed cost of an Envoy before its first report, in clusters.
const UNKNOWN: u64 = 1_000;

/// Budget of all Envoys that report.
#[derive(Debug, Default)]
pub struct ReportBudget {
    /// Sums of the cost of one report of each Envoy: of those that are watched closely, and of the others.
    watched: u64,
    others: u64,
}

/// Share of one Envoy in the budget.
#[derive(Debug, PartialEq, Eq)]
pub struct BudgetShare {
    cost: u64,
    is_watched: bool,
    /// Interval at which the Envoy should report.
    pub interval: Duration,
}

impl ReportBudget {
    /// Adds an Envoy.
    pub fn add(&mut self) -> BudgetShare {
        let is_watched = self.watched + UNKNOWN <= BUDGET;
        let mut share = BudgetShare { cost: UNKNOWN, is_watched, interval: OFTEN };
        *self.half(is_watched) += UNKNOWN;
        share.interval = self.interval(&share);
        share
    }

    /// Updates the cost of an Envoy that has reported this many clusters, and with it the interval of its
    /// share.
    pub fn record(&mut self, share: &mut BudgetShare, clusters: usize) {
        *self.half(share.is_watched) -= share.cost;
        share.cost = HEAD + clusters as u64;
        share.is_watched = match share.is_watched {
            true => self.watched + share.cost <= BUDGET,
            // Some room is left, so that an Envoy does not alternate between the halves.
            false => self.watched + share.cost <= BUDGET * 3 / 4,
        };
        *self.half(share.is_watched) += share.cost;
        share.interval = self.interval(share);
    }

    /// Removes an Envoy.
    pub fn remove(&mut self, share: &BudgetShare) {
        *self.half(share.is_watched) -= share.cost;
    }

    fn half(&mut self, is_watched: bool) -> &mut u64 {
        if is_watched { &mut self.watched } else { &mut self.others }
    }

    /// Returns the interval of a share: 1 s if it is watched, else 10, 20, 40, … s. The steps keep the
    /// interval from changing each time an Envoy joins.
    fn interval(&self, share: &BudgetShare) -> Duration {
        if share.is_watched {
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

    /// Creates a fleet of this many Envoys, with this many clusters each, after three reports of each.
    fn fleet(envoys: usize, clusters: usize) -> (ReportBudget, Vec<BudgetShare>) {
        let mut budget = ReportBudget::default();
        let mut shares: Vec<BudgetShare> = (0..envoys).map(|_| budget.add()).collect();
        for _ in 0..3 {
            for share in &mut shares {
                budget.record(share, clusters);
            }
        }
        (budget, shares)
    }

    /// Returns the number of watched Envoys, the longest interval of the others in s, and the cost of all per
    /// second.
    fn summary(shares: &[BudgetShare]) -> (usize, u64, u64) {
        let others = shares.iter().filter(|share| !share.is_watched);
        let slowest = others.map(|share| share.interval.as_secs()).max().unwrap_or_default();
        let cost = shares.iter().map(|share| share.cost as f64 / share.interval.as_secs_f64()).sum::<f64>();
        (shares.iter().filter(|share| share.is_watched).count(), slowest, cost.round() as u64)
    }

    #[test]
    fn a_small_fleet_is_watched_closely() {
        assert_eq!(summary(&fleet(3, 1_000).1), (3, 0, 3_150));
        assert_eq!(summary(&fleet(100, 50).1), (100, 0, 10_000));
    }

    #[test]
    fn a_large_fleet_stays_within_the_budget() {
        for (envoys, clusters, watched, slowest) in
            [(1_000, 1_000, 19, 80), (10_000, 1_000, 19, 640), (10_000, 10, 250, 40), (100_000, 1, 294, 320)]
        {
            let (_, shares) = fleet(envoys, clusters);
            let summary = summary(&shares);
            assert_eq!(
                (summary.0, summary.1),
                (watched, slowest),
                "{envoys} Envoys of {clusters} clusters: {summary:?}"
            );
            assert!(summary.2 <= 2 * BUDGET, "{envoys} Envoys of {clusters} clusters cost {}", summary.2);
        }
    }

    #[test]
    fn the_budget_holds_before_the_first_reports() {
        let mut budget = ReportBudget::default();
        let shares: Vec<BudgetShare> = (0..1_000).map(|_| budget.add()).collect();
        assert_eq!(shares.iter().filter(|share| share.is_watched).count(), 20);
        assert_eq!(shares.last().map(|share| share.interval.as_secs()), Some(80));
    }

    #[test]
    fn an_envoy_that_turns_out_to_be_large_is_no_longer_watched_and_one_that_fits_is() {
        let (mut budget, mut shares) = fleet(20, 900);
        assert_eq!(summary(&shares).0, 20);
        budget.record(&mut shares[0], 9_000);
        assert!(!shares[0].is_watched);
        budget.record(&mut shares[0], 900);
        assert!(!shares[0].is_watched, "there is room, but none to spare");
        for gone in shares.drain(1..10) {
            budget.remove(&gone);
        }
        budget.record(&mut shares[0], 900);
        assert!(shares[0].is_watched);
    }

    #[test]
    fn nothing_is_counted_of_removed_envoys() {
        let (mut budget, shares) = fleet(100, 1_000);
        for share in &shares {
            budget.remove(share);
        }
        assert_eq!((budget.watched, budget.others), (0, 0));
    }
}
