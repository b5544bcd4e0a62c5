//! Deserializers of keys and of enum variants.

use serde::de::value::BorrowedStrDeserializer;
use serde::de::{DeserializeSeed, Deserializer, EnumAccess, VariantAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::Decoder;
use super::error::Error;
use crate::config::Span;
use crate::config::Step;
use crate::config::code::WRONG_TYPE;
use crate::config::tree::{Node, Value};

/// Key to be deserialized to a field, a variant, or a value of its own.
#[derive(Clone, Copy)]
pub(super) struct VariantName<'a>(pub(super) &'a str);

impl<'a> Deserializer<'a> for VariantName<'a> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str(self.0)
    }

    fn deserialize_option<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'a>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_enum(BorrowedStrDeserializer::new(self.0))
    }

    forward_to_deserialize_any! {
        <V: Visitor<'a>>
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq
        tuple tuple_struct map struct identifier ignored_any
    }
}

/// Enum variant: a name alone, or the only key of a mapping.
///
/// A fault in it sets aside the whole value, unless there is a smaller node inside the content to set aside.
#[derive(Clone, Copy)]
pub(super) struct Choice<'a> {
    pub(super) name: &'a str,
    pub(super) span: Option<Span>,
    pub(super) content: Option<&'a Node>,
    pub(super) decoder: Decoder<'a>,
}

impl<'a> Choice<'a> {
    fn step(self, error: Error) -> Error {
        match self.content {
            Some(_) => error.inside(Step::Key(self.name.to_owned())),
            None => error,
        }
    }

    fn content<T>(self, decode: impl FnOnce(Decoder<'a>) -> Result<T, Error>) -> Result<T, Error> {
        let run = self.decoder.run;
        let Some(node) = self.content else {
            let help = format!("write it as `{}: …`", self.name);
            return Err(Error::fault(WRONG_TYPE, format!("`{}` takes a value", self.name), Some(help)));
        };
        decode(Decoder { node, run }).map_err(|error| self.step(error.at(node, node.span, run)))
    }
}

impl<'a> EnumAccess<'a> for Choice<'a> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'a>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        let Decoder { node, run } = self.decoder;
        match seed.deserialize(VariantName(self.name)) {
            Ok(variant) => Ok((variant, self)),
            Err(error) => Err(self.step(error.at(node, self.span, run))),
        }
    }
}

impl<'a> VariantAccess<'a> for Choice<'a> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        match self.content {
            None | Some(Node { value: Value::Null, .. }) => Ok(()),
            Some(_) => self.content(|_| {
                let help = format!("write `{}` alone", self.name);
                Err(Error::fault(WRONG_TYPE, format!("`{}` takes no value", self.name), Some(help)))
            }),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'a>>(self, seed: T) -> Result<T::Value, Error> {
        self.content(|decoder| seed.deserialize(decoder))
    }

    fn tuple_variant<V: Visitor<'a>>(self, length: usize, visitor: V) -> Result<V::Value, Error> {
        self.content(|decoder| decoder.deserialize_tuple(length, visitor))
    }

    fn struct_variant<V: Visitor<'a>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.content(|decoder| decoder.deserialize_struct("", fields, visitor))
    }
}
