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
use crate::model::matching::StringMatch;
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
    by_host: HashMap<&'r HostMatch, HashMap<&'r PathMatch, ByCondition<'r>>>,
    highest_rank: i64,
}

fn shadows(routes: &OrdMap<Name, Arc<Route>>) -> BTreeMap<Name, Vec<ShadowedPath>> {
    let highest_rank = routes.values().map(|route| route.rank).max().unwrap_or_default();
    let mut index = RouteIndex { by_host: HashMap::new(), highest_rank };
    for route in routes.values() {
        for (host, path) in
            route.hosts.iter().flat_map(|host| route.paths.iter().map(move |path| (host, path)))
        {
            index.by_host.entry(host).or_default().entry(path).or_default().add(route);
        }
    }
    let of_route = |route: &Route| -> Vec<ShadowedPath> {
        let shadowed = |path: &PathMatch| {
            let mut before = route.hosts.iter().map(|host| index.before(route, host, path));
            let first = before.next()??;
            before.all(|other| other.is_some()).then(|| (path.clone(), first.clone()))
        };
        route.paths.iter().filter_map(shadowed).collect()
    };
    let shadows = routes.values().map(|route| (route.name.clone(), of_route(route)));
    shadows.filter(|(_, paths)| !paths.is_empty()).collect()
}

impl<'r> RouteIndex<'r> {
    /// Returns a route that takes all requests of `route` for one of its hosts and paths.
    fn before(&self, route: &Route, host: &HostMatch, path: &PathMatch) -> Option<&'r Name> {
        if let Some(other) = self.at(host, path).and_then(|others| others.first_with_more_methods(route)) {
            return Some(other);
        }
        let is_regex = matches!(path, PathMatch::Regex(_));
        let is_outranked = route.rank < self.highest_rank;
        if !is_regex && !is_outranked {
            return None;
        }
        let paths = covering(path);
        // Within a host and a rank, prefixes stand before regexes.
        let mut wider = paths.iter().filter(|it| is_regex && *it != path);
        let wider = wider.find_map(|path| self.at(host, path)?.first(route, |it| it.rank == route.rank));
        if wider.is_some() {
            return wider;
        }
        let hosts = if is_outranked { host.covering() } else { Vec::new() };
        let mut higher = hosts.iter().flat_map(|host| paths.iter().filter_map(|path| self.at(host, path)));
        higher.find_map(|others| others.first(route, |it| it.rank > route.rank))
    }

    fn at(&self, host: &HostMatch, path: &PathMatch) -> Option<&ByCondition<'r>> {
        self.by_host.get(host)?.get(path)
    }
}

/// Routes of one host and path. A route matches all requests of another only if that has each of its conditions: so
/// it is found by one of them.
#[derive(Debug, Default)]
struct ByCondition<'r> {
    all: RoutesByCondition<'r>,
    /// Routes with several methods. No other route precedes one of the same host and path, and matches all of its
    /// requests: it has more conditions, and these can only be methods, any of which may match.
    of_methods: RoutesByCondition<'r>,
}

/// Routes by their first condition on a header or a query parameter; none for a route without any.
type RoutesByCondition<'r> = HashMap<Option<Condition<'r>>, Vec<&'r Route>>;

/// Condition: true for a header, false for a query parameter; its name and the expected value.
type Condition<'r> = (bool, &'r str, &'r StringMatch);

impl<'r> ByCondition<'r> {
    fn add(&mut self, route: &'r Route) {
        let first = conditions(route).next();
        if route.methods.len() > 1 {
            self.of_methods.entry(first).or_default().push(route);
        }
        self.all.entry(first).or_default().push(route);
    }

    /// Returns the first wanted route by name, if any, that matches all requests of `route`.
    fn first(&self, route: &Route, is_wanted: impl Fn(&Route) -> bool) -> Option<&'r Name> {
        first_of(&self.all, route, is_wanted)
    }

    /// Returns the first route by name, if any, that matches all requests of `route` and precedes it in its rank.
    fn first_with_more_methods(&self, route: &Route) -> Option<&'r Name> {
        if route.methods.is_empty() {
            return None;
        }
        first_of(&self.of_methods, route, |other| {
            other.rank == route.rank && has_more_conditions(other, route)
        })
    }
}

