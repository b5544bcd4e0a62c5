//! Upstreams and their targets, and upstreams of one target for services that send to an address.

use std::sync::Arc;

use crate::config::Path;
use crate::config::code;
use crate::config::dialect::foreign::ForeignObject;
use crate::config::dialect::kong::build::{self, Fields, milliseconds};
use crate::config::dialect::kong::entity::{Entity, EntityView, path, text};
use crate::config::dialect::kong::hashing;
use crate::config::dialect::kong::health;
use crate::config::dialect::kong::kind::EntityKind;
use crate::config::dialect::kong::speech::{Speech, variants};
use crate::config::dialect::kong::targets::{self, NativeTarget};
use crate::config::dialect::kong::teller::Teller;
use crate::config::dialect::kong::world::World;
use crate::config::dialect::note::Fate;
use crate::config::dialect::translation::Unit;
use crate::config::tree::Node;

/// Translates an upstream with its targets, once for each way in which its services speak to it.
pub fn translate(world: &World<'_>, upstream: &Arc<Entity>) -> Unit {
    let (mut unit, mut teller) = (Unit::default(), Teller::default());
    let view = world.view(upstream);
    let callers = world.callers(upstream);
    let name = world.name(upstream);
    let variants = variants(world, &name, callers);
    if variants.len() > 1 {
        let words = "services speak to the upstream in several ways: each is an upstream of its own, and health is counted apart";
        teller
            .note(&upstream.object, &[], Fate::Approximated, words)
            .warning()
            .native(format!("upstreams.{name}"));
    }
    notes(view, &name, &mut teller);
    let failover = |target: &&Arc<Entity>| world.view(target).is(&["failover"]);
    let has_standby = world.owned(EntityKind::Target, upstream).iter().any(failover);
    health::notes(view, &name, has_standby, &mut teller);
    let targets = targets::of(world, upstream, &mut teller);
    for (speech, own) in &variants {
        let callers: Vec<&Arc<Entity>> =
            callers.iter().copied().filter(|caller| Speech::of(world, Some(caller)) == *speech).collect();
        let mut parts = Vec::new();
        let mut fields = Fields::default();
        let span = |field: &str| view.get(&[field]).and_then(|said| said.node.span);
        fields.put("name", build::text(own.as_str(), span("name")));
        speak(world, speech, &callers, view, &mut fields);
        connect_timeout(world, &callers, &mut fields, &mut parts);
        balance(view, &mut fields);
        health::put(view, speech, has_standby, &mut fields);
        let list = target_list(&targets, &mut parts);
        fields.put("targets", build::list(list, None));
        if let Some(tags) = world.tags_of(upstream) {
            fields.put("tags", tags);
        }
        unit.push("upstreams", fields.node(upstream.object.node.span), &upstream.object, parts);
    }
    Unit { notes: teller.notes, added: teller.added, ..unit }
}

/// Returns the name of the native upstream of an address.
pub fn address_name((host, port): &(String, u16)) -> String {
    build::name(&format!("{host}_{port}"))
}

/// Translates an address to which services send: an upstream of that one target.
pub fn of_address(world: &World<'_>, address: &(String, u16)) -> Unit {
    let (mut unit, mut teller) = (Unit::default(), Teller::default());
    let callers = world.callers_of_address(address);
    for (speech, own) in variants(world, &address_name(address), callers) {
        let callers: Vec<&Arc<Entity>> =
            callers.iter().copied().filter(|caller| Speech::of(world, Some(caller)) == speech).collect();
        let Some(first) = callers.first() else { continue };
        let view = world.view(first);
        let host = view.get(&["host"]).or_else(|| view.get(&["url"]));
        let span = host.and_then(|host| host.node.span);
        let mut parts = Vec::new();
        let mut fields = Fields::default();
        fields.put("name", build::text(own.as_str(), span));
        speak(world, &speech, &callers, view, &mut fields);
        connect_timeout(world, &callers, &mut fields, &mut parts);
        let mut target = Fields::default();
        target.put("target", build::text(targets::written(&address.0, address.1), span));
        fields.put("targets", build::list(vec![target.node(span)], span));
        teller.add(
            format!("upstreams.{own}"),
            "one target",
            "the host of the service is no upstream",
            &first.object,
        );
        recipe(&own, &first.object, &mut teller);
        unit.push("upstreams", fields.node(first.object.node.span), &first.object, parts);
    }
    Unit { notes: teller.notes, added: teller.added, ..unit }
}

/// Adds what the recipe gives an upstream that says nothing of health.
fn recipe(name: &str, object: &ForeignObject, teller: &mut Teller) {
    health::add_check(name, object, teller);
    health::add_ejection(name, object, teller);
}

fn speak(
    world: &World<'_>,
    speech: &Speech,
    callers: &[&Arc<Entity>],
    view: EntityView<'_>,
    fields: &mut Fields,
) {
    let first = callers.first().copied();
    let span = first.and_then(|service| world.view(service).get(&["protocol"])?.node.span);
    if speech.native_protocol() != "http1" {
        fields.put("protocol", build::text(speech.native_protocol(), span));
    }
    let sni = view.get(&["host_header"]).map(|said| said.node);
    let Some(tls) = speech.native_tls(world, first, sni) else { return };
    let own =
        view.entity.reference("client_certificate").filter(|_| view.entity.kind == EntityKind::Upstream);
    let has_own = speech.tls.as_ref().is_some_and(|terms| terms.client_certificate.is_some());
    let tls = match own.and_then(|(name, span)| Some((world.find(EntityKind::Certificate, name)?, span))) {
        Some((certificate, span)) if !has_own => {
            let name = build::text(world.certificate_name(certificate), span);
            with(tls, "client_certificate", name)
        }
        _ => tls,
    };
    fields.put("tls", tls);
}

