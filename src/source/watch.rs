//! Watcher of the config paths.
//!
//! Directories are watched, never files: a watch on a file goes silent after the first atomic rename or the
//! swap of a mounted config map. Any event means that all files are read again. After each event the watches
//! are set up anew, so that a replaced directory is followed too. For file systems that send no events, the
//! files are also read at an interval.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use notify::event::ModifyKind;
use notify::{EventKind, RecursiveMode, Watcher};
use tracing::warn;

/// Time without events after which a change counts as complete.
const QUIET: Duration = Duration::from_millis(50);
/// Maximum time to wait for that.
const AT_MOST: Duration = Duration::from_secs(2);
/// Default interval at which files are read without any event.
pub const POLL: Duration = Duration::from_secs(30);

/// Handle that triggers a read at once, possibly of other paths.
#[derive(Debug, Clone)]
pub struct Nudge(Sender<()>);

impl Nudge {
    /// Triggers a read, as a file event does.
    pub fn nudge(&self) {
        // Fails only after the watcher has ended, and with it the program.
        let _ = self.0.send(());
    }
}

/// Calls `changed` once at the start, whenever one of `paths` may have changed, and when there was no event
/// for as long as `poll`. Runs on a thread of its own until `changed` returns false. `paths` is called each
/// time.
pub fn watch(
    poll: Duration,
    paths: impl Fn() -> Vec<PathBuf> + Send + 'static,
    mut changed: impl FnMut() -> bool + Send + 'static,
) -> Nudge {
    let (sender, events) = channel();
    let nudge = Nudge(sender.clone());
    std::thread::spawn(move || {
        loop {
            // The watches are set up before the paths are read, so that no change in between is missed.
            let _watcher = listen(poll, &paths(), sender.clone());
            if !changed() {
                return;
            }
            wait(poll, &events);
        }
    });
    nudge
}

/// Waits for an event and for the end of the change, or until `poll` is over.
fn wait(poll: Duration, events: &Receiver<()>) {
    if events.recv_timeout(poll).is_err() {
        return;
    }
    let end = Instant::now() + AT_MOST;
    while Instant::now() < end && events.recv_timeout(QUIET).is_ok() {}
}

fn listen(poll: Duration, paths: &[PathBuf], sender: Sender<()>) -> Option<notify::RecommendedWatcher> {
    let holding: BTreeSet<PathBuf> = paths.iter().flat_map(|path| holding(path)).collect();
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let counts = match event {
            // Reading a file is an event too; to follow it would be an endless loop.
            Ok(notify::Event { kind: EventKind::Access(_), .. }) => false,
            // Writes to files in the parent directories do not count: they may be our own log.
            Ok(notify::Event {
                kind: EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)),
                paths,
                ..
            }) => paths.iter().filter_map(|path| path.parent()).any(|parent| holding.contains(parent)),
            Ok(_) | Err(_) => true,
        };
        if counts {
            // Fails only after the watcher has ended.
            let _ = sender.send(());
        }
    });
    let mut watcher = match watcher {
        Ok(watcher) => watcher,
        Err(error) => {
            warn!(%error, "cannot watch for changes; the config is read every {poll:?}");
            return None;
        }
    };
    for directory in paths.iter().flat_map(|path| directories(path)) {
        if let Err(error) = watcher.watch(&directory, RecursiveMode::NonRecursive) {
            warn!(directory = %directory.display(), %error, "cannot watch; it is read every {poll:?}");
        }
    }
    Some(watcher)
}

/// Returns the directories in which a change of `path` shows: the path itself and the one it links to, each
/// with its two parents, in which it may be replaced; the parents of all links on the way, which may be
/// swapped; and the directories of its files.
fn directories(path: &Path) -> BTreeSet<PathBuf> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut directories = BTreeSet::new();
    for place in [Some(absolute.clone()), absolute.canonicalize().ok()].into_iter().flatten() {
        directories.extend(place.ancestors().take(3).filter(|place| place.is_dir()).map(Path::to_owned));
    }
    let links = absolute.ancestors().filter(|place| place.is_symlink());
    directories.extend(links.filter_map(|link| link.parent().map(Path::to_owned)));
    directories.extend(holding(path));
    directories
}

/// Returns the directories whose files are read for `path`, including those that its files link to.
fn holding(path: &Path) -> BTreeSet<PathBuf> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // Files of a mounted config map are links into a directory that is swapped.
    let links = |directory: &Path| {
        let entries = directory.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
        let targets = entries.filter(|entry| entry.is_symlink()).filter_map(|link| link.canonicalize().ok());
        targets.filter_map(|target| target.parent().map(Path::to_owned)).collect::<Vec<_>>()
    };
    let mut holding = BTreeSet::new();
    for place in [Some(absolute.clone()), absolute.canonicalize().ok()].into_iter().flatten() {
        let directory = if place.is_dir() { Some(place.as_path()) } else { place.parent() };
        holding.extend(directory.map(Path::to_owned));
    }
    if absolute.is_dir() {
        holding.extend(links(&absolute));
    }
    holding
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::RecvTimeoutError;

    use super::*;

    #[test]
    fn what_is_written_beside_the_config_directory_is_not_followed_and_what_is_in_it_is() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        // The config is one level further down: files of other programs beside the temporary directory would
        // count.
        let (config, log) =
            (directory.path().join("server/config"), directory.path().join("server/server.log"));
        std::fs::create_dir_all(&config).expect("makes directories");
        std::fs::write(&log, "a").expect("writes");
        std::fs::write(config.join("a.yaml"), "a").expect("writes");
        let (sender, events) = channel();
        let _watcher = listen(POLL, std::slice::from_ref(&config), sender);
        for _ in 0..10 {
            std::fs::OpenOptions::new()
                .append(true)
                .open(&log)
                .and_then(|mut log| std::io::Write::write_all(&mut log, b"line"))
                .expect("appends");
        }
        assert_eq!(events.recv_timeout(2 * QUIET), Err(RecvTimeoutError::Timeout));
        std::fs::write(config.join("a.yaml"), "b").expect("writes");
        assert_eq!(events.recv_timeout(Duration::from_secs(5)), Ok(()));
    }
}
