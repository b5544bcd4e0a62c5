//! Tests of parsing and decoding: texts with the expected trees, values and faults.
#![allow(clippy::unwrap_used, reason = "a test says by it what it relies on")]

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Write};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::*;
use crate::config::Position;

/// Time limit for the rejection of inputs that are made to hang a parser: a release build takes a fraction of
/// a second, a debug build on a busy machine may take a few.
const REFUSED: Duration = Duration::from_secs(10);

fn told(faults: &[Fault]) -> String {
    let mut text = String::new();
    for fault in faults {
        let place = |span: Option<Span>| {
            span.map_or_else(String::new, |Span { start, .. }| format!("{}:{} ", start.line, start.column))
        };
        write!(text, "{}{} {}: {}", place(fault.span), fault.code, fault.path, fault.message).unwrap();
        if let Some(help) = &fault.help {
            write!(text, "; {help}").unwrap();
        }
        for (message, span) in &fault.related {
            write!(text, " ({} {message})", place(*span).trim_end()).unwrap();
        }
        text.push('\n');
    }
    text
}

/// Compares the documents, as JSON, and the faults.
fn check(yaml: &str, expected: Expect) {
    let (documents, faults) = super::yaml(yaml);
    let documents: String = documents.iter().map(|document| format!("{}\n", document.to_json())).collect();
    expected.assert_eq(&(documents + &told(&faults)));
}

/// Compares the range and the path of every node.
fn check_places(yaml: &str, expected: Expect) {
    fn show(node: &Node, path: &Path, text: &mut String) {
        let Span { start, end } = node.span.unwrap();
        writeln!(text, "{}:{}-{}:{} {path}", start.line, start.column, end.line, end.column).unwrap();
        match &node.value {
            Value::Sequence(elements) => {
                elements
                    .iter()
                    .enumerate()
                    .for_each(|(index, element)| show(element, &path.index(index), text));
            }
            Value::Mapping(entries) => {
                entries.iter().for_each(|entry| show(&entry.value, &path.key(&entry.key), text))
            }
            _ => {}
        }
    }
    let (documents, faults) = super::yaml(yaml);
    let mut text = told(&faults);
    documents.iter().for_each(|document| show(document, &Path::default(), &mut text));
    expected.assert_eq(&text);
}

/// Compares the decoded value and the faults of a YAML text.
fn check_as<T: serde::de::DeserializeOwned + Debug>(yaml: &str, expected: Expect) {
    let (documents, faults) = super::yaml(yaml);
    assert_eq!(faults, []);
    let (value, faults) = decode::<T>(&documents[0], &Path::default());
    let value = value.map_or_else(|| "none".to_owned(), |value| format!("{value:?}"));
    expected.assert_eq(&format!("{value}\n{}", told(&faults)));
}

