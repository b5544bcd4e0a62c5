//! Queues of the writer's thread.
//!
//! Requests of clients wait in a queue of limited length. Whatever comes from within (files, reloads, overrides of
//! endpoints, changes that waited for a file) has a queue of its own, which goes first, so that no number of clients
//! keeps it from being done.

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Receiver, Sender, UnboundedReceiver, UnboundedSender, WeakUnboundedSender};

use crate::control::operation::WriteError;
use crate::control::task::Task;

/// Number of requests that may wait.
pub(super) const MAX_WAITING: usize = 512;

/// Sending ends of the queues. Cheap to clone: clones share.
#[derive(Debug, Clone)]
pub(super) struct TaskSender {
    own: UnboundedSender<Task>,
    requests: Sender<Task>,
}

/// Sending end of the queue of internal tasks that does not keep the thread alive.
pub(super) type WeakTaskSender = WeakUnboundedSender<Task>;

/// Receiving ends of the queues.
pub(super) struct TaskQueue {
    own: UnboundedReceiver<Task>,
    requests: Receiver<Task>,
}

/// Creates the queues.
pub(super) fn queues() -> (TaskSender, TaskQueue) {
    let (own, own_queue) = mpsc::unbounded_channel();
    let (requests, request_queue) = mpsc::channel(MAX_WAITING);
    (TaskSender { own, requests }, TaskQueue { own: own_queue, requests: request_queue })
}

impl TaskSender {
    /// Sends an internal task. Returns false if the thread has ended.
    pub(super) fn send(&self, task: Task) -> bool {
        self.own.send(task).is_ok()
    }

    /// Sends the request of a client.
    ///
    /// # Errors
    ///
    /// Fails if too many wait, or if the thread has ended.
    pub(super) fn request(&self, task: Task) -> Result<(), WriteError> {
        self.requests.try_send(task).map_err(|error| match error {
            TrySendError::Full(_) => WriteError::Busy,
            TrySendError::Closed(_) => WriteError::ShuttingDown,
        })
    }

    /// Returns a sender of internal tasks that does not keep the thread alive.
    pub(super) fn downgrade(&self) -> WeakTaskSender {
        self.own.downgrade()
    }

    /// Resolves when the thread has ended.
    pub(super) async fn closed(&self) {
        self.own.closed().await;
    }
}

impl TaskQueue {
    /// Waits for the next task; none once all handles are dropped.
    pub(super) async fn next(&mut self) -> Option<Task> {
        tokio::select! {
            task = self.own.recv() => task,
            task = self.requests.recv() => task,
        }
    }

    /// Returns the next internal task, if one waits.
    pub(super) fn next_own(&mut self) -> Option<Task> {
        self.own.try_recv().ok()
    }

    /// Returns the next request, if one waits.
    pub(super) fn next_request(&mut self) -> Option<Task> {
        self.requests.try_recv().ok()
    }
}
