//! Wording of faults, in terms of the text instead of the parser or serde.

use crate::config::near;

pub(super) const NO_ANCHOR: &str = "there is no anchor of this name before this place";

pub(super) const TAB: &str = "a tab cannot stand here";

/// Translates a message of the YAML parser. Returns a message and a suggestion.
pub(super) fn syntax(info: &str) -> (String, Option<&'static str>) {
    let (message, help) = match info {
        "mapping values are not allowed in this context" | "illegal placement of ':' indicator" => (
            "a `:` cannot stand here",
            Some(
                "quote the text if the `:` belongs to it; a mapping inside another starts on a line of its own",
            ),
        ),
        "simple key expect ':'" | "simple key expected" => ("expected a `:` after the key", None),
        "while parsing a flow mapping, did not find expected ',' or '}'" => ("expected `,` or `}`", None),
        "while parsing a flow sequence, expected ',' or ']'" => ("expected `,` or `]`", None),
        "while parsing a block mapping, did not find expected key" => {
            ("expected a key, indented like the ones before it", None)
        }
        "while parsing a block collection, did not find expected '-' indicator" => {
            ("expected a `-`, indented like the ones before it", None)
        }
        "while parsing a node, did not find expected node content" => ("expected a value", None),
        "while scanning a quoted scalar, found unexpected end of stream" => {
            ("this quote is never closed", None)
        }
        "while parsing node, found unknown anchor" => (NO_ANCHOR, None),
        "found unprintable character" => ("a NUL character cannot stand in YAML", None),
        "recursion limit exceeded" => ("this nests too deep", None),
        "did not find expected <document start>" => {
            ("the document was over before this", Some("another one starts with `---`"))
        }
        _ if info.contains("tab ") || info.contains("tabs ") || info.ends_with(" tab") => {
            (TAB, Some("indent with spaces"))
        }
        _ => return other_syntax(info),
    };
    (message.to_owned(), help)
}

fn other_syntax(info: &str) -> (String, Option<&'static str>) {
    match info.strip_prefix("unexpected character: `").and_then(|rest| rest.strip_suffix('\'')) {
        Some(character) => (format!("a value cannot start with `{character}`"), Some("quote it")),
        None => (format!("this is not YAML: {info}"), None),
    }
}

/// Translates the expectation of a serde visitor to English.
pub(super) fn expected(text: &str) -> String {
    let text = text
        .strip_prefix("a nonzero ")
        .map_or_else(|| range(text, false), |number| range(number, true))
        .unwrap_or(text);
    match text {
        "a boolean" => "true or false",
        "a map" | "a Map" => "a mapping",
        "a sequence" => "a list",
        "a character" => "one character",
        "f32" | "f64" => "a number",
        "unit" => "null",
        _ if text.starts_with("struct ") => "a mapping",
        _ if text.starts_with("tuple ") || text.starts_with("an array ") => "a list",
        _ => text,
    }
    .to_owned()
}

fn range(number: &str, nonzero: bool) -> Option<&'static str> {
    Some(match (number, nonzero) {
        ("u8", false) => "a whole number from 0 to 255",
        ("u8", true) => "a whole number from 1 to 255",
        ("u16", false) => "a whole number from 0 to 65535",
        ("u16", true) => "a whole number from 1 to 65535",
        ("u32", false) => "a whole number from 0 to 4294967295",
        ("u32", true) => "a whole number from 1 to 4294967295",
        ("u64" | "usize", false) => "a whole number from 0",
        ("u64" | "usize", true) => "a whole number from 1",
        ("i8", _) => "a whole number from -128 to 127",
        ("i16", _) => "a whole number from -32768 to 32767",
        ("i32", _) => "a whole number from -2147483648 to 2147483647",
        ("i64" | "isize", _) => "a whole number",
        _ => return None,
    })
}

/// Suggests one or two similar words, or lists all candidates if none is similar.
pub(super) fn meant(word: &str, candidates: &[&str]) -> Option<String> {
    match near(word, candidates.iter().copied()).as_slice() {
        [one] => Some(format!("did you mean `{one}`?")),
        [one, other, ..] => Some(format!("did you mean `{one}` or `{other}`?")),
        [] => one_of(candidates),
    }
}

pub(super) fn one_of(candidates: &[&str]) -> Option<String> {
    let quoted: Vec<String> = candidates.iter().map(|candidate| format!("`{candidate}`")).collect();
    match quoted.as_slice() {
        [] => None,
        [one] => Some(format!("expected {one}")),
        _ => Some(format!("expected one of: {}", quoted.join(", "))),
    }
}

/// Quotes a text for a message: in one line of limited length.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    // The text may be a private key in the wrong place.
    if text.contains("-----BEGIN") {
        return "`-----BEGIN…`".to_owned();
    }
    let mut line: String = text
        .chars()
        .take(LONGEST)
        .flat_map(|character| match character {
            '\n' | '\r' | '\t' => character.escape_default().collect::<Vec<_>>(),
            _ => vec![character],
        })
        .collect();
    if text.chars().nth(LONGEST).is_some() {
        line.push('…');
    }
    format!("`{line}`")
}
