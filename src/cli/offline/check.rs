//! `understudy check`: prints the faults of config files.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::json;

use crate::build::{self, Build, Inputs};
use crate::cli::dialect::DialectOptions;
use crate::cli::output::{DataFormat, FormatOptions, OutputFormat};
use crate::cli::print;
use crate::config::cap::capped;
use crate::config::{Level, Violation, render};
use crate::source::files;
use crate::source::material;

/// Options of `understudy check`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Config files and directories
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    dialect: DialectOptions,
    #[command(flatten)]
    output: FormatOptions<CheckFormat>,
}

/// Output for people, for programs, or as annotations of a GitHub workflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum CheckFormat {
    Human,
    Json,
    Github,
}

impl OutputFormat for CheckFormat {
    const JSON: Self = Self::Json;
}

/// Prints every fault. The exit code is 1 if one of them is an error.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let empty = files::empty(&options.paths);
    let violations = match build(&options.paths, options.dialect) {
        Ok(build) => {
            let violations = build.adjusted(empty).into_iter().chain(build.violations());
            let violations = violations.collect();
            // The process ends: freeing a large config would only cost time.
            std::mem::forget(build);
            violations
        }
        Err(violations) => capped(empty.into_iter().chain(violations).collect()),
    };
    let ok = violations.iter().all(|violation| violation.level != Level::Error);
    match options.output.format() {
        CheckFormat::Json => DataFormat::Json.print(&json!({ "ok": ok, "violations": violations }))?,
        CheckFormat::Github => print::line(render::github(&violations).trim_end())?,
        CheckFormat::Human if violations.is_empty() => print::line("no faults")?,
        CheckFormat::Human => print::styled(human(&violations).trim_end())?,
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds these paths as `serve` would.
pub(crate) fn build(paths: &[PathBuf], dialect: DialectOptions) -> Result<Build, Vec<Violation>> {
    let (now, terms) = (Some(Timestamp::now()), dialect.terms());
    let mut inputs = Inputs { files: files::read_piped(paths)?, now, terms, ..Inputs::default() };
    build::build_reading(&mut inputs, None, |names| material::read_named(names, None))
}

/// Prints violations on standard error, for people.
pub(crate) fn report(violations: &[Violation]) {
    print::styled_note(human(&capped(violations.to_vec())).trim_end());
}

/// Formats violations for people, with the source lines that they are about.
fn human(violations: &[Violation]) -> String {
    let source = |file: &str| std::fs::read_to_string(file).ok().map(Arc::from);
    render::human(violations, &source, print::colour())
}
