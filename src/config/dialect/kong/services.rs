//! Services: each becomes a native service, or two where its routes treat the host header differently.

use std::sync::Arc;

use crate::config::Path;
use crate::config::code;
use crate::config::dialect::foreign::ForeignObject;
use crate::config::dialect::kong::build::{self, Fields, milliseconds};
use crate::config::dialect::kong::entity::{Entity, EntityView, path, text};
use crate::config::dialect::kong::hashing;
use crate::config::dialect::kong::kind::EntityKind;
use crate::config::dialect::kong::routes::{self, Destination};
use crate::config::dialect::kong::speech::{Speech, variants};
use crate::config::dialect::kong::teller::Teller;
use crate::config::dialect::kong::upstreams;
use crate::config::dialect::kong::world::{Url, World};
use crate::config::dialect::note::Fate;
use crate::config::dialect::translation::Unit;
use crate::config::tree::{Node, Value};

/// Suffix of the native service that keeps the client's host.
const PRESERVE: &str = "--preserve-host";

/// Translates a service with its routes. `lost` are the keys of routes that another one serves.
pub fn translate(
    world: &World<'_>,
    service: &Arc<Entity>,
    lost: &dyn Fn(&Arc<Entity>) -> Vec<String>,
) -> Unit {
    let (mut unit, mut teller) = (Unit::default(), Teller::default());
    let view = world.view(service);
    let routes = world.owned(EntityKind::Route, service);
    let usable = check(world, view, &mut teller);
    let to = destination(world, service);
    if usable && let Some(upstream) = native_upstream(world, service) {
        notes(world, view, &upstream, &mut teller);
        let preserve = |route: &&Arc<Entity>| world.view(route).is(&["preserve_host"]);
        let (keeps, sets) =
            (routes.iter().copied().any(|it| preserve(&it)), routes.iter().copied().any(|it| !preserve(&it)));
        if sets || !keeps {
            native_service(world, view, &upstream, false, &world.name(service), &mut unit);
        }
        if keeps {
            let name = world.name(service) + if sets { PRESERVE } else { "" };
            native_service(world, view, &upstream, true, &name, &mut unit);
        }
    }
    let is_enabled = view.is(&["enabled"]);
    if !is_enabled {
        let words = "the service is off: its routes are left out, and answer 404";
        teller.note(&service.object, &["enabled"], Fate::Exact, words);
    }
    for route in routes {
        if is_enabled && usable {
            match routes::stream_port(world.view(route)) {
                None => routes::translate(world, route, &to, &lost(route), &mut unit, &mut teller),
                Some(port) => stream(world, route, service, port, &mut unit, &mut teller),
            }
        } else {
            routes::check(world.view(route), &mut teller);
            if !is_enabled {
                teller.note(&route.object, &[], Fate::Exact, "its service is off");
            }
        }
    }
    Unit { notes: teller.notes, added: teller.added, ..unit }
}

/// Returns the place where the routes of a service lead.
pub fn destination(world: &World<'_>, service: &Arc<Entity>) -> Destination {
    let view = world.view(service);
    let url = || view.text(&["url"]).and_then(Url::parse).and_then(|url| url.path);
    let base = view.text(&["path"]).map(str::to_owned).or_else(url).unwrap_or_else(|| "/".to_owned());
    let own = world.name(service);
    let routes = world.owned(EntityKind::Route, service);
    let sets = routes.iter().any(|route| !world.view(route).is(&["preserve_host"]));
    let preserve = if sets { own.clone() + PRESERVE } else { own.clone() };
    Destination::Service { own, preserve, base }
}

/// Returns the name of the native upstream of a service.
fn native_upstream(world: &World<'_>, service: &Arc<Entity>) -> Option<String> {
    let speech = Speech::of(world, Some(service));
    let named = match world.upstream_of(service) {
        Some(upstream) => variants(world, &world.name(upstream), world.callers(upstream)),
        None => {
            let address = world.address_of(service)?;
            variants(world, &upstreams::address_name(&address), world.callers_of_address(&address))
        }
    };
    named.into_iter().find(|(other, _)| *other == speech).map(|(_, name)| name)
}

