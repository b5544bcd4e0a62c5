//! Every accepted change: listed, shown, compared, undone.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{Json, Response};
use serde_json::json;

use crate::access::tokens::Role;
use crate::admin::http::blocking;
use crate::admin::http::page::Items;
use crate::admin::http::problem::Problem;
use crate::admin::http::request::{Parameters, Write};
use crate::admin::route::{ApiRoute, Content, QueryParameter};
use crate::admin::schema;
use crate::admin::state::Admin;
use crate::admin::view::revision::{EditView, RevisionDetailView, RevisionDiffView, RevisionView};
use crate::admin::view::write::RolledBackView;
use crate::admin::write::reply::Reply;
use crate::config::Violation;
use crate::config::document::Kind;
use crate::config::edit::{Edit, EntityChange};
use crate::control::operation::{Decision, DesiredConfig, Operation, WriteError};
use crate::store::{KEPT_REVISIONS, Revision, RevisionSource, Store};

/// Number of revisions on a page by default, and at most.
const PAGE: (u64, u64) = (100, KEPT_REVISIONS);

fn bad(detail: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

const REVISION_PAGE: &[QueryParameter] =
    &[QueryParameter::SIZE, QueryParameter::text("after", "Only revisions before the one with this number")];

const KEEP: QueryParameter = QueryParameter::words(
    "keep",
    "`files`: entities that files changed since may stay as they are",
    &["files"],
);

/// Returns the routes.
pub(crate) fn routes() -> Vec<ApiRoute> {
    let one = "/revisions/{number}";
    let rollback_body = schema::free_form("`reason` is kept with the revision; other fields are ignored");
    vec![
        ApiRoute::get(
            "/revisions",
            Role::Read,
            "List the accepted changes, the newest first",
            list,
            Content::json::<Items<RevisionView>>(),
        )
        .query(REVISION_PAGE)
        .fails(&[500]),
        ApiRoute::get(
            one,
            Role::Read,
            "Read a change, with its edits",
            read,
            Content::json::<RevisionDetailView>(),
        )
        .fails(&[500]),
        ApiRoute::get(
            format!("{one}/diff"),
            Role::Read,
            "Compare two revisions: /revisions/41..43/diff",
            diff,
            Content::json::<RevisionDiffView>(),
        )
        .fails(&[500]),
        ApiRoute::post(
            format!("{one}/rollback"),
            Role::Write,
            "Restore what REST had declared at a revision",
            rollback,
            &[200, 201],
            Content::json::<RolledBackView>(),
        )
        .query(&[KEEP])
        .change(rollback_body)
        .optional_body()
        .fails(&[500]),
    ]
}

/// `GET /revisions`: the newest first.
pub(crate) async fn list(
    State(admin): State<Admin>,
    RawQuery(query): RawQuery,
) -> Result<Json<Items<RevisionView>>, Problem> {
    let mut query = Parameters::parse(query.as_deref());
    let number = |text: Option<String>, name: &str, otherwise: u64| match text {
        None => Ok(otherwise),
        Some(text) => {
            text.parse().map_err(|_| bad(format!("`{name}` is the number of a revision, not `{text}`")))
        }
    };
    let size = number(query.take("size")?, "size", PAGE.0)?.clamp(1, PAGE.1);
    let after = number(query.take("after")?, "after", u64::MAX)?;
    query.end()?;
    let progress = admin.control.progress();
    admin
        .reading_history(move |store| {
            let count = usize::try_from(size).unwrap_or(usize::MAX);
            let heads = store.revision_heads(after, count)?;
            let oldest = heads.last().map_or(0, |oldest| oldest.number);
            let is_more = !store.revision_heads(oldest, 1)?.is_empty();
            let next = is_more.then(|| format!("/revisions?after={oldest}&size={size}"));
            let items = heads.into_iter().map(|head| RevisionView::new(head, &progress)).collect();
            Ok(Json(Items { items, next }))
        })
        .await
}

impl Admin {
    /// Runs `read` on a thread where it may block, once there are few enough readers of revisions.
    async fn reading_history<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Store) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let permit = self.history_readers.0.clone().acquire_owned().await;
        let store = self.store.clone();
        blocking::run(move || {
            let outcome = read(&*store);
            drop(permit);
            outcome
        })
        .await
    }
}

