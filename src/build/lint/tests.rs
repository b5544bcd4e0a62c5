//! Tests of every rule and fault with its own examples, and of the lint settings of a config.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::build::{Inputs, build};
use crate::config::code::{CODES, Code};

/// Returns the findings in a config, each as code and level.
fn findings(text: &str) -> BTreeSet<String> {
    let files = imbl::OrdMap::unit("a.yaml".to_owned(), text.into());
    let violations = match build(&Inputs { files, ..Inputs::default() }, None) {
        Ok(build) => build.violations(),
        Err(violations) => violations,
    };
    violations.iter().map(|findings| format!("{} {}", findings.code, findings.level)).collect()
}

/// Faults without an example, which take more than a line to show, are tested where they are reported.
#[test]
fn every_code_is_told_of_its_bad_example_and_not_of_its_good_one() {
    let mut wrong = Vec::new();
    for Explanation { code: Code { id: code, level, .. }, bad, good, .. } in explanations() {
        if bad.is_empty() {
            assert!(*code >= "US100", "{code} has no example");
            continue;
        }
        let expected = format!("{code} {level}");
        let (before, after) = (findings(bad), findings(good));
        let cured = !after.iter().any(|findings| *findings == expected || findings.ends_with("error"));
        if !before.contains(&expected) || !cured {
            wrong.push(format!("{code}: {before:?}, then {after:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn rules_are_numbered_without_gaps_and_explained_in_full() {
    let mut codes: Vec<&str> = rules().map(|rule| rule.explanation.code.id).collect();
    codes.sort_unstable();
    let expected: Vec<String> = (1..=codes.len()).map(|number| format!("US{number:03}")).collect();
    assert_eq!(codes, expected);
    for Explanation { code: Code { id: code, title, .. }, why, fix, .. } in explanations() {
        let is_sentence = |text: &str| text.trim_end_matches(')').ends_with('.') && !text.contains("  ");
        assert!(is_sentence(why) && !title.ends_with('.') && !fix.ends_with('.'), "{code}: {why}");
    }
}

#[test]
fn every_code_in_the_sources_is_explained() {
    fn codes(directory: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(directory).expect("the sources are there") {
            let path = entry.expect("it can be read").path();
            if path.is_dir() {
                codes(&path, found);
            } else {
                let text = std::fs::read_to_string(&path).expect("it is text");
                let quoted = text.split('"').filter(|word| word.len() == 5 && word.starts_with("US"));
                found.extend(quoted.filter(|word| word[2..].parse::<u16>().is_ok()).map(str::to_owned));
            }
        }
    }
    let mut found = BTreeSet::new();
    codes(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    let explained: Vec<&str> = explanations().iter().map(|explanation| explanation.code.id).collect();
    let listed: Vec<&str> = CODES.iter().map(|code| code.id).collect();
    assert_eq!(listed, explained);
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), explained);
}

/// Findings about routes that get no requests, each as code and place.
fn shadowed(routes: &str) -> Vec<String> {
    let files = imbl::OrdMap::unit("a.yaml".to_owned(), format!("routes: [{routes}]").as_str().into());
    let build = build(&Inputs { files, ..Inputs::default() }, None).expect("it builds");
    let found = build.violations().into_iter().filter(|it| matches!(it.code, "US050" | "US058"));
    found.map(|it| format!("{} {}", it.code, it.path)).collect()
}

#[test]
fn a_path_that_gets_no_requests_is_told_whatever_takes_them() {
    let all = "{ name: all, rank: 1, respond: {} }, { name: own, ";
    let prefix = "{ name: text, rank: 1, paths: [\"/ab*\"], respond: {} }, { name: own, ";
    let segment = "{ name: segment, rank: 1, paths: [/ab], respond: {} }, { name: own, ";
    let right = "{ name: right, rank: 1, hosts: [\"shop.*\"], respond: {} }, { name: own, ";
    let same = "{ name: same, paths: [\"/ab*\"], respond: {} }, { name: own, ";
    for (others, own, expected) in [
        (all, "hosts: [shop.test], paths: [=/a]", Some("US050 routes[1].paths")),
        (all, "rank: 1, paths: [=/a]", None),
        (all, "rank: 2", Some("US050 routes[0].paths")),
        (prefix, "paths: [=/abc, /b]", Some("US058 routes[1].paths[0]")),
        (prefix, "paths: [/b, /abc]", Some("US058 routes[1].paths[1]")),
        (prefix, "paths: [/b, \"/abc*\"]", Some("US058 routes[1].paths[1]")),
        (prefix, "paths: [/b, \"~/abc?/.*\"]", Some("US058 routes[1].paths[1]")),
        (prefix, "paths: [/b, \"~/a.*\", \"/a*\", /a]", None),
        (segment, "paths: [/b, /ab/c]", Some("US058 routes[1].paths[1]")),
        (segment, "paths: [/b, \"/ab/*\"]", Some("US058 routes[1].paths[1]")),
        (segment, "paths: [/b, \"/ab*\", /abc, \"~/ab.*\"]", None),
        (right, "hosts: [shop.test, shop.example.com]", Some("US050 routes[1].paths")),
        (right, "hosts: [\"shop.eu.*\"]", Some("US050 routes[1].paths")),
        (right, "hosts: [shop.test, cart.test]", None),
        (right, "hosts: [\"*.test\"]", None),
        (same, "paths: [/b, \"~/abc/.*\"]", Some("US058 routes[1].paths[1]")),
        (same, "paths: [/b, =/abc, /abc, /ab]", None),
        (same, "hosts: [shop.test], paths: [/b, \"~/abc/.*\"]", None),
    ] {
        let found = shadowed(&format!("{others}{own}, respond: {{}} }}"));
        assert_eq!(found, expected.into_iter().map(str::to_owned).collect::<Vec<_>>(), "{others} {own}");
    }
}

const DEFAULTS: &str = "
upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80 }, { target: 10.0.0.3:80, failover: true }] }]
services: [{ name: shop, upstream: shop }]
routes: [{ name: shop, service: shop }]
";

