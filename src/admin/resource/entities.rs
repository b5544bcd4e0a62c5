//! Collections: list, create, read, replace, merge-patch, delete; and the targets of an upstream.

use std::collections::BTreeSet;

use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{Json, Response};
use serde_json::Value;

use crate::access::tokens::Role;
use crate::admin::declared::{self, Desired};
use crate::admin::http::conditions::etag;
use crate::admin::http::page::Items;
use crate::admin::http::problem::Problem;
use crate::admin::http::request::{Parameters, Write};
use crate::admin::route::{ApiRoute, Content, QueryParameter};
use crate::admin::schema;
use crate::admin::state::Admin;
use crate::admin::view::write::DeletedView;
use crate::admin::write::entity::EntityWrite;
use crate::admin::write::operation::EntityOperation;
use crate::admin::write::run::shown;
use crate::admin::write::slot::{absent, encoded};
use crate::config::document::Kind;

/// Number of items on a page by default, and at most.
const PAGE: (usize, usize) = (100, 1000);

const LIST: &[QueryParameter] = &[
    QueryParameter::SIZE,
    QueryParameter::text("after", "Only entities whose name comes after this one"),
    QueryParameter::text(
        "tag",
        "Only entities with one of these tags, separated by commas; if it is given twice, both must be met",
    ),
];

const CASCADE: QueryParameter = QueryParameter::flag("cascade", "Also delete the entities that refer to it");

/// Returns the routes.
pub(crate) fn routes() -> Vec<ApiRoute> {
    let mut routes: Vec<ApiRoute> = Kind::TOP.into_iter().flat_map(kind_routes).collect();
    let all = "/upstreams/{name}/targets";
    let page = Content::json_of(schema::page(schema::entity(Kind::Target)));
    let stored = Content::json_of(schema::stored_entity(Kind::Target));
    routes.push(
        ApiRoute::get(all, Role::Read, "List the targets of an upstream", list_targets, page).query(LIST),
    );
    routes.push(
        ApiRoute::post(all, Role::Write, "Add a target to an upstream", write, &[201], stored)
            .change(schema::entity(Kind::Target)),
    );
    let one = format!("{all}/{{target}}");
    let read = Content::json_of(schema::entity(Kind::Target));
    routes.push(ApiRoute::get(&*one, Role::Read, "Read a target", read_target, read));
    routes.extend(write_routes(&one, "a target", Kind::Target));
    routes
}

fn kind_routes(kind: Kind) -> Vec<ApiRoute> {
    let all = format!("/{}", kind.plural());
    let (one, what) = (format!("{all}/{{name}}"), kind.one());
    let list = move |State(admin): State<Admin>, query: RawQuery| list(kind, admin, query);
    let read = move |State(admin): State<Admin>, Path(name): Path<String>| read(kind, admin, name);
    let page = Content::json_of(schema::page(schema::entity(kind)));
    let stored = Content::json_of(schema::stored_entity(kind));
    let entity = Content::json_of(schema::entity(kind));
    let mut routes = vec![
        ApiRoute::get(&*all, Role::Read, format!("List {}", kind.plural()), list, page).query(LIST),
        ApiRoute::post(&*all, Role::Write, format!("Create {what}"), write, &[201], stored)
            .change(schema::entity(kind)),
        ApiRoute::get(&*one, Role::Read, format!("Read {what}"), read, entity),
    ];
    routes.extend(write_routes(&one, what, kind));
    routes
}

/// Returns the routes that replace, merge and delete an entity.
pub(crate) fn write_routes(path: &str, what: &str, kind: Kind) -> [ApiRoute; 3] {
    let stored = || Content::json_of(schema::stored_entity(kind));
    let (replace, merge) = (format!("Create or replace {what}"), format!("Change {what} by a merge patch"));
    let (delete, deleted) = (format!("Delete {what}"), Content::json::<DeletedView>());
    [
        ApiRoute::put(path, Role::Write, replace, write, &[200, 201], stored()).change(schema::entity(kind)),
        ApiRoute::patch(path, Role::Write, merge, write, &[200], stored()).change(schema::merge_patch()),
        ApiRoute::delete(path, Role::Write, delete, write, &[200, 204], deleted).removal().query(&[CASCADE]),
    ]
}

/// `?size=`, `?after=` and `?tag=` of a list.
#[derive(Debug)]
pub(crate) struct Page {
    size: usize,
    after: Option<String>,
    /// Required tags, each with alternatives: `?tag=a,b&tag=c` is (a or b) and c.
    tags: Vec<String>,
}

