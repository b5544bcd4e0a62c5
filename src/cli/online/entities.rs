//! `understudy get`, `delete`, `target` and `config`: entities over the admin API.

use std::process::ExitCode;

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use crate::cli::online::client::{AdminClient, ChangeOptions, RequestOptions, ServerOptions, segment};
use crate::cli::online::orders;
use crate::cli::online::outcome;
use crate::cli::online::value::{items, text};
use crate::cli::output::{DataFormat, FileFormat, FormatOptions, table};
use crate::cli::print;
use crate::config::document::Kind;

/// Options of `understudy get`.
#[derive(Debug, clap::Args)]
pub struct GetOptions {
    /// Kind: upstreams, services, routes, listeners, fleets, …, or the targets of an upstream
    #[arg(value_parser = kind_or_targets)]
    kind: Kind,
    /// Name of one entity; for targets, of their upstream
    name: Option<String>,
    /// Only entities with this tag; repeat to require several, a,b for either
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    #[command(flatten)]
    request: RequestOptions,
}

/// Options of `understudy delete`.
#[derive(Debug, clap::Args)]
pub struct DeleteOptions {
    /// Kind: upstream, service, route, listener, fleet, …
    #[arg(value_parser = kind)]
    kind: Kind,
    /// Name of the entity
    name: String,
    /// Remove the entities that refer to it too
    #[arg(long)]
    cascade: bool,
    #[command(flatten)]
    change: ChangeOptions,
}

/// Options of `understudy target`.
#[derive(Debug, clap::Args)]
pub struct TargetOptions {
    #[command(subcommand)]
    command: TargetCommand,
}

#[derive(Debug, Subcommand)]
enum TargetCommand {
    /// Add a target to an upstream, also to one that a file declares
    Add {
        upstream: String,
        /// Address as host:port
        target: String,
        /// Share among the targets of its tier, from 0
        #[arg(long)]
        weight: Option<u32>,
        /// Make it a standby, which serves when no primary can
        #[arg(long, conflicts_with = "priority")]
        failover: bool,
        /// Tier, from 0
        #[arg(long)]
        priority: Option<u32>,
        #[command(flatten)]
        change: ChangeOptions,
    },
    /// Remove a target
    Remove {
        upstream: String,
        /// Address as host:port
        target: String,
        #[command(flatten)]
        change: ChangeOptions,
    },
    /// Send no new requests to a target, a tier or a zone
    Drain(orders::StateOptions),
    /// Count a target, a tier or a zone as down
    Down(orders::StateOptions),
    /// Let the health of a target, a tier or a zone decide again
    Auto(orders::StateOptions),
    /// Change the weight of a target
    Weight {
        upstream: String,
        /// Address as host:port
        target: String,
        /// Weight, from 0; 0 sends it no requests
        weight: u32,
        #[command(flatten)]
        change: ChangeOptions,
    },
}

/// Options of `understudy config`.
#[derive(Debug, clap::Args)]
pub struct ConfigOptions {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print everything that files and REST declare as one file; secrets as hashes
    Export {
        /// Only entities with this tag
        #[arg(long, value_name = "TAG")]
        tag: Option<String>,
        #[command(flatten)]
        output: FormatOptions<FileFormat>,
        #[command(flatten)]
        server: ServerOptions,
    },
}

/// Parses a kind, in the singular or plural.
fn kind(word: &str) -> Result<Kind, String> {
    let kinds = || Kind::TOP.into_iter();
    kinds().find(|kind| [kind.singular(), kind.plural()].contains(&word)).ok_or_else(|| {
        let words: Vec<&str> = kinds().map(Kind::plural).collect();
        format!("there are {}", words.join(", "))
    })
}

fn kind_or_targets(word: &str) -> Result<Kind, String> {
    match word {
        "target" | "targets" => Ok(Kind::Target),
        word => kind(word).map_err(|there| format!("{there}, targets")),
    }
}

/// Formats a value as one cell; `-` for an empty list too.
fn cell(value: &Value) -> String {
    if items(value).is_empty() && value.is_array() { "-".to_owned() } else { text(value) }
}

fn query(tags: &[String]) -> String {
    let tags = tags.iter().map(|tag| ("tag", tag));
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(tags).finish();
    if query.is_empty() { query } else { format!("?{query}") }
}

