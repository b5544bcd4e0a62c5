//! `understudy plan`: prints what files would change.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use http::Method;
use serde_json::{Value, json};

use crate::build::Build;
use crate::cli::dialect::DialectOptions;
use crate::cli::offline::check;
use crate::cli::online::client::{RequestOptions, WriteOptions};
use crate::cli::online::connection::Unreachable;
use crate::cli::output::{Format, FormatOptions};
use crate::cli::print;
use crate::config::Violation;
use crate::inspect::plan::{self, Plan};
use crate::inspect::removal::{self, LossLimits};
use crate::source::files;

/// Options of `understudy plan`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Config files and directories, in place of the served ones
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    dialect: DialectOptions,
    /// Compare with these files and directories, not with the served config; repeat for several
    #[arg(long, value_name = "PATH", conflicts_with = "admin")]
    against: Vec<PathBuf>,
    /// Exit with 3 if there are changes
    #[arg(long)]
    exit_code: bool,
    #[command(flatten)]
    request: RequestOptions,
}

/// Prints what the files would change, and the effects. The files are compared with an empty config if no
/// control plane was named and none runs on this machine.
pub(crate) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    // Faults of the files are best reported here, with their lines.
    let build = match check::build(&options.paths, options.dialect) {
        Ok(build) => Some(build),
        Err(violations) if violations.iter().any(|violation| violation.code != "US111") => {
            check::report(&violations);
            return Ok(ExitCode::FAILURE);
        }
        // The files may refer to entities that REST declared (US111), so the server decides.
        Err(_) => None,
    };
    if !options.against.is_empty() {
        return against(&options, build);
    }
    let texts: BTreeMap<_, _> = files::read_piped(&options.paths).unwrap_or_default().into_iter().collect();
    let body = json!({ "files": texts });
    let client = options.request.server.client()?;
    let plan = match client.send(Method::POST, "/plan", &body, &WriteOptions::default()).await {
        Err(error) if error.is::<Unreachable>() && !options.request.server.is_named() => {
            print::note(&format!("{error}"));
            print::note("compared with an empty config:");
            let build = build.ok_or(error)?;
            let nothing = Build::default();
            let plan = Plan::new(&plan::file_edits(&nothing, &build), &nothing, &build);
            serde_json::to_value(plan)?
        }
        plan => plan?,
    };
    finish(&plan, &options)
}

/// Compares the files with those of `--against`.
fn against(options: &Options, build: Option<Build>) -> anyhow::Result<ExitCode> {
    let refuse = |violations: &[Violation]| {
        check::report(violations);
        Ok(ExitCode::FAILURE)
    };
    let Some(build) = build else {
        return refuse(&check::build(&options.paths, options.dialect).err().unwrap_or_default());
    };
    match check::build(&options.against, options.dialect) {
        Ok(base) => {
            let mut plan = Plan::new(&plan::file_edits(&base, &build), &base, &build);
            plan.changes.extend(removal::planned(&base, &build, &LossLimits::default()));
            finish(&serde_json::to_value(plan)?, options)
        }
        Err(violations) => refuse(&violations),
    }
}

fn finish(plan: &Value, options: &Options) -> anyhow::Result<ExitCode> {
    print_plan(plan, options.request.output)?;
    let changes = plan["changes"].as_array().is_some_and(|changes| !changes.is_empty());
    let envoy = plan["envoy"].as_object().into_iter().flatten();
    let differs = changes
        || envoy
            .flat_map(|(_, names)| names.as_object())
            .any(|names| names.values().any(|names| names.as_array().is_some_and(|names| !names.is_empty())));
    Ok(if options.exit_code && differs { ExitCode::from(3) } else { ExitCode::SUCCESS })
}

/// Prints a plan.
pub(crate) fn print_plan(plan: &Value, output: FormatOptions<Format>) -> anyhow::Result<()> {
    output.print(plan, human)
}

fn human(plan: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut lines = String::new();
    for change in plan["changes"].as_array().into_iter().flatten() {
        let mark = match change["action"].as_str() {
            Some("create") => '+',
            Some("delete") => '-',
            _ => '~',
        };
        let level = if change["level"] == "warning" { "  (warning)" } else { "" };
        lines += &format!("{mark} {}{level}\n", text(&change["summary"]));
    }
    let mut resources = String::new();
    for (kind, names) in plan["envoy"].as_object().into_iter().flatten() {
        for (change, mark) in [("added", '+'), ("changed", '~'), ("removed", '-')] {
            let names: Vec<String> = names[change].as_array().into_iter().flatten().map(text).collect();
            if !names.is_empty() {
                resources += &format!("  {mark} {kind}: {}\n", names.join(", "));
            }
        }
    }
    match (lines.is_empty(), resources.is_empty()) {
        (true, true) => "nothing changes".to_owned(),
        (_, true) => format!("{lines}no resource of an Envoy changes\n"),
        _ => format!("{lines}Envoys get:\n{resources}"),
    }
}
