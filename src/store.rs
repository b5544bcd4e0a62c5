//! Durable state: what was written over REST, every accepted change, and the files that were accepted last.
//!
//! One embedded database file. What belongs together is one transaction, on disk before anybody is answered:
//! entities, revisions and the answers to requests that may be repeated.

pub mod records;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata, Table,
    TableDefinition, TableError, WriteTransaction,
};
use serde_json::Value;

use crate::access::tokens::Token;
use crate::config::document::Kind;
use crate::config::edit::{EntityChange, Files, Stored};
use crate::store::records::{Kept, Revision};

/// How many bytes of the database are kept in memory. What is read often is in memory in another form.
const CACHE: usize = 4 << 20;

/// Entities by kind (as in the API's path) and name.
const ENTITIES: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("entities");
/// Accepted changes by number.
const REVISIONS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("revisions");
/// What requests were answered, by their idempotency key.
const ANSWERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("answers");
/// The texts of the files that were accepted last, by name.
const FILES: TableDefinition<'_, &str, &str> = TableDefinition::new("files");
/// What is in force beside the config, and what happened: JSON by kind and key.
const JOTTINGS: TableDefinition<'_, (&str, &str), &str> = TableDefinition::new("jottings");
/// Who may use the admin API, by name.
const TOKENS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("tokens");
/// What this program must know before it reads anything else.
const FORMAT: TableDefinition<'_, &str, u64> = TableDefinition::new("format");
/// 1 had entities only, 2 no jottings, 3 no tokens.
const VERSION: u64 = 4;
/// Beside the version: the hash of files that an Envoy refused.
const REFUSED_FILES: &str = "refused_files";

const FILE: &str = "understudy.redb";

/// How many revisions are kept.
pub const KEPT_REVISIONS: u64 = 1000;
/// For how long a repeated request is answered as the first time.
const KEPT_ANSWERS: SignedDuration = SignedDuration::from_hours(24);
/// How often it is looked for answers that are too old.
const SWEEP: SignedDuration = SignedDuration::from_mins(10);

/// What becomes durable at once, or not at all.
#[derive(Debug, Default)]
pub struct Commit {
    /// In the order in which they apply.
    pub changes: Vec<EntityChange>,
    /// By number, the first one more than the last that was committed.
    pub revisions: Vec<Revision>,
    /// By idempotency key.
    pub answers: Vec<(String, Kept)>,
    /// Revisions that are known already, as they stand now.
    pub amended: Vec<Revision>,
    /// The files, if they are others than before.
    pub files: Option<Files>,
    /// The hash of files that an Envoy refused, if they are others than before.
    pub refused_files: Option<u64>,
}

/// A record of what is in force beside the config, or of what happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// What it is.
    pub kind: &'static str,
    /// Unique within the kind.
    pub key: String,
    /// None when it is to go.
    pub value: Option<Value>,
}

/// Everything that a start goes on from.
#[derive(Debug, Default)]
pub struct State {
    /// What was written over REST.
    pub stored: Stored,
    /// The files that were accepted last; none before the first time.
    pub files: Option<Files>,
    /// The hash of files that an Envoy refused since, if one did.
    pub refused_files: Option<u64>,
    /// The number of the last revision; 0 before the first.
    pub revision: u64,
}

/// Why the store cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory is missing and cannot be made.
    #[error("cannot create the data directory {}", path.display())]
    Directory {
        /// As the operator named it.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another process holds the file.
    #[error("the data directory {} is in use by another understudy; stop that one or choose another --data", path.display())]
    InUse {
        /// As the operator named it.
        path: PathBuf,
    },
    /// The file was written by a newer version.
    #[error("the data directory {} has format {found}, and this understudy knows {VERSION}: use a newer one", path.display())]
    Newer {
        /// As the operator named it.
        path: PathBuf,
        /// What the file says.
        found: u64,
    },
    /// A record that this program did not write.
    #[error("the record {key} in the data directory is damaged; restore a backup with `understudy restore`")]
    Damaged {
        /// Kind and name.
        key: String,
    },
    /// The file is no backup, or a part of one.
    #[error("{} is no whole backup of understudy", path.display())]
    NoBackup {
        /// The file.
        path: PathBuf,
        /// What the database said.
        #[source]
        source: Box<redb::Error>,
    },
    /// The file is no database, or a part of one.
    #[error("the file {} is damaged; restore a backup with `understudy restore`, or choose another --data", path.display())]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What the database said.
        #[source]
        source: Box<redb::Error>,
    },
    /// The database failed.
    #[error("the data directory {} cannot be used", path.display())]
    Database {
        /// As the operator named it.
        path: PathBuf,
        /// What the database said.
        #[source]
        source: Box<redb::Error>,
    },
    /// A restore would overwrite what is there.
    #[error("the data directory {} holds a state already; say --force to replace it", path.display())]
    Occupied {
        /// As the operator named it.
        path: PathBuf,
    },
}

