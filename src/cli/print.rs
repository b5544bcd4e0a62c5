//! Output to the terminal: the one place that writes to it.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;

/// A line on standard output.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{text}").context("cannot write to standard output")
}

/// Text as it is, at once: a frame of a table that lives.
pub(crate) fn raw(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("cannot write to standard output")
}

/// A line on standard error, for a person; that nobody reads it is no fault.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// True when standard error is read by a person who has not asked for no colours.
pub(crate) fn colour() -> bool {
    io::stderr().is_terminal() && wants_colour()
}

/// The same of standard output.
pub(crate) fn stdout_colour() -> bool {
    io::stdout().is_terminal() && wants_colour()
}

fn wants_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// True when standard output is a terminal that can go back and draw over what it shows.
pub(crate) fn live() -> bool {
    io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|name| name != "dumb")
}
