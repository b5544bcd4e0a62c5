//! Rendering of violations: for people, for logs, and for GitHub.

mod blank;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{
    Annotation, AnnotationKind, Element, Group, Origin, Renderer, Snippet, normalize_untrusted_str,
};

use crate::config::printable::{printable, printable_lines};
use crate::config::{Level, Violation};

/// Renders a block for each violation, with its source line and its help, and a last line with their number.
///
/// `source` returns the text of a file by the name in the violation; without it, only the place is shown.
/// Possible secrets in the text are blanked.
pub fn human(violations: &[Violation], source: &dyn Fn(&str) -> Option<Arc<str>>, colour: bool) -> String {
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let files: BTreeSet<&str> = violations.iter().flat_map(places).map(|place| place.file).collect();
    let texts: Texts<'_> =
        files.into_iter().filter_map(|file| Some((file, SourceText::new(&source(file)?)))).collect();
    let mut text = String::new();
    for violation in violations {
        text += &renderer.render(&[block(violation, &texts)]);
        text += "\n\n";
    }
    if !violations.is_empty() {
        text += &count(violations);
        text.push('\n');
    }
    text
}

/// Renders a violation in one line, for logs and for `grep`.
pub fn line(violation: &Violation) -> String {
    let mut text = String::new();
    if let Some(file) = &violation.file {
        text += file;
        for number in [violation.line, violation.column].into_iter().flatten() {
            text += &format!(":{number}");
        }
        text += ": ";
    }
    text += &format!("{}[{}]: ", violation.level, violation.code);
    let path = violation.pointer.as_ref().unwrap_or(&violation.path);
    if !path.is_empty() {
        text += &format!("{path}: ");
    }
    text += &sentence(violation);
    printable(&text.replace('\n', " ")).into_owned()
}

/// Renders workflow commands, by which GitHub shows violations at their lines in a pull request.
pub fn github(violations: &[Violation]) -> String {
    let mut text = String::new();
    for violation in violations {
        let level = match violation.level {
            Level::Info => "notice",
            Level::Warning => "warning",
            Level::Error => "error",
        };
        let place = [
            ("file", violation.file.as_deref().map(|file| printable(file).into_owned())),
            ("line", violation.line.map(|line| line.to_string())),
            ("col", violation.column.map(|column| column.to_string())),
            ("title", Some(violation.code.to_owned())),
        ];
        let properties: Vec<String> = place
            .into_iter()
            .filter_map(|(name, value)| Some(format!("{name}={}", property(&value?))))
            .collect();
        text += &format!(
            "::{level} {}::{}\n",
            properties.join(","),
            printable_lines(&escaped(&sentence(violation)))
        );
    }
    text
}

fn sentence(violation: &Violation) -> String {
    match &violation.help {
        Some(help) => format!("{}; {help}", violation.message),
        None => violation.message.clone(),
    }
}

fn escaped(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    escaped(text).replace(':', "%3A").replace(',', "%2C")
}

fn count(violations: &[Violation]) -> String {
    let counted = |level: Level| match violations.iter().filter(|violation| violation.level == level).count()
    {
        0 => None,
        count if count == 1 || level == Level::Info => Some(format!("{count} {level}")),
        count => Some(format!("{count} {level}s")),
    };
    let counts: Vec<String> =
        [Level::Error, Level::Warning, Level::Info].into_iter().filter_map(counted).collect();
    counts.join(", ")
}

/// Texts by file name.
type Texts<'a> = BTreeMap<&'a str, SourceText>;

/// SourceText of a file with its secrets blanked.
struct SourceText {
    text: String,
    /// Start offset of each line, and the end of the text.
    lines: Vec<usize>,
}

impl SourceText {
    fn new(source: &str) -> Self {
        let text = blank::blanked(source);
        let ends = text.split_inclusive('\n').scan(0, |end, line| {
            *end += line.len();
            Some(*end)
        });
        let lines = std::iter::once(0).chain(ends).collect();
        Self { text, lines }
    }

    /// Returns a range of lines, numbered from 1, as far as they exist. It avoids rendering a large file for
    /// one line.
    fn excerpt(&self, first: u32, last: u32) -> String {
        let start_of = |line: u32| self.lines.get(line as usize).copied().unwrap_or(self.text.len());
        self.text[start_of(first.saturating_sub(1))..start_of(last)].to_owned()
    }
}

