//! Reader of the files with keys and certificates that documents name.
//!
//! Nothing here waits for what a name leads to: devices and pipes are not opened, and a [`MaterialReader`] gives up
//! on a file system that does not answer. Requests to the admin API name files below one directory only, and learn
//! nothing of all others, not even if they exist.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::material::{NamedBy, NamedFile, NamedFiles};
use crate::source::regular;

/// Maximum size of a file.
const MAX_SIZE: u64 = 1 << 20;

/// Reason for which a request cannot name a file: one text for all that are not below the directory.
const NOT_BELOW: &str = "requests name files below --material-dir only, and it is none of them";

/// Time that a read takes at most, however many files it reads.
const PATIENCE: Duration = Duration::from_secs(5);

/// Time without progress after which another thread reads the files that are left.
const STALL: Duration = Duration::from_millis(100);

/// Time after which a file that is being read is not begun by another read.
const STUCK: Duration = Duration::from_secs(2);

/// Maximum number of threads of one read.
const THREADS: usize = 8;

/// Number of files in the hands of threads beyond which no other is read: their file system does not answer.
const MAX_UNDER_WAY: usize = 256;

/// Reason for which a file is not read whose file system does not answer.
const NO_ANSWER: &str = "its file system does not answer";

/// Reader that gives up on file systems which do not answer, such as a network file system whose server is gone. A
/// file that did not answer is not read again before it has answered. Cheap to clone: clones share their state.
#[derive(Debug, Clone)]
pub struct MaterialReader {
    /// Directory below which requests may name files; none: nowhere.
    directory: Option<Arc<Path>>,
    read: ReadFile,
    /// Files in the hands of threads, with the times since which they are.
    under_way: Arc<Mutex<BTreeMap<NamedFile, Instant>>>,
}

/// Function that reads a file, or says why it cannot be read; requests may name files below the directory.
pub type ReadFile = fn(&NamedFile, Option<&Path>) -> Result<Arc<str>, String>;

impl MaterialReader {
    /// Creates a reader; requests may name files below `directory`.
    pub fn new(directory: Option<Arc<Path>>) -> Self {
        Self::with(directory, read_one)
    }

    /// Creates a reader that reads each file with this function.
    pub fn with(directory: Option<Arc<Path>>, read: ReadFile) -> Self {
        Self { directory, read, under_way: Arc::default() }
    }

    /// Reads the files, on other threads. Blocks for 5 s at most; a file that was not read by then has an error.
    pub fn read(&self, names: &BTreeSet<NamedFile>) -> NamedFiles {
        let no_answer = |named: &NamedFile| (named.clone(), Err(NO_ANSWER.to_owned()));
        let mut texts: NamedFiles = names.iter().map(no_answer).collect();
        let left = self.to_be_read(names);
        let (mut missing, left) = (left.len(), Arc::new(Mutex::new(left)));
        let (sender, results) = mpsc::channel();
        let deadline = Instant::now() + PATIENCE;
        let mut threads = 0;
        while missing > 0 {
            if threads < THREADS && !lock(&left).is_empty() {
                threads += 1;
                let (reader, left, sender) = (self.clone(), left.clone(), sender.clone());
                std::thread::spawn(move || reader.read_rest(&left, &sender));
            }
            // While there is progress, no further thread is needed.
            while let Ok((named, text)) = results.recv_timeout(STALL.min(until(deadline))) {
                texts.insert(named, text);
                missing -= 1;
                if missing == 0 {
                    break;
                }
            }
            if until(deadline).is_zero() {
                break;
            }
        }
        lock(&left).clear();
        texts
    }

    /// Returns the files that may answer.
    fn to_be_read(&self, names: &BTreeSet<NamedFile>) -> VecDeque<NamedFile> {
        let under_way = lock(&self.under_way);
        if under_way.len() >= MAX_UNDER_WAY {
            return VecDeque::new();
        }
        let is_stuck = |named: &NamedFile| under_way.get(named).is_some_and(|since| since.elapsed() >= STUCK);
        names.iter().filter(|named| !is_stuck(named)).cloned().collect()
    }

    /// Reads what is left, one file after the other.
    fn read_rest(
        &self,
        left: &Mutex<VecDeque<NamedFile>>,
        results: &Sender<(NamedFile, Result<Arc<str>, String>)>,
    ) {
        loop {
            let next = lock(left).pop_front();
            let Some(named) = next else { return };
            lock(&self.under_way).entry(named.clone()).or_insert_with(Instant::now);
            let text = (self.read)(&named, self.directory.as_deref());
            lock(&self.under_way).remove(&named);
            // Nobody waits any more for a file that took too long.
            let _ = results.send((named, text));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn until(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Reads the files that a config names; those that requests name, only below `directory`. An entry is the text, or
/// the reason why it cannot be read.
pub fn read_named(names: &BTreeSet<NamedFile>, directory: Option<&Path>) -> NamedFiles {
    names.iter().map(|named| (named.clone(), read_one(named, directory))).collect()
}

fn read_one(named: &NamedFile, directory: Option<&Path>) -> Result<Arc<str>, String> {
    match named.by {
        NamedBy::Config => read(Path::new(&named.path)),
        NamedBy::Request => read_below(Path::new(&named.path), directory),
    }
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

/// Opens a regular file of at most [`MAX_SIZE`].
fn open(path: &Path) -> io::Result<File> {
    let file = regular::open(path)?;
    match file.metadata()? {
        it if it.len() > MAX_SIZE => Err(io::Error::other(TOO_LARGE)),
        _ => Ok(file),
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
    fn a_file_that_does_not_answer_delays_no_other() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let named = |name: &str| {
            let path = directory.path().join(name);
            fs::write(&path, name).expect("writes");
            NamedFile { path: path.display().to_string(), by: NamedBy::Config }
        };
        let names: BTreeSet<NamedFile> = ["a", "hangs", "z"].map(named).into();
        // The read of one file hangs until the test opens the pipe beside it.
        let pipe = directory.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo is there");
        assert!(made.success());
        fn read(named: &NamedFile, directory: Option<&Path>) -> Result<Arc<str>, String> {
            if let Some(directory) = Path::new(&named.path).parent().filter(|_| named.path.ends_with("hangs"))
            {
                fs::read(directory.join("pipe")).map_err(|error| error.to_string())?;
            }
            read_one(named, directory)
        }
        let reader = MaterialReader::with(None, read);
        let texts = |read: NamedFiles| -> Vec<String> {
            read.into_values()
                .map(|text| text.map_or_else(|reason| reason, |text| text.to_string()))
                .collect()
        };
        let expected = ["a", NO_ANSWER, "z"];
        assert_eq!(texts(reader.read(&names)), expected);
        let again = Instant::now();
        assert_eq!(texts(reader.read(&names)), expected);
        assert!(again.elapsed() < PATIENCE / 2, "it is not waited for again: {:?}", again.elapsed());
        drop(fs::OpenOptions::new().write(true).open(&pipe).expect("opens"));
        let deadline = Instant::now() + PATIENCE;
        while !lock(&reader.under_way).is_empty() {
            assert!(Instant::now() < deadline, "it ended");
            std::thread::yield_now();
        }
        let reader = MaterialReader { read: read_one, ..reader };
        assert_eq!(texts(reader.read(&names)), ["a", "hangs", "z"]);
    }

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
