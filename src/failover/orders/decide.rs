//! Which orders can be given: what is asked for against the config and what is seen.

use std::fmt;

use jiff::Timestamp;

use crate::build::Build;
use crate::failover::orders::drill::Drill;
use crate::failover::orders::hold::Next;
use crate::failover::orders::{Note, Orders, Pin, StateOrder};
use crate::inspect::simulate;
use crate::model::drill::ERROR_RATE;
use crate::model::name::Name;
use crate::model::overrides::State;
use crate::model::selector::Part;
use crate::model::target::Target;
use crate::model::upstream::Upstream;

/// Why an order is not given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It is about something that is not there.
    Unknown(String),
    /// It makes no sense.
    Invalid(String),
    /// It would do harm, or cannot be done, as things stand.
    Conflict(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(text) | Self::Invalid(text) | Self::Conflict(text) => f.write_str(text),
        }
    }
}

/// What is known when an order is asked for.
pub struct Scene<'a> {
    /// The newest config.
    pub build: &'a Build,
    /// What is in force.
    pub orders: &'a Orders,
    /// What Envoys think of a target, as far as they said of late.
    pub is_healthy: &'a dyn Fn(&Upstream, &Target) -> Option<bool>,
    /// Whether a standby of an upstream serves because its primaries failed.
    pub has_failed: &'a dyn Fn(&Name) -> bool,
    /// Now.
    pub now: Timestamp,
    /// Do it whatever harm it does.
    pub force: bool,
}