#[test]
fn a_config_of_defaults_has_no_warning_and_is_told_what_defaults_cost() {
    assert_eq!(findings(DEFAULTS), ["US004 info", "US041 info"].map(str::to_owned).into());
}

#[test]
fn rules_are_levelled_for_all_or_for_one_with_a_reason() {
    let text = |lint: &str, of_upstream: &str| {
        format!(
            "{lint}\n{}",
            DEFAULTS.replace("name: shop, targets", &format!("name: shop, {of_upstream} targets"))
        )
    };
    for (lint, of_upstream, expected) in [
        ("lint: { US004: off, US041: off }", "", vec![]),
        ("lint: { US004: false, US041: { level: warning, reason: we care } }", "", vec!["US041 warning"]),
        ("lint: { US004: error, US041: off }", "", vec!["US004 error"]),
        ("lint: { US041: off }", "lint: { US004: { level: off, reason: reads only } },", vec![]),
        (
            "lint: { US004: off, US041: off }",
            "lint: { US004: { level: warning, reason: this one counts } },",
            vec!["US004 warning"],
        ),
        ("lint: { US041: off }", "lint: { US004: off },", vec!["US105 error"]),
        ("lint: { US04: off }", "", vec!["US101 error"]),
        ("lint: { US111: off }", "", vec!["US101 error"]),
        ("lint: { US041: loud }", "", vec!["US103 error"]),
    ] {
        let findings = findings(&text(lint, of_upstream));
        assert_eq!(findings.iter().map(String::as_str).collect::<Vec<_>>(), expected, "{lint} {of_upstream}");
    }
}

#[test]
fn each_part_of_a_drill_that_is_not_there_is_told_of_where_it_stands() {
    let text = DEFAULTS.replace(
        "name: shop, targets",
        "name: shop, drill: { schedule: \"0 3 * * 1\", down: [DOWN] }, targets",
    );
    let check = |down: &str, expected: &[&str]| {
        let files = imbl::OrdMap::unit("a.yaml".to_owned(), text.replace("DOWN", down).into());
        let build = build(&Inputs { files, ..Inputs::default() }, None).expect("it builds");
        let findings = build.violations().into_iter().filter(|findings| findings.level == Level::Warning);
        let findings: Vec<String> =
            findings.map(|it| format!("{} {}: {}", it.code, it.path, it.message)).collect();
        assert_eq!(findings, expected, "{down}");
    };
    check("priority=0", &[]);
    check("10.0.0.1:80, 10.0.0.2:80", &[]);
    check(
        "zone=q, priority=0, 9.9.9.9:1, priority=7, zon=a",
        &[
            "US055 upstreams[0].drill.down[0]: upstream `shop` has no zone `q` with traffic: none of its targets has a zone",
            "US055 upstreams[0].drill.down[2]: upstream `shop` has no target `9.9.9.9:1` with traffic: there is 10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80",
            "US055 upstreams[0].drill.down[3]: upstream `shop` has no priority `7` with traffic: there is 0, 1",
            "US055 upstreams[0].drill.down[4]: `zon` is nothing that can be down: did you mean `zone=`?",
        ],
    );
    check(
        "priority=0, 10.0.0.3:80",
        &["US056 upstreams[0].drill.down: `priority=0`, `10.0.0.3:80` is all that serves"],
    );
}