fn native_service(
    world: &World<'_>,
    view: EntityView<'_>,
    upstream: &str,
    keeps_host: bool,
    name: &str,
    unit: &mut Unit,
) {
    let object = &view.entity.object;
    let span = |field: &str| view.get(&[field]).and_then(|said| said.node.span);
    let mut parts: Vec<(Path, Arc<ForeignObject>)> = Vec::new();
    let mut fields = Fields::default();
    fields.put("name", build::text(name, span("name").or_else(|| span("id"))));
    fields.put("upstream", build::text(upstream, span("host").or_else(|| span("url"))));
    let is_tcp = Speech::of(world, Some(view.entity)).native_protocol() == "tcp";
    if !is_tcp {
        let silence = view.number(&["read_timeout"]).max(view.number(&["write_timeout"]));
        let longer = match view.number(&["write_timeout"]) > view.number(&["read_timeout"]) {
            true => span("write_timeout"),
            false => span("read_timeout"),
        };
        fields.put_text("timeout", "0s").put_text("try_timeout", "0s");
        fields.put("try_idle_timeout", build::text(milliseconds(silence), longer));
    }
    if let Some(retries) = view.said(&["retries"]) {
        let attempts = retries.number().unwrap_or_default() as i64;
        let node = match attempts {
            0 => build::text("off", retries.node.span),
            attempts => {
                let mut fields = Fields::default();
                fields.put("attempts", build::integer(attempts, retries.node.span));
                fields.node(retries.node.span)
            }
        };
        fields.put("retries", node);
        mention(&mut parts, &["retries"], retries.object, object);
    }
    if !is_tcp && !keeps_host {
        let own = upstream_view(world, view).and_then(|upstream| {
            let host = upstream.get(&["host_header"])?;
            Some((host.node.clone(), host.object.clone()))
        });
        match own {
            Some((node, from)) => {
                fields.put("host_header", node);
                mention(&mut parts, &["host_header"], &from, object);
            }
            None => drop(fields.put_text("host_header", "target_port")),
        }
    }
    if let Some((node, from)) = upstream_view(world, view).and_then(hashing::hash_by) {
        fields.put("hash_by", node);
        mention(&mut parts, &["hash_by"], &from, object);
    }
    if let Some(tags) = world.tags_of(view.entity) {
        fields.put("tags", tags);
    }
    unit.push("services", fields.node(object.node.span), object, parts);
}

fn mention(
    parts: &mut Vec<(Path, Arc<ForeignObject>)>,
    keys: &[&str],
    from: &Arc<ForeignObject>,
    own: &Arc<ForeignObject>,
) {
    if !Arc::ptr_eq(from, own) {
        parts.push((path(keys), from.clone()));
    }
}

fn upstream_view<'w>(world: &'w World<'_>, view: EntityView<'_>) -> Option<EntityView<'w>> {
    Some(world.view(world.upstream_of(view.entity)?))
}

/// Translates a route of TCP connections to a listener.
fn stream(
    world: &World<'_>,
    route: &Arc<Entity>,
    service: &Arc<Entity>,
    port: Option<i64>,
    unit: &mut Unit,
    teller: &mut Teller,
) {
    let Some(port) = port else {
        let words = "a route of TCP connections is read with one destination port and nothing else";
        teller.note(&route.object, &[], Fate::Refused, words).help("write `destinations: [{ port: 9000 }]`");
        return;
    };
    let view = world.view(route);
    let span = view.get(&["destinations"]).and_then(|said| said.node.span);
    let mut fields = Fields::default();
    fields.put_text("name", world.name(route));
    fields.put("address", build::text(format!("0.0.0.0:{port}"), span));
    fields.put_text("protocol", "tcp").put_text("service", world.name(service));
    teller.note(&route.object, &["destinations"], Fate::Approximated, "the port is a listener of its own");
    unit.push("listeners", fields.node(route.object.node.span), &route.object, []);
}

/// Checks what a service needs. Returns false if nothing can be made of it.
fn check(world: &World<'_>, view: EntityView<'_>, teller: &mut Teller) -> bool {
    let object = &view.entity.object;
    let service = view.entity;
    let mut usable = true;
    if world.host_of(service).is_none() {
        let note = match view.get(&["url"]) {
            Some(_) => teller.note(object, &["url"], Fate::Refused, "the `url` is none"),
            None => teller.note(object, &[], Fate::Refused, "`host` is missing").code(code::MISSING_FIELD),
        };
        note.help("write `host: NAME`, or `url: http://NAME:PORT/PATH`");
        usable = false;
    }
    let speech = Speech::of(world, Some(service));
    if speech.protocol == "udp" {
        teller.note(object, &["protocol"], Fate::Refused, "services of the protocol `udp` are not read");
        usable = false;
    }
    let has_tls = speech.tls.is_some();
    for field in ["tls_verify", "ca_certificates", "tls_sans", "client_certificate", "tls_verify_depth"] {
        if !has_tls && let Some(said) = view.get(&[field]) {
            let words = format!("`{field}` cannot be set when `protocol` is `{}`", speech.protocol);
            teller
                .note(said.object, &[field], Fate::Refused, words)
                .help("set `protocol: https`, or leave it out");
        }
    }
    let missing = |kind: EntityKind, id: &str| {
        let word = kind.singular();
        (world.find(kind, id).is_none()).then(|| format!("no {word} has the id `{id}`"))
    };
    if let Some((id, _)) = service.reference("client_certificate")
        && let Some(words) = missing(EntityKind::Certificate, id)
    {
        teller.note(object, &["client_certificate"], Fate::Refused, words).code(code::FOREIGN_DANGLING);
    }
    for (id, node) in view.texts(&["ca_certificates"]) {
        if let Some(words) = missing(EntityKind::CaCertificate, id) {
            teller.note_at(object, node, Fate::Refused, words).code(code::FOREIGN_DANGLING);
        }
    }
    usable
}