fn first_of<'r>(
    routes: &RoutesByCondition<'r>,
    route: &Route,
    is_wanted: impl Fn(&Route) -> bool,
) -> Option<&'r Name> {
    let keys = conditions(route).map(Some).chain([None]);
    let others = keys.filter_map(|key| routes.get(&key)).flatten();
    let others = others.filter(|other| is_wanted(other) && other.name != route.name);
    others.filter(|other| matches_all_of(other, route)).map(|other| &other.name).min()
}

fn conditions(route: &Route) -> impl Iterator<Item = Condition<'_>> {
    let headers = route.headers.iter().map(|(name, expected)| (true, name.as_str(), expected));
    headers.chain(route.query.iter().map(|(name, expected)| (false, name.as_str(), expected)))
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::build::{Inputs, build};

    /// Returns the shadowed paths by a comparison of all routes with all.
    fn by_all(routes: &OrdMap<Name, Arc<Route>>) -> BTreeMap<Name, Vec<ShadowedPath>> {
        let before = |route: &Route, host: &HostMatch, path: &PathMatch| {
            let first = |hosts: &[HostMatch], paths: &[PathMatch], is_wanted: &dyn Fn(&Route) -> bool| {
                let places = hosts.iter().flat_map(|host| paths.iter().map(move |path| (host, path)));
                let mut others = places.flat_map(|(host, path)| {
                    routes.values().filter(move |it| it.hosts.contains(host) && it.paths.contains(path))
                });
                others.find(|it| it.name != route.name && is_wanted(it) && matches_all_of(it, route))
            };
            let (own_host, own_path) = ([host.clone()], [path.clone()]);
            let same = |it: &Route| it.rank == route.rank;
            let more = |it: &Route| same(it) && has_more_conditions(it, route);
            let is_wider = |it: &PathMatch| matches!(path, PathMatch::Regex(_)) && it != path;
            let wider: Vec<PathMatch> = covering(path).into_iter().filter(is_wider).collect();
            first(&own_host, &own_path, &more)
                .or_else(|| first(&own_host, &wider, &same))
                .or_else(|| first(&host.covering(), &covering(path), &|it| it.rank > route.rank))
                .map(|it| it.name.clone())
        };
        let shadowed = |route: &Route, path: &PathMatch| {
            let found: Option<Vec<Name>> = route.hosts.iter().map(|host| before(route, host, path)).collect();
            Some((path.clone(), found?.first()?.clone()))
        };
        let of_route = |route: &Route| -> Vec<ShadowedPath> {
            route.paths.iter().filter_map(|path| shadowed(route, path)).collect()
        };
        let shadows = routes.values().map(|route| (route.name.clone(), of_route(route)));
        shadows.filter(|(_, paths)| !paths.is_empty()).collect()
    }

    /// Returns the conditions of a route in the words of a config.
    fn route() -> impl Strategy<Value = String> {
        let path = prop::sample::select(vec!["/", "/a", "/a*", "=/a", "~/a/.*", "~/.*"]);
        let one_of = |words: &'static [&'static str]| prop::sample::subsequence(words, 0..=words.len());
        let methods = one_of(&["GET", "PUT", "POST"]);
        let host = prop::sample::select(vec!["'*'", "a.test", "'*.test'"]);
        let (headers, query) = (one_of(&["x: '1'", "y: '2'", "z: '*'"]), one_of(&["q: '1'", "p: '2'"]));
        (path, host, 0..2, methods, headers, query).prop_map(
            |(path, host, rank, methods, headers, query)| {
                let (methods, headers, query) = (methods.join(", "), headers.join(", "), query.join(", "));
                format!(
                    "paths: ['{path}'], hosts: [{host}], rank: {rank}, methods: [{methods}], headers: {{ {headers} }}, query: {{ {query} }}"
                )
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn shadows_are_those_of_a_comparison_of_all_routes(routes in prop::collection::btree_set(route(), 1..12)) {
            let route = |(number, text): (usize, &String)| format!("  - {{ name: r-{number}, service: s, {text} }}\n");
            let routes: String = routes.iter().enumerate().map(route).collect();
            let text = format!(
                "upstreams: [{{ name: u, targets: [{{ target: 10.0.0.1:80 }}] }}]\nservices: [{{ name: s, upstream: u }}]\nroutes:\n{routes}"
            );
            let files = OrdMap::unit("a.yaml".to_owned(), text.into());
            let build = build(&Inputs { files, ..Inputs::default() }, None).expect("all of them differ");
            prop_assert_eq!(shadows(&build.model.routes), by_all(&build.model.routes));
        }
    }
}