fn with(mut node: Node, key: &str, value: Node) -> Node {
    if let crate::config::tree::Value::Mapping(entries) = &mut node.value {
        entries.push(crate::config::tree::Entry { key: key.to_owned(), key_span: value.span, value });
    }
    node
}

/// Adds the shortest time for a connection among the services.
fn connect_timeout(
    world: &World<'_>,
    callers: &[&Arc<Entity>],
    fields: &mut Fields,
    parts: &mut Vec<(Path, Arc<ForeignObject>)>,
) {
    let said = callers.iter().filter_map(|caller| world.view(caller).said(&["connect_timeout"]));
    let shortest = said.min_by(|a, b| a.number().unwrap_or(0.0).total_cmp(&b.number().unwrap_or(0.0)));
    if let Some(said) = shortest
        && let Some(time) = said.number()
    {
        fields.put("connect_timeout", build::text(milliseconds(time), said.node.span));
        parts.push((path(&["connect_timeout"]), said.object.clone()));
    }
}

fn balance(view: EntityView<'_>, fields: &mut Fields) {
    let algorithm = view.get(&["algorithm"]);
    let span = algorithm.and_then(|said| said.node.span);
    match algorithm.and_then(|said| text(said.node)) {
        Some("least-connections" | "latency") => {
            fields.put("load_balancer", build::text("least_request", span));
        }
        Some("sticky-sessions") => {
            let Some(name) = view.get(&["sticky_sessions_cookie"]) else { return };
            let mut cookie = Fields::default();
            cookie.put("name", name.node.clone()).put_text("ttl", "0s");
            let path = view.get(&["sticky_sessions_cookie_path"]);
            let path = path.map_or_else(|| build::text("/", None), |said| said.node.clone());
            cookie.put("path", path);
            let mut sticky = Fields::default();
            sticky.put("cookie", cookie.node(name.node.span));
            fields.put("sticky", sticky.node(name.node.span));
        }
        _ if hashing::hashes(view) => {
            let by = view.get(&["hash_on"]).and_then(|said| said.node.span);
            fields.put("load_balancer", build::text("maglev", by));
        }
        _ => {}
    }
}

fn target_list(targets: &[NativeTarget], parts: &mut Vec<(Path, Arc<ForeignObject>)>) -> Vec<Node> {
    let place = |(index, target): (usize, &NativeTarget)| {
        parts.push((Path::default().key("targets").index(index), target.object.clone()));
        target.node.clone()
    };
    targets.iter().enumerate().map(place).collect()
}

/// Notes what of an upstream differs or is ignored.
fn notes(view: EntityView<'_>, name: &str, teller: &mut Teller) {
    let native = |field: &str| format!("upstreams.{name}.{field}");
    if let Some(said) = view.get(&["algorithm"]) {
        let words = match text(said.node) {
            Some("least-connections") => {
                "Envoy takes the one of two with fewer requests, Kong the least of all"
            }
            Some("latency") => "Envoy goes by requests under way, Kong by how fast targets answered",
            Some("sticky-sessions") => {
                "the cookie holds the address of the target, and Kong's a name of its own"
            }
            Some("consistent-hashing") if !hashing::hashes(view) => {
                "nothing is hashed, so it is round-robin, as in Kong"
            }
            Some("consistent-hashing") => {
                "maglev hashes otherwise than Kong's ring: clients land on other targets"
            }
            _ => "",
        };
        let fate = if words.is_empty() { Fate::Exact } else { Fate::Approximated };
        teller.note(said.object, &["algorithm"], fate, words).native(native("load_balancer"));
    }
    hashing::notes(view, teller);
    let slots = "Envoy needs no number of slots";
    let srv = "a target `_x._tcp.NAME` is looked up by SRV, other names by A and AAAA";
    if let Some(said) = view.get(&["slots"]) {
        teller.note(said.object, &["slots"], Fate::Ignored, slots).quiet_if(!said.is_own);
    }
    if let Some(said) = view.get(&["use_srv_name"]) {
        let note = teller.note(said.object, &["use_srv_name"], Fate::Ignored, srv).quiet_if(!said.is_own);
        if said.is_own {
            note.warning();
        }
    }
    let is_sticky = view.text(&["algorithm"]) == Some("sticky-sessions");
    if is_sticky && view.get(&["sticky_sessions_cookie"]).is_none() {
        let words = "sticky sessions need `sticky_sessions_cookie`";
        teller.note(&view.entity.object, &[], Fate::Refused, words).code(code::MISSING_FIELD);
    }
    for field in ["sticky_sessions_cookie", "sticky_sessions_cookie_path"] {
        if let Some(said) = view.get(&[field]).filter(|_| !is_sticky) {
            let words = "it counts with `algorithm: sticky-sessions` only";
            teller.note(said.object, &[field], Fate::Ignored, words).quiet_if(!said.is_own);
        }
    }
}
