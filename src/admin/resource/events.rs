//! Events, as a stream of server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{Extension, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::Stream;
use serde_json::json;

use crate::access::policy::Principal;
use crate::access::tokens::Role;
use crate::admin::http::problem::Problem;
use crate::admin::route::{ApiRoute, Content};
use crate::admin::state::Admin;
use crate::telemetry::events::{Events, FollowOutcome, Follower};

/// Maximum number of followers.
const MAX_FOLLOWERS: usize = 256;

/// Interval at which a comment is sent while there is no event, so that proxies keep the connection.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Returns the routes.
pub(crate) fn routes() -> Vec<ApiRoute> {
    let summary = "Follow the events, as server-sent events: `event` is the kind, `data` is JSON";
    vec![ApiRoute::get(
        "/events",
        Role::Read,
        summary,
        follow,
        Content(vec![(
            "text/event-stream",
            Some(crate::admin::schema::of::<crate::telemetry::events::Event>()),
        )]),
    )]
}

/// Handles `GET /events`: streams events from now on or, with `Last-Event-ID`, from the event after that one. `event`
/// is the kind, `data` is JSON. If that event is not kept any more, `missed` comes first; if the reader is too slow, or
/// its token is revoked, `end` comes last and says so.
async fn follow(
    State(admin): State<Admin>,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    if admin.events.followers() >= MAX_FOLLOWERS {
        let detail = format!("{MAX_FOLLOWERS} follow the events already; try again later");
        return Err(Problem::unavailable(detail));
    }
    let last = headers.get("last-event-id").map(|id| id.to_str().unwrap_or_default());
    let follower = admin.events.follow(last);
    let access = admin.access;
    let revoked = async move { access.revoked(&principal).await };
    let stream = stream(admin.events, follower, revoked);
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(HEARTBEAT).text("nothing new")))
}

fn stream(
    events: Events,
    mut follower: Follower,
    revoked: impl Future<Output = ()>,
) -> impl Stream<Item = Result<Event, Infallible>> {
    async_stream::stream! {
        tokio::pin!(revoked);
        // The head of the response is sent with the first bytes: a client should not wait for an event to know that
        // it is connected.
        yield Ok(Event::default().comment("following"));
        loop {
            let outcome = tokio::select! {
                biased;
                () = &mut revoked => None,
                outcome = follower.next() => Some(outcome),
            };
            let Some(outcome) = outcome else {
                let why = json!({ "detail": "the token was revoked, or one is needed now" });
                yield Ok(Event::default().event("end").data(why.to_string()));
                return;
            };
            match outcome {
                FollowOutcome::Event(event) => {
                    yield Ok(Event::default().id(events.id(event.number)).event(event.kind.word()).data(&event.json));
                }
                FollowOutcome::Missed => {
                    let why = json!({ "detail": "events after that id are not kept any more; these are the oldest that are" });
                    yield Ok(Event::default().event("missed").data(why.to_string()));
                }
                FollowOutcome::TooSlow => {
                    let why = json!({ "detail": "too slow: the next event is not kept any more; connect again" });
                    yield Ok(Event::default().event("end").data(why.to_string()));
                    return;
                }
            }
        }
    }
}
