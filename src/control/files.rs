//! Config files: faults of the current ones, and inputs that were refused and may be tried again.

use std::collections::BTreeSet;

use jiff::Timestamp;
use tokio::sync::watch;
use tracing::{info, warn};
use xxhash_rust::xxh3::Xxh3;

use crate::build::Inputs;
use crate::config::cap::capped;
use crate::config::code;
use crate::config::edit::Files;
use crate::config::material::{NamedFile, NamedFiles};
use crate::config::{Level, Violation, render};
use crate::telemetry::events::{Event, Events};

/// Faults of the files, and the time since which they are not what is served.
#[derive(Debug, Default)]
pub(super) struct FileFaults {
    pub(super) violations: Vec<Violation>,
    pub(super) since: Option<Timestamp>,
}

/// State of the config files.
#[derive(Debug)]
pub(super) struct FileState {
    /// Inputs with files that have faults, to be tried again when something else changed.
    pub(super) refused: Option<Inputs>,
    /// Inputs with files that a canary refused, to be tried again when they change.
    pub(super) refused_by_envoy: Option<Inputs>,
    faults: watch::Sender<FileFaults>,
    /// Files that the config names, and those named by refused inputs, which may be corrected in them.
    named_files: watch::Sender<BTreeSet<NamedFile>>,
    events: Events,
}

impl FileState {
    /// Creates the state of a start with these inputs.
    pub(super) fn new(
        inputs: &Inputs,
        refused: Option<Inputs>,
        refused_by_envoy: Option<Inputs>,
        events: Events,
    ) -> Self {
        let named_files = watch::Sender::new(inputs.named_files.keys().cloned().collect());
        Self { refused, refused_by_envoy, faults: watch::Sender::default(), named_files, events }
    }

    /// Watches the faults.
    pub(super) fn watch_faults(&self) -> watch::Receiver<FileFaults> {
        self.faults.subscribe()
    }

    /// Watches the files that the documents name.
    pub(super) fn watch_named_files(&self) -> watch::Receiver<BTreeSet<NamedFile>> {
        self.named_files.subscribe()
    }

    /// Forgets refused inputs, so that their files are tried again.
    pub(super) fn forget_refused(&mut self) {
        (self.refused, self.refused_by_envoy) = (None, None);
    }

    /// Returns the files whose texts tell if anything changed.
    pub(super) fn compared(&self, accepted: &Inputs) -> BTreeSet<NamedFile> {
        let all = std::iter::once(accepted).chain(&self.refused).chain(&self.refused_by_envoy);
        all.flat_map(|inputs| inputs.named_files.keys().cloned()).collect()
    }

    /// Returns the files if they should be tried: they are neither those of `accepted` nor refused before.
    /// Reports files that cannot be read. `texts` are those of the files that documents name.
    pub(super) fn changed(
        &mut self,
        read: Result<Files, Vec<Violation>>,
        texts: &NamedFiles,
        accepted: &Inputs,
    ) -> Option<Files> {
        let is_as_read = |inputs: &Inputs, files: &Files| is_as_read(inputs, files, texts);
        let is_known = |inputs: &Option<Inputs>, files: &Files| {
            inputs.as_ref().is_some_and(|inputs| is_as_read(inputs, files))
        };
        match read {
            Ok(files) if is_as_read(accepted, &files) => {
                self.refused_by_envoy = None;
                if self.refused.take().is_some() || self.faults.borrow().since.is_some() {
                    info!("the files are again what is being served");
                    self.report_recovery();
                }
                None
            }
            Ok(files) if is_known(&self.refused, &files) || is_known(&self.refused_by_envoy, &files) => None,
            Ok(files) => Some(files),
            Err(violations) => {
                self.refused = None;
                self.report(violations);
                None
            }
        }
    }

    /// Publishes and logs the faults of the files, once; of too many, the first and their number.
    pub(super) fn report(&mut self, violations: Vec<Violation>) {
        let count = violations.len();
        let violations = capped(violations);
        if self.faults.borrow().violations == violations {
            return;
        }
        for violation in &violations {
            warn!("{}", render::line(violation));
        }
        warn!(faults = count, "the files were refused; the last good config keeps serving");
        let event = Event::FilesRefused { violations: count };
        self.faults.send_modify(|faults| {
            faults.since = faults.since.or_else(|| Some(Timestamp::now()));
            faults.violations = violations;
        });
        // Published last, so that a receiver of the event finds the faults.
        self.events.publish(&event);
    }

    /// Publishes that the files are what is served.
    pub(super) fn report_recovery(&self) {
        if self.faults.send_replace(FileFaults::default()).since.is_some() {
            self.events.publish(&Event::FilesRecovered {});
        }
    }

    /// Publishes the files that the documents name.
    pub(super) fn publish_named_files(&self, accepted: &Inputs) {
        let named = self.compared(accepted);
        self.named_files.send_if_modified(|published| {
            let differs = *published != named;
            *published = named;
            differs
        });
    }
}

/// True if the config paths hold `files`, and the files that their documents name have these texts.
fn is_as_read(inputs: &Inputs, files: &Files, texts: &NamedFiles) -> bool {
    let is_same = |(named, text)| texts.get(named) == Some(text);
    inputs.files == *files && inputs.named_files.iter().all(is_same)
}

/// Returns the violation of files that an Envoy refused, at the first file that they changed.
pub(super) fn refused_files(file: Option<String>, message: String) -> Violation {
    Violation {
        code: code::REFUSED_BY_ENVOY,
        level: Level::Error,
        message,
        help: Some("correct what the Envoy names; the files are tried again when they change".to_owned()),
        file,
        line: None,
        column: None,
        path: String::new(),
        pointer: None,
        related: Vec::new(),
    }
}

/// Returns the hash of the files and of those that they name.
pub(super) fn fingerprint(inputs: &Inputs) -> u64 {
    let mut hash = Xxh3::new();
    let named = inputs.named_files.iter();
    let named = named.map(|(named, text)| (&named.path, text.as_deref().unwrap_or_default()));
    for (name, text) in inputs.files.iter().map(|(name, text)| (name, &**text)).chain(named) {
        for item in [name.as_str(), text] {
            hash.update(&(item.len() as u64).to_le_bytes());
            hash.update(item.as_bytes());
        }
    }
    hash.digest()
}
