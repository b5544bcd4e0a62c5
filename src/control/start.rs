//! Start of the control: the first build, and what Envoys may still have from an earlier process.

use std::sync::Arc;

use tracing::warn;

use crate::build::{self, Build, Inputs};
use crate::cache::Cache;
use crate::config::Violation;
use crate::config::edit::{EntityChange, Files, Stored};
use crate::control::Control;
use crate::control::aside::AsideReader;
use crate::control::desired::{Builder, Built, DesiredState, Reading, build_resolved, log_warning};
use crate::control::files::{FileState, fingerprint, refused_files};
use crate::control::operation::WriteError;
use crate::control::queue::queues;
use crate::control::revisions::{RevisionLog, last_in_effect};
use crate::control::rollout::RolloutQueue;
use crate::control::staging::Staging;
use crate::control::writer::Writer;
use crate::inspect::removal::{self, LossLimits};
use crate::model::overrides::OverridesByUpstream;
use crate::nodes::Nodes;
use crate::source::material::MaterialReader;
use crate::source::resolve::DnsResolver;
use crate::store::{Revision, Store, StoredState};
use crate::telemetry::events::Events;
use crate::telemetry::metrics::Metrics;

/// Number of revisions before the start whose snapshots are remembered, for Envoys that disconnected then.
/// Each is undone and built.
const REMEMBERED: u64 = 100;

/// Inputs and collaborators of the control.
#[derive(Debug)]
pub struct Start {
    /// Texts of the config paths, or the faults because of which they cannot be read.
    pub files: Result<Files, Vec<Violation>>,
    /// Store with the entities written over REST.
    pub store: Arc<dyn Store>,
    /// Resolver of the host names among the targets.
    pub resolver: DnsResolver,
    /// Ring of events, to publish to.
    pub events: Events,
    /// Metrics.
    pub metrics: Metrics,
    /// Connected Envoys.
    pub nodes: Nodes,
    /// Overrides of endpoints that are in force.
    pub overrides: OverridesByUpstream,
    /// Limits of the losses that changes by files may cause, those since the last run included.
    pub loss_limits: LossLimits,
    /// Reader of the files that documents name.
    pub material: MaterialReader,
}

/// First config, with the files that it does not use.
struct FirstConfig {
    built: Built,
    /// Inputs with files that have faults.
    refused: Option<Inputs>,
    /// Inputs with files that an Envoy refused before.
    refused_by_envoy: Option<Inputs>,
    /// Faults of the files.
    violations: Vec<Violation>,
}

/// Builder of first configs: stored entities and overrides stay, files vary.
struct FirstBuilder {
    builder: Builder,
    stored: Stored,
    overrides: OverridesByUpstream,
    loss_limits: LossLimits,
    material: MaterialReader,
}

impl Control {
    /// Builds the first config, and starts the writer's thread. If the files cannot be used, it starts with
    /// those that were accepted last, if there are any.
    ///
    /// # Errors
    ///
    /// Fails if the store cannot be read, or with all faults of the config.
    pub fn start(start: Start, runtime: &tokio::runtime::Handle) -> Result<(Self, Arc<Cache>), WriteError> {
        let Start { files, store, resolver, overrides, events, metrics, nodes, loss_limits, material } =
            start;
        let stored_revision = store.watch();
        let StoredState { stored, files: last_files, refused_files, revision } = store.load()?;
        let builder = Builder { resolver, runtime: runtime.clone() };
        let (tasks, queue) = queues();
        let mut builder =
            FirstBuilder { builder, stored, overrides, loss_limits, material: material.clone() };
        let first = builder.first(files, last_files.as_ref(), refused_files).map_err(WriteError::Refused)?;
        let FirstConfig { built, refused, refused_by_envoy, violations } = first;
        let cache = Arc::new(Cache::new(built.build.clone()));
        if let Some(accepted) = builder.last_accepted(&built, last_files.as_ref()) {
            remember(&cache, &*store, revision, accepted)?;
        }
        let Built { inputs, build } = built;
        build.warnings.iter().for_each(log_warning);
        let mut writer = Writer {
            files: FileState::new(&inputs, refused, refused_by_envoy, events.clone()),
            desired: DesiredState {
                inputs,
                build,
                revision,
                builder: builder.builder,
                loss_limits,
                metrics: metrics.clone(),
            },
            staging: Staging::default(),
            rollout: RolloutQueue::new(cache.clone(), nodes),
            revisions: RevisionLog { store, events, metrics },
            stored_revision,
            aside: AsideReader { material: material.clone(), tasks: tasks.downgrade() },
        };
        if violations.is_empty() {
            writer.record_new_files(last_files);
        } else {
            warn!("the files cannot be used, so it starts from those that were accepted last");
            writer.files.report(violations);
            writer.files.publish_named_files(&writer.desired.inputs);
        }
        let newest = writer.desired.revision;
        let in_effect = last_in_effect(&*writer.revisions.store, newest)?;
        writer.rollout.begin_at(in_effect, newest);
        let control = Self {
            tasks,
            material,
            faults: writer.files.watch_faults(),
            named_files: writer.files.watch_named_files(),
            progress: writer.rollout.watch_progress(),
        };
        std::thread::spawn(move || writer.run(queue));
        Ok((control, cache))
    }
}

