//! Source lines without the secrets in them.
//!
//! A fault is shown with its line, and the line may be one of a private key. The text need not be YAML any more
//! that can be read, so this goes by lines: it takes too much rather than too little, and never a line or what
//! stands before a secret.

use std::sync::LazyLock;

use regex::Regex;

use crate::config::secret;

/// What stands in the place of a secret.
const BLANK: &str = "…";

/// The key of a value that stands in line, ours or Envoy's.
static INLINE: LazyLock<Regex> = LazyLock::new(|| {
    let keys: Vec<String> = secret::keys().collect();
    Regex::new(&format!(r#"\b({})["']?\s*:\s*"#, keys.join("|"))).expect("the pattern is a regex")
});

/// A text that stands where a mapping should say how it stands there: whoever pastes a key.
static PASTED: LazyLock<Regex> = LazyLock::new(|| {
    let keys: Vec<String> = secret::data_sources().collect();
    let pattern = format!(r#"(\b(?:{})["']?\s*:\s*)[^\s{{\[*&#]"#, keys.join("|"));
    Regex::new(&pattern).expect("the pattern is a regex")
});

/// A line of base64, wherever it came from.
static BASE64: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("[A-Za-z0-9+/=]{60,}").expect("the pattern is a regex"));

/// Where the lines of a secret end.
enum Inside {
    /// With the marker of PEM.
    Pem,
    /// With a line that is indented no deeper.
    Block(usize),
}

/// The text, line by line, without its secrets.
pub(super) fn blanked(text: &str) -> String {
    let mut inside: Option<Inside> = None;
    text.split_inclusive('\n').map(|line| blanked_line(line, &mut inside)).collect()
}

fn blanked_line(line: &str, inside: &mut Option<Inside>) -> String {
    let body = line.trim_end_matches(['\n', '\r']);
    let end = &line[body.len()..];
    let indent = body.len() - body.trim_start().len();
    let ended = match inside {
        Some(Inside::Pem) => body.contains("-----END"),
        Some(Inside::Block(outer)) if !body.trim().is_empty() => indent <= *outer,
        _ => false,
    };
    let was_pem = matches!(inside, Some(Inside::Pem));
    if ended {
        *inside = None;
    }
    if inside.is_some() || (ended && was_pem) {
        let shown = if body.trim().is_empty() { "" } else { BLANK };
        return format!("{}{shown}{end}", &body[..indent]);
    }
    if let Some(found) = INLINE.find(body) {
        *inside = Some(Inside::Block(indent));
        return format!("{}{BLANK}{end}", &body[..found.end()]);
    }
    if let Some(start) = body.find("-----BEGIN").filter(|start| body[*start..].contains("PRIVATE KEY")) {
        if !body.contains("-----END") {
            *inside = Some(Inside::Pem);
        }
        return format!("{}{BLANK}{end}", &body[..start]);
    }
    if let Some(shown) = PASTED.captures(body).and_then(|found| Some(found.get(1)?.end())) {
        *inside = Some(Inside::Block(indent));
        return format!("{}{BLANK}{end}", &body[..shown]);
    }
    format!("{}{end}", BASE64.replace_all(body, BLANK))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(text: &str, expected: Expect) {
        expected.assert_eq(&blanked(text));
    }

    #[test]
    fn what_stands_in_line_is_blanked_and_the_rest_is_not() {
        check(
            "certificates:\n  - name: a\n    key:\n      inline: |\n        secret\n\n        secret\n    tags: [b]\n",
            expect![[r#"
                certificates:
                  - name: a
                    key:
                      inline: …
                        …

                        …
                    tags: [b]
            "#]],
        );
        check(
            "a: { key: { inline: \"secret\" } }\nb: c\n\"inline_string\": \"secret\"\n",
            expect![[r#"
                a: { key: { inline: …
                b: c
                "inline_string": …
            "#]],
        );
    }

    #[test]
    fn what_is_pasted_where_a_mapping_belongs_is_blanked_too() {
        check(
            "certificates: [{ name: a, key: secret }]\nprivate_key: |\n  secret\nkey: { file: a }\nnotify: [{ secret: s }]\n",
            expect![[r#"
                certificates: [{ name: a, key: …
                private_key: …
                  …
                key: { file: a }
                notify: [{ secret: …
            "#]],
        );
    }

    #[test]
    fn a_key_is_blanked_wherever_it_stands() {
        check(
            "key: -----BEGIN EC PRIVATE KEY-----\n  secret\nsecret\n  -----END EC PRIVATE KEY-----\nb: c\n",
            expect![[r#"
                key: …
                  …
                …
                  …
                b: c
            "#]],
        );
        check(
            &format!("key: {}\nfile: /etc/ssl/shop.pem\n", "MIIE+/ab".repeat(8)),
            expect![[r#"
                key: …
                file: /etc/ssl/shop.pem
            "#]],
        );
    }
}
