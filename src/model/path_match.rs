//! Matchers of the path of a request.

use std::collections::HashSet;
use std::fmt;

use crate::model::matching;
use crate::model::place::{FaultCollector, FaultPlace};

/// Matcher of the path of a request; variants in order of precedence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathMatch {
    /// Exact path, written `=/exact`.
    Exact(String),
    /// Prefix on segment boundaries, written `/prefix`; stored without a trailing slash, empty for every
    /// path.
    Prefix(String),
    /// Beginning of the path as text, wherever segments end, written `/text*`; more than the `/` that every path begins
    /// with.
    StartsWith(String),
    /// Regex over the whole path, written `~regex`.
    Regex(String),
}

impl PathMatch {
    /// Parses the notation.
    ///
    /// # Errors
    ///
    /// Returns the fault, and help if there is any.
    pub(crate) fn parse(text: &str) -> Result<Self, (String, Option<String>)> {
        if let Some(pattern) = text.strip_prefix('~') {
            return match matching::whole(pattern) {
                Ok(_) => Ok(Self::Regex(pattern.to_owned())),
                Err(error) => Err((format!("`{pattern}` is not a valid regex: {error}"), None)),
            };
        }
        let (path, exact) = text.strip_prefix('=').map_or((text, false), |path| (path, true));
        if !path.starts_with('/') {
            let help =
                "a prefix is `/checkout`, an exact path `=/checkout`, a beginning `/check*`, a regex `~/v[0-9]+/.*`"
                    .to_owned();
            return Err((format!("the path `{text}` does not begin with /"), Some(help)));
        }
        if path.contains(['?', '#']) {
            let help = "match the query with `query`".to_owned();
            return Err((format!("the path `{text}` has a query or a fragment"), Some(help)));
        }
        Ok(match path.strip_suffix('*') {
            _ if exact => Self::Exact(path.to_owned()),
            Some(beginning) if beginning.len() > 1 => Self::StartsWith(beginning.to_owned()),
            Some(_) => Self::Prefix(String::new()),
            None => Self::Prefix(path.trim_end_matches('/').to_owned()),
        })
    }

    /// Returns the length of the text, which orders matchers of one kind by specificity.
    pub fn length(&self) -> usize {
        match self {
            Self::Exact(text) | Self::Prefix(text) | Self::StartsWith(text) | Self::Regex(text) => text.len(),
        }
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "={path}"),
            Self::Prefix(path) if path.is_empty() => f.write_str("/"),
            Self::Prefix(path) => f.write_str(path),
            Self::StartsWith(beginning) => write!(f, "{beginning}*"),
            Self::Regex(pattern) => write!(f, "~{pattern}"),
        }
    }
}

/// Resolves the paths that a route declares; any path if it declares none.
pub(crate) fn resolve(
    place: &FaultPlace<'_>,
    declared: &[String],
    faults: &mut FaultCollector,
) -> Vec<PathMatch> {
    let (mut paths, mut known) = (Vec::new(), HashSet::new());
    for (index, text) in declared.iter().enumerate() {
        match PathMatch::parse(text) {
            Ok(path) if !known.insert(path.clone()) => {}
            Ok(path) => paths.push(path),
            Err((message, help)) => faults.wrong(&place.index(index), message, help),
        }
    }
    if declared.is_empty() {
        paths.push(PathMatch::Prefix(String::new()));
    }
    paths
}

/// Help for a text that is not a path.
pub(crate) const PATH_RULE: &str = "begin it with /, in visible ASCII; percent-encode what is not";

/// True if `text` is a path that fits into the first line of a request and has none of the characters
/// `without`.
pub(crate) fn is_path(text: &str, without: &[char]) -> bool {
    text.starts_with('/') && text.chars().all(|c| c.is_ascii_graphic() && !without.contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_notation_is_the_matcher_that_it_says() {
        use PathMatch::{Exact, Prefix, StartsWith};

        for (notation, expected, shown) in [
            ("/a", Prefix("/a".to_owned()), "/a"),
            ("/a/", Prefix("/a".to_owned()), "/a"),
            ("/", Prefix(String::new()), "/"),
            ("/a*", StartsWith("/a".to_owned()), "/a*"),
            ("/a/*", StartsWith("/a/".to_owned()), "/a/*"),
            ("/*", Prefix(String::new()), "/"),
            ("=/a*", Exact("/a*".to_owned()), "=/a*"),
        ] {
            let parsed = PathMatch::parse(notation).expect("a path");
            assert_eq!((&parsed, parsed.to_string().as_str()), (&expected, shown), "{notation}");
        }
    }
}
