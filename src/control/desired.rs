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
use crate::source::material;
use crate::source::resolve::DnsResolver;
use crate::telemetry::metrics::Metrics;

/// Inputs with their build.
#[derive(Debug, Clone)]
pub(super) struct Built {
    pub(super) inputs: Inputs,
    pub(super) build: Arc<Build>,
}

/// Extent to which the files that documents name are read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reading {
    /// All of them.
    Anew,
    /// Only files that were not named before. A change of something else must not fail because a key is being
    /// renewed at that moment.
    Missing,
    /// As [`Self::Missing`], but the files are those of a request, so it may name files as a request may.
    Requested,
}

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
        reading: Reading,
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

/// Builds with the addresses in the inputs; nothing is looked up.
pub(super) fn build_resolved(
    inputs: &mut Inputs,
    last: Option<&Build>,
    reading: Reading,
) -> Result<Build, Vec<Violation>> {
    let known = std::mem::take(&mut inputs.named_files);
    let directory = inputs.material_dir.clone();
    let read = |names: &_| material::read_named(names, directory.as_deref());
    inputs.now = Some(Timestamp::now());
    build::build_reading(inputs, last, |names| match reading {
        Reading::Anew => read(names),
        Reading::Missing => with_missing(known, names, read),
        Reading::Requested => with_missing(known, names, |missing| as_requested(missing, read)),
    })
}

/// Adds the files that are not known to those that are.
fn with_missing(
    mut known: NamedFiles,
    names: &BTreeSet<NamedFile>,
    read: impl FnOnce(&BTreeSet<NamedFile>) -> NamedFiles,
) -> NamedFiles {
    known.retain(|named, _| names.contains(named));
    let missing = names.iter().filter(|named| !known.contains_key(*named)).cloned().collect();
    known.extend(read(&missing));
    known
}

/// Reads files as if requests named all of them.
fn as_requested(
    names: &BTreeSet<NamedFile>,
    read: impl FnOnce(&BTreeSet<NamedFile>) -> NamedFiles,
) -> NamedFiles {
    let requested = |named: &NamedFile| NamedFile { by: NamedBy::Request, ..named.clone() };
    let texts = read(&names.iter().map(requested).collect());
    names.iter().map(|named| (named.clone(), texts[&requested(named)].clone())).collect()
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
    pub(super) fn build(&mut self, inputs: &mut Inputs, reading: Reading) -> Result<Build, Vec<Violation>> {
        let span = info_span!(target: "understudy::control", "build");
        let (_span, since) = (span.entered(), Instant::now());
        let outcome = self.builder.build(inputs, Some(&self.build), reading);
        self.metrics.built(since.elapsed(), outcome.is_ok());
        outcome
    }

    /// Plans a change of files and entities without a trace: no name is looked up.
    pub(super) fn propose(
        &self,
        files: Option<Files>,
        changes: Vec<EntityChange>,
    ) -> Result<(Plan, Build), Vec<Violation>> {
        let mut edits = edits(&changes, &self.inputs.stored);
        let mut inputs = self.inputs.clone();
        changes.into_iter().for_each(|change| change.apply(&mut inputs.stored));
        let has_files = files.is_some();
        if let Some(files) = files {
            inputs.files = files;
        }
        let build = build_resolved(&mut inputs, Some(&self.build), Reading::Requested)?;
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

/// Logs warnings of a build; of too many, the first and their number.
pub(super) fn log_warnings<'w>(warnings: impl IntoIterator<Item = &'w Violation>) {
    for warning in capped(warnings.into_iter().cloned().collect()) {
        warn!("{}", render::line(&warning));
    }
}
