//! What happens, as a stream of server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::Stream;
use serde_json::json;

use crate::admin::Admin;
use crate::admin::problem::Problem;
use crate::telemetry::events::{Events, Follower, Next};

/// How many may follow at once.
const MAX_FOLLOWERS: usize = 256;

/// How often something is sent when nothing happens, so that what stands between keeps the connection.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// `GET /events`: from now on or, with `Last-Event-ID`, from the event after that one. `event` is the kind, `data`
/// is JSON. When that event is not known any more, `missed` comes first; when the reader is too slow, `end` comes
/// last and says so.
pub(crate) async fn follow(
    State(admin): State<Admin>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    if admin.events.followers() >= MAX_FOLLOWERS {
        let detail = format!("{MAX_FOLLOWERS} follow the events already; try again later");
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
    }
    let last = headers.get("last-event-id").map(|id| id.to_str().unwrap_or_default());
    let follower = admin.events.follow(last);
    let stream = stream(admin.events, follower);
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(HEARTBEAT).text("nothing new")))
}

fn stream(events: Events, mut follower: Follower) -> impl Stream<Item = Result<Event, Infallible>> {
    async_stream::stream! {
        // The head of the response goes out with the first bytes: nobody should wait for an event to know that
        // they are connected.
        yield Ok(Event::default().comment("following"));
        loop {
            match follower.next().await {
                Next::Event(told) => {
                    yield Ok(Event::default().id(events.id(told.number)).event(told.word).data(&told.json));
                }
                Next::Missed => {
                    let why = json!({ "detail": "events after that id are not kept any more; these are the oldest that are" });
                    yield Ok(Event::default().event("missed").data(why.to_string()));
                }
                Next::TooSlow => {
                    let why = json!({ "detail": "too slow: the next event is not kept any more; connect again" });
                    yield Ok(Event::default().event("end").data(why.to_string()));
                    return;
                }
            }
        }
    }
}
