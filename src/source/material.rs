//! Reader of the files with keys and certificates that documents name.
//!
//! Nothing here waits for what a name leads to: devices and pipes are not opened. Requests to the admin API name
//! files below one directory only, and learn nothing of all others, not even if they exist.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::config::material::{NamedBy, NamedFile, NamedFiles};

/// Maximum size of a file.
const MAX_SIZE: u64 = 1 << 20;

/// Reason for which a request cannot name a file: one text for all that are not below the directory.
const NOT_BELOW: &str = "requests name files below --material-dir only, and it is none of them";

/// Reads the files that a config names; those that requests name, only below `directory`. An entry is the text, or
/// the reason why it cannot be read.
pub fn read_named(names: &BTreeSet<NamedFile>, directory: Option<&Path>) -> NamedFiles {
    let read = |named: &NamedFile| match named.by {
        NamedBy::Config => read(Path::new(&named.path)),
        NamedBy::Request => read_below(Path::new(&named.path), directory),
    };
    names.iter().map(|named| (named.clone(), read(named))).collect()
}

fn read(path: &Path) -> Result<Arc<str>, String> {
    let file = open(path).map_err(|error| error.to_string())?;
    content(file)
}

/// Reads a file below a directory. Links within the directory are followed.
fn read_below(path: &Path, directory: Option<&Path>) -> Result<Arc<str>, String> {
    let resolved = directory.and_then(|directory| resolve(path, directory)).ok_or(NOT_BELOW)?;
    let file = open(&resolved).map_err(|error| error.to_string())?;
    // Another file may have come to that place meanwhile, or a link.
    let is_in_place = |resolved: &Path| {
        let (found, opened) = (fs::metadata(resolved).ok()?, file.metadata().ok()?);
        Some((found.dev(), found.ino()) == (opened.dev(), opened.ino()))
    };
    let again = directory.and_then(|directory| resolve(path, directory));
    if again.and_then(|again| is_in_place(&again)) != Some(true) {
        return Err(NOT_BELOW.to_owned());
    }
    content(file)
}

/// Returns the path without links; none if it does not lead below the directory. A name that is not below it is not
/// looked up.
fn resolve(path: &Path, directory: &Path) -> Option<PathBuf> {
    let real = directory.canonicalize().ok()?;
    let path = lexical(path);
    if !path.starts_with(directory) && !path.starts_with(&real) {
        return None;
    }
    path.canonicalize().ok().filter(|path| path.starts_with(&real))
}

/// Returns the path without `.` and `..`.
fn lexical(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(plain.pop()),
            other => plain.push(other),
        }
    }
    plain
}

/// Opens a regular file. A device is not even opened, since that alone may have an effect.
fn open(path: &Path) -> io::Result<File> {
    check(&fs::metadata(path)?)?;
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    check(&file.metadata()?)?;
    Ok(file)
}

fn check(metadata: &fs::Metadata) -> io::Result<()> {
    match metadata {
        it if !it.is_file() => Err(io::Error::other("it is no regular file")),
        it if it.len() > MAX_SIZE => Err(io::Error::other(TOO_LARGE)),
        _ => Ok(()),
    }
}

/// Reason for which a large file is not read.
const TOO_LARGE: &str = "it has more than 1 MB";

fn content(file: File) -> Result<Arc<str>, String> {
    let mut bytes = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    // A file may grow, and some systems do not know the size of theirs.
    if bytes.len() as u64 > MAX_SIZE {
        return Err(TOO_LARGE.to_owned());
    }
    String::from_utf8(bytes).map(Arc::from).map_err(|_| "it is not text".to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn requests_name_what_is_below_the_directory_and_config_files_all() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let [inside, outside] = ["inside", "outside"].map(|name| root.path().join(name));
        for directory in [&inside, &outside] {
            fs::create_dir(directory).expect("makes a directory");
            fs::write(directory.join("a.pem"), "text").expect("writes");
        }
        fs::write(inside.join("large.pem"), "x".repeat((1 << 20) + 1)).expect("writes");
        symlink(outside.join("a.pem"), inside.join("out.pem")).expect("makes a link");
        symlink(inside.join("a.pem"), inside.join("own.pem")).expect("makes a link");
        let read = |path: &Path, by, directory: Option<&Path>| {
            let named = NamedFile { path: path.display().to_string(), by };
            let read = read_named(&BTreeSet::from([named.clone()]), directory);
            read[&named].as_deref().map(str::to_owned).map_err(Clone::clone)
        };
        let request = |path: &Path| read(path, NamedBy::Request, Some(&inside));
        for path in ["a.pem", "own.pem", "./a.pem", "../inside/a.pem"] {
            assert_eq!(request(&inside.join(path)).as_deref(), Ok("text"), "{path}");
        }
        for path in
            ["out.pem", "../outside/a.pem", "../outside/missing.pem", "missing.pem", "/dev/zero", ".."]
        {
            assert_eq!(request(&inside.join(path)), Err(NOT_BELOW.to_owned()), "{path}");
        }
        assert_eq!(request(&inside.join("large.pem")), Err(TOO_LARGE.to_owned()));
        assert_eq!(read(&inside.join("a.pem"), NamedBy::Request, None), Err(NOT_BELOW.to_owned()));
        let config = |path: &Path| read(path, NamedBy::Config, None);
        assert_eq!(config(&outside.join("a.pem")).as_deref(), Ok("text"));
        for path in [Path::new("/dev/zero"), &outside] {
            assert!(
                config(path).is_err_and(|reason| reason.contains("no regular file")),
                "{}",
                path.display()
            );
        }
    }
}
