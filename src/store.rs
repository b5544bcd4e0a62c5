//! Store: durable entities, revisions, records and tokens, behind one trait.
//!
//! A [`Commit`] is durable as a whole or not at all, and stands on an expected revision: of two writers that
//! commit on the same revision, the second gets a [`Error::Conflict`] and decides again. Answers that are
//! kept for repeated requests are opaque bytes here.

pub mod redb;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io;
use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::watch;

use crate::config::edit::{Edit, EntityChange, Files, Stored};

/// Number of revisions that are kept.
pub const KEPT_REVISIONS: u64 = 1000;

/// Maximum size of a page of [`Store::revision_heads`], in bytes of text.
pub const HEADS_PAGE: usize = 1 << 20;

/// Durable state of a control plane. All methods may block on disk or network.
pub trait Store: Debug + Send + Sync {
    /// Returns the id of the store: random, made at its birth, and the same in all its backups.
    fn id(&self) -> NonZeroU64;

    /// Loads the state from which a control plane starts.
    ///
    /// # Errors
    ///
    /// Fails if the store cannot be read.
    fn load(&self) -> Result<StoredState, Error>;

    /// Makes the commit durable as a whole or not at all. After it returned, the commit survives a crash.
    /// `expected` is the newest revision that the commit builds on.
    ///
    /// # Errors
    ///
    /// Fails with [`Error::Conflict`] if the newest revision is another one, or if the store cannot be
    /// written. A commit that was answered with an error never comes back, even if the disk holds some of it.
    fn commit(&self, expected: u64, commit: &Commit) -> Result<(), Error>;

    /// Returns the number of the newest revision; 0 before the first.
    fn revision(&self) -> u64;

    /// Watches the number of the newest revision. It changes with every commit, also of other writers.
    fn watch(&self) -> watch::Receiver<u64>;

    /// Returns the revisions of these numbers that are kept, the oldest first.
    ///
    /// # Errors
    ///
    /// Fails if the store cannot be read.
    fn revisions(&self, numbers: RangeInclusive<u64>) -> Result<Vec<Revision>, Error>;

    /// Returns what is kept of the revisions before this number, the newest first and without their edits, which
    /// may be large. A page has at most `count` of them and ends at [`HEADS_PAGE`] bytes, but never before the first.
    ///
    /// # Errors
    ///
    /// Fails if the store cannot be read.
    fn revision_heads(&self, before: u64, count: usize) -> Result<Vec<RevisionHead>, Error>;

    /// Returns the answer to the request with this idempotency key, if it was given within the last day.
    ///
    /// # Errors
    ///
    /// Fails if the store cannot be read.
    fn answer(&self, key: &str, now: Timestamp) -> Result<Option<KeptAnswer>, Error>;

    /// Returns all records: kind, key and value.
    ///
    /// # Errors
    ///
    /// Fails if the store cannot be read, or a record is damaged.
    fn records(&self) -> Result<Vec<(String, String, Value)>, Error>;

    /// Makes all of these records durable or none.
    ///
    /// # Errors
    ///
    /// Fails if the store cannot be written.
    fn put_records(&self, records: &[Record]) -> Result<(), Error>;

    /// Returns all tokens, by name.
    ///
    /// # Errors
    ///
    /// Fails if the store cannot be read.
    fn tokens(&self) -> Result<Vec<TokenRecord>, Error>;

    /// True if there is a token or ever was one, even if all were removed since.
    ///
    /// # Errors
    ///
    /// Fails if the store cannot be read.
    fn had_token(&self) -> Result<bool, Error>;

    /// Makes a token durable. `client` is the hash of the client's own token, which must still exist; none for a
    /// client without one.
    ///
    /// # Errors
    ///
    /// Fails if the store cannot be written.
    fn add_token(&self, token: &TokenRecord, client: Option<&[u8]>) -> Result<TokenAddition, Error>;

