//! Variables in decK files: `${{ env "DECK_X" }}`, put in before the YAML is read, as decK does (template.go).

use std::collections::BTreeMap;

use crate::config::tree::{Entry, Node, Value};
use crate::config::{Fault, Position, Span, code};

/// Beginning of a template.
pub const OPEN: &str = "${{";
const CLOSE: &str = "}}";

/// Prefix that names of variables have.
const PREFIX: &str = "DECK_";

/// Text with the values of its variables.
#[derive(Debug, Default)]
pub struct Expanded {
    /// Text to read.
    pub text: String,
    segments: Vec<Segment>,
    /// Values with the templates that stand for them, the longest first.
    pub masks: Vec<(String, String)>,
    /// Faults of templates, at their places as written.
    pub faults: Vec<Fault>,
}

/// Part of the expanded text.
#[derive(Debug)]
struct Segment {
    /// Begin in the expanded text.
    begin: Position,
    /// Position as written.
    origin: Position,
    /// True for text as written, false for a value.
    copied: bool,
}

/// Puts the values of variables into a text.
pub fn expand(text: &str, variables: &BTreeMap<String, String>) -> Expanded {
    let mut expanded = Expanded::default();
    let (mut at, mut origin) = (FIRST, FIRST);
    for line in text.split_inclusive('\n') {
        let mut rest = line;
        let is_comment = line.trim_start().starts_with('#');
        while let Some(start) = rest.find(OPEN).filter(|_| !is_comment) {
            let Some(length) = rest[start..].find(CLOSE).map(|end| end + CLOSE.len()) else { break };
            let (before, template) = (&rest[..start], &rest[start..start + length]);
            expanded.push(before, true, &mut at, origin);
            origin = after(origin, before);
            let end = after(origin, template);
            match value(template, variables) {
                Ok(value) => {
                    expanded.push(&value, false, &mut at, origin);
                    if value.len() >= 4 {
                        expanded.masks.push((value, template.to_owned()));
                    }
                }
                Err((message, help)) => {
                    let span = Some(Span { start: origin, end });
                    let fault = Fault::new(code::SHELL_VARIABLE, message).help(help);
                    expanded.faults.push(fault.at(crate::config::Path::default(), span));
                }
            }
            origin = end;
            rest = &rest[start + length..];
        }
        expanded.push(rest, true, &mut at, origin);
        origin = after(origin, rest);
    }
    expanded.masks.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
    expanded
}

const FIRST: Position = Position { line: 1, column: 1 };

impl Expanded {
    fn push(&mut self, text: &str, copied: bool, at: &mut Position, origin: Position) {
        self.segments.push(Segment { begin: *at, origin, copied });
        self.text.push_str(text);
        *at = after(*at, text);
    }

    /// Returns the position as written of a position in the expanded text.
    fn origin(&self, position: Position) -> Position {
        let index = self.segments.partition_point(|segment| segment.begin <= position);
        let Some(segment) = index.checked_sub(1).and_then(|index| self.segments.get(index)) else {
            return position;
        };
        match segment {
            Segment { origin, copied: false, .. } => *origin,
            Segment { begin, origin, .. } if begin.line == position.line => {
                Position { line: origin.line, column: origin.column + position.column - begin.column }
            }
            Segment { begin, origin, .. } => {
                Position { line: origin.line + position.line - begin.line, column: position.column }
            }
        }
    }

    /// Returns the range as written of a range in the expanded text.
    pub fn span(&self, span: Span) -> Span {
        Span { start: self.origin(span.start), end: self.origin(span.end) }
    }

    /// Moves all ranges of a tree to those of the text as written.
    pub fn relocate(&self, node: &mut Node) {
        node.span = node.span.map(|span| self.span(span));
        match &mut node.value {
            Value::Sequence(items) => items.iter_mut().for_each(|item| self.relocate(item)),
            Value::Mapping(entries) => {
                for Entry { key_span, value, .. } in entries {
                    *key_span = key_span.map(|span| self.span(span));
                    self.relocate(value);
                }
            }
            _ => {}
        }
    }
}

/// Returns the position after a text.
fn after(position: Position, text: &str) -> Position {
    let lines = u32::try_from(text.matches('\n').count()).unwrap_or(u32::MAX);
    let last = text.rsplit('\n').next().unwrap_or_default().chars().count();
    let last = u32::try_from(last).unwrap_or(u32::MAX);
    match lines {
        0 => Position { column: position.column + last, ..position },
        _ => Position { line: position.line + lines, column: last + 1 },
    }
}

