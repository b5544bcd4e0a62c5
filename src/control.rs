//! The one door through which the desired config changes.
//!
//! A thread of its own holds the [`Inputs`]. Every change, by whatever road it comes, is applied to a copy,
//! built whole, made durable and only then published; if any of that fails the old inputs stay. Changes come
//! one after the other, so each sees the last one's outcome.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};

use crate::cache::Cache;
use crate::config::{Level, Violation, render};
use crate::model::target::Addresses;
use crate::pipeline::{self, Build, Inputs};
use crate::source::files::Files;
use crate::source::resolve::Resolver;
use crate::store::{self, Change, Store};

/// Why a write changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The config as a whole would not make sense.
    #[error("the change was refused")]
    Refused(Vec<Violation>),
    /// It could not be made durable.
    #[error("the change could not be stored")]
    Store(#[source] store::Error),
    /// We are shutting down.
    #[error("understudy is shutting down")]
    ShuttingDown,
}

type Task = Box<dyn FnOnce(&mut State) + Send>;

/// The door. Cheap to clone: clones share.
#[derive(Debug, Clone)]
pub struct Control {
    tasks: mpsc::UnboundedSender<Task>,
    violations: watch::Receiver<Vec<Violation>>,
}

/// What the thread owns.
struct State {
    inputs: Inputs,
    build: Arc<Build>,
    cache: Arc<Cache>,
    store: Store,
    resolver: Resolver,
    runtime: tokio::runtime::Handle,
    /// Files that were refused, to be tried again when something else changed.
    refused: Option<Files>,
    violations: watch::Sender<Vec<Violation>>,
}

/// Everything that a config starts from.
#[derive(Debug)]
pub struct Start {
    /// The texts of the config paths.
    pub files: Files,
    /// What was written over REST before.
    pub store: Store,
    /// For host names among the targets.
    pub resolver: Resolver,
}

/// Builds the first config and opens the door.
///
/// # Errors
///
/// When the store cannot be read, or with all that is wrong with the config.
pub fn start(start: Start, runtime: &tokio::runtime::Handle) -> Result<(Control, Arc<Cache>), WriteError> {
    let Start { files, store, mut resolver } = start;
    let stored = store.load().map_err(WriteError::Store)?;
    let mut inputs = Inputs { files, stored, addresses: Addresses::new() };
    let build = build(&mut inputs, None, &mut resolver, runtime).map_err(WriteError::Refused)?;
    let build = Arc::new(build);
    warn_of(&build);
    let cache = Arc::new(Cache::new(build.clone()));
    let (violations, watched) = watch::channel(Vec::new());
    let state = State {
        inputs,
        build,
        cache: cache.clone(),
        store,
        resolver,
        runtime: runtime.clone(),
        refused: None,
        violations,
    };
    let (tasks, queue) = mpsc::unbounded_channel();
    std::thread::spawn(move || state.run(queue));
    Ok((Control { tasks, violations: watched }, cache))
}

impl Control {
    /// Takes what the config paths hold now. A broken one leaves everything as it is and is told in
    /// [`Self::violations`] and in the log. False when we are shutting down.
    pub fn files(&self, read: Result<Files, Vec<Violation>>) -> bool {
        self.tasks.send(Box::new(move |state| state.take_files(read))).is_ok()
    }

    /// What is wrong with the files now, while the last good config serves.
    pub fn violations(&self) -> Vec<Violation> {
        self.violations.borrow().clone()
    }

    /// Decides on a change by the newest config and applies it, all or nothing. When this returns, it is
    /// durable and published.
    ///
    /// # Errors
    ///
    /// What `decide` returned, or why the change was refused.
    pub async fn write<T, E>(
        &self,
        decide: impl FnOnce(&Inputs, &Build) -> Result<(Vec<Change>, T), E> + Send + 'static,
    ) -> Result<(Arc<Build>, T), E>
    where
        T: Send + 'static,
        E: From<WriteError> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let task = move |state: &mut State| {
            let outcome = decide(&state.inputs, &state.build).and_then(|(changes, answer)| {
                state.apply(&changes)?;
                Ok((state.build.clone(), answer))
            });
            // Whoever asked may have hung up; the change stands all the same.
            let _ = sender.send(outcome);
        };
        self.tasks.send(Box::new(task)).map_err(|_| WriteError::ShuttingDown)?;
        receiver.await.map_err(|_| WriteError::ShuttingDown)?
    }
}

