//! Blanking of secrets in source lines.
//!
//! A fault is shown with its line, which may belong to a private key. The text may not be valid YAML, so this
//! works by lines: it blanks too much rather than too little, but never removes a line or the text before a
//! secret.

use std::sync::LazyLock;

use regex::Regex;

use crate::config::secret;

/// Replacement of a secret.
const BLANK: &str = "…";

/// Pattern of the key of an inline value or a secret text, in this config's format or in Envoy's.
static INLINE: LazyLock<Regex> = LazyLock::new(|| {
    let keys: Vec<String> = secret::keys().collect();
    Regex::new(&format!(r#"\b({})["']?\s*:\s*"#, keys.join("|"))).expect("the pattern is a regex")
});

/// Pattern of a text in place of a data source mapping, such as a pasted key.
static PASTED: LazyLock<Regex> = LazyLock::new(|| {
    let keys: Vec<String> = secret::data_sources().collect();
    let pattern = format!(r#"(\b(?:{})["']?\s*:\s*)[^\s{{\[*&#]"#, keys.join("|"));
    Regex::new(&pattern).expect("the pattern is a regex")
});

/// Pattern of a line of base64, whatever its key.
static BASE64: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("[A-Za-z0-9+/=]{60,}").expect("the pattern is a regex"));

/// End of a secret of several lines.
enum Inside {
    /// Ends at the end marker of PEM.
    Pem,
    /// Ends at a line that is not indented deeper than this.
    Block(usize),
}

/// Returns the text with its secrets blanked, line by line.
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