/// Prints a list, or one entity.
pub(crate) async fn get(options: GetOptions) -> anyhow::Result<ExitCode> {
    let client = options.request.server.client()?;
    let path = match (&options.name, options.kind) {
        (Some(upstream), Kind::Target) => format!("/upstreams/{}/targets", segment(upstream)),
        (None, Kind::Target) => {
            print::note("error: name the upstream, as in `understudy get targets checkout`");
            return Ok(ExitCode::from(2));
        }
        (Some(name), kind) => {
            let entity = client.get(&format!("/{}/{}", kind.plural(), segment(name))).await?;
            let human = |entity: &Value| serde_yaml::to_string(entity).unwrap_or_default();
            options.request.output.print(&entity, human)?;
            return Ok(ExitCode::SUCCESS);
        }
        (None, kind) => format!("/{}", kind.plural()),
    };
    let list = Value::from(client.list(&format!("{path}{}", query(&options.tag))).await?);
    options.request.output.print(&list, |list| entity_table(options.kind, list))?;
    Ok(ExitCode::SUCCESS)
}

fn entity_table(kind: Kind, list: &Value) -> String {
    let fields: &[&str] = match kind {
        Kind::Fleet => &["name", "select", "tags"],
        Kind::Listener => &["name", "address", "fleets", "tags"],
        Kind::Route => &["name", "hosts", "paths", "service", "tags"],
        Kind::Service => &["name", "upstream", "timeout", "tags"],
        Kind::Upstream => &["name", "primaries", "standbys", "tags"],
        Kind::Target => &["target", "weight", "failover", "priority", "tags"],
        _ => &["name", "tags"],
    };
    let is_standby = |target: &&Value| {
        target["failover"] == true || target["priority"].as_u64().is_some_and(|priority| priority > 0)
    };
    let field_cell = |item: &Value, field: &str| match field {
        "primaries" | "standbys" => {
            let targets = items(&item["targets"]);
            let standbys = targets.iter().filter(is_standby).count();
            if field == "standbys" { standbys.to_string() } else { (targets.len() - standbys).to_string() }
        }
        field => cell(&item[field]),
    };
    table(fields, items(list).iter().map(|item| fields.iter().map(|field| field_cell(item, field)).collect()))
}

/// Removes an entity.
pub(crate) async fn delete(options: DeleteOptions) -> anyhow::Result<ExitCode> {
    let ChangeOptions { write, request } = options.change;
    let client = request.server.client()?;
    let cascade = if options.cascade { "?cascade=true" } else { "" };
    let path = format!("/{}/{}{cascade}", options.kind.plural(), segment(&options.name));
    let response = client.send(Method::DELETE, &path, &Value::Null, &write).await?;
    outcome::print(&response, &write, request.output)
}

/// Changes a target.
pub(crate) async fn target(options: TargetOptions) -> anyhow::Result<ExitCode> {
    let send = async |change: ChangeOptions, method: Method, path: String, body: Value| {
        let client: AdminClient = change.request.server.client()?;
        let response = client.send(method, &path, &body, &change.write).await?;
        outcome::print(&response, &change.write, change.request.output)
    };
    let targets = |upstream: &str| format!("/upstreams/{}/targets", segment(upstream));
    let one = |upstream: &str, target: &str| format!("{}/{}", targets(upstream), segment(target));
    match options.command {
        TargetCommand::Add { upstream, target, weight, failover, priority, change } => {
            let mut body = json!({ "target": target });
            if let Some(weight) = weight {
                body["weight"] = weight.into();
            }
            if let Some(priority) = priority {
                body["priority"] = priority.into();
            }
            if failover {
                body["failover"] = true.into();
            }
            send(change, Method::POST, targets(&upstream), body).await
        }
        TargetCommand::Drain(options) => orders::state(options, "drained").await,
        TargetCommand::Down(options) => orders::state(options, "down").await,
        TargetCommand::Auto(options) => orders::state(options, "auto").await,
        TargetCommand::Remove { upstream, target, change } => {
            send(change, Method::DELETE, one(&upstream, &target), Value::Null).await
        }
        TargetCommand::Weight { upstream, target, weight, change } => {
            send(change, Method::PATCH, one(&upstream, &target), json!({ "weight": weight })).await
        }
    }
}

/// Prints the whole config.
pub(crate) async fn config(options: ConfigOptions) -> anyhow::Result<ExitCode> {
    let ConfigCommand::Export { tag, output, server } = options.command;
    let tags: Vec<String> = tag.into_iter().collect();
    let config = server.client()?.get(&format!("/config{}", query(&tags))).await?;
    DataFormat::from(output.format()).print(&config)?;
    Ok(ExitCode::SUCCESS)
}
