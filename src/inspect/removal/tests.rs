//! Tests of losses between two config texts.

use std::sync::Arc;

use super::*;
use crate::build::{self, Inputs};

fn build(text: &str) -> Build {
    let files = imbl::OrdMap::unit("shop.yaml".to_owned(), text.into());
    build::build(&Inputs { files, ..Inputs::default() }, None).expect("it builds")
}

/// Returns the losses as `code: message`.
fn texts(before: &str, after: &str, limits: LossLimits) -> Vec<String> {
    let losses = losses(&build(before), &build(after), &limits);
    losses.iter().map(|loss| format!("{}: {}", loss.code(), loss.message())).collect()
}

#[track_caller]
fn check(before: &str, after: &str, expected: &[&str]) {
    assert_eq!(texts(before, after, LossLimits::default()), expected, "{before}\nto\n{after}");
}

const UPSTREAM: &str = "upstreams: [{ name: a, targets: [{ target: 10.0.0.1:80 }] }]\n";
const SERVICE: &str = "services: [{ name: a, upstream: a }]\n";
const ROUTE: &str = "routes: [{ name: a, service: a }]\n";
const LISTENER: &str = "listeners: [{ name: web, address: '0.0.0.0:80' }]\n";

#[test]
fn a_fleet_keeps_a_listener_and_a_route() {
    let base = format!("{UPSTREAM}{SERVICE}");
    let routed = format!("{base}{ROUTE}");
    let whole = format!("{routed}{LISTENER}");
    let moved = "listeners: [{ name: other, address: '0.0.0.0:81' }]\n";
    let tcp = "listeners: [{ name: tcp, address: '0.0.0.0:81', protocol: tcp, service: t }]\n\
               upstreams: [{ name: t, protocol: tcp, targets: [{ target: 10.0.0.1:80 }] }]\n\
               services: [{ name: t, upstream: t }]\n";
    let both = "US191: the fleet `default` would be left without listeners and routes";
    let listeners = "US191: the fleet `default` would be left without listeners";
    let routes = "US191: the fleet `default` would be left without routes";
    for (before, after, expected) in [
        (whole.as_str(), "", &[both][..]),
        // The default listener is nobody's decision.
        (&whole, &routed, &[listeners]),
        (&whole, LISTENER, &[routes]),
        (&routed, "", &[routes]),
        (&whole, &format!("{routed}{moved}"), &[]),
        (&whole, &whole, &[]),
        (&routed, &whole, &[]),
        (&base, "", &[]),
        ("", &whole, &[]),
        // Connections are passed on too.
        (&whole, tcp, &[]),
        (tcp, "", &[both]),
    ] {
        check(before, after, expected);
    }
}

#[test]
fn a_route_that_no_listener_of_the_fleet_serves_is_none() {
    let listeners =
        "listeners: [{ name: web, address: '0.0.0.0:80' }, { name: spare, address: '0.0.0.0:81' }]\n";
    let text = |listener: &str| {
        format!(
            "{UPSTREAM}{SERVICE}{listeners}routes: [{{ name: a, listeners: [{listener}], service: a }}]\n"
        )
    };
    check(&text("web"), &text("spare"), &[]);
    let west = "fleets: [{ name: west, select: { cluster: west } }]\n";
    let scoped = listeners.replace("name: web,", "name: web, fleets: [west],");
    let text = |listener: &str| {
        format!(
            "{west}{UPSTREAM}{SERVICE}{scoped}routes: [{{ name: a, listeners: [{listener}], service: a }}]\n"
        )
    };
    check(&text("spare"), &text("web"), &["US191: the fleet `default` would be left without routes"]);
}

