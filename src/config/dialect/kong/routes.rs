//! Routes: each becomes native routes, one for the paths that rank alike.

use std::sync::Arc;

use crate::config::Span;
use crate::config::code;
use crate::config::dialect::kong::build::{self, Fields};
use crate::config::dialect::kong::entity::{Entity, EntityView, child, text};
use crate::config::dialect::kong::order;
use crate::config::dialect::kong::paths::{self, NativePath, RoutePath};
use crate::config::dialect::kong::table;
use crate::config::dialect::kong::teller::Teller;
use crate::config::dialect::kong::world::World;
use crate::config::dialect::note::Fate;
use crate::config::dialect::translation::Unit;
use crate::config::tree::{Node, Value};

/// Place where the requests of a route go.
#[derive(Debug, Clone)]
pub enum Destination {
    /// A native service, by the treatment of the host header.
    Service {
        /// Name of the service that sets the host header.
        own: String,
        /// Name of the service that keeps the client's.
        preserve: String,
        /// Path of Kong's service.
        base: String,
    },
    /// Nothing: Kong answers 503.
    Nowhere,
}

/// Clients of a route, by what they speak.
#[derive(Debug, Clone, PartialEq)]
enum Clients {
    /// All of http and https.
    All,
    /// Those of some listeners.
    Listeners(Vec<String>),
}

/// Match of one native route: paths that rank alike.
struct RoutePiece<'p> {
    rank: i64,
    paths: Vec<(NativePath, Option<Span>)>,
    kong: Option<RoutePath<'p>>,
}

/// Notes what of a route differs or cannot be done. Returns true if nothing can be made of it.
pub fn check(view: EntityView<'_>, teller: &mut Teller) -> bool {
    notes(view, teller);
    refused(view, teller)
}

/// Translates a route to native routes.
pub fn translate(
    world: &World<'_>,
    route: &Arc<Entity>,
    to: &Destination,
    lost: &[String],
    unit: &mut Unit,
    teller: &mut Teller,
) {
    let view = world.view(route);
    if check(view, teller) {
        return;
    }
    let mut names = RouteNames { base: world.name(route), count: 0 };
    let Some(protocols) = protocols(world, view, teller) else { return };
    let pieces = pieces(view, to);
    for (clients, action) in protocols {
        for piece in &pieces {
            let key = conflict_key(view, &clients, piece);
            if lost.contains(&key) {
                continue;
            }
            let node = native_route(world, route, view, &mut names, piece, &clients, action, to);
            unit.push("routes", node, &route.object, []);
        }
    }
}

/// Returns the keys of what a route asks for: two routes with the same key ask for the same.
pub fn conflict_keys(world: &World<'_>, route: &Arc<Entity>, to: &Destination) -> Vec<String> {
    let view = world.view(route);
    let mut silent = Teller::default();
    let Some(protocols) = protocols(world, view, &mut silent) else { return Vec::new() };
    let pieces = pieces(view, to);
    let keys = protocols
        .iter()
        .flat_map(|(clients, _)| pieces.iter().map(|piece| conflict_key(view, clients, piece)));
    keys.collect()
}

fn conflict_key(view: EntityView<'_>, clients: &Clients, piece: &RoutePiece<'_>) -> String {
    let sorted = |field: &str| {
        let mut texts: Vec<String> =
            view.texts(&[field]).iter().map(|(text, _)| (*text).to_owned()).collect();
        texts.sort();
        texts
    };
    let paths: Vec<&Option<String>> = piece.paths.iter().map(|(path, _)| &path.path).collect();
    let headers = headers(view).map(|headers| headers.to_json().to_string());
    format!(
        "{clients:?} {} {paths:?} {:?} {:?} {:?} {headers:?}",
        piece.rank,
        sorted("hosts"),
        sorted("methods"),
        sorted("snis")
    )
}

/// Names of the native routes of one route.
struct RouteNames {
    base: String,
    count: usize,
}

impl RouteNames {
    fn next(&mut self) -> String {
        self.count += 1;
        match self.count {
            1 => self.base.clone(),
            count => format!("{}--{count}", self.base),
        }
    }
}

/// Action of a native route.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Action {
    /// Requests go where the route says.
    Serve,
    /// Plain requests are told to use HTTPS.
    ToHttps(i64),
}