/// The embedded database.
#[derive(Debug)]
pub struct Store {
    /// None after it failed: what it holds is then known only once it was opened again.
    database: Mutex<Option<Arc<Database>>>,
    path: PathBuf,
    /// The last revision that was committed, as this process knows it.
    revision: AtomicU64,
    swept: Mutex<Timestamp>,
}

impl Store {
    /// Opens the database in `directory`, or makes both.
    ///
    /// # Errors
    ///
    /// When the directory cannot be used, is in use, is damaged, or was written by a newer version.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let path = directory.to_owned();
        fs::create_dir_all(&path).map_err(|source| Error::Directory { path: path.clone(), source })?;
        let database = open(&path, &path.join(FILE))?;
        let store = Self {
            database: Mutex::new(Some(Arc::new(database))),
            path,
            revision: AtomicU64::new(0),
            swept: Mutex::new(Timestamp::UNIX_EPOCH),
        };
        store.revision.store(store.last_revision()?, Ordering::Relaxed);
        Ok(store)
    }

    /// Everything that a start goes on from.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub fn load(&self) -> Result<State, Error> {
        let (entities, files, refused_files) = self.reading(|transaction| {
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
            Ok((entities, files, refused))
        })?;
        let entity = |(word, name, bytes): (String, String, Vec<u8>)| {
            let read = Kind::from_plural(&word).zip(records::read_entity(&bytes));
            let damaged = || Error::Damaged { key: format!("{word}/{name}") };
            read.map(|(kind, body)| ((kind, name.clone()), body)).ok_or_else(damaged)
        };
        Ok(State {
            stored: entities.into_iter().map(entity).collect::<Result<_, _>>()?,
            files: Some(files).filter(|files| !files.is_empty()),
            refused_files,
            revision: self.revision.load(Ordering::Relaxed),
        })
    }

    /// Makes all of this durable or nothing. When this returns it survives a crash.
    ///
    /// # Errors
    ///
    /// When the database cannot be written. Should the disk hold some of it all the same, the next commit
    /// removes that first: what was answered with an error never comes back.
    pub fn commit(&self, commit: &Commit) -> Result<(), Error> {
        let before = self.revision.load(Ordering::Relaxed);
        let outcome = self
            .database()
            .and_then(|database| self.write(&database, commit, before).map_err(|source| self.failed(source)));
        match outcome {
            Ok(()) => {
                let last = commit.revisions.last().map_or(before, |revision| revision.number);
                self.revision.store(last, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                // After an error of the disk the database wants to be opened again.
                *self.database.lock().unwrap_or_else(PoisonError::into_inner) = None;
                Err(error)
            }
        }
    }

    /// What was answered to the request with this idempotency key, within the last day.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub fn kept(&self, key: &str, now: Timestamp) -> Result<Option<Kept>, Error> {
        let last = self.revision.load(Ordering::Relaxed);
        let bytes = self.reading(|transaction| {
            let answers = transaction.open_table(ANSWERS)?;
            Ok(answers.get(key)?.map(|record| record.value().to_owned()))
        })?;
        let kept = bytes.map(|bytes| {
            records::read_kept(&bytes).ok_or_else(|| Error::Damaged { key: format!("answers/{key}") })
        });
        let is_valid = |kept: &Kept| {
            now.duration_since(kept.time) < KEPT_ANSWERS && kept.answer.revision.unwrap_or_default() <= last
        };
        Ok(kept.transpose()?.filter(is_valid))
    }

    /// Every jotting: its kind, its key and its value.
    ///
    /// # Errors
    ///
    /// When the database cannot be read, or a record is damaged.
    pub fn records(&self) -> Result<Vec<(String, String, Value)>, Error> {
        let records = self.reading(|transaction| {
            let mut records = Vec::new();
            for entry in transaction.open_table(JOTTINGS)?.iter()? {
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

    /// Makes all of these durable or none.
    ///
    /// # Errors
    ///
    /// When the database cannot be written.
    pub fn put_records(&self, records: &[Record]) -> Result<(), Error> {
        if records.is_empty() {
            return Ok(());
        }
        let write = |database: &Database| -> Result<(), redb::Error> {
            let transaction = database.begin_write()?;
            {
                let mut table = transaction.open_table(JOTTINGS)?;
                for Record { kind, key, value } in records {
                    match value {
                        Some(value) => drop(table.insert((*kind, key.as_str()), value.to_string().as_str())?),
                        None => drop(table.remove((*kind, key.as_str()))?),
                    }
                }
            }
            transaction.commit()?;
            Ok(())
        };
        let database = self.database()?;
        write(&database).map_err(|source| {
            // After an error of the disk the database wants to be opened again.
            *self.database.lock().unwrap_or_else(PoisonError::into_inner) = None;
            self.failed(source)
        })
    }

    /// The revisions of these numbers that are kept, the oldest first.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub fn revisions(&self, numbers: std::ops::RangeInclusive<u64>) -> Result<Vec<Revision>, Error> {
        let last = self.revision.load(Ordering::Acquire);
        let numbers = *numbers.start()..=(*numbers.end()).min(last);
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
            records::read_revision(number, &bytes)
                .ok_or_else(|| Error::Damaged { key: format!("revisions/{number}") })
        };
        records.into_iter().map(read).collect()
    }

    /// All tokens, by name.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub fn tokens(&self) -> Result<Vec<Token>, Error> {
        let records = self.reading(|transaction| {
            let mut records = Vec::new();
            for entry in transaction.open_table(TOKENS)?.iter()? {
                let (name, record) = entry?;
                records.push((name.value().to_owned(), record.value().to_owned()));
            }
            Ok(records)
        })?;
        let read = |(name, bytes): (String, Vec<u8>)| {
            records::read_token(&name, &bytes).ok_or_else(|| Error::Damaged { key: format!("tokens/{name}") })
        };
        records.into_iter().map(read).collect()
    }

    /// Makes a token durable. False when there is one of its name.
    ///
    /// # Errors
    ///
    /// When the database cannot be written.
    pub fn add_token(&self, token: &Token) -> Result<bool, Error> {
        self.writing(|transaction| {
            let mut tokens = transaction.open_table(TOKENS)?;
            if tokens.get(token.name.as_str())?.is_some() {
                return Ok(false);
            }
            tokens.insert(token.name.as_str(), records::token(token).as_slice())?;
            Ok(true)
        })
    }

    /// Forgets a token. False when there is none of this name.
    ///
    /// # Errors
    ///
    /// When the database cannot be written.
    pub fn remove_token(&self, name: &str) -> Result<bool, Error> {
        self.writing(|transaction| Ok(transaction.open_table(TOKENS)?.remove(name)?.is_some()))
    }

    /// A transaction beside those of [`Self::commit`].
    fn writing<T>(
        &self,
        write: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, Error> {
        let database = self.database()?;
        let outcome = || {
            let transaction = database.begin_write()?;
            let written = write(&transaction)?;
            transaction.commit()?;
            Ok(written)
        };
        outcome().map_err(|source| {
            *self.database.lock().unwrap_or_else(PoisonError::into_inner) = None;
            self.failed(source)
        })
    }

    /// The number of the last revision; 0 before the first.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Writes a copy of everything, as it is at this moment, to a file that does not exist yet.
    ///
    /// # Errors
    ///
    /// When the database cannot be read or the file not be written.
    pub fn backup(&self, to: &Path) -> Result<(), Error> {
        let database = self.database()?;
        let copy = || -> Result<(), redb::Error> {
            let from = database.begin_read()?;
            let copy = Database::create(to)?;
            let into = copy.begin_write()?;
            copied(&from.open_table(FORMAT)?, &mut into.open_table(FORMAT)?)?;
            copied(&from.open_table(ENTITIES)?, &mut into.open_table(ENTITIES)?)?;
            copied(&from.open_table(REVISIONS)?, &mut into.open_table(REVISIONS)?)?;
            copied(&from.open_table(ANSWERS)?, &mut into.open_table(ANSWERS)?)?;
            copied(&from.open_table(FILES)?, &mut into.open_table(FILES)?)?;
            copied(&from.open_table(JOTTINGS)?, &mut into.open_table(JOTTINGS)?)?;
            copied(&from.open_table(TOKENS)?, &mut into.open_table(TOKENS)?)?;
            into.commit()?;
            Ok(())
        };
        copy().map_err(|source| Error::Database { path: to.to_owned(), source: Box::new(source) })
    }

    /// Puts a backup in the place of what `directory` holds. The backup is read to its end before anything is
    /// touched, and takes its place at once.
    ///
    /// # Errors
    ///
    /// When the backup cannot be used, the directory is in use, or it holds a state and `force` is not said.
    pub fn restore(backup: &Path, directory: &Path, force: bool) -> Result<State, Error> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| Error::Database { path, source: Box::new(redb::Error::Io(source)) }
        };
        fs::create_dir_all(directory)
            .map_err(|source| Error::Directory { path: directory.to_owned(), source })?;
        let place = directory.join(FILE);
        if place.exists() && !force {
            return Err(Error::Occupied { path: directory.to_owned() });
        }
        // Held until the new one is in its place, so that nobody serves the old one meanwhile.
        let occupied = match Database::open(&place) {
            Err(redb::DatabaseError::DatabaseAlreadyOpen) => {
                return Err(Error::InUse { path: directory.to_owned() });
            }
            // What cannot be opened may be replaced: that is what backups are for.
            other => other.ok(),
        };
        let staged = directory.join("restoring");
        let put = || {
            let state = stage(backup, &staged)?;
            fs::rename(staged.join(FILE), &place).map_err(failed(&place))?;
            let synced = fs::File::open(directory).and_then(|directory| directory.sync_all());
            synced.map_err(failed(directory)).map(|()| state)
        };
        let outcome = put();
        drop(occupied);
        let _ = fs::remove_dir_all(&staged);
        outcome
    }

    fn failed(&self, source: redb::Error) -> Error {
        Error::Database { path: self.path.clone(), source: Box::new(source) }
    }

    /// The database, opened again if it failed before.
    fn database(&self) -> Result<Arc<Database>, Error> {
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(database) = &*database {
            return Ok(database.clone());
        }
        let opened = Arc::new(open(&self.path, &self.path.join(FILE))?);
        *database = Some(opened.clone());
        Ok(opened)
    }

    fn reading<T>(&self, read: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>) -> Result<T, Error> {
        let database = self.database()?;
        let outcome =
            database.begin_read().map_err(redb::Error::from).and_then(|transaction| read(&transaction));
        outcome.map_err(|source| self.failed(source))
    }

    fn last_revision(&self) -> Result<u64, Error> {
        self.reading(|transaction| {
            let revisions = transaction.open_table(REVISIONS)?;
            Ok(revisions.last()?.map_or(0, |(number, _)| number.value()))
        })
    }

    fn write(&self, database: &Database, commit: &Commit, before: u64) -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        undo_after(&transaction, before)?;
        {
            let mut entities = transaction.open_table(ENTITIES)?;
            for change in &commit.changes {
                apply(&mut entities, change)?;
            }
            let mut revisions = transaction.open_table(REVISIONS)?;
            for revision in commit.amended.iter().chain(&commit.revisions) {
                revisions.insert(revision.number, records::revision(revision).as_slice())?;
            }
            while revisions.len()? > KEPT_REVISIONS {
                revisions.pop_first()?;
            }
            let mut answers = transaction.open_table(ANSWERS)?;
            for (key, kept) in &commit.answers {
                answers.insert(key.as_str(), records::kept(kept).as_slice())?;
            }
            if !commit.answers.is_empty() {
                self.sweep(&mut answers)?;
            }
            if let Some(files) = &commit.files {
                let mut known = transaction.open_table(FILES)?;
                known.retain(|name, _| files.contains_key(name))?;
                for (name, text) in files {
                    let is_known = known.get(name.as_str())?.is_some_and(|known| known.value() == &**text);
                    if !is_known {
                        known.insert(name.as_str(), &**text)?;
                    }
                }
            }
            let mut format = transaction.open_table(FORMAT)?;
            match commit.refused_files {
                Some(hash) => drop(format.insert(REFUSED_FILES, hash)?),
                None if commit.files.is_some() => drop(format.remove(REFUSED_FILES)?),
                None => {}
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Forgets answers that are too old, now and then.
    fn sweep(&self, answers: &mut Table<'_, &str, &[u8]>) -> Result<(), redb::Error> {
        let now = Timestamp::now();
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(*swept) < SWEEP {
            return Ok(());
        }
        *swept = now;
        let is_young = |kept: Kept| now.duration_since(kept.time) < KEPT_ANSWERS;
        answers.retain(|_, record| records::read_kept(record).is_some_and(is_young))?;
        Ok(())
    }
}

fn open(directory: &Path, file: &Path) -> Result<Database, Error> {
    let path = directory.to_owned();
    // The database makes nothing of a file that is empty, as a full disk may have left it.
    let opened = Database::builder().set_cache_size(CACHE).create(file).map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => Error::InUse { path: path.clone() },
        error => broken(&path, file, error.into()),
    })?;
    match prepare(&opened).map_err(|error| broken(&path, file, error))? {
        found if found > VERSION => Err(Error::Newer { path, found }),
        _ => Ok(opened),
    }
}

