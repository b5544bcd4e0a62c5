//! Changes that wait for a file: the writer sets them aside, the file is read on another thread, and they are queued
//! again with its text.

use std::collections::BTreeSet;

use crate::config::material::{NamedFile, NamedFiles};
use crate::control::queue::WeakTaskSender;
use crate::control::task::{FilesChange, QueuedPlan, Task};
use crate::control::writer::Writer;
use crate::source::material::MaterialReader;

/// Reader of the files of changes that are set aside.
pub(in crate::control) struct AsideReader {
    pub(in crate::control) material: MaterialReader,
    /// Sender to the writer's own queue.
    pub(in crate::control) tasks: WeakTaskSender,
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

impl Writer {
    /// Plans, or sets the plan aside.
    pub(super) fn plan(&mut self, mut plan: Box<dyn QueuedPlan>) {
        if plan.is_abandoned() {
            return;
        }
        if let Some(unread) = plan.plan(&self.desired) {
            self.aside.read(unread, move |texts| {
                plan.add_texts(texts);
                Task::Plan(plan)
            });
        }
    }
}
