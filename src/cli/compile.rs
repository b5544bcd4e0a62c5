//! `understudy compile`

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::cli::{check, print};
use crate::model::name::Name;
use crate::model::target::Addresses;
use crate::pipeline::{self, Inputs};
use crate::source::files;
use crate::source::resolve::Resolver;

/// What to compile, for whom.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Config files and directories
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Whose Envoys; needed when there are several fleets
    #[arg(long, value_name = "FLEET")]
    fleet: Option<String>,
    /// A file with the addresses of host names (name to list of IPs, YAML or JSON), in place of DNS
    #[arg(long, value_name = "FILE")]
    addresses: Option<PathBuf>,
    /// The notation
    #[arg(long, default_value = "json", value_name = "FORMAT")]
    format: Format,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    Json,
    Yaml,
}

/// Prints what the Envoys of a fleet would be told.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let refuse = |violations: &[_]| {
        print::note(check::human(violations).trim_end());
        Ok(ExitCode::FAILURE)
    };
    let files = match files::read(&options.paths) {
        Ok(files) => files,
        Err(violations) => return refuse(&violations),
    };
    let mut inputs = Inputs { files, ..Inputs::default() };
    let build = match pipeline::build_reading(&mut inputs, None, files::read_named) {
        Ok(build) => build,
        Err(violations) => return refuse(&violations),
    };
    let fleet = match &options.fleet {
        Some(fleet) => Name::parse(fleet).filter(|fleet| build.snapshots.contains_key(fleet)),
        None if build.model.fleets.len() > 1 => {
            print::note("error: there are several fleets; name one with --fleet");
            return Ok(ExitCode::from(2));
        }
        None => Some(build.model.fleets.first().map_or_else(Name::default_fleet, |fleet| fleet.name.clone())),
    };
    let Some(fleet) = fleet else {
        let names: Vec<&str> = build.snapshots.keys().map(Name::as_str).collect();
        print::note(&format!("error: there is no such fleet; there are {}", names.join(", ")));
        return Ok(ExitCode::from(2));
    };
    inputs.addresses = match &options.addresses {
        Some(file) => read_addresses(file)?,
        None => resolve(&build.host_names())?,
    };
    let build = match pipeline::build(&inputs, Some(&build)) {
        Ok(build) => build,
        Err(violations) => return refuse(&violations),
    };
    let json = build.snapshot(&fleet).to_json();
    let text = match options.format {
        Format::Json => serde_json::to_string_pretty(&json)?,
        Format::Yaml => serde_yaml::to_string(&json)?,
    };
    print::line(text.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn read_addresses(file: &PathBuf) -> anyhow::Result<Addresses> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let addresses: BTreeMap<String, Vec<IpAddr>> = serde_yaml::from_str(&text)
        .with_context(|| format!("{} is no map of names to IPs", file.display()))?;
    Ok(addresses)
}

fn resolve(names: &std::collections::BTreeSet<String>) -> anyhow::Result<Addresses> {
    if names.is_empty() {
        return Ok(Addresses::new());
    }
    tokio::runtime::Runtime::new()?.block_on(async {
        let mut resolver = Resolver::new();
        resolver.retain(names).await;
        let addresses = resolver.addresses();
        for name in names.iter().filter(|name| !addresses.contains_key(*name)) {
            print::note(&format!("warning: `{name}` does not resolve; its targets are left out"));
        }
        Ok(addresses)
    })
}
