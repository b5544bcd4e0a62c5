//! Simulations, as the API and `understudy simulate` print them.

use schemars::JsonSchema;
use serde::Serialize;

use crate::inspect::simulate::{Simulation, TargetShare};

/// Distribution of the requests to an upstream.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct SimulationView {
    /// Name of the upstream.
    upstream: String,
    /// Targets, by tier, then as declared.
    targets: Vec<ShareView>,
    /// Percentage of all requests that Envoy itself answers with 503, since no target is usable.
    unserved: f64,
}

/// Share of a target.
#[derive(Debug, Serialize, JsonSchema)]
struct ShareView {
    /// Address of the target.
    target: String,
    /// Tier of the target, from 0.
    priority: u32,
    /// Percentage of all requests.
    share: f64,
}

impl From<&Simulation> for SimulationView {
    fn from(simulation: &Simulation) -> Self {
        // Two digits are more than an operator can see, and cut the tails of binary fractions.
        let percent = |share: f64| (share * 100.0).round() / 100.0;
        let share = |target: &TargetShare| ShareView {
            target: target.address.to_string(),
            priority: target.tier,
            share: percent(target.share),
        };
        Self {
            upstream: simulation.upstream.to_string(),
            targets: simulation.targets.iter().map(share).collect(),
            unserved: percent(simulation.unserved),
        }
    }
}
