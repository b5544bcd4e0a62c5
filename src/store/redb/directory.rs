//! Data directory: created, and locked for one process.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;

use crate::store::Error;

/// Name of the database in the data directory.
pub(super) const FILE: &str = "understudy.redb";
/// Name of a database that is not whole yet.
pub(super) const DRAFT: &str = "understudy.redb.new";
/// Name of the directory in which a backup is read before it takes the place of the database.
pub(super) const STAGED: &str = "restoring";

/// Creates the data directory if it is missing.
pub(super) fn create_directory(path: &Path) -> Result<(), Error> {
    let create = || {
        let parent = path.parent().unwrap_or(path);
        fs::create_dir_all(parent)?;
        match fs::create_dir(path) {
            Err(_) if path.is_dir() => Ok(()),
            Err(error) => Err(error),
            Ok(()) => {
                let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
                // It may be a directory that this user may not read.
                let _ = sync_directory(parent);
                Ok(())
            }
        }
    };
    create().map_err(|source| Error::Directory { path: path.to_owned(), source })
}

/// Locks the directory for this process, until the returned file is dropped. The database has a lock of its
/// own, but not before it exists, nor while a backup takes its place.
pub(super) fn lock_directory(path: &Path) -> Result<File, Error> {
    let directory = File::open(path).map_err(failed(path))?;
    match directory.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Error::InUse { path: path.to_owned() }),
        // Some network file systems lock no directories; the lock of the database remains.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(directory),
    }
}

/// Makes the names in a directory durable, where the file system can do that.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    match File::open(path)?.sync_all() {
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            Ok(())
        }
        outcome => outcome,
    }
}

/// Returns a conversion of errors at files of the data directory.
pub(super) fn failed(path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Database { path: path.clone(), source: Box::new(source) }
}
