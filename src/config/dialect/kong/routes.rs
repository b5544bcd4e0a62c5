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
    /// The clients of some listeners.
    Listeners(Vec<String>),
}

/// Match of one native route: listeners, hosts, and paths that rank alike.
#[derive(Debug, Clone)]
struct RouteMatch {
    /// Names of listeners; none: all of http and https.
    listeners: Option<Vec<String>>,
    hosts: Vec<(String, Option<Span>)>,
    rank: i64,
    paths: Vec<(NativePath, Option<Span>)>,
}

impl RouteMatch {
    /// Returns the matches of one listener, one host and one path each that this one consists of.
    fn singles(&self, world: &World<'_>) -> Vec<Self> {
        let all = || world.listeners.http.iter().chain(&world.listeners.https).cloned().collect();
        let mut listeners: Vec<Option<Vec<String>>> =
            self.listeners.clone().unwrap_or_else(all).into_iter().map(|name| Some(vec![name])).collect();
        if listeners.is_empty() {
            listeners.push(None);
        }
        let mut hosts: Vec<Vec<_>> = self.hosts.iter().map(|host| vec![host.clone()]).collect();
        if hosts.is_empty() {
            hosts.push(Vec::new());
        }
        let mut singles = Vec::new();
        for listeners in &listeners {
            for hosts in &hosts {
                for path in &self.paths {
                    let (listeners, hosts, paths) = (listeners.clone(), hosts.clone(), vec![path.clone()]);
                    singles.push(Self { listeners, hosts, rank: self.rank, paths });
                }
            }
        }
        singles
    }

    /// Returns a key that is equal for matches of the same requests.
    fn key(&self, conditions: &str) -> String {
        let hosts: Vec<&str> = self.hosts.iter().map(|(host, _)| host.as_str()).collect();
        let paths: Vec<&str> = self.paths.iter().filter_map(|(path, _)| path.path.as_deref()).collect();
        format!("{:?} {} {hosts:?} {paths:?} {conditions}", self.listeners, self.rank)
    }

    /// Returns what is left without the matches that another route has.
    fn without(self, lost: &[String], world: &World<'_>, conditions: &str) -> Vec<Self> {
        if lost.is_empty() {
            return vec![self];
        }
        let singles = self.singles(world);
        let count = singles.len();
        let kept: Vec<Self> = singles.into_iter().filter(|it| !lost.contains(&it.key(conditions))).collect();
        if kept.len() == count { vec![self] } else { kept }
    }
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
    let conditions = conditions(view);
    for (clients, action) in protocols {
        for found in matches(world, view, &clients, to) {
            for found in found.without(lost, world, &conditions) {
                let node = native_route(world, view, names.next(), &found, (action, to));
                unit.push("routes", node, &route.object, []);
            }
        }
    }
}

/// Returns the keys of what a route asks for: two routes with the same key ask for the same.
pub fn conflict_keys(world: &World<'_>, route: &Arc<Entity>, to: &Destination) -> Vec<String> {
    let view = world.view(route);
    let mut silent = Teller::default();
    let Some(protocols) = protocols(world, view, &mut silent) else { return Vec::new() };
    let conditions = conditions(view);
    let all = protocols.iter().flat_map(|(clients, _)| matches(world, view, clients, to));
    let singles = all.flat_map(|found| found.singles(world));
    singles.map(|single| single.key(&conditions)).collect()
}

