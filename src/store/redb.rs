//! Store in an embedded database: one file in the data directory.

mod backup;
mod commit;
mod directory;
mod encoding;
mod file;
mod identity;
mod newest;
mod presence;
pub mod restore;
mod rollout;
mod tables;
mod texts;
mod tokens;

use std::fs::File;
use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, WriteTransaction};
use serde_json::Value;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::config::document::Kind;
use crate::config::edit::Files;
use crate::store::redb::directory::{close_to_others, create_directory, lock_directory};
use crate::store::redb::newest::{CommitNumber, NewestRecord};
use crate::store::redb::presence::PresenceCheck;
use crate::store::redb::tables::{
    ANSWERS, ENTITIES, FILES, FORMAT, RECORDS, REFUSED_FILES, REVISIONS, TOKENS,
};
use crate::store::{
    Commit, Error, HEADS_PAGE, KeptAnswer, LostCommits, Record, RemovalTerms, Revision, RevisionHead, Store,
    StoredState, TokenAddition, TokenRecord, TokenRemoval,
};

/// Interval at which expired answers are removed.
const SWEEP: SignedDuration = SignedDuration::from_mins(10);

/// Embedded database.
#[derive(Debug)]
pub struct RedbStore {
    /// None after a failure: its content is known only after it was opened again.
    database: Mutex<Option<Arc<Database>>>,
    path: PathBuf,
    presence: PresenceCheck,
    id: NonZeroU64,
    newest: NewestRecord,
    lost: Option<LostCommits>,
    /// Number of the last revision that was committed.
    revision: watch::Sender<u64>,
    /// Time of the last removal of expired answers; locked during a commit.
    swept: Mutex<Timestamp>,
    /// Lock of the data directory, held while the store is open.
    _lock: File,
}

