//! The fields of encoded messages, for those that look into one without decoding it.

use std::net::{IpAddr, SocketAddr};
use std::str::Utf8Error;

use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// What was read is no encoding of its message.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It does not decode.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A text is none.
    #[error("a text is not UTF-8")]
    NotText(#[from] Utf8Error),
    /// It ends within a field.
    #[error("a field is longer than its message")]
    Cut,
}

/// A field of a message: its number, and what follows.
#[derive(Debug, Clone, Copy)]
pub enum Field<'a> {
    /// A varint.
    Number(u32, u64),
    /// What has a length: a text or a message.
    Bytes(u32, &'a [u8]),
}

/// The value at the front of `rest`, which begins with its length. It is taken off.
///
/// # Errors
///
/// When there is none, or less of it than it says.
pub fn value<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], ReadError> {
    let length = usize::try_from(decode_varint(rest)?).map_err(|_| ReadError::Cut)?;
    let (value, after) = rest.split_at_checked(length).ok_or(ReadError::Cut)?;
    *rest = after;
    Ok(value)
}

/// A value that is text.
///
/// # Errors
///
/// When it is none.
pub fn text(value: &[u8]) -> Result<&str, ReadError> {
    Ok(std::str::from_utf8(value)?)
}

/// Calls `each` with every field that is a varint or has a length; the others are passed over.
///
/// # Errors
///
/// When it is no message, or as `each` says.
pub fn each_field<'a>(
    mut rest: &'a [u8],
    mut each: impl FnMut(Field<'a>) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    while !rest.is_empty() {
        let (number, wire_type) = decode_key(&mut rest)?;
        match wire_type {
            WireType::Varint => each(Field::Number(number, decode_varint(&mut rest)?))?,
            WireType::LengthDelimited => each(Field::Bytes(number, value(&mut rest)?))?,
            other => skip_field(other, number, &mut rest, DecodeContext::default())?,
        }
    }
    Ok(())
}

/// Of an `Address`; none when it is not one of IP.
///
/// # Errors
///
/// When it is no message.
pub fn socket_of(address: &[u8]) -> Result<Option<SocketAddr>, ReadError> {
    let (mut ip, mut port) = (None, None);
    each_field(address, |field| {
        let Field::Bytes(1, socket) = field else { return Ok(()) };
        each_field(socket, |field| {
            match field {
                Field::Bytes(2, address) => ip = text(address)?.parse::<IpAddr>().ok(),
                Field::Number(3, value) => port = u16::try_from(value).ok(),
                _ => {}
            }
            Ok(())
        })
    })?;
    Ok(ip.zip(port).map(SocketAddr::from))
}
