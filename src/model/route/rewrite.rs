//! Rewrite of the path that targets see.

use crate::config::code;
use crate::config::document;
use crate::model::matching;
use crate::model::path_match::{PATH_RULE, PathMatch, is_path};
use crate::model::place::{FaultCollector, FaultPlace};

/// Rewrite of the path that targets see. The query is not changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rewrite {
    /// Replacement of the prefix that the route matches, as declared. Its trailing slash counts for a path that is the
    /// beginning of a text only. For a route with an exact path it replaces the whole path.
    Prefix(String),
    /// Replacement of the whole path.
    Path(String),
    /// Replacement of every match of a regex, which is not anchored.
    Regex {
        /// Pattern in RE2's syntax.
        pattern: String,
        /// Substitution: `\1` to `\9` are the groups, `\0` is the whole match, `\\` is a backslash.
        substitution: String,
    },
}

impl Rewrite {
    pub(super) fn resolve(
        place: &FaultPlace<'_>,
        declared: &document::route::Rewrite,
        paths: &[PathMatch],
        faults: &mut FaultCollector,
    ) -> Option<Self> {
        let document::route::Rewrite { prefix, path, regex, to } = declared;
        match (prefix, path, regex, to) {
            (Some(prefix), None, None, None) => {
                check_prefix(&place.key("prefix"), prefix, paths, faults);
                Some(Self::Prefix(prefix.clone()))
            }
            (None, Some(path), None, None) => {
                check_path(&place.key("path"), path, faults);
                Some(Self::Path(path.clone()))
            }
            (None, None, Some(pattern), Some(substitution)) => {
                check_regex(place, pattern, substitution, faults);
                Some(Self::Regex { pattern: pattern.clone(), substitution: substitution.clone() })
            }
            _ => {
                let message = "a rewrite is one of `prefix`, `path`, and `regex` with `to`".to_owned();
                let help =
                    r#"such as `{ prefix: / }`, `{ path: /fixed }`, `{ regex: "/v1/(.*)", to: "/\\1" }`"#;
                faults.error(place, code::CONFLICT, message, help.to_owned());
                None
            }
        }
    }
}

fn check_path(place: &FaultPlace<'_>, text: &str, faults: &mut FaultCollector) {
    if !is_path(text, &['?', '#']) {
        faults.wrong(place, format!("`{text}` is not a path"), PATH_RULE.to_owned());
    }
}

fn check_prefix(place: &FaultPlace<'_>, text: &str, paths: &[PathMatch], faults: &mut FaultCollector) {
    check_path(place, text, faults);
    if let Some(regex) = paths.iter().find(|path| matches!(path, PathMatch::Regex(_))) {
        let message = format!("the path `{regex}` of this route has no prefix");
        faults.error(place, code::CONFLICT, message, "use `path`, or `regex` with `to`".to_owned());
    }
}

fn check_regex(place: &FaultPlace<'_>, pattern: &str, substitution: &str, faults: &mut FaultCollector) {
    let groups = match matching::whole(pattern) {
        Ok(regex) => regex.captures_len() - 1,
        Err(error) => {
            let message = format!("`{pattern}` is not a valid regex: {error}");
            return faults.wrong(&place.key("regex"), message, None);
        }
    };
    if let Err(message) = fits(substitution, groups) {
        let help = r"`\1` is what the first group matched, `\0` the whole match, `\\` a backslash".to_owned();
        faults.wrong(&place.key("to"), message, help);
    }
}

/// Checks a substitution. Envoy would silently leave the path unchanged if it referred to a group that does
/// not exist.
fn fits(substitution: &str, groups: usize) -> Result<(), String> {
    if !substitution.chars().all(|c| c.is_ascii_graphic()) {
        return Err("a path is made of visible ASCII characters".to_owned());
    }
    let mut characters = substitution.chars();
    while let Some(character) = characters.next() {
        match (character, characters.clone().next().and_then(|next| next.to_digit(10))) {
            ('\\', Some(group)) if group as usize > groups => {
                return Err(match groups {
                    0 => format!("`\\{group}`: the regex has no group"),
                    1 => format!("`\\{group}`: the regex has one group"),
                    _ => format!("`\\{group}`: the regex has {groups} groups"),
                });
            }
            ('\\', Some(_)) => {}
            ('\\', None) if characters.next() != Some('\\') => {
                return Err("a backslash is followed by a digit or by another".to_owned());
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_substitution_refers_to_groups_that_are_there() {
        for (substitution, groups, fit) in [
            (r"/\1", 1, true),
            (r"/\0", 0, true),
            (r"/\2/x/\1", 2, true),
            (r"/\\1", 0, true),
            (r"/\1", 0, false),
            (r"/\3", 2, false),
            (r"/\x", 2, false),
            (r"/\", 2, false),
            ("/a b", 0, false),
        ] {
            assert_eq!(fits(substitution, groups).is_ok(), fit, "{substitution} with {groups} groups");
        }
    }
}
