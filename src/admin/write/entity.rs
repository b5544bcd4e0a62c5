//! Write of one entity: its decision, its reply, and the cascade of a deletion.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::admin::declared::Desired;
use crate::admin::http::problem::Problem;
use crate::admin::view::secret::SecretMask;
use crate::admin::write::operation::{EntityDecision, EntityOperation, Verb};
use crate::admin::write::place::{self, BodyPlace};
use crate::admin::write::reply::Reply;
use crate::admin::write::slot::{Slot, without_added};
use crate::build::{self, Inputs};
use crate::config::Violation;
use crate::config::document::Kind;
use crate::config::edit::EntityChange;
use crate::control::operation::{Decision, DesiredConfig, Operation, WriteError};

/// Write of one entity.
#[derive(Debug)]
pub(crate) struct EntityWrite {
    pub(crate) operation: EntityOperation,
    /// True if a deletion also deletes the entities that refer to the deleted one.
    pub(crate) cascade: bool,
    pub(crate) mask: SecretMask,
}

/// Facts of a decision for its reply or refusal.
#[derive(Debug)]
pub(crate) struct EntityDetails {
    /// True if the entity did not exist before.
    is_new: bool,
    place: BodyPlace,
    /// Paths of the entities that a cascade deletes; none without a cascade.
    deleted: Option<Vec<String>>,
}

impl EntityWrite {
    fn is_delete(&self) -> bool {
        self.operation.verb == Verb::Delete
    }
}

impl Operation for EntityWrite {
    type Details = EntityDetails;
    type Reply = Reply;
    type Refusal = Problem;

    fn decide(&self, desired: DesiredConfig<'_>) -> Result<Decision<EntityDetails>, Problem> {
        let decision = self.operation.clone().decide(Desired::now(desired, self.mask))?;
        let EntityDecision { changes, is_new, place } = decision;
        if self.is_delete() && self.cascade {
            let changes = cascaded(changes, desired, self.mask)?;
            let deleted = Some(changes.iter().filter_map(deleted_path).collect());
            return Ok(Decision { changes, details: EntityDetails { is_new, place, deleted } });
        }
        Ok(Decision { changes, details: EntityDetails { is_new, place, deleted: None } })
    }

    fn reply(&self, details: &EntityDetails, desired: DesiredConfig<'_>) -> Reply {
        match &details.deleted {
            Some(deleted) => Reply::new(StatusCode::OK, json!({ "deleted": deleted })),
            None if self.is_delete() => Reply::new(StatusCode::NO_CONTENT, Value::Null),
            None => {
                let status = if details.is_new { StatusCode::CREATED } else { StatusCode::OK };
                self.operation.slot.shown(Desired::now(desired, self.mask), status)
            }
        }
    }

    fn refuse(&self, details: &EntityDetails, violations: Vec<Violation>) -> Problem {
        let problem = Problem::from(WriteError::Refused(violations));
        if self.is_delete() {
            in_use(problem)
        } else {
            let places = std::slice::from_ref(&details.place);
            problem.relocated(|violation| place::in_body(violation, places))
        }
    }
}

/// Returns the path in the API of an entity that is deleted.
fn deleted_path(change: &EntityChange) -> Option<String> {
    match change {
        EntityChange::Delete { kind: Kind::Target, name } => {
            let (upstream, address) = name.split_once('/')?;
            Some(Slot::target(upstream, address).path())
        }
        EntityChange::Delete { kind, name } => {
            Some(Slot { kind: *kind, upstream: None, name: name.clone() }.path())
        }
        EntityChange::Put { .. } => None,
    }
}

/// Returns the problem of an entity that others refer to: the violations are those of the references.
fn in_use(problem: Problem) -> Problem {
    let by: BTreeSet<String> = problem.violations().iter().map(referrer).collect();
    let by: Vec<String> = by.into_iter().take(10).collect();
    let detail = format!("it is in use by {}; change those first, or say ?cascade=true", by.join(", "));
    problem.as_status(StatusCode::CONFLICT, &detail)
}

/// Returns the entity that a violation is in, as `services.checkout` or as a place in a file.
fn referrer(violation: &Violation) -> String {
    match (&violation.file, violation.line) {
        (Some(file), Some(line)) => format!("{file}:{line}"),
        (Some(file), None) => file.clone(),
        _ => violation.path.clone(),
    }
}

/// Adds the deletions of all entities that refer to deleted ones, however indirectly.
///
/// # Errors
///
/// Fails if a file declares such an entity, or if the config has other faults.
fn cascaded(
    mut changes: Vec<EntityChange>,
    desired: DesiredConfig<'_>,
    mask: SecretMask,
) -> Result<Vec<EntityChange>, Problem> {
    let mut inputs = desired.inputs.clone();
    let mut applied = 0;
    loop {
        for change in &changes[applied..] {
            if let EntityChange::Delete { kind, name } = change {
                inputs.stored.remove(&(*kind, name.clone()));
            }
        }
        applied = changes.len();
        let Err(violations) = build::build(&inputs, Some(desired.build)) else { return Ok(changes) };
        let referrers: BTreeSet<(Kind, String)> =
            violations.iter().filter_map(|violation| stored_at(&violation.path, &inputs)).collect();
        // An entity that a file declares, or another fault, prevents the deletion.
        let in_files: Vec<Violation> =
            violations.into_iter().filter(|violation| violation.file.is_some()).collect();
        if !in_files.is_empty() || referrers.is_empty() {
            return Err(in_use(Problem::refused("files refer to it", in_files)));
        }
        let declared = Desired { files: desired.build, stored: &inputs.stored, mask };
        for (kind, name) in referrers {
            if kind == Kind::Upstream {
                changes.extend(without_added(declared, &name));
            }
            changes.push(EntityChange::Delete { kind, name });
        }
    }
}

/// Returns the stored entity that a path in the config leads into, as `services.checkout.upstream` does.
fn stored_at(path: &str, inputs: &Inputs) -> Option<(Kind, String)> {
    let (word, rest) = path.split_once('.')?;
    let kind = Kind::from_plural(word)?;
    // A name may contain dots: the longest name that exists is meant.
    let ends: Vec<usize> =
        rest.match_indices(['.', '[']).map(|(index, _)| index).chain([rest.len()]).collect();
    let names = ends.into_iter().map(|end| (kind, rest[..end].to_owned()));
    names.rev().find(|key| inputs.stored.contains_key(key))
}
