//! Rules about routes: whether a route gets the requests that it matches.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use imbl::OrdMap;

use crate::build::lint::explanation::Explanation;
use crate::build::lint::rule::{LintCheck, LintRule};
use crate::build::lint::subject::ShadowedPath;
use crate::config::code;
use crate::memo::changes;
use crate::model::host_match::HostMatch;
use crate::model::name::{Name, Scope};
use crate::model::path_match::PathMatch;
use crate::model::route::Route;

pub(super) const RULES: &[LintRule] = &[
    LintRule {
        explanation: Explanation {
            code: code::of("US050"),
            why: "Another one stands before it for each of its hosts and paths, and takes all that it asks for: the larger `rank` wins, then an exact path over a prefix, a prefix over a regex, and then who names more methods, headers and query parameters.",
            fix: "give this route a larger `rank`, let the other one ask for less, or remove this one",
            bad: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }] }]\nservices: [{ name: shop, upstream: shop }]\nroutes: [{ name: all, service: shop }, { name: versions, paths: [\"~/v[0-9]+/.*\"], service: shop }]",
            good: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }] }]\nservices: [{ name: shop, upstream: shop }]\nroutes: [{ name: all, paths: [\"~/.*\"], service: shop }, { name: versions, paths: [\"~/v[0-9]+/.*\"], service: shop }]",
        },
        check: LintCheck::Route(|subject, findings| {
            let shadows = subject.shadows();
            if let Some((_, other)) = shadows.first().filter(|_| shadows.len() == subject.route().paths.len())
            {
                let message = format!(
                    "route `{}` never gets a request: route `{other}` stands before it",
                    subject.route().name
                );
                findings.report(&subject.place().key("paths"), message);
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US051"),
            why: "A path is a regex only behind a `~`; without it `[`, `(`, `\\` and a `*` that is not the last stand for themselves, and no request has them.",
            fix: "write `~` before a regex, which must match the whole path",
            bad: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }] }]\nservices: [{ name: shop, upstream: shop }]\nroutes: [{ name: versions, paths: [\"/v[0-9]+\"], service: shop }]",
            good: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }] }]\nservices: [{ name: shop, upstream: shop }]\nroutes: [{ name: versions, paths: [\"~/v[0-9]+\"], service: shop }]",
        },
        check: LintCheck::Route(|subject, findings| {
            for (index, text) in subject.declared().paths.iter().enumerate() {
                let literal = text.strip_suffix('*').unwrap_or(text);
                if !text.starts_with('~') && literal.contains(['[', '(', '*', '\\', '^', '|']) {
                    let message = format!("`{text}` is taken as it stands, not as a regex");
                    findings.report(&subject.place().key("paths").index(index), message);
                }
            }
        }),
    },
    LintRule {
        explanation: Explanation {
            code: code::of("US058"),
            why: "Another route stands before it at this path for each of its hosts, and takes all that it asks for there, while its other paths are served. Mostly it is a regex, which a prefix such as `/` stands before.",
            fix: "give this route a larger `rank`, which counts before everything else, or remove the path",
            bad: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }] }]\nservices: [{ name: shop, upstream: shop }]\nroutes: [{ name: all, service: shop }, { name: versions, paths: [=/v, \"~/v[0-9]+/.*\"], service: shop }]",
            good: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }] }]\nservices: [{ name: shop, upstream: shop }]\nroutes: [{ name: all, service: shop }, { name: versions, rank: 1, paths: [=/v, \"~/v[0-9]+/.*\"], service: shop }]",
        },
        check: LintCheck::Route(|subject, findings| {
            let shadows = subject.shadows();
            for (path, other) in shadows.iter().filter(|_| shadows.len() < subject.route().paths.len()) {
                let message =
                    format!("the path `{path}` never gets a request: route `{other}` stands before it");
                findings.report(&subject.place_of(path), message);
            }
        }),
    },
];

/// Paths of routes that never get a request, by route. They are computed again only when the match conditions of a
/// route change.
#[derive(Debug, Clone, Default)]
pub(super) struct Shadows(Arc<BTreeMap<Name, Vec<ShadowedPath>>>);

impl Shadows {
    /// Updates the shadowed paths from `last` to `now`. Returns the names of routes that are shadowed by
    /// another route than before, or by none, or newly.
    pub(super) fn update(
        &mut self,
        last: &OrdMap<Name, Arc<Route>>,
        now: &OrdMap<Name, Arc<Route>>,
    ) -> Vec<Name> {
        let is_alike = |old: &Arc<Route>, new: &Arc<Route>| old.matches_the_same(new);
        if changes(last, now).all(|it| it.old.zip(it.new).is_some_and(|(old, new)| is_alike(old, new))) {
            return Vec::new();
        }
        let shadows = shadows(now);
        let names = self.0.keys().chain(shadows.keys());
        let changed = names.filter(|name| self.0.get(*name) != shadows.get(*name)).cloned().collect();
        self.0 = Arc::new(shadows);
        changed
    }

    /// Returns the paths of `route` that get no requests.
    pub(super) fn of(&self, route: &Name) -> &[ShadowedPath] {
        self.0.get(route).map(Vec::as_slice).unwrap_or_default()
    }
}

/// Routes by each host, and by each path for it, that they name.
struct RouteIndex<'r> {
    by_host: HashMap<&'r HostMatch, HashMap<&'r PathMatch, Vec<&'r Route>>>,
    highest_rank: i64,
}

