//! Start of the control: the first build, what Envoys may still have from an earlier process, and the rollout
//! that it left.

mod rollout;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::warn;

use crate::build::snapshot::past::SentSets;
use crate::build::snapshot::resource::Version;
use crate::build::snapshot::store_id::StoreId;
use crate::build::{self, Build, Inputs};
use crate::cache::Cache;
use crate::config::Violation;
use crate::config::dialect::ReadingTerms;
use crate::config::edit::{EntityChange, Files, Stored};
use crate::control::Control;
use crate::control::aside::AsideReader;
use crate::control::desired::{Builder, Built, DesiredState, Reading, build_resolved, log_warnings};
use crate::control::files::{FileState, fingerprint, refused_files};
use crate::control::foreign::{ForeignStores, first_trust};
use crate::control::operation::WriteError;
use crate::control::queue::queues;
use crate::control::recorded::RecordedRollout;
use crate::control::revisions::RevisionLog;
use crate::control::rollout::RolloutQueue;
use crate::control::rollout::canary::AwaitedFleets;
use crate::control::staging::Staging;
use crate::control::start::rollout::LeftRollout;
use crate::control::writer::Writer;
use crate::envoy::ResourceType;
use crate::inspect::removal::{self, LossLimits};
use crate::model::overrides::OverridesByUpstream;
use crate::nodes::Nodes;
use crate::source::material::MaterialReader;
use crate::source::resolve::DnsResolver;
use crate::store::{LostCommits, Revision, Store, StoredState};
use crate::telemetry::events::Events;
use crate::telemetry::metrics::Metrics;

/// Number of revisions before the start whose snapshots are remembered, for Envoys that disconnected then.
/// Each is undone and built.
const REMEMBERED: u64 = 100;

/// Maximum time of a start that is spent on them.
const REMEMBERING: Duration = Duration::from_secs(1);
/// Time for which the Envoys of before a start are awaited. Envoy tries to connect again after 30 s at the latest.
pub const ARRIVAL: Duration = Duration::from_secs(40);

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
    /// Terms under which files are read.
    pub terms: ReadingTerms,
    /// True if Envoys are answered that run the config of another store.
    pub allows_foreign: bool,
    /// Time for which the Envoys of before are awaited: [`ARRIVAL`], except in tests.
    pub arrival: Duration,
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
    /// Id of the store.
    id: StoreId,
    stored: Stored,
    overrides: OverridesByUpstream,
    loss_limits: LossLimits,
    material: MaterialReader,
    terms: ReadingTerms,
}