#[test]
fn a_raw_listener_counts_as_a_listener_with_routes() {
    let raw = "raw: { resources: [{ '@type': type.googleapis.com/envoy.config.listener.v3.Listener, name: raw, \
               address: { socket_address: { address: 0.0.0.0, port_value: 81 } } }] }\n";
    check(&format!("{UPSTREAM}{SERVICE}{ROUTE}{LISTENER}"), raw, &[]);
    check(raw, "", &["US191: the fleet `default` would be left without listeners and routes"]);
}

#[test]
fn each_fleet_counts_by_itself_and_a_renamed_one_is_the_same() {
    let text =
        |fleets: &str, routes: &str| format!("{UPSTREAM}{SERVICE}fleets: [{fleets}]\nroutes: [{routes}]\n");
    let (west, east) =
        ("{ name: west, select: { cluster: west } }", "{ name: east, select: { cluster: east } }");
    let route = |fleet: &str| format!("{{ name: {fleet}, fleets: [{fleet}], service: a }}, ");
    let both = text(&format!("{west}, {east}"), &(route("west") + &route("east")));
    let lost = "US191: the fleet `east` would be left without routes";
    check(&both, &text(&format!("{west}, {east}"), &route("west")), &[lost]);
    // The nodes of a fleet that is gone belong to the default one.
    check(&both, &text(west, &route("west")), &[lost]);
    let all = "{ name: all, service: a }, ";
    check(&both, &text(west, all), &[]);
    let renamed = format!("{west}, {}", east.replace("name: east", "name: orient"));
    check(&both, &text(&renamed, &(route("west") + &route("orient"))), &[]);
}

/// Returns a config with so many upstreams of two targets each, which no route uses.
fn upstreams(count: usize) -> String {
    let targets = |n| format!("{{ target: 10.0.0.{n}:80 }}, {{ target: 10.0.1.{n}:80 }}");
    let each: String = (0..count).map(|n| format!("{{ name: u{n}, targets: [{}] }}, ", targets(n))).collect();
    format!("upstreams: [{each}]\n")
}

#[test]
fn a_half_may_go_and_fewer_than_ten() {
    let (upstreams_, targets) = ("US192: 16 of 30 upstreams would go", "US192: 32 of 60 targets would go");
    check(&upstreams(30), &upstreams(14), &[upstreams_, targets]);
    check(&upstreams(30), &upstreams(15), &[]);
    check(&upstreams(4), "", &[]);
    check(&upstreams(9), "", &["US192: 18 of 18 targets would go"]);
    check(&upstreams(5), "", &["US192: 10 of 10 targets would go"]);
    // Renamed ones are gone too.
    let renamed = upstreams(12).replace("name: u", "name: v");
    check(
        &upstreams(12),
        &renamed,
        &["US192: 12 of 12 upstreams would go", "US192: 24 of 24 targets would go"],
    );
}

#[test]
fn targets_without_traffic_are_gone() {
    let text = |fields: &str| {
        let each: String = (0..20).map(|n| format!("{{ target: 10.0.0.{n}:80{fields} }}, ")).collect();
        format!("upstreams: [{{ name: a, targets: [{each} {{ target: 10.0.1.1:80 }}] }}]\n")
    };
    check(&text(""), &text(", weight: 0"), &["US192: 20 of 21 targets would go"]);
    check(&text(""), &text(", weight: 7"), &[]);
}

#[test]
fn routes_count_over_both_kinds() {
    let text = |count: usize| {
        let each: String =
            (0..count).map(|n| format!("{{ name: r{n}, paths: [/{n}], service: a }}, ")).collect();
        format!("{UPSTREAM}{SERVICE}routes: [{each}]\n")
    };
    check(&text(20), &text(9), &["US192: 11 of 20 routes would go"]);
    check(&text(20), &text(10), &[]);
}