/// Returns the conditions of a route beside listener, host and path, as a text.
fn conditions(view: EntityView<'_>) -> String {
    let mut methods: Vec<&str> = view.texts(&["methods"]).into_iter().map(|(method, _)| method).collect();
    methods.sort_unstable();
    let headers = headers(view).map(|headers| headers.to_json().to_string());
    format!("{methods:?} {headers:?}")
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

fn matches(world: &World<'_>, view: EntityView<'_>, clients: &Clients, to: &Destination) -> Vec<RouteMatch> {
    let base = match to {
        Destination::Service { base, .. } => base.as_str(),
        Destination::Nowhere => "/",
    };
    let listeners = match clients {
        Clients::All => None,
        Clients::Listeners(names) => Some(names.clone()),
    };
    let hosts = hosts(world, view, clients);
    let is_grpc = view.texts(&["protocols"]).iter().any(|(word, _)| matches!(*word, "grpc" | "grpcs"));
    let strips = view.is(&["strip_path"]) && !is_grpc;
    let mut found: Vec<RouteMatch> = Vec::new();
    let mut take = |kong: Option<RoutePath<'_>>, span: Option<Span>| {
        for form in paths::native(kong, base, strips) {
            let rank = order::rank(view, kong, form.is_first);
            let is_alike = |one: &&mut RouteMatch| {
                one.rank == rank && one.paths.first().is_some_and(|(first, _)| first.rewrite == form.rewrite)
            };
            match found.iter_mut().find(is_alike) {
                Some(one) if one.paths.iter().any(|(known, _)| *known == form) => {}
                Some(one) => one.paths.push((form, span)),
                None => found.push(RouteMatch {
                    listeners: listeners.clone(),
                    hosts: hosts.clone(),
                    rank,
                    paths: vec![(form, span)],
                }),
            }
        }
    };
    let paths = view.texts(&["paths"]);
    match paths.is_empty() {
        true => take(None, None),
        false => paths.into_iter().for_each(|(path, node)| take(Some(RoutePath::parse(path)), node.span)),
    }
    found
}

/// Returns the hosts of a route at some clients, each once and without a port.
fn hosts(world: &World<'_>, view: EntityView<'_>, clients: &Clients) -> Vec<(String, Option<Span>)> {
    let is_plain = matches!(clients, Clients::Listeners(names) if *names == world.listeners.http);
    let from = if has_snis_alone(view) && !is_plain { "snis" } else { "hosts" };
    let mut hosts: Vec<(String, Option<Span>)> = Vec::new();
    for (host, node) in view.texts(&[from]) {
        let host = without_port(host);
        if !hosts.iter().any(|(known, _)| known == host) {
            hosts.push((host.to_owned(), node.span));
        }
    }
    hosts
}

fn native_route(
    world: &World<'_>,
    view: EntityView<'_>,
    name: String,
    found: &RouteMatch,
    (action, to): (Action, &Destination),
) -> Node {
    let span_of = |field: &str| view.get(&[field]).and_then(|said| said.node.span);
    let texts = |texts: &[(String, Option<Span>)]| -> Vec<Node> {
        texts.iter().map(|(text, span)| build::text(text.as_str(), *span)).collect()
    };
    let mut fields = Fields::default();
    let mut put = |key: &str, items: Vec<Node>, span: Option<Span>| {
        if !items.is_empty() {
            fields.put(key, build::list(items, span));
        }
    };
    let listeners = found.listeners.iter().flatten().map(|name| build::text(name.as_str(), None)).collect();
    put("listeners", listeners, span_of("protocols"));
    put("hosts", texts(&found.hosts), span_of("hosts").or_else(|| span_of("snis")));
    let paths = found.paths.iter().filter_map(|(path, span)| Some(build::text(path.path.clone()?, *span)));
    put("paths", paths.collect(), span_of("paths"));
    let methods = view.texts(&["methods"]).into_iter().map(|(method, node)| build::text(method, node.span));
    put("methods", methods.collect(), span_of("methods"));
    fields.put("name", build::text(name, span_of("name").or_else(|| span_of("id"))));
    fields.put("rank", build::integer(found.rank, None));
    if let Some(headers) = headers(view) {
        fields.put("headers", headers);
    }
    act(view, found, action, to, &mut fields);
    if let Some(tags) = world.tags_of(view.entity) {
        fields.put("tags", tags);
    }
    fields.node(view.entity.object.node.span)
}

/// Adds the action of a native route.
fn act(view: EntityView<'_>, found: &RouteMatch, action: Action, to: &Destination, fields: &mut Fields) {
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
            if let Some((path, span)) = found.paths.first()
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