/// Copies a backup into a directory of its own and reads it to its end.
fn stage(backup: &Path, directory: &Path) -> Result<State, Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| Error::Database { path, source: Box::new(redb::Error::Io(source)) }
    };
    let _ = fs::remove_dir_all(directory);
    fs::create_dir_all(directory).map_err(failed(directory))?;
    fs::copy(backup, directory.join(FILE)).map_err(failed(backup))?;
    let store = Store::open(directory).map_err(|error| match error {
        Error::Corrupt { source, .. } => Error::NoBackup { path: backup.to_owned(), source },
        error => error,
    })?;
    let state = store.load()?;
    store.revisions(1..=u64::MAX)?;
    drop(store);
    let file = fs::File::open(directory.join(FILE));
    file.and_then(|file| file.sync_all()).map_err(failed(directory))?;
    Ok(state)
}

/// A file that is no database, or a part of one, is told from a disk that fails.
fn broken(directory: &Path, file: &Path, error: redb::Error) -> Error {
    let is_cut = match &error {
        redb::Error::Corrupted(_) | redb::Error::UpgradeRequired(_) | redb::Error::RepairAborted => true,
        redb::Error::Io(error) => {
            matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
        }
        _ => false,
    };
    match is_cut {
        true => Error::Corrupt { path: file.to_owned(), source: Box::new(error) },
        false => Error::Database { path: directory.to_owned(), source: Box::new(error) },
    }
}

