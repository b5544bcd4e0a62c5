//! Limit of the faults that are shown at once: a generated config may have one for each of its entities.

use crate::config::{Level, Violation};

/// Maximum number of violations of one level that are shown.
pub const MAX_SHOWN: usize = 1_000;

/// Keeps the first [`MAX_SHOWN`] violations of each level. For each level that has more, a last one counts them; it
/// has the place and the code of the first that is left out.
pub fn capped(violations: Vec<Violation>) -> Vec<Violation> {
    if violations.len() <= MAX_SHOWN {
        return violations;
    }
    let mut shown = Vec::new();
    let mut levels = [Level::Error, Level::Warning, Level::Info].map(|level| (level, 0_usize, None));
    for violation in violations {
        let known = levels.iter_mut().find(|(level, ..)| *level == violation.level);
        let Some((_, count, first)) = known else { continue };
        *count += 1;
        if *count <= MAX_SHOWN {
            shown.push(violation);
        } else if first.is_none() {
            *first = Some(violation);
        }
    }
    for (level, count, first) in levels {
        shown.extend(first.map(|first| rest(first, level, count - MAX_SHOWN)));
    }
    shown
}

/// Returns the violation that counts those that are left out, of which `first` is the first.
fn rest(first: Violation, level: Level, count: usize) -> Violation {
    let word = match (level, count) {
        (Level::Error, 1) => "error is",
        (Level::Error, _) => "errors are",
        (Level::Warning, 1) => "warning is",
        (Level::Warning, _) => "warnings are",
        (Level::Info, 1) => "info is",
        (Level::Info, _) => "infos are",
    };
    let message = format!("{count} more {word} not shown");
    let help = Some("correct those before, and the rest is shown".to_owned());
    Violation { message, help, related: Vec::new(), ..first }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violation(level: Level, number: usize) -> Violation {
        Violation {
            code: "US103",
            level,
            message: format!("fault {number}"),
            help: None,
            file: Some("a.yaml".to_owned()),
            line: u32::try_from(number).ok(),
            column: Some(1),
            path: format!("upstreams[{number}]"),
            pointer: None,
            related: Vec::new(),
        }
    }

    #[test]
    fn the_first_thousand_of_each_level_are_shown_and_the_rest_is_counted_last() {
        let of = |level, count: usize| (0..count).map(move |number| violation(level, number));
        for (errors, warnings, expected) in [
            (0, 0, vec![]),
            (MAX_SHOWN, 0, vec![]),
            (MAX_SHOWN, MAX_SHOWN, vec![]),
            (MAX_SHOWN + 1, 3, vec!["error 1000: 1 more error is not shown"]),
            (
                20_000,
                MAX_SHOWN + 2,
                vec![
                    "error 1000: 19000 more errors are not shown",
                    "warning 1000: 2 more warnings are not shown",
                ],
            ),
        ] {
            let all: Vec<Violation> = of(Level::Error, errors).chain(of(Level::Warning, warnings)).collect();
            let shown = capped(all.clone());
            let kept = errors.min(MAX_SHOWN) + warnings.min(MAX_SHOWN);
            let first = all.iter().filter(|it| it.line.is_some_and(|line| (line as usize) < MAX_SHOWN));
            assert!(shown[..kept].iter().eq(first), "{errors} and {warnings}");
            let rest = shown[kept..].iter();
            let rest: Vec<String> = rest
                .map(|it| format!("{} {}: {}", it.level, it.line.unwrap_or_default(), it.message))
                .collect();
            assert_eq!(rest, expected, "{errors} and {warnings}");
        }
    }
}
