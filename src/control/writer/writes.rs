//! Group commit of writes over the API.
//!
//! Writes that arrive while others are made durable form a group: each is decided on the result of the one
//! before it, all are built at once, and they become durable in one transaction, each with a revision of its
//! own. If the group as a whole is refused, or has a new warning, each write is built on its own, so that
//! each client gets its own faults and warnings. No client gets a reply before the transaction, and if that
//! fails, nothing was published.

use std::sync::Arc;

use tracing::{debug, error};

use crate::control::desired::Unbuilt;
use crate::control::queue::TaskQueue;
use crate::control::task::{QueuedWrite, Task};
use crate::control::writer::Writer;
use crate::store::{self, RevisionSource};

/// Maximum number of writes in a group.
const GROUP: usize = 256;

/// Outcome of a group that is durable and published.
#[derive(Clone, Copy)]
struct Committed {
    generation: u64,
    /// True if the group has a revision.
    is_change: bool,
}

impl Writer {
    /// Makes this write, and those that wait behind it, durable and publishes the result. Returns the task
    /// that ended the group, if one did.
    pub(super) fn write(&mut self, first: Box<dyn QueuedWrite>, queue: &mut TaskQueue) -> Option<Task> {
        let (mut writes, next) = group(first, queue);
        if writes.is_empty() {
            return next;
        }
        let outcome = loop {
            match self.commit_group(&mut writes) {
                // Another control plane wrote first: decide again on its result.
                Err(store::Error::Conflict { .. }) if self.catch_up() => {}
                outcome => break outcome.map_err(Arc::new),
            }
        };
        if let Err(error) = &outcome {
            error!(error = &**error as &dyn std::error::Error, "changes were not stored");
        }
        for mut write in writes {
            match write.take_unread() {
                None => write.finish(outcome.clone().map(|committed| committed.generation)),
                Some(unread) => self.aside.read(unread, move |texts| {
                    write.add_texts(texts);
                    Task::Write(write)
                }),
            }
        }
        if outcome.is_ok_and(|committed| committed.is_change) {
            self.retry_refused_files();
        }
        self.files.publish_named_files(&self.desired.inputs);
        next
    }

    /// Stages, commits and publishes a group. After an error, the desired config is what it was before.
    fn commit_group(&mut self, writes: &mut [Box<dyn QueuedWrite>]) -> Result<Committed, store::Error> {
        let (before, revision) = (self.desired.built(), self.desired.revision);
        if writes.len() == 1 || !self.stage_together(writes) {
            for write in writes {
                self.stage_alone(&mut **write);
            }
        }
        let (mut commit, changes) = self.staging.take();
        let is_change = !commit.revisions.is_empty();
        if !is_change && commit.answers.is_empty() {
            return Ok(Committed { generation: self.rollout.generation(), is_change });
        }
        let plan = self.rollout.plan(&before.build, &self.desired.built(), &changes);
        let files = &before.inputs.files;
        commit.rollout =
            self.revisions.recorded.beginning(plan.waiting(&changes), plan.live_files(files, files));
        if let Err(error) = self.revisions.commit(revision, &commit) {
            self.desired.replace(before);
            self.desired.revision = revision;
            // The resolver was configured for the changes.
            self.desired.builder.resolver.configure(&self.desired.build.model.resolver);
            self.update_addresses();
            return Err(error);
        }
        if !is_change {
            return Ok(Committed { generation: self.rollout.generation(), is_change });
        }
        let generation = self.publish(RevisionSource::Api.word(), before, changes, plan);
        self.revisions.publish(&commit.revisions);
        Ok(Committed { generation, is_change })
    }

    /// Stages all writes with one build. Returns false, and stages nothing, if the result is refused or has
    /// a new warning.
    fn stage_together(&mut self, writes: &mut [Box<dyn QueuedWrite>]) -> bool {
        let mark = self.staging.mark(&self.desired);
        for write in writes.iter_mut() {
            write.stage(&mut self.staging, &mut self.desired, &*self.revisions.store);
        }
        let texts = writes.iter().flat_map(|write| write.texts().clone()).collect();
        match self.staging.build(&mut self.desired, &mark, &texts) {
            Ok(before) if before.warnings == self.desired.build.warnings => {
                writes.iter_mut().for_each(|write| write.accept(&before, &self.desired.build));
                return true;
            }
            Ok(before) => self.desired.build = before,
            Err(_) => {}
        }
        self.staging.reset(&mut self.desired, mark);
        false
    }

    fn stage_alone(&mut self, write: &mut dyn QueuedWrite) {
        let mark = self.staging.mark(&self.desired);
        write.stage(&mut self.staging, &mut self.desired, &*self.revisions.store);
        match self.staging.build(&mut self.desired, &mark, write.texts()) {
            Ok(before) => write.accept(&before, &self.desired.build),
            Err(unbuilt) => {
                self.staging.reset(&mut self.desired, mark);
                match unbuilt {
                    Unbuilt::Faults(violations) => write.refuse(violations),
                    Unbuilt::Unread(unread) => write.postpone(unread),
                }
            }
        }
    }
}

/// Takes the writes that wait behind the first one, and the task that ended the group. A write is dropped if nobody
/// waits for it any more: its client believes that it failed, and may have sent it again.
fn group(first: Box<dyn QueuedWrite>, queue: &mut TaskQueue) -> (Vec<Box<dyn QueuedWrite>>, Option<Task>) {
    let is_alone = first.is_alone();
    let mut writes = vec![first];
    let mut next = None;
    while writes.len() < GROUP && !is_alone {
        match queue.next_request() {
            Some(Task::Write(write)) if !write.is_alone() => writes.push(write),
            other => {
                next = other;
                break;
            }
        }
    }
    let taken = writes.len();
    writes.retain(|write| !write.is_abandoned());
    if writes.len() < taken {
        debug!(writes = taken - writes.len(), "dropped writes whose clients are gone");
    }
    (writes, next)
}
