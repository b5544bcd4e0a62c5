//! One change of one entity: create, replace, merge or delete it. The frame is the same for all kinds.
//!
//! What is asked is decided by the newest config, inside the one door through which it changes, so that two
//! writers cannot undo each other between a check and its change.

use std::sync::Arc;

use axum::http::{Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_128;

use crate::admin::declared::{self, DeclaredBy, Desired};
use crate::admin::http::problem::Problem;
use crate::admin::view::secret;
use crate::config::document::Kind;
use crate::config::raw;
use crate::config::{Path, Violation};
use crate::envoy::ResourceType;
use crate::store::Change;
use crate::store::records::Answer;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// It must not be there.
    Create,
    /// Whether it is there or not.
    Replace,
    /// A merge patch (RFC 7396) of what is there.
    Merge,
    /// It must be there.
    Delete,
}

/// An entity that is or may be, and where it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) kind: Kind,
    /// Of a target.
    pub(crate) upstream: Option<String>,
    /// Of a target its address in one spelling, of a raw resource `type/name`.
    pub(crate) name: String,
}

/// Under which conditions it is done (RFC 9110, section 13).
#[derive(Debug, Clone, Default)]
pub(crate) struct Conditions {
    /// `If-Match`.
    pub(crate) if_match: Option<String>,
    /// `If-None-Match: *`
    pub(crate) only_new: bool,
    /// What is there changes only with `If-Match`.
    pub(crate) required: bool,
}

impl Conditions {
    /// Refuses to change several things at once when they are not as the caller last saw them.
    pub(crate) fn check(&self, what: &str, tag: &str) -> Result<(), Problem> {
        match &self.if_match {
            None if self.required => Err(Problem::precondition_required()),
            Some(expected) if !matches(expected, tag) => {
                let detail = format!("{what} no longer what `If-Match` says");
                Err(Problem::new(StatusCode::PRECONDITION_FAILED, detail))
            }
            _ => Ok(()),
        }
    }
}

/// One change of one entity.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) verb: Verb,
    pub(crate) slot: Slot,
    /// Null to delete.
    pub(crate) body: Value,
    pub(crate) conditions: Conditions,
}

/// An entity as it is.
struct Found {
    body: Value,
    by: DeclaredBy,
    /// Of a target in the list of its upstream.
    index: Option<usize>,
}

/// What an operation comes to.
pub(crate) struct Decided {
    pub(crate) changes: Vec<Change>,
    /// It was not there before.
    pub(crate) is_new: bool,
    /// Where violations of it stand in the config, and in what was sent.
    pub(crate) place: Place,
}

/// Where an entity stands: violations know it by its path in the config, and callers by a pointer into what
/// they sent.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Such as `upstreams.shop`, or `upstreams.shop.targets[1]`.
    pub(crate) path: String,
    /// The pointer of that in the stored entity.
    inner: String,
    /// The pointer of that in the body.
    pub(crate) outer: String,
}

impl Operation {
    /// The operation that a method and a path name.
    pub(crate) fn parse(
        method: &Method,
        path: &str,
        body: Value,
        conditions: Conditions,
    ) -> Result<Self, Problem> {
        let segments: Vec<String> = path
            .trim_matches('/')
            .split('/')
            .map(|segment| percent_decode_str(segment).decode_utf8_lossy().into_owned())
            .collect();
        let words: Vec<&str> = segments.iter().map(String::as_str).collect();
        let top = |word: &str| Kind::TOP.into_iter().find(|kind| kind.plural() == word);
        let nothing = || Problem::not_found(&format!("there is nothing at `{path}`"));
        let entity = |kind, name: &str| Slot { kind, upstream: None, name: name.to_owned() };
        let (is_collection, slot) = match words.as_slice() {
            ["upstreams", upstream, "targets"] => (true, Slot::target(upstream, declared::text(&body))),
            ["upstreams", upstream, "targets", address] => (false, Slot::target(upstream, address)),
            ["raw", raw::PATCHES, word, name @ ..] if !name.is_empty() => {
                (false, entity(Kind::Raw, &raw::patch_key(resource_type(word)?, &name.join("/"))))
            }
            ["raw", word, name @ ..] if !name.is_empty() => {
                (false, entity(Kind::Raw, &raw::key(resource_type(word)?, &name.join("/"))))
            }
            [word] => {
                let name = body["name"].as_str().unwrap_or_default();
                (true, entity(top(word).ok_or_else(nothing)?, name))
            }
            [word, name] => (false, entity(top(word).ok_or_else(nothing)?, name)),
            _ => return Err(nothing()),
        };
        let verb = match (method, is_collection) {
            (&Method::POST, true) => Verb::Create,
            (&Method::PUT, false) => Verb::Replace,
            (&Method::PATCH, false) => Verb::Merge,
            (&Method::DELETE, false) => Verb::Delete,
            _ => return Err(Problem::method_not_allowed()),
        };
        Ok(Self { verb, slot, body, conditions })
    }

