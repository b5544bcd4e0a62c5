//! Durable state: what was written over REST.
//!
//! One embedded database file. A change is one transaction, on disk before it is answered.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::Value;

use crate::config::document::Kind;
use crate::pipeline::Stored;

#[expect(unreachable_pub, reason = "generated; proto/understudy/store/v1/store.proto has the comments")]
mod records {
    include!(concat!(env!("OUT_DIR"), "/understudy.store.v1.rs"));
}

/// Entities by kind (as in the API's path) and name.
const ENTITIES: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("entities");
/// What this program must know before it reads anything else.
const FORMAT: TableDefinition<'_, &str, u64> = TableDefinition::new("format");
const VERSION: u64 = 1;

/// One step of a change.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Creates or replaces an entity.
    Put {
        /// What it is.
        kind: Kind,
        /// Of a target `upstream/host:port`.
        name: String,
        /// In the native config's shape.
        body: Arc<Value>,
    },
    /// Removes an entity, if it is there.
    Delete {
        /// What it is.
        kind: Kind,
        /// Of a target `upstream/host:port`.
        name: String,
    },
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
        source: std::io::Error,
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
    #[error("the record {key} in the data directory is damaged")]
    Damaged {
        /// Kind and name.
        key: String,
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
}

/// The embedded database.
#[derive(Debug)]
pub struct Store {
    database: Database,
    path: PathBuf,
}

impl Store {
    /// Opens the database in `directory`, or makes both.
    ///
    /// # Errors
    ///
    /// When the directory cannot be used, is in use, or was written by a newer version.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let path = directory.to_owned();
        fs::create_dir_all(&path).map_err(|source| Error::Directory { path: path.clone(), source })?;
        let database = match Database::create(path.join("understudy.redb")) {
            Ok(database) => database,
            Err(redb::DatabaseError::DatabaseAlreadyOpen) => return Err(Error::InUse { path }),
            Err(error) => return Err(Error::Database { path, source: Box::new(error.into()) }),
        };
        let store = Self { database, path };
        match store.initialize().map_err(|source| store.failed(source))? {
            found if found > VERSION => Err(Error::Newer { path: store.path, found }),
            _ => Ok(store),
        }
    }

    /// Everything that was written.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub fn load(&self) -> Result<Stored, Error> {
        let records = self.read().map_err(|source| self.failed(source))?;
        records.into_iter().map(|(kind, name, bytes)| entity(&kind, name, &bytes)).collect()
    }

    /// Applies all changes or none. When this returns they survive a crash.
    ///
    /// # Errors
    ///
    /// When the database cannot be written; then nothing changed.
    pub fn commit(&self, changes: &[Change]) -> Result<(), Error> {
        self.write(changes).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: redb::Error) -> Error {
        Error::Database { path: self.path.clone(), source: Box::new(source) }
    }

    fn initialize(&self) -> Result<u64, redb::Error> {
        let transaction = self.database.begin_write()?;
        let found = {
            let mut format = transaction.open_table(FORMAT)?;
            let found = format.get("version")?.map(|version| version.value());
            if found.is_none() {
                format.insert("version", VERSION)?;
            }
            transaction.open_table(ENTITIES)?;
            found.unwrap_or(VERSION)
        };
        transaction.commit()?;
        Ok(found)
    }

    fn read(&self) -> Result<Vec<(String, String, Vec<u8>)>, redb::Error> {
        let entities = self.database.begin_read()?.open_table(ENTITIES)?;
        let mut records = Vec::new();
        for record in entities.iter()? {
            let (key, value) = record?;
            let (kind, name) = key.value();
            records.push((kind.to_owned(), name.to_owned(), value.value().to_owned()));
        }
        Ok(records)
    }

    fn write(&self, changes: &[Change]) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut entities = transaction.open_table(ENTITIES)?;
            for change in changes {
                match change {
                    Change::Put { kind, name, body } => {
                        let record = records::Entity { body: body.to_string() }.encode_to_vec();
                        entities.insert((kind.plural(), name.as_str()), record.as_slice())?;
                    }
                    Change::Delete { kind, name } => {
                        entities.remove((kind.plural(), name.as_str()))?;
                    }
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

fn entity(kind: &str, name: String, bytes: &[u8]) -> Result<((Kind, String), Arc<Value>), Error> {
    let damaged = || Error::Damaged { key: format!("{kind}/{name}") };
    let record = records::Entity::decode(bytes).map_err(|_| damaged())?;
    let body = serde_json::from_str(&record.body).map_err(|_| damaged())?;
    let kind = Kind::from_plural(kind).ok_or_else(damaged)?;
    Ok(((kind, name), Arc::new(body)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn put(name: &str, body: Value) -> Change {
        Change::Put { kind: Kind::Upstream, name: name.to_owned(), body: Arc::new(body) }
    }

    #[test]
    fn what_was_committed_is_there_after_opening_again() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(directory.path()).expect("opens");
        store.commit(&[put("a", json!({"name": "a"})), put("b", json!({"name": "b"}))]).expect("commits");
        store.commit(&[Change::Delete { kind: Kind::Upstream, name: "b".into() }]).expect("commits");
        drop(store);
        let stored = Store::open(directory.path()).expect("opens again").load().expect("loads");
        let entities: Vec<_> =
            stored.iter().map(|((kind, name), body)| (*kind, name.as_str(), &**body)).collect();
        assert_eq!(entities, [(Kind::Upstream, "a", &json!({"name": "a"}))]);
    }

    #[test]
    fn a_second_process_is_told_that_the_directory_is_in_use() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let _first = Store::open(directory.path()).expect("opens");
        assert!(matches!(Store::open(directory.path()), Err(Error::InUse { .. })));
    }

    #[test]
    fn a_newer_format_is_refused() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(directory.path()).expect("opens");
        let transaction = store.database.begin_write().expect("begins");
        transaction.open_table(FORMAT).expect("opens").insert("version", VERSION + 1).expect("inserts");
        transaction.commit().expect("commits");
        drop(store);
        assert!(
            matches!(Store::open(directory.path()), Err(Error::Newer { found, .. }) if found == VERSION + 1)
        );
    }
}