impl Control {
    /// Builds the first config, and starts the writer's thread. If the files cannot be used, it starts with
    /// those that were accepted last, if there are any.
    ///
    /// # Errors
    ///
    /// Fails if the store cannot be read, or with all faults of the config.
    pub fn start(start: Start, runtime: &tokio::runtime::Handle) -> Result<(Self, Arc<Cache>), WriteError> {
        let Start { files, store, resolver, overrides, events, metrics, nodes, .. } = start;
        let Start { loss_limits, material, terms, allows_foreign, arrival, .. } = start;
        store.lost().iter().for_each(warn_of_loss);
        let stored_revision = store.watch();
        let (state, (tasks, queue)) = (store.load()?, queues());
        let (stored, last_files) = (state.stored.clone(), state.files.as_ref());
        let is_newborn = state.revision == 0 && stored.is_empty();
        let builder = Builder { resolver, runtime: runtime.clone() };
        let (id, material_reader) = (StoreId::new(store.id()), material.clone());
        let mut builder =
            FirstBuilder { builder, id, stored, overrides, loss_limits, material: material_reader, terms };
        let first = builder.first(files, last_files, state.refused_files).map_err(WriteError::Refused)?;
        let FirstConfig { built, refused, refused_by_envoy, violations } = first;
        let left = LeftRollout::read(&mut builder.builder, &material, &*store, &state, &built)?;
        let live = left.as_ref().map_or(&built, |left| &left.live);
        let cache = Arc::new(Cache::new(live.build.clone()));
        remember(&cache, &*store, &state, (&mut builder, &built), left.as_ref())?;
        let recorded = RecordedRollout::new(&state);
        let trust = first_trust(is_newborn, &built.build, allows_foreign);
        // Nothing was accepted yet with which an Envoy could have been answered.
        let awaited =
            if is_newborn { AwaitedFleets::default() } else { awaited(&recorded, &live.build, arrival) };
        let Built { inputs, build } = built;
        log_warnings(&build.warnings);
        let mut writer = Writer {
            files: FileState::new(&inputs, refused, refused_by_envoy, events.clone()),
            desired: DesiredState {
                inputs,
                build,
                revision: state.revision,
                builder: builder.builder,
                loss_limits,
                metrics: metrics.clone(),
            },
            staging: Staging::default(),
            foreign: ForeignStores::new(store.clone(), cache.clone(), nodes.clone()),
            rollout: RolloutQueue::new(cache.clone(), nodes, awaited),
            revisions: RevisionLog { store, events, metrics, recorded, unrecorded: None },
            stored_revision,
            aside: AsideReader { material: material.clone(), tasks: tasks.downgrade() },
        };
        report(&mut writer, violations);
        writer.foreign.start(trust)?;
        rollout::go_on(&mut writer, left, &state.files.unwrap_or_default())?;
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
        let (store, terms) = (Some(self.id), self.terms.clone());
        let mut inputs = Inputs { files, stored, overrides, terms, store, ..Inputs::default() };
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

    /// Returns the config that was accepted last, which Envoys may have from an earlier process; none if it cannot be built any more.
    fn last_accepted(&mut self, now: &Built, last_files: Option<&Files>) -> Option<Built> {
        match last_files.filter(|last_files| **last_files != now.inputs.files) {
            Some(last_files) => self.build(last_files.clone()).ok(),
            None => Some(now.clone()),
        }
    }
}

/// Reports the faults of files in whose place those serve that were accepted last.
fn report(writer: &mut Writer, violations: Vec<Violation>) {
    if violations.is_empty() {
        return;
    }
    warn!("the files cannot be used, so it starts from those that were accepted last");
    writer.files.report(violations);
    writer.files.publish_named_files(&writer.desired.inputs);
}

/// Returns the fleets whose Envoys are awaited. An earlier format did not keep which fleets had Envoys.
fn awaited(recorded: &RecordedRollout, live: &Build, arrival: Duration) -> AwaitedFleets {
    let all = || live.model.fleet_names().iter().map(ToString::to_string).collect();
    let names: BTreeSet<String> = recorded.fleets().map_or_else(all, Clone::clone);
    AwaitedFleets { names, until: Some(Instant::now() + arrival) }
}

fn warn_of_loss(lost: &LostCommits) {
    let LostCommits { commits, acknowledged, found } = lost;
    warn!(
        commits,
        acknowledged,
        found,
        "changes that were acknowledged are not in the data directory: it is older than its last use; restore a \
         newer backup, or write them again"
    );
}

/// Remembers the snapshots of the last revisions: those of what is live, and of what canaries may have. Revisions
/// are read one at a time, since all together may be large, and no more of them than are worth the time of a start.
fn remember(
    cache: &Cache,
    store: &dyn Store,
    state: &StoredState,
    (builder, now): (&mut FirstBuilder, &Built),
    left: Option<&LeftRollout>,
) -> Result<(), WriteError> {
    let deadline = Instant::now() + REMEMBERING;
    let numbers = (state.revision.saturating_sub(REMEMBERED)..=state.revision).rev();
    let read =
        |number: u64| -> Result<Option<Revision>, WriteError> { Ok(store.revisions(number..=number)?.pop()) };
    let mut chains = Vec::new();
    if let Some(left) = left {
        let live = numbers.clone().filter(|number| left.is_live(*number));
        chains.push(builds_before(live.map(read), left.live.clone(), deadline)?);
    }
    // Without waiting changes, what was accepted last is what is live.
    let is_other = left.is_none_or(LeftRollout::has_changes);
    let accepted = is_other.then(|| builder.last_accepted(now, state.files.as_ref())).flatten();
    if let Some(accepted) = accepted {
        let waiting = numbers.filter(|number| left.is_none_or(|left| !left.is_live(*number)));
        chains.push(builds_before(waiting.map(read), accepted, deadline)?);
    }
    for before in chains.iter().flat_map(|chain| chain.iter().rev()) {
        before.snapshots.values().for_each(|snapshot| cache.past().remember_snapshot(snapshot));
    }
    Ok(())
}

/// Returns the build and those before it, back to the last change of files, whose earlier texts are not kept, or
/// to as many as are remembered. `revisions` begin with the newest.
fn builds_before(
    revisions: impl Iterator<Item = Result<Option<Revision>, WriteError>>,
    built: Built,
    deadline: Instant,
) -> Result<Vec<Arc<Build>>, WriteError> {
    let Built { mut inputs, build: mut last } = built;
    let mut builds = vec![last.clone()];
    let mut sets: HashSet<Version> = versions(&last).collect();
    for revision in revisions {
        let Some(revision) = revision? else { break };
        if revision.error.is_some() {
            continue;
        }
        let is_of_files = revision.edits.iter().any(|edit| edit.file.is_some());
        if is_of_files || sets.len() >= SentSets::KEPT || Instant::now() >= deadline {
            break;
        }
        for edit in revision.edits.into_iter().rev() {
            EntityChange::undoing(edit).apply(&mut inputs.stored);
        }
        let Ok(before) = build::build(&inputs, Some(&last)) else { break };
        last = Arc::new(before);
        sets.extend(versions(&last));
        builds.push(last.clone());
    }
    Ok(builds)
}

/// Returns the versions of the sets that are remembered of a build.
fn versions(build: &Build) -> impl Iterator<Item = Version> {
    let types = [ResourceType::Listener, ResourceType::Cluster];
    build.snapshots.values().flat_map(move |snapshot| types.map(|it| snapshot.set(it).version()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::document::Kind;
    use crate::config::edit::Edit;
    use crate::control::revisions::new_revision;
    use crate::store::RevisionSource;

    /// Returns the revision by which an upstream got this timeout, and so another cluster.
    fn revision(number: u64) -> Revision {
        let body = |timeout: u64| {
            let targets = [json!({ "target": "10.0.0.1:80" })];
            Some(Arc::new(
                json!({ "name": "u", "connect_timeout": format!("{timeout}ms"), "targets": targets }),
            ))
        };
        let (before, after) = (body(number - 1), body(number));
        let edit = Edit { kind: Kind::Upstream, name: "u".to_owned(), before, after, file: None };
        new_revision(number, RevisionSource::Api, "a".to_owned(), vec![edit])
    }

    /// Returns how many of a thousand revisions are read, and how many builds are made of them.
    fn undone(deadline: Instant, change: impl Fn(&mut Revision)) -> (usize, usize) {
        let mut inputs = Inputs::default();
        for edit in revision(1_000).edits {
            let body = edit.after.expect("it is there");
            EntityChange::Put { kind: edit.kind, name: edit.name, body }.apply(&mut inputs.stored);
        }
        let build = Arc::new(build::build(&inputs, None).expect("it is valid"));
        let mut read = 0;
        let revisions = (1..=1_000).rev().map(|number| {
            read += 1;
            let mut revision = revision(number);
            change(&mut revision);
            Ok(Some(revision))
        });
        let builds =
            builds_before(revisions, Built { inputs, build }, deadline).expect("nothing fails").len();
        (read, builds)
    }

    #[test]
    fn a_start_undoes_no_more_revisions_than_are_remembered_or_than_it_has_time_for() {
        let later = Instant::now() + Duration::from_secs(600);
        // One set of listeners, and a set of clusters for each build.
        assert_eq!(undone(later, |_| ()), (SentSets::KEPT - 1, SentSets::KEPT - 1));
        assert_eq!(undone(Instant::now(), |_| ()), (1, 1));
        let taken_back = |it: &mut Revision| it.error = (it.number > 900).then(|| "no".to_owned());
        assert_eq!(undone(later, taken_back).1, SentSets::KEPT - 1);
        let of_files = |it: &mut Revision| {
            if it.number == 990 {
                it.edits[0].file = Some("a.yaml".into());
            }
        };
        assert_eq!(undone(later, of_files), (11, 11));
    }
}
