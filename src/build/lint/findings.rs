//! Findings of rules by subject, kept for as long as the subject does not change.

use std::sync::Arc;

use imbl::OrdMap;

use crate::config::{Level, Violation};
use crate::memo::{self, Memo};

/// Findings of all rules in one subject.
pub(super) type Findings = Arc<Vec<Violation>>;

/// Findings in the subjects of one kind.
#[derive(Debug, Clone)]
pub(super) struct FindingsBySubject<K: Ord, S> {
    pub(super) memo: Memo<K, S, Findings>,
    /// Findings of the subjects that have at least one above level info.
    above_info: OrdMap<K, Findings>,
}

impl<K: Ord, S> Default for FindingsBySubject<K, S> {
    fn default() -> Self {
        Self { memo: Memo::default(), above_info: OrdMap::new() }
    }
}

impl<K: Ord + Clone, S: PartialEq + Clone> FindingsBySubject<K, S> {
    /// Replaces a subject and checks it if it changed; `None` removes it.
    pub(super) fn put(&mut self, key: K, subject: Option<S>, check: fn(&S) -> Findings) {
        if self.memo.put(key.clone(), subject, check) {
            let is_above_info =
                |findings: &&Findings| findings.iter().any(|violation| violation.level != Level::Info);
            let findings = self.memo.get(&key).filter(is_above_info).cloned();
            memo::put(&mut self.above_info, key, findings);
        }
    }

    /// Iterates over all findings.
    pub(super) fn all(&self) -> impl Iterator<Item = &Violation> {
        self.memo.outputs().values().flat_map(|findings| findings.iter())
    }

    /// Iterates over the findings of the subjects that have at least one above level info.
    pub(super) fn above_info(&self) -> impl Iterator<Item = &Violation> {
        self.above_info.values().flat_map(|findings| findings.iter())
    }
}
