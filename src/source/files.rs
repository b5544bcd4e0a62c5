//! Reader of config paths. All files are read, or none.
//!
//! A path is a file or a directory. A directory is the sum of its `*.yaml`, `*.yml` and `*.json`, not
//! recursive; names that begin with `.` are ignored, so that a mounted config map is not read twice.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::code;
use crate::config::edit::Files;
use crate::config::{Level, Violation};
use crate::source::absence::Absences;
use crate::source::regular;

/// Maximum time for which files are read again while some of them come and go.
const PATIENCE: Duration = Duration::from_secs(30);
/// Interval at which files are read again while some are absent.
const AGAIN: Duration = Duration::from_millis(100);

/// Reads every config file under `paths`: regular files only, so that no pipe keeps the reader waiting.
///
/// # Errors
///
/// One violation for each path that cannot be read and for each file that is not UTF-8.
pub fn read(paths: &[PathBuf]) -> Result<Files, Vec<Violation>> {
    read_again(paths, &Files::new(), regular::open)
}

/// Reads every config file under `paths`, which may be a pipe too, such as one that a shell made. Waits for the end
/// of its text.
///
/// # Errors
///
/// As [`read`].
pub fn read_piped(paths: &[PathBuf]) -> Result<Files, Vec<Violation>> {
    read_again(paths, &Files::new(), |path| File::open(path))
}

/// Reads every config file under `paths`. Texts that equal those of `last`, the previous result, are shared
/// with it.
fn read_again(
    paths: &[PathBuf],
    last: &Files,
    open: fn(&Path) -> io::Result<File>,
) -> Result<Files, Vec<Violation>> {
    let mut files = last.clone();
    let mut found = BTreeSet::new();
    let mut violations = Vec::new();
    for path in paths {
        match list(path) {
            Ok(Listing { files: listed, violations: unread }) => {
                violations.extend(unread);
                for file in listed {
                    let name = name(&file);
                    match read_text(&file, open) {
                        Ok(text) if files.get(&name) == Some(&text) => {}
                        Ok(text) => drop(files.insert(name.clone(), text)),
                        Err(violation) => violations.push(*violation),
                    }
                    found.insert(name);
                }
            }
            Err(error) => violations.push(unreadable(path, &error)),
        }
    }
    for removed in last.keys().filter(|name| !found.contains(*name)) {
        files.remove(removed);
    }
    if violations.is_empty() { Ok(files) } else { Err(violations) }
}

/// Reads every config file under `paths`, and waits for files that are absent for a moment. A file that had
/// text in `last` and is missing or blank now may be about to be written. All are read again until it has
/// text, or has been absent for five seconds: then that is meant. A path that cannot be read is reported at once.
///
/// # Errors
///
/// As [`read`].
pub fn read_settled(paths: &[PathBuf], last: &Files) -> Result<Files, Vec<Violation>> {
    let (mut absences, deadline) = (Absences::default(), Instant::now() + PATIENCE);
    loop {
        let files = read_again(paths, last, regular::open)?;
        let now = Instant::now();
        if !absences.are_recent(last, &files, now) {
            return Ok(files);
        }
        if now >= deadline {
            return Ok(absences.filled(last, files));
        }
        std::thread::sleep(AGAIN);
    }
}

/// Returns a warning for each directory among the paths that holds no config file.
pub fn empty(paths: &[PathBuf]) -> Vec<Violation> {
    let is_empty = |path: &&PathBuf| path.is_dir() && list(path).is_ok_and(|listing| listing.is_empty());
    let warning = |path: &PathBuf| Violation {
        code: code::EMPTY_DIRECTORY,
        level: Level::Warning,
        help: Some(
            "a directory is the sum of its *.yaml, *.yml and *.json, without those below it".to_owned(),
        ),
        ..violation(path, "there is no config file in this directory".to_owned())
    };
    paths.iter().filter(is_empty).map(warning).collect()
}

/// Returns the name of a file, with the path as the operator gave it.
fn name(path: &Path) -> String {
    path.display().to_string()
}

/// Config files of a path, and the entries that have the name of one and cannot be read.
#[derive(Debug, Default)]
struct Listing {
    files: Vec<PathBuf>,
    violations: Vec<Violation>,
}

impl Listing {
    fn is_empty(&self) -> bool {
        self.files.is_empty() && self.violations.is_empty()
    }
}

/// Returns the config files of a path: the file itself, or those in the directory.
fn list(path: &Path) -> io::Result<Listing> {
    if !path.metadata()?.is_dir() {
        return Ok(Listing { files: vec![path.to_owned()], ..Listing::default() });
    }
    let mut listing = Listing::default();
    for entry in path.read_dir()? {
        let file = entry?.path();
        if !is_config(&file) {
            continue;
        }
        match file.metadata() {
            // A pipe in the place of a file is told as a fault when it is read.
            Ok(metadata) if !metadata.is_dir() => listing.files.push(file),
            Ok(_) => {}
            // It was removed meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound && !file.is_symlink() => {}
            Err(error) => listing.violations.push(unreadable(&file, &error)),
        }
    }
    listing.files.sort();
    listing.violations.sort_by(|one, other| one.file.cmp(&other.file));
    Ok(listing)
}

fn is_config(file: &Path) -> bool {
    let hidden = file.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let extension = file.extension().and_then(|extension| extension.to_str());
    !hidden && matches!(extension, Some("yaml" | "yml" | "json"))
}