    /// What is to change, by what is desired now.
    pub(crate) fn decide(self, desired: Desired<'_>) -> Result<Decided, Problem> {
        let Self { verb, slot, mut body, conditions } = self;
        let existing = slot.find(desired);
        if let (Some(upstream), None) = (&slot.upstream, &existing)
            && !desired.has_upstream(upstream)
        {
            return Err(absent(Kind::Upstream, upstream));
        }
        match (verb, &existing) {
            (Verb::Create, Some(existing)) => return Err(slot.taken(&existing.by)),
            (Verb::Create | Verb::Replace, None) => {}
            (_, None) => return Err(absent(slot.kind, &slot.name)),
            (_, Some(existing)) => slot.writable(&existing.by)?,
        }
        slot.check(&conditions, existing.as_ref().map(|existing| &existing.body))?;
        let is_new = existing.is_none();
        let index = existing.as_ref().and_then(|existing| existing.index);
        let stored = desired.stored.get(&(slot.kind, slot.key()));
        // Whoever names the targets of an upstream means exactly those.
        let exact = verb == Verb::Delete || body.get("targets").is_some();
        match (verb, existing) {
            (Verb::Merge, Some(existing)) => {
                let mut merged = slot.stored(desired, index).unwrap_or(existing.body);
                slot.disentangle(&mut merged, &body);
                merge(&mut merged, body);
                body = merged;
            }
            (Verb::Replace, Some(_)) if slot.kind == Kind::Upstream && !exact => {
                if let Some(targets) = stored.and_then(|stored| stored.get("targets")) {
                    body["targets"] = targets.clone();
                }
            }
            _ => {}
        }
        let place = slot.place(index);
        let body = match verb {
            Verb::Delete => None,
            _ => {
                let mut body = slot.named(body)?;
                if let Some(stored) = stored {
                    secret::unmask(&mut body, stored);
                }
                Some(body)
            }
        };
        Ok(Decided { changes: slot.set(desired, index, body, exact), is_new, place })
    }
}

impl Slot {
    pub(crate) fn target(upstream: &str, address: &str) -> Self {
        Self { kind: Kind::Target, upstream: Some(upstream.to_owned()), name: declared::canonical(address) }
    }

    /// Its name in the store.
    pub(crate) fn key(&self) -> String {
        match &self.upstream {
            Some(upstream) => format!("{upstream}/{}", self.name),
            None => self.name.clone(),
        }
    }

    /// Its path in the API.
    pub(crate) fn path(&self) -> String {
        let name = encoded(&self.name);
        match &self.upstream {
            Some(upstream) => format!("/upstreams/{}/targets/{name}", encoded(upstream)),
            None => format!("/{}/{name}", self.kind.plural()),
        }
    }

    fn find(&self, desired: Desired<'_>) -> Option<Found> {
        match &self.upstream {
            Some(upstream) => {
                let target = desired.target(upstream, &self.name)?;
                Some(Found { body: target.body, by: target.by, index: target.index })
            }
            None => {
                let entity = desired.entity(self.kind, &self.name)?;
                Some(Found { body: entity.body, by: entity.by, index: None })
            }
        }
    }

    /// It as it was written, without what is shown beside that; none when a file declares it.
    fn stored(&self, desired: Desired<'_>, index: Option<usize>) -> Option<Value> {
        match (&self.upstream, index) {
            (Some(upstream), Some(index)) => {
                let upstream = desired.stored.get(&(Kind::Upstream, upstream.clone()))?;
                upstream.get("targets")?.get(index).cloned()
            }
            _ => desired.stored.get(&(self.kind, self.key())).map(|stored| Value::clone(stored)),
        }
    }

