//! Decisions on orders: validates a request against the config and the observed traffic.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use crate::build::Build;
use crate::config::Path;
use crate::failover::orders::drill::DrillRun;
use crate::failover::orders::hold::HoldOutcome;
use crate::failover::orders::request::OrderRequest;
use crate::failover::orders::time::later;
use crate::failover::orders::{OrderMetadata, Orders, PinOrder, StateOrder};
use crate::inspect::simulate;
use crate::model::drill::{ERROR_RATE, ScheduledDrill};
use crate::model::name::Name;
use crate::model::overrides::OverrideState;
use crate::model::selector::TargetSelector;
use crate::model::target::Target;
use crate::model::upstream::Upstream;

/// Reason why an order is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderRefusal {
    /// The order names something that does not exist.
    Unknown(String),
    /// A field of the order is malformed.
    Invalid {
        /// Path of the field.
        field: Path,
        /// Fault, and what would be right.
        message: String,
    },
    /// The order would do harm or cannot be carried out at present.
    Conflict(String),
}

impl fmt::Display for OrderRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(message) | Self::Invalid { message, .. } | Self::Conflict(message) => {
                f.write_str(message)
            }
        }
    }
}

/// State of the system against which an order is decided.
pub struct Situation<'a> {
    /// Newest config.
    pub build: &'a Build,
    /// Orders in force.
    pub orders: &'a Orders,
    /// Health of a target by recent observations of Envoys; none if unknown.
    pub is_healthy: &'a dyn Fn(&Upstream, &Target) -> Option<bool>,
    /// True while a standby of the upstream serves because its primaries failed.
    pub has_failed: &'a dyn Fn(&Name) -> bool,
    /// Time of the decision.
    pub now: Timestamp,
    /// True to skip the checks that protect traffic.
    pub force: bool,
}

