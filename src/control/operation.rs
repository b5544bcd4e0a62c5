//! Operation: a write that is decided on the desired config, and the reply to it.

use std::sync::Arc;

use crate::build::{Build, Inputs};
use crate::config::Violation;
use crate::config::edit::EntityChange;
use crate::store::{self, RevisionSource};

/// Kind of write. Its functions run in the writer's thread.
///
/// [`Operation::decide`] runs once or several times, always on the newest desired config; then either
/// [`Operation::reply`] or, if the build refuses the changes, [`Operation::refuse`]. Both get the details of
/// the last decision.
pub trait Operation: Send + 'static {
    /// Facts of a decision that the reply or a refusal needs beside the changes.
    type Details: Send + 'static;
    /// Reply to an accepted write.
    type Reply: OperationReply;
    /// Reason why the write changed nothing.
    type Refusal: From<WriteError> + Send + 'static;

    /// Decides which entities change.
    ///
    /// # Errors
    ///
    /// Fails if the operation does not fit the desired config.
    fn decide(&self, desired: DesiredConfig<'_>) -> Result<Decision<Self::Details>, Self::Refusal>;

    /// Returns the reply. `desired` has the changes of the decision already.
    fn reply(&self, details: &Self::Details, desired: DesiredConfig<'_>) -> Self::Reply;

    /// Returns the refusal of changes with which the config has these faults.
    fn refuse(&self, details: &Self::Details, violations: Vec<Violation>) -> Self::Refusal;
}

/// Reply that can be kept for a repeated request.
pub trait OperationReply: Clone + Send + 'static {
    /// Encodes the reply as protobuf fields with numbers from 4; see [`store::KeptAnswer::answer`].
    fn encode(&self) -> Vec<u8>;

    /// Decodes a kept reply; none if it is damaged.
    fn decode(bytes: &[u8]) -> Option<Self>;
}

/// Reason why a write changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The config as a whole would have faults.
    #[error("the change was refused")]
    Refused(Vec<Violation>),
    /// The change could not be made durable.
    #[error("the change could not be stored")]
    Store(#[source] Arc<store::Error>),
    /// The idempotency key belongs to another request.
    #[error("the idempotency key was used for another request before")]
    Reused,
    /// The control plane is shutting down.
    #[error("understudy is shutting down")]
    ShuttingDown,
    /// Too many requests wait for the writer's thread.
    #[error("too many changes and plans wait for their turn: send it again")]
    Busy,
}

impl From<store::Error> for WriteError {
    fn from(error: store::Error) -> Self {
        Self::Store(Arc::new(error))
    }
}

/// Author and circumstances of a write.
#[derive(Debug, Clone)]
pub struct WriteRequest {
    /// Source of the revision.
    pub source: RevisionSource,
    /// Name of the client.
    pub author: String,
    /// Reason, if one was given.
    pub reason: Option<String>,
    /// Idempotency key of the request, with the hash of the request.
    pub idempotency: Option<(String, u128)>,
    /// True if the write must see the stored revisions of all writes before it.
    pub alone: bool,
}

/// Newest config, with all changes that are accepted or staged.
#[derive(Debug, Clone, Copy)]
pub struct DesiredConfig<'a> {
    /// Inputs of the config.
    pub inputs: &'a Inputs,
    /// Newest build. Entities that were staged since are in the inputs only.
    pub build: &'a Build,
    /// Number of the newest revision.
    pub revision: u64,
}

/// Changes that an operation makes.
#[derive(Debug)]
pub struct Decision<D> {
    /// Changes of entities, in order.
    pub changes: Vec<EntityChange>,
    /// Facts for the reply or a refusal.
    pub details: D,
}

/// Write that is durable and published.
#[derive(Debug)]
pub struct AcceptedWrite<R> {
    /// Reply to the client.
    pub reply: R,
    /// Revision that it made; none if nothing had to change.
    pub revision: Option<u64>,
    /// True if the reply was kept from an earlier request; nothing changed this time.
    pub is_repeated: bool,
    /// Config before the write.
    pub before: Arc<Build>,
    /// Config with the write.
    pub build: Arc<Build>,
    /// Generation that contains it; see [`crate::cache::Cache::publish`].
    pub generation: u64,
}
