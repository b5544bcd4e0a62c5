//! `understudy compile`: prints compiled resources.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::build::{self, Build, Inputs};
use crate::cli::dialect::DialectOptions;
use crate::cli::offline::check;
use crate::cli::output::{DataFormat, FormatOptions};
use crate::cli::print;
use crate::envoy::node::Locality;
use crate::model::addresses::Addresses;
use crate::model::name::Name;
use crate::model::resolver;
use crate::model::target::Host;
use crate::source::files;
use crate::source::material;
use crate::source::resolve::DnsResolver;

/// Options of `understudy compile`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Config files and directories
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    dialect: DialectOptions,
    /// Fleet to compile for; needed if there are several
    #[arg(long, value_name = "FLEET")]
    fleet: Option<String>,
    /// Locality of the Envoy, as REGION/ZONE/SUB_ZONE, for tiers by distance
    #[arg(long, value_name = "LOCALITY")]
    node_locality: Option<Locality>,
    /// File with the addresses of host names (name to list of IPs, service to list of host:port, YAML or
    /// JSON), in place of DNS
    #[arg(long, value_name = "FILE")]
    addresses: Option<PathBuf>,
    #[command(flatten)]
    output: FormatOptions<DataFormat>,
}

/// Prints the resources that the Envoys of a fleet would get.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let refuse = |violations: &[_]| {
        check::report(violations);
        Ok(ExitCode::FAILURE)
    };
    let files = match files::read_piped(&options.paths) {
        Ok(files) => files,
        Err(violations) => return refuse(&violations),
    };
    let mut inputs = Inputs { files, terms: options.dialect.terms(), ..Inputs::default() };
    let build = match build::build_reading(&mut inputs, None, |names| material::read_named(names, None)) {
        Ok(build) => build,
        Err(violations) => return refuse(&violations),
    };
    let fleet = match chosen_fleet(options.fleet.as_deref(), &build) {
        Ok(fleet) => fleet,
        Err(fault) => {
            print::note(&format!("error: {fault}"));
            return Ok(ExitCode::from(2));
        }
    };
    inputs.addresses = match &options.addresses {
        Some(file) => read_addresses(file)?,
        None => resolve(&build.host_names(), &build.model.resolver)?,
    };
    let build = match build::build(&inputs, Some(&build)) {
        Ok(build) => build,
        Err(violations) => return refuse(&violations),
    };
    let locality = options.node_locality.clone().unwrap_or_default();
    options.output.format().print(&build.snapshot_at(&fleet, &locality).to_json())?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the named fleet, or the only one.
fn chosen_fleet(name: Option<&str>, build: &Build) -> Result<Name, String> {
    let Some(name) = name else {
        return match build.model.fleets.as_slice() {
            [] => Ok(Name::default_fleet()),
            [fleet] => Ok(fleet.name.clone()),
            _ => Err("there are several fleets; name one with --fleet".to_owned()),
        };
    };
    Name::parse(name).filter(|fleet| build.snapshots.contains_key(fleet)).ok_or_else(|| {
        let names: Vec<&str> = build.snapshots.keys().map(Name::as_str).collect();
        format!("there is no fleet `{name}`; there are {}", names.join(", "))
    })
}

/// Reads a map of host names to addresses.
pub(crate) fn read_addresses(file: &PathBuf) -> anyhow::Result<Addresses> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_yaml::from_str(&text).with_context(|| format!("{} is no map of names to addresses", file.display()))
}

fn resolve(names: &BTreeSet<Host>, settings: &resolver::Resolver) -> anyhow::Result<Addresses> {
    if names.is_empty() {
        return Ok(Addresses::default());
    }
    tokio::runtime::Runtime::new()?.block_on(async {
        let mut resolver = DnsResolver::new();
        resolver.configure(settings);
        resolver.learn(names).await;
        let addresses = resolver.addresses();
        for name in names.iter().filter(|name| !addresses.knows(name)) {
            print::note(&format!("warning: `{name}` does not resolve; its targets are left out"));
        }
        Ok(addresses)
    })
}
