//! `understudy token`: manages the tokens of the admin API.

use std::path::PathBuf;
use std::process::ExitCode;

use http::Method;
use serde_json::{Value, json};

use crate::access::tokens::{self, Role, Token, TokenError};
use crate::cli::online::client::{Asking, Server, Terms, segment};
use crate::cli::output::table;
use crate::cli::print;
use crate::store::Store;
use crate::store::redb::RedbStore;

/// Options of `understudy token`.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Create a token and print it, once
    Create {
        /// Name of its holder: the author of the revisions that it makes
        name: String,
        /// Role of the token
        #[arg(long, default_value = "write")]
        role: Role,
        #[command(flatten)]
        place: Place,
    },
    /// List the tokens
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Revoke a token
    Revoke {
        /// Name of the token
        name: String,
        #[command(flatten)]
        place: Place,
    },
}

/// Options that select where the tokens are, and how they are printed.
#[derive(Debug, clap::Args)]
struct Place {
    /// Data directory of a control plane that does not run, to create the first token
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    asking: Asking,
}

/// Runs the action, over the API or in the data directory.
pub(crate) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let action = options.action;
    let (Action::Create { place, .. } | Action::List { place } | Action::Revoke { place, .. }) = &action;
    let outcome = match &place.data {
        Some(data) => in_directory(&RedbStore::open(data)?, &action)?,
        None => over_api(&place.asking.server, &action).await?,
    };
    let token = |made: &Value| made["token"].as_str().unwrap_or_default().to_owned();
    match &action {
        Action::Create { .. } => place.asking.output.say(&outcome, token)?,
        Action::List { .. } => place.asking.output.say(&outcome, human)?,
        Action::Revoke { name, .. } => print::note(&format!("the token `{name}` is worthless now")),
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

fn shown(token: &Token) -> Value {
    json!({ "name": token.name, "role": token.role.word(), "created": token.created.to_string() })
}

fn in_directory(store: &dyn Store, action: &Action) -> anyhow::Result<Value> {
    match action {
        Action::Create { name, role, .. } => {
            let (token, secret) = Token::create(name, *role)?;
            anyhow::ensure!(store.add_token(&token.to_record())?, TokenError::Taken(token.name));
            let mut made = shown(&token);
            made["token"] = secret.reveal().into();
            Ok(made)
        }
        Action::List { .. } => {
            let items: Vec<Value> = tokens::stored(store)?.iter().map(shown).collect();
            Ok(json!({ "items": items, "next": null }))
        }
        Action::Revoke { name, .. } => {
            anyhow::ensure!(store.remove_token(name)?, "no token is named `{name}`");
            Ok(Value::Null)
        }
    }
}

async fn over_api(server: &Server, action: &Action) -> anyhow::Result<Value> {
    let (client, terms) = (server.client()?, Terms::default());
    match action {
        Action::Create { name, role, .. } => {
            let body = json!({ "name": name, "role": role.word() });
            client.send(Method::POST, "/tokens", &body, &terms).await
        }
        Action::List { .. } => client.get("/tokens").await,
        Action::Revoke { name, .. } => {
            client.send(Method::DELETE, &format!("/tokens/{}", segment(name)), &Value::Null, &terms).await
        }
    }
}
