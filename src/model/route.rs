//! Routes for requests: matchers and an action.

pub mod action;
pub mod rewrite;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::config::document::{self, Declared};
use crate::model::header::{self, HeaderChanges};
use crate::model::matching::{self, StringMatch};
use crate::model::name::{Name, Scope};
use crate::model::place::{Faults, Place};
use crate::model::route::action::{Action, Forward};
use crate::model::service::Service;

/// Matcher of requests, and the action on them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Unique among routes.
    pub name: Name,
    /// Listeners that serve it.
    pub listeners: Scope,
    /// Fleets that serve it.
    pub fleets: Scope,
    /// Hosts, any of which must match; at least one.
    pub hosts: Vec<HostMatch>,
    /// Paths, any of which must match; at least one.
    pub paths: Vec<PathMatch>,
    /// Methods, any of which must match; empty for any method.
    pub methods: Vec<String>,
    /// Headers, all of which must match, by name in lower case.
    pub headers: BTreeMap<String, StringMatch>,
    /// Query parameters, all of which must match, by name.
    pub query: BTreeMap<String, StringMatch>,
    /// Action on matching requests.
    pub action: Action,
    /// Changes to the headers of responses, both of targets and of Envoy itself.
    pub response_headers: HeaderChanges,
}

impl Route {
    /// True if both routes match the same requests on the same listeners and fleets.
    pub fn asks_for_the_same(&self, other: &Self) -> bool {
        (&self.hosts, &self.paths) == (&other.hosts, &other.paths)
            && (&self.methods, &self.headers, &self.query) == (&other.methods, &other.headers, &other.query)
            && (&self.listeners, &self.fleets) == (&other.listeners, &other.fleets)
    }

    /// Returns the forwarding, if the route uses a service.
    pub fn forward(&self) -> Option<&Forward> {
        match &self.action {
            Action::Forward(forward) => Some(forward),
            Action::Redirect(_) | Action::Respond(_) => None,
        }
    }
}

/// Matcher of the host of a request; variants in order of precedence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostMatch {
    /// Exact host, in lower case.
    Exact(String),
    /// Suffix: `*.example.com`, stored as `.example.com`.
    Suffix(String),
    /// Any host.
    Any,
}

/// Matcher of the path of a request; variants in order of precedence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathMatch {
    /// Exact path, written `=/exact`.
    Exact(String),
    /// Prefix on segment boundaries, written `/prefix`; stored without a trailing slash, empty for every
    /// path.
    Prefix(String),
    /// Regex over the whole path, written `~regex`.
    Regex(String),
}

impl HostMatch {
    fn parse(text: &str) -> Option<Self> {
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        };
        let name = |text: &str| text.len() <= 253 && text.split('.').all(label);
        let text = text.to_ascii_lowercase();
        match text.strip_prefix('*') {
            Some("") => Some(Self::Any),
            Some(suffix) => {
                suffix.strip_prefix('.').is_some_and(name).then(|| Self::Suffix(suffix.to_owned()))
            }
            None if name(&text) => Some(Self::Exact(text)),
            None => {
                let ip = text.strip_prefix('[')?.strip_suffix(']')?.parse::<std::net::Ipv6Addr>();
                ip.is_ok().then_some(Self::Exact(text))
            }
        }
    }

    /// Returns all matchers that cover this host: itself, then the wider ones.
    pub fn covering(&self) -> Vec<Self> {
        let (Self::Exact(host) | Self::Suffix(host)) = self else { return vec![Self::Any] };
        let suffixes = host.match_indices('.').map(|(dot, _)| Self::Suffix(host[dot..].to_owned()));
        let wider = suffixes.filter(|suffix| suffix != self);
        [self.clone()].into_iter().chain(wider).chain([Self::Any]).collect()
    }
}

impl fmt::Display for HostMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// True for `host` and `host:port`, the form of the host in a request.
pub(crate) fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    matches!(HostMatch::parse(host), Some(HostMatch::Exact(_))) && port.is_none_or(is_port)
}

impl PathMatch {
    fn parse(text: &str) -> Result<Self, (String, Option<String>)> {
        if let Some(pattern) = text.strip_prefix('~') {
            return match matching::whole(pattern) {
                Ok(_) => Ok(Self::Regex(pattern.to_owned())),
                Err(error) => Err((format!("`{pattern}` is not a valid regex: {error}"), None)),
            };
        }
        let (path, exact) = text.strip_prefix('=').map_or((text, false), |path| (path, true));
        if !path.starts_with('/') {
            let help =
                "a prefix is `/checkout`, an exact path `=/checkout`, a regex `~/v[0-9]+/.*`".to_owned();
            return Err((format!("the path `{text}` does not begin with /"), Some(help)));
        }
        if path.contains(['?', '#']) {
            let help = "match the query with `query`".to_owned();
            return Err((format!("the path `{text}` has a query or a fragment"), Some(help)));
        }
        Ok(if exact {
            Self::Exact(path.to_owned())
        } else {
            Self::Prefix(path.trim_end_matches('/').to_owned())
        })
    }