impl<'a> Situation<'a> {
    /// Returns the upstream of this name.
    ///
    /// # Errors
    ///
    /// [`OrderRefusal::Unknown`] if there is none.
    pub fn upstream(&self, name: &str) -> Result<&'a Upstream, OrderRefusal> {
        let found = Name::parse(name).and_then(|name| self.build.model.upstreams.get(&name));
        found
            .map(AsRef::as_ref)
            .ok_or_else(|| OrderRefusal::Unknown(format!("no upstream is named `{name}`")))
    }

    /// Removes the state of some targets, so that only their health counts. Neither the upstream nor the
    /// state needs to exist.
    pub fn auto(&self, upstream: &str, selector: &TargetSelector) -> Orders {
        let mut orders = self.orders.clone();
        if let Some(name) = Name::parse(upstream) {
            orders.states.remove(&(name, selector.clone()));
        }
        orders
    }

    /// Gives some targets of an upstream a state.
    ///
    /// # Errors
    ///
    /// [`OrderRefusal::Conflict`] if one of them cannot be steered, or if no usable target would be left.
    pub fn state(
        &self,
        upstream: &Upstream,
        selector: &TargetSelector,
        state: OverrideState,
        metadata: OrderMetadata,
    ) -> Result<Orders, OrderRefusal> {
        self.ensure_reach(upstream, |target| selector.includes(target))?;
        let mut orders = self.orders.clone();
        orders.states.insert((upstream.name.clone(), selector.clone()), StateOrder { state, metadata });
        if !self.force {
            self.ensure_usable_target(upstream, &orders)?;
        }
        Ok(orders)
    }

    /// Refuses orders that leave an upstream without a usable target, if it has one now.
    fn ensure_usable_target(&self, upstream: &Upstream, orders: &Orders) -> Result<(), OrderRefusal> {
        let usable = |orders: &Orders| {
            let overrides = orders.overrides();
            let endpoint_overrides = overrides.get(&upstream.name).cloned();
            let is_out =
                |target: &Target| endpoint_overrides.as_ref().is_some_and(|it| it.state(target).is_some());
            let is_dead = |target: &Target| (self.is_healthy)(upstream, target) == Some(false);
            upstream.targets.iter().filter(|target| !is_out(target) && !is_dead(target)).count()
        };
        if usable(orders) > 0 || usable(self.orders) == 0 {
            return Ok(());
        }
        let name = &upstream.name;
        Err(OrderRefusal::Conflict(format!(
            "upstream `{name}` would be left without a usable target; force does it"
        )))
    }

    fn ensure_reach(
        &self,
        upstream: &Upstream,
        is_meant: impl Fn(&Target) -> bool,
    ) -> Result<(), OrderRefusal> {
        match upstream.beyond_reach(is_meant) {
            None => Ok(()),
            Some(target) => Err(OrderRefusal::Conflict(format!(
                "`{}` cannot be steered: with `resolve: envoy` the tier of a host name stands in its cluster, \
                 which would be swapped; let the control plane resolve it, or set `enabled: false`",
                target.address
            ))),
        }
    }

    /// Pins a tier of an upstream.
    ///
    /// # Errors
    ///
    /// [`OrderRefusal::Invalid`] if there is no such tier, [`OrderRefusal::Conflict`] if it cannot be steered.
    pub fn pin(
        &self,
        upstream: &Upstream,
        priority: u32,
        metadata: OrderMetadata,
    ) -> Result<Orders, OrderRefusal> {
        if !upstream.targets.iter().any(|target| target.tier == priority) {
            let name = &upstream.name;
            let message = format!("upstream `{name}` has no targets of priority {priority}");
            return Err(OrderRefusal::Invalid { field: Path::default().key("priority"), message });
        }
        self.ensure_reach(upstream, |target| target.tier <= priority)?;
        let mut orders = self.orders.clone();
        orders.pins.insert(upstream.name.clone(), PinOrder { priority, metadata });
        Ok(orders)
    }

    /// Removes the pin of an upstream. The upstream itself need not exist any more.
    ///
    /// # Errors
    ///
    /// [`OrderRefusal::Unknown`] if there is no pin.
    pub fn unpin(&self, upstream: &str) -> Result<Orders, OrderRefusal> {
        let mut orders = self.orders.clone();
        let pin = Name::parse(upstream).and_then(|name| orders.pins.remove(&name));
        if pin.is_some() {
            return Ok(orders);
        }
        let name = &self.upstream(upstream)?.name;
        Err(OrderRefusal::Unknown(format!("upstream `{name}` has no pin")))
    }

    /// Releases the held standby of an upstream, so that its primaries get their traffic back.
    ///
    /// # Errors
    ///
    /// [`OrderRefusal::Conflict`] if no standby is held.
    pub fn failback(&self, upstream: &Upstream) -> Result<Orders, OrderRefusal> {
        let mut orders = self.orders.clone();
        let nothing =
            || OrderRefusal::Conflict(format!("no standby of upstream `{}` is held", upstream.name));
        let hold = orders.holds.remove(&upstream.name).ok_or_else(nothing)?;
        if let HoldOutcome::Hold(hold) = hold.released(self.now, &upstream.failback) {
            orders.holds.insert(upstream.name.clone(), hold);
        }
        Ok(orders)
    }

    /// Begins a drill, after checks that it does no harm. It gets the highest number of all drills.
    /// `error_rate` is in percent; it defaults to [`ERROR_RATE`].
    ///
    /// # Errors
    ///
    /// [`OrderRefusal::Conflict`] if another drill of the upstream runs, a target cannot be steered, the upstream
    /// is pinned or on a standby already, no target would be left, the simulator finds unserved requests, a
    /// target that would have to serve is unhealthy, or a target to be taken down is unhealthy already.
    pub fn drill(
        &self,
        upstream: &Upstream,
        down: Vec<TargetSelector>,
        until: Timestamp,
        error_rate: Option<f64>,
        author: String,
    ) -> Result<Orders, OrderRefusal> {
        if let Some((id, _)) = self.orders.drill_of(&upstream.name) {
            return Err(OrderRefusal::Conflict(format!("drill {id} of upstream `{}` runs", upstream.name)));
        }
        let is_meant = |target: &Target| down.iter().any(|selector| selector.includes(target));
        self.ensure_reach(upstream, is_meant)?;
        if !self.force {
            self.ensure_survival(upstream, &down, is_meant)?;
        }
        let mut orders = self.orders.clone();
        let id = orders.drills.last_key_value().map_or(1, |(last, _)| last.saturating_add(1));
        let error_rate = error_rate.unwrap_or(ERROR_RATE);
        let drill = DrillRun::begin(upstream.name.clone(), down, self.now, until, error_rate, author);
        orders.drills.insert(id, drill);
        Ok(orders)
    }

    /// Begins a drill that a client asks for. `length` is its duration; `down` names targets, tiers, zones or
    /// regions.
    ///
    /// # Errors
    ///
    /// Fails as [`Self::drill`] does, or if an entry of `down` matches no target.
    pub fn requested_drill(
        &self,
        upstream: &Upstream,
        down: &[String],
        length: Duration,
        error_rate: Option<f64>,
        request: &OrderRequest,
    ) -> Result<Orders, OrderRefusal> {
        let selectors = parse_selectors(down, upstream)?;
        let until = later(self.now, length);
        let mut orders = self.drill(upstream, selectors, until, error_rate, request.author.clone())?;
        if let Some(mut begun) = orders.drills.last_entry() {
            begun.get_mut().purpose.clone_from(&request.reason);
        }
        Ok(orders)
    }

    /// Begins a drill that is due by its schedule.
    ///
    /// # Errors
    ///
    /// Fails as [`Self::drill`] does, or if an entry of `down` matches no target.
    pub fn scheduled_drill(
        &self,
        upstream: &Upstream,
        drill: &ScheduledDrill,
    ) -> Result<Orders, OrderRefusal> {
        let selectors = parse_selectors(&drill.down, upstream)?;
        let until = later(self.now, drill.length);
        self.drill(upstream, selectors, until, Some(drill.error_rate), "schedule".to_owned())
    }

    /// Refuses a drill that would rehearse nothing, would lose requests according to the simulator, or
    /// depends on targets that are known to be unhealthy.
    fn ensure_survival(
        &self,
        upstream: &Upstream,
        down: &[TargetSelector],
        is_meant: impl Fn(&Target) -> bool,
    ) -> Result<(), OrderRefusal> {
        let name = &upstream.name;
        if let Some(pin) = self.orders.pins.get(name) {
            let priority = pin.priority;
            return Err(OrderRefusal::Conflict(format!(
                "upstream `{name}` is pinned to priority {priority}"
            )));
        }
        if self.orders.holds.contains_key(name) || (self.has_failed)(name) {
            return Err(OrderRefusal::Conflict(format!("a standby of upstream `{name}` serves already")));
        }
        let out = self.orders.states.keys().filter(|(of, _)| of == name);
        let all: Vec<TargetSelector> =
            down.iter().cloned().chain(out.map(|(_, selector)| selector.clone())).collect();
        let is_out = |target: &Target| all.iter().any(|selector| selector.includes(target));
        let left: Vec<&Target> = upstream.targets.iter().filter(|target| !is_out(target)).collect();
        if left.is_empty() {
            return Err(OrderRefusal::Conflict(format!(
                "upstream `{name}` would have no target left to serve"
            )));
        }
        let simulated = simulate::simulate(upstream, &self.build.addresses, None, &all);
        if simulated.unserved > 0.0 {
            let unserved = simulated.unserved;
            return Err(OrderRefusal::Conflict(format!(
                "{unserved:.1} % of the requests would not be served"
            )));
        }
        let is_dead = |target: &Target| (self.is_healthy)(upstream, target) == Some(false);
        let serves = |target: &&&Target| {
            let shares = simulated.targets.iter().filter(|share| share.address == target.address);
            shares.map(|share| share.share).sum::<f64>() > 0.0
        };
        if let Some(dead) = left.iter().filter(serves).find(|target| is_dead(target)) {
            let address = &dead.address;
            return Err(OrderRefusal::Conflict(format!(
                "`{address}`, which would have to serve, is not healthy"
            )));
        }
        let mut meant = upstream.targets.iter().filter(|target| is_meant(target));
        match meant.find(|target| is_dead(target)) {
            None => Ok(()),
            Some(dead) => Err(OrderRefusal::Conflict(format!("`{}` is down already", dead.address))),
        }
    }
}

fn parse_selectors(down: &[String], upstream: &Upstream) -> Result<Vec<TargetSelector>, OrderRefusal> {
    let parse = |(index, text): (usize, &String)| {
        TargetSelector::parse(text, upstream).map_err(|(message, help)| OrderRefusal::Invalid {
            field: Path::default().key("down").index(index),
            message: format!("{message}; {help}"),
        })
    };
    down.iter().enumerate().map(parse).collect()
}