/// `GET /revisions/{number}`: with what changed.
pub(crate) async fn read(
    State(admin): State<Admin>,
    Path(number): Path<String>,
) -> Result<Json<RevisionDetailView>, Problem> {
    let number = parse(&number)?;
    admin.revision(number).await.map(Json)
}

impl Admin {
    async fn revision(&self, number: u64) -> Result<RevisionDetailView, Problem> {
        let (progress, mask) = (self.control.progress(), self.mask);
        self.reading_history(move |store| {
            let (head, edits) = one(store, number)?.split();
            let changes = edits.iter().map(|edit| EditView::new(edit, mask)).collect();
            Ok(RevisionDetailView { revision: RevisionView::new(head, &progress), changes })
        })
        .await
    }

    /// Returns the reply to a rollback with the revision that it made, or the newest one.
    async fn with_revision(&self, reply: Reply, rolled_back_to: u64) -> Reply {
        let Some(number) = reply.body["number"].as_u64() else { return reply };
        // The rollback is in effect whether or not its revision can be read.
        let Ok(revision) = self.revision(number).await else { return reply };
        let body = json!(RolledBackView { revision, rolled_back_to, warnings: None });
        Reply { body, ..reply }
    }
}

/// `GET /revisions/{a}..{b}/diff`: how what was at `a` became what was at `b`, which may be the older one.
pub(crate) async fn diff(
    State(admin): State<Admin>,
    Path(range): Path<String>,
) -> Result<Json<RevisionDiffView>, Problem> {
    let (a, b) = range
        .split_once("..")
        .ok_or_else(|| bad(format!("`{range}` is no range; write it as /revisions/41..43/diff")))?;
    let (a, b) = (parse_or_none(a)?, parse_or_none(b)?);
    let mask = admin.mask;
    admin
        .reading_history(move |store| {
            let edits = between(store, a.min(b), a.max(b))?.into_iter().map(|it| turned(it, a > b));
            let changes = edits.map(|edit| EditView::new(&edit, mask)).collect();
            Ok(Json(RevisionDiffView { from: a, to: b, changes }))
        })
        .await
}

/// `POST /revisions/{number}/rollback`: what REST declared becomes what it was then. Where files declare
/// something else by now that is refused, unless `?keep=files` says that they may.
pub(crate) async fn rollback(
    State(admin): State<Admin>,
    Path(number): Path<String>,
    mut write: Write,
) -> Result<Response, Problem> {
    let number = parse_or_none(&number)?;
    let keeps_files = match write.query.take("keep")?.as_deref() {
        None => false,
        Some("files") => true,
        Some(other) => return Err(bad(format!("`keep` is `files`, not `{other}`"))),
    };
    if let Some(reason) = write.body["reason"].as_str() {
        write.request.reason.get_or_insert_with(|| reason.to_owned());
    }
    write.request.source = RevisionSource::Rollback;
    write.request.alone = true;
    let store = admin.store.clone();
    let complete = |reply| admin.with_revision(reply, number);
    admin.write_completed(write, RollbackWrite { store, number, keeps_files }, complete).await
}

/// Rollback of what REST declared to a revision.
struct RollbackWrite {
    store: Arc<dyn Store>,
    number: u64,
    /// True if files may have changed since.
    keeps_files: bool,
}

impl Operation for RollbackWrite {
    /// Newest revision before the rollback.
    type Details = u64;
    type Reply = Reply;
    type Refusal = Problem;

    fn decide(&self, desired: DesiredConfig<'_>) -> Result<Decision<u64>, Problem> {
        refuse_rejected(&*self.store, self.number)?;
        let edits = between(&*self.store, self.number, desired.revision)?;
        let (in_files, by_rest): (Vec<Edit>, Vec<Edit>) =
            edits.into_iter().partition(|edit| edit.file.is_some());
        if !self.keeps_files && !in_files.is_empty() {
            return Err(files_differ(&in_files, self.number));
        }
        let changes = by_rest.into_iter().map(EntityChange::undoing).collect();
        Ok(Decision { changes, details: desired.revision })
    }

