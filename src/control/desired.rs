//! Desired config: inputs, build and revision, and how one is built with the names resolved.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use tracing::{error, info_span, warn};

use crate::build::{self, Build, Inputs};
use crate::config::Violation;
use crate::config::cap::capped;
use crate::config::edit::{EntityChange, Files, edits};
use crate::config::material::{NamedBy, NamedFile, NamedFiles};
use crate::config::render;
use crate::control::operation::DesiredConfig;
use crate::inspect::plan::{self, Plan};
use crate::inspect::removal::{self, LossLimits};
use crate::model::overrides::OverridesByUpstream;
use crate::model::target::Host;
use crate::source::material::MaterialReader;
use crate::source::resolve::DnsResolver;
use crate::telemetry::metrics::Metrics;

/// Inputs with their build.
#[derive(Debug, Clone)]
pub(super) struct Built {
    pub(super) inputs: Inputs,
    pub(super) build: Arc<Build>,
}

/// Extent to which a build reads the files that documents name.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reading<'r> {
    /// All of them, with this reader, for which the build waits. Only a start does that.
    Anew(&'r MaterialReader),
    /// None: the writer waits for no file. The texts in the inputs are used, and files without one are
    /// [`unread`]. A change of something else does not fail because a key is being renewed at that moment.
    Missing,
    /// As [`Self::Missing`], but the files are those of a request, so it may name files as a request may.
    Requested,
}

/// Reason why a config was not built.
#[derive(Debug)]
pub(super) enum Unbuilt {
    /// It has faults.
    Faults(Vec<Violation>),
    /// These files must be read first.
    Unread(BTreeSet<NamedFile>),
}

/// Text of the fault of a file that was not read yet.
const UNREAD: &str = "it was not read yet";

/// Builder that resolves the host names of a config.
#[derive(Debug)]
pub(super) struct Builder {
    pub(super) resolver: DnsResolver,
    pub(super) runtime: tokio::runtime::Handle,
}

/// Newest accepted config, with what is staged beside it.
#[derive(Debug)]
pub(super) struct DesiredState {
    pub(super) inputs: Inputs,
    pub(super) build: Arc<Build>,
    /// Number of the newest revision.
    pub(super) revision: u64,
    pub(super) builder: Builder,
    pub(super) loss_limits: LossLimits,
    pub(super) metrics: Metrics,
}

impl Builder {
    /// Builds, and builds again if names came up that were never looked up: an upstream with only new names
    /// must not be published empty for the time of the look-up.
    pub(super) fn build(
        &mut self,
        inputs: &mut Inputs,
        last: Option<&Build>,
        reading: Reading<'_>,
    ) -> Result<Build, Vec<Violation>> {
        let build = build_resolved(inputs, last, reading)?;
        let names: BTreeSet<Host> = build.host_names();
        self.resolver.configure(&build.model.resolver);
        self.runtime.block_on(self.resolver.learn(&names));
        let addresses = self.resolver.addresses();
        if addresses == inputs.addresses {
            return Ok(build);
        }
        inputs.addresses = addresses;
        build::build(inputs, last)
    }
}

/// Builds with the addresses in the inputs; nothing is looked up. The inputs have the texts of the files that the
/// documents name then.
pub(super) fn build_resolved(
    inputs: &mut Inputs,
    last: Option<&Build>,
    reading: Reading<'_>,
) -> Result<Build, Vec<Violation>> {
    let known = std::mem::take(&mut inputs.named_files);
    inputs.now = Some(Timestamp::now());
    build::build_reading(inputs, last, |names| match reading {
        Reading::Anew(reader) => reader.read(names),
        Reading::Missing => known_texts(names, |named| known.get(named)),
        Reading::Requested => {
            known_texts(names, |named| known.get(named).or_else(|| known.get(&as_requested(named))))
        }
    })
}

/// Returns the known texts of files; the others are unread.
fn known_texts<'k>(
    names: &BTreeSet<NamedFile>,
    known: impl Fn(&NamedFile) -> Option<&'k Result<Arc<str>, String>>,
) -> NamedFiles {
    let text = |named| known(named).cloned().unwrap_or_else(|| Err(UNREAD.to_owned()));
    names.iter().map(|named| (named.clone(), text(named))).collect()
}

/// Returns the files that a build lacked, as requests name them if a request did.
pub(super) fn unread(inputs: &Inputs, reading: Reading<'_>) -> BTreeSet<NamedFile> {
    let lacked = inputs.named_files.iter().filter(|(_, text)| *text == &Err(UNREAD.to_owned()));
    let name = |named| match reading {
        Reading::Requested => as_requested(named),
        Reading::Anew(_) | Reading::Missing => named.clone(),
    };
    lacked.map(|(named, _)| name(named)).collect()
}

/// Returns the file as if a request named it.
fn as_requested(named: &NamedFile) -> NamedFile {
    NamedFile { by: NamedBy::Request, ..named.clone() }
}

