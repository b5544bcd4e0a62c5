//! Report of the measurements, as a table for `benches/README.md` or as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::fleet::MissedChanges;

/// Figure that was measured several times, in ascending order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Series(Vec<f64>);

impl Series {
    /// Collects durations, in milliseconds.
    pub(crate) fn of(durations: impl IntoIterator<Item = Duration>) -> Self {
        let mut values: Vec<f64> = durations.into_iter().map(|it| it.as_secs_f64() * 1e3).collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// Returns the median; NaN without values.
    pub(crate) fn median(&self) -> f64 {
        match self.0.len() {
            0 => f64::NAN,
            count if count % 2 == 1 => self.0[count / 2],
            count => f64::midpoint(self.0[count / 2 - 1], self.0[count / 2]),
        }
    }

    fn json(&self) -> Value {
        json!({ "median": self.median(), "min": self.0.first(), "max": self.0.last(), "rounds": self.0.len() })
    }

    fn text(&self) -> String {
        match (&self.0[..], self.0.first(), self.0.last()) {
            ([], ..) => String::new(),
            ([one], ..) => number(*one),
            (_, Some(min), Some(max)) => {
                format!("{} ({}–{})", number(self.median()), number(*min), number(*max))
            }
            _ => String::new(),
        }
    }
}

/// Line of the table.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReportRow {
    /// Scenario.
    pub(crate) scenario: String,
    /// Number of streams.
    pub(crate) streams: usize,
    /// Processor time of the server, in milliseconds.
    pub(crate) cpu: Series,
    /// Processor time of the same without any stream.
    pub(crate) alone: Option<Series>,
    /// Cost of the raw broadcast of as many bytes.
    pub(crate) raw: Option<Series>,
    /// Delays, in milliseconds: of the median stream, of the 99th percentile, and of the last stream.
    pub(crate) delays: Option<[f64; 3]>,
    /// Number of bytes received by each stream.
    pub(crate) bytes_per_stream: Option<u64>,
    /// Resident memory of the server, in bytes.
    pub(crate) rss: Option<u64>,
    /// Streams without the change within ten seconds, over all rounds.
    pub(crate) deaf: MissedChanges,
    /// Required bound.
    pub(crate) budget: Option<Budget>,
    /// Any other note.
    pub(crate) note: String,
}

/// Bound, and the value that is compared with it.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    /// Bound in words.
    pub(crate) text: String,
    /// Measured value, in the same unit.
    pub(crate) value: f64,
    /// Maximum.
    pub(crate) at_most: f64,
}

impl Budget {
    /// Returns a bound of so many milliseconds of processor time.
    pub(crate) fn cpu(cpu: &Series, at_most: f64) -> Option<Self> {
        Some(Self { text: format!("≤ {at_most} ms"), value: cpu.median(), at_most })
    }

    /// Returns a bound of so many times the raw broadcast.
    pub(crate) fn times(cpu: &Series, raw: &Series, at_most: f64) -> Option<Self> {
        Some(Self { text: format!("≤ {at_most} × raw"), value: cpu.median() / raw.median(), at_most })
    }

    /// Returns a bound of so many megabytes.
    pub(crate) fn megabytes(bytes: f64, at_most: f64) -> Option<Self> {
        Some(Self { text: format!("≤ {at_most} MB"), value: bytes / 1e6, at_most })
    }

    fn met(&self) -> bool {
        self.value <= self.at_most
    }
}

const HEAD: &str = "\
| scenario | streams | server CPU, ms | without streams | raw | p50 / p99 / last, ms | KB each | RSS, MB | deaf | budget | measured |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
";

/// Formats the rows as a Markdown table.
pub(crate) fn markdown(rows: &[ReportRow]) -> String {
    rows.iter().fold(HEAD.to_owned(), |mut table, row| {
        let delays = row.delays.map(|delays| delays.map(number).join(" / "));
        let verdict = row.budget.as_ref().map(|budget| {
            let word = if budget.met() { "" } else { " **missed**" };
            format!("{}{word}", number(budget.value))
        });
        let cells = [
            row.scenario.clone(),
            row.streams.to_string(),
            row.cpu.text(),
            row.alone.as_ref().map(Series::text).unwrap_or_default(),
            row.raw.as_ref().map(Series::text).unwrap_or_default(),
            delays.unwrap_or_default(),
            row.bytes_per_stream.map(|bytes| number(bytes as f64 / 1e3)).unwrap_or_default(),
            row.rss.map(|bytes| number(bytes as f64 / 1e6)).unwrap_or_default(),
            deaf(row.deaf),
            row.budget.as_ref().map(|budget| budget.text.clone()).unwrap_or_default(),
            [verdict.unwrap_or_default(), row.note.clone()].join(" ").trim().to_owned(),
        ];
        let _ = writeln!(table, "| {} |", cells.join(" | "));
        table
    })
}

/// Formats the rows as JSON.
pub(crate) fn json(rows: &[ReportRow]) -> Value {
    let row = |row: &ReportRow| {
        json!({
            "scenario": row.scenario,
            "streams": row.streams,
            "cpu_ms": row.cpu.json(),
            "cpu_ms_without_streams": row.alone.as_ref().map(Series::json),
            "cpu_ms_raw_broadcast": row.raw.as_ref().map(Series::json),
            "delay_ms": row.delays.map(|[p50, p99, last]| json!({ "p50": p50, "p99": p99, "last": last })),
            "bytes_per_stream": row.bytes_per_stream,
            "rss_bytes": row.rss,
            "deaf": row.deaf.at_first,
            "deaf_for_good": row.deaf.for_good,
            "budget": row.budget.as_ref().map(|it| json!({
                "text": it.text, "measured": it.value, "at_most": it.at_most, "met": it.met(),
            })),
            "note": row.note,
        })
    };
    rows.iter().map(row).collect()
}

fn deaf(deaf: MissedChanges) -> String {
    match deaf.at_first - deaf.for_good.min(deaf.at_first) {
        0 => deaf.at_first.to_string(),
        late => format!("{} (+ {late} late)", deaf.for_good),
    }
}

/// Formats a number with three digits: more do not repeat between runs.
fn number(value: f64) -> String {
    match value.abs() {
        it if it >= 100.0 => format!("{value:.0}"),
        it if it >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
