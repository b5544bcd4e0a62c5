//! Clients that report load in the name of nodes without a discovery stream. Their reports do not count.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

/// Client that reports load in the name of a node without a discovery stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownReporter {
    /// Node id that it states.
    pub node: String,
    /// Remote address of the connection, if known.
    pub address: Option<SocketAddr>,
    /// Time since which it is known not to have a discovery stream.
    pub since: Timestamp,
    /// Number of reports that did not count.
    pub reports: u64,
}

/// Unknown reporters that are connected. Cheap to clone: clones share.
#[derive(Debug, Clone, Default)]
pub struct UnknownReporters {
    list: Arc<Mutex<ReporterList>>,
}

#[derive(Debug, Default)]
struct ReporterList {
    last: u64,
    by_number: BTreeMap<u64, UnknownReporter>,
}

/// Guard of an unknown reporter, which is listed until it is dropped.
#[derive(Debug)]
pub struct UnknownReporterGuard {
    reporters: UnknownReporters,
    number: u64,
}

impl UnknownReporters {
    /// Adds a reporter.
    pub fn add(&self, node: &str, address: Option<SocketAddr>) -> UnknownReporterGuard {
        let reporter =
            UnknownReporter { node: node.to_owned(), address, since: Timestamp::now(), reports: 0 };
        let mut list = self.lock();
        list.last += 1;
        let number = list.last;
        list.by_number.insert(number, reporter);
        UnknownReporterGuard { reporters: self.clone(), number }
    }

    /// Lists the reporters, oldest first.
    pub fn list(&self) -> Vec<UnknownReporter> {
        self.lock().by_number.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, ReporterList> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnknownReporterGuard {
    /// Counts a report.
    pub fn report(&self) {
        if let Some(reporter) = self.reporters.lock().by_number.get_mut(&self.number) {
            reporter.reports += 1;
        }
    }
}

impl Drop for UnknownReporterGuard {
    fn drop(&mut self) {
        self.reporters.lock().by_number.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reporters_are_listed_while_they_are_there() {
        let reporters = UnknownReporters::default();
        let (first, second) = (reporters.add("a", None), reporters.add("b", None));
        first.report();
        let listed =
            || reporters.list().iter().map(|it| format!("{} {}", it.node, it.reports)).collect::<Vec<_>>();
        assert_eq!(listed(), ["a 1", "b 0"]);
        drop(first);
        assert_eq!(listed(), ["b 0"]);
        drop(second);
        assert!(reporters.list().is_empty());
    }
}