    /// It as it is shown, with its tag.
    pub(crate) fn shown(&self, desired: Desired<'_>, status: StatusCode) -> Answer {
        let body = self.find(desired).map(|found| found.body).unwrap_or_default();
        let location = (status == StatusCode::CREATED).then(|| self.path());
        Answer { revision: None, status: status.as_u16(), location, etag: Some(etag(&body)), body }
    }

    /// The body with the name that the path gives; one that names another is refused.
    fn named(&self, body: Value) -> Result<Value, Problem> {
        if let (Kind::Raw, Some((resource_type, name))) = (self.kind, raw::patched(&self.name)) {
            let body = self.with(body, "kind", resource_type.singular())?;
            return self.with(body, "name", name);
        }
        let (field, name) = match (self.kind, raw::split(&self.name)) {
            (Kind::Target, _) => ("target", self.name.as_str()),
            (Kind::Raw, Some((ResourceType::Endpoints, name))) if body.get("clusterName").is_some() => {
                ("clusterName", name)
            }
            (Kind::Raw, Some((resource_type, name))) => (resource_type.name_field(), name),
            _ => ("name", self.name.as_str()),
        };
        self.with(body, field, name)
    }

    /// The body with this text in this field, which may say the same already.
    fn with(&self, mut body: Value, field: &str, name: &str) -> Result<Value, Problem> {
        let own = body.get(field).and_then(Value::as_str);
        let is_same = match (self.kind, own) {
            (Kind::Target, Some(own)) => declared::canonical(own) == name,
            (_, own) => own == Some(name),
        };
        match body.get(field) {
            None | Some(Value::Null) if !name.is_empty() => body[field] = name.into(),
            Some(_) if is_same => body[field] = name.into(),
            // Validation tells of a name that is missing or no text.
            _ if name.is_empty() => {}
            own => {
                let own = own.cloned().unwrap_or_default();
                let detail = format!("the path names `{name}` and the body {own}");
                return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
            }
        }
        Ok(body)
    }

    /// The shown default of one field must not contradict another that is given now.
    fn disentangle(&self, body: &mut Value, patch: &Value) {
        let Value::Object(fields) = body else { return };
        if self.kind == Kind::Target {
            if patch.get("priority").is_some_and(|priority| !priority.is_null()) {
                fields.remove("failover");
            }
            if patch.get("failover").is_some() {
                fields.remove("priority");
            }
        }
    }

    /// Writes it or, without a body, removes it. A target is changed in its upstream's own list if it stands
    /// there; with `exact` targets those that were added to an upstream on their own go.
    fn set(
        &self,
        desired: Desired<'_>,
        index: Option<usize>,
        body: Option<Value>,
        exact: bool,
    ) -> Vec<Change> {
        if let (Some(upstream), Some(index)) = (&self.upstream, index) {
            let Some(stored) = desired.stored.get(&(Kind::Upstream, upstream.clone())) else {
                return Vec::new();
            };
            let mut changed = Value::clone(stored);
            if let Some(targets) = changed["targets"].as_array_mut() {
                targets.splice(index..=index, body);
            }
            return vec![Change::Put {
                kind: Kind::Upstream,
                name: upstream.clone(),
                body: Arc::new(changed),
            }];
        }
        let (kind, name) = (self.kind, self.key());
        let mut changes = match (kind, exact) {
            (Kind::Upstream, true) => without_added(desired, &self.name),
            _ => Vec::new(),
        };
        changes.push(match body {
            Some(body) => Change::Put { kind, name, body: Arc::new(body) },
            None => Change::Delete { kind, name },
        });
        changes
    }

    /// Where violations of it stand.
    pub(crate) fn place(&self, index: Option<usize>) -> Place {
        let path = match (&self.upstream, index) {
            (Some(upstream), Some(index)) => format!("upstreams.{upstream}.targets[{index}]"),
            _ if self.name.is_empty() => self.kind.plural().to_owned(),
            _ => format!("{}.{}", self.kind.plural(), self.key()),
        };
        let inner = index.map(|index| Path::default().key("targets").index(index).pointer());
        Place { path, inner: inner.unwrap_or_default(), outer: String::new() }
    }

