//! Output of the commands to the terminal.
//!
//! Text of others, such as reasons, errors of Envoys and file names, cannot control the terminal: all but styled
//! text is printed without characters that a terminal would obey. A reader that stops early, as `head` does, is
//! no error: what is left is not printed.

use std::io::{self, ErrorKind, IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;

use crate::config::printable::printable_lines;

/// True once the reader of standard output is gone.
static IS_UNREAD: AtomicBool = AtomicBool::new(false);

/// Prints a line on standard output.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    styled(&printable_lines(text))
}

/// Prints a line with its colours on standard output. Text of others must be printable already.
pub(crate) fn styled(text: &str) -> anyhow::Result<()> {
    raw(&format!("{text}\n"))
}

/// Prints text unchanged and flushes it, such as a frame of a live table.
pub(crate) fn raw(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {
            IS_UNREAD.store(true, Ordering::Relaxed);
            Ok(())
        }
        written => written.context("cannot write to standard output"),
    }
}

/// True if the reader of standard output is gone, so that a command without an end should end.
pub(crate) fn is_unread() -> bool {
    IS_UNREAD.load(Ordering::Relaxed)
}

/// Prints a line on standard error, for a person. A failed write is ignored.
pub(crate) fn note(text: &str) {
    styled_note(&printable_lines(text));
}

/// Prints a line with its colours on standard error. Text of others must be printable already. A failed write is
/// ignored.
pub(crate) fn styled_note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Returns true if standard error is a terminal and the user has not disabled colours (`NO_COLOR`).
pub(crate) fn colour() -> bool {
    io::stderr().is_terminal() && wants_colour()
}

/// Returns true if standard output is a terminal and the user has not disabled colours (`NO_COLOR`).
pub(crate) fn stdout_colour() -> bool {
    stdout_is_terminal() && wants_colour()
}

/// Returns true if standard output is a terminal.
pub(crate) fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

fn wants_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Returns true if standard output is a terminal that can redraw earlier lines.
pub(crate) fn live() -> bool {
    stdout_is_terminal() && std::env::var_os("TERM").is_none_or(|name| name != "dumb")
}