/// Returns the value of a template; a message and its help if there is none.
fn value(template: &str, variables: &BTreeMap<String, String>) -> Result<String, (String, String)> {
    let inner = template[OPEN.len()..template.len() - CLOSE.len()].trim();
    let mut steps = inner.split('|').map(str::trim);
    let name = steps.next().and_then(|first| first.strip_prefix("env")).map(str::trim).and_then(quoted);
    let Some(name) = name else {
        let help = "write `${{ env \"DECK_NAME\" }}`".to_owned();
        return Err((format!("the template `{template}` is not read"), help));
    };
    if !name.starts_with(PREFIX) {
        let help = format!("name it `{PREFIX}{name}`, as decK asks for");
        return Err((format!("the variable `{name}` does not begin with `{PREFIX}`"), help));
    }
    let Some(value) = variables.get(name) else {
        let help = format!("set it where understudy is started: `{name}=…`");
        return Err((format!("the variable `{name}` is not set"), help));
    };
    steps.try_fold(value.clone(), |value, step| piped(name, &value, step))
}

fn quoted(text: &str) -> Option<&str> {
    let inner = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    inner('"').or_else(|| inner('`')).filter(|name| !name.contains(['"', '`']))
}

/// Passes a value through a function of a template.
fn piped(name: &str, value: &str, function: &str) -> Result<String, (String, String)> {
    let wrong =
        |kind: &str| (format!("the variable `{name}` is not {kind}"), format!("`{function}` needs {kind}"));
    if let Some(width) = function.strip_prefix("indent").and_then(|width| width.trim().parse::<usize>().ok())
    {
        return Ok(value.replace('\n', &format!("\n{}", " ".repeat(width))));
    }
    match function {
        "toInt" => value.parse::<i64>().map(|value| value.to_string()).map_err(|_| wrong("a whole number")),
        "toFloat" => value.parse::<f64>().map(|value| value.to_string()).map_err(|_| wrong("a number")),
        "toBool" => match value {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok("true".to_owned()),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok("false".to_owned()),
            _ => Err(wrong("a boolean")),
        },
        _ => Err((
            format!("the function `{function}` is not known"),
            "use toInt, toFloat, toBool or indent N".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> BTreeMap<String, String> {
        [("DECK_HOST", "a.example.com"), ("DECK_N", "7"), ("DECK_PEM", "one\ntwo"), ("HOME", "/")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    #[test]
    fn variables_are_put_in_before_the_text_is_read() {
        for (text, expected) in [
            ("a: ${{ env \"DECK_HOST\" }}:80", "a: a.example.com:80"),
            ("a: \"${{ env \"DECK_HOST\" }}\"", "a: \"a.example.com\""),
            ("a: ${{env `DECK_N` | toInt}}", "a: 7"),
            ("a: |\n  ${{ env \"DECK_PEM\" | indent 2 }}\nb: 1", "a: |\n  one\n  two\nb: 1"),
            ("# ${{ env \"DECK_NONE\" }}\na: 1", "# ${{ env \"DECK_NONE\" }}\na: 1"),
        ] {
            let expanded = expand(text, &variables());
            assert_eq!(expanded.text, expected);
            assert!(expanded.faults.is_empty(), "{:?}", expanded.faults);
        }
    }

    #[test]
    fn what_cannot_be_put_in_is_told_at_its_place() {
        for (text, message) in [
            ("a: ${{ env \"DECK_NONE\" }}", "the variable `DECK_NONE` is not set"),
            ("a: ${{ env \"HOME\" }}", "the variable `HOME` does not begin with `DECK_`"),
            ("a: ${{ env \"DECK_HOST\" | toInt }}", "the variable `DECK_HOST` is not a whole number"),
            ("a: ${{ env \"DECK_HOST\" | upper }}", "the function `upper` is not known"),
            ("a: ${{ .Values.x }}", "the template `${{ .Values.x }}` is not read"),
        ] {
            let faults = expand(text, &variables()).faults;
            let found: Vec<_> =
                faults.iter().map(|it| (it.message.as_str(), it.span.map(|span| span.start))).collect();
            assert_eq!(found, [(message, Some(Position { line: 1, column: 4 }))]);
        }
    }

    #[test]
    fn positions_are_those_of_the_text_as_written() {
        let text = "a: ${{ env \"DECK_PEM\" }} x\nbc: d";
        let expanded = expand(text, &variables());
        let at = |line, column| Position { line, column };
        for (position, origin) in [
            (at(1, 1), at(1, 1)),
            (at(1, 5), at(1, 4)),
            (at(2, 2), at(1, 4)),
            (at(2, 5), at(1, 26)),
            (at(3, 2), at(2, 2)),
        ] {
            assert_eq!(expanded.origin(position), origin, "{position:?}");
        }
    }
}
