//! Data directory: created, locked for one process, and closed to other users.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use tracing::{info, warn};

use crate::store::Error;

/// Name of the database in the data directory.
pub(super) const FILE: &str = "understudy.redb";
/// Name of a database that is not whole yet.
pub(super) const DRAFT: &str = "understudy.redb.new";
/// Name of the record of the newest commit.
pub(super) const NEWEST: &str = "understudy.newest";
/// Name of the directory in which a backup is read before it takes the place of the database.
pub(super) const STAGED: &str = "restoring";

/// Modes of the directory and of its files. They hold secrets, so only their owner may read them.
const DIRECTORY_MODE: u32 = 0o700;
pub(super) const FILE_MODE: u32 = 0o600;

/// Bits of a mode that let other users in.
const OTHERS: u32 = 0o077;

/// Name of a directory that file systems have at their root.
const LOST_AND_FOUND: &str = "lost+found";

/// Creates the data directory if it is missing. Missing directories above it get the usual mode.
pub(super) fn create_directory(path: &Path) -> Result<(), Error> {
    let create = || {
        let parent = path.parent().unwrap_or(path);
        // A parent that is a file is left to the creation below, whose error says so.
        if !parent.exists() {
            fs::create_dir_all(parent)?;
        }
        match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
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

/// Closes the directory and its files to other users, if an earlier version or an operator left them open.
pub(super) fn close_to_others(directory: &Path) {
    let path = directory.display();
    match restrict_all(directory) {
        Ok(false) => {}
        Ok(true) => info!(%path, "the data directory was open to other users; it is closed to them now"),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            warn!(%path, error, "the data directory, which holds secrets, is open to other users");
        }
    }
}

/// Returns true if a mode was changed.
fn restrict_all(directory: &Path) -> io::Result<bool> {
    let mut is_changed = false;
    for name in [FILE, DRAFT, NEWEST] {
        let file = directory.join(name);
        if file.is_file() {
            is_changed |= restrict(&file, FILE_MODE)?;
        }
    }
    let is_own = |name: &str| [FILE, DRAFT, NEWEST, STAGED, LOST_AND_FOUND].contains(&name);
    for entry in fs::read_dir(directory)? {
        // A directory that others use too, such as `/tmp`, is not closed.
        if !entry?.file_name().to_str().is_some_and(is_own) {
            return if is_open(directory)? { Err(shared()) } else { Ok(is_changed) };
        }
    }
    Ok(restrict(directory, DIRECTORY_MODE)? || is_changed)
}

fn shared() -> io::Error {
    io::Error::other("its mode stays because it holds other files too: choose a directory for --data alone")
}

/// True if other users may use the path in any way.
fn is_open(path: &Path) -> io::Result<bool> {
    Ok(fs::metadata(path)?.permissions().mode() & OTHERS != 0)
}

/// Gives this mode to a path that is open to other users. Returns true if it was.
fn restrict(path: &Path, mode: u32) -> io::Result<bool> {
    let is_open = is_open(path)?;
    if is_open {
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    Ok(is_open)
}

/// Creates a file for its owner alone. Fails if the path exists.
pub(super) fn create_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(FILE_MODE).open(path)
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
