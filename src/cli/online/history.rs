//! `understudy revisions` and `rollback`, `backup` and `restore`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use http::Method;
use serde_json::{Value, json};

use crate::cli::online::client::{Asking, Change, Server, segment};
use crate::cli::online::entities;
use crate::cli::output::table;
use crate::cli::print;
use crate::store::Store;

/// Which revisions.
#[derive(Debug, clap::Args)]
pub struct Revisions {
    /// One of them, with what it changed, or a range such as 41..43 with how it differs; all without
    which: Option<String>,
    #[command(flatten)]
    asking: Asking,
}

/// Where to go back to.
#[derive(Debug, clap::Args)]
pub struct Rollback {
    /// The revision whose config is wanted
    number: u64,
    /// Where files changed since, let them be and put back only what REST wrote
    #[arg(long)]
    keep_files: bool,
    #[command(flatten)]
    change: Change,
}

/// Where to write it.
#[derive(Debug, clap::Args)]
pub struct Backup {
    /// A file that does not exist yet; it holds secrets as they are
    file: PathBuf,
    #[command(flatten)]
    server: Server,
}

/// What to restore where.
#[derive(Debug, clap::Args)]
pub struct Restore {
    /// What `understudy backup` wrote
    file: PathBuf,
    /// Where REST state is kept
    #[arg(long, env = "UNDERSTUDY_DATA", default_value = "./understudy-data", value_name = "DIR")]
    data: PathBuf,
    /// Replace what the directory holds
    #[arg(long)]
    force: bool,
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Prints the revisions, the newest first, or what some of them changed.
pub(crate) async fn revisions(options: Revisions) -> anyhow::Result<ExitCode> {
    let client = options.asking.server.client()?;
    match options.which.as_deref() {
        None => {
            let items = Value::from(client.list("/revisions?size=1000").await?);
            options.asking.output.say(&items, |items| {
                let fields = ["number", "time", "state", "source", "author", "summary", "reason", "error"];
                let row = |item: &Value| fields.iter().map(|field| text(&item[*field])).collect();
                table(&fields, items.as_array().into_iter().flatten().map(row))
            })?;
        }
        Some(range) if range.contains("..") => {
            let diff = client.get(&format!("/revisions/{}/diff", segment(range))).await?;
            options.asking.output.say(&diff, changes)?;
        }
        Some(number) => {
            let revision = client.get(&format!("/revisions/{}", segment(number))).await?;
            options.asking.output.say(&revision, |revision| {
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

/// Each entity as it was and as it became.
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

/// Puts back what was.
pub(crate) async fn rollback(options: Rollback) -> anyhow::Result<ExitCode> {
    let Change { terms, asking } = options.change;
    let client = asking.server.client()?;
    let keep = if options.keep_files { "?keep=files" } else { "" };
    let path = format!("/revisions/{}/rollback{keep}", options.number);
    let answer = client.send(Method::POST, &path, &json!({}), &terms).await?;
    entities::said(&answer, &terms, asking.output)
}

/// Takes a copy of everything that is durable.
pub(crate) async fn backup(options: Backup) -> anyhow::Result<ExitCode> {
    let bytes = options.server.client()?.bytes("/backup").await?;
    let write = || {
        let mut file = std::fs::File::create_new(&options.file)?;
        std::io::Write::write_all(&mut file, &bytes)?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write {}", options.file.display()))?;
    print::note(&format!("{} bytes in {}", bytes.len(), options.file.display()));
    Ok(ExitCode::SUCCESS)
}

/// Puts a copy in the place of what the data directory holds.
pub(crate) fn restore(options: &Restore) -> anyhow::Result<ExitCode> {
    let state = Store::restore(&options.file, &options.data, options.force)?;
    let entities = state.stored.len();
    print::note(&format!("restored revision {} with {entities} entities", state.revision));
    Ok(ExitCode::SUCCESS)
}
