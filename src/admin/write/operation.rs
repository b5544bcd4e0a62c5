//! Operation on one entity of any kind: create, replace, merge or delete it.
//!
//! It is decided on the newest config in the writer's thread, so that no other write comes between a check
//! and its change.

use axum::http::Method;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::admin::declared::{self, Desired};
use crate::admin::http::conditions::Conditions;
use crate::admin::http::problem::Problem;
use crate::admin::view::secret;
use crate::admin::write::place::BodyPlace;
use crate::admin::write::slot::{ExistingEntity, Slot, absent, resource_type};
use crate::config::Path;
use crate::config::document::Kind;
use crate::config::edit::EntityChange;
use crate::config::raw;

/// Verb of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Creation; the entity must not exist.
    Create,
    /// Creation or replacement.
    Replace,
    /// Merge patch (RFC 7396) of an existing entity.
    Merge,
    /// Deletion; the entity must exist.
    Delete,
}

/// Operation on one entity.
#[derive(Debug, Clone)]
pub(crate) struct EntityOperation {
    pub(crate) verb: Verb,
    pub(crate) slot: Slot,
    /// Body; null to delete.
    pub(crate) body: Value,
    pub(crate) conditions: Conditions,
}

/// Result of an operation.
pub(crate) struct EntityDecision {
    pub(crate) changes: Vec<EntityChange>,
    /// True if the entity did not exist before.
    pub(crate) is_new: bool,
    /// Place of its violations in the config and in the body.
    pub(crate) place: BodyPlace,
}

impl EntityOperation {
    /// Returns the operation that a method and a path name.
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

    /// Decides which entities change.
    pub(crate) fn decide(self, desired: Desired<'_>) -> Result<EntityDecision, Problem> {
        let existing = self.slot.find(desired);
        self.check(desired, existing.as_ref())?;
        let Self { verb, slot, mut body, .. } = self;
        let is_new = existing.is_none();
        let index = existing.as_ref().and_then(|existing| existing.index);
        let stored = desired.stored.get(&(slot.kind, slot.key()));
        // A body with the targets of an upstream lists all of them.
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
                    desired.mask.unmask(&mut body, stored);
                }
                refuse_hashes(&body)?;
                Some(body)
            }
        };
        Ok(EntityDecision { changes: slot.set(desired, index, body, exact), is_new, place })
    }

    /// Refuses the operation if the entity does not fit its verb, its conditions, or what files declare.
    fn check(&self, desired: Desired<'_>, existing: Option<&ExistingEntity>) -> Result<(), Problem> {
        let slot = &self.slot;
        if let (Some(upstream), None) = (&slot.upstream, existing)
            && !desired.has_upstream(upstream)
        {
            return Err(absent(Kind::Upstream, upstream));
        }
        match (self.verb, existing) {
            (Verb::Create, Some(existing)) => return Err(slot.taken(&existing.by)),
            (Verb::Create | Verb::Replace, None) => {}
            (_, None) => return Err(absent(slot.kind, &slot.name)),
            (_, Some(existing)) => slot.writable(&existing.by)?,
        }
        slot.check(&self.conditions, existing.map(|existing| &existing.body))
    }
}

/// Refuses a body with a hash that was shown in place of another secret: it would be stored as the secret.
pub(crate) fn refuse_hashes(body: &Value) -> Result<(), Problem> {
    let Some(path) = secret::find_hash(body, &Path::default()) else { return Ok(()) };
    let detail = "a hash stands where a secret should, and it is not that of this entity's own secret at that \
                  place; write the secret itself";
    Err(Problem::unprocessable(&path, detail))
}

/// Applies a merge patch (RFC 7396).
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
