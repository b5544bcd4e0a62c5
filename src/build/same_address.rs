//! Warnings about two targets of an upstream that resolve to one address. Validation reports addresses that
//! are declared twice; the ones here show only after resolution.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::build::index::UpstreamIndex;
use crate::config::code;
use crate::config::document::{Document, Kind};
use crate::config::{Level, Path, Violation};
use crate::model::addresses::Addresses;
use crate::model::documents::Documents;
use crate::model::target::Address;
use crate::model::upstream::Upstream;

/// Returns a warning for each target that lost an address because another target resolves to it too.
pub(super) fn warnings(
    subsets: &UpstreamIndex,
    addresses: &Addresses,
    documents: &Documents,
) -> Vec<Violation> {
    if *addresses == Addresses::default() {
        return Vec::new();
    }
    let upstreams = subsets.with_names.values();
    upstreams.flat_map(|upstream| of_upstream(upstream, addresses, documents)).collect()
}

fn of_upstream(upstream: &Upstream, addresses: &Addresses, documents: &Documents) -> Vec<Violation> {
    let mut first: HashMap<SocketAddr, &Address> = HashMap::new();
    let mut warnings = Vec::new();
    let mut declared = None;
    for target in &upstream.targets {
        let places = addresses.resolve(&target.address);
        let taken = places.iter().find_map(|place| {
            let other = *first.entry(place.socket).or_insert(&target.address);
            (*other != target.address).then_some((place.socket, other))
        });
        if let Some((socket, other)) = taken
            && let Some((document, path)) =
                declared.get_or_insert_with(|| declarations(upstream, documents)).get(&target.address)
        {
            let message = format!("`{other}` leads to {socket} too; it is kept once, in the first tier");
            let violation = document.violation(code::SAME_TARGET, Level::Warning, path, message);
            let help = Some("remove one of them, or let DNS say different addresses".to_owned());
            warnings.push(Violation { help, ..violation });
        }
    }
    warnings
}

/// Returns the places where the targets of an upstream are declared: in the upstream, or on their own over REST.
fn declarations<'d>(upstream: &Upstream, documents: &'d Documents) -> HashMap<Address, (&'d Document, Path)> {
    let mut declared = HashMap::new();
    let mut add = |target: &serde_json::Value, document, path: Path| {
        let address = target["target"].as_str().and_then(|text| Address::parse(text).ok());
        if let Some(address) = address {
            declared.entry(address).or_insert_with(|| (document, path.key("target")));
        }
    };
    let name = upstream.name.as_str();
    if let Some((document, path)) = documents.find(Kind::Upstream, name) {
        let targets = path.key("targets");
        for (index, target) in document.json(&targets).as_array().into_iter().flatten().enumerate() {
            add(target, &**document, targets.index(index));
        }
        for document in documents.added(name) {
            if let Some((_, target)) = &document.target {
                add(&document.json(&target.path), document, target.path.clone());
            }
        }
    }
    declared
}