    /// Removes a token, if the terms permit it: they are checked in the transaction of the removal, so that of two
    /// removals at once the later one meets the outcome of the earlier one.
    ///
    /// # Errors
    ///
    /// Fails if the store cannot be written.
    fn remove_token(&self, name: &str, terms: RemovalTerms<'_>) -> Result<TokenRemoval, Error>;

    /// Writes a copy of the whole state, as of this moment, to a file that does not exist yet.
    ///
    /// # Errors
    ///
    /// Fails if the store cannot be read or the file cannot be written.
    fn backup(&self, to: &Path) -> Result<(), Error>;

    /// Checks that a change could be made durable, as far as that shows without one.
    ///
    /// # Errors
    ///
    /// Fails with the error that a change would get.
    fn health(&self) -> Result<(), Error>;

    /// Returns the commits that were acknowledged by an earlier process and that the store did not have when it
    /// was opened; none if none are known to be lost.
    fn lost(&self) -> Option<LostCommits>;
}

/// State from which a control plane starts.
#[derive(Debug, Default)]
pub struct StoredState {
    /// Entities written over REST.
    pub stored: Stored,
    /// Files that were accepted last; none before the first time.
    pub files: Option<Files>,
    /// Hash of files that an Envoy refused since, if one did.
    pub refused_files: Option<u64>,
    /// Number of the newest revision; 0 before the first.
    pub revision: u64,
    /// Rollout of accepted changes.
    pub rollout: StoredRollout,
}

/// Rollout of accepted changes as it was when it was stored: what a start must not bring to all Envoys at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredRollout {
    /// Revisions that were accepted and are not in effect yet.
    pub waiting: BTreeSet<u64>,
    /// Files that are in effect; none if they are those that were accepted last.
    pub live_files: Option<Files>,
    /// Fleets that had a connected Envoy; none if an earlier format did not keep them.
    pub fleets: Option<BTreeSet<String>>,
}

/// Change of the stored rollout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RolloutChange {
    /// Revisions that begin to wait.
    pub waiting: BTreeSet<u64>,
    /// Revisions that are in effect or were taken back.
    pub decided: BTreeSet<u64>,
    /// Files that are in effect, if they change.
    pub live_files: Option<LiveFiles>,
    /// Fleets that had a connected Envoy, if they change.
    pub fleets: Option<BTreeSet<String>>,
}

/// Files that are in effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LiveFiles {
    /// Files that were accepted last.
    Accepted,
    /// Files that were accepted before.
    Other(Files),
}

/// Commits that were acknowledged, and that the store does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostCommits {
    /// Number of lost commits, at least.
    pub commits: u64,
    /// Newest revision that was acknowledged.
    pub acknowledged: u64,
    /// Newest revision in the store.
    pub found: u64,
}

/// Set of changes that become durable together.
#[derive(Debug, Default)]
pub struct Commit {
    /// Changes of entities, in order.
    pub changes: Vec<EntityChange>,
    /// New revisions by number; the first one follows the expected revision.
    pub revisions: Vec<Revision>,
    /// Answers to keep, by idempotency key.
    pub answers: Vec<(String, KeptAnswer)>,
    /// Known revisions in their amended form.
    pub amended: Vec<Revision>,
    /// All files, if they differ from those before.
    pub files: Option<Files>,
    /// Hash of files that an Envoy refused, if it differs from the one before.
    pub refused_files: Option<u64>,
    /// Change of the rollout.
    pub rollout: RolloutChange,
}

/// Source of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevisionSource {
    /// Saved files.
    Files,
    /// Write over REST.
    Api,
    /// Write over REST that restored an earlier state.
    Rollback,
}

/// Accepted change.
#[derive(Debug, Clone, PartialEq)]
pub struct Revision {
    /// Number, from 1 without gaps.
    pub number: u64,
    /// Time of acceptance.
    pub time: Timestamp,
    /// Names of the files, or name of the client that wrote over REST.
    pub author: String,
    /// Reason given by the author.
    pub reason: Option<String>,
    /// Summary of the change in words.
    pub summary: String,
    /// Source of the change.
    pub source: RevisionSource,
    /// Changed entities, before and after.
    pub edits: Vec<Edit>,
    /// Error text of the canary that refused the change; none if the change was not taken back.
    pub error: Option<String>,
    /// Node ids of the Envoys that refused it: its canary, or others once it was in effect.
    pub refused_by: Vec<String>,
}

/// Accepted change without its edits.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the fields are those of `Revision`")]
pub struct RevisionHead {
    pub number: u64,
    pub time: Timestamp,
    pub author: String,
    pub reason: Option<String>,
    pub summary: String,
    pub source: RevisionSource,
    pub error: Option<String>,
    pub refused_by: Vec<String>,
}

/// Answer that is kept, so that a repeated request gets the same answer and changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAnswer {
    /// Time of the answer, in milliseconds precision.
    pub time: Timestamp,
    /// Hash of the request.
    pub request: u128,
    /// Revision that the request made; none if nothing had to change.
    pub revision: Option<u64>,
    /// Answer as its author encoded it: protobuf fields with numbers from 4.
    pub answer: Vec<u8>,
}

/// Record of a state beside the config, or of an event.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Kind of the record.
    pub kind: &'static str,
    /// Key, unique within the kind.
    pub key: String,
    /// Value; none to remove the record.
    pub value: Option<Value>,
}

