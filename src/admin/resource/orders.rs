//! What operators order: states of targets, tiers and zones, pins, failback, drills; and what came of it.

use std::time::Duration;

use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admin::Admin;
use crate::admin::problem::Problem;
use crate::admin::request::{Parameters, Write, decoded};
use crate::admin::view::Desired;
use crate::config::values;
use crate::failover::history::Failover;
use crate::failover::orders::decide::{Refusal, Scene};
use crate::failover::orders::drill::Drill;
use crate::failover::orders::{Orders, StateOrder};
use crate::failover::supervisor::{Asking, Error, Supervisor};
use crate::model::drill::{LENGTH, MAX_LENGTH};
use crate::model::name::Name;
use crate::model::overrides;
use crate::model::selector::Part;

/// How many failovers or drills a page has unless told otherwise, and at most.
const PAGE: (usize, usize) = (100, 1000);

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(Refusal::Unknown(detail)) => Self::not_found(&detail),
            Error::Refused(Refusal::Invalid(detail)) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail),
            Error::Refused(Refusal::Conflict(detail)) => Self::new(StatusCode::CONFLICT, detail),
            Error::Store(source) => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                format!("the order could not be stored: {source}"),
            ),
            Error::ShuttingDown => Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        }
    }
}

/// The body of a PUT of a state.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateBody {
    state: StateWord,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    expires_in: Option<values::Duration>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StateWord {
    Auto,
    Drained,
    Down,
}

impl StateWord {
    fn state(self) -> Option<overrides::State> {
        match self {
            Self::Auto => None,
            Self::Drained => Some(overrides::State::Drained),
            Self::Down => Some(overrides::State::Down),
        }
    }
}

/// The body of a PUT of a pin.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PinBody {
    priority: u32,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    expires_in: Option<values::Duration>,
}

/// The body of a POST of a drill.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DrillBody {
    down: Vec<String>,
    #[serde(default, rename = "for")]
    length: Option<values::Duration>,
    #[serde(default)]
    abort_if: Option<AbortBody>,
    #[serde(default)]
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AbortBody {
    error_rate: f64,
}

/// Who asks, and how: the reason of the body goes before that of the header.
fn asking(
    write: &mut Write,
    reason: Option<String>,
    expires_in: Option<values::Duration>,
) -> Result<Asking, Problem> {
    if expires_in.is_some_and(|length| length.0.is_zero()) {
        let detail = "`expires_in` is more than nothing; leave it out for good";
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
    }
    let force = write.query.take_flag("force")?;
    let reason = reason.or_else(|| write.terms.reason.clone());
    let author = write.terms.author.clone();
    Ok(Asking { author, reason, expires_in: expires_in.map(|length| length.0), force })
}

