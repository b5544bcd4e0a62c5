//! Warnings of secrets that more clients of the xDS port can get than may be meant.

use std::sync::Arc;

use tracing::warn;

use crate::access::identity::IdentityRules;
use crate::build::Build;
use crate::cache::Cache;

/// Clients that the xDS port lets in.
#[derive(Debug)]
pub(super) enum XdsClients {
    /// Any client on this machine.
    Local,
    /// Any client that reaches the port.
    All,
    /// Clients with a certificate whose names the rules bind to their nodes.
    Certified(IdentityRules),
}

/// Warns of the first build, and of every later one of which there is something else to say.
pub(super) async fn warn_of_exposure(cache: Arc<Cache>, clients: XdsClients) -> anyhow::Result<()> {
    let mut builds = cache.subscribe_builds();
    let mut told = Vec::new();
    while let Some(build) = builds.next().await {
        let warnings = warnings(&build, &clients);
        warnings.iter().filter(|warning| !told.contains(*warning)).for_each(|warning| warn!("{warning}"));
        told = warnings;
    }
    std::future::pending().await
}

fn warnings(build: &Build, clients: &XdsClients) -> Vec<String> {
    let secret: Vec<String> = build.fleets_with_secrets().iter().map(|name| format!("`{name}`")).collect();
    let secret = match secret.as_slice() {
        [] => "no fleet".to_owned(),
        [one] => format!("the fleet {one}"),
        names => format!("the fleets {}", names.join(", ")),
    };
    let has_secrets = !build.fleets_with_secrets().is_empty();
    match clients {
        XdsClients::Local => Vec::new(),
        XdsClients::All => vec![format!(
            "any Envoy that reaches --xds is told the config, keys included (those of {secret}); --xds-client-ca ends that"
        )],
        XdsClients::Certified(rules) if rules.are_open() && has_secrets => {
            vec![format!(
                "--xds-node-identity any: every certificate of --xds-client-ca can get the keys of {secret}"
            )]
        }
        XdsClients::Certified(rules) => unvouched(build, rules),
    }
}

/// Returns a warning for each fleet that is selected by a field for which no certificate vouches.
fn unvouched(build: &Build, rules: &IdentityRules) -> Vec<String> {
    let fleets = build.unvouched_fleets(&rules.vouched());
    let mut warnings = Vec::new();
    for (fleet, fields) in fleets {
        let fields: Vec<String> = fields.iter().map(ToString::to_string).collect();
        let fields = fields.join(" and ");
        warnings.push(format!(
            "fleet `{fleet}` is selected by {fields}, which no certificate binds: its Envoys are sent no keys; bind \
             it by --xds-node-identity"
        ));
    }
    warnings
}
