//! String matchers: `x` is equality, `~x` a regex over the whole string, `*` any value, `!` no value.

use regex::Regex;

/// Matcher of one string.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StringMatch {
    /// Equality, written `x`.
    Exact(String),
    /// Regex over the whole string in RE2's syntax, written `~x`.
    Regex(String),
    /// Any value, written `*`.
    Present,
    /// No value, written `!`.
    Absent,
}

impl StringMatch {
    /// Parses the notation.
    ///
    /// # Errors
    ///
    /// Returns the reason if the regex is not valid.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "*" => Ok(Self::Present),
            "!" => Ok(Self::Absent),
            _ => match text.strip_prefix('~') {
                Some(pattern) => whole(pattern).map(|_| Self::Regex(pattern.to_owned())),
                None => Ok(Self::Exact(text.to_owned())),
            },
        }
    }

    /// True if `value` matches; `None` stands for an absent one.
    pub fn matches(&self, value: Option<&str>) -> bool {
        match self {
            Self::Exact(text) => value == Some(text),
            Self::Regex(pattern) => {
                let regex = whole(pattern).expect("only patterns that compile are kept");
                value.is_some_and(|value| regex.is_match(value))
            }
            Self::Present => value.is_some(),
            Self::Absent => value.is_none(),
        }
    }
}

/// Compiles a regex that matches only a whole string, as Envoy's `safe_regex` does.
///
/// # Errors
///
/// Returns one line with the reason if the pattern is not valid.
pub fn whole(pattern: &str) -> Result<Regex, String> {
    if pattern.is_empty() {
        return Err("it is empty".to_owned()); // Envoy refuses an empty one.
    }
    Regex::new(&format!("^(?:{pattern})$")).map_err(|error| {
        let text = error.to_string();
        text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_notation_matches_what_it_says() {
        for (notation, value, matches) in [
            ("x", Some("x"), true),
            ("x", Some("xx"), false),
            ("x", None, false),
            ("~ios-.*", Some("ios-1"), true),
            ("~ios-.*", Some("an ios-1"), false),
            ("~a|b", Some("ab"), false),
            ("*", Some(""), true),
            ("*", None, false),
            ("!", None, true),
            ("!", Some("x"), false),
        ] {
            let parsed = StringMatch::parse(notation).expect("valid");
            assert_eq!(parsed.matches(value), matches, "{notation} on {value:?}");
        }
    }

    #[test]
    fn a_broken_regex_is_told_in_one_line() {
        assert_eq!(StringMatch::parse("~a(").expect_err("broken"), "unclosed group");
        assert_eq!(StringMatch::parse("~").expect_err("Envoy takes none"), "it is empty");
    }
}
