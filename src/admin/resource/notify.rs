//! Test of the receivers of events.

use axum::extract::State;
use axum::response::Json;
use schemars::JsonSchema;
use serde::Serialize;

use crate::access::tokens::Role;
use crate::admin::http::problem::Problem;
use crate::admin::http::request::Write;
use crate::admin::route::{ApiRoute, Content};
use crate::admin::schema;
use crate::admin::state::Admin;

/// Returns the routes.
pub(crate) fn routes() -> Vec<ApiRoute> {
    let body = schema::free_form("Any object; its fields are ignored");
    let content = Content::json::<NotificationsView>();
    vec![
        ApiRoute::post(
            "/notify/test",
            Role::Operate,
            "Send a test event to all receivers",
            test,
            &[200],
            content,
        )
        .body(body)
        .optional_body(),
    ]
}

/// Outcome of a test of all receivers.
#[derive(Debug, Serialize, JsonSchema)]
struct NotificationsView {
    receivers: Vec<ReceiverView>,
}

/// Outcome of a test of one receiver.
#[derive(Debug, Serialize, JsonSchema)]
struct ReceiverView {
    /// Scheme and host of the receiver.
    url: String,
    /// Reason of the failure; null if the test succeeded.
    error: Option<String>,
}

/// Handles `POST /notify/test`.
async fn test(State(admin): State<Admin>, write: Write) -> Result<Json<NotificationsView>, Problem> {
    write.query.end()?;
    let build = admin.cache.build();
    let tested = admin.notifier.test(&build.model.notify).await.into_iter();
    let receivers = tested.map(|tested| ReceiverView { url: tested.url, error: tested.error });
    Ok(Json(NotificationsView { receivers: receivers.collect() }))
}
