//! Output of the commands to the terminal.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;

/// Prints a line on standard output.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{text}").context("cannot write to standard output")
}

/// Prints text unchanged and flushes it, such as a frame of a live table.
pub(crate) fn raw(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("cannot write to standard output")
}

/// Prints a line on standard error, for a person. A failed write is ignored.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Returns true if standard error is a terminal and the user has not disabled colours (`NO_COLOR`).
pub(crate) fn colour() -> bool {
    io::stderr().is_terminal() && wants_colour()
}

/// Returns true if standard output is a terminal and the user has not disabled colours (`NO_COLOR`).
pub(crate) fn stdout_colour() -> bool {
    io::stdout().is_terminal() && wants_colour()
}

fn wants_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Returns true if standard output is a terminal that can redraw earlier lines.
pub(crate) fn live() -> bool {
    io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|name| name != "dumb")
}
