//! Orders in force, of all upstreams together.

use axum::extract::State;
use axum::response::Json;

use crate::access::tokens::Role;
use crate::admin::route::{ApiRoute, Content};
use crate::admin::state::Admin;
use crate::admin::view::drill::DrillView;
use crate::admin::view::order::{
    OrdersView, StateView, UpstreamHoldView, UpstreamPinView, UpstreamStateView,
};

/// Returns the routes.
pub(crate) fn routes() -> Vec<ApiRoute> {
    let summary = "List the orders in force, with holds of standbys";
    vec![ApiRoute::get("/orders", Role::Read, summary, list, Content::json::<OrdersView>())]
}

/// Handles `GET /orders`.
async fn list(State(admin): State<Admin>) -> Json<OrdersView> {
    let (ledger, build) = (admin.supervisor.ledger(), admin.cache.build());
    let orders = &ledger.orders;
    let states = orders.states.iter().map(|((upstream, part), order)| UpstreamStateView {
        upstream: upstream.to_string(),
        state: StateView::new(part, Some(order)),
    });
    let pins = orders
        .pins
        .iter()
        .map(|(upstream, pin)| UpstreamPinView { upstream: upstream.to_string(), pin: pin.into() });
    let holds = orders.holds.iter().map(|(upstream, hold)| {
        let failback = build.model.upstreams.get(upstream).map(|upstream| &upstream.failback);
        UpstreamHoldView::new(upstream, hold, failback)
    });
    let drills = orders.drills.iter().filter(|(_, drill)| drill.is_running());
    Json(OrdersView {
        states: states.collect(),
        pins: pins.collect(),
        holds: holds.collect(),
        drills: drills.map(|(id, drill)| DrillView::new(*id, drill)).collect(),
    })
}