#[test]
fn plain_scalars_are_the_core_schema() {
    check(
        "[~, null, NULL, true, False, yes, off, '', nUll]",
        expect![[r#"
        [null,null,null,true,false,"yes","off","","nUll"]
    "#]],
    );
    check(
        "[0, -7, +7, 012, 0x1F, 0o17, 0xg, 0b1, 1_000, 12:30, 9223372036854775807, 9223372036854775808]",
        expect![[r#"
            [0,-7,7,12,31,15,"0xg","0b1","1_000","12:30",9223372036854775807,9223372036854775808]
        "#]],
    );
    check(
        "[1.5, -.5, 1., 1e3, 1.e+3, .inf, e3, 1e, '.', '-', -x, inf, nan, 1.2.3, 10.0.0.1:80, 0xFFFFFFFFFFFFFFFFFF]",
        expect![[r#"
            [1.5,-0.5,1.0,1000.0,1000.0,null,"e3","1e",".","-","-x","inf","nan","1.2.3","10.0.0.1:80",4.722366482869645e+21]
        "#]],
    );
    check(
        "a: \"1\"\nb: 'true'\nc: |\n  1\nd: >-\n  ~\ne:",
        expect![[r#"
        {"a":"1","b":"true","c":"1\n","d":"~","e":null}
    "#]],
    );
}

#[test]
fn core_tags_say_the_type() {
    check(
        "[!!str 1, !!str, ! 2, !!int '3', !!float 4, !!bool 'true', !!null '', !!seq [], !!map {}]",
        expect![[r#"
            ["1","","2",3,4.0,true,null,[],{}]
        "#]],
    );
    check(
        "a: !<tag:yaml.org,2002:str> 5",
        expect![[r#"
        {"a":"5"}
    "#]],
    );
    check(
        "a: !!int x\nb: !secret y\nc: !!set {}\nd: !!str []\ne: !<x:y> z\n!k f: 1\n!!str g: 1\n!!seq h: 1",
        expect![[r#"
            {"a":"x","b":"y","c":{},"d":[],"e":"z","f":1,"g":1,"h":1}
            1:4 US103 a: `x` is not what `!!int` says
            2:4 US103 b: the tag `!secret` means nothing here; leave it out
            3:4 US103 c: the tag `!!set` means nothing here; leave it out
            4:4 US103 d: the tag `!!str` means nothing here; leave it out
            5:4 US103 e: the tag `!<x:y>` means nothing here; leave it out
            6:1 US103 : the tag `!k` means nothing here; leave it out
            8:1 US103 : `h` is not what `!!seq` says
        "#]],
    );
}

#[test]
fn each_document_is_a_tree_and_empty_ones_are_none() {
    check(
        "a: 1\n---\n---\nb: 2\n...\n# nothing\n---\n~\n--- 3",
        expect![[r#"
        {"a":1}
        {"b":2}
        3
    "#]],
    );
    check("", expect![[""]]);
    check("# a comment", expect![[""]]);
    check(
        "\u{feff}a: 1",
        expect![[r#"
        {"a":1}
    "#]],
    );
}

#[test]
fn what_cannot_be_read_ends_the_reading_there() {
    check(
        "a: 1\n---\nb: 2\n---\nc: d: e\n---\nf: 6",
        expect![[r#"
        {"a":1}
        {"b":2}
        5:5 US100 : a `:` cannot stand here; quote the text if the `:` belongs to it; a mapping inside another starts on a line of its own
    "#]],
    );
    check(
        "a:\n\tb: 1",
        expect![[r#"
            2:1 US100 : a tab cannot stand here; indent with spaces
        "#]],
    );
    check(
        "a:\n  - b: 1\n    c:\n    \t- 2",
        expect![[r#"
            4:5 US100 : a tab cannot stand here; indent with spaces
        "#]],
    );
    check(
        "a: 1\nb: \"c\0d\"",
        expect![[r#"
            2:6 US100 : a NUL character cannot stand in YAML
        "#]],
    );
    check(
        "a: [1, 2\nb: 3",
        expect![[r#"
            2:2 US100 : a `:` cannot stand here; quote the text if the `:` belongs to it; a mapping inside another starts on a line of its own (1:4 opened here)
        "#]],
    );
    check(
        "a: [1, 2",
        expect![[r#"
        2:1 US100 : expected `,` or `]` (1:4 opened here)
    "#]],
    );
    check(
        "a: {b: 1",
        expect![[r#"
        2:1 US100 : expected `,` or `}` (1:4 opened here)
    "#]],
    );
    check(
        "a: [",
        expect![[r#"
            2:1 US100 : expected a value (1:4 opened here)
        "#]],
    );
    check(
        "a: \"b",
        expect![[r#"
        1:4 US100 : this quote is never closed
    "#]],
    );
    check(
        "a: @b",
        expect![[r#"
        1:4 US100 : a value cannot start with `@`; quote it
    "#]],
    );
    check(
        "é: ü\nb: c\n  d: e",
        expect![[r#"
        3:4 US100 : a `:` cannot stand here; quote the text if the `:` belongs to it; a mapping inside another starts on a line of its own
    "#]],
    );
    check(
        "a: 1\nb\nc: 2",
        expect![[r#"
        3:1 US100 : expected a `:` after the key
    "#]],
    );
    check(
        "- a\nb: 1",
        expect![[r#"
        2:1 US100 : expected a `-`, indented like the ones before it
    "#]],
    );
    check(
        "a:\n  - b\n c: 1",
        expect![[r#"
        3:2 US100 : expected a key, indented like the ones before it
    "#]],
    );
    check(
        "a: !foo!bar b",
        expect![[r#"
        1:4 US100 : this is not YAML: the handle wasn't declared
    "#]],
    );
    check(
        "a: 1\0",
        expect![[r#"
        1:5 US100 : a NUL character cannot stand in YAML
    "#]],
    );
    check(
        "[a]\nb",
        expect![[r#"
        ["a"]
        2:1 US100 : the document was over before this; another one starts with `---`
    "#]],
    );
}

#[test]
fn places_are_lines_and_columns_in_characters() {
    check_places(
        "é: { ü: 1, b: [x, y] }\nc:\n  d: text # and more\n  e:\n    - 1\n    - two\n\n# last\nf:\n",
        expect![[r#"
            1:1-9:2 
            1:4-1:23 é
            1:9-1:10 é.ü
            1:15-1:22 é.b
            1:16-1:17 é.b[0]
            1:19-1:20 é.b[1]
            3:3-6:10 c
            3:6-3:10 c.d
            5:5-6:10 c.e
            5:7-5:8 c.e[0]
            6:7-6:10 c.e[1]
            9:2-9:2 f
        "#]],
    );
    check_places(
        "- |\n  a\n  b\n- 'q'\n- &x 1\n- *x\n",
        expect![[r#"
        1:1-6:5 
        2:3-4:1 [0]
        4:3-4:6 [1]
        5:3-5:7 [2]
        6:3-6:5 [3]
    "#]],
    );
}

#[test]
fn the_second_of_two_keys_is_the_fault() {
    check(
        "a: 1\nb: {c: 1, c: 2, c: 3}\na: 2",
        expect![[r#"
        {"a":1,"b":{"c":1}}
        2:11 US104 b.c: the key `c` is here twice (2:5 first here)
        2:17 US104 b.c: the key `c` is here twice (2:5 first here)
        3:1 US104 a: the key `a` is here twice (1:1 first here)
    "#]],
    );
    let many: String = (0..40).map(|number| format!("k{}: 1\n", number % 39)).collect();
    let (documents, faults) = super::yaml(&many);
    assert_eq!(documents[0].to_json().as_object().unwrap().len(), 39);
    expect![[r#"
        40:1 US104 k0: the key `k0` is here twice (1:1 first here)
    "#]]
    .assert_eq(&told(&faults));
}

#[test]
fn keys_are_their_text() {
    check(
        "8080: a\ntrue: b\n~: c\n0x10: d\n'e': 1\n? f\n: 2\n",
        expect![[r#"
        {"0x10":"d","8080":"a","e":1,"f":2,"true":"b","~":"c"}
    "#]],
    );
    check(
        "a: &k key\n*k : 1\nb: &n 7\n*n : 2\n&l last: 3\nc: *l",
        expect![[r#"
        {"7":2,"a":"key","b":7,"c":"last","key":1,"last":3}
    "#]],
    );
    check(
        "[a]: 1\n? {b: 2}\n: 3\nc: 4",
        expect![[r#"
        {"c":4}
        1:1 US102 : expected a plain key, found a list
        2:3 US102 : expected a plain key, found a mapping
    "#]],
    );
}

#[test]
fn aliases_are_copies() {
    check(
        "a: &x {b: [1, 2]}\nc: *x\nd: [*x, *x]",
        expect![[r#"
        {"a":{"b":[1,2]},"c":{"b":[1,2]},"d":[{"b":[1,2]},{"b":[1,2]}]}
    "#]],
    );
    check(
        "a: &x 1\nb: &x 2\nc: *x",
        expect![[r#"
        {"a":1,"b":2,"c":2}
    "#]],
    );
    check(
        "a: *x",
        expect![[r#"
        1:4 US100 : there is no anchor of this name before this place
    "#]],
    );
    check(
        "a: &x 1\n---\na: *x",
        expect![[r#"
        {"a":1}
        3:4 US100 : there is no anchor of this name before this place
    "#]],
    );
    check(
        "a: &x [*x]",
        expect![[r#"
        1:8 US100 : this alias stands inside what it names
    "#]],
    );
}

#[test]
fn own_keys_win_over_merged_ones() {
    check(
        "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {y: 4, <<: *a}",
        expect![[r#"
        {"a":{"x":1,"y":2},"b":{"x":1,"y":3},"c":{"x":1,"y":4}}
    "#]],
    );
    check(
        "a: &a {x: 1}\nb: &b {x: 2, y: 2}\nc: {<<: [*a, *b, {z: 3}]}\nd: &d {<<: *b}\ne: {<<: *d}",
        expect![[r#"
            {"a":{"x":1},"b":{"x":2,"y":2},"c":{"x":1,"y":2,"z":3},"d":{"x":2,"y":2},"e":{"x":2,"y":2}}
        "#]],
    );
    check(
        "a: &a {x: 1}\nb: {<<: *a, <<: *a}\nc: {<<: 1}\nd: {<<: [*a, 2]}\ne: {'<<': 3}",
        expect![[r#"
        {"a":{"x":1},"b":{"x":1},"c":{},"d":{"x":1},"e":{"<<":3}}
        2:13 US104 b: the key `<<` is here twice; merge several: `<<: [*a, *b]` (2:5 first here)
        3:9 US102 c.<<: expected a mapping to merge, found the integer 1
        4:14 US102 d.<<: expected a mapping to merge, found the integer 2
    "#]],
    );
}

#[test]
fn an_alias_bomb_is_refused_at_once() {
    let mut bomb = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for level in 1..10 {
        let below = format!("*a{}", level - 1);
        writeln!(bomb, "a{level}: &a{level} [{}]", [below.as_str(); 9].join(", ")).unwrap();
    }
    let start = Instant::now();
    check(
        &bomb,
        expect![[r#"
            7:10 US106 : the aliases of this file make it too large
        "#]],
    );
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1_000_000), vec!["*a"; 1_000].join(", "));
    check(
        &long,
        expect![[r#"
            2:129 US106 : the aliases of this file make it too large
        "#]],
    );
    let merges: String = (1..40)
        .map(|level| format!("a{level}: &a{level} {{<<: [*a{0}, *a{0}], k{level}: 1}}\n", level - 1))
        .collect();
    let (documents, faults) = super::yaml(&format!("a0: &a0 {{k0: 1}}\n{merges}"));
    assert_eq!((documents.len(), faults.len()), (1, 0));
    assert!(start.elapsed() < REFUSED, "{:?}", start.elapsed());
}

#[test]
fn deep_nesting_is_refused_at_once() {
    let start = Instant::now();
    check(
        &"[".repeat(100_000),
        expect![[r#"
        1:256 US106 : this nests too deep
    "#]],
    );
    check(
        &"[\n".repeat(100_000),
        expect![[r#"
        256:1 US106 : this nests too deep
    "#]],
    );
    check(
        &"- ".repeat(100_000),
        expect![[r#"
            1:257 US106 : this nests deeper than 128 levels
        "#]],
    );
    check(
        &"{a: ".repeat(100_000),
        expect![[r#"
        1:1021 US106 : this nests too deep
    "#]],
    );
    check(
        &(0..2_000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect::<String>(),
        expect![[r#"
            129:129 US106 : this nests deeper than 128 levels
        "#]],
    );
    let chain: String = (1..4)
        .map(|level| format!("a{level}: &a{level} {}*a{}{}\n", "[".repeat(60), level - 1, "]".repeat(60)))
        .collect();
    check(
        &format!("a0: &a0 1\n{chain}"),
        expect![[r#"
            4:69 US106 : this nests deeper than 128 levels
        "#]],
    );
    assert!(start.elapsed() < REFUSED, "{:?}", start.elapsed());
    let (documents, faults) = super::yaml(&format!("{}{}", "[".repeat(128), "]".repeat(128)));
    assert_eq!((documents.len(), faults.len()), (1, 0));
}

#[test]
fn a_body_is_strict_json() {
    fn check(body: &str, expected: Expect) {
        expected.assert_eq(&match super::json(body.as_bytes()) {
            Ok((node, faults)) => format!("{}\n{}", node.to_json(), told(&faults)),
            Err(fault) => told(&[fault]),
        });
    }
    check(
        r#"{"a": [1, -1, 1.5, "b", null, true, {}]}"#,
        expect![[r#"
        {"a":[1,-1,1.5,"b",null,true,{}]}
    "#]],
    );
    check(
        r#"{"a": {"b": [{"c": 1, "c": 2}]}, "a": 1}"#,
        expect![[r#"
        {"a":{"b":[{"c":1}]}}
        US104 a.b[0].c: the key `c` is here twice
        US104 a: the key `a` is here twice
    "#]],
    );
    check(
        "",
        expect![[r#"
        1:1 US100 : the body is empty; send a JSON document
    "#]],
    );
    check(
        "{\"a\":\n  1,}",
        expect![[r#"
        2:5 US100 : this is not JSON: trailing comma
    "#]],
    );
    check(
        "{} {}",
        expect![[r#"
        1:4 US100 : this is not JSON: trailing characters
    "#]],
    );
    check(
        "{'a': 1}",
        expect![[r#"
        1:2 US100 : this is not JSON: key must be a string
    "#]],
    );
    check(
        "18446744073709551615",
        expect![[r#"
            18446744073709551615
        "#]],
    );
    check(
        &"[".repeat(100_000),
        expect![[r#"
        1:128 US106 : this nests too deep
    "#]],
    );
    assert_eq!(super::json(b"\"\xff\"").unwrap_err().code, crate::config::code::SYNTAX);
}

#[test]
fn a_path_leads_to_the_deepest_node_there_is() {
    let (documents, _) = super::yaml("a:\n  - b: 1\n");
    let path = Path::default().key("a").index(0);
    let start = |path: &Path| documents[0].span_of(path).unwrap().start;
    assert_eq!(documents[0].get(&path.key("b")).unwrap().value, Value::Integer(1));
    assert_eq!(documents[0].get(&path.key("c")), None);
    assert_eq!(start(&path.key("b")), Position { line: 2, column: 8 });
    assert_eq!(start(&path.key("c").key("d")), Position { line: 2, column: 5 });
    assert_eq!(start(&Path::default().index(3)), Position { line: 1, column: 1 });
}

/// Struct with a field of every usual type.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Upstream {
    name: String,
    port: u16,
    weight: Option<NonZeroU32>,
    ratio: f64,
    enabled: bool,
    tls: Option<Tls>,
    tags: Vec<String>,
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            name: String::new(),
            port: 80,
            weight: NonZeroU32::new(5),
            ratio: 0.5,
            enabled: true,
            tls: None,
            tags: Vec::new(),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Tls {
    sni: Option<String>,
    insecure: bool,
}

#[test]
fn right_values_are_taken() {
    check_as::<Upstream>(
        "{name: a, port: 8080, weight: 1, ratio: 2, enabled: false, tls: {}, tags: [x, y]}",
        expect![[r#"
            Upstream { name: "a", port: 8080, weight: Some(1), ratio: 2.0, enabled: false, tls: Some(Tls { sni: None, insecure: false }), tags: ["x", "y"] }
        "#]],
    );
    check_as::<Upstream>(
        "{}",
        expect![[r#"
        Upstream { name: "", port: 80, weight: Some(5), ratio: 0.5, enabled: true, tls: None, tags: [] }
    "#]],
    );
}

#[test]
fn null_is_none_or_absent() {
    check_as::<Upstream>(
        "{name: null, port: ~, weight: null, tls: null, tags:, enabled: null}",
        expect![[r#"
        Upstream { name: "", port: 80, weight: None, ratio: 0.5, enabled: true, tls: None, tags: [] }
    "#]],
    );
    check_as::<Upstream>(
        "{tls: {sni: ~, insecure: ~}}",
        expect![[r#"
        Upstream { name: "", port: 80, weight: Some(5), ratio: 0.5, enabled: true, tls: Some(Tls { sni: None, insecure: false }), tags: [] }
    "#]],
    );
    check_as::<Vec<u8>>(
        "[1, ~, 2]",
        expect![[r#"
            [1, 2]
            1:5 US102 [1]: expected a whole number from 0 to 255, found null; write a whole number from 0 to 255
        "#]],
    );
    check_as::<BTreeMap<String, Option<u8>>>(
        "{a: 1, b: ~}",
        expect![[r#"
        {"a": Some(1), "b": None}
    "#]],
    );
    check_as::<BTreeMap<String, u8>>(
        "{a: 1, b: ~}",
        expect![[r#"
            {"a": 1}
            1:11 US102 b: expected a whole number from 0 to 255, found null; write a whole number from 0 to 255
        "#]],
    );
}

#[test]
fn every_fault_is_told_and_the_rest_survives() {
    check_as::<Upstream>(
        "nam: x\nname: a\nport: 70000\nweight: 0\nratio: '1'\nenabled: 'true'\ntls:\n  insecure: 1\n  sni: b\n  insecur: true\ntags: [a, 1, b, [c], true, 1.5, {}]",
        expect![[r#"
            Upstream { name: "a", port: 80, weight: Some(5), ratio: 0.5, enabled: true, tls: Some(Tls { sni: Some("b"), insecure: false }), tags: ["a", "b"] }
            1:1 US101 nam: unknown field `nam`; did you mean `name`?
            3:7 US103 port: expected a whole number from 0 to 65535, found the integer 70000; write a whole number from 0 to 65535
            4:9 US103 weight: expected a whole number from 1 to 4294967295, found the integer 0; write a whole number from 1 to 4294967295
            5:8 US102 ratio: expected a number, found the string `1`; leave out the quotes: 1
            6:10 US102 enabled: expected true or false, found the string `true`; leave out the quotes: true
            8:13 US102 tls.insecure: expected true or false, found the integer 1; write true or false
            10:3 US101 tls.insecur: unknown field `insecur`; did you mean `insecure`?
            11:11 US102 tags[1]: expected a string, found the integer 1; quote it: "1"
            11:17 US102 tags[3]: expected a string, found a list; write a string
            11:22 US102 tags[4]: expected a string, found `true`; quote it: "true"
            11:28 US102 tags[5]: expected a string, found the number 1.5; quote it
            11:33 US102 tags[6]: expected a string, found a mapping; write a string
        "#]],
    );
    check_as::<Upstream>(
        "port: a\nname: [1]\ntls: [x]\ntags: {}\nenabled: yes\nratio: x\nweight: -1",
        expect![[r#"
            Upstream { name: "", port: 80, weight: Some(5), ratio: 0.5, enabled: true, tls: None, tags: [] }
            1:7 US102 port: expected a whole number from 0 to 65535, found the string `a`; write a whole number from 0 to 65535
            2:7 US102 name: expected a string, found a list; write a string
            3:6 US102 tls: expected a mapping, found a list; write it as `key: value`, a line for each or in braces
            4:7 US102 tags: expected a list, found a mapping; write each item after a `-` on a line of its own, or all in brackets
            5:10 US102 enabled: expected true or false, found the string `yes`; write true or false
            6:8 US102 ratio: expected a number, found the string `x`; write a number
            7:9 US103 weight: expected a whole number from 1 to 4294967295, found the integer -1; write a whole number from 1 to 4294967295
        "#]],
    );
    check_as::<Upstream>(
        "port: 1.5\ncolour: red\nport2: 2",
        expect![[r#"
            Upstream { name: "", port: 80, weight: Some(5), ratio: 0.5, enabled: true, tls: None, tags: [] }
            1:7 US102 port: expected a whole number from 0 to 65535, found the number 1.5; write a whole number from 0 to 65535
            2:1 US101 colour: unknown field `colour`; expected one of: `name`, `port`, `weight`, `ratio`, `enabled`, `tls`, `tags`
            3:1 US101 port2: unknown field `port2`; did you mean `port`?
        "#]],
    );
    check_as::<BTreeMap<String, Upstream>>(
        "a: {port: x}\nb: 1\nc: {name: c}",
        expect![[r#"
            {"a": Upstream { name: "", port: 80, weight: Some(5), ratio: 0.5, enabled: true, tls: None, tags: [] }, "c": Upstream { name: "c", port: 80, weight: Some(5), ratio: 0.5, enabled: true, tls: None, tags: [] }}
            1:11 US102 a.port: expected a whole number from 0 to 65535, found the string `x`; write a whole number from 0 to 65535
            2:4 US102 b: expected a mapping, found the integer 1; write it as `key: value`, a line for each or in braces
        "#]],
    );
    check_as::<Upstream>(
        "[1]",
        expect![[r#"
            none
            1:1 US102 : expected a mapping, found a list; write it as `key: value`, a line for each or in braces
        "#]],
    );
    check_as::<u8>(
        "300",
        expect![[r#"
            none
            1:1 US103 : expected a whole number from 0 to 255, found the integer 300; write a whole number from 0 to 255
        "#]],
    );
}

#[test]
fn faults_of_a_body_have_a_path_only() {
    let (node, _) = super::json(br#"{"port": "x", "tags": [1]}"#).unwrap();
    let (_, faults) = decode::<Upstream>(&node, &Path::default().key("upstreams").index(2));
    expect![[r#"
        US102 upstreams[2].port: expected a whole number from 0 to 65535, found the string `x`; write a whole number from 0 to 65535
        US102 upstreams[2].tags[0]: expected a string, found the integer 1; quote it: "1"
    "#]]
    .assert_eq(&told(&faults));
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    #[serde(rename = "target")]
    _target: String,
    #[serde(rename = "weight")]
    _weight: Option<u32>,
}

#[test]
fn a_missing_field_is_told_unless_something_else_tells_it() {
    check_as::<Vec<Target>>(
        "- weight: 1\n- target: a\n- target: ~\n- target: 1\n- targt: b\n- {weight: x}\n- {}",
        expect![[r#"
            [Target { _target: "a", _weight: None }]
            1:3 US105 [0]: `target` is missing; add `target`
            3:3 US105 [2]: `target` is missing; add `target`
            4:11 US102 [3].target: expected a string, found the integer 1; quote it: "1"
            5:3 US101 [4].targt: unknown field `targt`; did you mean `target`?
            6:3 US105 [5]: `target` is missing; add `target`
            6:12 US102 [5].weight: expected a whole number from 0 to 4294967295, found the string `x`; write a whole number from 0 to 4294967295
            7:3 US105 [6]: `target` is missing; add `target`
        "#]],
    );
    check_as::<Target>(
        "weight: 1",
        expect![[r#"
            none
            1:1 US105 : `target` is missing; add `target`
        "#]],
    );
}

#[expect(dead_code, reason = "read by Debug alone")]
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Hash {
    Path,
    SourceIp,
    #[serde(rename = "header")]
    Header(String),
    Cookie {
        name: String,
        #[serde(default)]
        ttl: u32,
    },
    Tls(Tls),
}

#[test]
fn an_enum_is_a_word_or_a_mapping_of_one_key() {
    check_as::<Vec<Hash>>(
        "[path, source_ip, {header: x}, {cookie: {name: a, ttl: 5}}, {tls: {}}, {path: ~}]",
        expect![[r#"
            [Path, SourceIp, Header("x"), Cookie { name: "a", ttl: 5 }, Tls(Tls { sni: None, insecure: false }), Path]
        "#]],
    );
    check_as::<Vec<Hash>>(
        "[pth, zzz, {heade: x}, {header: 1}, header, {path: 1}, 7, {}, {header: a, cookie: b}, [path]]",
        expect![[r#"
            []
            1:2 US103 [0]: unknown value `pth`; did you mean `path`?
            1:7 US103 [1]: unknown value `zzz`; expected one of: `path`, `source_ip`, `header`, `cookie`, `tls`
            1:13 US103 [2].heade: unknown value `heade`; did you mean `header`?
            1:33 US102 [3].header: expected a string, found the integer 1; quote it: "1"
            1:37 US102 [4]: `header` takes a value; write it as `header: …`
            1:52 US102 [5].path: `path` takes no value; write `path` alone
            1:56 US102 [6]: expected a word or a mapping of one key, found the integer 7; expected one of: `path`, `source_ip`, `header`, `cookie`, `tls`
            1:59 US102 [7]: expected a word or a mapping of one key, found a mapping of 0 keys; expected one of: `path`, `source_ip`, `header`, `cookie`, `tls`
            1:63 US102 [8]: expected a word or a mapping of one key, found a mapping of 2 keys; expected one of: `path`, `source_ip`, `header`, `cookie`, `tls`
            1:87 US102 [9]: expected a word or a mapping of one key, found a list; expected one of: `path`, `source_ip`, `header`, `cookie`, `tls`
        "#]],
    );
    check_as::<Vec<Hash>>(
        "- cookie: {nam: a}\n- cookie: {ttl: 1}\n- cookie: {name: a, ttl: x}\n- tls: {inscure: 1}\n- tls: ~\n- cookie: [a]",
        expect![[r#"
            [Cookie { name: "a", ttl: 0 }, Tls(Tls { sni: None, insecure: false })]
            1:11 US105 [0].cookie: `name` is missing; add `name`
            2:11 US105 [1].cookie: `name` is missing; add `name`
            3:26 US102 [2].cookie.ttl: expected a whole number from 0 to 4294967295, found the string `x`; write a whole number from 0 to 4294967295
            4:9 US101 [3].tls.inscure: unknown field `inscure`; did you mean `insecure`?
            5:8 US102 [4].tls: expected a mapping, found null; write it as `key: value`, a line for each or in braces
            6:11 US102 [5].cookie: expected a mapping, found a list; write it as `key: value`, a line for each or in braces
        "#]],
    );
    check_as::<BTreeMap<OneWord, Hash>>(
        "{a: path, '?': path}",
        expect![[r#"
        {OneWord("a"): Path}
        1:11 US103 ?: `?` is not a word; letters only
    "#]],
    );
}

/// Newtype like those of the config, which decodes from a string.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct OneWord(String);

impl<'de> Deserialize<'de> for OneWord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.chars().all(char::is_alphabetic) {
            return Ok(Self(text));
        }
        Err(D::Error::custom(format!("`{text}` is not a word\nletters only")))
    }
}

/// Switch or settings, decoded by a hand-written visitor.
#[expect(dead_code, reason = "read by Debug alone")]
#[derive(Debug)]
enum Setting {
    Switch(bool),
    Number(i64),
    Settings(Tls),
}

struct SettingVisitor;

impl<'de> Visitor<'de> for SettingVisitor {
    type Value = Setting;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("on, off, or a mapping")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Setting, E> {
        Ok(Setting::Switch(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Setting, E> {
        Ok(Setting::Number(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Setting, E> {
        i64::try_from(value).map(Setting::Number).map_err(E::custom)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Setting, E> {
        match text {
            "off" => Ok(Setting::Switch(false)),
            _ => Err(E::custom(format!("`{text}` is neither on nor off"))),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<Setting, A::Error> {
        Tls::deserialize(MapAccessDeserializer::new(access)).map(Setting::Settings)
    }
}

impl<'de> Deserialize<'de> for Setting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SettingVisitor)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    #[serde(rename = "word")]
    _word: Option<OneWord>,
    #[serde(rename = "setting")]
    _setting: Option<Setting>,
    #[serde(rename = "raw")]
    _raw: serde_json::Value,
    #[serde(rename = "also", alias = "too")]
    _also: u8,
    #[serde(rename = "pair")]
    _pair: Option<(u8, u8)>,
}

#[test]
fn hand_written_types_have_their_say() {
    check_as::<Settings>(
        "{word: abc, setting: {sni: x, insecure: ~}, raw: {a: [1, ~, -1.5, {}]}, pair: [1, 2]}",
        expect![[r#"
            Settings { _word: Some(OneWord("abc")), _setting: Some(Settings(Tls { sni: Some("x"), insecure: false })), _raw: Object {"a": Array [Number(1), Null, Number(-1.5), Object {}]}, _also: 0, _pair: Some((1, 2)) }
        "#]],
    );
    check_as::<Vec<Setting>>(
        "[true, off, 7, -7, {}]",
        expect![[r#"
        [Switch(true), Switch(false), Number(7), Number(-7), Settings(Tls { sni: None, insecure: false })]
    "#]],
    );
    check_as::<Settings>(
        "word: a1\nsetting: maybe\nraw: ~",
        expect![[r#"
        Settings { _word: None, _setting: None, _raw: Null, _also: 0, _pair: None }
        1:7 US103 word: `a1` is not a word; letters only
        2:10 US103 setting: `maybe` is neither on nor off
    "#]],
    );
    check_as::<Settings>(
        "setting:\n  sni: 5\n  isecure: true\n  insecure: maybe",
        expect![[r#"
            Settings { _word: None, _setting: Some(Settings(Tls { sni: None, insecure: false })), _raw: Null, _also: 0, _pair: None }
            2:8 US102 setting.sni: expected a string, found the integer 5; quote it: "5"
            3:3 US101 setting.isecure: unknown field `isecure`; did you mean `insecure`?
            4:13 US102 setting.insecure: expected true or false, found the string `maybe`; write true or false
        "#]],
    );
    check_as::<Vec<Setting>>(
        "[1.5, ~, []]",
        expect![[r#"
            []
            1:2 US102 [0]: expected on, off, or a mapping, found the number 1.5; write on, off, or a mapping
            1:7 US102 [1]: expected on, off, or a mapping, found null; write on, off, or a mapping
            1:10 US102 [2]: expected on, off, or a mapping, found a list; write on, off, or a mapping
        "#]],
    );
    check_as::<Settings>(
        "{also: 1, too: 2}",
        expect![[r#"
            none
            1:1 US104 : `also` is here twice, by two of its names; leave one of them
        "#]],
    );
    check_as::<Settings>(
        "{pair: [1]}",
        expect![[r#"
        Settings { _word: None, _setting: None, _raw: Null, _also: 0, _pair: None }
        1:8 US103 pair: expected a tuple of size 2, found 1
    "#]],
    );
    check_as::<Settings>(
        "{pair: [1, x]}",
        expect![[r#"
            Settings { _word: None, _setting: None, _raw: Null, _also: 0, _pair: None }
            1:12 US102 pair[1]: expected a whole number from 0 to 255, found the string `x`; write a whole number from 0 to 255
        "#]],
    );
}

#[test]
fn a_hundred_faults_are_enough() {
    let text: String = (0..150).map(|number| format!("- {{port: x{number}}}\n")).collect();
    let (documents, _) = super::yaml(&text);
    let (value, faults) = decode::<Vec<Upstream>>(&documents[0], &Path::default());
    assert!(value.is_none());
    assert_eq!(faults.len(), 101);
    expect![[r#"
        99:10 US102 [98].port: expected a whole number from 0 to 65535, found the string `x98`; write a whole number from 0 to 65535
        100:10 US102 [99].port: expected a whole number from 0 to 65535, found the string `x99`; write a whole number from 0 to 65535
        1:1 US106 : and more; mend these first
    "#]]
    .assert_eq(&told(&faults[98..]));
}

#[test]
fn a_long_list_with_faults_is_decoded_as_a_whole_in_the_end() {
    let text: String = (0..5_000)
        .map(|number| {
            format!("- {{name: u{number}, port: {}, tags: }}\n", if number % 100 == 7 { "x" } else { "1" })
        })
        .collect();
    let (documents, _) = super::yaml(&text);
    let start = Instant::now();
    let (value, faults) = decode::<Vec<Upstream>>(&documents[0], &Path::default());
    assert!(start.elapsed() < REFUSED, "{:?}", start.elapsed());
    let value = value.unwrap();
    assert_eq!((value.len(), faults.len()), (5_000, 50));
    assert_eq!((value[6].port, value[7].port, value[7].name.as_str()), (1, 80, "u7"));
}

/// Strategy for JSON of every shape, with text that YAML reads the same way: printable characters of the
/// basic plane, and short keys.
fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let text = "[ -~\u{a0}-\u{d7ff}\u{e000}-\u{fdff}]{0,20}";
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        any::<f64>().prop_map(serde_json::Value::from),
        text.prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(5, 60, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(serde_json::Value::from),
            prop::collection::btree_map(text, inner, 0..6)
                .prop_map(|members| members.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

fn without_places(mut node: Node) -> Node {
    node.span = None;
    match &mut node.value {
        Value::Sequence(elements) => {
            *elements = std::mem::take(elements).into_iter().map(without_places).collect();
        }
        Value::Mapping(entries) => {
            for entry in entries {
                entry.key_span = None;
                entry.value = without_places(Node {
                    span: None,
                    value: std::mem::replace(&mut entry.value.value, Value::Null),
                });
            }
        }
        _ => {}
    }
    node
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC*", pieces in "([ \n\t:,#&*!|>%@'\"?{}\\[\\]-]|<<: |a|1|- |\\*a|&a |---\n){0,40}") {
        super::yaml(&text);
        super::yaml(&pieces);
    }

    #[test]
    fn json_is_yaml(value in any_json(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
        let (mut documents, faults) = super::yaml(&text.unwrap());
        prop_assert_eq!(faults, []);
        match documents.pop() {
            Some(document) => prop_assert_eq!(without_places(document), Node::from_json(&value)),
            None => prop_assert!(value.is_null()),
        }
    }
}

#[test]
fn tools_in_go_read_plain_scalars_otherwise() {
    use crate::config::tree::{Schema, yaml_by};
    for (text, value) in [
        ("yes", Value::Bool(true)),
        ("On", Value::Bool(true)),
        ("n", Value::Bool(false)),
        ("\"yes\"", Value::String("yes".to_owned())),
        ("010", Value::Integer(8)),
        ("0o10", Value::Integer(8)),
        ("0x10", Value::Integer(16)),
        ("0b11", Value::Integer(3)),
        ("8_0", Value::Integer(80)),
        ("80.0", Value::Integer(80)),
        ("1e2", Value::Integer(100)),
        ("-010", Value::Integer(-8)),
        ("0.5", Value::Float(0.5)),
        ("-0.5", Value::Float(-0.5)),
        ("0", Value::Integer(0)),
        ("10.0.0.1", Value::String("10.0.0.1".to_owned())),
        ("1h", Value::String("1h".to_owned())),
        ("2020-01-01", Value::String("2020-01-01".to_owned())),
        ("~", Value::Null),
    ] {
        let (documents, faults) = yaml_by(&format!("a: {text}"), Schema::Go);
        assert_eq!(faults, []);
        let found = documents[0].get(&Path::default().key("a")).map(|node| &node.value);
        assert_eq!(found, Some(&value), "{text}");
    }
}
