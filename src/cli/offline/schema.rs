//! `understudy schema`: prints the JSON Schema of config files.

use std::process::ExitCode;

use crate::cli::print;
use crate::config::schema;

/// Prints the JSON Schema of a config file.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    print::line(&serde_json::to_string_pretty(&schema::schema())?)?;
    Ok(ExitCode::SUCCESS)
}
