//! Kind of an event.

/// Kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A change was accepted.
    Revision,
    /// A change was rolled back.
    Rejected,
    /// An Envoy refused resources.
    Nack,
    /// An Envoy connected.
    Connected,
    /// An Envoy disconnected.
    Disconnected,
    /// The files have faults.
    FilesRefused,
    /// The files are without faults again.
    FilesRecovered,
    /// A standby serves.
    Failover,
    /// The primaries serve again.
    Failback,
    /// The state of targets changed.
    TargetState,
    /// A tier was pinned or unpinned.
    Pin,
    /// A hold began, changed or ended.
    Hold,
    /// A drill began, ended or was skipped.
    Drill,
}

impl EventKind {
    /// Returns its word: the `event` field of the stream.
    pub fn word(self) -> &'static str {
        match self {
            Self::Revision => "revision",
            Self::Rejected => "rejected",
            Self::Nack => "nack",
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::FilesRefused => "files_refused",
            Self::FilesRecovered => "files_recovered",
            Self::Failover => "failover",
            Self::Failback => "failback",
            Self::TargetState => "target_state",
            Self::Pin => "pin",
            Self::Hold => "hold",
            Self::Drill => "drill",
        }
    }
}
