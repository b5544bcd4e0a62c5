//! Changes that wait for a file: the writer sets them aside, the file is read on another thread, and they are queued
//! again with its text.

use std::collections::BTreeSet;

use crate::config::material::{NamedFile, NamedFiles};
use crate::control::task::{QueuedPlan, Task};
use crate::control::writer::Writer;

impl Writer {
    /// Plans, or sets the plan aside.
    pub(super) fn plan(&mut self, mut plan: Box<dyn QueuedPlan>) {
        if plan.is_abandoned() {
            return;
        }
        if let Some(unread) = plan.plan(&self.desired) {
            self.set_aside(unread, move |texts| {
                plan.add_texts(texts);
                Task::Plan(plan)
            });
        }
    }

    /// Reads the files on another thread, and queues the task that `resume` makes of their texts.
    pub(super) fn set_aside(
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
}