impl Page {
    pub(crate) fn parse(query: Option<&str>) -> Result<Self, Problem> {
        let mut query = Parameters::parse(query);
        let size = match query.take("size")? {
            None => PAGE.0,
            Some(text) => match text.parse() {
                Ok(size) if (1..=PAGE.1).contains(&size) => size,
                _ => {
                    let detail = format!("`size` is a number from 1 to {}, not `{text}`", PAGE.1);
                    return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
                }
            },
        };
        let page = Self { size, after: query.take("after")?, tags: query.take_all("tag") };
        query.end()?;
        Ok(page)
    }

    /// Returns the page of these names, in their order. `body` is called only for the names up to its end.
    pub(crate) fn cut(
        &self,
        names: impl IntoIterator<Item = String>,
        body: impl Fn(&str) -> Option<Value>,
        path: &str,
    ) -> Items<Value> {
        let after = |name: &String| self.after.as_ref().is_none_or(|after| name > after);
        let all = names.into_iter().filter(after);
        let mut found =
            all.filter_map(|name| Some((body(&name)?, name))).filter(|(body, _)| self.has_tags(body));
        let (mut items, mut last) = (Vec::new(), String::new());
        for (body, name) in found.by_ref().take(self.size) {
            items.push(body);
            last = name;
        }
        let next = found.next().is_some().then(|| self.next(path, &last));
        Items { items, next }
    }

    /// The path of the page after this item.
    fn next(&self, path: &str, last: &str) -> String {
        let tags: String = self.tags.iter().map(|tag| format!("&tag={}", encoded(tag))).collect();
        format!("{path}?after={}&size={}{tags}", encoded(last), self.size)
    }

    fn has_tags(&self, body: &Value) -> bool {
        let own: BTreeSet<&str> =
            body["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        self.tags.iter().all(|tags| tags.split(',').any(|tag| own.contains(tag.trim())))
    }
}

/// `GET /{kind}`
pub(crate) async fn list(kind: Kind, admin: Admin, query: RawQuery) -> Result<Json<Items<Value>>, Problem> {
    let page = Page::parse(query.0.as_deref())?;
    let build = admin.cache.build();
    let desired = Desired::of(&build, admin.mask);
    let body = |name: &str| desired.entity(kind, name).map(|entity| entity.body);
    Ok(Json(page.cut(desired.names(kind), body, &format!("/{}", kind.plural()))))
}

/// `GET /{kind}/{name}`
pub(crate) async fn read(kind: Kind, admin: Admin, name: String) -> Result<Response, Problem> {
    let build = admin.cache.build();
    let entity = Desired::of(&build, admin.mask).entity(kind, &name).ok_or_else(|| absent(kind, &name))?;
    let tag = etag(&entity.body);
    Ok(shown(entity.body, &tag))
}

/// `GET /upstreams/{upstream}/targets`
pub(crate) async fn list_targets(
    State(admin): State<Admin>,
    Path(upstream): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Items<Value>>, Problem> {
    let page = Page::parse(query.as_deref())?;
    let build = admin.cache.build();
    let desired = Desired::of(&build, admin.mask);
    if !desired.has_upstream(&upstream) {
        return Err(absent(Kind::Upstream, &upstream));
    }
    let targets = desired.targets(&upstream).into_iter();
    let targets: std::collections::BTreeMap<String, Value> =
        targets.map(|target| (declared::canonical(declared::text(&target.body)), target.body)).collect();
    let body = |address: &str| targets.get(address).cloned();
    Ok(Json(page.cut(targets.keys().cloned(), body, &format!("/upstreams/{upstream}/targets"))))
}

/// `GET /upstreams/{upstream}/targets/{target}`
pub(crate) async fn read_target(
    State(admin): State<Admin>,
    Path((upstream, address)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let build = admin.cache.build();
    let desired = Desired::of(&build, admin.mask);
    if !desired.has_upstream(&upstream) {
        return Err(absent(Kind::Upstream, &upstream));
    }
    let target = desired.target(&upstream, &address).ok_or_else(|| absent(Kind::Target, &address))?;
    let tag = etag(&target.body);
    Ok(shown(target.body, &tag))
}

/// All writes of one entity. POST: 201. PUT: 201 if it created the entity, 200 if it replaced it; an
/// upstream's targets stay as they are unless the body has `targets`. PATCH: 200. DELETE: 204, or 409 with
/// the entities that refer to it; with `?cascade=true` these are deleted too.
pub(crate) async fn write(State(admin): State<Admin>, mut write: Write) -> Result<Response, Problem> {
    let body = std::mem::take(&mut write.body);
    let conditions = write.conditions.clone();
    let operation = EntityOperation::parse(&write.method, &write.path, body, conditions)?;
    let (cascade, mask) = (write.cascade, admin.mask);
    admin.write(write, EntityWrite { operation, cascade, mask }).await
}