impl<'a> Scene<'a> {
    /// The upstream of this name.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn upstream(&self, name: &str) -> Result<&'a Upstream, Refusal> {
        let found = Name::parse(name).and_then(|name| self.build.model.upstreams.get(&name));
        found.map(AsRef::as_ref).ok_or_else(|| Refusal::Unknown(format!("no upstream is named `{name}`")))
    }

    /// Leaves a part of an upstream to what its health says. Neither needs to be there any more.
    pub fn auto(&self, upstream: &str, part: &Part) -> Orders {
        let mut orders = self.orders.clone();
        if let Some(name) = Name::parse(upstream) {
            orders.states.remove(&(name, part.clone()));
        }
        orders
    }

    /// Gives a part of an upstream a state.
    ///
    /// # Errors
    ///
    /// When there is no such part, it cannot be steered, or nothing usable would be left.
    pub fn state(
        &self,
        upstream: &Upstream,
        part: &Part,
        state: State,
        note: Note,
    ) -> Result<Orders, Refusal> {
        self.reach(upstream, |target| part.includes(target))?;
        let mut orders = self.orders.clone();
        orders.states.insert((upstream.name.clone(), part.clone()), StateOrder { state, note });
        if !self.force {
            self.leaves_some(upstream, &orders)?;
        }
        Ok(orders)
    }

    /// Refuses orders that leave an upstream without a usable target which has one now.
    fn leaves_some(&self, upstream: &Upstream, orders: &Orders) -> Result<(), Refusal> {
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
        Err(Refusal::Conflict(format!(
            "upstream `{name}` would be left without a usable target; force does it"
        )))
    }

    fn reach(&self, upstream: &Upstream, is_meant: impl Fn(&Target) -> bool) -> Result<(), Refusal> {
        match upstream.beyond_reach(is_meant) {
            None => Ok(()),
            Some(target) => Err(Refusal::Conflict(format!(
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
    /// When there is no such tier, or it cannot be steered.
    pub fn pin(&self, upstream: &Upstream, priority: u32, note: Note) -> Result<Orders, Refusal> {
        if !upstream.targets.iter().any(|target| target.tier == priority) {
            let name = &upstream.name;
            return Err(Refusal::Invalid(format!("upstream `{name}` has no targets of priority {priority}")));
        }
        self.reach(upstream, |target| target.tier <= priority)?;
        let mut orders = self.orders.clone();
        orders.pins.insert(upstream.name.clone(), Pin { priority, note });
        Ok(orders)
    }

    /// Takes the pin of an upstream away, which needs not be there any more.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn unpin(&self, upstream: &str) -> Result<Orders, Refusal> {
        let mut orders = self.orders.clone();
        let pin = Name::parse(upstream).and_then(|name| orders.pins.remove(&name));
        if pin.is_some() {
            return Ok(orders);
        }
        let name = &self.upstream(upstream)?.name;
        Err(Refusal::Unknown(format!("upstream `{name}` has no pin")))
    }

    /// Lets the primaries of an upstream have their traffic back.
    ///
    /// # Errors
    ///
    /// When nothing is held.
    pub fn failback(&self, upstream: &Upstream) -> Result<Orders, Refusal> {
        let mut orders = self.orders.clone();
        let nothing = || Refusal::Conflict(format!("no standby of upstream `{}` is held", upstream.name));
        let hold = orders.holds.remove(&upstream.name).ok_or_else(nothing)?;
        if let Next::Hold(hold) = hold.released(self.now, &upstream.failback) {
            orders.holds.insert(upstream.name.clone(), hold);
        }
        Ok(orders)
    }

    /// Begins a drill, once it is known to do no harm. Its number is the last of the orders.
    ///
    /// # Errors
    ///
    /// When parts are not there or cannot be steered, another drill runs, a standby serves already, the simulator would
    /// lose requests, or what would serve is not healthy.
    pub fn drill(
        &self,
        upstream: &Upstream,
        down: Vec<Part>,
        until: Timestamp,
        error_rate: Option<f64>,
        author: String,
    ) -> Result<Orders, Refusal> {
        if let Some((id, _)) = self.orders.drill_of(&upstream.name) {
            return Err(Refusal::Conflict(format!("drill {id} of upstream `{}` runs", upstream.name)));
        }
        let is_meant = |target: &Target| down.iter().any(|part| part.includes(target));
        self.reach(upstream, is_meant)?;
        if !self.force {
            self.survives(upstream, &down, is_meant)?;
        }
        let mut orders = self.orders.clone();
        let id = orders.drills.last_key_value().map_or(1, |(last, _)| last + 1);
        let error_rate = error_rate.unwrap_or(ERROR_RATE);
        let drill = Drill::begin(upstream.name.clone(), down, self.now, until, error_rate, author);
        orders.drills.insert(id, drill);
        Ok(orders)
    }

    /// Refuses what is no rehearsal, would lose requests by arithmetic, or leans on targets that are known to be dead.
    fn survives(
        &self,
        upstream: &Upstream,
        down: &[Part],
        is_meant: impl Fn(&Target) -> bool,
    ) -> Result<(), Refusal> {
        let name = &upstream.name;
        if let Some(pin) = self.orders.pins.get(name) {
            let priority = pin.priority;
            return Err(Refusal::Conflict(format!("upstream `{name}` is pinned to priority {priority}")));
        }
        if self.orders.holds.contains_key(name) || (self.has_failed)(name) {
            return Err(Refusal::Conflict(format!("a standby of upstream `{name}` serves already")));
        }
        let out = self.orders.states.keys().filter(|(of, _)| of == name);
        let all: Vec<Part> = down.iter().cloned().chain(out.map(|(_, part)| part.clone())).collect();
        let is_out = |target: &Target| all.iter().any(|part| part.includes(target));
        let left: Vec<&Target> = upstream.targets.iter().filter(|target| !is_out(target)).collect();
        if left.is_empty() {
            return Err(Refusal::Conflict(format!("upstream `{name}` would have no target left to serve")));
        }
        let simulated = simulate::simulate(upstream, &self.build.addresses, None, &all);
        if simulated.unserved > 0.0 {
            let unserved = simulated.unserved;
            return Err(Refusal::Conflict(format!("{unserved:.1} % of the requests would not be served")));
        }
        let is_dead = |target: &Target| (self.is_healthy)(upstream, target) == Some(false);
        let serves = |target: &&&Target| {
            let shares = simulated.targets.iter().filter(|share| share.address == target.address);
            shares.map(|share| share.share).sum::<f64>() > 0.0
        };
        if let Some(dead) = left.iter().filter(serves).find(|target| is_dead(target)) {
            let address = &dead.address;
            return Err(Refusal::Conflict(format!("`{address}`, which would have to serve, is not healthy")));
        }
        let mut meant = upstream.targets.iter().filter(|target| is_meant(target));
        match meant.find(|target| is_dead(target)) {
            None => Ok(()),
            Some(dead) => Err(Refusal::Conflict(format!("`{}` is down already", dead.address))),
        }
    }
}