impl RedbStore {
    /// Opens the database in `directory`, or creates both. Other users lose their access to them.
    ///
    /// # Errors
    ///
    /// Fails if the directory cannot be used, is in use, is damaged, or was written by a newer version.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let path = directory.to_owned();
        create_directory(&path)?;
        let lock = lock_directory(&path)?;
        close_to_others(&path);
        file::create_if_missing(&path)?;
        let database = shrunk(&path, file::open(&path)?)?;
        let id = identity::of(&database)
            .map_err(|source| Error::Database { path: path.clone(), source: Box::new(source) })?;
        let presence = PresenceCheck::new(&path)?;
        let mut store = Self {
            database: Mutex::new(Some(Arc::new(database))),
            newest: NewestRecord::open(&path),
            path,
            presence,
            id,
            lost: None,
            revision: watch::Sender::new(0),
            swept: Mutex::new(Timestamp::UNIX_EPOCH),
            _lock: lock,
        };
        let found = store.reading(CommitNumber::read)?;
        store.lost = newest::lost(&store.path, found);
        store.revision.send_replace(found.revision);
        Ok(store)
    }

    /// Returns the database, opened again if it failed before.
    fn database(&self) -> Result<Arc<Database>, Error> {
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(database) = &*database {
            return Ok(database.clone());
        }
        // Another database in its place is not this store.
        self.presence.check()?;
        let opened = Arc::new(file::open(&self.path)?);
        *database = Some(opened.clone());
        Ok(opened)
    }

    fn error(&self, source: redb::Error) -> Error {
        Error::Database { path: self.path.clone(), source: Box::new(source) }
    }

    /// Handles a failed write: after an error of the disk, the database must be opened again.
    fn close(&self) {
        *self.database.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn reading<T>(&self, read: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>) -> Result<T, Error> {
        let database = self.database()?;
        let outcome =
            database.begin_read().map_err(redb::Error::from).and_then(|transaction| read(&transaction));
        outcome.map_err(|source| self.error(source))
    }

    /// Runs a transaction beside those of [`Store::commit`].
    fn writing<T>(
        &self,
        write: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, Error> {
        let (written, commits) = self.changing(|database| {
            let transaction = database.begin_write()?;
            let written = write(&transaction)?;
            let commits = newest::count(&transaction)?;
            transaction.commit()?;
            Ok((written, commits))
        })?;
        self.newest.write(CommitNumber { commits, revision: self.revision() });
        Ok(written)
    }

    /// Changes the database. Its file must be in place before the change, and also after it: a file that was
    /// removed meanwhile takes the change with it.
    fn changing<T>(&self, change: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, Error> {
        self.presence.check()?;
        let database = self.database()?;
        let changed = change(&database).map_err(|source| {
            self.close();
            self.error(source)
        })?;
        self.presence.check()?;
        Ok(changed)
    }
}

impl Store for RedbStore {
    fn id(&self) -> NonZeroU64 {
        self.id
    }

    fn load(&self) -> Result<StoredState, Error> {
        // Between two commits, so that the entities are those of the revision.
        let _committing = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        let (entities, files, refused_files, rollout) = self.reading(|transaction| {
            let mut entities = Vec::new();
            for entry in transaction.open_table(ENTITIES)?.iter()? {
                let (key, record) = entry?;
                let (kind, name) = key.value();
                entities.push((kind.to_owned(), name.to_owned(), record.value().to_owned()));
            }
            let mut files = Files::new();
            for entry in transaction.open_table(FILES)?.iter()? {
                let (name, text) = entry?;
                files.insert(name.value().to_owned(), text.value().into());
            }
            let refused = transaction.open_table(FORMAT)?.get(REFUSED_FILES)?.map(|hash| hash.value());
            Ok((entities, files, refused, rollout::read(transaction, self.revision())?))
        })?;
        let entity = |(word, name, bytes): (String, String, Vec<u8>)| {
            let read = Kind::from_plural(&word).zip(encoding::read_entity(&bytes));
            let damaged = || Error::Damaged { key: format!("{word}/{name}") };
            read.map(|(kind, body)| ((kind, name.clone()), body)).ok_or_else(damaged)
        };
        Ok(StoredState {
            stored: entities.into_iter().map(entity).collect::<Result<_, _>>()?,
            files: Some(files).filter(|files| !files.is_empty()),
            refused_files,
            revision: self.revision(),
            rollout,
        })
    }

    fn commit(&self, expected: u64, commit: &Commit) -> Result<(), Error> {
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = self.revision();
        if found != expected {
            return Err(Error::Conflict { expected, found });
        }
        let now = Timestamp::now();
        let sweeps = !commit.answers.is_empty() && now.duration_since(*swept) >= SWEEP;
        let commits = self.changing(|database| commit::write(database, commit, expected, sweeps))?;
        if sweeps {
            *swept = now;
        }
        let revision = commit.revisions.last().map_or(expected, |revision| revision.number);
        self.newest.write(CommitNumber { commits, revision });
        self.revision.send_replace(revision);
        Ok(())
    }

    fn revision(&self) -> u64 {
        *self.revision.borrow()
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    fn revisions(&self, numbers: RangeInclusive<u64>) -> Result<Vec<Revision>, Error> {
        let numbers = *numbers.start()..=(*numbers.end()).min(self.revision());
        if numbers.is_empty() {
            return Ok(Vec::new());
        }
        let records = self.reading(|transaction| {
            let mut records = Vec::new();
            for entry in transaction.open_table(REVISIONS)?.range(numbers.clone())? {
                let (number, record) = entry?;
                records.push((number.value(), record.value().to_owned()));
            }
            Ok(records)
        })?;
        let read = |(number, bytes): (u64, Vec<u8>)| {
            encoding::read_revision(number, &bytes)
                .ok_or_else(|| Error::Damaged { key: format!("revisions/{number}") })
        };
        records.into_iter().map(read).collect()
    }

    fn revision_heads(&self, before: u64, count: usize) -> Result<Vec<RevisionHead>, Error> {
        let before = before.min(self.revision() + 1);
        let heads = self.reading(|transaction| {
            let (mut heads, mut size) = (Vec::new(), 0);
            for entry in transaction.open_table(REVISIONS)?.range(..before)?.rev().take(count) {
                let (number, record) = entry?;
                let head = encoding::read_revision_head(number.value(), record.value());
                size += head.as_ref().map_or(0, RevisionHead::size);
                if size > HEADS_PAGE && !heads.is_empty() {
                    break;
                }
                heads.push(head.ok_or(number.value()));
            }
            Ok(heads)
        })?;
        let damaged = |number| Error::Damaged { key: format!("revisions/{number}") };
        heads.into_iter().map(|head| head.map_err(damaged)).collect()
    }

    fn answer(&self, key: &str, now: Timestamp) -> Result<Option<KeptAnswer>, Error> {
        let last = self.revision();
        let bytes = self.reading(|transaction| {
            let answers = transaction.open_table(ANSWERS)?;
            Ok(answers.get(key)?.map(|record| record.value().to_owned()))
        })?;
        let answer = bytes.map(|bytes| {
            encoding::read_answer(&bytes).ok_or_else(|| Error::Damaged { key: format!("answers/{key}") })
        });
        let is_valid =
            |answer: &KeptAnswer| commit::is_kept(answer, now) && answer.revision.unwrap_or_default() <= last;
        Ok(answer.transpose()?.filter(is_valid))
    }

    fn records(&self) -> Result<Vec<(String, String, Value)>, Error> {
        let records = self.reading(|transaction| {
            let mut records = Vec::new();
            for entry in transaction.open_table(RECORDS)?.iter()? {
                let (key, record) = entry?;
                let (kind, key) = key.value();
                records.push((kind.to_owned(), key.to_owned(), record.value().to_owned()));
            }
            Ok(records)
        })?;
        let read = |(kind, key, record): (String, String, String)| {
            let damaged = |_| Error::Damaged { key: format!("{kind}/{key}") };
            let value = serde_json::from_str(&record).map_err(damaged)?;
            Ok((kind, key, value))
        };
        records.into_iter().map(read).collect()
    }

    fn put_records(&self, records: &[Record]) -> Result<(), Error> {
        if records.is_empty() {
            return Ok(());
        }
        self.writing(|transaction| {
            let mut table = transaction.open_table(RECORDS)?;
            for Record { kind, key, value } in records {
                match value {
                    Some(value) => drop(table.insert((*kind, key.as_str()), value.to_string().as_str())?),
                    None => drop(table.remove((*kind, key.as_str()))?),
                }
            }
            Ok(())
        })
    }

    fn tokens(&self) -> Result<Vec<TokenRecord>, Error> {
        let records = self.reading(|transaction| {
            let mut records = Vec::new();
            for entry in transaction.open_table(TOKENS)?.iter()? {
                let (name, record) = entry?;
                records.push((name.value().to_owned(), record.value().to_owned()));
            }
            Ok(records)
        })?;
        let read = |(name, bytes): (String, Vec<u8>)| {
            encoding::read_token(&name, &bytes)
                .ok_or_else(|| Error::Damaged { key: format!("tokens/{name}") })
        };
        records.into_iter().map(read).collect()
    }

    fn had_token(&self) -> Result<bool, Error> {
        self.reading(tokens::had)
    }

    fn add_token(&self, token: &TokenRecord, client: Option<&[u8]>) -> Result<TokenAddition, Error> {
        self.writing(|transaction| tokens::add(transaction, token, client))
    }

    fn remove_token(&self, name: &str, terms: RemovalTerms<'_>) -> Result<TokenRemoval, Error> {
        self.writing(|transaction| tokens::remove(transaction, name, terms))
    }

    fn backup(&self, to: &Path) -> Result<(), Error> {
        let failed = |source| Error::Database { path: to.to_owned(), source: Box::new(source) };
        backup::copy(&*self.database()?, to).map_err(failed)
    }

    fn health(&self) -> Result<(), Error> {
        self.presence.check()
    }

    fn lost(&self) -> Option<LostCommits> {
        self.lost
    }
}

/// Returns the database of the directory, smaller if most of it was free. A failure changes nothing: the
/// database is opened again as it was.
fn shrunk(directory: &Path, mut database: Database) -> Result<Database, Error> {
    match file::shrink(&mut database, directory) {
        Ok(false) => Ok(database),
        Ok(true) => {
            info!(path = %directory.display(), "the database was more than half empty; it is smaller now");
            Ok(database)
        }
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            warn!(path = %directory.display(), error, "the database cannot be made smaller");
            drop(database);
            file::open(directory)
        }
    }
}

#[cfg(test)]
mod tests;
