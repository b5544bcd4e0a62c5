//! Presence of the open database in the data directory.
//!
//! An open file outlives its name, so a database could be written that no later process finds.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::store::Error;
use crate::store::redb::directory::{FILE, failed};

/// Check that the database which was opened is still the one in the data directory.
#[derive(Debug)]
pub(super) struct PresenceCheck {
    directory: PathBuf,
    /// File of the database. While it is open, no other file can get its inode number.
    opened: File,
}

impl PresenceCheck {
    /// Begins with the database that is there, which was just opened.
    pub(super) fn new(directory: &Path) -> Result<Self, Error> {
        let opened = File::open(directory.join(FILE)).map_err(failed(directory))?;
        Ok(Self { directory: directory.to_owned(), opened })
    }

    /// Fails if the path of the database leads to no file or to another one.
    pub(super) fn check(&self) -> Result<(), Error> {
        let found = fs::metadata(self.directory.join(FILE));
        let outcome = found.and_then(|found| Ok(identity(&found) == identity(&self.opened.metadata()?)));
        match outcome {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.gone()),
            Err(error) if is_absence(&error) => Err(self.gone()),
            Err(error) => Err(failed(&self.directory)(error)),
        }
    }

    fn gone(&self) -> Error {
        Error::Gone { path: self.directory.clone() }
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