/// SourcePlace shown in a block, with its label.
struct SourcePlace<'a> {
    /// Name of the file; shown printable.
    file: &'a str,
    line: Option<u32>,
    column: Option<u32>,
    label: Option<&'a str>,
}

fn block<'a>(violation: &'a Violation, texts: &'a Texts<'_>) -> Group<'a> {
    let level = match violation.level {
        Level::Info => annotate_snippets::Level::INFO,
        Level::Warning => annotate_snippets::Level::WARNING,
        Level::Error => annotate_snippets::Level::ERROR,
    };
    let mut group =
        Group::with_title(level.primary_title(printable_lines(&violation.message)).id(violation.code));
    let mut places = places(violation);
    while let Some(file) = places.first().map(|place| place.file) {
        let here: Vec<SourcePlace<'_>> = places.extract_if(.., |place| place.file == file).collect();
        group = group.elements(shown(file, &here, texts.get(file)));
    }
    if violation.file.is_none() {
        let path = violation.pointer.as_ref().unwrap_or(&violation.path);
        if !path.is_empty() {
            group = group.element(Origin::path(normalize_untrusted_str(path)));
        }
    }
    if let Some(help) = &violation.help {
        group = group.element(annotate_snippets::Level::HELP.message(printable_lines(help)));
    }
    group
}

/// Returns the places of a violation, its own first. A related place without a file is in the file of the
/// violation.
fn places(violation: &Violation) -> Vec<SourcePlace<'_>> {
    let own = violation.file.as_deref();
    let first = SourcePlace {
        file: own.unwrap_or_default(),
        line: violation.line,
        column: violation.column,
        label: None,
    };
    let related = violation.related.iter().map(|related| SourcePlace {
        file: related.file.as_deref().or(own).unwrap_or_default(),
        line: related.line,
        column: related.column,
        label: Some(&related.message),
    });
    std::iter::once(first).chain(related).filter(|place| !place.file.is_empty()).collect()
}

/// Returns the elements for all places in one file: the lines from the first place to the last, or only the
/// positions without a text.
fn shown<'a>(file: &'a str, places: &[SourcePlace<'a>], text: Option<&SourceText>) -> Vec<Element<'a>> {
    let lines = places.iter().filter_map(|place| place.line);
    match (text, lines.clone().min(), lines.max()) {
        (Some(text), Some(first), Some(last)) => {
            let excerpt = text.excerpt(first, last);
            let annotations: Vec<Annotation<'a>> =
                places.iter().filter_map(|place| annotation(place, &excerpt, first)).collect();
            let snippet = Snippet::source(excerpt).line_start(first as usize).path(printable(file));
            vec![snippet.annotations(annotations).into()]
        }
        _ => places.iter().flat_map(named).collect(),
    }
}

fn named<'a>(place: &SourcePlace<'a>) -> Vec<Element<'a>> {
    let mut origin = Origin::path(printable(place.file));
    if let Some(line) = place.line {
        origin = origin.line(line as usize);
        if let Some(column) = place.column {
            origin = origin.char_column(column as usize);
        }
    }
    let label =
        place.label.map(|label| annotate_snippets::Level::NOTE.message(normalize_untrusted_str(label)));
    std::iter::once(origin.into()).chain(label.map(Element::from)).collect()
}

fn annotation<'a>(place: &SourcePlace<'a>, excerpt: &str, first: u32) -> Option<Annotation<'a>> {
    let above = (place.line? - first) as usize;
    let start: usize = excerpt.split_inclusive('\n').take(above).map(str::len).sum();
    let line = excerpt[start..].lines().next().unwrap_or_default();
    let token = token(line, place.column.unwrap_or(1));
    let span = start + token.start..start + token.end;
    let Some(label) = place.label else { return Some(AnnotationKind::Primary.span(span)) };
    Some(AnnotationKind::Context.span(span).label(Cow::Owned(normalize_untrusted_str(label))))
}

/// Returns the byte range of the key or value that begins at a column of a line.
///
/// A violation has only a start. So this ends where YAML usually ends the token, which is right for keys,
/// numbers, quoted text and words, the targets of most violations.
fn token(line: &str, column: u32) -> Range<usize> {
    let skipped = (column as usize).saturating_sub(1);
    let start = line.char_indices().nth(skipped).map_or(line.len(), |(start, _)| start);
    let rest = &line[start..];
    let length = match rest.chars().next() {
        Some(quote @ ('"' | '\'')) => rest[1..].find(quote).map(|end| end + 2),
        Some('[' | '{') => bracketed(rest),
        _ => plain(rest),
    };
    let length = length.unwrap_or_else(|| rest.trim_end().len());
    start..start + length
}