/// Notes what of a service differs or is ignored, and what is added.
fn notes(world: &World<'_>, view: EntityView<'_>, upstream: &str, teller: &mut Teller) {
    let object = &view.entity.object;
    let name = format!("services.{}", build::name(view.entity.name().unwrap_or_default()));
    if let (Some(_), Some(port)) = (upstream_view(world, view), view.get(&["port"])) {
        let words = "the host is an upstream, whose targets have ports of their own";
        teller.note(port.object, &["port"], Fate::Ignored, words).quiet_if(!port.is_own);
    }
    url(view, teller);
    match view.get(&["connect_timeout"]) {
        Some(said) if !said.is_own => {
            let words = "Kong's default counts as unsaid: a connection has 250ms to come up";
            let note = teller.note(said.object, &["connect_timeout"], Fate::Approximated, words);
            note.native(format!("upstreams.{upstream}.connect_timeout")).quiet_if(true);
        }
        None => teller.add(
            format!("upstreams.{upstream}.connect_timeout"),
            "250ms",
            "Kong waits a minute for a connection; here another target is tried",
            object,
        ),
        Some(_) => {}
    }
    match view.get(&["retries"]) {
        Some(said) if said.is_own && said.number() == Some(0.0) => {
            let note = teller.note(said.object, &["retries"], Fate::Exact, "");
            note.native(format!("{name}.retries"));
        }
        Some(said) => {
            let words =
                "Kong repeats what failed or timed out; here a GET that is answered 5xx is repeated too";
            let note = teller.note(said.object, &["retries"], Fate::Approximated, words);
            note.native(format!("{name}.retries")).quiet_if(!said.is_own);
        }
        None => teller.add(
            format!("{name}.retries"),
            "derived",
            "enough tries to reach each target and tier",
            object,
        ),
    }
    silence(view, &name, teller);
    tls_notes(view, upstream, world, teller);
}

/// Notes what of TLS towards targets differs or is ignored.
fn tls_notes(view: EntityView<'_>, upstream: &str, world: &World<'_>, teller: &mut Teller) {
    let object = &view.entity.object;
    if let Some(depth) = view.get(&["tls_verify_depth"]) {
        teller
            .note(depth.object, &["tls_verify_depth"], Fate::Ignored, "Envoy checks chains of any length")
            .warning();
    }
    if view.get(&["tls_sans", "uris"]).is_some() {
        let words = "names that are URIs are not compared";
        teller.note(object, &["tls_sans", "uris"], Fate::Ignored, words).warning();
    }
    let service = view.entity;
    if Speech::of(world, Some(service)).tls.is_some_and(|tls| !tls.verify) {
        let words = "Kong does not verify these targets, and so it is here: any certificate is taken";
        let (from, keys): (_, &[&str]) = match (view.get(&["tls_verify"]), view.get(&["protocol"])) {
            (Some(said), _) => (said.object, &["tls_verify"]),
            (None, Some(said)) => (said.object, &["protocol"]),
            (None, None) => (object, &["url"]),
        };
        let note = teller.note(from, keys, Fate::Exact, words).warning().code(code::APPROXIMATED);
        note.native(format!("upstreams.{upstream}.tls.insecure"));
        note.help("set `tls_verify: true`, with `ca_certificates` unless a public authority signed");
    }
}

/// Notes the limits of silence.
fn silence(view: EntityView<'_>, name: &str, teller: &mut Teller) {
    let object = &view.entity.object;
    if let Some(said) = view.get(&["write_timeout"]) {
        let words = "there is one limit of silence for both directions: the larger";
        let note = teller.note(said.object, &["write_timeout"], Fate::Approximated, words);
        note.native(format!("{name}.try_idle_timeout")).quiet_if(!said.is_own);
    }
    let words = "a target that freezes costs a request that long, before another is tried";
    match view.get(&["read_timeout"]) {
        Some(said) => {
            let is_own = said.is_own;
            let note =
                teller.note(said.object, &["read_timeout"], Fate::Exact, if is_own { words } else { "" });
            note.native(format!("{name}.try_idle_timeout"));
            note.level = is_own.then_some(crate::config::Level::Info);
        }
        None => {
            teller.add(format!("{name}.try_idle_timeout"), "60s", "Kong's `read_timeout` is 60000", object)
        }
    }
}

/// Notes a `url` beside the fields that it is short for.
fn url(view: EntityView<'_>, teller: &mut Teller) {
    let Some(said) = view.get(&["url"]) else { return };
    let Some(url) = text(said.node).and_then(Url::parse) else { return };
    let port = Node { span: None, value: Value::Integer(i64::from(url.port)) };
    let differs =
        |field: &str, value: &str| view.get(&[field]).is_some_and(|own| text(own.node) != Some(value));
    let is_overridden = differs("protocol", &url.protocol)
        || differs("host", &url.host)
        || view.get(&["port"]).is_some_and(|own| own.node.value != port.value)
        || url.path.is_some_and(|path| differs("path", &path));
    match is_overridden {
        true => {
            let words = "the fields beside it win over the `url`";
            teller.note(said.object, &["url"], Fate::Approximated, words);
        }
        false => drop(teller.note(said.object, &["url"], Fate::Exact, "")),
    }
}
