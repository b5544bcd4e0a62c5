//! Tests of plans between two config texts.

use expect_test::{Expect, expect};

use super::*;
use crate::build::{self, Inputs};

fn build(text: &str) -> Build {
    let files = imbl::OrdMap::unit("shop.yaml".to_owned(), text.into());
    build::build(&Inputs { files, ..Inputs::default() }, None).expect("it builds")
}

/// Asserts a plan as text: each change with its action and level, the summary of all, and the changed
/// resources.
fn check(old: &str, new: &str, expected: Expect) {
    let (old, new) = (build(old), build(new));
    let plan = Plan::new(&file_edits(&old, &new), &old, &new);
    let mut text = String::new();
    for change in &plan.changes {
        text += &format!("{:?} {}: {}\n", change.action, change.level, change.summary);
    }
    text += &format!("= {}\n", summary(&plan.changes));
    for (of, ResourceChanges { added, changed, removed }) in plan.envoy {
        for (what, names) in [("+", added), ("~", changed), ("-", removed)] {
            text += &names.iter().map(|name| format!("{what} {of} {name}\n")).collect::<String>();
        }
    }
    expected.assert_eq(&text);
}

const SHOP: &str = "
upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80, failover: true }] }]
services: [{ name: shop, upstream: shop }]
routes: [{ name: shop, service: shop }]
";

#[test]
fn nothing_changes_nothing() {
    check(
        SHOP,
        &format!("# a comment\n{SHOP}"),
        expect![[r#"
        = 
    "#]],
    );
}

#[test]
fn a_standby_that_goes_is_a_loss() {
    check(
        SHOP,
        &SHOP.replace(", { target: 10.0.0.2:80, failover: true }", ""),
        expect![[r#"
        Update warning: upstream shop loses its only standby (without target 10.0.0.2:80)
        = upstream shop loses its only standby (without target 10.0.0.2:80)
        ~ endpoints shop
        ~ routes default
    "#]],
    );
}

#[test]
fn a_primary_that_goes_leaves_the_standby() {
    check(
        SHOP,
        &SHOP.replace("{ target: 10.0.0.1:80 }, ", ""),
        expect![[r#"
        Update warning: upstream shop loses all of its primaries: its standbys serve (without target 10.0.0.1:80)
        = upstream shop loses all of its primaries: its standbys serve (without target 10.0.0.1:80)
        ~ endpoints shop
        ~ routes default
    "#]],
    );
}

#[test]
fn what_happens_to_several_alike_is_said_once() {
    let text = |service: &str| {
        format!(
            "upstreams: [{{ name: blue, targets: [{{ target: 10.0.0.1:80 }}] }}, {{ name: green, targets: [{{ target: 10.0.0.2:80 }}] }}]
services: [{{ name: blue, upstream: blue, timeout: 3s }}, {{ name: green, upstream: green }}]
routes: [{{ name: a, paths: [/a], service: {service} }}, {{ name: b, paths: [/b], service: {service} }}]
"
        )
    };
    check(
        &text("blue"),
        &text("green").replace("3s", "5s"),
        expect![[r#"
        Update info: route a moves from blue to green
        Update info: route b moves from blue to green
        Update info: service blue changes timeout from 3s to 5s
        = 2 routes move from blue to green: a, b; service blue changes timeout from 3s to 5s
        ~ routes default
    "#]],
    );
}

#[test]
fn an_upstream_whose_detection_goes_is_a_warning() {
    let off =
        SHOP.replace("name: shop, targets", "name: shop, health_check: off, outlier_detection: off, targets");
    check(
        SHOP,
        &off,
        expect![[r#"
        Update warning: upstream shop is no longer health-checked and no longer ejects targets that fail (health_check from its default to off, outlier_detection from its default to off)
        = upstream shop is no longer health-checked and no longer ejects targets that fail (health_check from its default to off, outlier_detection from its default to off)
        ~ clusters shop
    "#]],
    );
}

#[test]
fn new_and_gone() {
    check(
        SHOP,
        "upstreams: [{ name: other, targets: [{ target: 10.0.0.1:80 }] }]",
        expect![[r#"
        Delete info: route shop goes
        Delete info: service shop goes
        Create info: upstream other is new
        Delete info: upstream shop goes
        = route shop goes; service shop goes; upstream other is new; upstream shop goes
        + clusters other
        - clusters shop
        + endpoints other
        - endpoints shop
        ~ routes default
    "#]],
    );
}
