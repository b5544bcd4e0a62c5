//! Changes that wait for a file: the writer sets them aside, the file is read on another thread, and they are queued
//! again with its text.

use std::collections::BTreeSet;

use crate::config::material::{NamedFile, NamedFiles};
use crate::control::queue::WeakTaskSender;
use crate::control::task::{FilesChange, Task};
use crate::source::material::MaterialReader;

/// Reader of the files of changes that are set aside.
pub(super) struct AsideReader {
    pub(super) material: MaterialReader,
    /// Sender to the writer's own queue.
    pub(super) tasks: WeakTaskSender,
}

impl AsideReader {
    /// Reads the files on another thread, and queues the task that `resume` makes of their texts.
    pub(super) fn read(
        &self,
        unread: BTreeSet<NamedFile>,
        resume: impl FnOnce(NamedFiles) -> Task + Send + 'static,
    ) {
        let (material, tasks) = (self.material.clone(), self.tasks.clone());
        std::thread::spawn(move || {
            let task = resume(material.read(&unread));
            // Fails at the end of the program only.
            let _ = tasks.upgrade().map(|tasks| tasks.send(task));
        });
    }

    /// Reads the files for a change of the config files.
    pub(super) fn read_for(&self, unread: BTreeSet<NamedFile>, change: FilesChange) {
        self.read(unread, move |read| {
            Task::Files(FilesChange { texts: change.texts.into_iter().chain(read).collect(), ..change })
        });
    }
}
