//! Output of a demo for people: permanent lines and, on a terminal, a live table below them.

use std::net::SocketAddr;
use std::time::Duration;

use comfy_table::{Cell, CellAlignment, Color, Table, presets};
use owo_colors::{OwoColorize as _, Style};

use crate::cli::demo::report::counted;
use crate::cli::print;

/// Maximum length of an error's text. Texts may be long, and a wrapped line would break the count of lines to
/// go back.
const WIDTH: usize = 76;

/// Destination of lines, and the size of the redrawn area.
#[derive(Debug)]
pub(crate) struct DemoScreen {
    /// True if lines go to standard output; false if that is reserved for the summary in JSON or YAML.
    to_stdout: bool,
    live: bool,
    colour: bool,
    /// Number of lines that the table and the lines below it take.
    drawn: usize,
}

/// Row of the table: a backend.
#[derive(Debug)]
pub(crate) struct BackendRow {
    pub(crate) name: String,
    pub(crate) owner: BackendOwner,
    /// Number of requests it answered in the last second.
    pub(crate) rate: u64,
    /// Number of requests it has answered in total.
    pub(crate) served: u64,
}

/// Owner of a backend.
#[derive(Debug, Clone, Copy)]
pub(crate) enum BackendOwner {
    /// Backend of the demo.
    Ours { address: SocketAddr, alive: bool },
    /// Backend that the user added; its address and state are unknown.
    Theirs,
}

/// Values of one frame.
#[derive(Debug)]
pub(crate) struct ScreenFrame<'a> {
    pub(crate) rows: &'a [BackendRow],
    pub(crate) phase: &'static str,
    pub(crate) since: Duration,
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) slowest: Duration,
    pub(crate) first_error: Option<&'a str>,
}

impl DemoScreen {
    /// Returns a screen with lines and the table on standard output; no table without a terminal.
    pub(crate) fn stdout() -> Self {
        Self { to_stdout: true, live: print::live(), colour: print::stdout_colour(), drawn: 0 }
    }

    /// Returns a screen with lines on standard error, and no table.
    pub(crate) fn stderr() -> Self {
        Self { to_stdout: false, live: false, colour: print::colour(), drawn: 0 }
    }

    /// Prints a permanent line.
    pub(crate) fn line(&mut self, text: &str) -> anyhow::Result<()> {
        self.erase()?;
        if self.to_stdout {
            print::styled(text)?;
            anyhow::ensure!(!print::is_unread(), "nobody reads the output any more");
            return Ok(());
        }
        print::styled_note(text);
        Ok(())
    }

    /// Prints the line of a phase that is over.
    pub(crate) fn phase(&mut self, text: &str, good: bool) -> anyhow::Result<()> {
        let (mark, style) = if good { ("✓", Style::new().green()) } else { ("✗", Style::new().red()) };
        let mark = self.paint(mark, style);
        self.line(&format!("{mark} {text}"))
    }

    /// Dims text, such as a comment on the next line.
    pub(crate) fn dim(&self, text: &str) -> String {
        self.paint(text, Style::new().dimmed())
    }

    fn paint(&self, text: &str, style: Style) -> String {
        if self.colour { text.style(style).to_string() } else { text.to_owned() }
    }

    /// Draws over the last frame, in one write so that nothing flickers.
    pub(crate) fn draw(&mut self, frame: &ScreenFrame<'_>) -> anyhow::Result<()> {
        if !self.live {
            return Ok(());
        }
        let lines = self.lines(frame);
        let mut text = cursor_up(self.drawn);
        for line in &lines {
            text.push_str(line);
            text.push_str("\x1b[K\n");
        }
        text.push_str("\x1b[J");
        self.drawn = lines.len();
        print::raw(&text)
    }

    fn erase(&mut self) -> anyhow::Result<()> {
        if self.drawn == 0 {
            return Ok(());
        }
        let text = cursor_up(self.drawn) + "\x1b[J";
        self.drawn = 0;
        print::raw(&text)
    }

    fn lines(&self, frame: &ScreenFrame<'_>) -> Vec<String> {
        let mut lines: Vec<String> = self.table(frame.rows).lines().collect();
        let errors = counted(frame.errors, "error");
        let style = if frame.errors == 0 { Style::new().green() } else { Style::new().red().bold() };
        lines.push(format!(
            " {}   {}   slowest {} ms",
            counted(frame.requests, "request"),
            self.paint(&errors, style),
            frame.slowest.as_millis()
        ));
        if let Some(error) = frame.first_error {
            let error: String = error.chars().filter(|letter| !letter.is_control()).take(WIDTH).collect();
            lines.push(format!(" {}", self.paint(&error, Style::new().red())));
        }
        let phase = self.paint(frame.phase, Style::new().bold());
        lines.push(format!(" {phase}, for {} s; Ctrl-C ends", frame.since.as_secs()));
        lines
    }

    fn table(&self, rows: &[BackendRow]) -> Table {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        if !self.colour {
            table.force_no_tty();
        }
        table.set_header(["backend", "address", "state", "requests/s", "served"]);
        table.add_rows(rows.iter().map(cells));
        for number in [3, 4] {
            if let Some(column) = table.column_mut(number) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }
}

fn cells(row: &BackendRow) -> [Cell; 5] {
    let (address, state) = match row.owner {
        BackendOwner::Ours { address, alive: true } => {
            (address.to_string(), Cell::new("alive").fg(Color::Green))
        }
        BackendOwner::Ours { address, alive: false } => {
            (address.to_string(), Cell::new("dead").fg(Color::Red))
        }
        BackendOwner::Theirs => (String::new(), Cell::new("yours")),
    };
    let rate = Cell::new(row.rate);
    let rate = if row.rate > 0 { rate.fg(Color::Green) } else { rate };
    [Cell::new(&row.name), Cell::new(address), state, rate, Cell::new(row.served)]
}

/// Returns the sequence that moves to the start of the line this many lines above.
fn cursor_up(lines: usize) -> String {
    if lines == 0 { String::new() } else { format!("\x1b[{lines}F") }
}
