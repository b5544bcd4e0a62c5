//! Reader of config paths. All files are read, or none.
//!
//! A path is a file or a directory. A directory is the sum of its `*.yaml`, `*.yml` and `*.json`, not
//! recursive; names that begin with `.` are ignored, so that a mounted config map is not read twice.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::edit::Files;
use crate::config::{Level, Violation};

/// Time that a file may stay blank between being truncated and being written.
const PATIENCE: Duration = Duration::from_secs(1);
/// Interval at which a blank file is read again.
const AGAIN: Duration = Duration::from_millis(50);

/// Code of a path that cannot be read or is not UTF-8.
const UNREADABLE: &str = "US107";
/// Code of a directory without config files.
const EMPTY: &str = "US108";

/// Reads every config file under `paths`.
///
/// # Errors
///
/// One violation for each path that cannot be read and for each file that is not UTF-8.
pub fn read(paths: &[PathBuf]) -> Result<Files, Vec<Violation>> {
    read_again(paths, &Files::new())
}

/// Reads every config file under `paths`. Texts that equal those of `last`, the previous result, are shared
/// with it.
fn read_again(paths: &[PathBuf], last: &Files) -> Result<Files, Vec<Violation>> {
    let mut files = last.clone();
    let mut found = BTreeSet::new();
    let mut violations = Vec::new();
    for path in paths {
        match list(path) {
            Ok(listed) => {
                for file in listed {
                    let name = name(&file);
                    match read_text(&file) {
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

/// Reads every config file under `paths`, and waits for files that are being written. A file that had text in
/// `last` and is blank now was probably truncated to be rewritten. It is read again until it has text, or for
/// a second at most; then it is taken to be blank on purpose.
///
/// # Errors
///
/// As [`read`].
pub fn read_settled(paths: &[PathBuf], last: &Files) -> Result<Files, Vec<Violation>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let files = read_again(paths, last)?;
        let had_text = |name: &String| last.get(name).is_some_and(|text| !text.trim().is_empty());
        let cut = files.iter().any(|(name, text)| text.trim().is_empty() && had_text(name));
        if !cut || Instant::now() >= deadline {
            return Ok(files);
        }
        std::thread::sleep(AGAIN);
    }
}

/// Returns a warning for each directory among the paths that holds no config file.
pub fn empty(paths: &[PathBuf]) -> Vec<Violation> {
    let is_empty = |path: &&PathBuf| path.is_dir() && list(path).is_ok_and(|files| files.is_empty());
    let warning = |path: &PathBuf| Violation {
        code: EMPTY,
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

/// Returns the config files of a path: the file itself, or those in the directory.
fn list(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !path.metadata()?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in path.read_dir()? {
        let file = entry?.path();
        if is_config(&file) && file.metadata()?.is_file() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn is_config(file: &Path) -> bool {
    let hidden = file.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let extension = file.extension().and_then(|extension| extension.to_str());
    !hidden && matches!(extension, Some("yaml" | "yml" | "json"))
}

fn read_text(file: &Path) -> Result<Arc<str>, Box<Violation>> {
    let bytes = std::fs::read(file).map_err(|error| Box::new(unreadable(file, &error)))?;
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
    Violation {
        help: Some("name a file or a directory that this user may read".to_owned()),
        ..violation(path, format!("cannot read it: {error}"))
    }
}

fn violation(path: &Path, message: String) -> Violation {
    Violation {
        code: UNREADABLE,
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

        std::fs::write(&file, "").expect("truncates");
        let files = read_settled(&paths, &files).expect("reads");
        assert_eq!(files.values().map(|text| &**text).collect::<Vec<_>>(), [""], "blank is meant");
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
