//! Drills: rehearsed failovers, begun, listed, aborted.

use std::time::Duration;

use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::access::tokens::Role;
use crate::admin::http::page::{Items, NumberedPage};
use crate::admin::http::problem::Problem;
use crate::admin::http::request::{Parameters, Write, decoded};
use crate::admin::order::terms;
use crate::admin::route::{ApiRoute, Content, QueryParameter};
use crate::admin::schema;
use crate::admin::state::Admin;
use crate::admin::view::drill::DrillView;
use crate::config::values;
use crate::config::{Path as FieldPath, document};
use crate::failover::orders::decide::OrderRefusal;
use crate::failover::orders::drill::DrillRun;
use crate::model::drill::{LENGTH, MAX_LENGTH};

const PAGE: &[QueryParameter] = &[
    QueryParameter::SIZE,
    QueryParameter::text("after", "Only drills before the one with this number"),
    QueryParameter::text("upstream", "Only drills of this upstream"),
];

const FORMAT: QueryParameter =
    QueryParameter::words("format", "Format of the response; `Accept` may say it too", &["json", "markdown"]);

/// Returns the routes.
pub(crate) fn routes() -> Vec<ApiRoute> {
    let content = Content::json::<DrillView>;
    vec![
        ApiRoute::post(
            "/upstreams/{name}/drill",
            Role::Operate,
            "Rehearse a failover",
            begin,
            &[201],
            content(),
        )
        .order(schema::of::<DrillBody>()),
        ApiRoute::get(
            "/drills",
            Role::Read,
            "List the drills, the newest first",
            list,
            Content::json::<Items<DrillView>>(),
        )
        .query(PAGE),
        ApiRoute::get("/drills/{id}", Role::Read, "Read a drill", read, content().or("text/markdown"))
            .query(&[FORMAT]),
        ApiRoute::delete(
            "/drills/{id}",
            Role::Operate,
            "Abort a running drill",
            abort,
            &[204],
            Content::empty(),
        )
        .withdrawal(),
    ]
}

/// Body of a POST of a drill.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DrillBody {
    /// Targets, zones or tiers that count as down, such as `priority=0`.
    #[serde(default = "primaries")]
    down: Vec<String>,
    /// Length of the drill, from 1s to 24h.
    #[serde(default, rename = "for")]
    length: Option<values::Duration>,
    #[serde(default)]
    abort_if: Option<AbortBody>,
    /// Reason, for those who see the drill.
    #[serde(default)]
    reason: Option<String>,
}

/// Returns the default of `down`: the first tier.
fn primaries() -> Vec<String> {
    document::drill::Drill::DOWN.map(str::to_owned).to_vec()
}

/// Condition on which the drill is aborted.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AbortBody {
    /// Percentage of failed requests, 0 to 100.
    error_rate: f64,
}

impl DrillBody {
    /// Returns the length of the drill.
    fn check(&self) -> Result<Duration, Problem> {
        let top = FieldPath::default();
        let wrong = |place: &FieldPath, detail: &str| Err(Problem::unprocessable(place, detail));
        if self.down.is_empty() {
            return wrong(&top.key("down"), "`down` names targets, zones or tiers, such as `priority=0`");
        }
        let length = self.length.map_or(LENGTH, |length| length.0);
        if !(Duration::from_secs(1)..=MAX_LENGTH).contains(&length) {
            return wrong(&top.key("for"), "`for` is a time from 1s to 24h");
        }
        if self.error_rate().is_some_and(|rate| !(0.0..=100.0).contains(&rate)) {
            return wrong(&top.key("abort_if").key("error_rate"), "`error_rate` is a percentage, 0 to 100");
        }
        Ok(length)
    }

    fn error_rate(&self) -> Option<f64> {
        self.abort_if.as_ref().map(|abort_if| abort_if.error_rate)
    }
}

/// Handles `POST /upstreams/{name}/drill`.
async fn begin(
    State(admin): State<Admin>,
    Path(upstream): Path<String>,
    mut write: Write,
) -> Result<Response, Problem> {
    admin.check_upstream(&upstream)?;
    let body: DrillBody = decoded(&write.body)?;
    let (length, error_rate) = (body.check()?, body.error_rate());
    let terms = terms(&mut write, body.reason, None)?;
    let drill = admin.order(write, terms.force, |scene| {
        let upstream = scene.upstream(&upstream)?;
        let orders = scene.requested_drill(upstream, &body.down, length, error_rate, &terms)?;
        let (id, drill) = orders.drills.last_key_value().expect("it was added");
        let begun = (*id, drill.clone());
        Ok((orders, begun))
    });
    let (id, drill) = drill.await?;
    let location = [(header::LOCATION, format!("/drills/{id}"))];
    Ok((StatusCode::CREATED, location, Json(DrillView::new(id, &drill))).into_response())
}

/// Handles `GET /drills`.
async fn list(
    State(admin): State<Admin>,
    RawQuery(query): RawQuery,
) -> Result<Json<Items<DrillView>>, Problem> {
    let mut query = Parameters::parse(query.as_deref());
    let page = NumberedPage::take(&mut query)?;
    let upstream = query.take("upstream")?;
    query.end()?;
    let is_wanted = |drill: &DrillRun| upstream.as_ref().is_none_or(|name| drill.upstream.as_str() == name);
    Ok(Json(page.of("/drills", &admin.supervisor.ledger().orders.drills, is_wanted, DrillView::new)))
}

/// Handles `GET /drills/{id}`. The response is Markdown if `?format=markdown` or `Accept` asks for it.
async fn read(
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
        None | Some("json") => Ok(Json(DrillView::new(id, drill)).into_response()),
        Some(other) => {
            let detail = format!("`format` is `json` or `markdown`, not `{other}`");
            Err(Problem::new(StatusCode::BAD_REQUEST, detail))
        }
    }
}

fn markdown(id: u64, drill: &DrillRun) -> Response {
    let content = HeaderValue::from_static("text/markdown; charset=utf-8");
    ([(header::CONTENT_TYPE, content)], drill.markdown(id)).into_response()
}

/// Handles `DELETE /drills/{id}`.
async fn abort(
    State(admin): State<Admin>,
    Path(id): Path<String>,
    write: Write,
) -> Result<StatusCode, Problem> {
    let author = write.request.author.clone();
    let abort = admin.order(write, true, |scene| {
        let mut orders = scene.orders.clone();
        let drill = id.parse::<u64>().ok().and_then(|id| orders.drills.get_mut(&id));
        let drill = drill.ok_or_else(|| OrderRefusal::Unknown(format!("there is no drill `{id}`")))?;
        if !drill.is_running() {
            return Err(OrderRefusal::Conflict(format!("drill {id} is over: {}", drill.state.word())));
        }
        drill.abort(scene.now, format!("{author} ended it"));
        Ok((orders, ()))
    });
    abort.await.map(|()| StatusCode::NO_CONTENT)
}