    fn reply(&self, before: &u64, desired: DesiredConfig<'_>) -> Reply {
        let number = desired.revision;
        let body = json!({ "number": number, "rolled_back_to": self.number });
        if number > *before {
            let location = Some(format!("/revisions/{number}"));
            Reply { location, ..Reply::new(StatusCode::CREATED, body) }
        } else {
            // Nothing had to change.
            Reply::new(StatusCode::OK, body)
        }
    }

    fn refuse(&self, _: &u64, violations: Vec<Violation>) -> Problem {
        WriteError::Refused(violations).into()
    }
}

/// Refuses a revision that was taken back: its state was that of the one before, which is not what is asked
/// for.
fn refuse_rejected(store: &dyn Store, number: u64) -> Result<(), Problem> {
    let newest = store.revision_heads(number.saturating_add(1), 1)?.pop();
    match newest.filter(|newest| newest.number == number).and_then(|revision| revision.error) {
        Some(error) => {
            let detail = format!("revision {number} was never in effect; an Envoy refused it: {error}");
            Err(Problem::new(StatusCode::CONFLICT, detail))
        }
        None => Ok(()),
    }
}

fn files_differ(edits: &[Edit], number: u64) -> Problem {
    let place = |edit: &Edit| {
        let file = edit.file.as_deref().unwrap_or_default();
        format!("{} `{}` in {file}", edit.kind.singular(), edit.name)
    };
    let places: Vec<String> = edits.iter().take(10).map(place).collect();
    let detail = format!(
        "since revision {number} files changed {}; change those back, or say ?keep=files to roll back what REST wrote only",
        places.join(", ")
    );
    Problem::new(StatusCode::CONFLICT, detail)
}

fn turned(edit: Edit, backwards: bool) -> Edit {
    if backwards { Edit { before: edit.after, after: edit.before, ..edit } } else { edit }
}

/// Returns the edits between revision `a` and the later `b`, one for each entity.
fn between(store: &dyn Store, a: u64, b: u64) -> Result<Vec<Edit>, Problem> {
    let last = store.revision();
    if let Some(missing_one) = [a, b].into_iter().find(|number| *number > last) {
        return Err(missing(missing_one));
    }
    let mut edits: BTreeMap<(Kind, String, bool), Edit> = BTreeMap::new();
    // One at a time: of an entity that changed in many of them, only the first and the last state are held.
    for number in a + 1..=b {
        // Revisions that are no longer kept cannot be undone.
        let revision = store.revisions(number..=number)?.pop().ok_or_else(|| missing(a))?;
        // A revision that was taken back changed nothing.
        let undone = revision.error.is_some();
        for edit in revision.edits.into_iter().filter(|_| !undone) {
            let key = (edit.kind, edit.name.clone(), edit.file.is_some());
            match edits.get_mut(&key) {
                Some(known) => known.after = edit.after,
                None => drop(edits.insert(key, edit)),
            }
        }
    }
    Ok(edits.into_values().filter(|edit| edit.action().is_some()).collect())
}

fn one(store: &dyn Store, number: u64) -> Result<Revision, Problem> {
    store.revisions(number..=number)?.pop().ok_or_else(|| missing(number))
}

fn missing(number: u64) -> Problem {
    Problem::not_found(&format!("there is no revision {number}; the last {KEPT_REVISIONS} are kept"))
}

fn parse(number: &str) -> Result<u64, Problem> {
    parse_or_none(number).and_then(|number| match number {
        0 => Err(missing(0)),
        number => Ok(number),
    })
}

/// 0 stands for what was before the first.
fn parse_or_none(number: &str) -> Result<u64, Problem> {
    number.parse().map_err(|_| Problem::not_found(&format!("`{number}` is not the number of a revision")))
}