fn shadows(routes: &OrdMap<Name, Arc<Route>>) -> BTreeMap<Name, Vec<ShadowedPath>> {
    let highest_rank = routes.values().map(|route| route.rank).max().unwrap_or_default();
    let mut index = RouteIndex { by_host: HashMap::new(), highest_rank };
    for route in routes.values() {
        for (host, path) in
            route.hosts.iter().flat_map(|host| route.paths.iter().map(move |path| (host, path)))
        {
            index.by_host.entry(host).or_default().entry(path).or_default().push(route);
        }
    }
    let of_route = |route: &Route| -> Vec<ShadowedPath> {
        let shadowed = |path: &PathMatch| {
            let mut before = route.hosts.iter().map(|host| index.before(route, host, path));
            let first = before.next()??;
            before.all(|other| other.is_some()).then(|| (path.clone(), first.name.clone()))
        };
        route.paths.iter().filter_map(shadowed).collect()
    };
    let shadows = routes.values().map(|route| (route.name.clone(), of_route(route)));
    shadows.filter(|(_, paths)| !paths.is_empty()).collect()
}

impl<'r> RouteIndex<'r> {
    /// Returns a route that takes all requests of `route` for one of its hosts and paths.
    fn before(&self, route: &Route, host: &HostMatch, path: &PathMatch) -> Option<&'r Route> {
        let takes_all = |other: &&&Route| other.name != route.name && matches_all_of(other, route);
        let more =
            self.at(host, path).iter().filter(|it| it.rank == route.rank && has_more_conditions(it, route));
        if let Some(other) = more.clone().find(takes_all) {
            return Some(other);
        }
        let is_regex = matches!(path, PathMatch::Regex(_));
        let is_outranked = route.rank < self.highest_rank;
        if !is_regex && !is_outranked {
            return None;
        }
        let paths = covering(path);
        // Within a host and a rank, prefixes stand before regexes.
        let wider = paths.iter().filter(|it| is_regex && *it != path).flat_map(|path| self.at(host, path));
        if let Some(other) = wider.filter(|it| it.rank == route.rank).find(takes_all) {
            return Some(other);
        }
        let hosts = if is_outranked { host.covering() } else { Vec::new() };
        let higher = hosts.iter().flat_map(|host| paths.iter().flat_map(move |path| self.at(host, path)));
        higher.filter(|it| it.rank > route.rank).find(takes_all).copied()
    }

    fn at(&self, host: &HostMatch, path: &PathMatch) -> &[&'r Route] {
        let routes = self.by_host.get(host).and_then(|by_path| by_path.get(path));
        routes.map(Vec::as_slice).unwrap_or_default()
    }
}

/// Returns true if `other` precedes `route` for the same host and path, by its number of conditions.
fn has_more_conditions(other: &Route, route: &Route) -> bool {
    let rank = |route: &Route| (route.methods.len(), route.headers.len(), route.query.len());
    rank(other) > rank(route)
}

/// Returns true if `other` matches every request that `route` matches, hosts and paths aside.
fn matches_all_of(other: &Route, route: &Route) -> bool {
    let includes = |wide: &Scope, narrow: &Scope| match (wide, narrow) {
        (Scope::All, _) => true,
        (Scope::Only(_), Scope::All) => false,
        (Scope::Only(wide), Scope::Only(narrow)) => narrow.iter().all(|name| wide.contains(name)),
    };
    let methods = other.methods.is_empty()
        || (!route.methods.is_empty() && route.methods.iter().all(|method| other.methods.contains(method)));
    methods
        && other.headers.iter().all(|(name, expected)| route.headers.get(name) == Some(expected))
        && other.query.iter().all(|(name, expected)| route.query.get(name) == Some(expected))
        && includes(&other.listeners, &route.listeners)
        && includes(&other.fleets, &route.fleets)
}

/// Returns the literal text with which every path that the pattern matches begins. Empty if the pattern has
/// alternatives.
fn literal(pattern: &str) -> &str {
    if pattern.contains('|') {
        return "";
    }
    let end = pattern
        .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_')))
        .unwrap_or(pattern.len());
    // The character before one of these quantifiers may be absent.
    let is_optional = pattern[end..].starts_with(['*', '?', '{']);
    if is_optional { &pattern[..end.saturating_sub(1)] } else { &pattern[..end] }
}

/// Returns matchers that match every path that `path` matches: itself, and the prefixes and beginnings of its text. The
/// last segment of a text that goes on is not a boundary, since a path may continue it.
fn covering(path: &PathMatch) -> Vec<PathMatch> {
    let (text, goes_on) = match path {
        PathMatch::Exact(text) | PathMatch::Prefix(text) => (text.as_str(), false),
        PathMatch::StartsWith(text) => (text.as_str(), true),
        PathMatch::Regex(pattern) => (literal(pattern), true),
    };
    let ends = text.match_indices('/').map(|(end, _)| end).chain((!goes_on).then_some(text.len()));
    let prefixes = ends.chain([0]).map(|end| PathMatch::Prefix(text[..end].to_owned()));
    let ends = (2..=text.len()).filter(|end| text.is_char_boundary(*end));
    let beginnings = ends.map(|end| PathMatch::StartsWith(text[..end].to_owned()));
    [path.clone()].into_iter().chain(prefixes).chain(beginnings).collect()
}