/// Makes the tables, or brings those of an older version to this one. Returns the version that was found.
fn prepare(database: &Database) -> Result<u64, redb::Error> {
    if let Ok(found) = found(database)
        && found >= VERSION
    {
        return Ok(found);
    }
    let transaction = database.begin_write()?;
    {
        let mut format = transaction.open_table(FORMAT)?;
        // Since 1: tables beside the entities, which begin empty.
        format.insert("version", VERSION)?;
        transaction.open_table(ENTITIES)?;
        transaction.open_table(REVISIONS)?;
        transaction.open_table(ANSWERS)?;
        transaction.open_table(FILES)?;
        transaction.open_table(JOTTINGS)?;
        transaction.open_table(TOKENS)?;
    }
    transaction.commit()?;
    Ok(VERSION)
}

/// The version that is there; 0 in a new file.
fn found(database: &Database) -> Result<u64, redb::Error> {
    let transaction = database.begin_read()?;
    match transaction.open_table(FORMAT) {
        Ok(format) => Ok(format.get("version")?.map_or(0, |version| version.value())),
        Err(TableError::TableDoesNotExist(_)) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

fn apply(entities: &mut Table<'_, (&str, &str), &[u8]>, change: &EntityChange) -> Result<(), redb::Error> {
    match change {
        EntityChange::Put { kind, name, body } => {
            entities.insert((kind.plural(), name.as_str()), records::entity(body).as_slice())?;
        }
        EntityChange::Delete { kind, name } => {
            entities.remove((kind.plural(), name.as_str()))?;
        }
    }
    Ok(())
}

/// Undoes the revisions after this one. There are some only when a commit reached the disk and failed all the
/// same.
fn undo_after(transaction: &WriteTransaction, last: u64) -> Result<(), redb::Error> {
    let mut revisions = transaction.open_table(REVISIONS)?;
    let mut entities = transaction.open_table(ENTITIES)?;
    loop {
        let newest = revisions.last()?.map(|(number, record)| (number.value(), record.value().to_owned()));
        let Some((number, record)) = newest.filter(|(number, _)| *number > last) else { return Ok(()) };
        let edits =
            records::read_revision(number, &record).map(|revision| revision.edits).unwrap_or_default();
        for edit in edits.into_iter().filter(|edit| edit.file.is_none()).rev() {
            apply(&mut entities, &EntityChange::undoing(edit))?;
        }
        revisions.remove(number)?;
    }
}

fn copied<K: redb::Key, V: redb::Value>(
    from: &redb::ReadOnlyTable<K, V>,
    into: &mut Table<'_, K, V>,
) -> Result<(), redb::Error> {
    for entry in from.iter()? {
        let (key, value) = entry?;
        into.insert(key.value(), value.value())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
