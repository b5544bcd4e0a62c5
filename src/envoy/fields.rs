//! Fields of encoded messages, for readers that do not decode the whole message.

use std::net::{IpAddr, SocketAddr};
use std::str::Utf8Error;

use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// Error for bytes that are no encoding of the expected message.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Malformed encoding.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Text that is not UTF-8.
    #[error("a text is not UTF-8")]
    NotText(#[from] Utf8Error),
    /// Field that is longer than the rest of its message.
    #[error("a field is longer than its message")]
    Cut,
}

/// Field of a message: its number and its value.
#[derive(Debug, Clone, Copy)]
pub enum WireField<'a> {
    /// Varint.
    Number(u32, u64),
    /// Length-delimited value: text, bytes or a message.
    Bytes(u32, &'a [u8]),
}

/// Takes a length-delimited value off the front of `rest`.
///
/// # Errors
///
/// Returns an error if the length is malformed, or larger than what follows.
pub fn value<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], ReadError> {
    let length = usize::try_from(decode_varint(rest)?).map_err(|_| ReadError::Cut)?;
    let (value, after) = rest.split_at_checked(length).ok_or(ReadError::Cut)?;
    *rest = after;
    Ok(value)
}

/// Converts a value to text.
///
/// # Errors
///
/// Returns an error if it is not UTF-8.
pub fn text(value: &[u8]) -> Result<&str, ReadError> {
    Ok(std::str::from_utf8(value)?)
}

/// Calls `each` with every field that is a varint or length-delimited, and skips the others.
///
/// # Errors
///
/// Returns an error if the bytes are no message, or if `each` does.
pub fn each_field<'a>(
    mut rest: &'a [u8],
    mut each: impl FnMut(WireField<'a>) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    while !rest.is_empty() {
        let (number, wire_type) = decode_key(&mut rest)?;
        match wire_type {
            WireType::Varint => each(WireField::Number(number, decode_varint(&mut rest)?))?,
            WireType::LengthDelimited => each(WireField::Bytes(number, value(&mut rest)?))?,
            other => skip_field(other, number, &mut rest, DecodeContext::default())?,
        }
    }
    Ok(())
}

/// Reads an `Address`; `None` if it is not an IP address with a port.
///
/// # Errors
///
/// Returns an error if the bytes are no message.
pub fn socket_of(address: &[u8]) -> Result<Option<SocketAddr>, ReadError> {
    let (mut ip, mut port) = (None, None);
    each_field(address, |field| {
        let WireField::Bytes(1, socket) = field else { return Ok(()) };
        each_field(socket, |field| {
            match field {
                WireField::Bytes(2, address) => ip = text(address)?.parse::<IpAddr>().ok(),
                WireField::Number(3, value) => port = u16::try_from(value).ok(),
                _ => {}
            }
            Ok(())
        })
    })?;
    Ok(ip.zip(port).map(SocketAddr::from))
}
