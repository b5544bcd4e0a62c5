//! Values of plain scalars: by the core schema of YAML 1.2 (section 10.3.2), in which `no`, `off` and `012:30` are
//! strings, or as tools in Go read them.

use std::borrow::Cow;

use crate::config::tree::{Schema, Value};

/// Parses a scalar that is neither quoted nor tagged.
pub(super) fn plain(text: Cow<'_, str>, schema: Schema) -> Value {
    if schema == Schema::Go
        && let Some(value) = go(&text)
    {
        return value;
    }
    // Most scalars are words, which are recognized by the first character.
    let value = match text.as_bytes().first() {
        None | Some(b'~' | b'n' | b'N') if null(&text) => Some(Value::Null),
        Some(b't' | b'T' | b'f' | b'F') => bool(&text).map(Value::Bool),
        Some(b'0'..=b'9' | b'+' | b'-' | b'.') => number(&text),
        _ => None,
    };
    value.unwrap_or_else(|| Value::String(text.into_owned()))
}

/// Parses what sigs.k8s.io/yaml reads otherwise than the core schema: the words of YAML 1.1 for booleans, the prefixes of
/// Go's integers, `_` between digits, and whole numbers that are written with a fraction or an exponent.
fn go(text: &str) -> Option<Value> {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Some(Value::Bool(true)),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => return Some(Value::Bool(false)),
        _ => {}
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return None;
    }
    let digits = unsigned.replace('_', "");
    let (digits, radix) = match digits.get(..2) {
        Some("0x" | "0X") => (&digits[2..], 16),
        Some("0o" | "0O") => (&digits[2..], 8),
        Some("0b" | "0B") => (&digits[2..], 2),
        Some(_) if digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            (&digits[1..], 8)
        }
        _ => (digits.as_str(), 10),
    };
    let negative = text.starts_with('-');
    if let Ok(value) = i64::from_str_radix(digits, radix) {
        return Some(Value::Integer(if negative { -value } else { value }));
    }
    Some(match number(digits)? {
        Value::Float(value) if value.fract() == 0.0 && value.abs() < 9e15 => {
            Value::Integer(if negative { -value } else { value } as i64)
        }
        Value::Float(value) if negative => Value::Float(-value),
        other => other,
    })
}

/// Parses a scalar with a core tag; `None` if the text does not fit the tag.
pub(super) fn tagged(tag: &str, text: &str) -> Option<Value> {
    match tag {
        "str" => Some(Value::String(text.to_owned())),
        "null" => null(text).then_some(Value::Null),
        "bool" => bool(text).map(Value::Bool),
        "int" => integer(text),
        "float" => match number(text)? {
            Value::Integer(value) => Some(Value::Float(value as f64)),
            Value::Large(value) => Some(Value::Float(value as f64)),
            other => Some(other),
        },
        _ => None,
    }
}

fn null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

fn bool(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

fn number(text: &str) -> Option<Value> {
    integer(text).or_else(|| float(text).map(Value::Float))
}

/// Parses an integer. One too large for 64 bits becomes a `Float`.
fn integer(text: &str) -> Option<Value> {
    let (digits, radix) = match text.get(..2) {
        Some("0x") => (&text[2..], 16),
        Some("0o") => (&text[2..], 8),
        _ => (text.strip_prefix(['+', '-']).unwrap_or(text), 10),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return None;
    }
    let signed = if radix == 10 { text } else { digits };
    Some(match (i64::from_str_radix(signed, radix), u64::from_str_radix(signed, radix)) {
        (Ok(value), _) => Value::Integer(value),
        (Err(_), Ok(value)) => Value::Large(value),
        (Err(_), Err(_)) if radix == 10 => Value::Float(text.parse().ok()?),
        (Err(_), Err(_)) => Value::Float(
            digits
                .chars()
                .filter_map(|digit| digit.to_digit(radix))
                .fold(0.0, |value, digit| value * f64::from(radix) + f64::from(digit)),
        ),
    })
}

fn float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        return Some(if text.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY });
    }
    if matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Some(f64::NAN);
    }
    // Rust also parses `inf`, `nan` and `infinity`, which are strings in YAML.
    let numeric = unsigned.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'));
    (numeric && !unsigned.starts_with(['+', '-'])).then(|| text.parse().ok())?
}
