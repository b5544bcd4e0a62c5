//! Place of an entity in the config and in the body of a write, for the violations of a refused change.

use crate::config::Violation;

/// Place of an entity: its path in the config, by which violations name it, and its pointer in the body that
/// the client sent.
#[derive(Debug, Clone)]
pub(crate) struct BodyPlace {
    /// Path in the config, such as `upstreams.shop` or `upstreams.shop.targets[1]`.
    pub(crate) path: String,
    /// Pointer of the path in the stored entity.
    inner: String,
    /// Pointer of the path in the body.
    pub(crate) outer: String,
}

impl BodyPlace {
    /// Returns the place with this path in the config, for a body that is the entity itself.
    pub(crate) fn new(path: String, inner: String) -> Self {
        Self { path, inner, outer: String::new() }
    }

    /// Returns the place in a body that has the entity at this pointer.
    pub(crate) fn at(self, outer: String) -> Self {
        Self { outer, ..self }
    }

    /// Returns the length of the path that leads to this entity; none if `path` leads elsewhere.
    fn reach(&self, path: &str) -> Option<usize> {
        let rest = path.strip_prefix(&self.path)?;
        (rest.is_empty() || rest.starts_with(['.', '['])).then_some(self.path.len())
    }
}

/// Returns the violation with its pointer in a body that has these entities; none for a fault elsewhere.
pub(crate) fn in_body(violation: Violation, places: &[BodyPlace]) -> Violation {
    let near = places.iter().filter_map(|place| Some((place.reach(&violation.path)?, place)));
    let place = near.max_by_key(|(reach, _)| *reach).map(|(_, place)| place);
    let pointer = violation.pointer.as_deref().zip(place).and_then(|(pointer, place)| {
        let inner = pointer.strip_prefix(&place.inner)?;
        Some(format!("{}{inner}", place.outer))
    });
    Violation { pointer, ..violation }
}
