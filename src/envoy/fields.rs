//! The fields of encoded messages, for those that look into one without decoding it.

use std::str::Utf8Error;

use prost::DecodeError;
use prost::encoding::decode_varint;

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