impl State {
    fn run(mut self, mut queue: mpsc::UnboundedReceiver<Task>) {
        let runtime = self.runtime.clone();
        loop {
            // Between changes names are looked up again as their answers expire.
            let task = runtime.block_on(async {
                tokio::select! {
                    task = queue.recv() => Some(task),
                    () = self.resolver.refresh() => None,
                }
            });
            match task {
                Some(Some(task)) => task(&mut self),
                Some(None) => return,
                None => self.take_addresses(),
            }
        }
    }

    fn take_files(&mut self, read: Result<Files, Vec<Violation>>) {
        match read {
            Ok(files) if files == self.inputs.files => {
                if self.refused.take().is_some() || !self.violations.borrow().is_empty() {
                    info!("the files are again what is being served");
                    self.violations.send_replace(Vec::new());
                }
            }
            Ok(files) if self.refused.as_ref() == Some(&files) => {}
            Ok(files) => self.try_files(files),
            Err(violations) => {
                self.refused = None;
                self.tell(violations);
            }
        }
    }

    fn try_files(&mut self, files: Files) {
        let mut inputs = Inputs { files, ..self.inputs.clone() };
        match build(&mut inputs, Some(&self.build), &mut self.resolver, &self.runtime) {
            Ok(build) => {
                self.refused = None;
                self.violations.send_replace(Vec::new());
                self.publish(inputs, build, "files");
            }
            Err(violations) => {
                self.refused = Some(inputs.files);
                self.tell(violations);
            }
        }
    }

    /// Notes and logs what is wrong with the files, once.
    fn tell(&mut self, violations: Vec<Violation>) {
        if *self.violations.borrow() == violations {
            return;
        }
        for violation in &violations {
            warn!("{}", render::line(violation));
        }
        warn!(faults = violations.len(), "the files were refused; the last good config keeps serving");
        self.violations.send_replace(violations);
    }

    fn take_addresses(&mut self) {
        let addresses = self.resolver.addresses();
        if addresses == self.inputs.addresses {
            return;
        }
        let mut inputs = Inputs { addresses, ..self.inputs.clone() };
        match build(&mut inputs, Some(&self.build), &mut self.resolver, &self.runtime) {
            Ok(build) => self.publish(inputs, build, "addresses"),
            Err(violations) => error!(?violations, "new addresses made a good config bad, which cannot be"),
        }
    }

    fn apply(&mut self, changes: &[Change]) -> Result<(), WriteError> {
        let mut inputs = self.inputs.clone();
        for change in changes {
            match change.clone() {
                Change::Put { kind, name, body } => drop(inputs.stored.insert((kind, name), body)),
                Change::Delete { kind, name } => drop(inputs.stored.remove(&(kind, name))),
            }
        }
        if inputs.stored == self.inputs.stored {
            return Ok(());
        }
        let build = build(&mut inputs, Some(&self.build), &mut self.resolver, &self.runtime)
            .map_err(WriteError::Refused)?;
        self.store.commit(changes).map_err(|error| {
            error!(error = &error as &dyn std::error::Error, "a change was not stored");
            WriteError::Store(error)
        })?;
        self.publish(inputs, build, "api");
        // What the files lacked may be there now.
        if let Some(files) = self.refused.take() {
            self.try_files(files);
        }
        Ok(())
    }

    fn publish(&mut self, inputs: Inputs, build: Build, source: &str) {
        let changed = build.snapshots != self.build.snapshots;
        self.inputs = inputs;
        self.build = Arc::new(build);
        warn_of(&self.build);
        self.cache.publish(self.build.clone());
        info!(source, changed, upstreams = self.build.model.upstreams.len(), "config accepted");
    }
}

fn warn_of(build: &Build) {
    for violation in build.warnings.iter().filter(|violation| violation.level == Level::Warning) {
        warn!("{}", render::line(violation));
    }
}

/// Builds, and builds again if names came up that were never looked up: an upstream of nothing but new names
/// must not be published empty for the moment that the look-up takes.
fn build(
    inputs: &mut Inputs,
    last: Option<&Build>,
    resolver: &mut Resolver,
    runtime: &tokio::runtime::Handle,
) -> Result<Build, Vec<Violation>> {
    let build = pipeline::build(inputs, last)?;
    let names: BTreeSet<String> = build.host_names();
    runtime.block_on(resolver.retain(&names));
    let addresses = resolver.addresses();
    if addresses == inputs.addresses {
        return Ok(build);
    }
    inputs.addresses = addresses;
    pipeline::build(inputs, last)
}
