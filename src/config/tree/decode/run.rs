//! What the tries at a tree have taught so far.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};

use super::error::{Meaning, Missed, Told};
use crate::config::Path;
use crate::config::tree::{Fault, Node, Value};

/// A list that is longer has its good elements passed over. Shorter ones are always whole, for visitors that count.
const LONG: usize = 64;

/// Which node it is. The tree stays where it is while it is decoded, so its address says so.
pub(super) type Identity = *const Node;

/// Why a node is set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// Its key means nothing, so it may be any key that is missed.
    UnknownKey,
    /// It, or something that it cannot do without, is wrong.
    Faulty,
    /// It says that it is not there.
    Null,
}

/// What the tries have taught so far.
#[derive(Default)]
pub(super) struct Run {
    aside: HashMap<Identity, Reason>,
    /// Fields, by the name of their struct, that have no null of their own, such as `None`.
    not_nullable: HashSet<(&'static str, String)>,
    /// Of long lists: the first element that is not known to be good.
    good_until: RefCell<HashMap<Identity, usize>>,
    /// In this try, something good was not looked at.
    pub(super) passed_over: Cell<bool>,
    /// From now on everything is looked at.
    is_whole: bool,
}

impl Run {
    pub(super) fn whole(&mut self) {
        self.is_whole = true;
        self.passed_over.set(false);
    }

    /// Sets aside what the error hangs on. False when that is all there is.
    pub(super) fn learn(&mut self, told: Told, path: &Path, faults: &mut Vec<Fault>) -> bool {
        match told.meaning {
            Meaning::Absent(structure, key) => {
                self.not_nullable.insert((structure, key));
                return true;
            }
            Meaning::Consequence => {}
            Meaning::Fault(mut fault) => {
                fault.path = Path(path.0.iter().cloned().chain(told.steps.into_iter().rev()).collect());
                faults.push(fault);
            }
        }
        let Some((node, reason)) = told.aside else { return false };
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

    /// Where in a list there may be something that is not known to be good.
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

    /// True when what is missed there was there, and set aside.
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