    /// Returns the length of the text, which orders matchers of one kind by specificity.
    pub fn length(&self) -> usize {
        match self {
            Self::Exact(text) | Self::Prefix(text) | Self::Regex(text) => text.len(),
        }
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "={path}"),
            Self::Prefix(path) if path.is_empty() => f.write_str("/"),
            Self::Prefix(path) => f.write_str(path),
            Self::Regex(pattern) => write!(f, "~{pattern}"),
        }
    }
}

/// Resolved references of a route, available before its own fields are resolved.
pub(crate) struct References {
    pub(crate) name: Name,
    pub(crate) listeners: Scope,
    pub(crate) fleets: Scope,
    /// Service; `None` if the route has none or names it wrongly.
    pub(crate) service: Option<Arc<Service>>,
}

/// Resolves a declared route whose references are resolved. Returns `None` for a route without an action, but
/// reports its other faults.
pub(crate) fn resolve(
    references: References,
    place: &Place<'_>,
    route: &Declared<document::route::Route>,
    faults: &mut Faults,
) -> Option<Route> {
    let References { name, listeners, fleets, service } = references;
    let route = &route.entity;
    let hosts = hosts(&place.key("hosts"), &route.hosts, faults);
    let paths = paths(&place.key("paths"), &route.paths, faults);
    let methods = methods(&place.key("methods"), &route.methods, faults);
    let headers = headers(&place.key("headers"), &route.headers, faults);
    let query = matches(&place.key("query"), &route.query, faults);
    let action = action::resolve(place, route, service, &paths, faults);
    let response_headers =
        HeaderChanges::resolve(&place.key("response_headers"), &route.response_headers, faults);
    let action = action?;
    Some(Route { name, listeners, fleets, hosts, paths, methods, headers, query, action, response_headers })
}

pub(crate) fn hosts(place: &Place<'_>, declared: &[String], faults: &mut Faults) -> Vec<HostMatch> {
    let mut hosts = Vec::new();
    for (index, text) in declared.iter().enumerate() {
        match HostMatch::parse(text) {
            Some(host) if hosts.contains(&host) => {}
            Some(host) => hosts.push(host),
            None => {
                let help =
                    "write a name such as shop.example.com or *.example.com, without a port".to_owned();
                faults.wrong(&place.index(index), format!("`{text}` is not a host"), help);
            }
        }
    }
    if declared.is_empty() {
        hosts.push(HostMatch::Any);
    }
    hosts
}

fn paths(place: &Place<'_>, declared: &[String], faults: &mut Faults) -> Vec<PathMatch> {
    let mut paths = Vec::new();
    for (index, text) in declared.iter().enumerate() {
        match PathMatch::parse(text) {
            Ok(path) if paths.contains(&path) => {}
            Ok(path) => paths.push(path),
            Err((message, help)) => faults.wrong(&place.index(index), message, help),
        }
    }
    if declared.is_empty() {
        paths.push(PathMatch::Prefix(String::new()));
    }
    paths
}

fn methods(place: &Place<'_>, declared: &[String], faults: &mut Faults) -> Vec<String> {
    let mut methods: Vec<String> = Vec::new();
    for (index, method) in declared.iter().enumerate() {
        if method.is_empty() || !method.chars().all(|c| c.is_ascii_uppercase() || c == '-') {
            let help = "methods are written in capitals, such as GET".to_owned();
            faults.wrong(&place.index(index), format!("`{method}` is not a method"), help);
        } else if !methods.contains(method) {
            methods.push(method.clone());
        }
    }
    methods.sort();
    methods
}

fn headers(
    place: &Place<'_>,
    declared: &BTreeMap<String, String>,
    faults: &mut Faults,
) -> BTreeMap<String, StringMatch> {
    for name in declared.keys() {
        header::name(&place.key(name), name, faults);
    }
    header::by_lower_case(place, &matches(place, declared, faults), faults)
}

fn matches(
    place: &Place<'_>,
    declared: &BTreeMap<String, String>,
    faults: &mut Faults,
) -> BTreeMap<String, StringMatch> {
    let mut matches = BTreeMap::new();
    for (name, text) in declared {
        match StringMatch::parse(text) {
            Ok(expected) => {
                matches.insert(name.clone(), expected);
            }
            Err(error) => {
                faults.wrong(&place.key(name), format!("`{text}` is not a valid regex: {error}"), None)
            }
        }
    }
    matches
}
