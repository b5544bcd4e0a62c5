//! Paths: which requests a path of a route takes, and the path that targets see (Kong's router/utils.lua).
//!
//! Targets see the base, which is the service's path, without its last `/`, then `/`, then what is left of the
//! request's path without its first `/`. Where nothing is left they see the base without its last `/`, with it when
//! the request ended in `/`. So one path may need two native routes: one for what ends or goes on with `/` after the
//! match, one for all else.

/// Native form of a path of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NativePath {
    /// Path in the native config; none: any.
    pub path: Option<String>,
    /// Regex and replacement for the path that targets see; none: as it came.
    pub rewrite: Option<(String, String)>,
    /// False for the second form of a path, which the first goes before.
    pub is_first: bool,
}

/// Path of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoutePath<'p> {
    /// Prefix, not on segments.
    Prefix(&'p str),
    /// Regex that matches at the start.
    Regex(&'p str),
}

impl<'p> RoutePath<'p> {
    /// Parses a path of a route.
    pub fn parse(path: &'p str) -> Self {
        match path.strip_prefix('~') {
            Some(regex) => Self::Regex(regex.strip_prefix('^').unwrap_or(regex)),
            None => Self::Prefix(path),
        }
    }

    /// Length that counts in the order of routes; 0 for a regex.
    pub fn rank_length(self) -> usize {
        match self {
            Self::Prefix(path) => path.len(),
            Self::Regex(_) => 0,
        }
    }
}

/// Returns the native forms of a path: `None` for a route without paths, which strips nothing. `base` is the service's
/// path, `/` if it has none.
pub fn native(path: Option<RoutePath<'_>>, base: &str, strips: bool) -> Vec<NativePath> {
    let base = base.strip_suffix('/').unwrap_or(base);
    let matched = path.map(|path| match path {
        RoutePath::Prefix(prefix) => format!("{prefix}*"),
        RoutePath::Regex(regex) => format!("~(?:{regex}).*"),
    });
    let one = |rewrite| vec![NativePath { path: matched.clone(), rewrite, is_first: true }];
    let Some(path) = path.filter(|_| strips) else {
        return one((!base.is_empty()).then(|| ("^(.*)$".to_owned(), format!("{}\\1", replacement(base)))));
    };
    let (pattern, groups) = match path {
        RoutePath::Prefix("/") if base.is_empty() => return one(None),
        RoutePath::Prefix(prefix) => (escaped(prefix), 0),
        RoutePath::Regex(regex) => (format!("(?:{regex})"), capturing_groups(regex)),
    };
    let (base, rest) = (replacement(base), groups + 1);
    let ends_in_slash = matches!(path, RoutePath::Prefix(prefix) if prefix.ends_with('/'));
    if base.is_empty() || ends_in_slash {
        return one(Some((format!("^{pattern}/?(.*)$"), format!("{base}/\\{rest}"))));
    }
    let on_segment = match path {
        RoutePath::Prefix(prefix) => prefix.to_owned(),
        RoutePath::Regex(regex) => format!("~(?:{regex})(?:/.*)?"),
    };
    vec![
        NativePath {
            path: Some(on_segment),
            rewrite: Some((format!("^{pattern}(/.*)?$"), format!("{base}\\{rest}"))),
            is_first: true,
        },
        NativePath {
            path: matched,
            rewrite: Some((format!("^{pattern}/?(.*)$"), format!("{base}/\\{rest}"))),
            is_first: false,
        },
    ]
}

/// Escapes a text for a regex.
pub fn escaped(text: &str) -> String {
    let special = |c: char| "\\.+*?()|[]{}^$".contains(c);
    text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

/// Escapes a text for the replacement of a regex.
fn replacement(text: &str) -> String {
    text.replace('\\', "\\\\")
}

/// Returns the number of capturing groups of a regex.
fn capturing_groups(regex: &str) -> usize {
    let (mut count, mut is_class) = (0, false);
    let mut rest = regex.char_indices();
    while let Some((at, c)) = rest.next() {
        match c {
            '\\' => drop(rest.next()),
            '[' => is_class = true,
            ']' => is_class = false,
            '(' if !is_class => {
                let after = &regex[at + 1..];
                let is_named =
                    after.starts_with("?P<") || (after.starts_with("?<") && !after.starts_with("?<="));
                count += usize::from(!after.starts_with('?') || is_named);
            }
            _ => {}
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;

    /// Returns the path that targets see, by the native forms of a path.
    fn seen(base: &str, path: &str, strips: bool, request: &str) -> Option<String> {
        let (request, query) =
            request.split_once('?').map_or((request, None), |(path, query)| (path, Some(query)));
        let takes = |form: &&NativePath| match form.path.as_deref() {
            None => true,
            Some(path) => match (path.strip_prefix('~'), path.strip_suffix('*')) {
                (Some(regex), _) => Regex::new(&format!("^(?:{regex})$")).unwrap().is_match(request),
                (None, Some(prefix)) => request.starts_with(prefix),
                (None, None) => {
                    request.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                }
            },
        };
        let forms = native(Some(RoutePath::parse(path)), base, strips);
        let form = forms.iter().find(takes)?;
        let path = match &form.rewrite {
            None => request.to_owned(),
            Some((regex, to)) => {
                let to = Regex::new(r"\\(\d)").unwrap().replace_all(to, "$${$1}").into_owned();
                Regex::new(regex).unwrap().replace_all(request, to.as_str()).into_owned()
            }
        };
        Some(query.map_or(path.clone(), |query| format!("{path}?{query}")))
    }

    #[test]
    fn targets_see_what_kongs_targets_see() {
        for (base, path, strips, request, expected) in [
            ("/s", "/t", true, "/t/r", "/s/r"),
            ("/s", "/t", true, "/t", "/s"),
            ("/s", "/t/", true, "/t/", "/s/"),
            ("/s", "/f", false, "/f/r", "/s/f/r"),
            ("/", "/t", true, "/t", "/"),
            ("/", "/t", true, "/t/", "/"),
            ("/", "/t", true, "/t/r?q", "/r?q"),
            ("/", "/t", true, "/tx", "/x"),
            ("/s/", "/t", true, "/t", "/s"),
            ("/", r"~/v\d/t", true, "/v1/t/r", "/r"),
            ("/s", "/t", true, "/t/", "/s/"),
            ("/s", "/t", true, "/tx", "/s/x"),
            ("/s", "/", true, "/", "/s/"),
            ("/s", "/", true, "/r", "/s/r"),
            ("/", "/", true, "/r/", "/r/"),
            ("/s", r"~/(a|b)/(?<id>\d+)", true, "/b/12/x", "/s/x"),
            ("/s", r"~/(a|b)/(?<id>\d+)", true, "/b/12", "/s"),
            ("/s", "/a.b", true, "/a.b/c", "/s/c"),
            ("/", "/f", false, "/f/r", "/f/r"),
        ] {
            assert_eq!(
                seen(base, path, strips, request).as_deref(),
                Some(expected),
                "{base} {path} {request}"
            );
        }
        assert_eq!(seen("/", "/a.b", true, "/axb"), None);
        assert_eq!(seen("/", "~/a", true, "/b/a"), None, "a regex matches at the start only");
    }

    #[test]
    fn a_route_without_paths_strips_nothing() {
        let forms = native(None, "/s", true);
        assert_eq!(forms.len(), 1);
        assert_eq!(forms[0].path, None);
        assert_eq!(forms[0].rewrite, Some(("^(.*)$".to_owned(), "/s\\1".to_owned())));
    }
}
