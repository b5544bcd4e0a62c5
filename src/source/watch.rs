//! Says when config paths may have changed.
//!
//! Directories are watched, never files: a watch on a file goes silent after the first atomic rename or the
//! swap of a mounted config map. Any event means "read all again"; after each one the watches are made anew,
//! so that a directory that was replaced is followed too. File systems that send no events are read every
//! half a minute all the same.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use notify::{EventKind, RecursiveMode, Watcher};
use tracing::warn;

/// A change is over when nothing happened for so long,
const QUIET: Duration = Duration::from_millis(50);
/// or when it has gone on for so long.
const AT_MOST: Duration = Duration::from_secs(2);
/// How often paths are read without any event.
const POLL: Duration = Duration::from_secs(30);

/// Calls `changed` once at the start and whenever `paths` may have changed, on a thread of its own, until it
/// returns false.
pub fn watch(paths: Vec<PathBuf>, mut changed: impl FnMut() -> bool + Send + 'static) {
    std::thread::spawn(move || {
        loop {
            // The watches stand before the paths are read, so that nothing falls between the two.
            let (events, _watcher) = listen(&paths);
            if !changed() {
                return;
            }
            wait(&events);
        }
    });
}

/// Waits until something happened and it is over, or it is time to look anyway.
fn wait(events: &Receiver<()>) {
    match events.recv_timeout(POLL) {
        Ok(()) => {}
        Err(RecvTimeoutError::Timeout) => return,
        // There are no watches: look at times.
        Err(RecvTimeoutError::Disconnected) => return std::thread::sleep(POLL),
    }
    let end = Instant::now() + AT_MOST;
    while Instant::now() < end && events.recv_timeout(QUIET).is_ok() {}
}

fn listen(paths: &[PathBuf]) -> (Receiver<()>, Option<notify::RecommendedWatcher>) {
    let (sender, events) = channel();
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading a file is an event too; to follow those would be to go in circles.
        if !matches!(event, Ok(notify::Event { kind: EventKind::Access(_), .. })) {
            // Nobody listens any more: a newer watcher has taken over.
            let _ = sender.send(());
        }
    });
    let mut watcher = match watcher {
        Ok(watcher) => watcher,
        Err(error) => {
            warn!(%error, "cannot watch for changes; the config is read every {POLL:?}");
            return (events, None);
        }
    };
    for directory in paths.iter().flat_map(|path| directories(path)) {
        if let Err(error) = watcher.watch(&directory, RecursiveMode::NonRecursive) {
            warn!(directory = %directory.display(), %error, "cannot watch; it is read every {POLL:?}");
        }
    }
    (events, Some(watcher))
}

/// The directories in which a change of `path` shows: where it lies and what it links to, the parents of both,
/// in which they may be replaced, and those of all links on the way, which may be swapped.
fn directories(path: &Path) -> BTreeSet<PathBuf> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut directories = BTreeSet::new();
    for place in [Some(absolute.clone()), absolute.canonicalize().ok()].into_iter().flatten() {
        directories.extend(place.ancestors().take(3).filter(|place| place.is_dir()).map(Path::to_owned));
    }
    let links = absolute.ancestors().filter(|place| place.is_symlink());
    directories.extend(links.filter_map(|link| link.parent().map(Path::to_owned)));
    if absolute.is_dir() {
        // The files of a mounted config map are links into a directory that is swapped.
        let entries = absolute.read_dir().into_iter().flatten().flatten();
        let links = entries.map(|entry| entry.path()).filter(|entry| entry.is_symlink());
        let targets = links.filter_map(|link| link.canonicalize().ok());
        directories.extend(targets.filter_map(|target| target.parent().map(Path::to_owned)));
    }
    directories
}