impl FirstBuilder {
    fn build(&mut self, files: Files) -> Result<Built, (Option<Box<Inputs>>, Vec<Violation>)> {
        let (stored, overrides) = (self.stored.clone(), self.overrides.clone());
        let mut inputs = Inputs { files, stored, overrides, ..Inputs::default() };
        match self.builder.build(&mut inputs, None, Reading::Anew(&self.material)) {
            Ok(build) => Ok(Built { inputs, build: Arc::new(build) }),
            Err(violations) => Err((Some(Box::new(inputs)), violations)),
        }
    }

    /// Builds with the files, or with those that were accepted last if the files have faults, take too much
    /// away or were refused by an Envoy.
    fn first(
        &mut self,
        files: Result<Files, Vec<Violation>>,
        last_files: Option<&Files>,
        refused_hash: Option<u64>,
    ) -> Result<FirstConfig, Vec<Violation>> {
        let wanted = files.map_err(|violations| (None, violations)).and_then(|files| self.build(files));
        let (refused, refused_by_envoy, violations, usable) = match wanted {
            Ok(built) if refused_hash == Some(fingerprint(&built.inputs)) => {
                let message = "an Envoy refused these files before; they have not changed since".to_owned();
                let usable = Some(last_files.cloned().unwrap_or_default());
                (None, Some(built.inputs), vec![refused_files(None, message)], usable)
            }
            Ok(built) => {
                let violations = last_files.map_or_else(Vec::new, |last| self.losses(last, &built));
                if violations.is_empty() {
                    let (refused, refused_by_envoy) = (None, None);
                    return Ok(FirstConfig { built, refused, refused_by_envoy, violations });
                }
                (Some(built.inputs), None, violations, last_files.cloned())
            }
            Err((refused, violations)) => {
                (refused.map(|refused| *refused), None, violations, last_files.cloned())
            }
        };
        match usable.map(|files| self.build(files)) {
            Some(Ok(built)) => Ok(FirstConfig { built, refused, refused_by_envoy, violations }),
            _ => Err(violations),
        }
    }

    /// Returns the faults because of which files must not take the place of those that were accepted last.
    /// If the latter cannot be built any more, such as by a stricter version, there is nothing to compare with.
    fn losses(&self, last_files: &Files, new: &Built) -> Vec<Violation> {
        let Built { inputs, build } = new;
        if *last_files == inputs.files {
            return Vec::new();
        }
        let mut before = Inputs { files: last_files.clone(), ..inputs.clone() };
        let after = (&inputs.files, &**build);
        match build_resolved(&mut before, Some(build), Reading::Anew(&self.material)) {
            Ok(before) => removal::refusals((last_files, &before), after, &self.loss_limits),
            Err(faults) => {
                warn!(faults = faults.len(), "the files that were accepted last cannot be used any more");
                removal::refusals_of_nothing(last_files, after, &self.loss_limits)
            }
        }
    }

    /// Returns the config that Envoys may have from an earlier process: that of the files that were accepted
    /// last; none if it cannot be built any more.
    fn last_accepted(&mut self, now: &Built, last_files: Option<&Files>) -> Option<Built> {
        match last_files.filter(|last_files| **last_files != now.inputs.files) {
            Some(last_files) => self.build(last_files.clone()).ok(),
            None => Some(now.clone()),
        }
    }
}

/// Remembers the snapshots of the last revisions.
fn remember(cache: &Cache, store: &dyn Store, newest: u64, accepted: Built) -> Result<(), WriteError> {
    let revisions = store.revisions(newest.saturating_sub(REMEMBERED)..=newest)?;
    for before in builds_before(&revisions, accepted).iter().rev() {
        before.snapshots.values().for_each(|snapshot| cache.past().remember_snapshot(snapshot));
    }
    Ok(())
}

/// Returns the build and those before it, back to the last change of files: earlier texts are not kept.
fn builds_before(revisions: &[Revision], built: Built) -> Vec<Arc<Build>> {
    let Built { mut inputs, build: mut last } = built;
    let mut builds = vec![last.clone()];
    for revision in revisions.iter().rev().filter(|revision| revision.error.is_none()) {
        if revision.edits.iter().any(|edit| edit.file.is_some()) {
            break;
        }
        for edit in revision.edits.iter().rev() {
            EntityChange::undoing(edit.clone()).apply(&mut inputs.stored);
        }
        let Ok(before) = build::build(&inputs, Some(&last)) else { break };
        last = Arc::new(before);
        builds.push(last.clone());
    }
    builds
}
