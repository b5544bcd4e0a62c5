//! `understudy convert`: prints files of other dialects as a native config, or the report on them.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::Value;

use crate::build::Build;
use crate::cli::dialect::DialectOptions;
use crate::cli::offline::check;
use crate::cli::output::{FormatOptions, OutputFormat};
use crate::cli::print;
use crate::config::dialect::report;
use crate::inspect::conversion;
use crate::source::files;

/// Options of `understudy convert`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Config files and directories
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    dialect: DialectOptions,
    /// Write to this file, in place of standard output
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    output_file: Option<PathBuf>,
    /// Print the fate of every value of the files, in place of the config
    #[arg(long)]
    report: bool,
    #[command(flatten)]
    output: FormatOptions<ReportFormat>,
}

/// Formats of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ReportFormat {
    Human,
    Json,
}

impl OutputFormat for ReportFormat {
    const JSON: Self = Self::Json;
}

/// Prints the native config, or the report. The exit code is 1 if `check` finds an error.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let build = check::build(&options.paths, options.dialect);
    if options.report {
        return print_report(options, build.is_ok());
    }
    match build {
        Ok(build) => {
            let text = native(&build)?;
            write(options, &text)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(violations) => {
            check::report(&violations);
            Ok(ExitCode::FAILURE)
        }
    }
}

fn print_report(options: &Options, ok: bool) -> anyhow::Result<ExitCode> {
    let files = match files::read(&options.paths) {
        Ok(files) => files,
        Err(violations) => {
            check::report(&violations);
            return Ok(ExitCode::FAILURE);
        }
    };
    let report = conversion::report(&files, &options.dialect.terms(), ok);
    let text = match options.output.format() {
        ReportFormat::Human => report::human(&report),
        ReportFormat::Json => serde_json::to_string_pretty(&report)? + "\n",
    };
    write(options, &text)?;
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write(options: &Options, text: &str) -> anyhow::Result<()> {
    match &options.output_file {
        Some(file) => std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display())),
        None => print::line(text.trim_end()),
    }
}

/// Formats the config of a build as native YAML.
fn native(build: &Build) -> anyhow::Result<String> {
    let config: Value = conversion::native(build);
    Ok(serde_yaml::to_string(&config)?)
}
