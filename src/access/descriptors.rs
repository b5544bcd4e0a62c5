//! File descriptors of the process, shared out among the ports, so that a flood of one port leaves the other one
//! its connections, and both leave some for files.

use std::io;

/// Largest number of connections of the admin port.
const MAX_ADMIN: u64 = 1_024;

/// Largest number of descriptors kept for files: the database, watched directories, configs, alerts, DNS.
const MAX_FILES: u64 = 128;

/// Numbers of connections that the ports may have at once, so that together they use no more than the descriptors
/// of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionShares {
    /// Connections of the xDS port.
    pub xds: usize,
    /// Connections of the admin port.
    pub admin: usize,
}

impl ConnectionShares {
    /// Shares out `descriptors`: a quarter is for the admin port, but at most 1,024, and a quarter for files, but at
    /// most 128. The rest is for Envoys.
    pub fn of(descriptors: u64) -> Self {
        // No system has more.
        let descriptors = descriptors.min(u64::from(u32::MAX));
        let (admin, files) = ((descriptors / 4).min(MAX_ADMIN), (descriptors / 4).min(MAX_FILES));
        let xds = descriptors - admin - files;
        Self { xds: xds as usize, admin: admin as usize }
    }
}

/// Raises the limit of open descriptors to the hard limit, and returns it.
///
/// # Errors
///
/// Fails if the system refuses; the limit is what it was then.
pub fn raise() -> io::Result<u64> {
    rlimit::increase_nofile_limit(u64::MAX)
}

/// Returns the limit of open descriptors as it is; that of POSIX if the system does not know it.
pub fn limit() -> u64 {
    rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(20, |(soft, _)| soft)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_descriptors_are_for_envoys_and_no_port_takes_all() {
        for (descriptors, xds, admin) in [
            (64, 32, 16),
            (256, 128, 64),
            (1_024, 640, 256),
            (4_096, 2_944, 1_024),
            (20_000, 18_848, 1_024),
            (1 << 20, (1 << 20) - 1_152, 1_024),
            (u64::MAX, u32::MAX as usize - 1_152, 1_024),
        ] {
            assert_eq!(ConnectionShares::of(descriptors), ConnectionShares { xds, admin }, "{descriptors}");
        }
    }
}
