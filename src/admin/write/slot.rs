//! Slot: identity of an entity, its paths in store and API, and the changes that write it.

use std::sync::Arc;

use axum::http::StatusCode;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::admin::declared::{self, DeclaredBy, Desired};
use crate::admin::http::conditions::{Conditions, etag, matches};
use crate::admin::http::problem::Problem;
use crate::admin::write::place::BodyPlace;
use crate::admin::write::reply::Reply;
use crate::config::Path;
use crate::config::document::Kind;
use crate::config::edit::EntityChange;
use crate::config::raw;
use crate::envoy::ResourceType;

/// Identity of an entity, existing or not, and its place in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) kind: Kind,
    /// Upstream of a target.
    pub(crate) upstream: Option<String>,
    /// Name; the canonical address of a target, `type/name` of a raw resource.
    pub(crate) name: String,
}

/// Entity as it is shown.
pub(super) struct ExistingEntity {
    pub(super) body: Value,
    pub(super) by: DeclaredBy,
    /// Index of a target in the list of its upstream.
    pub(super) index: Option<usize>,
}

impl Slot {
    pub(crate) fn target(upstream: &str, address: &str) -> Self {
        Self { kind: Kind::Target, upstream: Some(upstream.to_owned()), name: declared::canonical(address) }
    }

    /// Returns the name in the store.
    pub(crate) fn key(&self) -> String {
        match &self.upstream {
            Some(upstream) => format!("{upstream}/{}", self.name),
            None => self.name.clone(),
        }
    }

    /// Returns the path in the API.
    pub(crate) fn path(&self) -> String {
        let name = encoded(&self.name);
        match &self.upstream {
            Some(upstream) => format!("/upstreams/{}/targets/{name}", encoded(upstream)),
            None => format!("/{}/{name}", self.kind.plural()),
        }
    }

    pub(super) fn find(&self, desired: Desired<'_>) -> Option<ExistingEntity> {
        match &self.upstream {
            Some(upstream) => {
                let target = desired.target(upstream, &self.name)?;
                Some(ExistingEntity { body: target.body, by: target.by, index: target.index })
            }
            None => {
                let entity = desired.entity(self.kind, &self.name)?;
                Some(ExistingEntity { body: entity.body, by: entity.by, index: None })
            }
        }
    }

    /// Returns the entity as it was written, without shown defaults; none if a file declares it.
    pub(super) fn stored(&self, desired: Desired<'_>, index: Option<usize>) -> Option<Value> {
        match (&self.upstream, index) {
            (Some(upstream), Some(index)) => {
                let upstream = desired.stored.get(&(Kind::Upstream, upstream.clone()))?;
                upstream.get("targets")?.get(index).cloned()
            }
            _ => desired.stored.get(&(self.kind, self.key())).map(|stored| Value::clone(stored)),
        }
    }

    /// Returns the reply that shows the entity, with its tag.
    pub(crate) fn shown(&self, desired: Desired<'_>, status: StatusCode) -> Reply {
        let body = self.find(desired).map(|found| found.body).unwrap_or_default();
        let location = (status == StatusCode::CREATED).then(|| self.path());
        Reply { status, location, etag: Some(etag(&body)), body }
    }

    /// Returns the body with the name of the path.
    ///
    /// # Errors
    ///
    /// Fails if the body has another name.
    pub(super) fn named(&self, body: Value) -> Result<Value, Problem> {
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

    /// Returns the body with this text in this field; the field may have it already.
    fn with(&self, mut body: Value, field: &str, name: &str) -> Result<Value, Problem> {
        let own = body.get(field).and_then(Value::as_str);
        let is_same = match (self.kind, own) {
            (Kind::Target, Some(own)) => declared::canonical(own) == name,
            (_, own) => own == Some(name),
        };
        match body.get(field) {
            None | Some(Value::Null) if !name.is_empty() => body[field] = name.into(),
            Some(_) if is_same => body[field] = name.into(),
            // Validation reports a name that is missing or not a text.
            _ if name.is_empty() => {}
            own => {
                let own = own.cloned().unwrap_or_default();
                let detail = format!("the path names `{name}` and the body {own}");
                return Err(Problem::unprocessable(&Path::default().key(field), detail));
            }
        }
        Ok(body)
    }

    /// Removes shown defaults that contradict a field of the patch.
    pub(super) fn disentangle(&self, body: &mut Value, patch: &Value) {
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

    /// Returns the changes that write the entity or, without a body, remove it. A target is changed in the
    /// list of its upstream if it has an index there. With `exact`, targets that were added to an upstream on
    /// their own are removed.
    pub(super) fn set(
        &self,
        desired: Desired<'_>,
        index: Option<usize>,
        body: Option<Value>,
        exact: bool,
    ) -> Vec<EntityChange> {
        if let (Some(upstream), Some(index)) = (&self.upstream, index) {
            let Some(stored) = desired.stored.get(&(Kind::Upstream, upstream.clone())) else {
                return Vec::new();
            };
            let mut changed = Value::clone(stored);
            if let Some(targets) = changed["targets"].as_array_mut() {
                targets.splice(index..=index, body);
            }
            return vec![EntityChange::Put {
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
            Some(body) => EntityChange::Put { kind, name, body: Arc::new(body) },
            None => EntityChange::Delete { kind, name },
        });
        changes
    }

    /// Returns the place of its violations.
    pub(crate) fn place(&self, index: Option<usize>) -> BodyPlace {
        let path = match (&self.upstream, index) {
            (Some(upstream), Some(index)) => format!("upstreams.{upstream}.targets[{index}]"),
            _ if self.name.is_empty() => self.kind.plural().to_owned(),
            _ => format!("{}.{}", self.kind.plural(), self.key()),
        };
        let inner = index.map(|index| Path::default().key("targets").index(index).pointer());
        BodyPlace::new(path, inner.unwrap_or_default())
    }

    /// Refuses an entity that a file declares.
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

    /// Refuses an entity that is not as the client last saw it.
    pub(super) fn check(&self, conditions: &Conditions, existing: Option<&Value>) -> Result<(), Problem> {
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

    pub(super) fn taken(&self, by: &DeclaredBy) -> Problem {
        let place = match by {
            DeclaredBy::File(place) => format!(", declared in {place}"),
            DeclaredBy::Rest => String::new(),
        };
        let detail = format!("there is {} `{}` already{place}", self.kind.one(), self.name);
        Problem::new(StatusCode::CONFLICT, detail)
    }
}

/// Returns the changes that remove the targets added to an upstream on their own.
pub(crate) fn without_added(desired: Desired<'_>, upstream: &str) -> Vec<EntityChange> {
    let delete = |(key, _): (&str, _)| EntityChange::Delete { kind: Kind::Target, name: key.to_owned() };
    desired.added(upstream).map(delete).collect()
}

/// Returns the type that a path under `/raw` names.
pub(crate) fn resource_type(word: &str) -> Result<ResourceType, Problem> {
    let found = ResourceType::ALL.into_iter().find(|it| it.plural() == word);
    found.ok_or_else(|| {
        Problem::not_found(&format!("there is no `/raw/{word}`; the types are {}", raw::type_words()))
    })
}

/// Returns the problem of an entity that does not exist.
pub(crate) fn absent(kind: Kind, name: &str) -> Problem {
    Problem::not_found(&format!("no {} is named `{name}`", kind.singular()))
}

/// Escapes a text for a query or a path. Slashes stay: names of raw resources contain them.
pub(crate) fn encoded(text: &str) -> String {
    const ESCAPED: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':').remove(b'/');
    utf8_percent_encode(text, ESCAPED).to_string()
}
