//! Targets of an upstream.

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::sync::Arc;

use crate::config::code;
use crate::config::dialect::foreign::ForeignObject;
use crate::config::dialect::kong::build::{self, Fields};
use crate::config::dialect::kong::entity::{Entity, EntityView, text};
use crate::config::dialect::kong::hashing::hashes;
use crate::config::dialect::kong::kind::EntityKind;
use crate::config::dialect::kong::teller::Teller;
use crate::config::dialect::kong::world::World;
use crate::config::dialect::note::Fate;
use crate::config::tree::Node;

/// Port of a target that says none.
const PORT: u16 = 8000;

/// Native target, and the object that it comes from.
#[derive(Debug, Clone)]
pub struct NativeTarget {
    /// Native entity.
    pub node: Node,
    /// Target as it was written.
    pub object: Arc<ForeignObject>,
}

/// Returns the native targets of an upstream.
pub fn of(world: &World<'_>, upstream: &Arc<Entity>, teller: &mut Teller) -> Vec<NativeTarget> {
    let view = world.view(upstream);
    let algorithm = view.text(&["algorithm"]).unwrap_or("round-robin");
    let unused = match algorithm {
        "sticky-sessions" => Some("sticky-sessions"),
        _ => hashes(view).then_some("consistent-hashing"),
    };
    let all = world.owned(EntityKind::Target, upstream);
    let is_failover = |target: &&Arc<Entity>| world.view(target).is(&["failover"]);
    let only_failover = !all.is_empty() && all.iter().copied().all(|target| is_failover(&target));
    let has_traffic = all.iter().copied().any(|target| world.view(target).number(&["weight"]) > 0.0);
    if !has_traffic {
        let words = match all.is_empty() {
            true => "the upstream has no targets: its requests are answered with 503",
            false => "all targets have weight 0: requests of the upstream are answered with 503",
        };
        teller.note(&upstream.object, &[], Fate::Exact, words).warning();
    }
    let mut seen: HashMap<String, &Arc<Entity>> = HashMap::new();
    let mut natives = Vec::with_capacity(all.len());
    for target in all.iter().copied() {
        let view = world.view(target);
        let object = &target.object;
        let Some(said) = view.get(&["target"]) else { continue };
        let Some(address) = text(said.node).and_then(native_address) else {
            let words = "the target is no address: write `host:port`";
            teller.note(object, &["target"], Fate::Refused, words);
            continue;
        };
        if let Some(first) = seen.insert(address.clone(), target) {
            let words = format!("the upstream has the target `{address}` twice");
            let note = teller.note(object, &["target"], Fate::Refused, words).code(code::DUPLICATE_NAME);
            note.related("first here", &first.object, None).help("remove one of them");
            continue;
        }
        let mut fields = Fields::default();
        fields.put("target", build::text(address, said.node.span));
        if let Some(weight) = view.said(&["weight"]) {
            fields.put("weight", weight.node.clone());
        }
        failover(view, unused, only_failover, &mut fields, teller);
        if let Some(tags) = world.tags_of(target) {
            fields.put("tags", tags);
        }
        natives.push(NativeTarget { node: fields.node(object.node.span), object: object.clone() });
    }
    natives
}

/// Adds what makes a target one for failover. `unused` is the algorithm with which Kong leaves such targets unused.
fn failover(
    view: EntityView<'_>,
    unused: Option<&str>,
    only_failover: bool,
    fields: &mut Fields,
    teller: &mut Teller,
) {
    let object = &view.entity.object;
    if !view.is(&["failover"]) {
        return;
    }
    let span = view.get(&["failover"]).and_then(|said| said.node.span);
    fields.put("failover", build::boolean(true, span));
    if let Some(algorithm) = unused {
        fields.put("enabled", build::boolean(false, span));
        let words = format!("Kong leaves this failover target unused with `{algorithm}`, and so it is here");
        teller.note(object, &["failover"], Fate::Exact, words).warning();
    } else if only_failover {
        let words = "all targets are for failover: they serve";
        teller.note(object, &["failover"], Fate::Approximated, words).warning();
    }
}

/// Returns the native form of an address: `host:port`, with Kong's port where there is none; none if it is no address.
fn native_address(target: &str) -> Option<String> {
    if let Ok(address) = target.parse::<Ipv6Addr>() {
        return Some(format!("[{address}]:{PORT}"));
    }
    let (host, port) = match target.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (target, PORT),
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match bare {
        Some(bare) => Some(format!("[{}]:{port}", bare.parse::<Ipv6Addr>().ok()?)),
        None if host.starts_with('_') && target == host => Some(format!("srv:{host}")),
        None if host.is_empty() || host.contains([':', '/', ' ']) => None,
        None => Some(format!("{host}:{port}")),
    }
}

/// Writes a host and a port.
pub fn written(host: &str, port: u16) -> String {
    match host.parse::<Ipv6Addr>() {
        Ok(address) => format!("[{address}]:{port}"),
        Err(_) => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_without_port_has_kongs() {
        for (written, native) in [
            ("10.0.0.1", Some("10.0.0.1:8000")),
            ("10.0.0.1:80", Some("10.0.0.1:80")),
            ("::1", Some("[::1]:8000")),
            ("[::1]", Some("[::1]:8000")),
            ("[0000:0000:0000:0000:0000:0000:0000:0001]:9000", Some("[::1]:9000")),
            ("shop.example.com", Some("shop.example.com:8000")),
            ("_http._tcp.shop.example.com", Some("srv:_http._tcp.shop.example.com")),
            ("http://shop", None),
            ("shop:http", None),
        ] {
            assert_eq!(native_address(written).as_deref(), native, "{written}");
        }
    }
}
