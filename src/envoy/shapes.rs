//! Nesting of messages: the fields of each message that are messages themselves.
//!
//! The canonical encoding needs nothing else of the descriptors, and this is generated at build time. The
//! descriptors themselves take 15 MB of memory, which a server spends only when JSON is requested or raw
//! resources are given in it.

/// Fields of a message that are messages themselves.
#[derive(Debug)]
pub struct MessageShape {
    /// Full name, such as `envoy.config.cluster.v3.Cluster`.
    pub name: &'static str,
    /// True for an entry of a map, whose order has no meaning.
    pub is_map_entry: bool,
    /// Numbers of these fields, ascending, each with the index of its message in `SHAPES`.
    messages: &'static [(u32, u16)],
}

/// All shapes, sorted by name.
static SHAPES: &[MessageShape] = &include!(concat!(env!("OUT_DIR"), "/shapes.rs"));

/// Returns the shape of the message with this full name.
pub fn of(full_name: &str) -> Option<&'static MessageShape> {
    let at = SHAPES.binary_search_by(|shape| shape.name.cmp(full_name)).ok()?;
    Some(&SHAPES[at])
}

/// Returns the shape of the message that a type URL names.
pub fn of_type_url(type_url: &str) -> Option<&'static MessageShape> {
    of(type_url.rsplit('/').next()?)
}

impl MessageShape {
    /// Returns the shape of the messages in this field; `None` if it holds no message.
    pub fn field(&self, number: u32) -> Option<&'static MessageShape> {
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
