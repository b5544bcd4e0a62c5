//! Database file: created whole, opened, and brought to the current format.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use redb::backends::FileBackend;
use redb::{Builder, Database, ReadableDatabase, TableError};

use crate::store::Error;
use crate::store::redb::directory::{DRAFT, FILE, create_file, sync_directory};
use crate::store::redb::tables::{
    ANSWERS, ENTITIES, FILES, FLEETS, FORMAT, KNOWS_FLEETS, LIVE_FILES, RECORDS, REVISIONS, TOKENS, VERSION,
    VERSION_KEY, WAITING,
};

/// Bytes of the database that are kept in memory. Whatever is read often is in memory in another form.
const CACHE: usize = 4 << 20;

/// Length in bytes below which a file is not made smaller.
const MIN_SHRUNK: u64 = 8 << 20;

/// Creates the database in the data directory if there is none. It gets its name only when it is whole, so a
/// crash leaves no database or a whole one. The directory must be locked.
pub(super) fn create_if_missing(directory: &Path) -> Result<(), Error> {
    let file = directory.join(FILE);
    // A link that leads nowhere is not replaced: what it leads to may return.
    match fs::symlink_metadata(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        _ => return Ok(()),
    }
    let failed = |source: redb::Error| Error::Database { path: directory.to_owned(), source: source.into() };
    create(directory, &file).map_err(failed)
}

fn create(directory: &Path, file: &Path) -> Result<(), redb::Error> {
    let draft = directory.join(DRAFT);
    match fs::remove_file(&draft) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        outcome => outcome?,
    }
    let database = builder().create_with_backend(FileBackend::new(create_file(&draft)?)?)?;
    prepare(&database)?;
    drop(database);
    File::open(&draft)?.sync_all()?;
    fs::rename(&draft, file)?;
    Ok(sync_directory(directory)?)
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE);
    builder
}

/// Opens the database in the data directory. An empty file is damaged, like any other part of a database.
pub(super) fn open(directory: &Path) -> Result<Database, Error> {
    let (path, file) = (directory.to_owned(), directory.join(FILE));
    let opened = builder().open(&file).map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => Error::InUse { path: path.clone() },
        error => unusable(&path, &file, error.into()),
    })?;
    match prepare(&opened).map_err(|error| unusable(&path, &file, error))? {
        found if found > VERSION => Err(Error::Newer { path, found, known: VERSION }),
        _ => Ok(opened),
    }
}

/// Makes the file smaller if it is large and more than half of it is free. Returns true if that was so. No one
/// else may use the database meanwhile.
pub(super) fn shrink(database: &mut Database, directory: &Path) -> Result<bool, redb::Error> {
    let length = fs::metadata(directory.join(FILE))?.len();
    if length < MIN_SHRUNK {
        return Ok(false);
    }
    let transaction = database.begin_write()?;
    let stats = transaction.stats()?;
    transaction.abort()?;
    let used = stats.allocated_pages() * stats.page_size() as u64;
    if used * 2 > length {
        return Ok(false);
    }
    Ok(database.compact()?)
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
    let found = found(database);
    let is_new = matches!(found, Ok(0));
    if let Ok(found) = found
        && found >= VERSION
    {
        return Ok(found);
    }
    let transaction = database.begin_write()?;
    {
        let mut format = transaction.open_table(FORMAT)?;
        // Later versions only added tables, which begin empty.
        format.insert(VERSION_KEY, VERSION)?;
        if is_new {
            format.insert(KNOWS_FLEETS, 1)?;
        }
        transaction.open_table(ENTITIES)?;
        transaction.open_table(REVISIONS)?;
        transaction.open_table(ANSWERS)?;
        transaction.open_table(FILES)?;
        transaction.open_table(RECORDS)?;
        transaction.open_table(TOKENS)?;
        transaction.open_table(WAITING)?;
        transaction.open_table(LIVE_FILES)?;
        transaction.open_table(FLEETS)?;
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