fn protocols(world: &World<'_>, view: EntityView<'_>, teller: &mut Teller) -> Option<Vec<(Clients, Action)>> {
    let said: Vec<&str> = view.texts(&["protocols"]).into_iter().map(|(protocol, _)| protocol).collect();
    let object = &view.entity.object;
    let has = |words: &[&str]| said.is_empty() || said.iter().any(|word| words.contains(word));
    let (plain, secure) = (has(&["http", "grpc", "ws"]), has(&["https", "grpcs", "wss"]));
    if said.contains(&"tls_passthrough") {
        if world.listeners.passthrough.is_empty() {
            teller
                .note(object, &["protocols"], Fate::Refused, "no listener takes TLS as it is for this route")
                .code(code::FOREIGN_DANGLING)
                .help("declare a listener with `protocol: tls_passthrough` in a native file beside this one");
            return None;
        }
        return Some(vec![(Clients::Listeners(world.listeners.passthrough.clone()), Action::Serve)]);
    }
    if !plain && !secure {
        return None;
    }
    let http = || Clients::Listeners(world.listeners.http.clone());
    let https = || Clients::Listeners(world.listeners.https.clone());
    Some(match (plain, secure) {
        (true, true) if has_snis_alone(view) && !world.listeners.https.is_empty() => {
            vec![(http(), Action::Serve), (https(), Action::Serve)]
        }
        (true, true) => vec![(Clients::All, Action::Serve)],
        (true, false) if world.listeners.http.is_empty() => Vec::new(),
        (true, false) => vec![(http(), Action::Serve)],
        (false, _) => {
            let status = view.number(&["https_redirect_status_code"]) as i64;
            let mut all = Vec::new();
            if !world.listeners.http.is_empty() {
                all.push((http(), Action::ToHttps(status)));
            }
            match world.listeners.https.is_empty() {
                true => {
                    teller
                        .note(
                            object,
                            &["protocols"],
                            Fate::Approximated,
                            "the route is for HTTPS, and no listener speaks it",
                        )
                        .warning()
                        .help("give the file a certificate, or declare a listener with `protocol: https`");
                }
                false => all.push((https(), Action::Serve)),
            }
            all
        }
    })
}

/// True if SNIs stand for hosts, which on a plain listener have no effect.
fn has_snis_alone(view: EntityView<'_>) -> bool {
    view.texts(&["hosts"]).is_empty() && !view.texts(&["snis"]).is_empty()
}

fn pieces<'v>(view: EntityView<'v>, to: &Destination) -> Vec<RoutePiece<'v>> {
    let base = match to {
        Destination::Service { base, .. } => base.as_str(),
        Destination::Nowhere => "/",
    };
    let strips = view.is(&["strip_path"]);
    let paths = view.texts(&["paths"]);
    let mut pieces: Vec<RoutePiece<'v>> = Vec::new();
    let mut take = |kong: Option<RoutePath<'v>>, span: Option<Span>| {
        for form in paths::native(kong, base, strips) {
            let rank = order::rank(view, kong, form.is_first);
            let alike = |piece: &&mut RoutePiece<'_>| {
                piece.rank == rank
                    && piece.paths.first().is_some_and(|(first, _)| first.rewrite == form.rewrite)
            };
            match pieces.iter_mut().find(alike) {
                Some(piece) => piece.paths.push((form, span)),
                None => pieces.push(RoutePiece { rank, paths: vec![(form, span)], kong }),
            }
        }
    };
    match paths.is_empty() {
        true => take(None, None),
        false => paths.into_iter().for_each(|(path, node)| take(Some(RoutePath::parse(path)), node.span)),
    }
    pieces
}

