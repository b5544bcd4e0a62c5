//! Absences of config files: names that are missing or blank, which may be a moment of a change.
//!
//! An editor that deletes and writes, a copy that truncates first and a volume that is mounted anew all take a
//! file away for a moment. So a file that is absent counts as removed only when it has stayed away for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::config::edit::Files;

/// Time for which a file must be absent, without a break, until it counts as removed.
pub(super) const SETTLE: Duration = Duration::from_secs(5);

/// Files that are absent, with the time since which they are.
#[derive(Debug, Default)]
pub(super) struct Absences(BTreeMap<String, Instant>);

impl Absences {
    /// Records the files of `last` that are absent in `read` at this time. Returns true while one of them has
    /// been absent for less than [`SETTLE`].
    pub(super) fn are_recent(&mut self, last: &Files, read: &Files, now: Instant) -> bool {
        let absent = absent(last, read);
        self.0.retain(|name, _| absent.contains(name));
        for name in absent {
            self.0.entry(name.clone()).or_insert(now);
        }
        self.0.values().any(|since| now.duration_since(*since) < SETTLE)
    }

    /// Returns `read` with the texts that the absent files have in `last`.
    pub(super) fn filled(&self, last: &Files, read: Files) -> Files {
        let texts = self.0.keys().filter_map(|name| Some((name.clone(), last.get(name)?.clone())));
        texts.fold(read, |files, (name, text)| files.update(name, text))
    }
}

/// Returns the names of the files that have text in `last` and are missing or blank in `read`. A file whose
/// text is that of a new file was renamed.
fn absent<'f>(last: &'f Files, read: &Files) -> BTreeSet<&'f String> {
    let has_text = |text: &str| !text.trim().is_empty();
    let new = read.iter().filter(|(name, _)| !last.contains_key(*name));
    let new: BTreeSet<&str> = new.map(|(_, text)| &**text).collect();
    let is_absent = |name: &String| !read.get(name).is_some_and(|text| has_text(text));
    let gone = last.iter().filter(|(name, text)| has_text(text) && is_absent(name));
    gone.filter(|(_, text)| !new.contains(&***text)).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn files(files: &[(&str, &str)]) -> Files {
        files.iter().map(|(name, text)| ((*name).to_owned(), Arc::from(*text))).collect()
    }

    #[test]
    fn a_file_counts_as_removed_when_it_stays_away() {
        let last = files(&[("a", "x"), ("b", "y"), ("c", " \n")]);
        let start = Instant::now();
        let mut absences = Absences::default();
        // Seconds, the files that are read, and the outcome.
        for (second, read, expected) in [
            (0, files(&[("a", "x"), ("b", "y")]), false),
            (1, files(&[("a", "x")]), true),
            (3, files(&[("a", "x"), ("b", "\n")]), true),
            (5, files(&[("a", "x")]), true),
            (6, files(&[("a", "x")]), false),
            // Another one is gone too.
            (7, files(&[]), true),
            (12, files(&[]), false),
            // One that comes back and goes begins anew.
            (13, files(&[("b", "z")]), false),
            (14, files(&[]), true),
            (18, files(&[]), true),
            (19, files(&[]), false),
        ] {
            let now = start + Duration::from_secs(second);
            assert_eq!(absences.are_recent(&last, &read, now), expected, "{second} s");
        }
    }

    #[test]
    fn a_renamed_file_is_not_absent() {
        let last = files(&[("a", "x"), ("b", "y")]);
        let mut absences = Absences::default();
        let now = Instant::now();
        assert!(!absences.are_recent(&last, &files(&[("c", "x"), ("b", "y")]), now));
        assert!(absences.are_recent(&last, &files(&[("b", "x")]), now), "the text of another one that stays");
    }

    #[test]
    fn absent_files_keep_their_texts() {
        let last = files(&[("a", "x"), ("b", "y"), ("c", "z")]);
        let read = files(&[("b", ""), ("c", "new")]);
        let mut absences = Absences::default();
        assert!(absences.are_recent(&last, &read, Instant::now()));
        assert_eq!(absences.filled(&last, read), files(&[("a", "x"), ("b", "y"), ("c", "new")]));
    }
}
