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
    for target in &upstream.targets {
        let places = addresses.resolve(&target.address);
        let taken = places.iter().find_map(|place| {
            let other = *first.entry(place.socket).or_insert(&target.address);
            (*other != target.address).then_some((place.socket, other))
        });
        if let Some((socket, other)) = taken
            && let Some((document, path)) = declared(upstream, &target.address, documents)
        {
            let message = format!("`{other}` leads to {socket} too; it is kept once, in the first tier");
            let violation = document.violation(code::SAME_TARGET, Level::Warning, &path, message);
            let help = Some("remove one of them, or let DNS say different addresses".to_owned());
            warnings.push(Violation { help, ..violation });
        }
    }
    warnings
}

/// Returns the place where a target is declared: in its upstream, or on its own over REST.
fn declared<'d>(
    upstream: &Upstream,
    address: &Address,
    documents: &'d Documents,
) -> Option<(&'d Document, Path)> {
    let is_it = |target: &serde_json::Value| {
        target["target"].as_str().and_then(|text| Address::parse(text).ok()).as_ref() == Some(address)
    };
    let (document, path) = documents.find(Kind::Upstream, upstream.name.as_str())?;
    let targets = path.key("targets");
    if let Some(index) = document.json(&targets).as_array().and_then(|own| own.iter().position(is_it)) {
        return Some((document, targets.index(index).key("target")));
    }
    documents.added(upstream.name.as_str()).iter().find_map(|document| {
        let (_, target) = document.target.as_ref()?;
        is_it(&document.json(&target.path)).then(|| (&**document, target.path.key("target")))
    })
}