    /// Refuses to change what a file declares.
    pub(crate) fn writable(&self, by: &DeclaredBy) -> Result<(), Problem> {
        match by {
            DeclaredBy::Rest => Ok(()),
            DeclaredBy::File(place) => {
                let kind = self.kind.singular();
                let detail = format!("the {kind} `{}` is declared in {place}; change the file", self.name);
                Err(Problem::new(StatusCode::CONFLICT, detail))
            }
        }
    }

    /// Refuses to change what is not as the caller last saw it.
    fn check(&self, conditions: &Conditions, existing: Option<&Value>) -> Result<(), Problem> {
        let (kind, name) = (self.kind.singular(), &self.name);
        let failed = |why: &str| {
            let detail = format!("the {kind} `{name}` {why}");
            Err(Problem::new(StatusCode::PRECONDITION_FAILED, detail))
        };
        match (&conditions.if_match, existing) {
            (_, Some(_)) if conditions.only_new => failed("is there already"),
            (None, Some(_)) if conditions.required => Err(Problem::precondition_required()),
            (None, _) => Ok(()),
            (Some(expected), Some(body)) if matches(expected, &etag(body)) => Ok(()),
            _ => failed("is no longer what `If-Match` says"),
        }
    }

    fn taken(&self, by: &DeclaredBy) -> Problem {
        let place = match by {
            DeclaredBy::File(place) => format!(", declared in {place}"),
            DeclaredBy::Rest => String::new(),
        };
        let detail = format!("there is {} `{}` already{place}", self.kind.one(), self.name);
        Problem::new(StatusCode::CONFLICT, detail)
    }
}

impl Place {
    /// The same in a body in which the entity stands at this pointer.
    pub(crate) fn at(self, outer: String) -> Self {
        Self { outer, ..self }
    }

    /// How much of a path in the config leads to this entity; none when it leads elsewhere.
    fn reach(&self, path: &str) -> Option<usize> {
        let rest = path.strip_prefix(&self.path)?;
        (rest.is_empty() || rest.starts_with(['.', '['])).then_some(self.path.len())
    }
}

/// A violation as one of a body in which these entities stand. What is wrong elsewhere has no pointer into it.
pub(crate) fn in_body(violation: Violation, places: &[Place]) -> Violation {
    let near = places.iter().filter_map(|place| Some((place.reach(&violation.path)?, place)));
    let place = near.max_by_key(|(reach, _)| *reach).map(|(_, place)| place);
    let pointer = violation.pointer.as_deref().zip(place).and_then(|(pointer, place)| {
        let inner = pointer.strip_prefix(&place.inner)?;
        Some(format!("{}{inner}", place.outer))
    });
    Violation { pointer, ..violation }
}

/// Removes the targets that were added to an upstream on their own.
pub(crate) fn without_added(desired: Desired<'_>, upstream: &str) -> Vec<Change> {
    let delete = |(key, _): (&str, _)| Change::Delete { kind: Kind::Target, name: key.to_owned() };
    desired.added(upstream).map(delete).collect()
}

/// RFC 7396.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Value::Object(fields) = target else { return };
    for (key, value) in patch {
        match value {
            Value::Null => drop(fields.remove(&key)),
            value => merge(fields.entry(key).or_insert(Value::Null), value),
        }
    }
}

/// The type that a path under `/raw` names.
pub(crate) fn resource_type(word: &str) -> Result<ResourceType, Problem> {
    let found = ResourceType::ALL.into_iter().find(|it| it.plural() == word);
    found.ok_or_else(|| {
        Problem::not_found(&format!("there is no `/raw/{word}`; the types are {}", raw::type_words()))
    })
}

/// True when an `If-Match` header allows to change what has this tag.
pub(crate) fn matches(expected: &str, tag: &str) -> bool {
    expected.trim() == "*" || expected.split(',').any(|one| one.trim() == tag)
}

/// A strong tag of what is shown.
pub(crate) fn etag(body: &Value) -> String {
    format!("\"{:032x}\"", xxh3_128(body.to_string().as_bytes()))
}

pub(crate) fn absent(kind: Kind, name: &str) -> Problem {
    Problem::not_found(&format!("no {} is named `{name}`", kind.singular()))
}

/// `text` as it may stand in a query or a path. Slashes stay: the names of raw resources have them.
pub(crate) fn encoded(text: &str) -> String {
    const ESCAPED: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':').remove(b'/');
    utf8_percent_encode(text, ESCAPED).to_string()
}