/// Token of the admin API, without its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    /// Name of its owner.
    pub name: String,
    /// Role, as in the API.
    pub role: String,
    /// Time of creation.
    pub created: Timestamp,
    /// BLAKE3 hash of its text.
    pub hash: Vec<u8>,
}

/// Terms of the removal of a token. The default permits every removal.
#[derive(Debug, Clone, Copy, Default)]
pub struct RemovalTerms<'a> {
    /// Hash of the client's own token, which must still exist; none for a client without one.
    pub client: Option<&'a [u8]>,
    /// Role of which the last token is not removed.
    pub kept_role: Option<&'a str>,
}

/// Outcome of the addition of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenAddition {
    /// The token is durable.
    Added,
    /// Another token has the name.
    Taken,
    /// The client's own token was removed meanwhile.
    ClientRevoked,
}

/// Outcome of the removal of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenRemoval {
    /// The token is gone.
    Removed,
    /// No token has the name.
    Absent,
    /// The token is the last one of the role that is kept.
    Last,
    /// The client's own token was removed meanwhile.
    ClientRevoked,
}

/// Failure of a store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another writer committed first.
    #[error("the change stands on revision {expected}, and the newest one is {found}")]
    Conflict {
        /// Revision that the commit stands on.
        expected: u64,
        /// Newest revision.
        found: u64,
    },
    /// The directory does not exist and cannot be created.
    #[error("cannot create the data directory {}", path.display())]
    Directory {
        /// Data directory.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
    /// Another process holds the file.
    #[error("the data directory {} is in use by another understudy; stop that one or choose another --data", path.display())]
    InUse {
        /// Data directory.
        path: PathBuf,
    },
    /// A newer version wrote the file.
    #[error("the data directory {} has format {found}, and this understudy knows {known}: use a newer one", path.display())]
    Newer {
        /// Data directory.
        path: PathBuf,
        /// Format of the file.
        found: u64,
        /// Newest format that this version reads.
        known: u64,
    },
    /// The record was not written by this program.
    #[error("the record {key} in the data directory is damaged; restore a backup with `understudy restore`")]
    Damaged {
        /// Kind and key of the record.
        key: String,
    },
    /// The file is not a backup, or only a part of one.
    #[error("{} is no whole backup of understudy", path.display())]
    NoBackup {
        /// Backup file.
        path: PathBuf,
        /// Error of the database.
        #[source]
        source: DatabaseError,
    },
    /// The file is not a database, or only a part of one.
    #[error("the file {} is damaged; restore a backup with `understudy restore`, or choose another --data", path.display())]
    Corrupt {
        /// Database file.
        path: PathBuf,
        /// Error of the database.
        #[source]
        source: DatabaseError,
    },
    /// The database failed.
    #[error("the data directory {} cannot be used", path.display())]
    Database {
        /// Data directory.
        path: PathBuf,
        /// Error of the database.
        #[source]
        source: DatabaseError,
    },
    /// The database is not in the data directory any more, so changes of it would be lost.
    #[error(
        "the data directory {} was removed or replaced; put it back, or restore a backup and start understudy again",
        path.display()
    )]
    Gone {
        /// Data directory.
        path: PathBuf,
    },
    /// A restore would overwrite an existing state.
    #[error("the data directory {} holds a state already; say --force to replace it", path.display())]
    Occupied {
        /// Data directory.
        path: PathBuf,
    },
}

/// Error of any database.
pub type DatabaseError = Box<dyn std::error::Error + Send + Sync>;

impl Revision {
    /// Splits the revision into its head and its edits.
    pub fn split(self) -> (RevisionHead, Vec<Edit>) {
        let Self { number, time, author, reason, summary, source, edits, error, refused_by } = self;
        (RevisionHead { number, time, author, reason, summary, source, error, refused_by }, edits)
    }
}

impl RevisionHead {
    /// Returns the length of its texts in bytes, with a little for the rest.
    fn size(&self) -> usize {
        let Self { author, reason, summary, error, refused_by, .. } = self;
        let optional = [reason, error].into_iter().flatten().map(String::len).sum::<usize>();
        let nodes = refused_by.iter().map(String::len).sum::<usize>();
        64 + author.len() + summary.len() + optional + nodes
    }
}

impl RevisionSource {
    pub(crate) const ALL: [Self; 3] = [Self::Files, Self::Api, Self::Rollback];

    /// Returns its name in the API.
    pub fn word(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Api => "api",
            Self::Rollback => "rollback",
        }
    }
}
