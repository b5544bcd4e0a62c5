//! Where messages stand in messages.
//!
//! That is all that one encoding for one value needs of the descriptors, and it is made at build time: the
//! descriptors themselves take 15 MB in memory, which a server spends only when somebody asks for JSON or gives
//! resources in it.

/// The fields of a message that are messages themselves.
#[derive(Debug)]
pub struct Shape {
    /// The full name, such as `envoy.config.cluster.v3.Cluster`.
    pub name: &'static str,
    /// It is an entry of a map, of which the order means nothing.
    pub is_map_entry: bool,
    /// The number of each such field, ascending, with the place of its message among all.
    messages: &'static [(u32, u16)],
}

/// Sorted by name.
static SHAPES: &[Shape] = &include!(concat!(env!("OUT_DIR"), "/shapes.rs"));

/// Of the message with this full name.
pub fn of(full_name: &str) -> Option<&'static Shape> {
    let at = SHAPES.binary_search_by(|shape| shape.name.cmp(full_name)).ok()?;
    Some(&SHAPES[at])
}

/// Of the message that a type URL names.
pub fn of_type_url(type_url: &str) -> Option<&'static Shape> {
    of(type_url.rsplit('/').next()?)
}

impl Shape {
    /// Of the messages in this field; none when it has none.
    pub fn field(&self, number: u32) -> Option<&'static Shape> {
        let at = self.messages.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        Some(&SHAPES[usize::from(self.messages[at].1)])
    }
}

#[cfg(test)]
mod tests {
    use prost_reflect::Kind;

    use super::*;
    use crate::envoy::descriptors;

    #[test]
    fn they_are_as_the_descriptors_say() {
        let names = descriptors::names();
        assert_eq!(names.len(), SHAPES.len());
        for name in names {
            let descriptor = descriptors::message(&name).expect("it is one of them");
            let shape = of(&name).expect("each has one");
            assert_eq!(shape.is_map_entry, descriptor.is_map_entry(), "{name}");
            for field in descriptor.fields() {
                let expected = match field.kind() {
                    Kind::Message(inner) => Some(inner.full_name().to_owned()),
                    _ => None,
                };
                let found = shape.field(field.number()).map(|shape| shape.name.to_owned());
                assert_eq!(found, expected, "{}", field.full_name());
            }
        }
    }
}