#[expect(clippy::too_many_arguments, reason = "the parts of one route")]
fn native_route(
    world: &World<'_>,
    route: &Arc<Entity>,
    view: EntityView<'_>,
    names: &mut RouteNames,
    piece: &RoutePiece<'_>,
    clients: &Clients,
    action: Action,
    to: &Destination,
) -> Node {
    let span_of = |field: &str| view.get(&[field]).and_then(|said| said.node.span);
    let mut fields = Fields::default();
    fields.put("name", build::text(names.next(), span_of("name").or_else(|| span_of("id"))));
    if let Clients::Listeners(listeners) = clients {
        let listeners = listeners.iter().map(|name| build::text(name.as_str(), None)).collect();
        fields.put("listeners", build::list(listeners, span_of("protocols")));
    }
    let span = if piece.kong.is_some() { span_of("paths") } else { None };
    fields.put("rank", build::integer(piece.rank, None));
    let is_plain = matches!(clients, Clients::Listeners(names) if *names == world.listeners.http);
    let from = if has_snis_alone(view) && !is_plain { "snis" } else { "hosts" };
    let hosts =
        view.texts(&[from]).into_iter().map(|(host, node)| build::text(without_port(host), node.span));
    let hosts: Vec<Node> = hosts.collect();
    if !hosts.is_empty() {
        fields.put("hosts", build::list(hosts, span_of(from)));
    }
    let paths = piece.paths.iter().filter_map(|(path, span)| Some(build::text(path.path.clone()?, *span)));
    let paths: Vec<Node> = paths.collect();
    if !paths.is_empty() {
        fields.put("paths", build::list(paths, span));
    }
    let methods = view.texts(&["methods"]).into_iter().map(|(method, node)| build::text(method, node.span));
    let methods: Vec<Node> = methods.collect();
    if !methods.is_empty() {
        fields.put("methods", build::list(methods, span_of("methods")));
    }
    if let Some(headers) = headers(view) {
        fields.put("headers", headers);
    }
    act(view, piece, action, to, &mut fields);
    if let Some(tags) = world.tags_of(route) {
        fields.put("tags", tags);
    }
    fields.node(route.object.node.span)
}

/// Adds the action of a native route.
fn act(view: EntityView<'_>, piece: &RoutePiece<'_>, action: Action, to: &Destination, fields: &mut Fields) {
    let said = |field: &str| view.get(&[field]).and_then(|said| said.node.span);
    let mut respond = |status: i64, body: &str, span| {
        let mut answer = Fields::default();
        answer.put("status", build::integer(status, span)).put_text("body", body);
        let mut headers = Fields::default();
        headers.put_text("content-type", "application/json; charset=utf-8");
        answer.put("headers", headers.node(None));
        fields.put("respond", answer.node(span));
    };
    match (action, to) {
        (Action::ToHttps(status @ (301 | 302 | 303 | 307 | 308)), _) => {
            let span = said("https_redirect_status_code");
            let mut redirect = Fields::default();
            redirect.put_text("scheme", "https").put("status", build::integer(status, span));
            fields.put("redirect", redirect.node(span));
        }
        (Action::ToHttps(_), _) => {
            respond(426, "{\"message\":\"Please use HTTPS protocol\"}", said("https_redirect_status_code"));
        }
        (Action::Serve, Destination::Nowhere) => {
            respond(503, "{\"message\":\"no Service found with those values\"}", None);
        }
        (Action::Serve, Destination::Service { own, preserve, .. }) => {
            let name = if view.is(&["preserve_host"]) { preserve } else { own };
            fields.put("service", build::text(name.as_str(), said("service")));
            if let Some((path, span)) = piece.paths.first()
                && let Some((regex, to)) = &path.rewrite
            {
                let mut rewrite = Fields::default();
                rewrite
                    .put("regex", build::text(regex.as_str(), *span))
                    .put("to", build::text(to.as_str(), *span));
                fields.put("rewrite", rewrite.node(*span));
            }
        }
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        _ => host,
    }
}

/// Returns the native condition on headers: any of the values of each, in any case.
fn headers(view: EntityView<'_>) -> Option<Node> {
    let said = view.get(&["headers"])?;
    let Value::Mapping(entries) = &said.node.value else { return None };
    let mut fields = Fields::default();
    for entry in entries {
        let Value::Sequence(values) = &entry.value.value else { continue };
        let values: Vec<&str> = values.iter().filter_map(text).collect();
        let pattern = match values.as_slice() {
            [one] if one.starts_with("~*") => format!("~(?i).*(?:{}).*", &one[2..]),
            values => {
                let values: Vec<String> = values.iter().map(|value| paths::escaped(value)).collect();
                format!("~(?i)(?:{})", values.join("|"))
            }
        };
        fields.put(entry.key.to_ascii_lowercase(), build::text(pattern, entry.value.span));
    }
    (!fields.is_empty()).then(|| fields.node(said.node.span))
}

