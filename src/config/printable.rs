//! Text of others, such as file names, reasons and errors of Envoys, as it may be printed: without characters by
//! which it could move the cursor, clear the screen or change the order of what is read.

use std::borrow::Cow;

/// Returns the text in one line: each character that a terminal would obey is written as `\u{1b}`, or as `\n`.
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, obeyed, |unsafe_one| match unsafe_one {
        '\n' | '\r' | '\t' => unsafe_one.escape_default().to_string(),
        _ => unsafe_one.escape_unicode().to_string(),
    })
}

/// Returns the text with its lines and tabs, and without all other characters that a terminal would obey.
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    let is_meant = |letter| obeyed(letter) && !matches!(letter, '\n' | '\t');
    escaped(text, is_meant, |unsafe_one| unsafe_one.escape_unicode().to_string())
}

/// Returns JSON text of equal meaning without characters that a terminal would obey. Outside of strings JSON has
/// none of them but line ends and tabs.
pub fn printable_json(json: &str) -> Cow<'_, str> {
    let is_meant = |letter| obeyed(letter) && !matches!(letter, '\n' | '\r' | '\t');
    escaped(json, is_meant, |unsafe_one| format!("\\u{:04x}", u32::from(unsafe_one)))
}

/// True for controls and for marks that override the direction of text.
fn obeyed(letter: char) -> bool {
    let overrides = matches!(
        letter,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    letter.is_control() || overrides
}

fn escaped(text: &str, is_unsafe: impl Fn(char) -> bool, escape: impl Fn(char) -> String) -> Cow<'_, str> {
    if !text.contains(&is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut printable = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        if is_unsafe(letter) {
            printable.push_str(&escape(letter));
        } else {
            printable.push(letter);
        }
    }
    Cow::Owned(printable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_nothing_of_it() {
        let check = |text: &str, line: &str, lines: &str| {
            assert_eq!((&*printable(text), &*printable_lines(text)), (line, lines));
        };
        check("checkout é 東京 \\u{1b}", "checkout é 東京 \\u{1b}", "checkout é 東京 \\u{1b}");
        check("a\u{1b}[2Jb", "a\\u{1b}[2Jb", "a\\u{1b}[2Jb");
        check("a\nb\tc\r", "a\\nb\\tc\\r", "a\nb\tc\\u{d}");
        check("a\u{9b}31mb\u{7f}", "a\\u{9b}31mb\\u{7f}", "a\\u{9b}31mb\\u{7f}");
        check("a\u{202e}b\u{2066}", "a\\u{202e}b\\u{2066}", "a\\u{202e}b\\u{2066}");
    }

    #[test]
    fn json_keeps_its_meaning() {
        let value = serde_json::json!({ "reason": "a\u{1b}\u{9b}\u{7f}\u{202e}\nb" });
        let text = serde_json::to_string_pretty(&value).expect("it is JSON");
        let printed = printable_json(&text);
        assert!(printed.chars().all(|letter| letter == '\n' || !obeyed(letter)), "{printed}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&printed).expect("it is JSON"), value);
    }
}