fn bracketed(rest: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (position, character) in rest.char_indices() {
        match character {
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return Some(position + 1);
        }
    }
    None
}

fn plain(rest: &str) -> Option<usize> {
    let ends_key = |after: &str| after.is_empty() || after.starts_with(char::is_whitespace);
    let end = rest.char_indices().find(|(position, character)| match character {
        ':' | ',' => *position > 0 && ends_key(&rest[position + 1..]),
        ']' | '}' => *position > 0,
        '#' => rest[..*position].ends_with(char::is_whitespace),
        _ => false,
    });
    end.map(|(position, _)| rest[..position].trim_end().len())
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::config::Related;

    const TEXT: &str = "services:\n  - name: checkout\nroutes:\n  - hosts: [shop.example.com, \"*.example.com\"]\n    \
                        service: chekout # typo\n  - { name: é, service: 80 }\n";

    fn violation(level: Level, place: Option<(u32, u32)>) -> Violation {
        Violation {
            code: "US107",
            level,
            message: "no service is named `chekout`".to_owned(),
            help: Some("did you mean `checkout`?".to_owned()),
            file: Some("shop/routes.yaml".to_owned()),
            line: place.map(|(line, _)| line),
            column: place.map(|(_, column)| column),
            path: "routes[0].service".to_owned(),
            pointer: None,
            related: Vec::new(),
        }
    }

    fn related(message: &str, file: Option<&str>, line: u32, column: u32) -> Related {
        let (line, column) = (Some(line), Some(column));
        Related { message: message.to_owned(), file: file.map(str::to_owned), line, column }
    }

    fn rest() -> Violation {
        Violation {
            file: None,
            pointer: Some("/routes/0/service".to_owned()),
            ..violation(Level::Error, None)
        }
    }

    fn check(violations: &[Violation], expected: Expect) {
        let source = |file: &str| (file == "shop/routes.yaml").then(|| Arc::from(TEXT));
        expected.assert_eq(&human(violations, &source, false));
    }

    #[test]
    fn a_block_shows_the_line_and_underlines_the_value() {
        check(
            &[violation(Level::Error, Some((5, 14)))],
            expect![[r#"
            error[US107]: no service is named `chekout`
             --> shop/routes.yaml:5:14
              |
            5 |     service: chekout # typo
              |              ^^^^^^^
              |
              = help: did you mean `checkout`?

            1 error
        "#]],
        );
    }

    #[test]
    fn columns_are_characters() {
        check(
            &[violation(Level::Warning, Some((6, 24)))],
            expect![[r#"
            warning[US107]: no service is named `chekout`
             --> shop/routes.yaml:6:24
              |
            6 |   - { name: é, service: 80 }
              |                        ^^^
              |
              = help: did you mean `checkout`?

            1 warning
        "#]],
        );
    }

    #[test]
    fn related_places_are_shown_with_it_or_by_name() {
        let mut violation = violation(Level::Error, Some((5, 14)));
        violation.related.push(related("first here", None, 2, 11));
        violation.related.push(related("and there", Some("gone.yaml"), 7, 3));
        check(
            &[violation],
            expect![[r#"
            error[US107]: no service is named `chekout`
             --> shop/routes.yaml:5:14
              |
            2 |   - name: checkout
              |           -------- first here
            ...
            5 |     service: chekout # typo
              |              ^^^^^^^
             ::: gone.yaml:7:3
              = note: and there
              = help: did you mean `checkout`?

            1 error
        "#]],
        );
    }

    #[test]
    fn places_that_are_not_in_the_text_are_no_trouble() {
        check(
            &[violation(Level::Info, Some((5, 80))), violation(Level::Info, Some((70, 1)))],
            expect![[r#"
            info[US107]: no service is named `chekout`
             --> shop/routes.yaml:5:28
              |
            5 |     service: chekout # typo
              |                            ^
              |
              = help: did you mean `checkout`?

            info[US107]: no service is named `chekout`
              --> shop/routes.yaml:70:1
               |
            70 |
               | ^
               |
               = help: did you mean `checkout`?

            2 info
        "#]],
        );
    }

    #[test]
    fn without_a_text_there_is_the_place() {
        let unread =
            Violation { file: Some("gone.yaml".to_owned()), ..violation(Level::Error, Some((3, 1))) };
        check(
            &[rest(), unread, violation(Level::Warning, None)],
            expect![[r#"
            error[US107]: no service is named `chekout`
            --> /routes/0/service
             = help: did you mean `checkout`?

            error[US107]: no service is named `chekout`
            --> gone.yaml:3:1
             = help: did you mean `checkout`?

            warning[US107]: no service is named `chekout`
            --> shop/routes.yaml
             = help: did you mean `checkout`?

            2 errors, 1 warning
        "#]],
        );
    }

    #[test]
    fn nothing_wrong_says_nothing() {
        check(&[], expect![[""]]);
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let mut violation = rest();
        violation.message = "a\u{1b}[31mb".to_owned();
        violation.help = Some("c\u{1b}[31md".to_owned());
        assert!(!human(&[violation.clone()], &|_| None, false).contains('\u{1b}'));
        assert!(!line(&violation).contains('\u{1b}'));
    }

    #[test]
    fn a_file_name_is_shown_as_text() {
        let mut violation = violation(Level::Error, Some((1, 1)));
        violation.file = Some("a\u{1b}]0;b\u{7}\u{202e}\n.yaml".to_owned());
        violation.related.push(related("here", Some("c\u{9b}1m.yaml"), 1, 1));
        let source = |_: &str| Some(Arc::from("services: []\n"));
        let texts = [
            human(&[violation.clone()], &source, false),
            human(&[violation.clone()], &|_| None, false),
            line(&violation),
            github(&[violation]),
        ];
        for text in texts {
            let is_obeyed = |letter: char| letter.is_control() && letter != '\n' || letter == '\u{202e}';
            assert!(!text.contains(is_obeyed), "{text:?}");
            assert!(text.contains("a\\u{1b}]0;b\\u{7}\\u{202e}"), "{text}");
        }
    }

    #[test]
    fn colour_is_as_asked() {
        assert!(human(&[rest()], &|_| None, true).contains("\u{1b}["));
        assert!(!human(&[rest()], &|_| None, false).contains("\u{1b}["));
    }

    #[test]
    fn a_token_ends_where_it_most_likely_does() {
        let check = |line: &str, column, expected| assert_eq!(&line[token(line, column)], expected, "{line}");
        check("  failovr: x", 3, "failovr");
        check("a: 10.0.0.1:80 # b", 4, "10.0.0.1:80");
        check("a: {b: c d, e: f}", 5, "b");
        check("a: {b: c d, e: f}", 8, "c d");
        check("a: {b: c d, e: f}", 16, "f");
        check("a: [b, [c]] # d", 4, "[b, [c]]");
        check("a: \"b # c\" # d", 4, "\"b # c\"");
        check("a: \"b", 4, "\"b");
        check("a: [b,", 4, "[b,");
        check("a:", 9, "");
    }

    #[test]
    fn a_line_is_one_line() {
        let mut broken = violation(Level::Warning, None);
        broken.message = "a\nb".to_owned();
        let lines =
            [violation(Level::Error, Some((12, 5))), broken, rest()].map(|violation| line(&violation));
        expect![[r#"
            shop/routes.yaml:12:5: error[US107]: routes[0].service: no service is named `chekout`; did you mean `checkout`?
            shop/routes.yaml: warning[US107]: routes[0].service: a b; did you mean `checkout`?
            error[US107]: /routes/0/service: no service is named `chekout`; did you mean `checkout`?"#]].assert_eq(&lines.join("\n"));
    }

    #[test]
    fn github_gets_what_it_takes_for_special_escaped() {
        let mut odd = violation(Level::Info, None);
        odd.message = "100%\r\n: a, b".to_owned();
        odd.file = Some("a,b:c.yaml".to_owned());
        expect![[r#"
            ::error file=shop/routes.yaml,line=12,col=5,title=US107::no service is named `chekout`; did you mean `checkout`?
            ::notice file=a%2Cb%3Ac.yaml,title=US107::100%25%0D%0A: a, b; did you mean `checkout`?
            ::error title=US107::no service is named `chekout`; did you mean `checkout`?
        "#]].assert_eq(&github(&[violation(Level::Error, Some((12, 5))), odd, rest()]));
    }
}
