//! Tests of the parser of sources, on small inputs.

use crate::circles;
use crate::source::{Source, blanked};

#[test]
fn comments_and_literals_are_blank() {
    let text = "let a = \"fn {\"; // }\nlet b = r#\"\"{\"#; let c: &'a str = '{'; let d = '\\''; /* { */";
    let code = blanked(text);
    assert_eq!(code.len(), text.len());
    assert!(!code.contains(['{', '}', '"', '#']), "{code}");
    assert!(code.contains("&'a str") && code.contains("let d ="), "{code}");
}

#[test]
fn functions_and_impls_have_their_lines_and_methods() {
    let text = r#"impl<F: Fn() -> u8> Trait<'_> for a::Thing<F>
where
    F: X,
{
    pub(crate) async fn one(&self, f: [u8; 2]) -> u8 {
        inner(|| { 1 })
    }
    fn two();
}

impl Thing<u8> {
    const fn three() {}
}

#[cfg(test)]
mod tests {
    fn four() {}
}
"#;
    let source = Source::new("a", text);
    let functions: Vec<_> =
        source.functions().into_iter().map(|it| (it.name, it.first_line, it.lines)).collect();
    assert_eq!(functions, [("one".to_owned(), 5, 3), ("three".to_owned(), 12, 1)]);
    let impls: Vec<_> = source.impls().into_iter().map(|it| (it.name, it.first_line, it.functions)).collect();
    assert_eq!(impls, [("Thing".to_owned(), 1, 2), ("Thing".to_owned(), 11, 1)]);
}

#[test]
fn type_names_are_those_of_items() {
    let text = r#"pub(crate) struct One;
enum Two {}
type Three = u8;
impl X for One {
    type Output = u8;
}
mod tests {
    struct Four;
}
"#;
    let source = Source::new("a", text);
    assert_eq!(source.types(), [(1, "One"), (2, "Two"), (3, "Three"), (8, "Four")]);
}

#[test]
fn paths_are_resolved_and_lists_expanded() {
    let text = r#"use crate::a::b::{self, C, d::E};
use super::f::G;
use othercrate::x;
fn h(i: super::super::J) {}
"#;
    let paths: Vec<_> =
        Source::new("m/n/o", text).paths().into_iter().map(|(_, path)| path.join("::")).collect();
    assert_eq!(paths, ["a::b::self", "a::b::C", "a::b::d::E", "m::n::f::G", "m::J"]);
}

#[test]
fn units_that_use_each_other_are_a_circle_and_calls_from_above_are_none() {
    let count = |files: &[(&str, &str)]| {
        let sources: Vec<Source> = files.iter().map(|(module, text)| Source::new(module, text)).collect();
        circles::faults(&sources).len()
    };
    let called = ("m", "use crate::m::a::run;\npub struct Shared;\n");
    let imported = ("m", "use crate::m::a::One;\npub struct Shared;\n");
    let child = ("m/a", "use crate::m::Shared;\npub struct One;\n");
    assert_eq!(count(&[called, child]), 0);
    assert_eq!(count(&[imported, child]), 1);
    let (a, b) = (("m/a", "use crate::m::b::inner::Two;\n"), ("m/b/inner", "use crate::m::a;\n"));
    assert_eq!(count(&[called, a]), 0);
    assert_eq!(count(&[called, a, b]), 1);
}
