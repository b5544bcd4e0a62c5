//! Rules about routes: whether a route gets the requests that it matches.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use imbl::OrdMap;

use crate::build::lint::explanation::Explanation;
use crate::build::lint::rule::{LintCheck, LintRule};
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
            why: "Another one stands before it for each of its hosts and paths, and takes all that it asks for: an exact path wins over a prefix, a prefix over a regex, and then who names more methods, headers and query parameters.",
            fix: "let the other route ask for less, or remove this one",
            bad: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }] }]\nservices: [{ name: shop, upstream: shop }]\nroutes: [{ name: all, service: shop }, { name: versions, paths: [\"~/v[0-9]+/.*\"], service: shop }]",
            good: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }] }]\nservices: [{ name: shop, upstream: shop }]\nroutes: [{ name: all, paths: [\"~/.*\"], service: shop }, { name: versions, paths: [\"~/v[0-9]+/.*\"], service: shop }]",
        },
        check: LintCheck::Route(|subject, findings| {
            if let Some(other) = subject.shadow() {
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
            why: "A path is a regex only behind a `~`; without it `[`, `(`, `*` and `\\` stand for themselves, and no request has them.",
            fix: "write `~` before a regex, which must match the whole path",
            bad: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }] }]\nservices: [{ name: shop, upstream: shop }]\nroutes: [{ name: versions, paths: [\"/v[0-9]+\"], service: shop }]",
            good: "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }] }]\nservices: [{ name: shop, upstream: shop }]\nroutes: [{ name: versions, paths: [\"~/v[0-9]+\"], service: shop }]",
        },
        check: LintCheck::Route(|subject, findings| {
            for (index, text) in subject.declared().paths.iter().enumerate() {
                if !text.starts_with('~') && text.contains(['[', '(', '*', '\\', '^', '|']) {
                    let message = format!("`{text}` is taken as it stands, not as a regex");
                    findings.report(&subject.place().key("paths").index(index), message);
                }
            }
        }),
    },
];

/// Routes that never get a request, each with the route that takes precedence. They are computed again only
/// when the match conditions of a route change.
#[derive(Debug, Clone, Default)]
pub(super) struct Shadows(Arc<BTreeMap<Name, Name>>);

impl Shadows {
    /// Updates the shadowed routes from `last` to `now`. Returns the names of routes that are shadowed by
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
        let shadows = shadows(now).into_iter();
        let shadows: BTreeMap<Name, Name> =
            shadows.map(|(route, first)| (route.clone(), first.clone())).collect();
        let names = self.0.keys().chain(shadows.keys());
        let changed = names.filter(|name| self.0.get(*name) != shadows.get(*name)).cloned().collect();
        self.0 = Arc::new(shadows);
        changed
    }

    /// Returns the route that takes all requests of `route`; none if `route` gets requests.
    pub(super) fn of(&self, route: &Name) -> Option<&Name> {
        self.0.get(route)
    }
}

fn shadows(routes: &OrdMap<Name, Arc<Route>>) -> HashMap<&Name, &Name> {
    let mut by_path: HashMap<(&HostMatch, &PathMatch), ByCondition<'_>> = HashMap::new();
    for route in routes.values() {
        for place in route.hosts.iter().flat_map(|host| route.paths.iter().map(move |path| (host, path))) {
            by_path.entry(place).or_default().add(route);
        }
    }
    let before = |route: &Route, host: &HostMatch, path: &PathMatch| {
        let same = || by_path[&(host, path)].first_with_more_methods(route);
        let wider = || {
            let PathMatch::Regex(pattern) = path else { return None };
            let prefixes = prefixes(literal(pattern));
            let mut wider = prefixes.iter().filter_map(|prefix| by_path.get(&(host, prefix)));
            wider.find_map(|others| others.first(route))
        };
        same().or_else(wider)
    };
    let shadow = |route: &'_ Route| {
        let mut places = route.hosts.iter().flat_map(|host| route.paths.iter().map(move |path| (host, path)));
        let first = places.next().and_then(|(host, path)| before(route, host, path))?;
        places.all(|(host, path)| before(route, host, path).is_some()).then_some(first)
    };
    routes.values().filter_map(|route| Some((&route.name, shadow(route)?))).collect()
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

    /// Returns the first route by name, if any, that matches all requests of `route`.
    fn first(&self, route: &Route) -> Option<&'r Name> {
        first_of(&self.all, route, |_| true)
    }

    /// Returns the first route by name, if any, that matches all requests of `route` and precedes it.
    fn first_with_more_methods(&self, route: &Route) -> Option<&'r Name> {
        if route.methods.is_empty() {
            return None;
        }
        first_of(&self.of_methods, route, |other| has_more_conditions(other, route))
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

/// Returns the prefix matches on segment boundaries that match every path beginning with `literal`. The last
/// segment of `literal` is not a boundary, since a path may continue it.
fn prefixes(literal: &str) -> Vec<PathMatch> {
    let ends = literal.match_indices('/').map(|(end, _)| &literal[..end]);
    ends.chain([""]).map(|prefix| PathMatch::Prefix(prefix.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::build::{Inputs, build};

    /// Returns the shadowed routes by a comparison of all routes with all.
    fn by_all(routes: &OrdMap<Name, Arc<Route>>) -> BTreeMap<String, String> {
        let names = |route: &&Arc<Route>, host: &HostMatch, path: &PathMatch| {
            route.hosts.contains(host) && route.paths.contains(path)
        };
        let before = |route: &Route, host: &HostMatch, path: &PathMatch| {
            let same = routes.values().filter(|it| names(it, host, path) && has_more_conditions(it, route));
            let prefixes = match path {
                PathMatch::Regex(pattern) => prefixes(literal(pattern)),
                PathMatch::Exact(_) | PathMatch::Prefix(_) => Vec::new(),
            };
            let wider =
                prefixes.iter().flat_map(|prefix| routes.values().filter(move |it| names(it, host, prefix)));
            let mut others = same.chain(wider);
            others.find(|it| it.name != route.name && matches_all_of(it, route)).map(|it| it.name.to_string())
        };
        let shadow = |route: &Arc<Route>| {
            let places = route.hosts.iter().flat_map(|host| route.paths.iter().map(move |path| (host, path)));
            let found: Option<Vec<String>> = places.map(|(host, path)| before(route, host, path)).collect();
            Some((route.name.to_string(), found?.first()?.clone()))
        };
        routes.values().filter_map(shadow).collect()
    }

    /// Returns the conditions of a route in the words of a config.
    fn route() -> impl Strategy<Value = String> {
        let path = prop::sample::select(vec!["/", "/a", "=/a", "~/a/.*", "~/.*"]);
        let one_of = |words: &'static [&'static str]| prop::sample::subsequence(words, 0..=words.len());
        let methods = one_of(&["GET", "PUT", "POST"]);
        (path, methods, one_of(&["x: '1'", "y: '2'", "z: '*'"]), one_of(&["q: '1'", "p: '2'"])).prop_map(
            |(path, methods, headers, query)| {
                let (methods, headers, query) = (methods.join(", "), headers.join(", "), query.join(", "));
                format!(
                    "paths: ['{path}'], methods: [{methods}], headers: {{ {headers} }}, query: {{ {query} }}"
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
            let shadows = shadows(&build.model.routes).into_iter();
            let shadows: BTreeMap<String, String> =
                shadows.map(|(route, first)| (route.to_string(), first.to_string())).collect();
            prop_assert_eq!(shadows, by_all(&build.model.routes));
        }
    }
}