impl Admin {
    /// Gives an order, or says what it would be.
    async fn order<T>(
        &self,
        write: Write,
        force: bool,
        decide: impl FnOnce(&Scene<'_>) -> Result<(Orders, T), Refusal> + Send,
    ) -> Result<T, Problem> {
        write.query.end()?;
        let told = match write.dry_run {
            true => self.supervisor.propose(force, decide).await,
            false => self.supervisor.order(force, decide).await,
        };
        told.map_err(Problem::from)
    }

    /// The part that a path names, which must be there, or have a state from when it was.
    fn part(&self, upstream: &str, part: Part) -> Result<Part, Problem> {
        let name = Name::parse(upstream);
        let states = &self.supervisor.ledger().orders.states;
        if name.is_some_and(|name| states.contains_key(&(name, part.clone()))) {
            return Ok(part);
        }
        let build = self.cache.build();
        let found = build.model.upstreams.get(upstream);
        let Some(found) = found else {
            return Err(Problem::not_found(&format!("no upstream is named `{upstream}`")));
        };
        let is_there = match &part {
            // One without traffic may be drained before it gets some.
            Part::Target(address) => Desired::of(&build).target(upstream, &address.to_string()).is_some(),
            part => found.targets.iter().any(|target| part.includes(target)),
        };
        match is_there {
            true => Ok(part),
            false => Err(Problem::not_found(&format!("upstream `{upstream}` has no `{part}`"))),
        }
    }

    async fn set(&self, upstream: &str, part: Part, mut write: Write) -> Result<Json<Value>, Problem> {
        let body: StateBody = decoded(&write.body)?;
        let part = self.part(upstream, part)?;
        let asking = asking(&mut write, body.reason, body.expires_in)?;
        let state = body.state.state();
        let order = self.order(write, asking.force, |scene| {
            let Some(state) = state else { return Ok((scene.auto(upstream, &part), None)) };
            let upstream = scene.upstream(upstream)?;
            let orders = scene.state(upstream, &part, state, Supervisor::note(scene, &asking))?;
            let given = orders.states.get(&(upstream.name.clone(), part.clone())).cloned();
            Ok((orders, given))
        });
        Ok(Json(state_view(&part, order.await?.as_ref())))
    }

    async fn clear(&self, upstream: &str, part: Part, write: Write) -> Result<StatusCode, Problem> {
        let part = self.part(upstream, part)?;
        let order = self.order(write, true, |scene| {
            let orders = scene.auto(upstream, &part);
            match orders.states.len() < scene.orders.states.len() {
                true => Ok((orders, ())),
                false => Err(Refusal::Unknown(format!("`{part}` has no state of its own"))),
            }
        });
        order.await.map(|()| StatusCode::NO_CONTENT)
    }

    fn shown(&self, upstream: &str, part: Part) -> Result<Json<Value>, Problem> {
        let part = self.part(upstream, part)?;
        let ledger = self.supervisor.ledger();
        let of = |((name, of), _): &(&(_, Part), &StateOrder)| {
            let name: &Name = name;
            name.as_str() == upstream && *of == part
        };
        let order = ledger.orders.states.iter().find(of).map(|(_, order)| order);
        Ok(Json(state_view(&part, order)))
    }
}

/// A state as the API shows it.
pub(crate) fn state_view(part: &Part, order: Option<&StateOrder>) -> Value {
    let note = order.map(|order| &order.note);
    let mut view = json!({
        "state": order.map_or("auto", |order| order.state.word()),
        "reason": note.and_then(|note| note.reason.as_deref()),
        "author": note.map(|note| note.author.as_str()),
        "since": note.map(|note| note.since.to_string()),
        "expires_at": note.and_then(|note| note.expires_at).map(|at| at.to_string()),
    });
    match part {
        Part::Target(address) => view["target"] = json!(address.to_string()),
        Part::Priority(priority) => view["priority"] = json!(priority),
        Part::Zone(zone) => view["zone"] = json!(zone),
        part => view["part"] = json!(part),
    }
    view
}

fn target(text: &str) -> Result<Part, Problem> {
    let read = crate::model::target::Address::parse(text).map(Part::Target);
    read.map_err(|(message, help)| Problem::new(StatusCode::BAD_REQUEST, format!("{message}; {help}")))
}

fn tier(text: &str) -> Result<Part, Problem> {
    let wrong = |_| Problem::new(StatusCode::BAD_REQUEST, format!("`{text}` is no priority"));
    text.parse().map(Part::Priority).map_err(wrong)
}

/// `GET /upstreams/{upstream}/targets/{target}/state`
pub(crate) async fn target_state(
    State(admin): State<Admin>,
    Path((upstream, part)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    admin.shown(&upstream, target(&part)?)
}

/// `PUT` of the same.
pub(crate) async fn set_target_state(
    State(admin): State<Admin>,
    Path((upstream, part)): Path<(String, String)>,
    write: Write,
) -> Result<Json<Value>, Problem> {
    admin.set(&upstream, target(&part)?, write).await
}

/// `DELETE` of the same.
pub(crate) async fn clear_target_state(
    State(admin): State<Admin>,
    Path((upstream, part)): Path<(String, String)>,
    write: Write,
) -> Result<StatusCode, Problem> {
    admin.clear(&upstream, target(&part)?, write).await
}

/// `GET /upstreams/{upstream}/tiers/{priority}/state`
pub(crate) async fn tier_state(
    State(admin): State<Admin>,
    Path((upstream, part)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    admin.shown(&upstream, tier(&part)?)
}

/// `PUT` of the same.
pub(crate) async fn set_tier_state(
    State(admin): State<Admin>,
    Path((upstream, part)): Path<(String, String)>,
    write: Write,
) -> Result<Json<Value>, Problem> {
    admin.set(&upstream, tier(&part)?, write).await
}

/// `DELETE` of the same.
pub(crate) async fn clear_tier_state(
    State(admin): State<Admin>,
    Path((upstream, part)): Path<(String, String)>,
    write: Write,
) -> Result<StatusCode, Problem> {
    admin.clear(&upstream, tier(&part)?, write).await
}

/// `GET /upstreams/{upstream}/zones/{zone}/state`
pub(crate) async fn zone_state(
    State(admin): State<Admin>,
    Path((upstream, zone)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    admin.shown(&upstream, Part::Zone(zone))
}

/// `PUT` of the same.
pub(crate) async fn set_zone_state(
    State(admin): State<Admin>,
    Path((upstream, zone)): Path<(String, String)>,
    write: Write,
) -> Result<Json<Value>, Problem> {
    admin.set(&upstream, Part::Zone(zone), write).await
}

/// `DELETE` of the same.
pub(crate) async fn clear_zone_state(
    State(admin): State<Admin>,
    Path((upstream, zone)): Path<(String, String)>,
    write: Write,
) -> Result<StatusCode, Problem> {
    admin.clear(&upstream, Part::Zone(zone), write).await
}

/// `GET /orders`: all that is in force beside the config.
pub(crate) async fn list(State(admin): State<Admin>) -> Json<Value> {
    let ledger = admin.supervisor.ledger();
    let orders = &ledger.orders;
    let states = orders.states.iter().map(|((upstream, part), order)| {
        let mut view = state_view(part, Some(order));
        view["upstream"] = json!(upstream);
        view
    });
    let build = admin.cache.build();
    let holds = orders.holds.iter().map(|(upstream, hold)| {
        let failback = build.model.upstreams.get(upstream).map(|upstream| &upstream.failback);
        let due = failback.and_then(|failback| hold.due(failback)).map(|due| due.to_string());
        json!({ "upstream": upstream, "priority": hold.tier, "since": hold.since.to_string(),
            "phase": hold.phase, "flapping": hold.is_flapping, "due": due })
    });
    let pins = orders.pins.iter().map(|(upstream, pin)| {
        json!({ "upstream": upstream, "priority": pin.priority, "reason": pin.note.reason,
            "author": pin.note.author, "since": pin.note.since.to_string(),
            "expires_at": pin.note.expires_at.map(|at| at.to_string()) })
    });
    let drills = orders.drills.iter().filter(|(_, drill)| drill.is_running());
    Json(json!({
        "states": states.collect::<Vec<_>>(),
        "pins": pins.collect::<Vec<_>>(),
        "holds": holds.collect::<Vec<_>>(),
        "drills": drills.map(|(id, drill)| drill_view(*id, drill)).collect::<Vec<_>>(),
    }))
}

/// `PUT /upstreams/{upstream}/pin`
pub(crate) async fn pin(
    State(admin): State<Admin>,
    Path(upstream): Path<String>,
    mut write: Write,
) -> Result<Json<Value>, Problem> {
    admin.known(&upstream)?;
    let body: PinBody = decoded(&write.body)?;
    let asking = asking(&mut write, body.reason, body.expires_in)?;
    let pin = admin.order(write, asking.force, |scene| {
        let upstream = scene.upstream(&upstream)?;
        let orders = scene.pin(upstream, body.priority, Supervisor::note(scene, &asking))?;
        let pin = orders.pins[&upstream.name].clone();
        Ok((orders, pin))
    });
    let pin = pin.await?;
    Ok(Json(json!({
        "priority": pin.priority,
        "reason": pin.note.reason,
        "author": pin.note.author,
        "since": pin.note.since.to_string(),
        "expires_at": pin.note.expires_at.map(|at| at.to_string()),
    })))
}

/// `DELETE /upstreams/{upstream}/pin`
pub(crate) async fn unpin(
    State(admin): State<Admin>,
    Path(upstream): Path<String>,
    write: Write,
) -> Result<StatusCode, Problem> {
    let unpin = admin.order(write, true, |scene| Ok((scene.unpin(&upstream)?, ())));
    unpin.await.map(|()| StatusCode::NO_CONTENT)
}

/// `POST /upstreams/{upstream}/failback`
pub(crate) async fn failback(
    State(admin): State<Admin>,
    Path(upstream): Path<String>,
    write: Write,
) -> Result<Json<Value>, Problem> {
    let hold = admin.order(write, true, |scene| {
        let upstream = scene.upstream(&upstream)?;
        let orders = scene.failback(upstream)?;
        let hold = orders.holds.get(&upstream.name).cloned();
        Ok((orders, hold))
    });
    let phase = hold.await?.map(|hold| json!(hold.phase));
    Ok(Json(json!({ "upstream": upstream, "released": true, "phase": phase })))
}

/// `POST /upstreams/{upstream}/drill`
pub(crate) async fn drill(
    State(admin): State<Admin>,
    Path(upstream): Path<String>,
    mut write: Write,
) -> Result<Response, Problem> {
    admin.known(&upstream)?;
    let body: DrillBody = decoded(&write.body)?;
    let wrong = |detail: &str| Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
    if body.down.is_empty() {
        return wrong("`down` names targets, zones or tiers, such as `priority=0`");
    }
    let length = body.length.map_or(LENGTH, |length| length.0);
    if !(Duration::from_secs(1)..=MAX_LENGTH).contains(&length) {
        return wrong("`for` is a time from 1s to 24h");
    }
    let error_rate = body.abort_if.map(|abort_if| abort_if.error_rate);
    if error_rate.is_some_and(|rate| !(0.0..=100.0).contains(&rate)) {
        return wrong("`error_rate` is a percentage, 0 to 100");
    }
    let asking = asking(&mut write, body.reason, None)?;
    let begun = admin.order(write, asking.force, |scene| {
        let upstream = scene.upstream(&upstream)?;
        let orders = Supervisor::begin(scene, upstream, &body.down, length, error_rate, &asking)?;
        let (id, drill) = orders.drills.last_key_value().expect("it was added");
        let view = (*id, drill.clone());
        Ok((orders, view))
    });
    let (id, drill) = begun.await?;
    let location = [(header::LOCATION, format!("/drills/{id}"))];
    Ok((StatusCode::CREATED, location, Json(drill_view(id, &drill))).into_response())
}

impl Admin {
    /// Refuses a request about an upstream that is not there before anything is said about its body.
    fn known(&self, upstream: &str) -> Result<(), Problem> {
        match self.cache.build().model.upstreams.contains_key(upstream) {
            true => Ok(()),
            false => Err(Problem::not_found(&format!("no upstream is named `{upstream}`"))),
        }
    }
}

pub(crate) fn drill_view(id: u64, drill: &Drill) -> Value {
    let waiting = drill.nodes.iter().filter(|node| !drill.shift_seconds.contains_key(*node));
    json!({
        "id": id.to_string(),
        "upstream": drill.upstream,
        "state": drill.state.word(),
        "down": drill.down,
        "author": drill.author,
        "purpose": drill.purpose,
        "started": drill.started.to_string(),
        "until": drill.until.to_string(),
        "ended": drill.ended.map(|at| at.to_string()),
        "abort_if": { "error_rate": drill.error_rate },
        "shift_seconds": drill.shift_seconds,
        "not_shifted": waiting.collect::<Vec<_>>(),
        "requests": drill.requests,
        "errors": drill.errors,
        "share": drill.share,
        "share_before": drill.share_before,
        "latency_ms": { "before": drill.latency_before, "during": drill.latency },
        "reason": drill.reason,
    })
}

/// A part of a list by numbers, the newest first: `?after=`, `?size=`.
fn page<T>(
    query: Option<&str>,
    path: &str,
    all: &std::collections::BTreeMap<u64, T>,
    view: impl Fn(u64, &T) -> Value,
    is_wanted: impl Fn(&mut Parameters) -> Result<Box<dyn Fn(&T) -> bool>, Problem>,
) -> Result<Json<Value>, Problem> {
    let mut query = Parameters::parse(query);
    let number = |text: Option<String>, name: &str| match text {
        None => Ok(None),
        Some(text) => text.parse::<u64>().map(Some).map_err(|_| {
            Problem::new(StatusCode::BAD_REQUEST, format!("`{name}` is a number, not `{text}`"))
        }),
    };
    let size = number(query.take("size")?, "size")?.map_or(Ok(PAGE.0), usize::try_from);
    let size = size.unwrap_or(PAGE.1).clamp(1, PAGE.1);
    let after = number(query.take("after")?, "after")?.unwrap_or(u64::MAX);
    let is_wanted = is_wanted(&mut query)?;
    query.end()?;
    let mut found = all.range(..after).rev().filter(|(_, one)| is_wanted(one));
    let (mut items, mut last) = (Vec::new(), 0);
    for (id, one) in found.by_ref().take(size) {
        items.push(view(*id, one));
        last = *id;
    }
    let next = found.next().is_some().then(|| format!("{path}?after={last}&size={size}"));
    Ok(Json(json!({ "items": items, "next": next })))
}

/// `GET /drills`: the newest first.
pub(crate) async fn drills(
    State(admin): State<Admin>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    let ledger = admin.supervisor.ledger();
    page(query.as_deref(), "/drills", &ledger.orders.drills, drill_view, |query| {
        let upstream = query.take("upstream")?;
        Ok(Box::new(move |drill| upstream.as_ref().is_none_or(|name| drill.upstream.as_str() == name)))
    })
}

/// `GET /drills/{id}`: in Markdown where that is asked for, by `?format=markdown` or `Accept`.
pub(crate) async fn one_drill(
    State(admin): State<Admin>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut query = Parameters::parse(query.as_deref());
    let format = query.take("format")?;
    query.end()?;
    let ledger = admin.supervisor.ledger();
    let number = id.parse::<u64>().ok();
    let found = number.and_then(|id| Some((id, ledger.orders.drills.get(&id)?)));
    let (id, drill) = found.ok_or_else(|| Problem::not_found(&format!("there is no drill `{id}`")))?;
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    match format.as_deref() {
        Some("markdown") => Ok(markdown(id, drill)),
        None if accepts.contains("text/markdown") => Ok(markdown(id, drill)),
        None | Some("json") => Ok(Json(drill_view(id, drill)).into_response()),
        Some(other) => {
            let detail = format!("`format` is `json` or `markdown`, not `{other}`");
            Err(Problem::new(StatusCode::BAD_REQUEST, detail))
        }
    }
}

fn markdown(id: u64, drill: &Drill) -> Response {
    let content = HeaderValue::from_static("text/markdown; charset=utf-8");
    ([(header::CONTENT_TYPE, content)], drill.markdown(id)).into_response()
}

/// `DELETE /drills/{id}`: ends it.
pub(crate) async fn abort(
    State(admin): State<Admin>,
    Path(id): Path<String>,
    write: Write,
) -> Result<StatusCode, Problem> {
    let author = write.terms.author.clone();
    let abort = admin.order(write, true, |scene| {
        let mut orders = scene.orders.clone();
        let drill = id.parse::<u64>().ok().and_then(|id| orders.drills.get_mut(&id));
        let drill = drill.ok_or_else(|| Refusal::Unknown(format!("there is no drill `{id}`")))?;
        if !drill.is_running() {
            return Err(Refusal::Conflict(format!("drill {id} is over: {}", drill.state.word())));
        }
        drill.abort(scene.now, format!("{author} ended it"));
        Ok((orders, ()))
    });
    abort.await.map(|()| StatusCode::NO_CONTENT)
}

pub(crate) fn failover_view(id: u64, failover: &Failover) -> Value {
    json!({
        "id": id.to_string(),
        "upstream": failover.upstream,
        "start": failover.start.to_string(),
        "end": failover.end.map(|at| at.to_string()),
        "cause": failover.cause.word(),
        "from": failover.from,
        "to": failover.to,
        "nodes": failover.nodes,
        "requests": failover.requests,
        "errors": failover.errors,
    })
}

/// `GET /failovers`: the newest first.
pub(crate) async fn failovers(
    State(admin): State<Admin>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    let ledger = admin.supervisor.ledger();
    page(query.as_deref(), "/failovers", &ledger.history.failovers, failover_view, |query| {
        let upstream = query.take("upstream")?;
        Ok(Box::new(move |failover| upstream.as_ref().is_none_or(|name| failover.upstream.as_str() == name)))
    })
}

/// `POST /notify/test`: tells every receiver once.
pub(crate) async fn notify(State(admin): State<Admin>, write: Write) -> Result<Json<Value>, Problem> {
    write.query.end()?;
    let build = admin.cache.build();
    let told = admin.notifier.test(&build.model.notify).await;
    let receivers = told.iter().map(|one| json!({ "url": one.url, "error": one.error }));
    Ok(Json(json!({ "receivers": receivers.collect::<Vec<_>>() })))
}
