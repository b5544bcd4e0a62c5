//! Restoration of a data directory from a backup.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use redb::Database;

use crate::store::redb::RedbStore;
use crate::store::redb::directory::{
    FILE, NEWEST, STAGED, close_to_others, create_directory, create_file, failed, lock_directory,
    sync_directory,
};
use crate::store::{Error, KEPT_REVISIONS, Store as _, StoredState};

/// Replaces the state in `directory` by a backup. The backup is read to its end before anything is changed,
/// and takes its place in one step.
///
/// # Errors
///
/// Fails if the backup cannot be used, if the directory is in use, or if it holds a state and `force` is
/// false.
pub fn restore(backup: &Path, directory: &Path, force: bool) -> Result<StoredState, Error> {
    create_directory(directory)?;
    // Held until the new file is in place, so that no other process serves the old one meanwhile.
    let _lock = lock_directory(directory)?;
    close_to_others(directory);
    let place = directory.join(FILE);
    if place.exists() && !force {
        return Err(Error::Occupied { path: directory.to_owned() });
    }
    // Earlier versions lock the file alone.
    let occupied = match Database::open(&place) {
        Err(redb::DatabaseError::DatabaseAlreadyOpen) => {
            return Err(Error::InUse { path: directory.to_owned() });
        }
        // A file that cannot be opened may be replaced: that is the purpose of a backup.
        other => other.ok(),
    };
    let staged = directory.join(STAGED);
    let outcome = stage(backup, &staged).and_then(|state| {
        // A backup is older on purpose: nothing is lost.
        remove_if_there(&directory.join(NEWEST)).map_err(failed(directory))?;
        fs::rename(staged.join(FILE), &place).map_err(failed(&place))?;
        sync_directory(directory).map_err(failed(directory)).map(|()| state)
    });
    drop(occupied);
    let _ = fs::remove_dir_all(&staged);
    outcome
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// Copies a backup into a directory of its own and reads it to its end.
fn stage(backup: &Path, directory: &Path) -> Result<StoredState, Error> {
    let _ = fs::remove_dir_all(directory);
    create_directory(directory)?;
    copy_file(backup, &directory.join(FILE)).map_err(failed(backup))?;
    let store = RedbStore::open(directory).map_err(|error| match error {
        Error::Corrupt { source, .. } => Error::NoBackup { path: backup.to_owned(), source },
        error => error,
    })?;
    let state = store.load()?;
    // One at a time: all together may be larger than the memory.
    let newest = store.revision();
    for number in newest.saturating_sub(KEPT_REVISIONS)..=newest {
        store.revisions(number..=number)?;
    }
    drop(store);
    let file = File::open(directory.join(FILE));
    file.and_then(|file| file.sync_all()).map_err(failed(directory))?;
    Ok(state)
}

/// Copies the content of a file, whatever its mode is.
fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let (mut from, mut to) = (File::open(from)?, create_file(to)?);
    io::copy(&mut from, &mut to).map(drop)
}
