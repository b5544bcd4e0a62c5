//! Suggestions for mistyped names, at a bounded cost for a whole config.

use crate::config::near;

/// Maximum number of names that are compared in one build. A suggestion is a favor: it must not cost the
/// product of the faults and the names.
const MAX_COMPARISONS: usize = 200_000;

/// Search for similar names, until the comparisons of a build are used up.
#[derive(Debug)]
pub struct Suggestions {
    /// Comparisons that are left.
    left: usize,
}

impl Default for Suggestions {
    fn default() -> Self {
        Self { left: MAX_COMPARISONS }
    }
}

impl Suggestions {
    /// Returns candidates as [`near`] does; none once the comparisons are used up. A search that has begun is
    /// completed.
    pub fn near<'a>(&mut self, word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
        if self.left == 0 {
            return Vec::new();
        }
        let left = &mut self.left;
        near(word, candidates.into_iter().inspect(|_| *left = left.saturating_sub(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_comparisons_of_a_build_are_bounded_however_many_faults_it_has() {
        let names: Vec<String> = (0..10_000).map(|number| format!("upstream-{number}")).collect();
        let (mut compared, mut suggestions) = (0, Suggestions::default());
        let mut found = Vec::new();
        for fault in 0..10_000 {
            let candidates = names.iter().map(String::as_str).inspect(|_| compared += 1);
            found.push(suggestions.near(&format!("upsteam-{fault}"), candidates).len());
        }
        assert_eq!(compared, MAX_COMPARISONS);
        assert_eq!(found.iter().position(|found| *found == 0), Some(MAX_COMPARISONS / names.len()));
        assert!(found[..MAX_COMPARISONS / names.len()].iter().all(|found| *found == 2));
    }
}
