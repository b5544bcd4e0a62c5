//! States of targets, tiers and zones: drained, held down, or left to their health.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Json;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::access::tokens::Role;
use crate::admin::declared::Desired;
use crate::admin::http::problem::Problem;
use crate::admin::http::request::{Write, decoded};
use crate::admin::order::{terms, unknown_upstream};
use crate::admin::route::{ApiRoute, Content};
use crate::admin::schema;
use crate::admin::state::Admin;
use crate::admin::view::order::{StateView, StateWord};
use crate::config::values;
use crate::failover::orders::decide::OrderRefusal;
use crate::model::name::Name;
use crate::model::selector::TargetSelector;
use crate::model::target::Address;

/// Parser of the last parameter of a path.
type ParseSelector = fn(&str) -> Result<TargetSelector, Problem>;

/// Returns the routes.
pub(crate) fn routes() -> Vec<ApiRoute> {
    let mut routes = Vec::new();
    routes.extend(state_routes("/upstreams/{name}/targets/{target}/state", "a target", target));
    routes.extend(state_routes("/upstreams/{name}/tiers/{priority}/state", "a tier", tier));
    routes.extend(state_routes("/upstreams/{name}/zones/{zone}/state", "a zone", zone));
    routes
}

fn state_routes(path: &str, what: &str, parse: ParseSelector) -> [ApiRoute; 3] {
    type Names = Path<(String, String)>;
    let get = move |State(admin): State<Admin>, Path((upstream, part)): Names| async move {
        admin.state(&upstream, parse(&part)?)
    };
    let put = move |State(admin): State<Admin>, Path((upstream, part)): Names, write: Write| async move {
        admin.set_state(&upstream, parse(&part)?, write).await
    };
    let delete = move |State(admin): State<Admin>, Path((upstream, part)): Names, write: Write| async move {
        admin.clear_state(&upstream, parse(&part)?, write).await
    };
    let (read, clear) = (format!("Read the state of {what}"), format!("Leave {what} to its health"));
    let set = format!("Drain {what}, hold it down, or leave it to its health");
    let content = Content::json::<StateView>;
    [
        ApiRoute::get(path, Role::Read, read, get, content()),
        ApiRoute::put(path, Role::Operate, set, put, &[200], content()).order(schema::of::<StateBody>()),
        ApiRoute::delete(path, Role::Operate, clear, delete, &[204], Content::empty()).withdrawal(),
    ]
}

fn target(text: &str) -> Result<TargetSelector, Problem> {
    let address = Address::parse(text).map(TargetSelector::Target);
    address.map_err(|(message, help)| Problem::new(StatusCode::BAD_REQUEST, format!("{message}; {help}")))
}

fn tier(text: &str) -> Result<TargetSelector, Problem> {
    let wrong = |_| Problem::new(StatusCode::BAD_REQUEST, format!("`{text}` is no priority"));
    text.parse().map(TargetSelector::Priority).map_err(wrong)
}

fn zone(text: &str) -> Result<TargetSelector, Problem> {
    Ok(TargetSelector::Zone(text.to_owned()))
}

/// Body of a PUT of a state.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StateBody {
    state: StateWord,
    /// Reason, for those who see the order.
    #[serde(default)]
    reason: Option<String>,
    /// Time after which the order is withdrawn, such as `30m`; for good if it is absent.
    #[serde(default)]
    expires_in: Option<values::Duration>,
}

impl Admin {
    fn state(&self, upstream: &str, part: TargetSelector) -> Result<Json<StateView>, Problem> {
        let part = self.known_part(upstream, part)?;
        let ledger = self.supervisor.ledger();
        let mut states = ledger.orders.states.iter();
        let order = states.find(|((name, own), _)| name.as_str() == upstream && *own == part);
        Ok(Json(StateView::new(&part, order.map(|(_, order)| order))))
    }

    async fn set_state(
        &self,
        upstream: &str,
        part: TargetSelector,
        mut write: Write,
    ) -> Result<Json<StateView>, Problem> {
        let body: StateBody = decoded(&write.body)?;
        let part = self.known_part(upstream, part)?;
        let terms = terms(&mut write, body.reason, body.expires_in)?;
        let state = body.state.state();
        let order = self.order(write, terms.force, |scene| {
            let Some(state) = state else { return Ok((scene.auto(upstream, &part), None)) };
            let upstream = scene.upstream(upstream)?;
            let orders = scene.state(upstream, &part, state, terms.metadata(scene.now))?;
            let given = orders.states.get(&(upstream.name.clone(), part.clone())).cloned();
            Ok((orders, given))
        });
        Ok(Json(StateView::new(&part, order.await?.as_ref())))
    }

    async fn clear_state(
        &self,
        upstream: &str,
        part: TargetSelector,
        write: Write,
    ) -> Result<StatusCode, Problem> {
        let part = self.known_part(upstream, part)?;
        let order = self.order(write, true, |scene| {
            let orders = scene.auto(upstream, &part);
            if orders.states.len() < scene.orders.states.len() {
                Ok((orders, ()))
            } else {
                Err(OrderRefusal::Unknown(format!("`{part}` has no state of its own")))
            }
        });
        order.await.map(|()| StatusCode::NO_CONTENT)
    }

    /// Returns the targets that a path names. They must exist, or have a state from when they did.
    fn known_part(&self, upstream: &str, part: TargetSelector) -> Result<TargetSelector, Problem> {
        let name = Name::parse(upstream);
        let states = &self.supervisor.ledger().orders.states;
        if name.is_some_and(|name| states.contains_key(&(name, part.clone()))) {
            return Ok(part);
        }
        let build = self.cache.build();
        let found = build.model.upstreams.get(upstream).ok_or_else(|| unknown_upstream(upstream))?;
        let exists = match &part {
            // A disabled target may be drained before it gets traffic.
            TargetSelector::Target(address) => {
                Desired::of(&build, self.mask).target(upstream, &address.to_string()).is_some()
            }
            part => found.targets.iter().any(|target| part.includes(target)),
        };
        if exists {
            Ok(part)
        } else {
            Err(Problem::not_found(&format!("upstream `{upstream}` has no `{part}`")))
        }
    }
}