impl DesiredState {
    /// Returns the view for decisions.
    pub(super) fn view(&self) -> DesiredConfig<'_> {
        DesiredConfig { inputs: &self.inputs, build: &self.build, revision: self.revision }
    }

    /// Returns a copy of inputs and build.
    pub(super) fn built(&self) -> Built {
        Built { inputs: self.inputs.clone(), build: self.build.clone() }
    }

    /// Replaces inputs and build.
    pub(super) fn replace(&mut self, built: Built) -> Built {
        Built {
            inputs: std::mem::replace(&mut self.inputs, built.inputs),
            build: std::mem::replace(&mut self.build, built.build),
        }
    }

    /// Builds other inputs, with measured time.
    pub(super) fn build(
        &mut self,
        inputs: &mut Inputs,
        reading: Reading<'_>,
    ) -> Result<Build, Vec<Violation>> {
        let span = info_span!(target: "understudy::control", "build");
        let (_span, since) = (span.entered(), Instant::now());
        let outcome = self.builder.build(inputs, Some(&self.build), reading);
        self.metrics.built(since.elapsed(), outcome.is_ok());
        outcome
    }

    /// Plans a change of files and entities without a trace: no name is looked up. `texts` are those of files that
    /// were read for the plan.
    pub(super) fn propose(
        &self,
        files: Option<Files>,
        changes: Vec<EntityChange>,
        texts: &NamedFiles,
    ) -> Result<(Plan, Build), Unbuilt> {
        let mut edits = edits(&changes, &self.inputs.stored);
        let mut inputs = self.inputs.clone();
        add_texts(&mut inputs, texts);
        changes.into_iter().for_each(|change| change.apply(&mut inputs.stored));
        let has_files = files.is_some();
        if let Some(files) = files {
            inputs.files = files;
        }
        let outcome = build_resolved(&mut inputs, Some(&self.build), Reading::Requested);
        let build = built(outcome, &inputs, Reading::Requested)?;
        edits.extend(plan::file_edits(&self.build, &build));
        let mut plan = Plan::new(&edits, &self.build, &build);
        if has_files {
            plan.changes.extend(removal::planned(&self.build, &build, &self.loss_limits));
        }
        Ok((plan, build))
    }

    /// Builds with the newest addresses. False if they did not change.
    pub(super) fn update_addresses(&mut self) -> bool {
        let addresses = self.builder.resolver.addresses();
        if addresses == self.inputs.addresses {
            return false;
        }
        let mut inputs = Inputs { addresses, ..self.inputs.clone() };
        match self.build(&mut inputs, Reading::Missing) {
            Ok(build) => {
                (self.inputs, self.build) = (inputs, Arc::new(build));
                true
            }
            Err(violations) => {
                error!(?violations, "new addresses made a good config bad, which cannot be");
                false
            }
        }
    }

    /// Builds with the current time and logs its warnings, such as an expired certificate.
    pub(super) fn update_time(&mut self) -> bool {
        let mut inputs = self.inputs.clone();
        match build_resolved(&mut inputs, Some(&self.build), Reading::Missing) {
            Ok(build) => {
                log_warnings(&build.warnings_since(&self.build));
                (self.inputs, self.build) = (inputs, Arc::new(build));
                true
            }
            Err(violations) => {
                error!(?violations, "time made a good config bad, which cannot be");
                false
            }
        }
    }

    /// Builds with other overrides of endpoints.
    pub(super) fn update_overrides(&mut self, overrides: OverridesByUpstream) -> bool {
        let mut inputs = Inputs { overrides, ..self.inputs.clone() };
        match build_resolved(&mut inputs, Some(&self.build), Reading::Missing) {
            Ok(build) => {
                (self.inputs, self.build) = (inputs, Arc::new(build));
                true
            }
            Err(violations) => {
                error!(?violations, "orders made a good config bad, which cannot be");
                false
            }
        }
    }
}

/// Returns the outcome of a build, unless it lacked files.
pub(super) fn built(
    outcome: Result<Build, Vec<Violation>>,
    inputs: &Inputs,
    reading: Reading<'_>,
) -> Result<Build, Unbuilt> {
    let unread = unread(inputs, reading);
    if unread.is_empty() { outcome.map_err(Unbuilt::Faults) } else { Err(Unbuilt::Unread(unread)) }
}

/// Adds the texts of files that have none yet.
pub(super) fn add_texts(inputs: &mut Inputs, texts: &NamedFiles) {
    for (named, text) in texts {
        inputs.named_files.entry(named.clone()).or_insert_with(|| text.clone());
    }
}

/// Logs warnings of a build; of too many, the first and their number.
pub(super) fn log_warnings<'w>(warnings: impl IntoIterator<Item = &'w Violation>) {
    for warning in capped(warnings.into_iter().cloned().collect()) {
        warn!("{}", render::line(&warning));
    }
}
