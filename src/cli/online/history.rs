//! `understudy revisions` and `rollback`, `backup` and `restore`.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use http::Method;
use serde_json::{Value, json};

use crate::cli::online::client::{ChangeOptions, RequestOptions, ServerOptions, segment};
use crate::cli::online::outcome;
use crate::cli::output::table;
use crate::cli::print;
use crate::config::printable::printable;
use crate::store::redb::restore;

/// Options of `understudy revisions`.
#[derive(Debug, clap::Args)]
pub struct RevisionsOptions {
    /// Revision, to show its changes, or a range such as 41..43, to compare; all revisions without
    which: Option<String>,
    #[command(flatten)]
    request: RequestOptions,
}

/// Options of `understudy rollback`.
#[derive(Debug, clap::Args)]
pub struct RollbackOptions {
    /// Revision whose config to restore
    number: u64,
    /// Keep files that changed since as they are, and restore only what REST wrote
    #[arg(long)]
    keep_files: bool,
    #[command(flatten)]
    change: ChangeOptions,
}

/// Options of `understudy backup`.
#[derive(Debug, clap::Args)]
pub struct BackupOptions {
    /// File that does not exist yet; it will hold secrets in plain text
    file: PathBuf,
    #[command(flatten)]
    server: ServerOptions,
}

/// Options of `understudy restore`.
#[derive(Debug, clap::Args)]
pub struct RestoreOptions {
    /// File that `understudy backup` wrote
    file: PathBuf,
    /// Data directory of the REST state
    #[arg(long, env = "UNDERSTUDY_DATA", default_value = "./understudy-data", value_name = "DIR")]
    data: PathBuf,
    /// Replace the state that the directory holds
    #[arg(long)]
    force: bool,
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => printable(text).into_owned(),
        other => other.to_string(),
    }
}

/// Prints the revisions, the newest first, or the changes of some of them.
pub(crate) async fn revisions(options: RevisionsOptions) -> anyhow::Result<ExitCode> {
    let client = options.request.server.client()?;
    match options.which.as_deref() {
        None => {
            let items = Value::from(client.list("/revisions?size=1000").await?);
            options.request.output.print(&items, |items| {
                let fields = ["number", "time", "state", "source", "author", "summary", "reason", "error"];
                let row = |item: &Value| fields.iter().map(|field| text(&item[*field])).collect();
                table(&fields, items.as_array().into_iter().flatten().map(row))
            })?;
        }
        Some(range) if range.contains("..") => {
            let diff = client.get(&format!("/revisions/{}/diff", segment(range))).await?;
            options.request.output.print(&diff, changes)?;
        }
        Some(number) => {
            let revision = client.get(&format!("/revisions/{}", segment(number))).await?;
            options.request.output.print(&revision, |revision| {
                let head = [
                    "number",
                    "time",
                    "state",
                    "source",
                    "author",
                    "reason",
                    "summary",
                    "error",
                    "refused_by",
                ];
                let head = head.map(|field| format!("{field}: {}\n", text(&revision[field])));
                head.concat() + &changes(revision)
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Formats each changed entity before and after.
fn changes(of: &Value) -> String {
    let mut lines = String::new();
    for change in of["changes"].as_array().into_iter().flatten() {
        lines +=
            &format!("\n{} {} {}\n", text(&change["action"]), text(&change["kind"]), text(&change["name"]));
        for (mark, body) in [('-', &change["before"]), ('+', &change["after"])] {
            if !body.is_null() {
                let yaml = serde_yaml::to_string(body).unwrap_or_default();
                lines += &yaml.lines().map(|line| format!("{mark} {line}\n")).collect::<String>();
            }
        }
    }
    lines
}

/// Restores the config of a revision.
pub(crate) async fn rollback(options: RollbackOptions) -> anyhow::Result<ExitCode> {
    let ChangeOptions { write, request } = options.change;
    let client = request.server.client()?;
    let keep = if options.keep_files { "?keep=files" } else { "" };
    let path = format!("/revisions/{}/rollback{keep}", options.number);
    let response = client.send(Method::POST, &path, &json!({}), &write).await?;
    outcome::print(&response, &write, request.output)
}

/// Saves a copy of all durable state.
pub(crate) async fn backup(options: BackupOptions) -> anyhow::Result<ExitCode> {
    let bytes = options.server.client()?.bytes("/backup").await?;
    let write = || {
        // It holds secrets, so only its owner may read it.
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&options.file)?;
        std::io::Write::write_all(&mut file, &bytes)?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write {}", options.file.display()))?;
    print::note(&format!("{} bytes in {}", bytes.len(), options.file.display()));
    Ok(ExitCode::SUCCESS)
}

/// Replaces the state in the data directory by a backup.
pub(crate) fn restore(options: &RestoreOptions) -> anyhow::Result<ExitCode> {
    let state = restore::restore(&options.file, &options.data, options.force)?;
    let entities = state.stored.len();
    print::note(&format!("restored revision {} with {entities} entities", state.revision));
    Ok(ExitCode::SUCCESS)
}
