//! `understudy show`: prints the effective settings of an upstream.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::Value;

use crate::cli::dialect::DialectOptions;
use crate::cli::offline::check;
use crate::cli::output::{Format, FormatOptions};
use crate::cli::print;
use crate::config::near;
use crate::inspect::settings;
use crate::inspect::settings::setting::{EffectiveSetting, SettingOrigin};
use crate::model::name::Name;

/// Options of `understudy show`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Config files and directories
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    dialect: DialectOptions,
    /// Name of the upstream
    #[arg(long, value_name = "UPSTREAM")]
    upstream: String,
    #[command(flatten)]
    output: FormatOptions<Format>,
}

/// Prints every effective setting of an upstream, and its source.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let build = match check::build(&options.paths, options.dialect) {
        Ok(build) => build,
        Err(violations) => {
            check::report(&violations);
            return Ok(ExitCode::FAILURE);
        }
    };
    let Some(settings) = settings::effective(&build, &options.upstream) else {
        let names = near(&options.upstream, build.model.upstreams.keys().map(Name::as_str));
        let help = names.first().map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
        print::note(&format!("error: no upstream is named `{}`{help}", options.upstream));
        return Ok(ExitCode::from(2));
    };
    let shown = serde_json::to_value(&settings)?;
    options.output.print(&shown, |_| table(&settings.settings))?;
    Ok(ExitCode::SUCCESS)
}

/// Formats the settings as lines of YAML, with the origin as a comment.
fn table(settings: &[EffectiveSetting]) -> String {
    let lines: Vec<(String, String)> = settings
        .iter()
        .map(|EffectiveSetting { path, value, origin }| (format!("{path}: {}", text(value)), comment(origin)))
        .collect();
    let widest = lines.iter().map(|(setting, _)| setting.chars().count()).filter(|width| *width <= 60).max();
    let width = widest.unwrap_or(0);
    lines.iter().map(|(setting, comment)| format!("{setting:<width$}  # {comment}\n")).collect()
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) if !text.is_empty() => text.clone(),
        other => other.to_string(),
    }
}

fn comment(origin: &SettingOrigin) -> String {
    match origin {
        SettingOrigin::Default => "default".to_owned(),
        SettingOrigin::Stored => "written over REST".to_owned(),
        SettingOrigin::Derived { because } => format!("derived: {because}"),
        SettingOrigin::File { file, line, .. } => match line {
            Some(line) => format!("{file}:{line}"),
            None => file.clone(),
        },
    }
}
