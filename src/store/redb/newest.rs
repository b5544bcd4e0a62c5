//! Record of the newest commit, in a file beside the database.
//!
//! A database that lost its newest commits is whole: a disk that acknowledged what it did not write, or a file
//! that an older copy took the place of, look like a database of an hour ago. So the number of the newest
//! commit is written beside it too, after each commit and without waiting for the disk: the record may be
//! behind the database and is never ahead of it, unless something was lost.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use redb::{ReadTransaction, ReadableTable as _, WriteTransaction};
use tracing::warn;

use crate::store::LostCommits;
use crate::store::redb::directory::{FILE_MODE, NEWEST};
use crate::store::redb::tables::{COMMITS, FORMAT, REVISIONS};

/// Commit by its number, with the newest revision after it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct CommitNumber {
    pub(super) commits: u64,
    pub(super) revision: u64,
}

/// Open record. Failures to write it are reported once and change nothing else.
#[derive(Debug)]
pub(super) struct NewestRecord(Mutex<Option<(File, u64)>>);

impl CommitNumber {
    /// Reads the number of the newest commit from the database.
    pub(super) fn read(transaction: &ReadTransaction) -> Result<Self, redb::Error> {
        let commits = transaction.open_table(FORMAT)?.get(COMMITS)?.map_or(0, |number| number.value());
        let revisions = transaction.open_table(REVISIONS)?;
        Ok(Self { commits, revision: revisions.last()?.map_or(0, |(number, _)| number.value()) })
    }

    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split_whitespace().map(str::parse);
        let (Some(Ok(commits)), Some(Ok(revision))) = (numbers.next(), numbers.next()) else { return None };
        Some(Self { commits, revision })
    }
}

/// Counts a commit in its transaction, and returns its number.
pub(super) fn count(transaction: &WriteTransaction) -> Result<u64, redb::Error> {
    let mut format = transaction.open_table(FORMAT)?;
    let number = format.get(COMMITS)?.map_or(0, |number| number.value()) + 1;
    format.insert(COMMITS, number)?;
    Ok(number)
}

/// Returns the commits that the record in the directory knows and the database, whose newest one is `found`,
/// does not have.
pub(super) fn lost(directory: &Path, found: CommitNumber) -> Option<LostCommits> {
    let recorded = CommitNumber::parse(&std::fs::read_to_string(directory.join(NEWEST)).ok()?)?;
    let commits = recorded.commits.checked_sub(found.commits).filter(|commits| *commits > 0)?;
    Some(LostCommits { commits, acknowledged: recorded.revision, found: found.revision })
}

impl NewestRecord {
    /// Opens the record in the directory. Its content stays until the next commit, so that a loss is reported
    /// at every start until then.
    pub(super) fn open(directory: &Path) -> Self {
        let mut options = OpenOptions::new();
        let opened =
            options.write(true).create(true).truncate(false).mode(FILE_MODE).open(directory.join(NEWEST));
        match opened {
            Ok(file) => Self(Mutex::new(Some((file, 0)))),
            Err(error) => {
                warn_of(&error);
                Self(Mutex::new(None))
            }
        }
    }

    /// Records a commit that is durable. Of commits that end at once, the newest is recorded.
    pub(super) fn write(&self, CommitNumber { commits, revision }: CommitNumber) {
        let mut record = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((file, newest)) = record.as_mut() else { return };
        if *newest >= commits {
            return;
        }
        // All have one length, so that each takes the place of the one before.
        match file.write_all_at(format!("{commits:020} {revision:020}\n").as_bytes(), 0) {
            Ok(()) => *newest = commits,
            Err(error) => {
                warn_of(&error);
                *record = None;
            }
        }
    }
}

fn warn_of(error: &io::Error) {
    let error = error as &dyn std::error::Error;
    warn!(error, "the newest commit is not recorded beside the database; its loss would not be told");
}
