//! `understudy simulate`: prints where requests go when targets are down.

mod chart;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::admin::view::simulation::SimulationView;
use crate::cli::dialect::DialectOptions;
use crate::cli::offline::check;
use crate::cli::offline::compile;
use crate::cli::output::{Format, FormatOptions};
use crate::cli::print;
use crate::config::near;
use crate::envoy::node::Locality;
use crate::inspect::simulate;
use crate::model::addresses::Addresses;
use crate::model::name::Name;
use crate::model::selector::TargetSelector;
use crate::model::upstream::Upstream;

/// Options of `understudy simulate`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Config files and directories
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    dialect: DialectOptions,
    /// Name of the upstream
    #[arg(long, value_name = "UPSTREAM")]
    upstream: String,
    /// Part that is down: a target as host:port, region=R, zone=Z, sub_zone=S or priority=N; repeat for
    /// several
    #[arg(long, value_name = "WHAT")]
    down: Vec<String>,
    /// File with the addresses of host names (name to list of IPs, YAML or JSON); without it a name counts as
    /// one address
    #[arg(long, value_name = "FILE")]
    addresses: Option<PathBuf>,
    /// Locality of the Envoy, as REGION/ZONE/SUB_ZONE, for tiers by distance
    #[arg(long, value_name = "LOCALITY")]
    node_locality: Option<Locality>,
    /// Write an SVG image of before and after too
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    output: FormatOptions<Format>,
}

/// Prints the share of every target. The exit code is 1 if the config has faults, 2 if the upstream or a part
/// that is down does not exist.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let build = match check::build(&options.paths, options.dialect) {
        Ok(build) => build,
        Err(violations) => {
            check::report(&violations);
            return Ok(ExitCode::FAILURE);
        }
    };
    let upstreams = &build.model.upstreams;
    let Some(upstream) = Name::parse(&options.upstream).and_then(|name| upstreams.get(&name)) else {
        let help = match near(&options.upstream, upstreams.keys().map(Name::as_str)).as_slice() {
            [] => String::new(),
            words => format!("; did you mean `{}`?", words.join("` or `")),
        };
        return Ok(wrong_usage(&format!("no upstream is named `{}`{help}", options.upstream)));
    };
    let down = match options
        .down
        .iter()
        .map(|text| TargetSelector::parse(text, upstream))
        .collect::<Result<Vec<_>, _>>()
    {
        Ok(down) => down,
        Err((message, help)) => return Ok(wrong_usage(&format!("{message}; {help}"))),
    };
    let addresses = match &options.addresses {
        Some(file) => compile::read_addresses(file)?,
        None => Addresses::default(),
    };
    print_shares(options, upstream, &addresses, &down)?;
    Ok(ExitCode::SUCCESS)
}

fn wrong_usage(message: &str) -> ExitCode {
    print::note(&format!("error: {message}"));
    ExitCode::from(2)
}

fn print_shares(
    options: &Options,
    upstream: &Upstream,
    addresses: &Addresses,
    down: &[TargetSelector],
) -> anyhow::Result<()> {
    let from = options.node_locality.as_ref();
    let before = simulate::simulate(upstream, addresses, from, &[]);
    let after = simulate::simulate(upstream, addresses, from, down);
    let parts = down.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let title = match down {
        [] => format!("upstream {}", upstream.name),
        _ => format!("upstream {}, down: {parts}", upstream.name),
    };
    if let Some(file) = &options.svg {
        std::fs::write(file, chart::svg(&title, &before, &after))
            .map_err(|error| anyhow::anyhow!("cannot write {}: {error}", file.display()))?;
    }
    let shown = serde_json::to_value(SimulationView::from(&after))?;
    options.output.print(&shown, |_| chart::bars(&title, &before, &after))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::build::{Inputs, build};
    use crate::inspect::simulate::Simulation;
    use expect_test::expect;

    fn simulations(down: &str) -> (Simulation, Simulation) {
        let text = "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80, weight: 50 },
                    { target: 10.0.0.3:80, failover: true }], failover: { when_all_down: fail } }]";
        let files = imbl::OrdMap::unit("a.yaml".to_owned(), text.into());
        let build = build(&Inputs { files, ..Inputs::default() }, None).expect("it builds");
        let upstream = build.model.upstreams.values().next().expect("there is one");
        let down: Vec<TargetSelector> = down
            .split_whitespace()
            .map(|it| TargetSelector::parse(it, upstream).expect("it is there"))
            .collect();
        let simulate = |down| simulate::simulate(upstream, &Addresses::default(), None, down);
        (simulate(&[]), simulate(&down))
    }

    #[test]
    fn bars_stand_side_by_side() {
        let (before, after) = simulations("priority=0");
        expect![[r"
            shop

            tier  target       before                           after
            0     10.0.0.1:80   66.7 % ████████████████            0.0 %  down
            0     10.0.0.2:80   33.3 % ████████                    0.0 %  down
            1     10.0.0.3:80    0.0 %                           100.0 % ████████████████████████
        "]]
        .assert_eq(&chart::bars("shop", &before, &after));
    }

    #[test]
    fn a_chart_has_a_bar_for_each_target_and_for_unserved_requests() {
        let (before, after) = simulations("priority=0 priority=1");
        let svg = chart::svg("<shop>", &before, &after);
        assert_eq!(svg.matches("<rect x=").count(), 8);
        assert!(svg.contains("&lt;shop&gt;") && svg.contains("503 by Envoy"), "{svg}");
    }

    #[test]
    fn programs_get_hundredths_of_a_percent() {
        let (_, after) = simulations("10.0.0.3:80");
        let target = |target: &str, priority: u32, share: f64| json!({ "target": target, "priority": priority, "share": share });
        let targets =
            [target("10.0.0.1:80", 0, 66.67), target("10.0.0.2:80", 0, 33.33), target("10.0.0.3:80", 1, 0.0)];
        assert_eq!(
            serde_json::to_value(SimulationView::from(&after)).expect("it has no maps"),
            json!({ "upstream": "shop", "targets": targets, "unserved": 0.0 })
        );
    }
}