fn read_text(file: &Path, open: fn(&Path) -> io::Result<File>) -> Result<Arc<str>, Box<Violation>> {
    let mut bytes = Vec::new();
    let read = open(file).and_then(|mut file| file.read_to_end(&mut bytes));
    read.map_err(|error| Box::new(unreadable(file, &error)))?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text.into()),
        Err(error) => {
            let good = error.utf8_error().valid_up_to();
            let before = String::from_utf8_lossy(&error.as_bytes()[..good]).into_owned();
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            Err(Box::new(Violation {
                line: u32::try_from(line).ok(),
                column: u32::try_from(column).ok(),
                help: Some("save the file as UTF-8".to_owned()),
                ..violation(file, "this byte is not UTF-8".to_owned())
            }))
        }
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Violation {
    if error.kind() == ErrorKind::NotFound
        && let Ok(target) = path.read_link()
    {
        let message = format!("this link leads to `{}`, which is not there", target.display());
        let help = Some("remove the link, or put a file where it leads".to_owned());
        return Violation { help, ..violation(path, message) };
    }
    Violation {
        help: Some("name a file or a directory that this user may read".to_owned()),
        ..violation(path, format!("cannot read it: {error}"))
    }
}

fn violation(path: &Path, message: String) -> Violation {
    Violation {
        code: code::UNREADABLE_PATH,
        level: Level::Error,
        message,
        help: None,
        file: Some(name(path)),
        line: None,
        column: None,
        path: String::new(),
        pointer: None,
        related: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_the_sum_of_its_config_files() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for file in ["b.yaml", "a.yml", "c.json", ".hidden.yaml", "notes.txt", "d.yaml~"] {
            std::fs::write(directory.path().join(file), file).expect("writes");
        }
        std::fs::create_dir(directory.path().join("e.yaml")).expect("makes a directory");
        let files = read(&[directory.path().to_owned()]).expect("reads");
        let texts: Vec<&str> = files.values().map(|text| &**text).collect();
        assert_eq!(texts, ["a.yml", "b.yaml", "c.json"]);
    }

    #[test]
    fn a_file_that_is_being_written_is_read_when_it_is_whole() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("a.yaml");
        std::fs::write(&file, "routes: []").expect("writes");
        let paths = [directory.path().to_owned()];
        let last = read(&paths).expect("reads");
        std::fs::write(&file, "").expect("truncates");
        let writer = std::thread::spawn({
            let file = file.clone();
            move || {
                std::thread::sleep(2 * AGAIN);
                std::fs::write(file, "services: []").expect("writes");
            }
        });
        let files = read_settled(&paths, &last).expect("reads");
        assert_eq!(files.values().map(|text| &**text).collect::<Vec<_>>(), ["services: []"]);
        writer.join().expect("it wrote");
    }

    #[test]
    fn a_link_to_nothing_is_told_at_the_link() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("good.yaml"), "routes: []").expect("writes");
        std::fs::write(at("latin.yaml"), b"caf\xe9").expect("writes");
        for (link, target) in [("to-good.yaml", "good.yaml"), ("broken.yaml", "gone/x.yaml")] {
            std::os::unix::fs::symlink(target, at(link)).expect("makes a link");
        }
        let told = |path: PathBuf| {
            let violations = read(&[path]).expect_err("it cannot be read");
            let told = |it: Violation| (it.file.unwrap_or_default(), it.message);
            violations.into_iter().map(told).collect::<Vec<_>>()
        };
        let link =
            (name(&at("broken.yaml")), "this link leads to `gone/x.yaml`, which is not there".to_owned());
        assert_eq!(told(at("broken.yaml")), std::slice::from_ref(&link));
        let latin = (name(&at("latin.yaml")), "this byte is not UTF-8".to_owned());
        assert_eq!(told(directory.path().to_owned()), [link, latin], "all of the directory at once");
        assert!(empty(&[directory.path().to_owned()]).is_empty());
    }

    #[test]
    fn a_pipe_in_the_place_of_a_file_is_a_fault_and_is_not_waited_for() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let pipe = directory.path().join("a.yaml");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo is there");
        assert!(made.success());
        std::fs::write(directory.path().join("b.yaml"), "routes: []").expect("writes");
        for paths in [[pipe.clone()], [directory.path().to_owned()]] {
            let violations = read(&paths).expect_err("it is a pipe");
            assert_eq!(violations.len(), 1, "{violations:?}");
            assert_eq!(violations[0].file.as_deref(), pipe.to_str());
            assert!(violations[0].message.contains("it is no regular file"), "{violations:?}");
        }
        let writer = std::thread::spawn({
            let pipe = pipe.clone();
            move || std::fs::write(pipe, "services: []")
        });
        let files = read_piped(&[pipe]).expect("it is read to its end");
        assert_eq!(files.values().map(|text| &**text).collect::<Vec<_>>(), ["services: []"]);
        writer.join().expect("it ends").expect("it wrote");
    }

    #[test]
    fn all_that_cannot_be_read_is_told_at_once() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let latin = directory.path().join("latin.yaml");
        std::fs::write(&latin, b"a: 1\nb: caf\xe9\n").expect("writes");
        let violations = read(&[directory.path().join("missing"), latin]).expect_err("neither can be read");
        let places: Vec<_> = violations.iter().map(|violation| (violation.line, violation.column)).collect();
        assert_eq!(places, [(None, None), (Some(2), Some(7))]);
    }
}
