//! Simulation of the distribution of requests while some targets are down, by the config that serves.

use axum::extract::State;
use axum::response::Json;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::access::tokens::Role;
use crate::admin::http::problem::Problem;
use crate::admin::http::request::{Object, decoded, in_body};
use crate::admin::route::{ApiRoute, Content};
use crate::admin::schema;
use crate::admin::state::Admin;
use crate::admin::view::simulation::SimulationView;
use crate::build::Build;
use crate::config::Fault;
use crate::config::code;
use crate::config::{Path, near};
use crate::envoy::node::Locality;
use crate::inspect::simulate;
use crate::model::name::Name;
use crate::model::selector::TargetSelector;
use crate::model::upstream::Upstream;

/// Returns the routes.
pub(crate) fn routes() -> Vec<ApiRoute> {
    let content = Content::json::<SimulationsView>();
    vec![
        ApiRoute::post(
            "/simulate",
            Role::Read,
            "Simulate the distribution of requests while some targets are down",
            simulate,
            &[200],
            content,
        )
        .body(schema::either(schema::of::<SimulationCase>(), schema::of::<SimulationCases>())),
    ]
}

/// Body of `POST /simulate`, or one of its `cases`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SimulationCase {
    /// Name of the upstream.
    upstream: String,
    /// Targets that are down: `host:port`, or a selection such as `priority=0`.
    #[serde(default)]
    down: Vec<String>,
    /// Locality of the Envoy, as region/zone/sub_zone.
    node_locality: Option<String>,
}

/// Body of `POST /simulate` with several cases.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SimulationCases {
    cases: Vec<SimulationCase>,
}

/// Response to one case or to several.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
enum SimulationsView {
    /// Response to one case.
    One(SimulationView),
    /// Response to several cases.
    Several {
        /// Simulations, in the order of the cases.
        results: Vec<SimulationView>,
    },
}

/// Handles `POST /simulate`: one case, or several under `cases`.
async fn simulate(
    State(admin): State<Admin>,
    Object(body): Object,
) -> Result<Json<SimulationsView>, Problem> {
    let build = admin.cache.build();
    let top = Path::default();
    if body.get("cases").is_none() {
        let case = decoded::<SimulationCase>(&body)?;
        let result = simulated(&build, &case, &top).map_err(refused)?;
        return Ok(Json(SimulationsView::One(result)));
    }
    let cases = decoded::<SimulationCases>(&body)?.cases;
    let mut faults = Vec::new();
    let mut results = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        match simulated(&build, case, &top.key("cases").index(index)) {
            Ok(result) => results.push(result),
            Err(found) => faults.extend(found),
        }
    }
    if faults.is_empty() { Ok(Json(SimulationsView::Several { results })) } else { Err(refused(faults)) }
}

fn refused(faults: Vec<Fault>) -> Problem {
    let violations = faults.iter().map(in_body).collect();
    Problem::refused("this cannot be simulated", violations)
}

fn simulated(build: &Build, case: &SimulationCase, path: &Path) -> Result<SimulationView, Vec<Fault>> {
    let upstream = upstream(build, case, path)?;
    let mut faults = Vec::new();
    let mut down = Vec::new();
    for (index, text) in case.down.iter().enumerate() {
        match TargetSelector::parse(text, upstream) {
            Ok(one) => down.push(one),
            Err((message, help)) => {
                faults.push(fault(&path.key("down").index(index), message, Some(help)));
            }
        }
    }
    let from = case.node_locality.as_ref().map(|text| text.parse::<Locality>());
    let from = from.transpose().unwrap_or_else(|message| {
        faults.push(fault(&path.key("node_locality"), message, None));
        None
    });
    if faults.is_empty() {
        Ok((&simulate::simulate(upstream, &build.addresses, from.as_ref(), &down)).into())
    } else {
        Err(faults)
    }
}

fn upstream<'b>(build: &'b Build, case: &SimulationCase, path: &Path) -> Result<&'b Upstream, Vec<Fault>> {
    let upstreams = &build.model.upstreams;
    let upstream = Name::parse(&case.upstream).and_then(|name| upstreams.get(&name));
    upstream.map(AsRef::as_ref).ok_or_else(|| {
        let near = near(&case.upstream, upstreams.keys().map(Name::as_str));
        let help = (!near.is_empty()).then(|| format!("did you mean `{}`?", near.join("` or `")));
        vec![fault(&path.key("upstream"), format!("no upstream is named `{}`", case.upstream), help)]
    })
}

fn fault(path: &Path, message: String, help: Option<String>) -> Fault {
    Fault { code: code::DANGLING, path: path.clone(), span: None, message, help, related: Vec::new() }
}
