//! Tests of virtual hosts that several hosts share, against one virtual host for each.

use imbl::OrdMap;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::build::{Inputs, build};

/// Returns the contributions of routes, which are written without `name` and `service`.
fn fragments(routes: &[String]) -> Vec<Arc<RouteFragment>> {
    let route =
        |(number, text): (usize, &String)| format!("  - {{ name: r-{number}, service: s, {text} }}\n");
    let routes: String = routes.iter().enumerate().map(route).collect();
    let text = format!(
        "fleets: [{{ name: f, select: {{ cluster: f }} }}]\n\
         listeners: [{{ name: k, address: \"0.0.0.0:1\" }}, {{ name: l, address: \"0.0.0.0:2\" }}]\n\
         upstreams: [{{ name: u, targets: [{{ target: 10.0.0.1:80 }}] }}]\n\
         services: [{{ name: s, upstream: u }}]\nroutes:\n{routes}"
    );
    let files = OrdMap::unit("a.yaml".to_owned(), text.into());
    let build = build(&Inputs { files, ..Inputs::default() }, None).expect("all of them differ");
    build.model.routes.values().map(|route| Arc::new(RouteFragment::new(route))).collect()
}

fn compiled(fragments: &[Arc<RouteFragment>]) -> envoy::RouteConfiguration {
    let listener = Name::parse("k").expect("it is a name");
    let input = RouteConfigInput { listener, fragments: fragments.iter().cloned().map(ArcEq).collect() };
    envoy::RouteConfiguration::decode(compile(&input).message()).expect("it was encoded")
}

/// Returns the routes of one host in their order: by rank, then those that name it before those of wider hosts, each by
/// path, number of conditions and name.
fn routes_of(host: &HostMatch, fragments: &[Arc<RouteFragment>]) -> Vec<envoy::Route> {
    let (mut seen, mut paths) = (BTreeSet::new(), Vec::new());
    for (level, covering) in host.covering().into_iter().enumerate() {
        let here: Vec<_> = fragments.iter().filter(|fragment| fragment.hosts.contains(&covering)).collect();
        let new: Vec<_> = here.into_iter().filter(|fragment| seen.insert(fragment.name.clone())).collect();
        let new =
            new.into_iter().flat_map(|fragment| fragment.paths.iter().map(move |path| (fragment, path)));
        paths.extend(new.map(|(fragment, path)| (level, fragment, path)));
    }
    paths.sort_by_key(|(level, fragment, (path, _))| {
        let kind = match path {
            PathMatch::Exact(_) => 0,
            PathMatch::Prefix(_) | PathMatch::StartsWith(_) => 1,
            PathMatch::Regex(_) => 2,
        };
        let is_wider = matches!(path, PathMatch::StartsWith(_));
        let by_path = (kind, Reverse(path.length()), is_wider);
        let conditions = Reverse(fragment.condition_counts);
        (Reverse(fragment.rank), *level, by_path, conditions, fragment.name.clone(), path.clone())
    });
    let encoded = paths.into_iter().flat_map(|(_, _, (_, routes))| routes);
    encoded.map(|it| envoy::Route::decode(it.as_slice()).expect("it was encoded")).collect()
}

fn some_of(words: &'static [&'static str], least: usize) -> impl Strategy<Value = String> {
    prop::sample::subsequence(words, least..=words.len()).prop_map(|words| words.join(", "))
}

/// Returns the fields of a route. Each has a path of its own, so that no two match the same requests.
fn routes() -> impl Strategy<Value = Vec<String>> {
    const HOSTS: &[&str] = &["a.x.com", "b.x.com", "c.com", "'*.x.com'", "'*.com'", "'*'"];
    let route =
        (some_of(HOSTS, 0), some_of(&["/a", "/a*", "=/a", "~/.*"], 1), some_of(&["GET", "PUT"], 0), 0..2);
    let scopes = (some_of(&["k", "l"], 0), some_of(&["f", "default"], 0));
    prop::collection::vec((route, scopes), 1..8).prop_map(|routes| {
        let text = |(number, ((hosts, paths, methods, rank), (listeners, fleets)))| {
            format!(
                "rank: {rank}, hosts: [{hosts}], paths: [{paths}], methods: [{methods}], headers: {{ x: '{number}' }}, \
                 listeners: [{listeners}], fleets: [{fleets}]"
            )
        };
        routes.into_iter().enumerate().map(text).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn each_host_has_the_routes_that_it_would_have_in_a_virtual_host_of_its_own(routes in routes()) {
        let fragments = fragments(&routes);
        let hosts: BTreeSet<&HostMatch> = fragments.iter().flat_map(|fragment| &fragment.hosts).collect();
        let configuration = compiled(&fragments);
        let domains = configuration.virtual_hosts.iter().flat_map(|it| it.domains.iter().map(move |host| (host, it)));
        let by_domain: BTreeMap<&String, &envoy::VirtualHost> = domains.clone().collect();
        // Envoy refuses a domain that is in two virtual hosts, and two virtual hosts of one name.
        prop_assert_eq!(domains.count(), hosts.len());
        let names: BTreeSet<&String> = configuration.virtual_hosts.iter().map(|it| &it.name).collect();
        prop_assert_eq!(names.len(), configuration.virtual_hosts.len());
        let mut distinct = Vec::new();
        for host in hosts {
            let expected = routes_of(host, &fragments);
            prop_assert_eq!(&by_domain[&host.to_string()].routes, &expected, "{}", host);
            if !distinct.contains(&expected) {
                distinct.push(expected);
            }
        }
        prop_assert!(configuration.virtual_hosts.len() >= distinct.len());
    }

    #[test]
    fn a_listener_serves_the_routes_in_whose_scopes_it_is(routes in routes()) {
        let fragments = fragments(&routes);
        let by_scope = FragmentsByScope::new(fragments.iter());
        let name = |text| Name::parse(text).expect("it is a name");
        for (fleet, listener) in [("f", "k"), ("f", "l"), ("default", "k"), ("default", "l")] {
            let (fleet, listener) = (name(fleet), name(listener));
            let served: Vec<&Name> = by_scope.served(&fleet, &listener).map(|it| &it.name).collect();
            let expected = fragments.iter().filter(|fragment| fragment.is_served(&fleet, &listener));
            prop_assert_eq!(served, expected.map(|fragment| &fragment.name).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_route_of_many_hosts_and_paths_is_one_virtual_host() {
    let list = |count: usize, of: fn(usize) -> String| (0..count).map(of).collect::<Vec<_>>().join(", ");
    let (hosts, paths) = (list(200, |it| format!("h-{it}.x.com")), list(50, |it| format!("/p-{it}")));
    let wide = "hosts: ['*.y.com'], paths: [/all]".to_owned();
    let configuration = compiled(&fragments(&[format!("hosts: [{hosts}], paths: [{paths}]"), wide]));
    let shapes =
        configuration.virtual_hosts.iter().map(|it| (it.name.as_str(), it.domains.len(), it.routes.len()));
    // Requests of idempotent methods have a route of their own.
    assert_eq!(shapes.collect::<Vec<_>>(), [("h-0.x.com", 200, 100), ("*.y.com", 1, 2)]);
}
