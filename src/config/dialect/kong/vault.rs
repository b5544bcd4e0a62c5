//! Secrets that `{vault://PREFIX/NAME}` names, from the environment.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::dialect::kong::entity::{Entity, child, text};
use crate::config::dialect::kong::kind::EntityKind;
use crate::config::dialect::kong::read::KongDocument;

/// Sources of secrets, and the environment.
#[derive(Debug)]
pub struct Vaults<'v> {
    entities: Vec<&'v Arc<Entity>>,
    variables: &'v BTreeMap<String, String>,
}

impl<'v> Vaults<'v> {
    /// Collects the vaults of documents.
    pub fn new(documents: &'v [Arc<KongDocument>], variables: &'v BTreeMap<String, String>) -> Self {
        let entities = documents.iter().flat_map(|document| &document.entities);
        Self { entities: entities.filter(|entity| entity.kind == EntityKind::Vault).collect(), variables }
    }

    /// Returns the secret that a text names, or the text itself.
    ///
    /// # Errors
    ///
    /// Says why there is no such secret, and what would help.
    pub fn resolve(&self, written: &str) -> Result<String, (String, String)> {
        let Some(inner) = written.strip_prefix("{vault://").and_then(|rest| rest.strip_suffix('}')) else {
            return Ok(written.to_owned());
        };
        let (prefix, name) = inner.split_once('/').unwrap_or((inner, ""));
        let vault = self.entities.iter().find(|vault| vault.text("prefix") == Some(prefix));
        let from_environment = if prefix == "env" { Some("") } else { None };
        let start = match vault {
            Some(vault) if vault.text("name") == Some("env") => {
                child(&vault.object.node, "config").and_then(|config| child(config, "prefix")).and_then(text)
            }
            Some(vault) => {
                let kind = vault.text("name").unwrap_or_default();
                let help = "use a vault with `name: env`, or write the value".to_owned();
                return Err((format!("vaults of the kind `{kind}` are not read"), help));
            }
            None if from_environment.is_some() => from_environment,
            None => {
                let help = "declare it under `vaults` with `name: env`".to_owned();
                return Err((format!("no vault has the prefix `{prefix}`"), help));
            }
        };
        let name = name.to_ascii_uppercase().replace('-', "_");
        let variable = format!("{}{name}", start.unwrap_or_default());
        let found = self.variables.get(&variable).cloned();
        found.ok_or_else(|| {
            let help = format!("set it where understudy is started: `{variable}=…`");
            (format!("the variable `{variable}` is not set, of which `{written}` speaks"), help)
        })
    }
}
