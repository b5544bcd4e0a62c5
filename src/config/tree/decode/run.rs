//! State shared by the attempts to decode a tree.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};

use crate::config::tree::{Node, Value};

/// Length up to which a list is always decoded from its first element, for visitors that count. In a longer
/// list, elements known to be good are skipped.
const LONG: usize = 64;

/// Identity of a node: its address, which is stable while the tree is decoded.
pub(super) type NodeIdentity = *const Node;

/// Reason for which a node is set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// Unknown key, which may be a misspelling of any missing key.
    UnknownKey,
    /// Wrong value, or a wrong required value below it.
    Faulty,
    /// Null, which counts as absent.
    Null,
}

/// Part of a value that serde did not find.
#[derive(Debug, Clone, Copy)]
pub(super) enum Missed {
    Field(&'static str),
    Elements,
}

/// State shared by the attempts.
#[derive(Default)]
pub(super) struct Run {
    aside: HashMap<NodeIdentity, Reason>,
    /// Fields that do not accept null, by the name of their struct.
    not_nullable: HashSet<(&'static str, String)>,
    /// Index of the first element not known to be good, for long lists.
    good_until: RefCell<HashMap<NodeIdentity, usize>>,
    /// True if this attempt skipped elements known to be good.
    pub(super) passed_over: Cell<bool>,
    /// True once all elements have to be decoded.
    is_whole: bool,
}

impl Run {
    pub(super) fn whole(&mut self) {
        self.is_whole = true;
        self.passed_over.set(false);
    }

    /// Records that a field of a struct does not accept null.
    pub(super) fn refuse_null(&mut self, structure: &'static str, field: String) {
        self.not_nullable.insert((structure, field));
    }

    /// Leaves out a node in the attempts to come. False if it was left out before.
    pub(super) fn set_aside(&mut self, node: NodeIdentity, reason: Reason) -> bool {
        self.aside.insert(node, reason).is_none()
    }

    pub(super) fn reason(&self, node: &Node) -> Option<Reason> {
        self.aside.get(&std::ptr::from_ref(node)).copied()
    }

    pub(super) fn is_aside(&self, node: &Node) -> bool {
        !self.aside.is_empty() && self.reason(node).is_some()
    }

    pub(super) fn has_no_null(&self, structure: &'static str, field: &str) -> bool {
        !self.not_nullable.is_empty() && self.not_nullable.contains(&(structure, field.to_owned()))
    }

    /// Returns the index of the first element not known to be good, from which this attempt continues.
    pub(super) fn resume(&self, list: &Node, length: usize) -> usize {
        if self.is_whole || length <= LONG {
            return 0;
        }
        let from = self.good_until.borrow().get(&std::ptr::from_ref(list)).copied().unwrap_or(0);
        if from > 0 {
            self.passed_over.set(true);
        }
        from
    }

    pub(super) fn reached(&self, list: &Node, length: usize, index: usize) {
        if length > LONG {
            self.good_until.borrow_mut().insert(std::ptr::from_ref(list), index);
        }
    }

    /// True if the missing field or elements were present but set aside.
    pub(super) fn explains(&self, missed: Missed, node: &Node) -> bool {
        match (missed, &node.value) {
            (Missed::Field(field), Value::Mapping(entries)) => {
                entries.iter().any(|entry| match self.reason(&entry.value) {
                    Some(Reason::UnknownKey) => true,
                    Some(Reason::Faulty) => entry.key == field,
                    Some(Reason::Null) | None => false,
                })
            }
            (Missed::Elements, Value::Sequence(elements)) => {
                elements.iter().any(|element| self.is_aside(element))
            }
            _ => false,
        }
    }
}
