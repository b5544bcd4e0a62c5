//! Outcome of a change, as the commands print it.

use std::process::ExitCode;

use serde_json::Value;

use crate::cli::online::client::WriteOptions;
use crate::cli::online::plan;
use crate::cli::online::value::{items, text};
use crate::cli::output::{Format, FormatOptions};
use crate::cli::print;

/// Prints the outcome of a change. The exit code is 1 if Envoys have not acknowledged it in time.
pub(crate) fn print(
    response: &Value,
    write: &WriteOptions,
    output: FormatOptions<Format>,
) -> anyhow::Result<ExitCode> {
    if write.dry_run {
        return plan::print_plan(response, output).map(|()| ExitCode::SUCCESS);
    }
    for warning in items(&response["warnings"]) {
        print::note(&format!("warning: {}", text(&warning["message"])));
    }
    output.print(response, human)?;
    Ok(if response["waiting_for"].is_array() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn human(response: &Value) -> String {
    if let Some(waiting) = response["waiting_for"].as_array() {
        let nodes: Vec<String> = waiting.iter().map(|one| text(&one["node"])).collect();
        return format!("done, and not yet acknowledged by {}", nodes.join(", "));
    }
    let lines = ["created", "updated", "deleted"].map(|action| {
        let paths = items(&response[action]).iter();
        paths.map(|path| format!("{action} {}\n", text(path))).collect::<String>()
    });
    let changes = items(&response["changes"]).iter().map(|change| {
        let what = match change.get("path") {
            Some(path) => text(path),
            None => format!("{} {}", text(&change["kind"]), text(&change["name"])),
        };
        format!("{} {what}\n", text(&change["action"]))
    });
    let lines = lines.concat() + &changes.collect::<String>();
    match (response, lines.as_str()) {
        (_, lines) if !lines.is_empty() => lines.to_owned(),
        (Value::Null, _) => "deleted".to_owned(),
        (response, _) if response.get("unchanged").is_some() => "nothing changes".to_owned(),
        (response, _) => serde_yaml::to_string(response).unwrap_or_default(),
    }
}
