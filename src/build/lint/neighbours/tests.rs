//! Tests of the neighbours of upstreams against a comparison of all pairs, and of what a change touches.

use proptest::prelude::*;

use super::*;
use crate::build::{Inputs, build};

/// Health check, and whether the upstream has each address as a primary or a standby.
type Shape = (usize, Vec<Option<bool>>);

fn shapes(upstreams: usize) -> impl Strategy<Value = Vec<Option<Shape>>> {
    let targets = prop::collection::vec(prop::option::of(any::<bool>()), 5);
    prop::collection::vec(prop::option::of((0..4_usize, targets)), upstreams)
}

/// Returns upstreams of these shapes; none where there is no shape.
fn upstreams(shapes: &[Option<Shape>]) -> OrdMap<Name, Arc<Upstream>> {
    let upstream = |(number, shape): (usize, &Option<Shape>)| {
        let (check, targets) = shape.as_ref()?;
        let check = ["off", "{ tcp: {} }", "{ http: { path: /a } }", "{ http: { path: /b } }"][*check];
        let targets = targets.iter().enumerate().filter_map(|(address, is_primary)| {
            Some(format!("{{ target: 10.0.0.{address}:80, failover: {} }}", !(*is_primary)?))
        });
        let targets =
            targets.chain([format!("{{ target: 10.0.1.{number}:80 }}")]).collect::<Vec<_>>().join(", ");
        Some(format!("  - {{ name: u-{number}, health_check: {check}, targets: [{targets}] }}\n"))
    };
    let text: String = shapes.iter().enumerate().filter_map(upstream).collect();
    let files = OrdMap::unit("a.yaml".to_owned(), format!("upstreams:\n{text}").into());
    build(&Inputs { files, ..Inputs::default() }, None).expect("they are valid").model.upstreams
}

/// Returns the neighbours of an upstream by a comparison with all others.
fn by_all(upstream: &Upstream, all: &OrdMap<Name, Arc<Upstream>>) -> UpstreamNeighbours {
    let others = || all.values().filter(|other| other.name != upstream.name);
    let probe = |upstream: &Upstream| upstream.health_check.as_ref().map(probe_key);
    let common = |other: &Upstream| {
        let addresses = upstream.targets.iter().map(|target| &target.address);
        addresses
            .into_iter()
            .find(|address| other.targets.iter().any(|target| target.address == **address))
            .cloned()
    };
    let mut otherwise =
        others().filter(|other| other.health_check.is_some() && probe(other) != probe(upstream));
    let checked_otherwise =
        otherwise.find_map(|other| Some(Neighbour { upstream: other.name.clone(), address: common(other)? }));
    let standbys = upstream.targets.iter().filter(|target| target.tier > 0);
    let primary_elsewhere = standbys.filter_map(|standby| {
        let is_primary =
            |target: &crate::model::target::Target| target.tier == 0 && target.address == standby.address;
        let other = others().find(|other| other.targets.iter().any(is_primary))?;
        Some(Neighbour { upstream: other.name.clone(), address: standby.address.clone() })
    });
    UpstreamNeighbours { checked_otherwise, primary_elsewhere: primary_elsewhere.collect() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn neighbours_are_those_of_a_comparison_with_all_after_any_changes(
        states in prop::collection::vec(shapes(2 * FEW + 6), 1..5),
    ) {
        let (mut index, mut last) = (Neighbours::default(), OrdMap::new());
        for state in &states {
            let now = upstreams(state);
            let touched = index.update(&last, &now);
            for (name, upstream) in &now {
                let neighbours = by_all(upstream, &now);
                prop_assert_eq!(&index.of(upstream), &neighbours, "{}", name);
                let before = last.get(name).map(|upstream| by_all(upstream, &last));
                prop_assert!(before == Some(neighbours) || touched.contains(name), "{} is not touched", name);
            }
            last = now;
        }
    }
}

/// Returns as many upstreams, each with a primary of its own and one standby for all.
fn with_a_common_standby(count: usize) -> Vec<Option<Shape>> {
    (0..count).map(|_| Some((1, vec![Some(false)]))).collect()
}

#[test]
fn a_change_of_one_of_many_that_share_a_standby_touches_only_itself() {
    let all = with_a_common_standby(200);
    let mut index = Neighbours::default();
    let before = upstreams(&all);
    assert_eq!(index.update(&OrdMap::new(), &before).len(), 200);

    let mut changed = all.clone();
    changed[100] = Some((1, vec![Some(false), Some(true)]));
    let after = upstreams(&changed);
    let touched = index.update(&before, &after);
    assert_eq!(touched.iter().map(Name::as_str).collect::<Vec<_>>(), ["u-100"]);

    // It checks in another way now, so that each of the others has a neighbour that it had not.
    changed[100] = Some((2, vec![Some(false), Some(true)]));
    assert_eq!(index.update(&after, &upstreams(&changed)).len(), 200);
}
