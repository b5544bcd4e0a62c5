//! Database file: opened, created, or brought to the current format.

use std::io;
use std::path::Path;

use redb::{Database, ReadableDatabase, TableError};

use crate::store::Error;
use crate::store::redb::tables::{
    ANSWERS, ENTITIES, FILES, FORMAT, RECORDS, REVISIONS, TOKENS, VERSION, VERSION_KEY,
};

/// Name of the file in the data directory.
pub(super) const FILE: &str = "understudy.redb";

/// Bytes of the database that are kept in memory. Whatever is read often is in memory in another form.
const CACHE: usize = 4 << 20;

/// Opens the database in the data directory, or creates it.
pub(super) fn open(directory: &Path) -> Result<Database, Error> {
    let (path, file) = (directory.to_owned(), directory.join(FILE));
    // An empty file, as a full disk may have left it, counts as new.
    let opened = Database::builder().set_cache_size(CACHE).create(&file).map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => Error::InUse { path: path.clone() },
        error => unusable(&path, &file, error.into()),
    })?;
    match prepare(&opened).map_err(|error| unusable(&path, &file, error))? {
        found if found > VERSION => Err(Error::Newer { path, found, known: VERSION }),
        _ => Ok(opened),
    }
}

/// Distinguishes a file that is not a whole database from a disk that fails.
fn unusable(directory: &Path, file: &Path, error: redb::Error) -> Error {
    let is_cut = match &error {
        redb::Error::Corrupted(_) | redb::Error::UpgradeRequired(_) | redb::Error::RepairAborted => true,
        redb::Error::Io(error) => {
            matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
        }
        _ => false,
    };
    if is_cut {
        Error::Corrupt { path: file.to_owned(), source: Box::new(error) }
    } else {
        Error::Database { path: directory.to_owned(), source: Box::new(error) }
    }
}

/// Creates the tables, or brings those of an older version to the current one. Returns the version that was
/// found.
fn prepare(database: &Database) -> Result<u64, redb::Error> {
    if let Ok(found) = found(database)
        && found >= VERSION
    {
        return Ok(found);
    }
    let transaction = database.begin_write()?;
    {
        let mut format = transaction.open_table(FORMAT)?;
        // Later versions only added tables, which begin empty.
        format.insert(VERSION_KEY, VERSION)?;
        transaction.open_table(ENTITIES)?;
        transaction.open_table(REVISIONS)?;
        transaction.open_table(ANSWERS)?;
        transaction.open_table(FILES)?;
        transaction.open_table(RECORDS)?;
        transaction.open_table(TOKENS)?;
    }
    transaction.commit()?;
    Ok(VERSION)
}

/// Returns the version of the format; 0 for a new file.
fn found(database: &Database) -> Result<u64, redb::Error> {
    let transaction = database.begin_read()?;
    match transaction.open_table(FORMAT) {
        Ok(format) => Ok(format.get(VERSION_KEY)?.map_or(0, |version| version.value())),
        Err(TableError::TableDoesNotExist(_)) => Ok(0),
        Err(error) => Err(error.into()),
    }
}
