//! `understudy token`: manages the tokens of the admin API.

use std::path::PathBuf;
use std::process::ExitCode;

use http::Method;
use serde_json::{Value, json};

use crate::access::tokens::{self, Role, Token, TokenError};
use crate::cli::online::client::{RequestOptions, ServerOptions, WriteOptions, segment};
use crate::cli::output::table;
use crate::cli::print;
use crate::store::redb::RedbStore;
use crate::store::{RemovalTerms, Store, TokenAddition, TokenRemoval};

/// Options of `understudy token`.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, clap::Subcommand)]
enum TokenCommand {
    /// Create a token and print it, once
    Create {
        /// Name of its holder: the author of the revisions that it makes
        name: String,
        /// Role of the token
        #[arg(long, default_value = "write")]
        role: Role,
        #[command(flatten)]
        location: TokenStoreOptions,
    },
    /// List the tokens
    List {
        #[command(flatten)]
        location: TokenStoreOptions,
    },
    /// Revoke a token
    Revoke {
        /// Name of the token
        name: String,
        #[command(flatten)]
        location: TokenStoreOptions,
    },
}

/// Options that select where the tokens are, and how they are printed.
#[derive(Debug, clap::Args)]
struct TokenStoreOptions {
    /// Data directory of a control plane that does not run, to create the first token
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    request: RequestOptions,
}

/// Runs the action, over the API or in the data directory.
pub(crate) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let command = options.command;
    let (TokenCommand::Create { location, .. }
    | TokenCommand::List { location }
    | TokenCommand::Revoke { location, .. }) = &command;
    let outcome = match &location.data {
        Some(data) => in_directory(&RedbStore::open(data)?, &command)?,
        None => over_api(&location.request.server, &command).await?,
    };
    let token = |created: &Value| created["token"].as_str().unwrap_or_default().to_owned();
    match &command {
        TokenCommand::Create { .. } => location.request.output.print(&outcome, token)?,
        TokenCommand::List { .. } => location.request.output.print(&outcome, human)?,
        TokenCommand::Revoke { name, .. } => print::note(&format!("the token `{name}` is revoked")),
    }
    Ok(ExitCode::SUCCESS)
}

fn human(list: &Value) -> String {
    let row = |token: &Value| {
        ["name", "role", "created"].map(|field| token[field].as_str().unwrap_or_default().to_owned()).to_vec()
    };
    let tokens = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    table(&["name", "role", "created"], tokens.iter().map(row))
}

fn token_view(token: &Token) -> Value {
    json!({ "name": token.name, "role": token.role.word(), "created": token.created.to_string() })
}

fn in_directory(store: &dyn Store, command: &TokenCommand) -> anyhow::Result<Value> {
    match command {
        TokenCommand::Create { name, role, .. } => {
            let (token, secret) = Token::create(name, *role)?;
            let added = store.add_token(&token.to_record(), None)?;
            anyhow::ensure!(added == TokenAddition::Added, TokenError::Taken(token.name));
            let mut created = token_view(&token);
            created["token"] = secret.reveal().into();
            Ok(created)
        }
        TokenCommand::List { .. } => {
            let items: Vec<Value> = tokens::stored(store)?.iter().map(token_view).collect();
            Ok(json!({ "items": items, "next": null }))
        }
        TokenCommand::Revoke { name, .. } => {
            // Whoever has the directory may remove the last one too: that opens the API to nobody.
            let removed = store.remove_token(name, RemovalTerms::default())?;
            anyhow::ensure!(removed == TokenRemoval::Removed, "no token is named `{name}`");
            Ok(Value::Null)
        }
    }
}

async fn over_api(server: &ServerOptions, command: &TokenCommand) -> anyhow::Result<Value> {
    let (client, write) = (server.client()?, WriteOptions::default());
    match command {
        TokenCommand::Create { name, role, .. } => {
            let body = json!({ "name": name, "role": role.word() });
            client.send(Method::POST, "/tokens", &body, &write).await
        }
        TokenCommand::List { .. } => client.get("/tokens").await,
        TokenCommand::Revoke { name, .. } => {
            client.send(Method::DELETE, &format!("/tokens/{}", segment(name)), &Value::Null, &write).await
        }
    }
}
