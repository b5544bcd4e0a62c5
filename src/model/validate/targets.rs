//! Validation of the targets of an upstream.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::config::code;
use crate::config::document::{self, Declared, Document, Origin};
use crate::model::name::Name;
use crate::model::place::FaultPlace;
use crate::model::target::{self, Address, Target, TargetCandidate};
use crate::model::tls::{self, UpstreamTls};
use crate::model::validate::context::{self, Validation};

/// Resolves the targets that get traffic (those of the upstream itself, then those added over REST).
/// Returns them with the number of tiers.
pub(super) fn resolve<'p>(
    validation: &mut Validation<'_>,
    name: &Name,
    tls: Option<&UpstreamTls>,
    place: &FaultPlace<'p>,
    upstream: &document::upstream::Upstream,
    added: Vec<(&'p Document, &'p Declared<document::target::Target>)>,
) -> (Vec<Target>, u32) {
    let place = place.key("targets");
    let own = upstream.targets.as_deref().unwrap_or_default();
    let from_file = matches!(place.document.origin, Origin::File(_));
    if upstream.targets.is_none() && from_file && added.is_empty() {
        let help =
            "list at least one, such as `- target: 10.0.0.1:8080`, or say that there is none: `targets: []`"
                .to_owned();
        validation.faults.error(&place, code::NO_TARGETS, "an upstream needs a target".to_owned(), help);
    }
    let own = own.iter().enumerate().map(|(index, target)| (place.index(index), target));
    let added =
        added.into_iter().map(|(document, target)| (FaultPlace::new(document, &target.path), &target.entity));
    let mut candidates: Vec<TargetCandidate<'_>> = Vec::new();
    // Indices of the candidates.
    let mut known: HashMap<Address, usize> = HashMap::new();
    for (place, target) in own.chain(added) {
        let Some(mut candidate) = target::resolve(place, target, upstream, &mut validation.faults) else {
            continue;
        };
        target_tls(validation, name, &mut candidate, target, tls);
        match known.entry(candidate.address.clone()) {
            Entry::Occupied(first) => merge_equal(validation, &mut candidates[*first.get()], candidate),
            Entry::Vacant(new) => {
                new.insert(candidates.len());
                candidates.push(candidate);
            }
        }
    }
    tiers(validation, candidates)
}

/// Resolves `tls` of a target over that of its upstream.
fn target_tls(
    validation: &mut Validation<'_>,
    upstream: &Name,
    candidate: &mut TargetCandidate<'_>,
    declared: &document::target::Target,
    tls: Option<&UpstreamTls>,
) {
    let known = context::known(&validation.certificates, validation.is_complete, validation.sources);
    let owner = format!("upstreams/{upstream}/targets/{}", candidate.address);
    candidate.tls = tls::of_target(
        &owner,
        &candidate.place.key("tls"),
        declared.tls.as_deref(),
        candidate.address.host.ip(),
        tls,
        known,
        &mut validation.faults,
    );
}

/// Merges a target that is listed twice, with a warning. Envoy keeps an address once, in its lowest
/// priority; this does the same.
fn merge_equal<'p>(
    validation: &mut Validation<'_>,
    first: &mut TargetCandidate<'p>,
    second: TargetCandidate<'p>,
) {
    let message = format!("target `{}` is listed twice; it is kept once", second.address);
    let help = "remove one of them, or add up their weights".to_owned();
    validation.faults.warning(&second.place.key("target"), code::SAME_TARGET, message, help);
    match (first.is_used(), second.is_used()) {
        (true, true) => first.priority = first.priority.min(second.priority),
        (false, true) => *first = second,
        (_, false) => {}
    }
}

/// Turns the declared priorities into tiers without gaps, as Envoy's documentation requires. Tier 0 is
/// that of priority 0 even if no target has it, so that a standby stays one when the last primary is
/// removed.
fn tiers(validation: &mut Validation<'_>, candidates: Vec<TargetCandidate<'_>>) -> (Vec<Target>, u32) {
    let declared = candidates.iter().map(|candidate| candidate.priority);
    let tiers = target::tiers(declared.chain([0]));
    let tier = |priority| tiers[&priority];
    let gap = candidates
        .iter()
        .find(|candidate| candidate.priority > 1 && tier(candidate.priority) < candidate.priority);
    if let Some(candidate) = gap {
        let message =
            format!("priority {} follows a gap; it is moved up to the one before", candidate.priority);
        let help = "number the priorities 0, 1, 2, … without gaps".to_owned();
        validation.faults.warning(&candidate.place.key("priority"), code::PRIORITY_GAP, message, help);
    }
    let mut targets: Vec<Target> = candidates
        .into_iter()
        .filter(TargetCandidate::is_used)
        .map(|candidate| Target {
            tier: tier(candidate.priority),
            address: candidate.address,
            weight: candidate.weight,
            locality: candidate.locality,
            health_check: candidate.health_check,
            tls: candidate.tls,
        })
        .collect();
    // The vector reuses the allocation of the candidates, which are larger.
    targets.shrink_to_fit();
    targets.sort_by_key(|target| target.tier);
    (targets, u32::try_from(tiers.len()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use crate::build::{Inputs, build};

    /// Declared target: its address, weight and priority.
    type Declared = (usize, usize, u32);

    /// Returns the address and tier of each target that gets traffic, by a comparison of all with all.
    fn by_all(declared: &[Declared]) -> Vec<(String, u32)> {
        let mut kept: Vec<Declared> = Vec::new();
        for target in declared {
            match kept.iter_mut().find(|known| known.0 == target.0) {
                None => kept.push(*target),
                Some(first) if first.1 > 0 && target.1 > 0 => first.2 = first.2.min(target.2),
                Some(first) if target.1 > 0 => *first = *target,
                Some(_) => {}
            }
        }
        let priorities: BTreeSet<u32> = kept.iter().map(|it| it.2).chain([0]).collect();
        let tier = |priority| priorities.iter().filter(|other| **other < priority).count();
        let used = kept.iter().filter(|it| it.1 > 0);
        let mut targets: Vec<(String, u32)> = used
            .map(|it| (format!("10.0.0.{}:80", it.0), u32::try_from(tier(it.2)).expect("there are few")))
            .collect();
        targets.sort_by_key(|(_, tier)| *tier);
        targets
    }

    proptest! {
        #[test]
        fn targets_that_are_listed_twice_are_kept_once(
            declared in prop::collection::vec((0..6_usize, prop::sample::select(vec![0, 100]), 0..4_u32), 1..14),
        ) {
            let target = |(address, weight, priority): &Declared| {
                format!("{{ target: 10.0.0.{address}:80, weight: {weight}, priority: {priority} }}")
            };
            let targets: Vec<String> = declared.iter().map(target).collect();
            let text = format!("upstreams: [{{ name: u, targets: [{}] }}]", targets.join(", "));
            let files = imbl::OrdMap::unit("a.yaml".to_owned(), text.into());
            let build = build(&Inputs { files, ..Inputs::default() }, None).expect("these are warnings");
            let upstream = build.model.upstreams.values().next().expect("it is declared");
            let found = upstream.targets.iter().map(|target| (target.address.to_string(), target.tier));
            prop_assert_eq!(found.collect::<Vec<_>>(), by_all(&declared));
            let addresses: BTreeSet<usize> = declared.iter().map(|it| it.0).collect();
            let twice = build.warnings.iter().filter(|warning| warning.code == super::code::SAME_TARGET);
            prop_assert_eq!(twice.count(), declared.len() - addresses.len());
        }
    }
}
