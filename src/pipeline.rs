//! The program as one pure function: everything that may change what an Envoy is told goes in, what every
//! fleet should run comes out.
//!
//! `serve`, `check`, `compile`, a write over REST and a golden test call the same [`build`], so they agree by
//! construction. It is incremental by content: a text that did not change is not parsed again, and a resource
//! that did not change keeps its bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use crate::compile;
use crate::config::document::{self, Document, Kind};
use crate::config::tree::Node as Tree;
use crate::config::{Level, Violation};
use crate::model::Model;
use crate::model::name::Name;
use crate::model::target::{Addresses, Host};
use crate::model::validate;
use crate::node::Node;
use crate::snapshot::Snapshot;

/// Everything that may change what an Envoy is told, as one value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Inputs {
    /// Texts by file name.
    pub files: BTreeMap<String, Arc<str>>,
    /// What was written over REST.
    pub stored: Stored,
    /// What host names resolve to.
    pub addresses: Addresses,
}

/// Entities that were written over REST, by kind and name. A target's name is `upstream/host:port`, and an
/// upstream stands here without its targets.
pub type Stored = BTreeMap<(Kind, String), Arc<Value>>;

/// An accepted config with all that was made of it.
#[derive(Debug, Default)]
pub struct Build {
    /// What the documents mean.
    pub model: Model,
    /// What each fleet should run.
    pub snapshots: BTreeMap<Name, Arc<Snapshot>>,
    /// What is valid and was noticed all the same.
    pub warnings: Vec<Violation>,
    /// The documents, those of the store first: where a file and the store name the same, the file is told.
    pub documents: Vec<Arc<Document>>,
    parsed: Parsed,
}

/// Documents by what they were parsed from.
#[derive(Debug, Default)]
struct Parsed {
    files: BTreeMap<String, (Arc<str>, Outcome)>,
    stored: BTreeMap<(Kind, String), (Arc<Value>, Outcome)>,
}

#[derive(Debug, Clone)]
struct Outcome {
    documents: Vec<Arc<Document>>,
    violations: Vec<Violation>,
}

impl Build {
    /// What the nodes of a fleet should run. A fleet that does not exist runs nothing.
    pub fn snapshot(&self, fleet: &Name) -> Arc<Snapshot> {
        self.snapshots.get(fleet).cloned().unwrap_or_default()
    }

    /// The fleet of a node.
    pub fn fleet_of(&self, node: &Node) -> Name {
        self.model.fleet_of(node)
    }

    /// The host names among the targets, to be resolved.
    pub fn host_names(&self) -> BTreeSet<String> {
        let targets = self.model.upstreams.values().flat_map(|upstream| &upstream.targets);
        targets
            .filter_map(|target| match &target.address.host {
                Host::Name(name) => Some(name.clone()),
                Host::Ip(_) => None,
            })
            .collect()
    }
}

/// Builds what every fleet should run. What did not change is taken from `last`.
///
/// # Errors
///
/// Every fault of every document at once.
pub fn build(inputs: &Inputs, last: Option<&Build>) -> Result<Build, Vec<Violation>> {
    let parsed = parse(inputs, last.map(|last| &last.parsed));
    let outcomes = || {
        let stored = parsed.stored.values().map(|(_, outcome)| outcome);
        stored.chain(parsed.files.values().map(|(_, outcome)| outcome))
    };
    let documents: Vec<Arc<Document>> = outcomes().flat_map(|outcome| outcome.documents.clone()).collect();
    let mut violations: Vec<Violation> = outcomes().flat_map(|outcome| outcome.violations.clone()).collect();
    match validate::validate(&documents) {
        Ok((model, warnings)) if violations.is_empty() => {
            let snapshots = snapshots(&model, &inputs.addresses, last);
            Ok(Build { model, snapshots, warnings, documents, parsed })
        }
        Ok((_, found)) | Err(found) => {
            violations.extend(found);
            Err(in_order(violations))
        }
    }
}

/// The violations by file, then by place.
fn in_order(mut violations: Vec<Violation>) -> Vec<Violation> {
    violations
        .sort_by(|a, b| (&a.file, a.line, a.column, &a.path).cmp(&(&b.file, b.line, b.column, &b.path)));
    violations.sort_by_key(|violation| violation.level != Level::Error);
    violations
}

fn parse(inputs: &Inputs, last: Option<&Parsed>) -> Parsed {
    let file = |name: &String, text: &Arc<str>| match last.and_then(|last| last.files.get(name)) {
        Some((old, outcome)) if old == text => outcome.clone(),
        _ => {
            let (documents, violations) = document::parse_file(name, text);
            Outcome { documents: documents.into_iter().map(Arc::new).collect(), violations }
        }
    };
    let stored = |key: &(Kind, String), body: &Arc<Value>| match last.and_then(|last| last.stored.get(key)) {
        Some((old, outcome)) if Arc::ptr_eq(old, body) || old == body => outcome.clone(),
        _ => {
            let (document, violations) = document::parse_stored(key.0, &key.1, Tree::from_json(body));
            Outcome { documents: vec![Arc::new(document)], violations }
        }
    };
    Parsed {
        files: inputs
            .files
            .iter()
            .map(|(name, text)| (name.clone(), (text.clone(), file(name, text))))
            .collect(),
        stored: inputs
            .stored
            .iter()
            .map(|(key, body)| (key.clone(), (body.clone(), stored(key, body))))
            .collect(),
    }
}

fn snapshots(model: &Model, addresses: &Addresses, last: Option<&Build>) -> BTreeMap<Name, Arc<Snapshot>> {
    let compile = |fleet: Name| {
        let last = last.and_then(|last| last.snapshots.get(&fleet));
        let snapshot = compile::snapshot(model, addresses, &fleet, last.map(Arc::as_ref));
        match last {
            Some(last) if **last == snapshot => (fleet, last.clone()),
            _ => (fleet, Arc::new(snapshot)),
        }
    };
    model.fleet_names().into_iter().map(compile).collect()
}
