//! Rules about routes: whether a route gets the requests that it matches.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use imbl::OrdMap;

use crate::build::lint::explanation::Explanation;
use crate::build::lint::rule::{LintCheck, LintRule};
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
    let mut by_path: HashMap<(&HostMatch, &PathMatch), Vec<&Route>> = HashMap::new();
    for route in routes.values() {
        for place in route.hosts.iter().flat_map(|host| route.paths.iter().map(move |path| (host, path))) {
            by_path.entry(place).or_default().push(route);
        }
    }
    let before = |route: &Route, host: &HostMatch, path: &PathMatch| {
        let same = by_path[&(host, path)].iter().filter(|other| has_more_conditions(other, route));
        let wider = match path {
            PathMatch::Regex(pattern) => prefixes(literal(pattern)),
            PathMatch::Exact(_) | PathMatch::Prefix(_) => Vec::new(),
        };
        let wider = wider.iter().filter_map(|prefix| by_path.get(&(host, prefix))).flatten();
        same.chain(wider)
            .find(|other| other.name != route.name && matches_all_of(other, route))
            .map(|other| &other.name)
    };
    let shadow = |route: &'_ Route| {
        let mut places = route.hosts.iter().flat_map(|host| route.paths.iter().map(move |path| (host, path)));
        let first = places.next().and_then(|(host, path)| before(route, host, path))?;
        places.all(|(host, path)| before(route, host, path).is_some()).then_some(first)
    };
    routes.values().filter_map(|route| Some((&route.name, shadow(route)?))).collect()
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
