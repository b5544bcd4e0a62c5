//! The one door through which the desired config changes.
//!
//! A thread of its own holds the [`Inputs`]. Every change, by whatever road it comes, is applied to a copy,
//! built whole, made durable and only then published; if any of that fails the old inputs stay. Changes come
//! one after the other, so each sees the last one's outcome.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};

use crate::cache::Cache;
use crate::config::material::NamedFiles;
use crate::config::{Level, Violation, render};
use crate::model::target::Host;
use crate::pipeline::{self, Build, Inputs};
use crate::source::files::{self, Files};
use crate::source::resolve::{Names, Resolver};
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
    named_files: watch::Receiver<BTreeSet<String>>,
    names: Names,
}

/// What the thread owns.
struct State {
    inputs: Inputs,
    build: Arc<Build>,
    cache: Arc<Cache>,
    store: Store,
    resolver: Resolver,
    runtime: tokio::runtime::Handle,
    /// With files that were refused, to be tried again when something else changed.
    refused: Option<Inputs>,
    violations: watch::Sender<Vec<Violation>>,
    /// Those of the config and of one that was refused, which may be mended in them.
    named_files: watch::Sender<BTreeSet<String>>,
}

/// How files are read that the documents name.
#[derive(Debug, Clone, Copy)]
enum Reading {
    /// All of them.
    Anew,
    /// Those that were not named before. What is about something else must not fail because of a key that is
    /// just being renewed.
    Missing,
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
    let mut inputs = Inputs { files, stored, ..Inputs::default() };
    let build = build(&mut inputs, None, Reading::Anew, &mut resolver, runtime);
    let build = Arc::new(build.map_err(WriteError::Refused)?);
    warn_of(&build);
    let names = resolver.names();
    let cache = Arc::new(Cache::new(build.clone()));
    let (violations, watched_violations) = watch::channel(Vec::new());
    let (named_files, watched_files) = watch::channel(inputs.named_files.keys().cloned().collect());
    let state = State {
        inputs,
        build,
        cache: cache.clone(),
        store,
        resolver,
        runtime: runtime.clone(),
        refused: None,
        violations,
        named_files,
    };
    let (tasks, queue) = mpsc::unbounded_channel();
    std::thread::spawn(move || state.run(queue));
    let watched = Control { tasks, violations: watched_violations, named_files: watched_files, names };
    Ok((watched, cache))
}

impl Control {
    /// Takes what the config paths hold now. A broken one leaves everything as it is and is told in
    /// [`Self::violations`] and in the log. False when we are shutting down.
    pub fn files(&self, read: Result<Files, Vec<Violation>>) -> bool {
        self.tasks.send(Box::new(move |state| state.take_files(read))).is_ok()
    }

    /// The files that the config names, and those that one names which was refused: they want to be watched too.
    pub fn named_files(&self) -> watch::Receiver<BTreeSet<String>> {
        self.named_files.clone()
    }

    /// What is wrong with the files now, while the last good config serves.
    pub fn violations(&self) -> Vec<Violation> {
        self.violations.borrow().clone()
    }

    /// What is known of the host names among the targets.
    pub fn names(&self) -> &Names {
        &self.names
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
                    () = self.resolver.changed() => None,
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
            Ok(files) if is_as_read(&self.inputs, &files) => {
                if self.refused.take().is_some() || !self.violations.borrow().is_empty() {
                    info!("the files are again what is being served");
                    self.violations.send_replace(Vec::new());
                }
            }
            Ok(files) if self.refused.as_ref().is_some_and(|refused| is_as_read(refused, &files)) => {}
            Ok(files) => self.try_files(files),
            Err(violations) => {
                self.refused = None;
                self.tell(violations);
            }
        }
        self.tell_named_files();
    }

    fn try_files(&mut self, files: Files) {
        let mut inputs = Inputs { files, ..self.inputs.clone() };
        match build(&mut inputs, Some(&self.build), Reading::Anew, &mut self.resolver, &self.runtime) {
            Ok(build) => {
                self.refused = None;
                self.violations.send_replace(Vec::new());
                self.publish(inputs, build, "files");
            }
            Err(violations) => {
                self.refused = Some(inputs);
                self.tell(violations);
            }
        }
    }

    fn tell_named_files(&self) {
        let all = std::iter::once(&self.inputs).chain(&self.refused);
        let named: BTreeSet<String> = all.flat_map(|inputs| inputs.named_files.keys().cloned()).collect();
        self.named_files.send_if_modified(|told| {
            let differs = *told != named;
            *told = named;
            differs
        });
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
        match build(&mut inputs, Some(&self.build), Reading::Missing, &mut self.resolver, &self.runtime) {
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
        let build =
            build(&mut inputs, Some(&self.build), Reading::Missing, &mut self.resolver, &self.runtime)
                .map_err(WriteError::Refused)?;
        if let Err(error) = self.store.commit(changes) {
            error!(error = &error as &dyn std::error::Error, "a change was not stored");
            // What the resolver was told and found out meanwhile was for that change.
            self.resolver.configure(&self.build.model.resolver);
            self.take_addresses();
            return Err(WriteError::Store(error));
        }
        self.publish(inputs, build, "api");
        // What the files lacked may be there now.
        if let Some(refused) = self.refused.take() {
            self.try_files(refused.files);
        }
        self.tell_named_files();
        Ok(())
    }

    fn publish(&mut self, inputs: Inputs, build: Build, source: &str) {
        let changed = build.snapshots != self.build.snapshots;
        self.inputs = inputs;
        self.build = Arc::new(build);
        self.resolver.retain(&self.build.host_names());
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

/// True when the config paths hold `files`, and the files that these name are as they were.
fn is_as_read(inputs: &Inputs, files: &Files) -> bool {
    let names = || inputs.named_files.keys().cloned().collect();
    inputs.files == *files && inputs.named_files == files::read_named(&names())
}

/// Builds, and builds again if names came up that were never looked up: an upstream of nothing but new names
/// must not be published empty for the moment that the look-up takes.
fn build(
    inputs: &mut Inputs,
    last: Option<&Build>,
    reading: Reading,
    resolver: &mut Resolver,
    runtime: &tokio::runtime::Handle,
) -> Result<Build, Vec<Violation>> {
    let known = std::mem::take(&mut inputs.named_files);
    inputs.now = Some(Timestamp::now());
    let build = pipeline::build_reading(inputs, last, |names| match reading {
        Reading::Anew => files::read_named(names),
        Reading::Missing => read_missing(known, names),
    })?;
    let names: BTreeSet<Host> = build.host_names();
    resolver.configure(&build.model.resolver);
    runtime.block_on(resolver.learn(&names));
    let addresses = resolver.addresses();
    if addresses == inputs.addresses {
        return Ok(build);
    }
    inputs.addresses = addresses;
    pipeline::build(inputs, last)
}

fn read_missing(mut known: NamedFiles, names: &BTreeSet<String>) -> NamedFiles {
    known.retain(|name, _| names.contains(name));
    let missing = names.iter().filter(|name| !known.contains_key(*name)).cloned().collect();
    known.extend(files::read_named(&missing));
    known
}
