//! Pins of tiers, and the release of held primaries.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Json;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::access::tokens::Role;
use crate::admin::http::problem::Problem;
use crate::admin::http::request::{Write, decoded};
use crate::admin::order::terms;
use crate::admin::route::{ApiRoute, Content};
use crate::admin::schema;
use crate::admin::state::Admin;
use crate::admin::view::order::{FailbackView, PinView};
use crate::config::values;

const PIN: &str = "/upstreams/{name}/pin";

/// Returns the routes.
pub(crate) fn routes() -> Vec<ApiRoute> {
    let failback_body = schema::free_form("Any object; its fields are ignored");
    vec![
        ApiRoute::put(PIN, Role::Operate, "Pin traffic to a tier", pin, &[200], Content::json::<PinView>())
            .order(schema::of::<PinBody>()),
        ApiRoute::delete(PIN, Role::Operate, "Remove a pin", unpin, &[204], Content::empty()).withdrawal(),
        ApiRoute::post(
            "/upstreams/{name}/failback",
            Role::Operate,
            "Release primaries that are held",
            failback,
            &[200],
            Content::json::<FailbackView>(),
        )
        .order(failback_body)
        .optional_body(),
    ]
}

/// Body of a PUT of a pin.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PinBody {
    /// Tier to pin.
    priority: u32,
    /// Reason, for those who see the order.
    #[serde(default)]
    reason: Option<String>,
    /// Time after which the pin is removed, such as `30m`; for good if it is absent.
    #[serde(default)]
    expires_in: Option<values::Duration>,
}

/// Handles `PUT /upstreams/{name}/pin`.
async fn pin(
    State(admin): State<Admin>,
    Path(upstream): Path<String>,
    mut write: Write,
) -> Result<Json<PinView>, Problem> {
    admin.check_upstream(&upstream)?;
    let body: PinBody = decoded(&write.body)?;
    let terms = terms(&mut write, body.reason, body.expires_in)?;
    let pin = admin.order(write, terms.force, |scene| {
        let upstream = scene.upstream(&upstream)?;
        let orders = scene.pin(upstream, body.priority, terms.metadata(scene.now))?;
        let pin = orders.pins[&upstream.name].clone();
        Ok((orders, pin))
    });
    Ok(Json((&pin.await?).into()))
}

/// Handles `DELETE /upstreams/{name}/pin`.
async fn unpin(
    State(admin): State<Admin>,
    Path(upstream): Path<String>,
    write: Write,
) -> Result<StatusCode, Problem> {
    let unpin = admin.order(write, true, |scene| Ok((scene.unpin(&upstream)?, ())));
    unpin.await.map(|()| StatusCode::NO_CONTENT)
}

/// Handles `POST /upstreams/{name}/failback`.
async fn failback(
    State(admin): State<Admin>,
    Path(upstream): Path<String>,
    write: Write,
) -> Result<Json<FailbackView>, Problem> {
    let hold = admin.order(write, true, |scene| {
        let upstream = scene.upstream(&upstream)?;
        let orders = scene.failback(upstream)?;
        let hold = orders.holds.get(&upstream.name).cloned();
        Ok((orders, hold))
    });
    let phase = hold.await?.map(|hold| (&hold.phase).into());
    Ok(Json(FailbackView { upstream, released: true, phase }))
}