/// Notes what of a route differs or is ignored.
fn notes(view: EntityView<'_>, teller: &mut Teller) {
    let object = &view.entity.object;
    for (host, node) in view.texts(&["hosts"]) {
        if without_port(host) != host {
            let words = format!("`{host}` is taken without the port");
            teller.note_at(object, node, Fate::Approximated, words).warning();
        }
    }
    if !view.texts(&["snis"]).is_empty()
        && !view.texts(&["protocols"]).iter().any(|(word, _)| *word == "tls_passthrough")
    {
        match has_snis_alone(view) {
            true => {
                let words = "on HTTPS the host is compared in place of the SNI";
                teller.note(object, &["snis"], Fate::Approximated, words);
            }
            false => {
                let words = "the SNI is not compared: the hosts of the route are";
                teller.note(object, &["snis"], Fate::Ignored, words).warning();
            }
        }
    }
    if view.text(&["path_handling"]) == Some("v1") {
        let words = "`path_handling: v1` is read as v0, as Kong's default router does";
        teller.note(object, &["path_handling"], Fate::Approximated, words).warning();
    }
    for field in ["request_buffering", "response_buffering"] {
        if let Some(said) = view.get(&[field]) {
            let words = "Envoy streams; a body is kept for retries as `retries.body` says";
            teller.note(said.object, &[field], Fate::Ignored, words).quiet_if(!said.is_own);
        }
    }
}

/// Notes what cannot be done, and returns true if there is any.
fn refused(view: EntityView<'_>, teller: &mut Teller) -> bool {
    let object = &view.entity.object;
    let before = teller.notes.len();
    let protocols = view.texts(&["protocols"]);
    let is_stream = protocols.iter().any(|(word, _)| matches!(*word, "tcp" | "tls" | "udp"));
    if view.get(&["expression"]).is_some() {
        let words = "expression routes are not read: write paths, hosts, methods, headers";
        teller.note(object, &["expression"], Fate::Refused, words);
    }
    for field in ["sources", "destinations"] {
        let is_empty = view.get(&[field]).is_none_or(|said| said.node.value == Value::Sequence(Vec::new()));
        if !is_empty && !is_stream {
            let words = format!("cannot set '{field}' when 'protocols' is 'http' or 'https'");
            teller.note(object, &[field], Fate::Refused, words);
        }
    }
    for (word, node) in &protocols {
        if matches!(*word, "udp" | "tls") {
            teller.note_at(
                object,
                node,
                Fate::Refused,
                format!("routes of the protocol `{word}` are not read"),
            );
        } else if !table::SERVICE_PROTOCOLS.contains(word) {
            teller.note_at(object, node, Fate::Refused, format!("`{word}` is no protocol"));
        }
    }
    let is_grpc = protocols.iter().any(|(word, _)| matches!(*word, "grpc" | "grpcs"));
    if is_grpc && view.get(&["strip_path"]).is_some_and(|said| said.node.value == Value::Bool(true)) {
        let words = "`strip_path` cannot be set on a route of gRPC";
        teller.note(object, &["strip_path"], Fate::Refused, words).help("set `strip_path: false`");
    }
    teller.notes.len() > before
}

/// Port of a route of TCP connections; none for other routes, and where there is more than one.
pub fn stream_port(view: EntityView<'_>) -> Option<Option<i64>> {
    if !view.texts(&["protocols"]).iter().any(|(word, _)| *word == "tcp") {
        return None;
    }
    let ports = |field: &str| match view.get(&[field]).map(|said| &said.node.value) {
        Some(Value::Sequence(items)) => items.clone(),
        _ => Vec::new(),
    };
    let destinations = ports("destinations");
    let (sources, snis) = (ports("sources"), view.texts(&["snis"]));
    let port = match (destinations.as_slice(), sources.is_empty() && snis.is_empty()) {
        ([one], true) if child(one, "ip").is_none() => child(one, "port").and_then(|port| match port.value {
            Value::Integer(port @ 1..=65535) => Some(port),
            _ => None,
        }),
        _ => None,
    };
    Some(port)
}