#[test]
fn limits_are_percentages_and_words_lift_them() {
    let (before, after) = (upstreams(30) + SERVICE_OF_FIRST + ROUTE, upstreams(3));
    let limits = |max_removal| LossLimits { max_removal, ..LossLimits::default() };
    let codes = |limits| -> Vec<String> {
        texts(&before, &after, limits).iter().map(|text| text[..5].to_owned()).collect()
    };
    let (empty, share) = ("US191", "US192");
    assert_eq!(codes(limits(50)), [empty, share, share]);
    assert_eq!(codes(limits(89)), [empty, share, share]);
    assert_eq!(codes(limits(90)), [empty]);
    assert_eq!(codes(limits(100)), [empty]);
    for (allowed, expected) in [
        (AllowedLosses { empty: true, mass_removal: false }, &[share, share][..]),
        (AllowedLosses { empty: false, mass_removal: true }, &[empty]),
        (AllowedLosses { empty: true, mass_removal: true }, &[]),
    ] {
        assert_eq!(codes(limits(0).lifted(allowed)), expected);
        assert_eq!(codes(LossLimits { max_removal: 0, allowed }), expected);
    }
}

const SERVICE_OF_FIRST: &str = "services: [{ name: a, upstream: u0 }]\n";

#[test]
fn a_refusal_names_the_only_file_that_is_missing_and_what_allows_it() {
    let files = |names: &[(&str, &str)]| -> Files {
        names.iter().map(|(name, text)| ((*name).to_owned(), Arc::from(*text))).collect()
    };
    let whole = format!("{UPSTREAM}{SERVICE}{ROUTE}");
    let (before, after) = (build(&whole), build(""));
    let (a, b) = (("a.yaml", "x"), ("b.yaml", "x"));
    for (old, new, file) in [
        (files(&[a, b]), files(&[a]), Some("b.yaml")),
        (files(&[a, b]), files(&[a, ("b.yaml", " \n")]), Some("b.yaml")),
        (files(&[a, b]), files(&[]), None),
        (files(&[a, b]), files(&[a, b]), None),
        (files(&[("a.yaml", ""), b]), files(&[]), Some("b.yaml")),
    ] {
        let refusals = refusals((&old, &before), (&new, &after), &LossLimits::default());
        let [refusal] = refusals.as_slice() else { panic!("{refusals:?}") };
        assert_eq!((refusal.code, refusal.level, refusal.file.as_deref()), ("US191", Level::Error, file));
        let help = refusal.help.as_deref().unwrap_or_default();
        assert!(help.contains("--allow-empty") && help.contains("?allow=empty"), "{help}");
    }
}

#[test]
fn nothing_in_the_place_of_files_that_cannot_be_built_is_refused() {
    let files = |text: &str| Files::unit("shop.yaml".to_owned(), text.into());
    let broken = files(&format!("{ROUTE}{LISTENER}"));
    let none = Files::default();
    let refused = |old: &Files, after: &str, limits: LossLimits| {
        let after = build(after);
        let violations = refusals_of_nothing(old, (&none, &after), &limits);
        violations.iter().map(|it| it.message.clone()).collect::<Vec<_>>()
    };
    let limits = LossLimits::default();
    let message = "the fleet `default` would be left without listeners and routes";
    assert_eq!(refused(&broken, "", limits), [message]);
    assert!(refused(&broken, LISTENER, limits).is_empty());
    assert!(refused(&files(UPSTREAM), "", limits).is_empty());
    let allowed = AllowedLosses { empty: true, mass_removal: false };
    assert!(refused(&broken, "", limits.lifted(allowed)).is_empty());
}

#[test]
fn a_plan_warns_of_losses() {
    let changes = planned(&build(&upstreams(30)), &build(&upstreams(3)), &LossLimits::default());
    let [upstreams, targets] = changes.as_slice() else { panic!("{changes:?}") };
    assert_eq!((upstreams.kind, upstreams.name.as_str(), targets.kind), ("upstream", "27 of 30", "target"));
    assert_eq!(upstreams.level, Level::Warning);
    let summary = "US192: 27 of 30 upstreams would go; refused without --allow-mass-removal";
    assert_eq!(upstreams.summary, summary);
}
