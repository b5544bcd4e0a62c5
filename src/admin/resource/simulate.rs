//! Where requests would go if some targets were down, by the config that is being served.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Json;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admin::Admin;
use crate::admin::problem::Problem;
use crate::admin::request::{Object, decoded, in_body};
use crate::admin::view;
use crate::build::Build;
use crate::config::tree::Fault;
use crate::config::{Path, near};
use crate::envoy::node::Locality;
use crate::inspect::simulate;
use crate::model::name::Name;
use crate::model::place::code;
use crate::model::selector::Part;
use crate::model::upstream::Upstream;

/// The body of `POST /simulate`, or one of its `cases`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    upstream: String,
    #[serde(default)]
    down: Vec<String>,
    /// Where the Envoy is, as region/zone/sub_zone.
    node_locality: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    cases: Vec<Case>,
}

/// `POST /simulate`: one case, or several under `cases` with their answers under `results`.
pub(crate) async fn simulate(
    State(admin): State<Admin>,
    Object(body): Object,
) -> Result<Json<Value>, Problem> {
    let build = admin.cache.build();
    let top = Path::default();
    if body.get("cases").is_none() {
        let case = decoded::<Case>(&body)?;
        return answer(&build, &case, &top).map(Json).map_err(refused);
    }
    let cases = decoded::<Cases>(&body)?.cases;
    let mut faults = Vec::new();
    let mut results = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        match answer(&build, case, &top.key("cases").index(index)) {
            Ok(result) => results.push(result),
            Err(found) => faults.extend(found),
        }
    }
    if faults.is_empty() { Ok(Json(json!({ "results": results }))) } else { Err(refused(faults)) }
}

fn refused(faults: Vec<Fault>) -> Problem {
    let violations = faults.iter().map(in_body).collect();
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "this cannot be simulated").with(violations)
}

fn answer(build: &Build, case: &Case, path: &Path) -> Result<Value, Vec<Fault>> {
    let upstream = upstream(build, case, path)?;
    let mut faults = Vec::new();
    let mut down = Vec::new();
    for (index, text) in case.down.iter().enumerate() {
        match Part::parse(text, upstream) {
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
        Ok(view::simulation(&simulate::simulate(upstream, &build.addresses, from.as_ref(), &down)))
    } else {
        Err(faults)
    }
}

fn upstream<'b>(build: &'b Build, case: &Case, path: &Path) -> Result<&'b Upstream, Vec<Fault>> {
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
