//! Import circles between the units of a folder.
//!
//! A unit is a file `foo.rs` with its folder `foo/`. The file above a folder is one more unit. It may call
//! functions of its children while they use its items: only types and constants that it imports from a child
//! make it depend on the child. So types that children share may stand in the file above, if none of them is
//! made of types of a child.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::Source;

/// Arrows between the units of one folder: the place of the first import, by importer and imported. The empty
/// name is the file above the folder.
type Arrows = BTreeMap<(String, String), String>;

/// Returns a fault for each circle, with the import that each arrow stands for.
pub(crate) fn faults(sources: &[Source]) -> Vec<String> {
    let folders: BTreeSet<&str> =
        sources.iter().filter_map(|source| Some(source.module.rsplit_once('/')?.0)).collect();
    folders.into_iter().flat_map(|folder| faults_of(&arrows(sources, folder), folder)).collect()
}

/// Returns the child of the folder that contains this module; the empty name for anything else in it.
fn unit(folder: &str, path: &str, children: &BTreeSet<&str>) -> Option<String> {
    let below = path.strip_prefix(folder)?;
    if below.is_empty() {
        return Some(String::new());
    }
    let name = below.strip_prefix('/')?.split('/').next()?;
    Some(if children.contains(name) { name.to_owned() } else { String::new() })
}

/// Returns who uses whom in a folder.
fn arrows(sources: &[Source], folder: &str) -> Arrows {
    let below = |source: &'_ Source| -> Option<String> {
        let rest = source.module.strip_prefix(folder)?.strip_prefix('/')?;
        Some(rest.split('/').next()?.to_owned())
    };
    let children: BTreeSet<String> = sources.iter().filter_map(below).collect();
    let children: BTreeSet<&str> =
        children.iter().map(String::as_str).filter(|name| *name != "tests").collect();
    let mut arrows = Arrows::new();
    for source in sources.iter().filter(|source| !source.is_test()) {
        let Some(from) = unit(folder, &source.module, &children) else { continue };
        let mut add = |line: usize, to: String| {
            if from != to {
                let place = format!("src/{}.rs:{line}", source.module);
                arrows.entry((from.clone(), to)).or_insert(place);
            }
        };
        for (line, path) in source.paths() {
            let Some(to) = unit(folder, &path.join("/"), &children) else { continue };
            if !from.is_empty() || names_type(&path) {
                add(line, to);
            }
        }
    }
    arrows
}

/// Returns true if a path leads to a type or a constant, and not only to a module or a function.
fn names_type(path: &[String]) -> bool {
    path.iter().any(|segment| segment.starts_with(char::is_uppercase))
}

/// Returns a fault for each pair of units that depend on each other, directly or through others.
fn faults_of(arrows: &Arrows, folder: &str) -> Vec<String> {
    let units: BTreeSet<&String> = arrows.keys().map(|(from, _)| from).collect();
    let mut faults = Vec::new();
    let mut known: BTreeSet<&String> = BTreeSet::new();
    for one in &units {
        for other in &units {
            if one >= other || (known.contains(one) && known.contains(other)) {
                continue;
            }
            if let (Some(there), Some(back)) =
                (shortest_path(arrows, one, other), shortest_path(arrows, other, one))
            {
                known.extend([*one, *other]);
                let imports: Vec<String> = there.into_iter().chain(back).collect();
                let imports = imports.join("\n    ");
                let (one, other) = (named(one), named(other));
                faults.push(format!(
                    "src/{folder}/: {one} and {other} depend on each other: \
                     move the shared items into a file of their own\n    {imports}"
                ));
            }
        }
    }
    faults
}

fn named(unit: &str) -> String {
    if unit.is_empty() { "the file above".to_owned() } else { format!("`{unit}`") }
}

/// Returns the imports along the shortest path from one unit to another.
fn shortest_path(arrows: &Arrows, from: &str, to: &str) -> Option<Vec<String>> {
    let mut seen = BTreeSet::from([from.to_owned()]);
    let mut front = vec![(from.to_owned(), Vec::new())];
    while !front.is_empty() {
        let mut next = Vec::new();
        for (at, imports) in front {
            for ((_, target), place) in arrows.iter().filter(|((source, _), _)| *source == at) {
                if seen.insert(target.clone()) {
                    let imports = [imports.clone(), vec![format!("{place} uses {}", named(target))]].concat();
                    if target == to {
                        return Some(imports);
                    }
                    next.push((target.clone(), imports));
                }
            }
        }
        front = next;
    }
    None
}
