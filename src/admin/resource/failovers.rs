//! Failovers that happened.

use axum::extract::{RawQuery, State};
use axum::response::Json;

use crate::access::tokens::Role;
use crate::admin::http::page::{Items, NumberedPage};
use crate::admin::http::problem::Problem;
use crate::admin::http::request::Parameters;
use crate::admin::route::{ApiRoute, Content, QueryParameter};
use crate::admin::state::Admin;
use crate::admin::view::failover::FailoverView;
use crate::failover::history::FailoverRecord;

const PAGE: &[QueryParameter] = &[
    QueryParameter::SIZE,
    QueryParameter::text("after", "Only failovers before the one with this number"),
    QueryParameter::text("upstream", "Only failovers of this upstream"),
];

/// Returns the routes.
pub(crate) fn routes() -> Vec<ApiRoute> {
    let content = Content::json::<Items<FailoverView>>();
    vec![
        ApiRoute::get("/failovers", Role::Read, "List the failovers, the newest first", list, content)
            .query(PAGE),
    ]
}

/// Handles `GET /failovers`.
async fn list(
    State(admin): State<Admin>,
    RawQuery(query): RawQuery,
) -> Result<Json<Items<FailoverView>>, Problem> {
    let mut query = Parameters::parse(query.as_deref());
    let page = NumberedPage::take(&mut query)?;
    let upstream = query.take("upstream")?;
    query.end()?;
    let is_wanted =
        |failover: &FailoverRecord| upstream.as_ref().is_none_or(|name| failover.upstream.as_str() == name);
    let failovers = &admin.supervisor.ledger().history.failovers;
    Ok(Json(page.of("/failovers", failovers, is_wanted, FailoverView::new)))
}
