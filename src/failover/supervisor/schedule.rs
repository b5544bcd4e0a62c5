//! Schedule of the drills that the config declares.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::view::TrafficView;
use crate::failover::history::History;
use crate::failover::orders::Orders;
use crate::failover::orders::decide::{OrderRefusal, Situation};
use crate::model::drill::ScheduledDrill;
use crate::model::name::Name;
use crate::model::target::Target;
use crate::model::upstream::Upstream;

/// Next start of each scheduled drill, by upstream, with the schedule it was derived from.
#[derive(Debug, Default)]
pub(super) struct DrillSchedule {
    due: BTreeMap<Name, (String, Option<Timestamp>)>,
}

impl DrillSchedule {
    /// Begins the scheduled drills that are due at this wall time. Returns the refused ones.
    pub(super) fn begin_due(
        &mut self,
        orders: &mut Orders,
        history: &History,
        view: TrafficView<'_>,
        wall: Timestamp,
    ) -> Vec<(Name, OrderRefusal)> {
        let mut refused = Vec::new();
        for (upstream, drill) in view.build.drilled() {
            if !self.take_due(upstream, drill, wall) {
                continue;
            }
            let situation = Situation {
                build: view.build,
                orders,
                is_healthy: &|upstream: &Upstream, target: &Target| view.is_healthy(upstream, target),
                has_failed: &|name: &Name| history.has_failed(name),
                now: view.now,
                force: false,
            };
            match situation.scheduled_drill(upstream, drill) {
                Ok(begun) => *orders = begun,
                Err(refusal) => refused.push((upstream.name.clone(), refusal)),
            }
        }
        refused
    }

    /// True if the drill of an upstream is due; then its next start is planned. A new schedule is due at its
    /// next time, never at once.
    fn take_due(&mut self, upstream: &Upstream, drill: &ScheduledDrill, now: Timestamp) -> bool {
        let planned = self.due.get(&upstream.name).filter(|(schedule, _)| *schedule == drill.schedule);
        let is_due = match planned {
            Some((_, Some(due))) => *due <= now,
            Some((_, None)) => return false,
            None => false,
        };
        if is_due || planned.is_none() {
            self.due.insert(upstream.name.clone(), (drill.schedule.clone(), drill.next(now)));
        }
        is_due
    }
}
